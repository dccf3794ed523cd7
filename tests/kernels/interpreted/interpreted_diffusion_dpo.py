"""The Triton kernels of squared_error, interpreted, against its definition in float64."""

from __future__ import annotations

import pytest
import torch
from torch.testing import assert_close

from rewardlab.kernels.diffusion_dpo import diffusion_dpo_loss, hindrances, squared_error
from rewardlab.kernels.diffusion_dpo.reference import reference
from rewardlab.kernels.diffusion_dpo.triton import BLOCK, PART, scaled_difference

SHAPES = [(0, 3), (1, 1), (3, 4, 5, 7), (2, BLOCK + 1), (2, 2 * PART + 3)]
TYPES = [torch.float32, torch.bfloat16, torch.float16]


def drawn(*shape, seed=0, dtype=torch.float32):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).to(dtype)


@pytest.fixture(autouse=True)
def poisoned(monkeypatch):
    """Whatever torch.empty gives holds NaN, so that what a kernel does not write shows."""
    empty = torch.empty
    monkeypatch.setattr(
        torch, "empty", lambda *size, **options: empty(*size, **options).fill_(float("nan"))
    )


def test_it_is_the_one_that_runs_here():
    one = torch.ones(1, 1)
    assert next(iter(hindrances(one, one).items())) == ("triton", "")
    assert hindrances(one, one.double())["triton"]


@pytest.mark.parametrize("dtype", TYPES, ids=str)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_errors_and_gradients_are_float64s(shape, dtype):
    prediction, target = (
        drawn(*shape, dtype=dtype).requires_grad_(),
        drawn(*shape, seed=1).requires_grad_(),
    )
    found = squared_error(prediction, target, backend="triton")
    exact = prediction.detach().double().requires_grad_(), target.detach().double().requires_grad_()
    expected = reference(*exact)
    assert_close(found.double(), expected, rtol=1e-6, atol=0)
    weight = drawn(shape[0], seed=2)
    gradients = torch.autograd.grad((weight * found).sum(), (prediction, target))
    for ours, theirs in zip(
        gradients, torch.autograd.grad((weight * expected).sum(), exact), strict=True
    ):
        rounding = (
            1e-6 if ours.dtype == torch.float32 else 2**-7
        )  # the interpreter cuts off where a GPU rounds
        assert (
            (ours.double() - theirs).abs()
            <= rounding * theirs.abs() + 1e-12 + 1e-7 * (ours.dtype == torch.float16)
        ).all()


def test_a_row_is_the_same_bits_in_any_batch():
    prediction, target = drawn(5, 2 * PART + 3), drawn(5, 2 * PART + 3, seed=1)
    whole = squared_error(prediction, target, backend="triton")
    assert torch.equal(squared_error(prediction[3:4], target[3:4], backend="triton"), whole[3:4])


def test_strided_and_shared_operands():
    prediction, target = drawn(3, 4, 6), drawn(3, 4, 6, seed=1)
    for change in (
        lambda x: x[..., ::2],
        lambda x: x.transpose(1, 2),
        lambda x: x[::2],
        lambda x: x[:1].expand(3, -1, -1),
    ):
        ours, other = change(prediction), change(target)
        assert_close(squared_error(ours, other, backend="triton"), reference(ours, other))
        coefficients = drawn(2 * len(ours), seed=2)[::2]
        assert_close(
            scaled_difference(ours, other, coefficients),
            coefficients[:, None, None] * (ours - other),
        )


@pytest.mark.parametrize("dtype", TYPES, ids=str)
def test_the_loss_is_that_of_the_other_backends(dtype):
    operands = [drawn(3, 9, 10, seed=seed, dtype=dtype) for seed in range(6)]
    expected = diffusion_dpo_loss(
        *(operand.double() for operand in operands), beta=3.0, backend="reference"
    )
    assert_close(
        diffusion_dpo_loss(*operands, beta=3.0, backend="triton").double(),
        expected,
        rtol=1e-5,
        atol=1e-6,
    )
