"""Images of DiffusionPolicy against diffusers' own call at equal noise: an independent loop."""

from __future__ import annotations

import pytest
import torch
from diffusers import (
    DDIMScheduler,
    DDPMScheduler,
    DPMSolverMultistepScheduler,
    EulerAncestralDiscreteScheduler,
    EulerDiscreteScheduler,
    FlowMatchEulerDiscreteScheduler,
    HeunDiscreteScheduler,
    LMSDiscreteScheduler,
    PNDMScheduler,
    UniPCMultistepScheduler,
)
from torch.testing import assert_close

from rewardlab.errors import InputError
from rewardlab.policies.diffusion import DiffusionPolicy
from rewardlab.policies.samplers import Sampler
from rewardlab.seeds import generators, normal, row_seeds
from rewardlab.testing import tiny_diffusion, tiny_stable_diffusion, tiny_stable_diffusion_xl
from rewardlab.testing.tiny_pipelines import tiny_dit, tiny_stable_diffusion_3

PROMPTS = ["a cat", "two dogs"]
SEEDS = row_seeds(3, 2)
TEXT_PIPELINES = {
    "sd": tiny_stable_diffusion,
    "sdxl": tiny_stable_diffusion_xl,
    "sd3": tiny_stable_diffusion_3,
}


def quiet(pipeline):
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


@pytest.mark.parametrize("guidance", [1.0, 4.0])
@pytest.mark.parametrize("name", list(TEXT_PIPELINES))
def test_text_to_image(name, guidance, tmp_path):
    make = TEXT_PIPELINES[name]
    sampler = Sampler(steps=4, eta=0.0, guidance=guidance)
    policy = DiffusionPolicy(make(tmp_path), sampler=sampler, negative_prompt="blurry")
    rows = generators(SEEDS)
    own = quiet(make(tmp_path))(
        PROMPTS,
        negative_prompt=["blurry"] * 2,
        num_inference_steps=4,
        guidance_scale=guidance,
        latents=normal(policy.shape, rows),
        output_type="pt",
    ).images
    assert_close(policy.generate(PROMPTS, seeds=SEEDS).outputs, own, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("guidance", [1.0, 3.0])
def test_dit(guidance, tmp_path):
    """DiT draws its own noise, one number a row; its null class is the last."""
    labels = [str(number) for number in range(10)]
    sampler = Sampler(steps=4, eta=0.0, guidance=guidance)
    policy = DiffusionPolicy(tiny_dit(tmp_path), labels=labels, sampler=sampler)

    noise = normal(policy.shape, generators(SEEDS))
    images = _dit_call(tiny_dit(tmp_path), noise, [3, 7], guidance, steps=4)
    assert_close(policy.generate(["3", "7"], seeds=SEEDS).outputs, images, atol=1e-4, rtol=1e-4)


def _dit_call(pipeline, noise, classes, guidance, steps):
    """Run DiTPipeline's call with noise that is given; its null class is fixed to 1000 there."""
    transformer = pipeline.transformer
    embedding = transformer.transformer_blocks[0].norm1.emb.class_embedder
    null = embedding.num_classes
    forward = transformer.forward

    def with_own_null(*args, class_labels, **options):
        class_labels = class_labels.where(class_labels < null, null)
        return forward(*args, class_labels=class_labels, **options)

    transformer.forward = with_own_null
    module = __import__("diffusers.pipelines.dit.pipeline_dit", fromlist=["randn_tensor"])
    drawn = module.randn_tensor
    module.randn_tensor = lambda *args, **options: noise
    try:
        output = quiet(pipeline)(
            classes, guidance_scale=guidance, num_inference_steps=steps, output_type="pt"
        )
    finally:
        module.randn_tensor = drawn
    return output.images


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"clip_sample": False},
        {"variance_type": "learned_range"},
        {"variance_type": "learned_range", "clip_sample": False},
        {"variance_type": "fixed_large", "prediction_type": "v_prediction"},
        {"prediction_type": "sample", "timestep_spacing": "trailing"},
    ],
)
def test_ddpm(options):
    """Rows draw from their own generators in diffusers too; a learned variance is used."""

    def make():
        pipeline = tiny_diffusion(classes=0)
        if "learned" in options.get("variance_type", ""):
            pipeline.unet = tiny_diffusion(classes=0, out_channels=2).unet
        pipeline.scheduler = DDPMScheduler(**options)
        return pipeline

    policy = DiffusionPolicy(make(), sampler=Sampler(steps=6))
    own = quiet(make())(
        batch_size=2, generator=generators(SEEDS), num_inference_steps=6, output_type="pt"
    ).images
    assert_close(policy.generate(["", ""], seeds=SEEDS).outputs, own, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("kind", ["learned", "learned_range"])
def test_a_variance_that_the_network_does_not_give_is_refused(kind):
    pipeline = tiny_diffusion(classes=0)
    pipeline.scheduler = DDPMScheduler(variance_type=kind, clip_sample=False)
    policy = DiffusionPolicy(pipeline, sampler=Sampler(steps=3))
    with pytest.raises(InputError, match="gives 1 channels for 1 and so none"):
        policy.generate([""], seeds=SEEDS[:1])
    assert policy.sample([""], seeds=SEEDS[:1]).tensors["final"].isfinite().all()


SCHEDULERS = [
    DDIMScheduler,
    DPMSolverMultistepScheduler,
    EulerDiscreteScheduler,
    EulerAncestralDiscreteScheduler,
    HeunDiscreteScheduler,
    LMSDiscreteScheduler,
    PNDMScheduler,
    UniPCMultistepScheduler,
]


@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # of diffusers
@pytest.mark.parametrize("scheduler", SCHEDULERS)
def test_every_scheduler_of_stable_diffusion(scheduler, tmp_path):
    def make():
        pipeline = tiny_stable_diffusion(tmp_path)
        pipeline.scheduler = scheduler.from_config(pipeline.scheduler.config)
        return pipeline

    policy = DiffusionPolicy(make(), sampler=Sampler(steps=5, eta=0.0))
    rows = generators(SEEDS)
    noise = normal(policy.shape, rows)
    own = quiet(make())(
        PROMPTS,
        num_inference_steps=5,
        guidance_scale=1.0,
        latents=noise,
        generator=rows,
        output_type="pt",
    ).images
    assert_close(policy.generate(PROMPTS, seeds=SEEDS).outputs, own, atol=2e-4, rtol=1e-3)


@pytest.mark.parametrize("time_shift_type", ["exponential", "linear"])
def test_the_shift_of_sd3_depends_on_the_size(time_shift_type, tmp_path):
    def make():
        pipeline = tiny_stable_diffusion_3(tmp_path)
        pipeline.scheduler = FlowMatchEulerDiscreteScheduler(
            use_dynamic_shifting=True, time_shift_type=time_shift_type
        )
        return pipeline

    policy = DiffusionPolicy(make(), sampler=Sampler(steps=4, eta=0.0), size=(8, 16))
    assert policy.shape == (4, 4, 8)
    own = quiet(make())(
        PROMPTS,
        height=8,
        width=16,
        num_inference_steps=4,
        guidance_scale=1.0,
        latents=normal(policy.shape, generators(SEEDS)),
        output_type="pt",
    ).images
    assert_close(policy.generate(PROMPTS, seeds=SEEDS).outputs, own, atol=1e-4, rtol=1e-4)
    times = policy.noising.time / 1000
    even = torch.arange(1, 1001) / 1000
    exponent = 0.5 + (8 - 256) * (1.15 - 0.5) / (4096 - 256)
    expected = policy.scheduler.time_shift(exponent, 1.0, even)
    assert_close(times, expected, atol=1e-5, rtol=1e-4)


def test_latent_statistics_of_sdxl(tmp_path):
    """Autoencoders with a mean and a deviation a channel: decoded as diffusers, and encoded back."""

    def make():
        pipeline = tiny_stable_diffusion_xl(tmp_path)
        pipeline.vae.register_to_config(
            latents_mean=[0.5, -0.5, 0.2, 0.1], latents_std=[2.0, 3.0, 0.5, 1.5]
        )
        return pipeline

    policy = DiffusionPolicy(make(), sampler=Sampler(steps=3, eta=0.0))
    own = quiet(make())(
        PROMPTS,
        num_inference_steps=3,
        guidance_scale=1.0,
        latents=normal(policy.shape, generators(SEEDS)),
        output_type="pt",
    ).images
    images = policy.generate(PROMPTS, seeds=SEEDS)
    assert_close(images.outputs, own, atol=1e-4, rtol=1e-4)
    rows = generators(SEEDS)
    latents = policy.encode(images, seeds=SEEDS).tensors["final"]
    encoding = policy.pipeline.vae.encode(images.outputs * 2 - 1).latent_dist
    drawn = encoding.mean + encoding.std * normal(policy.shape, rows)
    mean = torch.tensor([0.5, -0.5, 0.2, 0.1])[:, None, None]
    deviation = torch.tensor([2.0, 3.0, 0.5, 1.5])[:, None, None]
    expected = (drawn - mean) * policy.pipeline.vae.config.scaling_factor / deviation
    assert_close(latents, expected, atol=1e-4, rtol=1e-4)
