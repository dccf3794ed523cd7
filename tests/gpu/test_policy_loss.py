"""linear_loss on a CUDA device, against float64; see test_linear_log_prob.py beside it."""

from __future__ import annotations

import pytest
import torch

from rewardlab.kernels.linear_log_prob.reference import reference
from rewardlab.kernels.policy_loss import linear_loss

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")

TYPES = {torch.float32: 1e-5, torch.bfloat16: 3e-3, torch.float16: 1e-3}
OPTIONS = {"plain": {}, "curved": {"temperature": 0.7, "softcap": 30.0, "bias": True}}


@pytest.fixture(autouse=True)
def poisoned():
    """Fill memory that comes next with NaN, so that what a kernel forgets to write is seen."""
    torch.cuda.empty_cache()
    torch.full((2**28,), torch.nan, device="cuda")
    torch.cuda.synchronize()


def operands(rows, width, words, dtype, bias):
    random = torch.Generator("cuda").manual_seed(0)
    hidden = torch.randn(rows, width, generator=random, device="cuda").to(dtype).requires_grad_()
    weight = (
        (torch.randn(words, width, generator=random, device="cuda") * 3 / width**0.5)
        .to(dtype)
        .requires_grad_()
    )
    targets = torch.randint(words, (rows,), generator=random, device="cuda")
    given = {"bias": torch.randn(words, generator=random, device="cuda")} if bias else {}
    return hidden, weight, targets, given


def loss(log_prob, entropy, rows):
    """Two thirds of the rows count."""
    weights = torch.linspace(-1, 1, 1000, dtype=log_prob.dtype, device="cuda")[rows] * (
        rows % 3 > 0
    )
    return (weights * (0.1 * log_prob).exp()).sum() + (
        0.0 if entropy is None else (weights * entropy).sum()
    )


@pytest.mark.parametrize("backend", ["torch", "triton"])
@pytest.mark.parametrize("entropy", [False, True])
@pytest.mark.parametrize("dtype", TYPES, ids=str)
@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
@pytest.mark.parametrize(
    "shape", [(1, 8, 1), (300, 96, 5000), (257, 99, 32771), (0, 5, 7)], ids=str
)
def test_it_is_float64s(shape, options, dtype, entropy, backend):
    options = dict(options)
    hidden, weight, targets, given = operands(*shape, dtype, options.pop("bias", False))
    mask, inputs = torch.arange(shape[0], device="cuda") % 5 != 3, [hidden, weight]
    value, _ = linear_loss(
        hidden,
        weight,
        targets,
        loss,
        mask=mask,
        entropy=entropy,
        rows=100,
        backend=backend,
        **options,
        **given,
    )
    ours = torch.autograd.grad(value, inputs)
    copies = [x.detach().double().requires_grad_() for x in inputs]
    bias = given["bias"].double() if given else None
    log_prob, _, spread = reference(*copies, targets, bias, entropy=entropy, **options)
    expected = loss(log_prob[mask], spread[mask] if entropy else None, mask.nonzero()[:, 0])
    theirs = torch.autograd.grad(expected, copies)
    assert abs(value.item() - expected.item()) < 1e-5 * max(1, shape[0] / 10)
    for one, other in zip(ours, theirs, strict=True):
        assert one.dtype == dtype
        limit = (
            1e-2 if shape[2] == 1 else TYPES[dtype]
        )  # rounded twice, the one number that is there
        assert ((one.double() - other).norm() <= limit * other.norm()).item()


@pytest.mark.parametrize("backend", ["torch", "triton"])
def test_it_repeats_itself_to_the_bit(backend):
    hidden, weight, targets, _ = operands(700, 512, 32771, torch.bfloat16, False)
    runs = []
    for _ in range(3):
        value, _ = linear_loss(
            hidden, weight, targets, loss, entropy=True, rows=200, backend=backend
        )
        runs.append([value, *torch.autograd.grad(value, [hidden, weight])])
    assert all(
        torch.equal(one, other) for run in runs[1:] for one, other in zip(runs[0], run, strict=True)
    )


def test_offsets_past_32_bits():
    """A tile of more than 2^31 numbers."""
    rows, words = 900, 2**22
    hidden = torch.randn(rows, 16, device="cuda").bfloat16().requires_grad_()
    weight = torch.randn(words, 16, device="cuda").bfloat16()
    targets = torch.randint(words, (rows,), device="cuda")
    found = []
    for size in (rows, 100):
        value, scored = linear_loss(
            hidden,
            weight,
            targets,
            lambda log_prob, *_: log_prob.sum(),
            rows=size,
            backend="triton",
        )
        found.append([scored.log_prob, torch.autograd.grad(value, hidden)[0].float()])
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other, atol=2e-2, rtol=2e-2)
    torch.testing.assert_close(found[0][0], found[1][0], atol=1e-5, rtol=0)
