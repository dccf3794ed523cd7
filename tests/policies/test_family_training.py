"""Every family of pipelines is encoded, scored, trained, saved and loaded."""

from __future__ import annotations

import runpy
from pathlib import Path
from types import SimpleNamespace

import pytest
import pytorch_lightning
import torch
from diffusers import AutoencoderKLWan
from torch.testing import assert_close

from rewardlab.data import Preferences, Prompts, SamplesData
from rewardlab.errors import InputError
from rewardlab.losses import dpo_loss, nll_loss
from rewardlab.policies import DiffusionPolicy, load_policy
from rewardlab.policies.samplers import Sampler
from rewardlab.rewards import Reward
from rewardlab.seeds import generators, normal, row_seeds
from rewardlab.testing import PolicyConformance, tiny_videos
from rewardlab.training import DPO, PPO, SFT
from rewardlab.training.base import step_total
from rewardlab.types import PreferencePairs, Samples

EQUALITY = SimpleNamespace(
    **runpy.run_path(str(Path(__file__).with_name("test_family_equality.py")))
)
CASES = EQUALITY.CASES
PROMPTS = EQUALITY.PROMPTS
SEEDS = row_seeds(5, 2)
DDIM = ("pixart", "pixart alpha", "cogvideox")  # whose schedulers have no steps for rollouts


def pictures(case, rows=2):
    generator = torch.Generator().manual_seed(0)
    frames = () if case.frames is None else (case.frames,)
    shape = (rows, *frames, 3, *case.size)
    return torch.rand(shape, generator=generator)


def gradients(policy, loss):
    trained = [weight for weight in policy.parameters() if weight.requires_grad]
    assert trained
    every = torch.autograd.grad(loss, trained, allow_unused=True)
    present = [gradient for gradient in every if gradient is not None]
    assert all(gradient.isfinite().all() for gradient in present)
    return sum(gradient.abs().sum().item() for gradient in present)


@pytest.fixture(params=list(CASES))
def name(request):
    return request.param


def make(name, folder):
    case = CASES[name]
    scheduler = "ddim" if name in DDIM else "pipeline"
    return DiffusionPolicy(
        case.make(folder),
        sampler=Sampler(steps=3, scheduler=scheduler),
        lora_rank=2,
        size=case.size,
        frames=case.frames,
    )


def test_supervised_fine_tuning(name, tmp_path):
    policy = make(name, tmp_path)
    trajectory = policy.encode(Samples(PROMPTS, pictures(CASES[name])), seeds=SEEDS)
    tensors = trajectory.tensors
    assert tensors["final"].shape == (2, *policy.shape)
    again = policy.decode(trajectory).outputs
    assert again.shape == pictures(CASES[name]).shape
    log_probs = policy.log_prob(trajectory)
    assert gradients(policy, nll_loss(log_probs, trajectory.mask)) > 0
    x = tensors["x"][:, 0]
    conditions = policy.conditions(PROMPTS, guided=False)
    errors = policy.predict(x, tensors["time"][:, 0], conditions) - tensors["target"][:, 0]
    expected = -0.5 * errors.square().flatten(1).mean(1)
    assert_close(log_probs[:, 0], expected, atol=1e-5, rtol=1e-4)


def test_preferences(name, tmp_path):
    policy = make(name, tmp_path)
    chosen = policy.encode(Samples(PROMPTS, pictures(CASES[name])), seeds=SEEDS)
    rejected = policy.encode(Samples(PROMPTS, 1 - pictures(CASES[name])), seeds=SEEDS)
    totals = []
    for scorer in (policy, policy.reference()):
        for trajectory in (chosen, rejected):
            totals.append(step_total(scorer.log_prob(trajectory), trajectory.mask))
    loss = dpo_loss(*totals, beta=10.0).mean()
    assert_close(loss, torch.tensor(2.0).log(), atol=1e-4, rtol=0)
    assert gradients(policy, loss) > 0


def test_policy_gradients(name, tmp_path):
    """A rollout's log-probabilities are those of its noise, ratios are 1, gradients finite."""
    policy = make(name, tmp_path)
    rollout = policy.sample(PROMPTS, seeds=SEEDS)
    old = policy.log_prob(rollout).detach()
    rows = generators(SEEDS)
    normal(policy.shape, rows)
    for step in range(rollout.mask.shape[1]):
        noise = normal(policy.shape, rows)
        stochastic = rollout.mask[:, step]
        expected = -0.5 * noise.square().flatten(1).mean(1)
        assert_close(old[:, step][stochastic], expected[stochastic], atol=1e-3, rtol=1e-3)
    ratio = (policy.log_prob(rollout) - old).where(rollout.mask, 0).exp()
    assert_close(ratio, torch.ones_like(ratio), atol=1e-4, rtol=0)
    advantages = torch.tensor([[1.0], [-1.0]])
    assert gradients(policy, -(ratio * advantages).mean()) > 0
    assert policy.decode(rollout).outputs.shape == pictures(CASES[name]).shape


def test_saved_and_loaded(name, tmp_path):
    policy = make(name, tmp_path / "tokenizer")
    with torch.no_grad():
        for weight in policy.parameters():
            if weight.requires_grad:
                weight += 0.02
    policy.save_pretrained(tmp_path / "policy")
    loaded = load_policy(tmp_path / "policy")
    assert loaded.shape == policy.shape
    drawn = policy.generate(PROMPTS, seeds=SEEDS).outputs
    assert_close(loaded.generate(PROMPTS, seeds=SEEDS).outputs, drawn, atol=1e-3, rtol=1e-3)


def two_transformers(folder, **options):
    return CASES["wan of two"].policy(folder, draws=3, **options)


@pytest.mark.parametrize("lora_rank", [None, 2])
def test_each_of_two_transformers_trains_at_its_own_times(lora_rank, tmp_path):
    """From 0.8 of the time up the first does; rows together score as rows alone do."""
    policy = two_transformers(tmp_path, lora_rank=lora_rank)
    videos = Samples(PROMPTS, pictures(CASES["wan of two"]))
    for seed in range(9):  # until a batch has times on both sides
        trajectory = policy.encode(videos, seeds=row_seeds(seed, 2))
        noisy = trajectory.tensors["time"] >= 800
        if noisy.any() and not noisy.all():
            break
    conditions = policy.conditions(PROMPTS[:1], guided=False)
    pipeline = policy.pipeline
    for draw in range(3):
        x = trajectory.tensors["x"][:1, draw]
        time = trajectory.tensors["time"][:1, draw]
        denoiser = pipeline.transformer if noisy[0, draw] else pipeline.transformer_2
        alone = denoiser(x, timestep=time, **conditions.cond, return_dict=False)[0]
        assert_close(policy.predict(x, time, conditions), alone)
    output = policy.denoisings(trajectory).output
    parts = {"transformer.": noisy, "transformer_2.": ~noisy}
    for prefix, rows in parts.items():
        named = list(policy.denoiser.named_parameters())
        trained = [(name, weight) for name, weight in named if weight.requires_grad]
        loss = output[rows].square().sum()
        grads = torch.autograd.grad(
            loss, [weight for _, weight in trained], allow_unused=True, retain_graph=True
        )
        moved = {
            name.partition(".")[0] + "."
            for (name, _), gradient in zip(trained, grads, strict=True)
            if gradient is not None and gradient.any()
        }
        assert moved == {prefix}


@pytest.mark.parametrize("lora_rank", [None, 2])
def test_two_transformers_are_saved_each_with_its_own_weights(lora_rank, tmp_path):
    from diffusers import WanPipeline

    policy = two_transformers(tmp_path / "words", lora_rank=lora_rank)
    names = [name for name, weight in policy.denoiser.named_parameters() if weight.requires_grad]
    assert {name.partition(".")[0] for name in names} == {"transformer", "transformer_2"}
    with torch.no_grad():
        for number, name in enumerate(names):
            policy.denoiser.get_parameter(name).add_(0.01 if number % 2 else 0.02)
    policy.save_pretrained(tmp_path / "policy")
    own = WanPipeline.from_pretrained(str(tmp_path / "policy"), local_files_only=True)
    assert own.config.boundary_ratio == 0.8
    case = CASES["wan of two"]
    expected = case.own_call(own, normal(policy.shape, generators(SEEDS)), 1.0)
    drawn = policy.generate(PROMPTS, seeds=SEEDS).outputs
    assert_close(drawn, expected, atol=1e-4, rtol=1e-3)


@pytest.mark.parametrize("part", ["transformer", "transformer_2"])
def test_a_lost_weight_of_either_transformer_is_seen_at_saving(part, tmp_path, monkeypatch):
    policy = two_transformers(tmp_path / "words")
    original = getattr(policy.pipeline, part)
    changed = type(original).from_config(original.config)
    kind = type(policy.pipeline)
    save = kind.save_pretrained

    def damaged(pipeline, folder):
        pipeline.register_modules(**{part: changed})
        save(pipeline, folder)

    monkeypatch.setattr(kind, "save_pretrained", damaged)
    with pytest.raises(InputError, match="what is loaded from it is not the policy"):
        policy.save_pretrained(tmp_path / "policy")


@pytest.mark.parametrize("name", ["flux dev", "qwen-image"], indirect=True)
def test_texts_own_layers_get_an_adapter(name, tmp_path):
    names = [key for key, _ in make(name, tmp_path).denoiser.named_parameters() if "lora_A" in key]
    for layer in ("to_q", "to_out.0", "add_q_proj", "add_k_proj", "add_v_proj", "to_add_out"):
        assert any(f".{layer}.lora_A" in key for key in names), layer


@pytest.mark.parametrize("name", ["wan", "ltx", "cogvideox", "animatediff"], indirect=True)
def test_a_video_of_one_frame(name, tmp_path):
    case = CASES[name]
    policy = DiffusionPolicy(
        case.make(tmp_path), sampler=Sampler(steps=2, eta=0.0), size=case.size, frames=1
    )
    videos = policy.generate(PROMPTS, seeds=SEEDS)
    assert videos.outputs.shape == (2, 1, 3, *case.size)
    trajectory = policy.encode(videos, seeds=SEEDS)
    assert trajectory.tensors["final"].shape == (2, *policy.shape)
    assert policy.log_prob(trajectory).isfinite().all()


def test_pictures_of_another_kind_are_refused(name, tmp_path):
    policy = make(name, tmp_path)
    right = pictures(CASES[name])
    other = right[:, None] if right.dim() == 4 else right[:, 0]
    with pytest.raises(InputError, match="Was the data made for another model"):
        policy.encode(Samples(PROMPTS, other), seeds=SEEDS)


@pytest.mark.parametrize(
    ("name", "frames"),
    [("wan", 6), ("wan", 8), ("ltx", 16), ("cogvideox", 10), ("animatediff", 2)],
    indirect=["name"],
)
def test_a_video_of_more_or_less_frames_is_refused(name, frames, tmp_path):
    """Autoencoders leave out frames that fill no latent, and the latents' shape is the same."""
    case = CASES[name]
    videos = torch.rand(len(PROMPTS), frames, 3, *case.size)
    message = f"makes videos of {case.frames} frames; got {frames}"
    with pytest.raises(InputError, match=message):
        make(name, tmp_path).encode(Samples(PROMPTS, videos), seeds=SEEDS)


def test_frames_that_an_autoencoder_does_not_read_are_refused(tmp_path):
    """Wan's reads by fours though it halves the time: of 3 frames it leaves out 2."""
    vae = AutoencoderKLWan(
        base_dim=4,
        z_dim=4,
        dim_mult=[1, 1, 1, 1],
        num_res_blocks=1,
        temperal_downsample=[False, False, True],
        scale_factor_temporal=2,
        latents_mean=[0.0] * 4,
        latents_std=[1.0] * 4,
    )
    pipeline = tiny_videos.tiny_wan(tmp_path, autoencoder=vae)
    policy = DiffusionPolicy(pipeline, size=(32, 48), frames=3, sampler=Sampler(steps=1, eta=0.0))
    videos = policy.generate(PROMPTS, seeds=SEEDS)
    assert videos.outputs.shape[1] == 3
    with pytest.raises(InputError, match=r"\[3, 3, 32, 48\], becomes \[4, 1, 4, 6\]"):
        policy.encode(videos, seeds=SEEDS)


def test_the_callers_prompts_stay_as_they_are(tmp_path):
    """Z-Image's own call writes its chat template into the list that it is given."""
    prompts = list(PROMPTS)
    make("z-image", tmp_path).family.encode(prompts, torch.device("cpu"))
    assert prompts == PROMPTS


@pytest.mark.filterwarnings(EQUALITY.NUMPY)
@pytest.mark.filterwarnings("ignore:Mismatch dtype between input and weight")  # of torch
@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_half_precision(name, dtype, tmp_path):
    case = CASES[name]
    sampler = Sampler(steps=3, eta=0.0)
    expected = case.policy(tmp_path).generate(PROMPTS, seeds=SEEDS).outputs
    policy = DiffusionPolicy(
        case.make(tmp_path),
        sampler=sampler,
        dtype=dtype,
        lora_rank=2,
        size=case.size,
        frames=case.frames,
    )
    drawn = policy.generate(PROMPTS, seeds=SEEDS).outputs
    assert drawn.dtype == torch.float32
    assert_close(drawn, expected, atol=0.15, rtol=0)


class OfFamily(PolicyConformance):
    """The laws of every policy, for a pipeline whose latents are packed, or are videos."""

    family = ""
    prompts = ("a cat", "a dog in a park", "")
    noise = ()
    atol = 1e-3
    log_prob_atol = 1e-3

    @pytest.fixture(autouse=True)
    def _folder(self, tmp_path):
        self.folder = tmp_path

    def make(self):
        return make(self.family, self.folder / "tokenizer")


class TestFlux(OfFamily):
    family = "flux dev"


class TestQwenImage(OfFamily):
    family = "qwen-image"


class TestZImage(OfFamily):
    family = "z-image"


class TestWan(OfFamily):
    family = "wan"


class TestWanOfTwo(OfFamily):
    family = "wan of two"


class TestAnimateDiff(OfFamily):
    family = "animatediff"


class Brightness(Reward):
    """The mean of a video's pixels."""

    def forward(self, samples):
        return samples.outputs.flatten(1).mean(1)


def trainer():
    return pytorch_lightning.Trainer(
        max_steps=1,
        limit_val_batches=0,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
    )


@pytest.mark.parametrize("name", ["wan", "wan of two", "animatediff", "flux dev"], indirect=True)
def test_the_loops_take_a_step(name, tmp_path):
    """SFT, DPO and PPO of a Trainer, on pictures and videos."""
    case = CASES[name]
    rows = Samples(PROMPTS, pictures(case))
    pairs = PreferencePairs(rows, Samples(PROMPTS, 1 - pictures(case)))
    loops = [
        (SFT(make(name, tmp_path)), SamplesData(rows, batch_size=2)),
        (DPO(make(name, tmp_path)), Preferences(pairs, held_out=0, batch_size=2)),
        (PPO(make(name, tmp_path), Brightness(), samples_per_prompt=2), Prompts(PROMPTS)),
    ]
    for module, data in loops:
        trained = [weight for weight in module.policy.parameters() if weight.requires_grad]
        before = [weight.clone() for weight in trained]
        trainer().fit(module, data)
        moved = [not torch.equal(*pair) for pair in zip(before, trained, strict=True)]
        assert any(moved), type(module).__name__
        assert all(weight.isfinite().all() for weight in trained)
