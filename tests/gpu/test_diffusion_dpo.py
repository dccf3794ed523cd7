"""squared_error and the Diffusion-DPO loss on a CUDA device, against float64 definitions."""

from __future__ import annotations

import pytest
import torch
from torch.testing import assert_close

from rewardlab.kernels.diffusion_dpo import diffusion_dpo_loss, hindrances, squared_error
from rewardlab.kernels.diffusion_dpo.reference import reference
from rewardlab.kernels.diffusion_dpo.triton import BLOCK, PART, scaled_difference

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
DEVICE = "cuda"
SHAPES = [
    (0, 3),
    (1, 1),
    (3, 4, 5, 7),
    (130, 3),
    (2, BLOCK + 1),
    (2, 2 * PART + 3),
    (16, 4, 128, 128),
]
TYPES = [torch.float32, torch.bfloat16, torch.float16]


def drawn(*shape, seed=0, dtype=torch.float32):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).to(DEVICE, dtype)


@pytest.fixture(autouse=True)
def poisoned(monkeypatch):
    """Whatever torch.empty gives holds NaN, so that what a kernel does not write shows."""
    empty = torch.empty
    monkeypatch.setattr(
        torch, "empty", lambda *size, **options: empty(*size, **options).fill_(float("nan"))
    )


@pytest.mark.parametrize("backend", ["triton", "torch"])
@pytest.mark.parametrize("dtype", TYPES, ids=str)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_errors_and_gradients_are_float64s(shape, dtype, backend):
    prediction, target = (
        drawn(*shape, dtype=dtype).requires_grad_(),
        drawn(*shape, seed=1).requires_grad_(),
    )
    found = squared_error(prediction, target, backend=backend)
    exact = prediction.detach().double().requires_grad_(), target.detach().double().requires_grad_()
    expected = reference(*exact)
    assert_close(found.double(), expected, rtol=1e-6, atol=0)
    weight = drawn(shape[0], seed=2)
    gradients = torch.autograd.grad((weight * found).sum(), (prediction, target))
    for ours, theirs in zip(
        gradients, torch.autograd.grad((weight * expected).sum(), exact), strict=True
    ):
        assert (ours.double() - theirs).norm() <= (
            1e-6 if ours.dtype == torch.float32 else 3e-3
        ) * theirs.norm()


def test_the_kernel_is_the_first_choice_and_repeats_itself_in_any_batch():
    prediction, target = (
        drawn(9, 5 * PART + 3, dtype=torch.bfloat16),
        drawn(9, 5 * PART + 3, seed=1),
    )
    assert next(iter(hindrances(prediction, target).items())) == ("triton", "")
    whole = squared_error(prediction, target)
    assert torch.equal(squared_error(prediction, target, backend="triton"), whole)
    for _ in range(10):
        assert torch.equal(squared_error(prediction, target), whole)
    for rows in (slice(3, 4), slice(0, 9, 2)):
        assert torch.equal(squared_error(prediction[rows], target[rows]), whole[rows])


def test_strided_and_shared_operands():
    prediction, target = drawn(3, 4, 6), drawn(3, 4, 6, seed=1)
    for change in (
        lambda x: x[..., ::2],
        lambda x: x.transpose(1, 2),
        lambda x: x[::2],
        lambda x: x[:1].expand(3, -1, -1),
    ):
        ours, other = change(prediction), change(target)
        assert_close(squared_error(ours, other), reference(ours, other))
        coefficients = drawn(2 * len(ours), seed=2)[::2]
        assert_close(
            scaled_difference(ours, other, coefficients),
            coefficients[:, None, None] * (ours - other),
        )


@pytest.mark.parametrize("dtype", TYPES, ids=str)
def test_the_loss_is_that_of_the_definition(dtype):
    operands = [drawn(3, 9, 1000, seed=seed, dtype=dtype) for seed in range(6)]
    expected = diffusion_dpo_loss(
        *(operand.double() for operand in operands), beta=3.0, backend="reference"
    )
    assert_close(
        diffusion_dpo_loss(*operands, beta=3.0, backend="triton").double(),
        expected,
        rtol=1e-5,
        atol=1e-6,
    )


def test_no_float32_copy_is_made():
    policy = [
        drawn(2, 2**24, seed=seed, dtype=torch.bfloat16).requires_grad_() for seed in range(2)
    ]
    others = [drawn(2, 2**24, seed=seed, dtype=torch.bfloat16) for seed in range(2, 6)]
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    diffusion_dpo_loss(*policy, *others, beta=3.0).sum().backward()
    gradients = sum(operand.grad.nbytes for operand in policy)
    assert torch.cuda.max_memory_allocated() - before <= gradients + 2**22


def test_offsets_beyond_32_bits():
    prediction = torch.zeros(2, 2**31 + 8, dtype=torch.bfloat16, device=DEVICE)
    prediction[1, -1] = 4.0
    target = torch.zeros((), dtype=torch.bfloat16, device=DEVICE).expand(2, 2**31 + 8).contiguous()
    found = squared_error(prediction, target)
    assert found[0] == 0
    assert_close(
        found[1].double() * (2**31 + 8),
        torch.tensor(16.0, dtype=torch.float64, device=DEVICE),
        rtol=1e-6,
        atol=0,
    )
    gradient = scaled_difference(prediction, target, torch.tensor([1.0, 2.0], device=DEVICE))
    assert gradient[1, -1] == 8
    assert int(gradient.count_nonzero()) == 1


def test_it_compiles_without_a_graph_break():
    def loss(*operands):
        return diffusion_dpo_loss(*operands, beta=3.0).sum() + squared_error(*operands[:2]).mean()

    operands = [drawn(3, 4, 100, seed=seed).requires_grad_(seed < 2) for seed in range(6)]
    found = torch.autograd.grad(
        torch.compile(loss, fullgraph=True, backend="aot_eager")(*operands), operands[:2]
    )
    for ours, expected in zip(
        found, torch.autograd.grad(loss(*operands), operands[:2]), strict=True
    ):
        assert_close(ours, expected)
