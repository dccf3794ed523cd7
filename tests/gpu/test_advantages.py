"""Generalised advantages on a CUDA device: the loop in float64, to the bit each time and in any
batch.
"""

from __future__ import annotations

import pytest
import torch
from torch.testing import assert_close

from rewardlab.kernels import generalized_advantages
from rewardlab.kernels.advantages.reference import reference

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
SHAPES = [(1, 1), (33, 16), (3, 17), (300, 255), (7, 1024), (512, 2048), (0, 5), (5, 0)]


@pytest.fixture(autouse=True)
def poisoned():
    """Fill memory that comes next with NaN, so that what a kernel forgets to write is seen."""
    torch.cuda.empty_cache()
    torch.full((2**26,), torch.nan, device="cuda")
    torch.cuda.synchronize()


def drawn(rows, steps, hole=0.3):
    random = torch.Generator().manual_seed(0)
    mask = torch.rand(rows, steps, generator=random) > hole
    made = (
        *(torch.randn(rows, steps, generator=random).where(mask, torch.nan) for _ in range(2)),
        mask,
    )
    return [each.cuda() for each in made]


@pytest.mark.parametrize("backend", ["triton", "torch"])
@pytest.mark.parametrize(("discount", "lam"), [(1.0, 0.95), (0.9, 0.0), (0.97, 1.0)])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_they_are_float64s(shape, discount, lam, backend):
    rewards, values, mask = drawn(*shape)
    for ends in (None, torch.rand(shape, device="cuda") < 0.1):
        found = generalized_advantages(
            rewards, values, mask, discount=discount, lam=lam, ends=ends, backend=backend
        )
        if not rewards.numel():
            assert found[0].shape == found[1].shape == shape
            continue
        given = [
            rewards.double().cpu(),
            values.double().cpu(),
            mask.cpu(),
            discount,
            lam,
            None if ends is None else ends.cpu(),
        ]
        for ours, expected in zip(found, reference(*given), strict=True):
            assert_close(ours.double().cpu(), expected, atol=1e-4, rtol=1e-5)


def test_it_repeats_itself_to_the_bit_also_alone():
    operands = drawn(40, 3000)
    whole = generalized_advantages(*operands, discount=0.99, lam=0.95)
    assert_close(generalized_advantages(*operands, discount=0.99, lam=0.95), whole, atol=0, rtol=0)
    rows = torch.tensor([39, 0, 7], device="cuda")
    part = generalized_advantages(*(each[rows] for each in operands), discount=0.99, lam=0.95)
    assert all(torch.equal(one, other[rows]) for one, other in zip(part, whole, strict=True))


def test_gradients_and_graphs():
    rewards, values, mask = drawn(64, 300)
    inputs = [x.nan_to_num().requires_grad_() for x in (rewards, values)]
    ours, plain = (
        torch.autograd.grad(
            sum(generalized_advantages(*inputs, mask, discount=0.9, lam=0.8, backend=backend))
            .square()
            .sum(),
            inputs,
        )
        for backend in ("triton", "torch")
    )
    assert_close(ours, plain, atol=1e-4, rtol=1e-4)
