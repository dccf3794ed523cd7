"""Every family of pipelines against diffusers' own call, at equal noise, on its real classes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import pytest
import torch
from diffusers import (
    CogVideoXDPMScheduler,
    DPMSolverMultistepScheduler,
    UniPCMultistepScheduler,
)
from diffusers.schedulers import scheduling_dpm_cogvideox
from torch.testing import assert_close

from rewardlab.errors import InputError
from rewardlab.policies.diffusion import DiffusionPolicy
from rewardlab.policies.families.packing import packed
from rewardlab.policies.samplers import Sampler
from rewardlab.seeds import generators, normal, row_seeds
from rewardlab.testing import tiny_pipelines, tiny_videos

PROMPTS = ["a cat", "two dogs in a park"]
SEEDS = row_seeds(3, 2)
NUMPY = "ignore:__array__ implementation:DeprecationWarning"  # of diffusers' solvers
NEGATIVE = "blurry"


def as_it_is(latents):
    return latents


def frames_first(latents):
    return latents.transpose(1, 2)


def frames_first_noise(shape, rows, *_, **__):
    """Draw the solver's noise as the policy does, channels first."""
    return frames_first(normal(shape, rows))


def tokens(latents):
    return latents.flatten(2).transpose(1, 2)


@dataclass(frozen=True)
class Case:
    """A family: its tiny pipeline, the size of its pictures, and how its call is asked."""

    make: Callable[..., Any]
    size: tuple[int, int]
    frames: int | None = None
    scale: str = "guidance_scale"
    none: float = 1.0  # the scale that is no guidance
    layout: Callable[..., Any] = as_it_is
    options: dict[str, Any] = field(default_factory=dict)

    def policy(self, folder, guidance=1.0, **options):
        sampler = Sampler(steps=3, eta=0.0, guidance=guidance)
        return DiffusionPolicy(
            self.make(folder),
            sampler=sampler,
            negative_prompt=NEGATIVE,
            size=self.size,
            frames=self.frames,
            **options,
        )

    def own_call(self, pipeline, noise, guidance):
        pipeline.set_progress_bar_config(disable=True)
        height, width = self.size
        options = {**self.options, self.scale: guidance - 1 + self.none}
        if self.frames is not None:
            options["num_frames"] = self.frames
        output = pipeline(
            list(PROMPTS),  # Z-Image's writes its template into the list
            height=height,
            width=width,
            num_inference_steps=3,
            latents=self.layout(noise),
            output_type="pt",
            **options,
        )
        return output.images if self.frames is None else output.frames


def negative(pipeline_takes_a_list=True):
    return {"negative_prompt": [NEGATIVE] * 2 if pipeline_takes_a_list else NEGATIVE}


WAN_OF_TWO = partial(tiny_videos.tiny_wan, boundary=0.8)
PLAIN = {"use_resolution_binning": False, **negative(pipeline_takes_a_list=False)}
CASES = {
    "pixart": Case(tiny_pipelines.tiny_pixart, (16, 16), options={**PLAIN, "clean_caption": False}),
    "pixart alpha": Case(
        partial(tiny_pipelines.tiny_pixart, alpha=True),
        (16, 24),
        options={**PLAIN, "clean_caption": False},
    ),
    "sana": Case(tiny_pipelines.tiny_sana, (32, 64), options=PLAIN),
    "flux dev": Case(tiny_pipelines.tiny_flux, (16, 24), layout=packed),
    "flux schnell": Case(
        partial(tiny_pipelines.tiny_flux, told_guidance=False),
        (16, 24),
        scale="true_cfg_scale",
        layout=packed,
        options=negative(),
    ),
    "qwen-image": Case(
        tiny_pipelines.tiny_qwen_image,
        (32, 48),
        scale="true_cfg_scale",
        layout=packed,
        options=negative(),
    ),
    "z-image": Case(tiny_pipelines.tiny_z_image, (16, 24), none=0.0, options=negative()),
    "animatediff": Case(tiny_videos.tiny_animate_diff, (16, 24), frames=3, options=negative()),
    "wan": Case(tiny_videos.tiny_wan, (32, 48), frames=5, options=negative()),
    "wan of two": Case(WAN_OF_TWO, (32, 48), frames=5, options=negative()),
    "cogvideox": Case(
        tiny_videos.tiny_cog_video_x, (16, 16), frames=9, layout=frames_first, options=negative()
    ),
    "ltx": Case(tiny_videos.tiny_ltx, (64, 96), frames=9, layout=tokens, options=negative()),
}


@pytest.mark.filterwarnings(NUMPY)
@pytest.mark.parametrize("name", CASES)
def test_pictures_are_those_of_diffusers_own_call(name, tmp_path):
    case = CASES[name]
    drawn = []
    for guidance in (1.0, 6.0):
        policy = case.policy(tmp_path, guidance)
        noise = normal(policy.shape, generators(SEEDS))
        own = case.own_call(case.make(tmp_path), noise, guidance)
        outputs = policy.generate(PROMPTS, seeds=SEEDS).outputs
        assert_close(outputs, own, atol=2e-5, rtol=1e-4)
        drawn.append(outputs)
    assert (drawn[0] - drawn[1]).abs().max() > 1e-4, "guidance changes nothing"
    height, width = case.size
    frames = () if case.frames is None else (case.frames,)
    assert drawn[0].shape == (2, *frames, 3, height, width)


def test_two_transformers_have_a_guidance_each(tmp_path):
    case = CASES["wan of two"]
    own = Case(case.make, case.size, 5, options={**case.options, "guidance_scale_2": 2.0})
    sampler = Sampler(steps=3, eta=0.0, guidance=6.0, late_guidance=2.0)
    policy = DiffusionPolicy(
        case.make(tmp_path), sampler=sampler, negative_prompt=NEGATIVE, size=case.size, frames=5
    )
    expected = own.own_call(case.make(tmp_path), normal(policy.shape, generators(SEEDS)), 6.0)
    drawn = policy.generate(PROMPTS, seeds=SEEDS).outputs
    assert_close(drawn, expected, atol=2e-5, rtol=1e-4)
    policy.sampler = Sampler(steps=3, eta=0.0, guidance=6.0)
    assert (policy.generate(PROMPTS, seeds=SEEDS).outputs - drawn).abs().max() > 1e-4
    policy.sampler = Sampler(steps=3, eta=0.0, late_guidance=2.0)
    with pytest.raises(InputError, match="Wan's own call guides no step"):
        policy.generate(PROMPTS, seeds=SEEDS)
    single = DiffusionPolicy(
        tiny_videos.tiny_wan(tmp_path), sampler=sampler, size=case.size, frames=5
    )
    with pytest.raises(InputError, match="for pipelines with a second denoiser"):
        single.generate(PROMPTS, seeds=SEEDS)


def test_a_wan_with_half_of_its_transformers_is_refused(tmp_path):
    for missing in ("transformer_2", "boundary_ratio"):
        pipeline = CASES["wan of two"].make(tmp_path)
        if missing == "transformer_2":
            pipeline.transformer_2 = None
        else:
            pipeline.register_to_config(boundary_ratio=None)
        with pytest.raises(InputError, match="Was a part left out, or the boundary"):
            DiffusionPolicy(pipeline)


FLOW = {"prediction_type": "flow_prediction", "use_flow_sigmas": True, "flow_shift": 3.0}


@pytest.mark.filterwarnings(NUMPY)
@pytest.mark.parametrize("scheduler", [UniPCMultistepScheduler, DPMSolverMultistepScheduler])
@pytest.mark.parametrize("name", ["wan", "sana"])
def test_solvers_of_flows(name, scheduler, tmp_path):
    """Published folders of Wan and Sana have these; rollouts take Euler's steps in their place."""
    case = CASES[name]

    def make(folder):
        pipeline = case.make(folder)
        pipeline.scheduler = scheduler(**FLOW)
        return pipeline

    policy = Case(make, case.size, case.frames, options=case.options).policy(tmp_path)
    noise = normal(policy.shape, generators(SEEDS))
    own = case.own_call(make(tmp_path), noise, 1.0)
    outputs = policy.generate(PROMPTS, seeds=SEEDS).outputs
    assert_close(outputs, own, atol=2e-5, rtol=1e-4)
    even = torch.arange(1, 1001) / 1000
    assert_close(policy.noising.time / 1000, 3 * even / (1 + 2 * even))
    policy.sampler = Sampler(steps=3)
    with pytest.raises(InputError, match=r"Set sampler.scheduler to flow"):
        policy.sample(PROMPTS, seeds=SEEDS)
    sampler = Sampler(steps=3, scheduler="flow")
    rollouts = DiffusionPolicy(make(tmp_path), sampler=sampler, size=case.size, frames=case.frames)
    assert rollouts.scheduler.config.shift == 3.0
    assert rollouts.sample(PROMPTS, seeds=SEEDS).tensors["final"].isfinite().all()


def test_the_solver_of_cogvideox(tmp_path, monkeypatch):
    """It asks its caller for the prediction of the step before; it adds noise at every step."""
    case = CASES["cogvideox"]

    def make(folder):
        pipeline = case.make(folder)
        config = pipeline.scheduler.config
        pipeline.scheduler = CogVideoXDPMScheduler.from_config(config)
        return pipeline

    policy = Case(make, case.size, case.frames).policy(tmp_path)
    rows = generators(SEEDS)
    noise = normal(policy.shape, rows)
    with monkeypatch.context() as patch:
        drawn = partial(frames_first_noise, policy.shape, rows)
        patch.setattr(scheduling_dpm_cogvideox, "randn_tensor", drawn)
        own = case.own_call(make(tmp_path), noise, 1.0)
    outputs = policy.generate(PROMPTS, seeds=SEEDS).outputs
    assert_close(outputs, own, atol=2e-5, rtol=1e-4)


@pytest.mark.parametrize(
    ("name", "frames", "message"),
    [
        ("wan", 16, "videos of 1, 5, 9, … frames; got frames=16"),
        ("cogvideox", 12, "videos of 1, 9, 17, … frames; got frames=12"),
        ("cogvideox", 5, "videos of 1, 9, 17, … frames; got frames=5"),
        ("ltx", 12, "videos of 1, 9, 17, … frames; got frames=12"),
        ("animatediff", 9, "videos of 1 to 8 frames; got frames=9"),
        ("flux dev", 4, "is for pipelines of videos"),
    ],
)
def test_a_number_of_frames_that_cannot_be_made_is_refused(name, frames, message, tmp_path):
    with pytest.raises(InputError, match=message):
        DiffusionPolicy(CASES[name].make(tmp_path), size=CASES[name].size, frames=frames)


@pytest.mark.parametrize(
    ("name", "step"), [("flux dev", 4), ("qwen-image", 16), ("wan", 16), ("ltx", 32)]
)
def test_a_size_that_cannot_be_made_is_refused(name, step, tmp_path):
    with pytest.raises(InputError, match=f"multiples of {step} pixels"):
        DiffusionPolicy(CASES[name].make(tmp_path), size=step + 1, frames=CASES[name].frames)
