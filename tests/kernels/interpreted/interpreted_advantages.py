"""The Triton kernel of generalised advantages, interpreted, against the loop in float64."""

from __future__ import annotations

import pytest
import torch
from torch.testing import assert_close

from rewardlab.kernels import generalized_advantages
from rewardlab.kernels.advantages import hindrances
from rewardlab.kernels.advantages.reference import reference

SHAPES = [
    (1, 1),
    (33, 16),
    (3, 17),
    (3, 255),
    (2, 2100),
]  # every configuration of the scan, and a third block


@pytest.fixture(autouse=True)
def poisoned(monkeypatch):
    """Whatever torch.empty gives holds NaN, so that what a kernel does not write shows."""
    empty = torch.empty
    monkeypatch.setattr(
        torch, "empty", lambda *size, **options: empty(*size, **options).fill_(float("nan"))
    )


def drawn(rows, steps, hole=0.3):
    """Rewards, values and a mask with holes; what does not count is NaN."""
    random = torch.Generator().manual_seed(0)
    mask = torch.rand(rows, steps, generator=random) > hole
    return (
        *(torch.randn(rows, steps, generator=random).where(mask, torch.nan) for _ in range(2)),
        mask,
    )


def check(operands, discount, lam, ends=None):
    found = generalized_advantages(
        *operands, discount=discount, lam=lam, ends=ends, backend="triton"
    )
    rewards, values, mask = operands
    for ours, expected in zip(
        found, reference(rewards.double(), values.double(), mask, discount, lam, ends), strict=True
    ):
        assert ours.dtype == torch.float32
        assert_close(ours.double(), expected, atol=2e-5, rtol=1e-5)


def test_it_is_the_one_that_runs_here():
    empty = torch.zeros(1, 1)
    assert next(iter(hindrances(empty, empty).items())) == ("triton", "")
    assert hindrances(empty.double(), empty)["triton"]


@pytest.mark.parametrize(("discount", "lam"), [(1.0, 0.95), (0.9, 0.0)])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_they_are_float64s(shape, discount, lam):
    operands = drawn(*shape)
    check(operands, discount, lam)
    check(
        operands, discount, lam, torch.rand(shape, generator=torch.Generator().manual_seed(3)) < 0.1
    )


def test_views_rows_without_a_step_and_nan():
    rewards, values, mask = drawn(6, 40)
    mask[2] = False
    for part in (lambda x: x[::2], lambda x: x[:, 3:33], lambda x: x.T):
        check([part(x) for x in (rewards, values, mask)], 0.9, 0.8)
    check([rewards, values.T.contiguous().T, mask], 0.9, 0.8, mask.T.contiguous().T)
    rewards, values, mask = (
        rewards.nan_to_num()[:1],
        values.nan_to_num()[:1],
        torch.ones(1, 40, dtype=torch.bool),
    )
    rewards[0, 20] = torch.nan
    advantages, _ = generalized_advantages(
        rewards, values, mask, discount=0.9, lam=0.8, backend="triton"
    )
    assert advantages[0].isnan().tolist() == [step <= 20 for step in range(40)]


def test_gradients():
    rewards, values, mask = drawn(4, 50)
    inputs = [x.nan_to_num().requires_grad_() for x in (rewards, values)]
    weights = torch.randn(2, 4, 50, generator=torch.Generator().manual_seed(1))
    found = generalized_advantages(*inputs, mask, discount=0.9, lam=0.8, backend="triton")
    ours = torch.autograd.grad((torch.stack(found) * weights).sum(), inputs)
    exact = torch.autograd.grad(
        (torch.stack(reference(*inputs, mask, 0.9, 0.8)) * weights).sum(), inputs
    )
    assert_close(ours, exact, atol=1e-5, rtol=1e-5)
