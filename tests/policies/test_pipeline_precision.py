"""Half precision, adapters that a pipeline brings, and what a saved policy gives back."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
import torch
from diffusers import DDIMScheduler, DDPMScheduler, DiffusionPipeline
from peft import LoraConfig
from torch.testing import assert_close

from rewardlab.data.reconstruction import reconstructed
from rewardlab.errors import InputError
from rewardlab.policies import DiffusionPolicy, diffusion_folder, load_policy
from rewardlab.policies.pipeline_files import absent_parts
from rewardlab.policies.samplers import Sampler
from rewardlab.policies.schedulers import set_timesteps, steps_are_finite
from rewardlab.seeds import row_seeds
from rewardlab.testing import tiny_diffusion, tiny_stable_diffusion, tiny_stable_diffusion_xl
from rewardlab.testing.tiny_pipelines import tiny_dit, tiny_stable_diffusion_3
from rewardlab.types import Samples

MAKERS = [tiny_stable_diffusion, tiny_stable_diffusion_xl, tiny_stable_diffusion_3]
PROMPTS = ["a cat", "a dog"]
SEEDS = row_seeds(1, 2)
STILL = Sampler(steps=3, eta=0.0)


def drawn(policy):
    return policy.generate(PROMPTS, seeds=SEEDS).outputs


def own_pipeline(folder):
    """Load a pipeline by diffusers' defaults; parts that it lacks have to be named there."""
    return DiffusionPipeline.from_pretrained(folder, **dict.fromkeys(absent_parts(folder)))


def overflowing(folder):
    """Return an SDXL whose autoencoder leaves float16's range, both ways."""
    pipeline = tiny_stable_diffusion_xl(folder)
    pipeline.vae.register_to_config(force_upcast=True)
    for layer in (pipeline.vae.decoder.conv_in, pipeline.vae.encoder.conv_in):
        for weight in layer.parameters():
            weight.data.mul_(3e5)
    return pipeline


@pytest.mark.parametrize("half", [False, True])
@pytest.mark.parametrize("from_folder", [False, True])
def test_an_autoencoder_that_overflows_in_float16_has_float32(half, from_folder, tmp_path):
    expected = drawn(DiffusionPolicy(overflowing(tmp_path), sampler=STILL))
    pipeline = overflowing(tmp_path)
    if half:
        pipeline.unet.half()
    if from_folder:
        pipeline.save_pretrained(tmp_path / "pipeline")
        pipeline = tmp_path / "pipeline"
    policy = DiffusionPolicy(pipeline, sampler=STILL, dtype="float16")
    images = drawn(policy)
    assert images.isfinite().all()
    assert_close(images, expected, atol=0.05, rtol=0)
    again = reconstructed(policy, Samples(PROMPTS, expected), seed=0).outputs
    assert again.isfinite().all()


@pytest.mark.parametrize(
    ("dtype", "from_folder", "lora_rank"),
    [("float16", True, 2), ("bfloat16", True, None), ("bfloat16", False, 2)],
)
@pytest.mark.parametrize("make", MAKERS)
def test_nothing_frozen_is_rounded(make, dtype, from_folder, lora_rank, tmp_path):
    """The saved folder has every frozen weight to the bit, and diffusers' defaults run it."""
    pipeline = make(tmp_path / "tokenizer")
    weights = {}
    for name, part in pipeline.components.items():
        if isinstance(part, torch.nn.Module):
            weights[name] = {key: tensor.clone() for key, tensor in part.state_dict().items()}
    source = pipeline
    if from_folder:
        source = tmp_path / "pipeline"
        pipeline.save_pretrained(source)
    policy = DiffusionPolicy(source, sampler=STILL, dtype=dtype, lora_rank=lora_rank)
    policy.save_pretrained(tmp_path / "policy")
    saved = own_pipeline(tmp_path / "policy")
    for name, expected in weights.items():
        for key, tensor in getattr(saved, name).state_dict().items():
            assert torch.equal(tensor, expected[key]), f"{name}.{key}"
    saved.set_progress_bar_config(disable=True)
    image = saved("a cat", num_inference_steps=2, output_type="np").images
    assert np.isfinite(image).all()
    loaded = load_policy(tmp_path / "policy")
    assert_close(drawn(loaded), drawn(policy), atol=0.02, rtol=0)


@pytest.mark.parametrize("make", MAKERS)
def test_a_pipeline_in_half_precision_is_saved_so_that_it_runs(make, tmp_path):
    pipeline = make(tmp_path / "tokenizer").to(torch.float16)
    policy = DiffusionPolicy(pipeline, sampler=STILL, dtype="float16", lora_rank=2)
    policy.save_pretrained(tmp_path / "policy")
    saved = own_pipeline(tmp_path / "policy")
    saved.set_progress_bar_config(disable=True)
    assert np.isfinite(saved("a cat", num_inference_steps=2, output_type="np").images).all()


def adapted(make, folder, scale=1.0, names=("style",)):
    """Return a pipeline with adapters of its own on the denoiser."""
    pipeline = make(folder)
    denoiser = getattr(pipeline, "unet", None) or pipeline.transformer
    for name in names:
        layers = ["to_q", "to_v"]
        torch.manual_seed(0)
        config = LoraConfig(r=2, lora_alpha=8, target_modules=layers, init_lora_weights=False)
        with warnings.catch_warnings(action="ignore"):  # of peft: there is an adapter already
            denoiser.add_adapter(config, name)
    denoiser.set_adapters(list(names), [scale] * len(names))
    return pipeline


@pytest.mark.parametrize("lora_rank", [None, 2])
@pytest.mark.parametrize(
    ("make", "names", "scale"),
    [
        (tiny_stable_diffusion, ("default",), 1.0),
        (tiny_stable_diffusion, ("style", "subject"), 0.5),
        (tiny_stable_diffusion_xl, ("style",), 0.5),
        (tiny_stable_diffusion_3, ("style",), 1.0),
    ],
)
def test_a_pipelines_own_adapter_stays(make, names, scale, lora_rank, tmp_path):
    """The policy starts from it; reference and saved folder have it; training moves the policy."""
    own = adapted(make, tmp_path / "tokenizer", scale, names)
    own.set_progress_bar_config(disable=True)
    policy = DiffusionPolicy(
        adapted(make, tmp_path / "tokenizer", scale, names), sampler=STILL, lora_rank=lora_rank
    )
    noise = torch.stack([torch.randn(policy.shape, generator=g) for g in _generators()])
    expected = own(
        PROMPTS, num_inference_steps=3, guidance_scale=1.0, latents=noise, output_type="pt"
    ).images
    bare = drawn(DiffusionPolicy(make(tmp_path / "tokenizer"), sampler=STILL))
    assert (expected - bare).abs().max() > 5e-3
    assert_close(drawn(policy), expected, atol=1e-4, rtol=1e-3)
    assert_close(drawn(policy.reference()), expected, atol=1e-4, rtol=1e-3)
    trained = [weight for weight in policy.parameters() if weight.requires_grad]
    assert trained
    with torch.no_grad():
        for weight in trained:
            weight += 0.05
    assert (drawn(policy) - expected).abs().max() > 1e-3
    policy.save_pretrained(tmp_path / "policy")
    assert_close(drawn(load_policy(tmp_path / "policy")), drawn(policy), atol=1e-4, rtol=1e-3)


def _generators():
    return [torch.Generator().manual_seed(seed) for seed in SEEDS.tolist()]


def test_an_adapter_of_the_text_encoder_is_saved(tmp_path):
    pipeline = tiny_stable_diffusion(tmp_path / "tokenizer")
    config = LoraConfig(r=2, target_modules=["q_proj"], init_lora_weights=False)
    bare = drawn(DiffusionPolicy(tiny_stable_diffusion(tmp_path / "tokenizer"), sampler=STILL))
    pipeline.text_encoder.add_adapter(config, "style")
    policy = DiffusionPolicy(pipeline, sampler=STILL, lora_rank=2)
    assert (drawn(policy) - bare).abs().max() > 1e-4
    policy.save_pretrained(tmp_path / "policy")
    assert_close(drawn(load_policy(tmp_path / "policy")), drawn(policy), atol=1e-4, rtol=1e-3)


def test_an_adapter_that_is_switched_off_stays_off(tmp_path):
    pipeline = adapted(tiny_stable_diffusion, tmp_path)
    pipeline.unet.disable_adapters()
    bare = drawn(DiffusionPolicy(tiny_stable_diffusion(tmp_path), sampler=STILL))
    policy = DiffusionPolicy(pipeline, sampler=STILL, lora_rank=2)
    assert_close(drawn(policy), bare, atol=1e-5, rtol=1e-4)


def test_switches_of_a_pipeline_are_kept(tmp_path):
    pipeline = tiny_stable_diffusion_xl(tmp_path / "tokenizer")
    pipeline.register_to_config(force_zeros_for_empty_prompt=False)
    policy = DiffusionPolicy(pipeline, sampler=STILL)
    policy.save_pretrained(tmp_path / "policy")
    loaded = load_policy(tmp_path / "policy")
    assert loaded.pipeline.config.force_zeros_for_empty_prompt is False


def test_a_folder_that_gives_back_another_picture_is_refused(tmp_path, monkeypatch):
    policy = DiffusionPolicy(tiny_stable_diffusion(tmp_path / "tokenizer"), sampler=STILL)
    wrong = tiny_stable_diffusion(tmp_path / "tokenizer", seed=5).unet
    monkeypatch.setattr(diffusion_folder, "_merged_denoiser", lambda *_: wrong)
    with pytest.raises(InputError, match="is not the policy"):
        policy.save_pretrained(tmp_path / "policy")


def test_labels_are_not_dropped_in_training(tmp_path):
    """DiT drops labels at random in its training mode: log_prob twice is equal without it."""
    labels = [str(number) for number in range(10)]
    policy = DiffusionPolicy(tiny_dit(tmp_path), labels=labels).train()
    samples = Samples(["3"] * 64, torch.rand(64, 3, 16, 16))
    trajectory = policy.encode(samples, seeds=row_seeds(0, 64))
    first = policy.log_prob(trajectory)
    assert first.requires_grad
    assert torch.equal(first, policy.log_prob(trajectory))
    assert torch.equal(first, policy.eval().log_prob(trajectory))


def test_dropout_is_off_in_training():
    pipeline = tiny_diffusion(classes=0)
    config = {**pipeline.unet.config, "dropout": 0.5}
    pipeline.unet = type(pipeline.unet).from_config(config)
    policy = DiffusionPolicy(pipeline).train()
    trajectory = policy.encode(Samples([""], torch.rand(1, 1, 8, 8)), seeds=SEEDS[:1])
    assert torch.equal(policy.log_prob(trajectory), policy.log_prob(trajectory))


def zero_snr(**options):
    return DDIMScheduler(
        clip_sample=False,
        rescale_betas_zero_snr=True,
        timestep_spacing="trailing",
        prediction_type="v_prediction",
        **options,
    )


LATENT = {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012}


@pytest.mark.parametrize(
    ("scheduler", "steps"),
    [
        (zero_snr(**LATENT), 25),
        (zero_snr(**LATENT), 50),
        (zero_snr(), 30),
        (zero_snr(beta_schedule="squaredcos_cap_v2"), 20),
        (DDPMScheduler(clip_sample=False, variance_type="fixed_large_log"), 10),
    ],
)
def test_images_are_drawn_as_rollouts_where_the_schedulers_steps_are_nan(scheduler, steps):
    assert not steps_are_finite(scheduler, steps, eta=1.0)
    pipeline = tiny_diffusion(classes=0)
    pipeline.scheduler = scheduler
    policy = DiffusionPolicy(pipeline, sampler=Sampler(steps=steps))
    images = policy.generate(["", ""], seeds=SEEDS).outputs
    assert images.isfinite().all()
    rollouts = policy.decode(policy.sample(["", ""], seeds=SEEDS)).outputs
    assert torch.equal(images, rollouts)


@pytest.mark.parametrize("steps", [10, 61, 62, 500])
def test_no_step_is_laid_out_beyond_the_end(steps):
    scheduler = DDIMScheduler(timestep_spacing="trailing", clip_sample=False)
    set_timesteps(scheduler, steps)
    assert len(scheduler.timesteps) == steps
    assert scheduler.timesteps[-1] >= 0
