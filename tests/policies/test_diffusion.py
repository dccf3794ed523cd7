"""DiffusionPolicy against published formulas and the conformance class."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn.functional import logsigmoid, mse_loss
from torch.testing import assert_close

from rewardlab.errors import InputError
from rewardlab.losses import dpo_loss, nll_loss
from rewardlab.policies.diffusion import DiffusionPolicy
from rewardlab.policies.samplers import Sampler
from rewardlab.seeds import row_seeds
from rewardlab.testing import PolicyConformance, tiny_diffusion, tiny_stable_diffusion
from rewardlab.training.base import step_total
from rewardlab.types import Samples

LABELS = ["zero", "one"]
PROMPTS = ["one", "zero", "one", ""]
PREDICTION_TYPES = ["epsilon", "v_prediction", "sample"]


FOUR_STEPS = Sampler(steps=4)


def make(sampler: Sampler = FOUR_STEPS, seed: int = 0, **options) -> DiffusionPolicy:
    pipeline = {key: options.pop(key) for key in ("prediction_type", "flow") if key in options}
    model = tiny_diffusion(seed, **pipeline)
    return DiffusionPolicy(model, labels=LABELS, sampler=sampler, **options)


def images(rows: int = 4) -> Samples:
    generator = torch.Generator().manual_seed(0)
    return Samples(PROMPTS[:rows], torch.rand(rows, 1, 8, 8, generator=generator))


def column(values: Tensor) -> Tensor:
    """Return numbers [B] that multiply images [B, C, H, W]."""
    return values[:, None, None, None]


def mean_square(policy: DiffusionPolicy, trajectory) -> Tensor:
    """Return the published denoising loss of each row, from its own x_t, t and target."""
    tensors = trajectory.tensors
    x = tensors["x"][:, 0]
    time = tensors["time"][:, 0]
    prediction = policy.denoiser(x, time, tensors["cond.class_labels"]).sample
    return (prediction - tensors["target"][:, 0]).square().mean([1, 2, 3])


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


@pytest.mark.parametrize("prediction_type", PREDICTION_TYPES)
def test_sft_gradient_is_half_the_denoising_loss_gradient(prediction_type):
    """The loss is 1/2 · mean over rows of mean((target - f)²), for every prediction type."""
    policy = make(prediction_type=prediction_type)
    trajectory = policy.encode(images(), seeds=row_seeds(1, 4))
    weight = next(parameter for parameter in policy.denoiser.parameters() if parameter.dim() > 1)
    loss = nll_loss(policy.log_prob(trajectory), trajectory.mask)
    (ours,) = torch.autograd.grad(loss, weight)
    (published,) = torch.autograd.grad(mean_square(policy, trajectory).mean(), weight)
    assert_close(ours, published / 2, rtol=1e-4, atol=1e-8)


@pytest.mark.parametrize("prediction_type", PREDICTION_TYPES)
def test_encoded_x_t_and_target_are_diffusers_own(prediction_type):
    """x_t is `scheduler.add_noise(x0, ε, t)`; the target is ε, the velocity or x0."""
    policy = make(prediction_type=prediction_type)
    tensors = policy.encode(images(), seeds=row_seeds(1, 4)).tensors
    x0 = tensors["final"]
    x = tensors["x"][:, 0]
    time = tensors["time"][:, 0].long()
    alpha_bar = column(policy.scheduler.alphas_cumprod[time])
    noise = (x - alpha_bar.sqrt() * x0) / (1 - alpha_bar).sqrt()
    assert_close(x, policy.scheduler.add_noise(x0, noise, time), atol=1e-5, rtol=1e-5)
    velocity = alpha_bar.sqrt() * noise - (1 - alpha_bar).sqrt() * x0
    targets = {"epsilon": noise, "v_prediction": velocity, "sample": x0}
    expected = targets[prediction_type]
    assert_close(tensors["target"][:, 0], expected, atol=2e-3, rtol=1e-3)


def test_flow_target_is_noise_less_data_on_the_straight_path():
    policy = make(flow=True)
    tensors = policy.encode(images(), seeds=row_seeds(1, 4)).tensors
    sigma = column(tensors["time"][:, 0] / 1000)
    x0 = tensors["final"]
    noise = tensors["target"][:, 0] + x0
    assert_close(tensors["x"][:, 0], (1 - sigma) * x0 + sigma * noise)


@pytest.mark.parametrize("beta", [1.0, 500.0, 5000.0])
def test_dpo_is_diffusion_dpo(beta):
    """At equal t and noise DPO is -log σ(-β/2 · [(|w|² - |l|²) - (|w_ref|² - |l_ref|²)]).

    The published code (Diffusion-DPO, arXiv 2311.12908) takes the mean over dimensions of squared
    errors, as log_prob does. -1/2 · mean square is log_prob, so the bracket is -2 times the
    difference of log-ratios.
    """
    policy = make(seed=0, draws=1)
    reference = make(seed=1)
    seeds = row_seeds(3, 4)
    chosen = policy.encode(images(), seeds=seeds)
    rejected = policy.encode(Samples(PROMPTS, 1 - images().outputs), seeds=seeds)
    assert torch.equal(chosen.tensors["time"], rejected.tensors["time"])
    totals = []
    for scorer in (policy, reference):
        for trajectory in (chosen, rejected):
            totals.append(step_total(scorer.log_prob(trajectory), trajectory.mask))
    ours = dpo_loss(*totals, beta=beta)
    model = mean_square(policy, chosen) - mean_square(policy, rejected)
    base = mean_square(reference, chosen) - mean_square(reference, rejected)
    theirs = -logsigmoid(-0.5 * beta * (model - base))
    assert_close(ours, theirs, rtol=1e-4, atol=1e-4)


def test_draws_average_and_keep_both_identities():
    """With n draws a row's log-probability is the mean of the n draws' own."""
    many = make(draws=6)
    trajectory = many.encode(images(), seeds=row_seeds(1, 4))
    assert trajectory.mask.shape == (4, 1)
    tensors = trajectory.tensors
    classes = tensors["cond.class_labels"].repeat_interleave(6)
    x = tensors["x"].flatten(0, 1)
    prediction = many.denoiser(x, tensors["time"].flatten(), classes).sample
    errors = mse_loss(prediction, tensors["target"].flatten(0, 1), reduction="none")
    errors = errors.mean([1, 2, 3]).view(4, 6)
    assert_close(many.log_prob(trajectory)[:, 0], -0.5 * errors.mean(1), rtol=1e-5, atol=1e-6)


def test_guidance_extrapolates_between_cond_and_uncond():
    plain = make(Sampler(steps=1))
    guided = make(Sampler(steps=1, guidance=3.0))
    x = torch.randn(2, 1, 8, 8)
    time = torch.tensor([500.0, 500.0])
    cond = plain.predict(x, time, plain.conditions(["one", "zero"], guided=False))
    uncond = plain.predict(x, time, plain.conditions(["", ""], guided=False))
    output = guided.predict(x, time, guided.conditions(["one", "zero"], guided=True))
    assert_close(output, uncond + 3 * (cond - uncond), rtol=1e-4, atol=1e-5)


def test_prompt_dropout_is_seeded_and_off_in_evaluation():
    policy = make(prompt_dropout=0.5)
    seeds = row_seeds(0, 64)
    samples = Samples(["one"] * 64, torch.rand(64, 1, 8, 8))
    classes = policy.encode(samples, seeds=seeds).tensors["cond.class_labels"]
    assert torch.equal(classes, policy.encode(samples, seeds=seeds).tensors["cond.class_labels"])
    assert set(classes.tolist()) == {1, 2}  # "one" and the null class
    evaluated = policy.eval().encode(samples, seeds=seeds).tensors["cond.class_labels"]
    assert set(evaluated.tolist()) == {1}


def test_adapter_off_is_the_policy_as_it_was_and_merges_on_saving(tmp_path):
    policy = make(lora_rank=2)
    trajectory = policy.encode(images(), seeds=row_seeds(0, 4))
    before = policy.log_prob(trajectory).detach()
    reference = policy.reference()
    for parameter in policy.parameters():
        if parameter.requires_grad:
            parameter.data += 0.1
    after = policy.log_prob(trajectory)
    assert (after - before).abs().max() > 1e-3
    assert_close(reference.log_prob(trajectory), before, rtol=0, atol=0)
    assert not list(reference.parameters())
    policy.save_pretrained(tmp_path / "policy")
    loaded = DiffusionPolicy.from_pretrained(tmp_path / "policy")
    assert_close(loaded.log_prob(trajectory), after, rtol=1e-4, atol=1e-5)


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
    assert log_prob.dtype == trajectory.tensors["target"].dtype == torch.float32
    assert {parameter.dtype for parameter in trained} == {torch.float32}
    assert all(parameter.grad is not None for parameter in trained)


def test_micro_batches_change_no_noise():
    whole = make()
    parts = make(micro_batch=3)
    seeds = row_seeds(0, 7)
    expected = whole.generate(["one"] * 7, seeds=seeds).outputs
    assert_close(parts.generate(["one"] * 7, seeds=seeds).outputs, expected, rtol=1e-4, atol=1e-5)


def load_nothing():
    DiffusionPolicy("no/such/folder")


def encode_texts():
    make().encode(Samples(["one"], ["text"]), seeds=row_seeds(0, 1))


def encode_three_channels():
    make().encode(Samples(["one"], torch.rand(1, 3, 8, 8)), seeds=row_seeds(0, 1))


def generate_an_unknown_class():
    make().generate(["three"], seeds=row_seeds(0, 1))


def generate_a_prompt_without_conditions():
    DiffusionPolicy(tiny_diffusion(classes=0)).generate(["cat"], seeds=row_seeds(0, 1))


def keep_too_many_steps():
    make(Sampler(steps=4, kept_steps=9)).sample(["one"], seeds=row_seeds(0, 1))


@pytest.mark.parametrize(
    ("act", "message"),
    [
        (load_nothing, "no folder, nor a hub id"),
        (encode_texts, "made for a language model"),
        (encode_three_channels, "size, channels"),
        (generate_an_unknown_class, "No class is called 'three'"),
        (generate_a_prompt_without_conditions, "unconditional"),
        (keep_too_many_steps, "kept_steps must be"),
    ],
)
def test_errors_name_the_mend(act, message, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(InputError, match=message):
        act()
