"""linear_loss with Triton's steps on its tiles, interpreted on a CPU. Run by
tests/kernels/test_interpreted.py.
"""

from __future__ import annotations

import pytest
import torch

from rewardlab.kernels.linear_log_prob.reference import reference
from rewardlab.kernels.policy_loss import linear_loss


def operands(dtype, bias):
    random = torch.Generator().manual_seed(0)
    hidden = torch.randn(12, 8, generator=random).to(dtype).requires_grad_()
    weight = torch.randn(150, 8, generator=random).to(dtype).requires_grad_()
    targets = torch.randint(150, (12,), generator=random)
    given = {"bias": torch.randn(150, generator=random).requires_grad_()} if bias else {}
    return hidden, weight, targets, given


def loss(log_prob, entropy, rows):
    """A third of the rows has no gradient, the entropy's included."""
    weights = torch.linspace(-1, 1, 12, dtype=log_prob.dtype)[rows] * (rows % 3 > 0)
    return (weights * (0.1 * log_prob).exp()).sum() + (
        0.0 if entropy is None else (weights * entropy).sum()
    )


@pytest.mark.parametrize(
    "options", [{}, {"temperature": 0.7, "softcap": 5.0}], ids=["plain", "curved"]
)
@pytest.mark.parametrize("entropy", [False, True])
@pytest.mark.parametrize(
    ("dtype", "limit"), [(torch.float32, 1e-6), (torch.bfloat16, 3e-3)], ids=str
)
def test_it_is_float64s(dtype, limit, entropy, options):
    hidden, weight, targets, given = operands(dtype, bool(options))
    mask, inputs = torch.arange(12) != 4, [hidden, weight, *given.values()]
    value, scored = linear_loss(
        hidden,
        weight,
        targets,
        loss,
        mask=mask,
        entropy=entropy,
        rows=5,
        backend="triton",
        **options,
        **given,
    )
    ours = torch.autograd.grad(value, inputs)
    copies = [x.detach().double().requires_grad_() for x in inputs]
    bias = copies[2] if given else None
    log_prob, _, spread = reference(copies[0], copies[1], targets, bias, entropy=entropy, **options)
    expected = loss(log_prob[mask], spread[mask] if entropy else None, mask.nonzero()[:, 0])
    theirs = torch.autograd.grad(expected, copies)
    assert abs(value.item() - expected.item()) < 1e-5
    assert (scored.log_prob[mask].double() - log_prob[mask]).abs().max() < 1e-5
    for one, other, operand in zip(ours, theirs, inputs, strict=True):
        assert one.dtype == operand.dtype
        assert ((one.double() - other).norm() / other.norm()).item() < limit
