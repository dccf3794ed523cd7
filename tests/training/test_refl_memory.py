"""ReFL's gradient through decoder and tower: the same with activations computed anew, for less."""

import pytest
import torch
from pytorch_lightning import Trainer

from rewardlab import DiffusionPolicy, VisionReward
from rewardlab.data import Prompts
from rewardlab.data.prompt_data import numbered
from rewardlab.planning import measured_peak
from rewardlab.policies.resources import Resources
from rewardlab.policies.samplers import Sampler
from rewardlab.seeds import row_seeds
from rewardlab.testing import tiny_stable_diffusion, tiny_tower, tiny_videos
from rewardlab.training import ReFL
from rewardlab.training.trainers import SILENT

PROMPTS = numbered(["a", "b", "c", "d"])
SIDE = 64


@pytest.fixture(scope="module")
def pipeline(tmp_path_factory):
    """A pipeline whose decoder's activations outweigh what the denoiser keeps."""
    folder = tmp_path_factory.mktemp("sd")
    tiny_stable_diffusion(folder / "tokenizer").save_pretrained(folder / "pipeline")
    return folder / "pipeline"


def painter(pipeline, **options):
    return DiffusionPolicy(pipeline, sampler=Sampler(steps=2), size=SIDE, **options)


def gradient(module):
    """Return the score and the gradient of a step's weights, as a trainer takes them."""
    module.log_dict = lambda *_, **__: None
    loss = module.training_step(PROMPTS, 0)
    loss.backward()
    weights = [p for p in module.policy.parameters() if p.requires_grad]
    return [loss.detach(), *[p.grad for p in weights if p.grad is not None]]


def assert_same(parts, others):
    assert len(parts) == len(others) > 2
    for part, other in zip(parts, others, strict=True):
        torch.testing.assert_close(part, other, atol=1e-6, rtol=1e-6)


@pytest.mark.parametrize("rows", [None, 1])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("groups", [0, 3])
def test_the_gradient_is_the_same(pipeline, groups, dtype, rows):
    """Also through blocks that are trained elsewhere, which ReFL freezes for its forward pass."""
    steps = []
    for value in (False, True):
        policy = painter(
            pipeline,
            lora_rank=4,
            dtype=dtype,
            resources=Resources(autoencoder_rows=rows),
            gradient_checkpointing=value,
        )
        options = {"unlocked_groups": groups, "gradient_checkpointing": value}
        reward = VisionReward(tiny_tower(image_size=SIDE), width=8, **options).train()
        steps.append(gradient(ReFL(policy, reward)))
        assert all(weight.grad is None for weight in reward.parameters())
    assert_same(*steps)


def climbing_peak(policy, reward):
    module = ReFL(policy, reward)

    def climb():
        predicted = module.predicted(PROMPTS, row_seeds(0, len(PROMPTS)))
        module.scores(predicted).sum().backward()

    climb()
    return measured_peak(climb)


def deep_tower():
    """Return a tower of open_clip with eight blocks, for pictures of the policy's size."""
    from open_clip.model import CLIP

    image = {"image_size": SIDE, "patch_size": 4, "width": 64, "layers": 8, "head_width": 16}
    text = {"context_length": 16, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 1}
    return CLIP(32, image, text).eval()


def test_decoder_and_tower_take_less_memory_each(pipeline):
    peaks = {}
    for decoder in (False, True):
        for tower in (False, True):
            policy = painter(pipeline, lora_rank=4, gradient_checkpointing=decoder)
            policy.denoiser.enable_gradient_checkpointing()
            reward = VisionReward(deep_tower(), width=8, gradient_checkpointing=tower)
            peaks[decoder, tower] = climbing_peak(policy, reward)
    assert peaks[True, False] < 0.75 * peaks[False, False]
    assert peaks[False, True] < 0.75 * peaks[False, False]
    assert peaks[True, True] < 0.4 * peaks[False, False]


def test_a_fit_ends_in_the_same_weights(pipeline):
    ends = []
    for value in (False, True):
        policy = painter(pipeline, lora_rank=4, gradient_checkpointing=value)
        network = tiny_tower(image_size=SIDE)
        reward = VisionReward(network, width=8, gradient_checkpointing=value)
        trainer = Trainer(max_epochs=1, **SILENT)
        trainer.fit(ReFL(policy, reward), Prompts(["a", "b", "c", "d"], batch_size=2))
        ends.append([p.detach() for p in policy.parameters() if p.requires_grad])
    assert_same(*ends)


def test_an_autoencoder_that_keeps_all_says_so_once_and_where_it_matters(tmp_path, caplog):
    wan = tiny_videos.tiny_wan(tmp_path / "tokenizer")
    policy = DiffusionPolicy(
        wan, sampler=Sampler(steps=2), size=32, frames=5, gradient_checkpointing=True
    )
    policy.generate(["a"], seeds=torch.tensor([1]))
    assert not caplog.records
    trajectory = policy.sample(["a"], seeds=torch.tensor([1]))
    for _ in range(2):
        policy.predict_x0(trajectory, torch.tensor([1]))
    told = [record.getMessage() for record in caplog.records]
    assert len(told) == 1
    assert "AutoencoderKLWan keeps all activations" in told[0]
