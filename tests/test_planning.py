"""Plans are held to what torch's profiler counts when the same step runs on real numbers.

What is measured: the largest number of bytes of the CPU's allocator that were allocated at once in
a real training step (`measured_peak`), beside the weights. The plan comes from config files alone.
"""

from __future__ import annotations

import shutil
from functools import partial
from inspect import signature

import pytest
import torch

from rewardlab.cli import main
from rewardlab.data import PairsData, Preferences, Prompts, SamplesData
from rewardlab.data.prompt_data import NumberedPrompts
from rewardlab.errors import InputError
from rewardlab.losses import bradley_terry_loss
from rewardlab.planning import Work, measured_peak, plans_of
from rewardlab.planning.architecture import Architecture, known_names
from rewardlab.planning.configs import Batch
from rewardlab.planning.diffusion import diffusion_plan
from rewardlab.planning.language import policy_plan, reward_plan
from rewardlab.planning.memory_plan import MemoryPlan, Part, Stage
from rewardlab.planning.optimizers import state_size
from rewardlab.planning.vision import FEATURE_ROWS, gan_rm_plan
from rewardlab.policies import CausalLMPolicy, DiffusionPolicy
from rewardlab.policies.samplers import Sampler
from rewardlab.rewards import Framewise, LanguageReward, VisionReward
from rewardlab.seeds import row_seeds
from rewardlab.testing import tiny_images, tiny_pipelines, tiny_tower, tiny_videos
from rewardlab.testing.tiny_text import tiny_tokenizer
from rewardlab.training import PPO, BFloat16AdamW, ReFL
from rewardlab.types import Samples

GIB = 2**30
ROWS = 3
MODES = [
    (None, False, "float32"),
    (4, True, "bfloat16"),
    (4, False, "bfloat16"),
]
PICTURES = ["sd", "sdxl", "sd3", "flux", "qwen", "z-image"]
VIDEOS = {  # their side and their frames
    "wan": (32, 5),
    "wan of two": (32, 5),
    "animatediff": (32, 3),
    "cogvideox": (16, 9),
    "ltx": (64, 9),
}
# weights by the makers' own pages and model cards
PUBLISHED = {
    "stable-diffusion-v1-5/stable-diffusion-v1-5": ("unet", 859_520_964),
    "stabilityai/stable-diffusion-xl-base-1.0": ("unet", 2_567_463_684),
    "stabilityai/stable-diffusion-3.5-medium": ("transformer", 2_243_171_520),
    "stabilityai/stable-diffusion-3.5-large": ("transformer", 8_056_627_520),
    "black-forest-labs/FLUX.1-dev": ("transformer", 11_901_408_320),
    "Qwen/Qwen-Image": ("transformer", 20_430_401_088),
    "Wan-AI/Wan2.1-T2V-1.3B-Diffusers": ("transformer", 1_418_996_800),
}


@pytest.fixture(scope="module")
def larger(tmp_path_factory):
    """Return folders of pipelines in which activations outweigh what every step has beside."""
    patch = pytest.MonkeyPatch()
    patch.setitem(tiny_images.UNET, "block_out_channels", (32, 64))
    patch.setitem(tiny_images.UNET, "attention_head_dim", 16)
    for config, sizes in (
        (tiny_pipelines._FLUX, {"num_layers": 2, "num_single_layers": 2}),
        (tiny_pipelines._SD3, {"num_layers": 4, "pos_embed_max_size": 32, "sample_size": 16}),
    ):
        for name, value in sizes.items():
            patch.setitem(config, name, value)
    makers = {
        "sd": tiny_images.tiny_stable_diffusion,
        "sdxl": tiny_images.tiny_stable_diffusion_xl,
        "sd3": tiny_pipelines.tiny_stable_diffusion_3,
        "flux": tiny_pipelines.tiny_flux,
        "qwen": tiny_pipelines.tiny_qwen_image,
        "wan": tiny_videos.tiny_wan,
        "wan of two": partial(tiny_videos.tiny_wan, boundary=0.5),
        "z-image": tiny_pipelines.tiny_z_image,
        "animatediff": tiny_videos.tiny_animate_diff,
        "cogvideox": tiny_videos.tiny_cog_video_x,
        "ltx": tiny_videos.tiny_ltx,
    }
    folders = {}
    for name, make in makers.items():
        folder = tmp_path_factory.mktemp(name.replace(" ", "-"))
        make(folder / "tokenizer").save_pretrained(folder / "pipeline")
        folders[name] = folder / "pipeline"
    patch.undo()
    return folders


def without_weights(folder, target):
    """Return a copy of a pipeline's or a model's folder that has its configs alone."""
    weights = shutil.ignore_patterns("*.safetensors", "*.bin", "tokenizer*")
    return shutil.copytree(folder, target, ignore=weights)


@pytest.mark.parametrize(("lora_rank", "checkpointing", "dtype"), MODES)
@pytest.mark.parametrize("name", [*PICTURES, *VIDEOS])
def test_the_peak_of_a_diffusion_policy(larger, name, lora_rank, checkpointing, dtype, tmp_path):
    side, frames = VIDEOS.get(name, (32, None))
    options = {"size": side, "frames": frames}
    settings = {
        "lora_rank": lora_rank,
        "gradient_checkpointing": checkpointing,
        "dtype": dtype,
        **options,
    }
    configs = without_weights(larger[name], tmp_path / "configs")
    # of LTX the step alone: its autoencoder's convolutions have workspaces, which no plan counts
    encodes = name != "ltx"
    work = Work("SFT", ROWS, encoded=ROWS if encodes else 0, optimizer="SGD")
    plan = diffusion_plan({"pipeline": configs, **settings}, work)
    policy = DiffusionPolicy(larger[name], **settings)
    shape = (ROWS, *([frames] if frames else []), 3, side, side)
    # the longest prompt, of which the plan is, and read before, as in every epoch but the first
    prompt = "a" * 600
    samples = Samples([prompt] * ROWS, torch.rand(shape))
    policy.conditions([prompt], guided=False)

    encoded = policy.encode(samples, seeds=row_seeds(0, ROWS))

    def step():
        trajectory = encoded
        if encodes:
            trajectory = policy.encode(samples, seeds=row_seeds(0, ROWS))
        policy.log_prob(trajectory).sum().backward()

    measured = plan.resident + measured_peak(step)
    assert plan.peak == pytest.approx(measured, rel=0.15)
    text = [part for part in plan.parts if part.name.startswith("text")]
    networks = [policy.denoiser, policy.pipeline.vae]
    weights = sum(part.weights for part in plan.parts if part not in text)
    assert weights == sum(w.numel() for network in networks for w in network.parameters())


@pytest.fixture(scope="module")
def tower(tmp_path_factory):
    """Return the name of a tower whose activations count, and a folder of its config alone."""
    folder = tmp_path_factory.mktemp("tower")
    VisionReward(tiny_tower(image_size=32)).tower.save(folder / "tower")
    without_weights(folder / "tower", folder / "configs")
    return f"local-dir:{folder / 'tower'}", f"local-dir:{folder / 'configs'}"


def test_the_peak_of_fitting_a_reward_of_pictures(tower):
    options = {"heads": 16, "width": 512}
    work = Work("GANRM", 64, optimizer="SGD")
    plan = gan_rm_plan({"tower": tower[1], **options}, work)
    reward = VisionReward(tower[0], **options)
    samples = Samples([""] * FEATURE_ROWS, torch.rand(FEATURE_ROWS, 3, 32, 32))

    def step():
        features = reward.features(samples)
        bradley_terry_loss(*reward.score_features(features).chunk(2)).backward()

    assert plan.peak == pytest.approx(plan.resident + measured_peak(step), rel=0.15)
    assert plan.gradients == 4 * sum(w.numel() for w in reward.projection.parameters())


@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize("name", ["sd", "animatediff"])
def test_the_peak_of_climbing_a_rewards_gradient(larger, tower, name, checkpointing, tmp_path):
    side, frames = VIDEOS.get(name, (32, None))
    recomputed = {"gradient_checkpointing": checkpointing}
    options = {"lora_rank": 4, "size": side, "frames": frames, **recomputed}
    sampler = Sampler(steps=2)
    policy = DiffusionPolicy(larger[name], sampler=sampler, **options)
    reward = VisionReward(tower[0], heads=2, width=16, **recomputed)
    module = ReFL(policy, reward if frames is None else Framewise(reward, micro_batch=99))
    policy.conditions(["a" * 600], guided=False)
    batch = NumberedPrompts(["a" * 600] * ROWS, torch.arange(ROWS))

    def step():
        predicted = module.predicted(batch, row_seeds(0, ROWS))
        module.scores(predicted).sum().backward()

    measured = measured_peak(step)
    configs = without_weights(larger[name], tmp_path / "configs")
    part = {"class_path": "rewardlab.rewards.VisionReward"}
    part["init_args"] = {"tower": tower[1], "heads": 2, "width": 16, **recomputed}
    if frames is not None:
        part = {"class_path": "rewardlab.rewards.Framewise", "init_args": {"reward": part}}
    policy_part = {"init_args": {"pipeline": str(configs), **options}}
    policy_part["class_path"] = "rewardlab.policies.DiffusionPolicy"
    arguments = {"policy": policy_part, "reward": part, "optimizer": {"class_path": "torch.SGD"}}
    loop = {"class_path": "rewardlab.training.ReFL", "init_args": arguments}
    (plan,) = plans_of({"model": loop, "data": {"init_args": {"batch_size": ROWS}}})
    assert plan.peak == pytest.approx(plan.resident + measured, rel=0.15)
    proposed = ["gradient_checkpointing: true", "gradient_checkpointing: true, of the reward"]
    assert [change in plan.changes for change in proposed] == [not checkpointing] * 2
    loop["class_path"] = "rewardlab.training.PPO"
    (plan,) = plans_of({"model": loop, "data": {"init_args": {"batch_size": ROWS}}})
    assert [stage.name for stage in plan.stages] == ["drawing", "scoring", "training step"]
    assert {"tower", "heads"} <= {part.name for part in plan.parts}


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """Return the folder of a Llama that is wide enough for its activations to count."""
    from transformers import LlamaConfig, LlamaForCausalLM

    folder = tmp_path_factory.mktemp("model")
    tokenizer = tiny_tokenizer()
    config = LlamaConfig(
        vocab_size=1024,
        hidden_size=128,
        intermediate_size=256,
        num_hidden_layers=4,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=512,
        pad_token_id=tokenizer.pad_token_id,
    )
    LlamaForCausalLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.mark.parametrize(("lora_rank", "checkpointing", "dtype"), MODES)
def test_the_peak_of_a_language_model(model, lora_rank, checkpointing, dtype, tmp_path):
    settings = {
        "lora_rank": lora_rank,
        "gradient_checkpointing": checkpointing,
        "dtype": dtype,
    }
    policy = CausalLMPolicy(model, **settings)
    samples = Samples([f"{row} a" for row in range(ROWS)], ["b" * 240, "b" * 200, "b" * 220])
    trajectory = policy.encode(samples, seeds=row_seeds(0, ROWS))
    tokens = trajectory.tensors["prompt"].shape[1] + trajectory.tensors["response"].shape[1] - 1
    configs = without_weights(model, tmp_path / "configs")
    work = Work("SFT", ROWS, optimizer="SGD", tokens=tokens)
    plan = policy_plan({"model": configs, **settings}, work, budget=16 * 2**20)

    def step():
        policy.apply_loss(trajectory, lambda steps, at: -steps.log_prob.sum()).backward()

    assert plan.peak == pytest.approx(plan.resident + measured_peak(step), rel=0.15)


@pytest.mark.parametrize(("lora_rank", "checkpointing", "dtype"), MODES)
def test_the_peak_of_a_reward(model, lora_rank, checkpointing, dtype, tmp_path):
    settings = {
        "lora_rank": lora_rank,
        "gradient_checkpointing": checkpointing,
        "dtype": dtype,
    }
    reward = LanguageReward(model, **settings)
    samples = Samples(
        [f"{row} a" for row in range(4)], ["b" * 240, "b" * 200, "b" * 220, "b" * 180]
    )
    tokens = len(reward.tokenizer("0 a" + "b" * 240).input_ids) + 1  # and its end
    configs = without_weights(model, tmp_path / "configs")
    work = Work("AdvRM", 4, optimizer="SGD", tokens=tokens)
    plan = reward_plan({"model": configs, **settings}, work)

    def step():
        chosen, rejected = reward.members(samples).chunk(2)
        bradley_terry_loss(chosen, rejected).backward()

    assert plan.peak == pytest.approx(plan.resident + measured_peak(step), rel=0.15)


def test_an_optimizers_state_is_counted():
    layer = torch.nn.Linear(100, 10)
    layer.bias.requires_grad_(False)
    for kind, options in (
        (torch.optim.AdamW, {}),
        (torch.optim.AdamW, {"amsgrad": True}),
        (torch.optim.SGD, {"momentum": 0.9}),
        (torch.optim.SGD, {}),
        (torch.optim.RMSprop, {}),
        (torch.optim.Adagrad, {}),
        (BFloat16AdamW, {}),
    ):
        optimizer = kind([layer.weight], lr=0.1, **options)
        layer.weight.grad = torch.ones_like(layer.weight)
        optimizer.step()
        kept = 0
        for state in optimizer.state.values():
            kept += sum(
                value.nbytes for value in state.values() if value is not None and value.dim()
            )
        planned = state_size(layer.parameters(), kind.__name__, options)
        assert planned == kept, (kind, options)


def test_the_published_models_have_their_numbers_of_weights():
    assert set(PUBLISHED) <= set(known_names())
    for name, (part, weights) in PUBLISHED.items():
        network = getattr(Architecture.of(name).shell({}), part)
        assert sum(weight.numel() for weight in network.parameters()) == weights
        assert all(weight.is_meta for weight in network.parameters())


def test_a_plan_says_whether_it_fits_and_what_to_change():
    parts = [Part("denoiser", "bfloat16", 10**9, 2 * GIB), Part("text", "bfloat16", 1, GIB, False)]
    stages = [Stage("encoding", GIB), Stage("training step", 2 * GIB)]
    plan = MemoryPlan("DPO", parts, GIB // 4, GIB // 2, stages, ["less"], ["a note"])
    assert plan.resident == 2.5 * GIB
    assert plan.peak == 4.5 * GIB
    assert plan.needed / GIB == pytest.approx(4.5 + 0.1 + 0.6)
    assert plan.fits(5.3)
    assert not plan.fits(5.1)
    assert "Fits 6 GiB, by plan." in plan.text(6)
    assert "0.20 GiB too much. Change:\n  less" in plan.text(5)
    assert "modelled" in plan.text()


DPO = {
    "class_path": "rewardlab.training.DPO",
    "init_args": {"policy": {"class_path": "rewardlab.policies.CausalLMPolicy", "init_args": {}}},
}


def test_a_full_reference_and_the_rows_of_pairs_are_counted(model):
    policy = DPO["init_args"]["policy"]["init_args"]
    peaks = {}
    for rank in (None, 4):
        policy.update(model=str(model), lora_rank=rank, dtype="bfloat16")
        tree = {"model": DPO, "data": {"init_args": {"batch_size": 2}}}
        (plan,) = plans_of(tree, tokens=32)
        peaks[rank] = [part.name for part in plan.parts]
        assert plan.stages[-1].detail == "4 x 32 tokens at once"
    assert peaks == {None: ["policy", "reference"], 4: ["policy"]}


@pytest.mark.parametrize("kind", [Preferences, PairsData, SamplesData, Prompts])
def test_a_config_that_names_no_batch_is_planned_with_the_datas_default(model, kind):
    DPO["init_args"]["policy"]["init_args"].update(model=str(model), lora_rank=4)
    tree = {"model": DPO, "data": {"class_path": f"rewardlab.data.{kind.__name__}"}}
    (plan,) = plans_of(tree, tokens=8)
    pairs = signature(kind).parameters["batch_size"].default
    assert plan.stages[-1].detail == f"{2 * pairs} x 8 tokens at once"


def test_a_token_budget_is_planned_as_whole_pairs_of_the_longest_rows(model):
    DPO["init_args"]["policy"]["init_args"].update(model=str(model), lora_rank=4)
    settings = {"batch_size": 64, "tokens_per_batch": 175}
    (plan,) = plans_of({"model": DPO, "data": {"init_args": settings}}, tokens=16)
    assert plan.stages[-1].detail == "10 x 16 tokens at once"
    assert (Batch(64, 31).of_length(32), Batch(64).of_length(32)) == (1, 64)


PPO_SAMPLES = signature(PPO).parameters["samples_per_prompt"].default


@pytest.mark.parametrize(
    ("arguments", "micro_batch", "drawn", "trained"),
    [
        ({}, None, 2 * PPO_SAMPLES, 2 * PPO_SAMPLES),
        ({"samples_per_prompt": 8, "minibatch": 6}, None, 16, 6),
        ({"samples_per_prompt": 8, "minibatch": 6, "micro_batch": 3}, 5, 5, 3),
        ({"minibatch": 100}, None, 2 * PPO_SAMPLES, 2 * PPO_SAMPLES),
    ],
)
def test_ppo_draws_and_trains_all_samples_of_a_batch_at_once(
    model, arguments, micro_batch, drawn, trained
):
    """A batch of two prompts; only a micro_batch of the policy or of the loop makes it less."""
    settings = {"model": str(model), "lora_rank": 4, "micro_batch": micro_batch}
    policy = {"class_path": "rewardlab.policies.CausalLMPolicy", "init_args": settings}
    loop = {"class_path": "rewardlab.training.PPO", "init_args": {"policy": policy, **arguments}}
    (plan,) = plans_of({"model": loop, "data": {"init_args": {"batch_size": 2}}}, tokens=8)
    drawing, training = plan.stages
    assert f"of {drawn} x 8 tokens" in drawing.detail
    assert training.detail == f"{trained} x 8 tokens at once"


def test_the_command_prints_plans_and_its_exit_code_says_whether_they_fit(model, capsys):
    words = ["plan", "--config", "configs/adv_rm/fit_dpo.yaml", "--tokens=32"]
    words += [f"--experiment.policy_path={model}"]
    assert main([*words, "--gpu-memory", "24"]) == 0
    assert "Fits 24 GiB, by plan." in capsys.readouterr().out
    assert main([*words, "--gpu-memory=0.1"]) == 1
    assert "gradient_checkpointing: true" in capsys.readouterr().out
    assert main(words) == 0
    rounds = ["plan", "--config", "configs/adv_rm/own.yaml", f"--experiment.policy_path={model}"]
    assert main([*rounds, "--tokens=32"]) == 0
    printed = capsys.readouterr().out
    assert "AdvRM of a LanguageReward, 32 tokens a row" in printed
    assert "keys and values of 32 x 32 tokens" in printed


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--config", "configs/adv_rm/fit_dpo.yaml"], "no folder with a config.json"),
        (["--config", "configs/gan_rm/fit.yaml"], "The plan reads towers of open_clip"),
        (["--gpu-memory", "none"], "takes a number above 0"),
        ([], "rewardlab plan --config FILE"),
    ],
)
def test_what_cannot_be_planned_is_refused(words, message, capsys):
    assert main(["plan", *words]) == 2
    assert message in capsys.readouterr().err


def test_a_pipeline_that_is_not_here_is_refused():
    with pytest.raises(InputError, match="weights are not needed"):
        Architecture.of("someone/some-model")
