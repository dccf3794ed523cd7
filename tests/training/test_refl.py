"""ReFL: it predicts the noised image, its gradient is the reward's, and a score rises by it."""

from functools import partial

import pytest
import pytorch_lightning as pl
import torch
from torch.optim import Adam
from torch.testing import assert_close

from rewardlab.data.prompt_data import Prompts, numbered
from rewardlab.errors import InputError
from rewardlab.policies import DiffusionPolicy
from rewardlab.policies.causal_lm import CausalLMPolicy
from rewardlab.policies.samplers import Sampler
from rewardlab.provenance import fingerprint
from rewardlab.rewards import Brightness, Function, VisionReward
from rewardlab.rewards.rules import Length
from rewardlab.seeds import generators, row_seeds, uniform
from rewardlab.testing import tiny_diffusion, tiny_stable_diffusion, tiny_tower
from rewardlab.testing.tiny_text import tiny_causal_lm, tiny_tokenizer
from rewardlab.training.refl import ReFL
from rewardlab.types import Samples

TRAINER = {
    "accelerator": "cpu",
    "logger": False,
    "enable_checkpointing": False,
    "enable_progress_bar": False,
}


def policy(steps=4, guidance=1.0, **options):
    named = {"labels": ["zero", "one"]} if options.get("classes", 2) else {}
    sampler = Sampler(steps=steps, guidance=guidance)
    return DiffusionPolicy(tiny_diffusion(**options), sampler=sampler, **named)


def images(count=4, size=8):
    pixels = uniform((1, size, size), generators(row_seeds(0, count)))
    return Samples([["zero", "one"][i % 2] for i in range(count)], pixels)


def fit(module, data=None, steps=20):
    trainer = pl.Trainer(**TRAINER, max_steps=steps, max_epochs=-1, enable_model_summary=False)
    trainer.fit(module, data or Prompts(["zero", "one"] * 4, batch_size=8))
    return trainer


@torch.no_grad()
def brightness(of):
    return Brightness()(of.generate(["zero", "one"] * 8, seeds=row_seeds(9, 16))).mean().item()


@pytest.mark.parametrize(
    "kind",
    [{}, {"prediction_type": "v_prediction"}, {"prediction_type": "sample"}, {"flow": True}],
    ids=str,
)
def test_a_network_that_is_right_foresees_the_image(kind, monkeypatch):
    """With the true target as the network's output, the image behind the noised one comes back."""
    owner = policy(**kind).eval()
    samples = images()
    encoded = owner.encode(samples, seeds=row_seeds(1, 4))
    target = encoded.tensors["target"][:, 0]
    monkeypatch.setattr(owner, "predict", lambda x, time, conditions: target)
    predicted = owner.predict_x0(encoded, torch.zeros(4, dtype=torch.long))
    # at later times too little of the image is left in float32
    rows = encoded.tensors["time"][:, 0] < 900
    assert rows.sum() >= 3
    assert_close(predicted.outputs[rows], samples.outputs[rows], atol=1e-3, rtol=0)
    assert list(predicted.prompts) == list(samples.prompts)


def test_each_row_is_seen_from_its_own_step_and_told_its_prompt():
    owner = policy(guidance=2.0).eval()
    trajectory = owner.sample(["zero", "one", "one"], seeds=row_seeds(1, 3))
    steps = torch.tensor([3, 0, 2])
    whole = owner.predict_x0(trajectory, steps).outputs
    for row in range(3):
        alone = owner.predict_x0(trajectory[[row]], steps[[row]]).outputs
        assert_close(alone, whole[[row]], atol=1e-5, rtol=0)
    other_step = owner.predict_x0(trajectory, torch.tensor([3, 1, 2])).outputs
    assert not torch.allclose(other_step[1], whole[1])
    trajectory.tensors["cond.class_labels"].copy_(torch.tensor([1, 1, 1]))
    assert not torch.allclose(owner.predict_x0(trajectory, steps).outputs[0], whole[0])


def test_the_last_step_foresees_what_the_sampler_ends_in():
    owner = policy().eval()
    trajectory = owner.sample(["zero", "one"], seeds=row_seeds(1, 2))
    assert_close(
        owner.predict_x0(trajectory, torch.tensor([3, 3])).outputs,
        owner.decode(trajectory).outputs,
        atol=1e-3,
        rtol=0,
    )


def test_the_steps_are_late_and_each_rows_own():
    module = ReFL(policy(steps=8), Brightness(), late=0.5)
    seen = []
    module.policy.predict_x0 = lambda trajectory, steps: seen.append(steps)
    module.predicted(numbered([*["zero", "one"] * 20]), row_seeds(0, 40))
    module.predicted(numbered(["zero"] * 2), row_seeds(0, 40)[[7, 3]])
    assert set(seen[0].tolist()) == {4, 5, 6, 7}
    assert seen[1].tolist() == seen[0][[7, 3]].tolist()


def test_the_gradient_is_that_of_the_score_and_the_reward_gets_none():
    reward = VisionReward(tiny_tower(), width=8).train()
    before = fingerprint(reward.state_dict())
    module = ReFL(policy(channels=3, size=16), reward)
    batch = numbered(["zero", "one"])
    module.log_dict = lambda *_, **__: None
    module.training_step(batch, 0).backward()
    assert all(p.grad is None for p in reward.parameters())
    assert any(p.requires_grad for p in reward.parameters())
    assert reward.training
    assert reward.projection.training
    weight = next(p for p in module.policy.parameters() if p.requires_grad)
    gradient = weight.grad
    module.zero_grad()
    predicted = module.predicted(batch, module._seeds(batch))
    (-reward.eval()(predicted).mean()).backward()
    assert_close(weight.grad, gradient)
    assert gradient.abs().sum() > 0
    assert fingerprint(reward.state_dict()) == before
    assert not any(name.startswith("reward") for name in module.state_dict())


def test_a_score_rises_and_shuffled_scores_raise_nothing():
    def shuffled(samples):
        scores = Brightness()(samples)
        signs = torch.tensor([1.0, -1.0]).repeat(len(scores) // 2)
        return scores * signs  # a row's sign has nothing to do with its image

    def gain(reward):
        module = ReFL(policy(), reward, late=0.5, optimizer=partial(Adam, lr=2e-3))
        fit(module)
        return brightness(module.policy) - brightness(policy())

    risen = gain(Brightness())
    assert risen > 0.1
    assert gain(Function(lambda samples: -Brightness()(samples))) < -0.1
    assert abs(gain(Function(shuffled))) < 0.5 * risen


def test_the_anchor_is_the_denoising_loss_of_the_batchs_images():
    plain = ReFL(policy().eval(), Brightness())
    anchored = ReFL(policy().eval(), Brightness(), sft_weight=3.0)
    for module in (plain, anchored):
        module.log_dict = lambda *_, **__: None
    batch = images()
    encoded = plain.policy.encode(batch, seeds=plain.seeds(batch))
    expected = plain.training_step(batch, 0) - 3 * plain.policy.log_prob(encoded).mean()
    assert_close(anchored.training_step(batch, 0), expected)
    with pytest.raises(InputError, match="sft_weight=3 anchors on images"):
        anchored.training_step(numbered(["zero"]), 0)


def test_it_learns_from_prompts_and_with_an_anchor_from_samples():
    assert ReFL(policy(), Brightness()).learns_from == "prompts"
    assert ReFL(policy(), Brightness(), sft_weight=0.1).learns_from == "samples"


def test_it_goes_through_an_autoencoder(tmp_path):
    owner = DiffusionPolicy(
        tiny_stable_diffusion(tmp_path), sampler=Sampler(steps=3, guidance=2.0), lora_rank=2
    )
    module = ReFL(owner, Brightness())
    trainer = fit(module, Prompts(["a cat", "a dog"], batch_size=2), steps=2)
    assert trainer.global_step == 2
    assert torch.isfinite(trainer.callback_metrics["score"])


def test_what_cannot_be_climbed_is_refused():
    with pytest.raises(InputError, match=r"`predict_x0`.*CausalLMPolicy does not"):
        ReFL(CausalLMPolicy(tiny_causal_lm(), tiny_tokenizer()), Length())
    module = ReFL(policy(), Function(lambda samples: samples.outputs.detach().flatten(1).mean(1)))
    with pytest.raises(InputError, match="Function have none to the images"):
        module.training_step(numbered(["zero"]), 0)
    for wrong in ({"late": 0.0}, {"late": 1.5}, {"sft_weight": -1.0}):
        with pytest.raises(InputError, match="late in"):
            ReFL(policy(), Brightness(), **wrong)
