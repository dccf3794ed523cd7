"""DiffusionPolicy against published formulas, diffusers' own steps and the conformance class."""

from __future__ import annotations

from copy import deepcopy

import pytest
import torch
from torch import Tensor
from torch.nn.functional import logsigmoid, mse_loss
from torch.testing import assert_close

from rewardlab.errors import InputError
from rewardlab.losses import dpo_loss, nll_loss
from rewardlab.policies.diffusion import DiffusionPolicy
from rewardlab.policies.samplers import Sampler, transitions
from rewardlab.seeds import row_seeds
from rewardlab.testing import (
    PolicyConformance,
    tiny_diffusion,
    tiny_stable_diffusion,
    tiny_stable_diffusion_xl,
)
from rewardlab.training.base import step_total
from rewardlab.types import Samples

LABELS = ["zero", "one"]
PROMPTS = ["one", "zero", "one", ""]
PARAMETRISATIONS = ["epsilon", "v_prediction", "sample"]


def make(sampler: Sampler = Sampler(steps=4), seed: int = 0, **options) -> DiffusionPolicy:  # noqa: B008
    pipeline = {key: options.pop(key) for key in ("prediction_type", "flow") if key in options}
    return DiffusionPolicy(
        tiny_diffusion(seed, **pipeline), labels=LABELS, sampler=sampler, **options
    )


def images(rows: int = 4) -> Samples:
    return Samples(
        PROMPTS[:rows], torch.rand(rows, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    )


def mean_square(policy: DiffusionPolicy, trajectory) -> Tensor:
    """The published denoising loss of each row, computed from the trajectory's own x_t, t and
    target.
    """
    x, time, target = (trajectory.tensors[name][:, 0] for name in ("x", "time", "target"))
    prediction = policy.denoiser(x, time, trajectory.tensors["told.class_labels"]).sample
    return (prediction - target).square().mean([1, 2, 3])


class TestClassConditional(PolicyConformance):
    atol = 1e-4

    def make(self):
        return make()

    prompts = PROMPTS


class TestFlowWithAdapter(TestClassConditional):
    def make(self):
        return make(flow=True, lora_rank=2)


class TestGuidedTextConditional(PolicyConformance):
    atol = 1e-4

    @pytest.fixture(autouse=True)
    def _folder(self, tmp_path):
        self.folder = tmp_path

    def make(self):
        pipeline = tiny_stable_diffusion(self.folder / "tokenizer")
        return DiffusionPolicy(pipeline, sampler=Sampler(steps=3, guidance=3.0), lora_rank=2)

    prompts = ("a cat", "a dog", "")


@pytest.mark.parametrize("prediction_type", PARAMETRISATIONS)
def test_sft_gradient_is_half_the_denoising_loss_gradient(prediction_type):
    """The loss is 1/2 · mean over rows of mean((target - f)²), for every parametrisation."""
    policy = make(prediction_type=prediction_type)
    trajectory = policy.encode(images(), seeds=row_seeds(1, 4))
    weight = next(parameter for parameter in policy.denoiser.parameters() if parameter.dim() > 1)
    (ours,) = torch.autograd.grad(nll_loss(policy.log_prob(trajectory), trajectory.mask), weight)
    (published,) = torch.autograd.grad(mean_square(policy, trajectory).mean(), weight)
    assert_close(ours, published / 2, rtol=1e-4, atol=1e-8)


@pytest.mark.parametrize("prediction_type", PARAMETRISATIONS)
def test_encoded_x_t_and_target_are_diffusers_own(prediction_type):
    """x_t = scheduler.add_noise(x0, ε, t); the target is ε, scheduler.get_velocity(x0, ε, t) or x0."""
    policy = make(prediction_type=prediction_type)
    tensors = policy.encode(images(), seeds=row_seeds(1, 4)).tensors
    x0, x, time, target = (
        tensors["final"],
        tensors["x"][:, 0],
        tensors["time"][:, 0].long(),
        tensors["target"][:, 0],
    )
    kept = policy.scheduler.alphas_cumprod[time][:, None, None, None]
    noise = (x - kept.sqrt() * x0) / (1 - kept).sqrt()
    assert_close(x, policy.scheduler.add_noise(x0, noise, time), atol=1e-5, rtol=1e-5)
    velocity = (
        policy.scheduler.alphas_cumprod[time][:, None, None, None].sqrt() * noise
        - (1 - kept).sqrt() * x0
    )
    assert_close(
        target,
        {"epsilon": noise, "v_prediction": velocity, "sample": x0}[prediction_type],
        atol=2e-3,
        rtol=1e-3,
    )


def test_flow_target_is_noise_less_data_on_the_straight_path():
    policy = make(flow=True)
    tensors = policy.encode(images(), seeds=row_seeds(1, 4)).tensors
    sigma = (tensors["time"] / 1000)[..., None, None, None]
    x0 = tensors["final"][:, None]
    assert_close(tensors["x"], (1 - sigma) * x0 + sigma * (tensors["target"] + x0))


@pytest.mark.parametrize("beta", [1.0, 500.0, 5000.0])
def test_dpo_is_diffusion_dpo(beta):
    """-log σ(-β/2 · [(|w|² - |l|²) - (|w_ref|² - |l_ref|²)]) with mean-square errors at equal t and
    noise, any β.

    The published code (Diffusion-DPO, arXiv 2311.12908) takes the mean over dimensions, as log_prob
    does; -1/2 · mean square is log_prob, so the bracket is -2 times the difference of log-ratios.
    """
    policy, reference = make(seed=0, draws=1), make(seed=1)
    chosen, rejected = images(), Samples(PROMPTS, 1 - images().outputs)
    w, l = (policy.encode(samples, seeds=row_seeds(3, 4)) for samples in (chosen, rejected))  # noqa: E741
    assert torch.equal(w.tensors["time"], l.tensors["time"])
    totals = [step_total(p.log_prob(t), t.mask) for p in (policy, reference) for t in (w, l)]
    ours = dpo_loss(*totals, beta=beta)
    model = mean_square(policy, w) - mean_square(policy, l)
    theirs = -logsigmoid(
        -0.5 * beta * (model - (mean_square(reference, w) - mean_square(reference, l)))
    )
    assert_close(ours, theirs, rtol=1e-4, atol=1e-4)


def test_draws_average_and_keep_both_identities():
    """With n draws a row's log-probability is the mean of the n draws' own, so neither loss changes
    its scale.
    """
    many = make(draws=6)
    trajectory = many.encode(images(), seeds=row_seeds(1, 4))
    assert trajectory.mask.shape == (4, 1)
    prediction = many.denoiser(
        trajectory.tensors["x"].flatten(0, 1),
        trajectory.tensors["time"].flatten(),
        trajectory.tensors["told.class_labels"].repeat_interleave(6),
    ).sample
    errors = (
        mse_loss(prediction, trajectory.tensors["target"].flatten(0, 1), reduction="none")
        .mean([1, 2, 3])
        .view(4, 6)
    )
    assert_close(many.log_prob(trajectory)[:, 0], -0.5 * errors.mean(1), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("prediction_type", PARAMETRISATIONS)
@pytest.mark.parametrize("scheduler", ["ddim", "ddpm"])
def test_rollout_ratio_is_ddpos(scheduler, prediction_type):
    """The log-ratio of DDPO's public code: Normal(mean, σ).log_prob(x') averaged over dimensions,
    by diffusers' own step.
    """
    sampler = Sampler(steps=5, scheduler=scheduler)
    policy, other = (make(sampler, seed=seed, prediction_type=prediction_type) for seed in (0, 1))
    trajectory = policy.sample(PROMPTS, seeds=row_seeds(0, 4))

    def gaussian(p: DiffusionPolicy) -> Tensor:
        table, states = transitions(p.scheduler, sampler), trajectory.tensors["x"]
        columns = []
        for k in range(4):  # the last step adds no noise
            time, sigma = table.time[k], table.noise[k].item()
            output = p.denoiser(
                states[:, k], time.float().expand(4), trajectory.tensors["told.class_labels"]
            ).sample
            step = deepcopy(p.scheduler)
            extra = (
                {"eta": 1.0, "variance_noise": torch.zeros_like(output)}
                if scheduler == "ddim"
                else {}
            )
            mean = step.step(output, int(time), states[:, k], return_dict=False, **extra)[0]
            if scheduler == "ddpm":  # its step draws noise by itself: the same again, taken away
                torch.manual_seed(0)
                noisy = step.step(output, int(time), states[:, k], return_dict=False)[0]
                torch.manual_seed(0)
                mean = noisy - step._get_variance(int(time)) ** 0.5 * torch.randn_like(output)
            columns.append(
                torch.distributions.Normal(mean, sigma).log_prob(states[:, k + 1]).mean([1, 2, 3])
            )
        return torch.stack(columns, 1)

    with torch.no_grad():
        ours = (other.log_prob(trajectory) - policy.log_prob(trajectory))[:, :4]
        theirs = gaussian(other) - gaussian(policy)
    assert theirs.abs().max() > 0.01
    assert_close(ours, theirs, rtol=2e-3, atol=1e-4)


@pytest.mark.parametrize("spacing", ["leading", "trailing", "linspace"])
@pytest.mark.parametrize(("scheduler", "noise"), [("ddim", 1.0), ("ddim", 0.3), ("ddpm", 1.0)])
def test_every_sampler_step_equals_diffusers_own(scheduler, noise, spacing):
    """A rollout (our table of coefficients) and generation (diffusers' `step`) from equal seeds end
    in equal images.
    """
    policy = make(
        Sampler(steps=7, noise=noise, scheduler=scheduler), prediction_type="v_prediction"
    )
    policy.scheduler.register_to_config(timestep_spacing=spacing)
    seeds = row_seeds(5, 4)
    ours, theirs = (
        policy.decode(policy.sample(PROMPTS, seeds=seeds)),
        policy.generate(PROMPTS, seeds=seeds),
    )
    assert_close(ours.outputs, theirs.outputs, rtol=0, atol=1e-4)


def test_rollout_recomputes_to_its_own_noise():
    """At the sampling weights the error is (σ/b)·z, so log p = -z²/2 averaged: its mean over steps
    is near -1/2.
    """
    policy = make(Sampler(steps=20))
    trajectory = policy.sample(["one"] * 32, seeds=row_seeds(0, 32))
    log_prob = policy.log_prob(trajectory)
    assert not trajectory.mask[:, -1].any()
    assert trajectory.mask[:, :-1].all()
    # 19 steps x 32 rows x 64 dimensions of z²: relative standard error sqrt(2/38912) = 0.7 %
    assert_close(log_prob[trajectory.mask].mean(), torch.tensor(-0.5), rtol=0.03, atol=0)


def test_flow_sde_keeps_the_marginals_of_the_ode():
    """On data N(0, s²) with the exact velocity, both samplers end in N(0, s²): the SDE changes
    paths, not marginals.

    x_t = (1 - t)·x0 + t·ε has variance v = (1 - t)²s² + t², and E[ε - x0 | x] = x·(t - (1 -
    t)·s²)/v.
    """
    spread, count = 0.5, 20000
    policy = make(Sampler(steps=200, noise=0.7), flow=True)
    table = transitions(policy.scheduler, policy.sampler)
    generator = torch.Generator().manual_seed(0)
    x = ode = torch.randn(count, 2, generator=generator, dtype=torch.float64)
    sigmas = policy.scheduler.sigmas.double()
    for k in range(200):
        t = sigmas[k]
        scale = (t - (1 - t) * spread**2) / ((1 - t) ** 2 * spread**2 + t**2)
        z = torch.randn(count, 2, generator=generator, dtype=torch.float64)
        x = table.state[k] * x + table.output[k] * scale * x + table.noise[k] * z
        ode = ode + (sigmas[k + 1] - t) * scale * ode
    assert_close(ode.std(), torch.tensor(spread, dtype=torch.float64), rtol=0.02, atol=0)
    assert_close(x.std(), torch.tensor(spread, dtype=torch.float64), rtol=0.02, atol=0)


def test_rollouts_refuse_samplers_without_a_density():
    with pytest.raises(InputError, match="deterministic"):
        make(Sampler(steps=3, noise=0.0)).sample(["one"], seeds=row_seeds(0, 1))
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
    full, part = make(Sampler(steps=8)), make(Sampler(steps=8, kept_steps=3))
    seeds = row_seeds(2, 6)
    whole, kept = (policy.sample(["one"] * 6, seeds=seeds) for policy in (full, part))
    assert kept.mask.shape == (6, 3)
    assert kept.mask.all()
    assert len({tuple(row.tolist()) for row in kept.tensors["time"]}) > 1
    times = whole.tensors["time"][0].tolist()
    for row in range(6):
        columns = [times.index(time) for time in kept.tensors["time"][row].tolist()]
        assert columns == sorted(set(columns))
        assert_close(
            full.log_prob(whole)[row, columns], part.log_prob(kept)[row], rtol=1e-4, atol=1e-5
        )


def test_guidance_extrapolates_between_told_and_untold():
    plain, guided = (
        make(Sampler(steps=1, noise=1.0)),
        make(Sampler(steps=1, noise=1.0, guidance=3.0)),
    )
    x, time = torch.randn(2, 1, 8, 8), torch.tensor([500.0, 500.0])
    conditions = guided._conditions(["one", "zero"], guided=True)
    untold = plain._predict(x, time, plain._conditions(["", ""], guided=False))
    told = plain._predict(x, time, plain._conditions(["one", "zero"], guided=False))
    assert_close(
        guided._predict(x, time, conditions), untold + 3 * (told - untold), rtol=1e-4, atol=1e-5
    )


def test_prompt_dropout_is_seeded_and_off_in_evaluation():
    policy, seeds = make(prompt_dropout=0.5), row_seeds(0, 64)
    samples = Samples(["one"] * 64, torch.rand(64, 1, 8, 8))
    classes = [policy.encode(samples, seeds=seeds).tensors["told.class_labels"] for _ in range(2)]
    assert torch.equal(*classes)
    assert set(classes[0].tolist()) == {1, 2}  # "one" and the null class
    assert set(
        policy.eval().encode(samples, seeds=seeds).tensors["told.class_labels"].tolist()
    ) == {1}


def test_adapter_off_is_the_policy_as_it_was_and_merges_on_saving(tmp_path):
    policy = make(lora_rank=2)
    trajectory = policy.encode(images(), seeds=row_seeds(0, 4))
    before, reference = policy.log_prob(trajectory).detach(), policy.reference()
    for parameter in policy.parameters():
        if parameter.requires_grad:
            parameter.data += 0.1
    after = policy.log_prob(trajectory)
    assert (after - before).abs().max() > 1e-3
    assert_close(reference.log_prob(trajectory), before, rtol=0, atol=0)
    assert not list(reference.parameters())
    policy.save_pretrained(tmp_path / "policy")
    assert_close(
        DiffusionPolicy.from_pretrained(tmp_path / "policy").log_prob(trajectory),
        after,
        rtol=1e-4,
        atol=1e-5,
    )


def test_low_precision_keeps_float32_at_the_boundary_and_in_the_trained_weights(tmp_path):
    policy = DiffusionPolicy(
        tiny_stable_diffusion(tmp_path),
        lora_rank=2,
        dtype="bfloat16",
        gradient_checkpointing=True,
        sampler=Sampler(steps=3),
    )
    trajectory = policy.sample(["a cat"] * 2, seeds=row_seeds(0, 2))
    log_prob = policy.log_prob(trajectory)
    log_prob.sum().backward()
    trained = [parameter for parameter in policy.parameters() if parameter.requires_grad]
    assert {
        log_prob.dtype,
        trajectory.tensors["target"].dtype,
        *(parameter.dtype for parameter in trained),
    } == {torch.float32}
    assert all(parameter.grad is not None for parameter in trained)


def test_sdxl_is_told_its_size_and_zeros_for_the_empty_prompt(tmp_path):
    policy = DiffusionPolicy(
        tiny_stable_diffusion_xl(tmp_path), sampler=Sampler(steps=2, guidance=2.0)
    )
    tensors = policy.sample(["a cat", ""], seeds=row_seeds(0, 2)).tensors
    assert tensors["told.time_ids"].tolist() == [[16, 16, 0, 0, 16, 16]] * 2
    assert tensors["told.encoder_hidden_states"][0].abs().sum() > 0
    assert tensors["told.encoder_hidden_states"][1].abs().sum() == 0
    assert tensors["untold.text_embeds"].abs().sum() == 0


def test_micro_batches_change_no_noise():
    whole, parts = make(), make(micro_batch=3)
    seeds = row_seeds(0, 7)
    assert_close(
        whole.generate(["one"] * 7, seeds=seeds).outputs,
        parts.generate(["one"] * 7, seeds=seeds).outputs,
        rtol=1e-4,
        atol=1e-5,
    )


@pytest.mark.parametrize(
    ("act", "words"),
    [
        (lambda: DiffusionPolicy("no/such/folder"), "no folder, nor a hub id"),
        (
            lambda: make().encode(Samples(["one"], ["text"]), seeds=row_seeds(0, 1)),
            "made for a language model",
        ),
        (
            lambda: make().encode(Samples(["one"], torch.rand(1, 3, 8, 8)), seeds=row_seeds(0, 1)),
            "size, channels",
        ),
        (lambda: make().generate(["three"], seeds=row_seeds(0, 1)), "No class is called 'three'"),
        (
            lambda: DiffusionPolicy(tiny_diffusion(classes=0)).generate(
                ["cat"], seeds=row_seeds(0, 1)
            ),
            "unconditional",
        ),
        (
            lambda: make(Sampler(steps=4, kept_steps=9)).sample(["one"], seeds=row_seeds(0, 1)),
            "kept_steps must be",
        ),
    ],
)
def test_errors_name_the_mend(act, words, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(InputError, match=words):
        act()
