"""Samplers: every step against diffusers' own, published log-ratios, and the settings."""

from __future__ import annotations

import json
from copy import deepcopy

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from rewardlab.errors import InputError
from rewardlab.policies.diffusion import DiffusionPolicy
from rewardlab.policies.samplers import Sampler, transitions
from rewardlab.seeds import row_seeds
from rewardlab.testing import tiny_diffusion

LABELS = ["zero", "one"]
PROMPTS = ["one", "zero", "one", ""]
PREDICTION_TYPES = ["epsilon", "v_prediction", "sample"]


def make(sampler: Sampler, seed: int = 0, **pipeline) -> DiffusionPolicy:
    return DiffusionPolicy(tiny_diffusion(seed, **pipeline), labels=LABELS, sampler=sampler)


def step_mean(policy: DiffusionPolicy, output: Tensor, time: int, state: Tensor) -> Tensor:
    """Return the mean of diffusers' own step."""
    step = deepcopy(policy.scheduler)
    if policy.sampler.scheduler == "ddim":
        noise = torch.zeros_like(output)
        options = {"eta": 1.0, "variance_noise": noise, "return_dict": False}
        return step.step(output, time, state, **options)[0]
    # DDPM's step draws noise by itself: the same again is taken away
    torch.manual_seed(0)
    noisy = step.step(output, time, state, return_dict=False)[0]
    torch.manual_seed(0)
    return noisy - step._get_variance(time) ** 0.5 * torch.randn_like(output)


def published_log_prob(policy: DiffusionPolicy, trajectory) -> Tensor:
    """Return Normal(mean, σ).log_prob(x') averaged over dimensions, as DDPO's public code does."""
    table = transitions(policy.scheduler, policy.sampler)
    states = trajectory.tensors["x"]
    classes = trajectory.tensors["cond.class_labels"]
    columns = []
    for k in range(4):  # the last step adds no noise
        time = table.time[k]
        output = policy.denoiser(states[:, k], time.float().expand(4), classes).sample
        mean = step_mean(policy, output, int(time), states[:, k])
        normal = torch.distributions.Normal(mean, table.noise[k].item())
        columns.append(normal.log_prob(states[:, k + 1]).mean([1, 2, 3]))
    return torch.stack(columns, 1)


@pytest.mark.parametrize("prediction_type", PREDICTION_TYPES)
@pytest.mark.parametrize("scheduler", ["ddim", "ddpm"])
def test_rollout_ratio_is_ddpos(scheduler, prediction_type):
    """The log-ratio of two policies is that of DDPO's public code."""
    sampler = Sampler(steps=5, scheduler=scheduler)
    policy = make(sampler, seed=0, prediction_type=prediction_type)
    other = make(sampler, seed=1, prediction_type=prediction_type)
    trajectory = policy.sample(PROMPTS, seeds=row_seeds(0, 4))
    with torch.no_grad():
        ours = other.log_prob(trajectory) - policy.log_prob(trajectory)
        theirs = published_log_prob(other, trajectory) - published_log_prob(policy, trajectory)
    assert theirs.abs().max() > 0.01
    assert_close(ours[:, :4], theirs, rtol=2e-3, atol=1e-4)


@pytest.mark.parametrize("spacing", ["leading", "trailing", "linspace"])
@pytest.mark.parametrize(("scheduler", "eta"), [("ddim", 1.0), ("ddim", 0.3), ("ddpm", 1.0)])
def test_every_sampler_step_equals_diffusers_own(scheduler, eta, spacing):
    """A rollout and generation from equal seeds end in equal images.

    The rollout takes our table of coefficients, generation takes diffusers' `step`.
    """
    sampler = Sampler(steps=7, eta=eta, scheduler=scheduler)
    policy = make(sampler, prediction_type="v_prediction")
    policy.scheduler.register_to_config(timestep_spacing=spacing)
    seeds = row_seeds(5, 4)
    ours = policy.decode(policy.sample(PROMPTS, seeds=seeds))
    theirs = policy.generate(PROMPTS, seeds=seeds)
    assert_close(ours.outputs, theirs.outputs, rtol=0, atol=1e-4)


def test_rollout_recomputes_to_its_own_noise():
    """At the sampling weights the error is (σ/b)·z, so log p = -z²/2 averaged, near -1/2."""
    policy = make(Sampler(steps=20))
    trajectory = policy.sample(["one"] * 32, seeds=row_seeds(0, 32))
    log_prob = policy.log_prob(trajectory)
    assert not trajectory.mask[:, -1].any()
    assert trajectory.mask[:, :-1].all()
    # 19 steps x 32 rows x 64 dimensions of z²: relative standard error sqrt(2/38912) = 0.7 %
    assert_close(log_prob[trajectory.mask].mean(), torch.tensor(-0.5), rtol=0.03, atol=0)


def test_flow_sde_keeps_the_marginals_of_the_ode():
    """On data N(0, s²) with the exact velocity, SDE and ODE both end in N(0, s²).

    x_t = (1 - t)·x0 + t·ε has variance v = (1 - t)²s² + t², and E[ε - x0 | x] = x·(t - (1 -
    t)·s²)/v. The SDE changes paths, not marginals.
    """
    std = 0.5
    policy = make(Sampler(steps=200, eta=0.7), flow=True)
    table = transitions(policy.scheduler, policy.sampler)
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(20000, 2, generator=generator, dtype=torch.float64)
    ode = x
    sigmas = policy.scheduler.sigmas.double()
    for k in range(200):
        t = sigmas[k]
        scale = (t - (1 - t) * std**2) / ((1 - t) ** 2 * std**2 + t**2)
        z = torch.randn(20000, 2, generator=generator, dtype=torch.float64)
        x = table.state[k] * x + table.output[k] * scale * x + table.noise[k] * z
        ode = ode + (sigmas[k + 1] - t) * scale * ode
    expected = torch.tensor(std, dtype=torch.float64)
    assert_close(ode.std(), expected, rtol=0.02, atol=0)
    assert_close(x.std(), expected, rtol=0.02, atol=0)


def test_rollouts_refuse_samplers_without_a_density():
    with pytest.raises(InputError, match="deterministic"):
        make(Sampler(steps=3, eta=0.0)).sample(["one"], seeds=row_seeds(0, 1))
    clipped = make(Sampler(steps=3))
    clipped.scheduler.register_to_config(clip_sample=True)
    with pytest.raises(InputError, match="clips its predictions"):
        clipped.sample(["one"], seeds=row_seeds(0, 1))
    assert clipped.generate(["one"], seeds=row_seeds(0, 1)).outputs.shape == (1, 1, 8, 8)


@pytest.mark.filterwarnings(
    "ignore:__array__ implementation:DeprecationWarning"
)  # diffusers 0.42.1 on numpy 2.4
def test_deterministic_generation_uses_any_scheduler():
    from diffusers import DPMSolverMultistepScheduler

    pipeline = tiny_diffusion()
    pipeline.scheduler = DPMSolverMultistepScheduler.from_config(pipeline.scheduler.config)
    policy = DiffusionPolicy(pipeline, labels=LABELS, sampler=Sampler(steps=3))
    assert policy.generate(["one"], seeds=row_seeds(0, 1)).outputs.isfinite().all()
    with pytest.raises(InputError, match=r"sampler\.scheduler to ddim"):
        policy.sample(["one"], seeds=row_seeds(0, 1))


def test_kept_steps_are_a_seeded_subset_for_each_row():
    full = make(Sampler(steps=8))
    part = make(Sampler(steps=8, kept_steps=3))
    seeds = row_seeds(2, 6)
    whole = full.sample(["one"] * 6, seeds=seeds)
    kept = part.sample(["one"] * 6, seeds=seeds)
    assert kept.mask.shape == (6, 3)
    assert kept.mask.all()
    kept_times = kept.tensors["time"].tolist()
    assert len({tuple(times) for times in kept_times}) > 1
    all_times = whole.tensors["time"][0].tolist()
    for row, times in enumerate(kept_times):
        columns = [all_times.index(time) for time in times]
        assert columns == sorted(set(columns))
        expected = full.log_prob(whole)[row, columns]
        assert_close(expected, part.log_prob(kept)[row], rtol=1e-4, atol=1e-5)


def test_the_former_name_of_eta_is_accepted_with_one_warning():
    with pytest.warns(DeprecationWarning, match="called `eta` now") as warnings:
        sampler = Sampler(steps=5, noise=0.3)
    assert len(warnings) == 1
    assert sampler == Sampler(steps=5, eta=0.3)
    with pytest.warns(DeprecationWarning, match="called `eta` now"):
        assert sampler.noise == 0.3


def test_saved_folders_name_eta_and_those_with_its_former_name_load_without_a_warning(tmp_path):
    make(Sampler(steps=5, eta=0.3)).save_pretrained(tmp_path)
    file = tmp_path / "policy.json"
    config = json.loads(file.read_text(encoding="utf-8"))
    settings = config["init_args"]["sampler"]
    assert "noise" not in settings
    settings["noise"] = settings.pop("eta")
    file.write_text(json.dumps(config), encoding="utf-8")
    assert DiffusionPolicy.from_pretrained(tmp_path).sampler == Sampler(steps=5, eta=0.3)
