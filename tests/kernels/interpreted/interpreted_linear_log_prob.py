"""The Triton kernels of linear_log_prob against float64, interpreted on a CPU. Run by
tests/kernels/test_interpreted.py.
"""

from __future__ import annotations

import pytest
import torch
from torch.testing import assert_close

from rewardlab.kernels import linear_log_prob
from rewardlab.kernels.linear_log_prob import chunked, hindrances, triton
from rewardlab.kernels.linear_log_prob.eager import Curve, Statistics, Upstream
from rewardlab.kernels.linear_log_prob.reference import reference
from rewardlab.kernels.linear_log_prob.triton_fused import Shape, _dense, fused

SHAPES = {"ragged": (70, 40, 601), "one": (1, 1, 1), "none": (0, 5, 7), "word": (3, 16, 300)}
OPTIONS = {
    "plain": {},
    "all": {"temperature": 0.7, "softcap": 5.0, "bias": True},
    "bias": {"bias": True},
}


@pytest.fixture(autouse=True)
def poisoned(monkeypatch):
    """Fresh memory holds NaN, so what a kernel forgets to write is seen."""

    def empty(*arguments, made=torch.empty, **options):
        fresh = made(*arguments, **options)
        return fresh.fill_(torch.nan) if fresh.is_floating_point() else fresh

    monkeypatch.setattr(torch, "empty", empty)
    assert torch.empty(1).isnan()


def operands(rows, width, words, dtype, options, spread=3.0):
    random = torch.Generator().manual_seed(0)
    hidden = torch.randn(rows, width, generator=random).to(dtype)
    weight = (torch.randn(words, width, generator=random) * spread / width**0.5).to(dtype)
    targets = torch.randint(words, (rows,), generator=random)
    targets[-1:] = words - 1
    options = dict(options)
    if options.pop("bias", False):
        options["bias"] = torch.randn(words, generator=random)
    return hidden, weight, targets, options


def exact(hidden, weight, targets, bias=None, **options):
    bias = None if bias is None else bias.double()
    return reference(hidden.double(), weight.double(), targets, bias, entropy=True, **options)


def relative(ours, expected):
    return ((ours.double() - expected).norm() / expected.norm().clamp_min(1e-30)).item()


FORMS = {
    "tiles": (torch.float32, False),
    "fused": (torch.float32, True),
    "bf16": (torch.bfloat16, True),
    "fp16": (torch.float16, True),
}


@pytest.mark.parametrize(("dtype", "batch_invariant"), FORMS.values(), ids=FORMS)
@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
def test_values_are_float64s(shape, options, dtype, batch_invariant):
    """On tiles it is a library that takes the products, so that their type is its own affair."""
    hidden, weight, targets, options = operands(*shape, dtype, options)
    ours = linear_log_prob(
        hidden,
        weight,
        targets,
        entropy=True,
        batch_invariant=batch_invariant,
        backend="triton",
        budget=2**18,
        **options,
    )
    for value, expected in zip(ours, exact(hidden, weight, targets, **options), strict=True):
        assert value.dtype == torch.float32
        assert_close(value.double(), expected, atol=1e-5, rtol=0)
    plain = linear_log_prob(
        hidden, weight, targets, batch_invariant=batch_invariant, backend="triton", **options
    )
    assert_close(plain.log_prob, ours.log_prob, atol=2e-6, rtol=0)
    assert plain.entropy is None


@pytest.mark.parametrize(
    ("dtype", "limit"), [(torch.float32, 1e-6), (torch.bfloat16, 3e-3)], ids=str
)
@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
def test_gradients_are_float64s(options, dtype, limit):
    hidden, weight, targets, options = operands(20, 40, 1001, dtype, options)
    bias = [options["bias"].requires_grad_()] if "bias" in options else []
    inputs = [hidden.requires_grad_(), weight.requires_grad_(), *bias]
    upstream = [torch.randn(20, generator=torch.Generator().manual_seed(seed)) for seed in range(3)]
    ours = linear_log_prob(
        hidden, weight, targets, entropy=True, backend="triton", budget=2**18, **options
    )
    ours = torch.autograd.grad(list(ours), inputs, upstream)
    copies = [tensor.detach().double().requires_grad_() for tensor in inputs]
    given = options | dict(zip(["bias"], copies[2:], strict=False))
    expected = exact(copies[0], copies[1], targets, **given)
    expected = torch.autograd.grad(list(expected), copies, [each.double() for each in upstream])
    for one, other, operand in zip(ours, expected, inputs, strict=True):
        assert one.dtype == operand.dtype
        assert relative(one, other) < limit


@pytest.mark.parametrize("batch_invariant", [False, True])
def test_views_with_gaps_are_read_as_what_they_are(batch_invariant):
    """Every other target; rows that lie 515 numbers apart, which is no multiple of 16 bytes, and
    one such row alone.
    """
    hidden, weight, targets, _ = operands(70, 512, 301, torch.bfloat16, {})
    wide = torch.full((70, 515), torch.nan, dtype=torch.bfloat16)
    wide[:, :512] = hidden
    between = torch.stack([targets, targets - 1], 1).clamp_min(0)[:, 0]
    options = {
        "entropy": True,
        "batch_invariant": batch_invariant,
        "backend": "triton",
        "budget": 2**18,
    }
    whole = linear_log_prob(hidden, weight, targets, **options)
    for rows in (slice(None), slice(0, 1)):
        ours = linear_log_prob(wide[rows, :512], weight, between[rows], **options)
        for value, expected in zip(ours, whole, strict=True):
            assert_close(value, expected[rows], atol=5e-6, rtol=0)
    view = _dense(wide[:1, :512])
    assert view.stride(0) == 512
    assert _dense(wide[:, :99]).data_ptr() == wide.data_ptr(), (
        "rows that the copy engine cannot take stay where they are"
    )


@pytest.mark.parametrize("tma", [False, True], ids=["pointers", "copy engine"])
@pytest.mark.parametrize("words", [1, 255, 4096 + 300], ids=str)
def test_the_fused_shape_for_hopper(tma, words):
    """Its tile of 128 by 256, the last one ragged, over two splits; D of 64 + 8."""
    hidden, weight, targets, _ = operands(130, 72, words, torch.bfloat16, {})
    curve, running = Curve(None, 1.0, None), chunked.start(hidden, weight, targets, True)
    fused(hidden, weight, targets, curve, running, Shape(128, 256, 64, 8, 3, tma))
    *values, known = chunked.finish(running)
    for value, expected in zip(values, exact(hidden, weight, targets), strict=True):
        assert_close(value.double(), expected, atol=1e-5, rtol=0)
    assert_close(
        known.peak.double(), (hidden.double() @ weight.double().T).amax(1), atol=1e-5, rtol=0
    )


def test_only_the_rows_that_count_get_a_gradient():
    hidden, weight, targets, options = operands(12, 8, 300, torch.float32, {"bias": True})
    curve = Curve(options["bias"], 1.0, None)
    *_, known = chunked.forward(hidden, weight, targets, curve, True, 2**19, "triton")
    upstream = Upstream(torch.linspace(-1, 1, 12), None, torch.linspace(2, 1, 12))
    products, rows = hidden @ weight.T, torch.tensor([1, 4, 11])
    some = triton.gradient(products, curve, targets, 0, known, upstream, rows, torch.float32)
    whole = triton.gradient(products, curve, targets, 0, known, upstream, None, torch.float32)
    assert torch.equal(some, whole[rows])
    assert whole.data_ptr() == products.data_ptr(), "in the tile's own memory"
    assert triton.gradient(
        products, curve, targets, 0, known, upstream, rows[:0], torch.float32
    ).shape == (0, 300)


def test_forbidden_words_have_no_share_and_leave_finite_gradients():
    hidden, weight, targets, _ = operands(2, 8, 9000, torch.float32, {})
    bias = torch.zeros(9000)
    bias[:5000] = -torch.inf  # a whole split of the fused kernel among them
    targets = targets.clamp_min(5000)
    for batch_invariant in (False, True):
        ours = linear_log_prob(
            hidden.requires_grad_(),
            weight.requires_grad_(),
            targets,
            bias=bias,
            entropy=True,
            backend="triton",
            batch_invariant=batch_invariant,
        )
        for value, expected in zip(ours, exact(hidden, weight, targets, bias), strict=True):
            assert_close(value.double(), expected, atol=1e-5, rtol=0)
        gradients = torch.autograd.grad(list(ours), [hidden, weight], [torch.ones(2)] * 3)
        assert all(each.isfinite().all() for each in gradients)
        assert (gradients[1][:5000] == 0).all()


@pytest.mark.filterwarnings("ignore:All-NaN slice")  # NumPy's word on it
@pytest.mark.parametrize("batch_invariant", [False, True])
def test_nan_stays_in_its_row(batch_invariant):
    hidden, weight, targets, _ = operands(5, 8, 300, torch.float32, {})
    hidden[2] = torch.nan
    ours = linear_log_prob(
        hidden, weight, targets, entropy=True, backend="triton", batch_invariant=batch_invariant
    )
    assert all(value.isnan().tolist() == [False, False, True, False, False] for value in ours)


def test_the_soft_caps_tanh_near_zero_and_far_from_it():
    """Of products from 1e-6 to 1e4, within 3e-7 of itself."""
    products = torch.logspace(-6, 4, 500)[None].repeat(2, 1)
    products[1] *= -1
    curve, targets = Curve(None, 1.0, 30.0), torch.zeros(2, dtype=torch.long)
    slopes = torch.zeros(500)
    for index in (0, 100, 200, 300, 350, 400, 499):
        running = chunked.start(products, torch.empty(500, 500), targets + index, False)
        triton.add(products, curve, targets + index, 0, running)
        slopes[index] = running.score[0]
        expected = 30 * torch.tanh(products[:, index].double() / 30)
        assert_close(running.score.double(), expected, rtol=4e-7, atol=0)
    assert slopes[499] == 30


def test_float64_is_not_for_these_kernels():
    assert "float64" in hindrances(torch.eye(2).double(), torch.eye(2).double())["triton"]
    assert hindrances(torch.eye(2), torch.eye(2))["triton"] == ""
    assert Statistics._fields == ("peak", "log_mass", "mean"), (
        "the order in which the kernel takes them"
    )
