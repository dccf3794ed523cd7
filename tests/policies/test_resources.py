"""Where encoders are, what is kept of prompts and pictures: memory changes, and no picture does."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import pytorch_lightning as pl
import torch
from torch import nn
from torch.testing import assert_close

from rewardlab.data import PairsData, SamplesData
from rewardlab.errors import InputError
from rewardlab.networks.float8 import Float8Linear
from rewardlab.planning.live import LiveBytes, bytes_of
from rewardlab.policies import DiffusionPolicy, load_policy
from rewardlab.policies.bounded import BoundedTable
from rewardlab.policies.frugal_autoencoder import FrugalAutoencoder
from rewardlab.policies.resources import Resources
from rewardlab.policies.samplers import Sampler
from rewardlab.seeds import row_seeds
from rewardlab.testing import tiny_diffusion, tiny_stable_diffusion, tiny_stable_diffusion_xl
from rewardlab.testing.tiny_pipelines import tiny_flux, tiny_qwen_image, tiny_stable_diffusion_3
from rewardlab.testing.tiny_videos import tiny_wan
from rewardlab.training import DPO, SFT
from rewardlab.training.trainers import SILENT
from rewardlab.types import PreferencePairs, Samples

PROMPTS = ["a cat", "a dog", "a cat"]
SEEDS = row_seeds(1, 3)
STILL = Sampler(steps=2, eta=0.0, guidance=3.0)
MAKERS = {
    "sd": (tiny_stable_diffusion, {}),
    "sdxl": (tiny_stable_diffusion_xl, {}),
    "sd3": (tiny_stable_diffusion_3, {}),
    "flux": (tiny_flux, {"size": 16}),
    "qwen": (tiny_qwen_image, {"size": 16}),
    "wan": (tiny_wan, {"size": 16, "frames": 5}),
}


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """Return the folder of each family's tiny pipeline."""
    saved = {}
    for name, (make, _) in MAKERS.items():
        folder = tmp_path_factory.mktemp(name)
        make(folder / "tokenizer").save_pretrained(folder / "pipeline")
        saved[name] = folder / "pipeline"
    return saved


def made(folders, name, **settings):
    options = {"sampler": STILL, **MAKERS[name][1], **settings}
    return DiffusionPolicy(folders[name], **options)


def drawn(policy):
    return policy.generate(PROMPTS, seeds=SEEDS).outputs


@pytest.mark.parametrize("name", MAKERS)
def test_equal_seeds_give_equal_pictures_whatever_is_spared(folders, name):
    plain = made(folders, name)
    expected = drawn(plain)
    samples = Samples(PROMPTS, expected.clone())
    encoded = plain.encode(samples, seeds=SEEDS).tensors
    spared = [
        Resources(encoders="offload", prompts=0.0),
        Resources(encoders="host"),
        Resources(encoders="free", latents=0.1),
        Resources(autoencoder_rows=1),
    ]
    for resources in spared:
        policy = made(folders, name, resources=resources)
        for _ in range(2):  # the second time from what is kept
            assert_close(drawn(policy), expected, atol=1e-5, rtol=0, msg=str(resources))
            again = policy.encode(samples, seeds=SEEDS).tensors
            assert_close(again["x"], encoded["x"], atol=1e-4, rtol=1e-4, msg=str(resources))


def calls_of(network, monkeypatch, method="forward"):
    """Return a list that grows with each call of a network's method."""
    calls = []
    function = getattr(network, method)

    def counted(*args, **options):
        calls.append(args)
        return function(*args, **options)

    monkeypatch.setattr(network, method, counted)
    return calls


def test_a_prompt_is_read_once_and_alone(folders, monkeypatch):
    policy = made(folders, "sd")
    calls = calls_of(policy.pipeline.text_encoder, monkeypatch)
    first = policy.conditions(PROMPTS, guided=True)
    assert len(calls) == 3  # two prompts and the negative one
    again = policy.conditions(PROMPTS[::-1], guided=True)
    assert len(calls) == 3
    assert_close(again.cond["encoder_hidden_states"], first.cond["encoder_hidden_states"])
    alone = policy.conditions(["a dog"], guided=False).cond["encoder_hidden_states"]
    assert torch.equal(alone[0], first.cond["encoder_hidden_states"][1])


def test_the_table_of_prompts_is_bounded(folders, monkeypatch, caplog):
    one = 77 * 32 * 4 / 2**30  # a prompt of the tiny text encoder, in GiB
    policy = made(folders, "sd", resources=Resources(prompts=2.5 * one))
    calls = calls_of(policy.pipeline.text_encoder, monkeypatch)
    policy.conditions(["a", "b", "c"], guided=False)
    assert len(policy.text_encoders.prompts) == 2
    policy.conditions(["b", "a"], guided=False)  # the first stay
    assert len(calls) == 3
    assert not caplog.records
    for _ in range(2):
        policy.conditions(["c"], guided=False)
    assert len(calls) == 5
    [said] = [record.getMessage() for record in caplog.records]
    assert "hold 2 of the encoded prompts; more came again" in said
    assert "Raise resources.prompts" in said


def test_an_epoch_over_twice_as_much_finds_half_and_what_is_stale_gives_way():
    table = BoundedTable(limit=10 * 4)

    def epoch(rows):
        hits = 0
        for row in rows:
            entry = table.get(row)
            hits += entry is not None
            if entry is None:
                table.put(row, {"x": torch.zeros(1)})
        return hits

    epoch(range(20))
    shuffled = torch.randperm(20, generator=torch.Generator().manual_seed(0)).tolist()
    assert [epoch(range(20)), epoch(shuffled)] == [10, 10]
    for _ in range(5):  # other rows, as of a new round
        epoch(range(100, 110))
    assert epoch(range(100, 110)) == 10
    assert len(table) == 10
    assert table.size == 40


@pytest.mark.parametrize("name", ["sd", "wan"])
def test_what_is_kept_is_to_the_bit_what_one_at_a_time_gives(folders, name):
    policy = made(folders, name)
    plain = made(folders, name, resources=Resources(prompts=0.0, latents=0.0, autoencoder_rows=1))
    shape = (3, 5, 3, 16, 16) if name == "wan" else (3, 3, 16, 16)
    pictures = Samples(PROMPTS, torch.rand(shape))
    for epoch, rows in enumerate(([0, 1, 2], [2, 0], [1, 2, 0])):
        seeds = row_seeds(epoch, 3)[rows]
        kept = policy.encode(pictures[rows], seeds=seeds).tensors
        anew = plain.encode(pictures[rows], seeds=seeds).tensors
        assert all(torch.equal(kept[key], anew[key]) for key in anew)


def test_a_changed_weight_of_the_autoencoder_makes_what_is_kept_stale(folders):
    policy = made(folders, "sd")
    picture = Samples([""], torch.rand(1, 3, 16, 16))
    before = policy.encode(picture, seeds=SEEDS[:1]).tensors["final"]
    with torch.no_grad():
        policy.pipeline.vae.quant_conv.weight.mul_(2)
    assert not torch.equal(policy.encode(picture, seeds=SEEDS[:1]).tensors["final"], before)


def _of_data(layer):
    layer.weight.data.mul_(2)


def _with_new_data(layer):
    layer.weight.data = layer.weight.data * 2


def _with_new_weight(layer):
    layer.weight = torch.nn.Parameter(layer.weight.detach() * 2, requires_grad=False)


def _rounded(layer):
    layer.bfloat16().float()


@pytest.mark.parametrize("change", [_of_data, _with_new_data, _with_new_weight, _rounded])
def test_no_change_of_the_autoencoder_leaves_what_was_kept_before(change):
    vae = Pointwise()
    frugal = FrugalAutoencoder(vae, Resources())
    pixels = torch.rand(2, 3, 2, 2)
    with torch.no_grad():
        frugal.encode(pixels)
        change(vae.layer)
        assert torch.equal(frugal.encode(pixels).latents, vae.encode(pixels).latents)


def test_latents_are_kept_for_the_precision_and_the_buffers_that_they_are_of():
    vae = Pointwise()
    frugal = FrugalAutoencoder(vae, Resources())
    pixels = torch.rand(2, 3, 2, 2)
    with torch.no_grad():
        whole = frugal.encode(pixels).latents
        with torch.autocast("cpu", torch.bfloat16):
            rounded = frugal.encode(pixels).latents
        vae.shift.add_(1)
        assert torch.equal(frugal.encode(pixels).latents, whole + 1)
    assert not torch.equal(rounded, whole)


class Pointwise(torch.nn.Module):
    """An autoencoder whose latents are a channel of mixed colors."""

    def __init__(self):
        super().__init__()
        self.layer = torch.nn.Conv2d(3, 1, 1, bias=False)
        self.register_buffer("shift", torch.zeros(1))

    def encode(self, pixels):
        return SimpleNamespace(latents=self.layer(pixels) + self.shift.to(pixels))


@pytest.mark.parametrize("kind", ["SFT", "DPO"])
def test_a_run_is_to_the_bit_that_of_pictures_encoded_in_every_epoch(folders, kind, monkeypatch):
    halves = [Samples(PROMPTS, torch.rand(3, 3, 16, 16)).numbered() for _ in range(2)]
    ends = []
    calls = []
    for resources in (Resources(), Resources(prompts=0.0, latents=0.0, autoencoder_rows=1)):
        policy = made(folders, "sd", resources=resources, lora_rank=2)
        calls.append(calls_of(policy.pipeline.vae, monkeypatch, "encode"))
        loop = SFT(policy) if kind == "SFT" else DPO(policy, beta=100.0)
        data = SamplesData(halves[0], batch_size=2)
        if kind == "DPO":
            data = PairsData(PreferencePairs(*halves), batch_size=2)
        pl.Trainer(max_epochs=3, **SILENT).fit(loop, data)
        ends.append([weight for weight in policy.parameters() if weight.requires_grad])
    assert all(torch.equal(*weights) for weights in zip(*ends, strict=True))
    assert len(calls[1]) == 3 * len(calls[0])


def test_free_encoders_are_in_memory_only_while_they_read(folders, monkeypatch, tmp_path):
    policy = made(folders, "flux", resources=Resources(encoders="free"))
    whole = made(folders, "flux")
    assert policy.pipeline.text_encoder is None
    drawn(policy)
    assert policy.pipeline.text_encoder_2 is None
    text = bytes_of(whole.pipeline.text_encoder) + bytes_of(whole.pipeline.text_encoder_2)
    assert bytes_of(whole) - bytes_of(policy) == text
    policy.save_pretrained(tmp_path / "saved")  # which has the encoders all the same
    assert_close(drawn(load_policy(tmp_path / "saved")), drawn(whole), atol=1e-5, rtol=0)
    with pytest.raises(InputError, match="Give the folder"):
        DiffusionPolicy(tiny_stable_diffusion(tmp_path), resources=Resources(encoders="free"))


@pytest.mark.parametrize(
    ("place", "expected"), [("keep", "meta"), ("offload", "cpu"), ("host", "cpu")]
)
def test_encoders_in_the_hosts_memory_do_not_follow_the_policy(folders, place, expected):
    policy = made(folders, "sd", resources=Resources(encoders=place))
    policy.to("meta")
    weight = next(policy.pipeline.text_encoder.parameters())
    assert weight.device.type == expected
    assert next(policy.pipeline.vae.parameters()).device.type == "meta"


def test_pictures_are_encoded_once_and_drawn_anew(folders, monkeypatch):
    policy = made(folders, "sd", resources=Resources(latents=0.1))
    plain = made(folders, "sd")
    calls = calls_of(policy.pipeline.vae, monkeypatch, "encode")
    pictures = Samples(PROMPTS, torch.rand(3, 3, 16, 16))
    finals = []
    for epoch in range(3):
        seeds = row_seeds(epoch, 3)
        finals.append(policy.encode(pictures, seeds=seeds).tensors["final"])
        expected = plain.encode(pictures, seeds=seeds).tensors["final"]
        assert_close(finals[-1], expected, atol=1e-5, rtol=1e-5)
    assert len(calls) == 3
    assert not torch.allclose(finals[0], finals[1])


@pytest.mark.parametrize("name", ["sd", "wan"])
def test_few_pictures_pass_the_autoencoder_at_once(folders, name):
    peaks = []
    for rows in (None, 1):
        policy = made(folders, name, resources=Resources(autoencoder_rows=rows))
        shape = (8, 5, 3, 16, 16) if name == "wan" else (8, 3, 16, 16)
        pictures = Samples([""] * 8, torch.rand(shape))
        policy.conditions([""], guided=False)
        with torch.no_grad(), LiveBytes() as live:
            trajectory = policy.encode(pictures, seeds=row_seeds(0, 8))
            policy.decode(trajectory)
        peaks.append(live.peak)
    assert peaks[1] < 0.6 * peaks[0]


@pytest.mark.parametrize("name", MAKERS)
def test_weights_beside_an_adapter_have_two_bytes_and_no_copy(folders, name):
    """And a training step makes no float32 copy of them: the weights' bytes are alive once."""
    policy = made(folders, name, dtype="bfloat16", lora_rank=2)
    frozen = [weight for weight in policy.parameters() if not weight.requires_grad]
    trained = [weight for weight in policy.parameters() if weight.requires_grad]
    assert {weight.dtype for weight in trained} == {torch.float32}
    whole = made(folders, name)
    kept = whole.denoiser._keep_in_fp32_modules or ()
    for key, weight in policy.denoiser.named_parameters():
        is_kept = weight.requires_grad or any(part in key for part in kept)
        assert weight.dtype == (torch.float32 if is_kept else torch.bfloat16), key
    assert bytes_of(policy.encoders) <= 0.52 * bytes_of(whole.encoders)
    places = [weight.data_ptr() for weight in frozen]
    trajectory = policy.encode(Samples(PROMPTS, drawn(policy)), seeds=SEEDS)
    assert trajectory.tensors["final"].dtype == torch.float32
    log_probs = policy.log_prob(trajectory)
    assert log_probs.dtype == torch.float32
    log_probs.sum().backward()
    gradients = [weight.grad for weight in trained if weight.grad is not None]
    assert {gradient.dtype for gradient in gradients} == {torch.float32}
    assert [weight.data_ptr() for weight in frozen] == places


@pytest.mark.parametrize("name", ["flux"])
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_a_compiled_denoiser_draws_and_trains_the_same(folders, name):
    plain = made(folders, name, lora_rank=2)
    compiled = made(folders, name, lora_rank=2, resources=Resources(compile="eager"))
    assert_close(drawn(compiled), drawn(plain), atol=1e-5, rtol=0)
    totals = []
    for policy in (plain, compiled):
        trajectory = policy.encode(Samples(PROMPTS, drawn(plain)), seeds=SEEDS)
        policy.log_prob(trajectory).sum().backward()
        weights = [weight for weight in policy.parameters() if weight.requires_grad]
        totals.append(torch.stack([weight.grad.norm() for weight in weights]))
    assert_close(totals[1], totals[0], atol=1e-6, rtol=1e-4)
    assert compiled.resources.backend == "eager"
    assert Resources(compile=True).backend == "inductor"


@pytest.mark.parametrize("name", ["sd", "sdxl", "flux", "qwen", "wan"])
def test_what_is_trained_small_is_looked_at_large(folders, name):
    policy = made(folders, name)
    size = 32
    frames = MAKERS[name][1].get("frames")
    large = policy.with_size(size, frames)
    assert drawn(large).shape[-2:] == (size, size)
    assert large.denoiser is policy.denoiser
    expected = drawn(made(folders, name, size=size))
    assert_close(drawn(large), expected, atol=1e-5, rtol=0)
    looking = made(folders, name, sampler=Sampler(steps=2, eta=0.0, guidance=3.0, size=size))
    assert_close(drawn(looking), expected, atol=1e-5, rtol=0)
    assert looking.shape == policy.shape  # by which it trains
    assert drawn(policy).shape[-1] == 16


@pytest.mark.parametrize("name", ["sd3", "flux"])
def test_frozen_layers_in_eight_bits_train_and_are_saved_whole(folders, name, tmp_path):
    plain = made(folders, name, lora_rank=2)
    policy = made(folders, name, lora_rank=2, resources=Resources(storage="float8"))
    layers = [layer for layer in policy.denoiser.modules() if isinstance(layer, Float8Linear)]
    assert layers
    assert bytes_of(policy.denoiser) < 0.6 * bytes_of(plain.denoiser)
    samples = Samples(PROMPTS, drawn(plain))
    gradients = []
    for each in (plain, policy):
        each.log_prob(each.encode(samples, seeds=SEEDS)).sum().backward()
        weights = [weight for weight in each.parameters() if weight.requires_grad]
        assert {weight.dtype for weight in weights} == {torch.float32}
        gradients.append(torch.cat([weight.grad.flatten() for weight in weights]))
    assert torch.cosine_similarity(*gradients, dim=0) > 0.9
    policy.save_pretrained(tmp_path / "saved")
    saved = DiffusionPolicy(tmp_path / "saved").denoiser.state_dict()
    for key, weight in made(folders, name).denoiser.state_dict().items():
        assert_close(saved[key], weight, atol=0, rtol=0)  # the adapter starts as the identity


def test_an_eight_bit_layer_is_its_rounded_weight():
    """Against the product with the weight that the bits and scales stand for."""
    layer = nn.Linear(64, 32)
    stored = Float8Linear(layer)
    weight = stored.weight.float() * stored.scale
    assert ((weight - layer.weight).abs() <= 0.07 * layer.weight.abs() + 1e-3).all()
    x = torch.randn(5, 64, requires_grad=True)
    y = stored(x)
    assert_close(y, x @ weight.T + layer.bias)
    (gradient,) = torch.autograd.grad(y.square().sum(), x)
    assert_close(gradient, 2 * y.detach() @ weight)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"encoders": "gone"}, "encoders is one of keep, offload, host, free"),
        ({"prompts": -1.0}, "0 or more"),
        ({"autoencoder_rows": 0}, "autoencoder_rows is 1 or more"),
        ({"storage": "int4"}, "storage is dtype or float8"),
    ],
)
def test_settings_that_there_are_not_are_refused(settings, message):
    with pytest.raises(InputError, match=message):
        Resources(**settings)


def test_eight_bits_of_trained_weights_are_refused(folders, tmp_path):
    with pytest.raises(InputError, match="Give lora_rank"):
        made(folders, "sd", resources=Resources(storage="float8"))
    with pytest.raises(InputError, match="Give its folder"):
        DiffusionPolicy(
            tiny_diffusion(classes=0, channels=3),
            lora_rank=2,
            resources=Resources(storage="float8"),
        )
