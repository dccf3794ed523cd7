"""squared_error and the Diffusion-DPO loss against their definitions in float64, on the same
quantised inputs.
"""

from __future__ import annotations

from itertools import product

import pytest
import torch
from torch.testing import assert_close
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from rewardlab.errors import InputError
from rewardlab.kernels.diffusion_dpo import chunked, diffusion_dpo_loss, hindrances, squared_error
from rewardlab.kernels.diffusion_dpo.reference import reference
from rewardlab.losses.preference import dpo_loss

SHAPES = [(0, 3), (1, 1), (3, 4, 5, 7), (130, 3), (2, 70001)]
TYPES = [torch.float32, torch.bfloat16, torch.float16]
OP = torch.ops.rewardlab.squared_error


def drawn(*shape, seed=0, dtype=torch.float32):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).to(dtype)


def pair(*shape, dtype=torch.float32):
    return drawn(*shape, dtype=dtype), drawn(*shape, seed=1, dtype=dtype)


@pytest.mark.parametrize("backend", ["torch", "reference"])
@pytest.mark.parametrize("types", [*product(TYPES, TYPES)], ids=str)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_errors_are_float64s(shape, types, backend):
    prediction, target = (
        operand.to(dtype) for operand, dtype in zip(pair(*shape), types, strict=True)
    )
    found = squared_error(prediction, target, backend=backend)
    assert found.dtype == torch.float32
    assert_close(found.double(), reference(prediction.double(), target.double()), rtol=1e-6, atol=0)


@pytest.mark.parametrize("dtype", TYPES, ids=str)
@pytest.mark.parametrize("shape", SHAPES[1:], ids=str)
def test_gradients_are_float64s_in_the_operands_type(shape, dtype):
    prediction, target = (operand.requires_grad_() for operand in pair(*shape, dtype=dtype))
    weight = drawn(shape[0], seed=2)
    found = torch.autograd.grad(
        (weight * squared_error(prediction, target)).sum(), (prediction, target)
    )
    exact = [operand.detach().double().requires_grad_() for operand in (prediction, target)]
    expected = torch.autograd.grad((weight.double() * reference(*exact)).sum(), exact)
    for ours, theirs in zip(found, expected, strict=True):
        assert ours.dtype == dtype
        assert (ours.double() - theirs).norm() <= {torch.float32: 1e-6}.get(
            dtype, 3e-3
        ) * theirs.norm()


def test_strided_operands():
    prediction, target = pair(4, 6, 5, 8)
    for change in (
        lambda x: x.to(memory_format=torch.channels_last),
        lambda x: x[:, ::2],
        lambda x: x[..., 1::2],
        lambda x: x.transpose(0, 1),
        lambda x: x[:1].expand(3, -1, -1, -1),
    ):
        strided, other = change(prediction).detach().requires_grad_(), change(target)
        found = squared_error(strided, other)
        assert_close(found, reference(strided, other))
        (gradient,) = torch.autograd.grad(found.sum(), strided)
        assert_close(gradient, torch.autograd.grad(reference(strided, other).sum(), strided)[0])


class Largest(TorchDispatchMode):
    """Keeps the size in bytes of the largest floating-point tensor that was made."""

    size = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(result):
            if (
                isinstance(tensor, torch.Tensor)
                and tensor.untyped_storage().data_ptr() not in self.known
            ):
                self.size = max(self.size, tensor.untyped_storage().nbytes())
        return result

    def __init__(self, *known):
        super().__init__()
        self.known = {tensor.untyped_storage().data_ptr() for tensor in known}


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_no_copy_of_an_operand_is_made(dtype):
    for shape in ((2, 3, 2**18), (2**16, 24)):
        prediction, target = pair(*shape, dtype=dtype)
        with Largest(prediction, target) as made:
            chunked.squared_errors([prediction], target, torch.float32)
        assert 0 < made.size <= 4 * max(chunked.PIECE, len(target))
        with Largest(prediction, target) as made:
            result = chunked.scaled_difference(prediction, target, torch.ones(len(target)))
        assert made.size == result.nbytes


def four(dtype=torch.float32, rows=3):
    return [drawn(rows, 4, 5, 5, seed=seed, dtype=dtype) for seed in range(6)]


@pytest.mark.parametrize("dtype", TYPES, ids=str)
def test_the_loss_is_dpos_of_gaussian_log_probabilities(dtype):
    operands = four(dtype)
    errors = [
        reference(operands[i].double(), operands[j].double())
        for i, j in ((0, 4), (1, 5), (2, 4), (3, 5))
    ]  # chosen, rejected, their references
    expected = dpo_loss(*(-0.5 * error for error in errors), beta=3.0)
    found = diffusion_dpo_loss(*operands, beta=3.0)
    assert found.dtype == torch.float32
    assert_close(found.double(), expected.double(), rtol=1e-5, atol=1e-6)
    same = diffusion_dpo_loss(*operands[:2], *operands[:2], *operands[4:], beta=5000.0)
    assert_close(same, torch.full((3,), 2.0).log())


def test_the_losss_gradients_are_the_formulas_and_only_the_policy_has_them():
    operands = [operand.double().requires_grad_() for operand in four()]
    weight, beta = drawn(3, seed=9).double(), 2.0
    loss = (weight * diffusion_dpo_loss(*operands, beta=beta)).sum()
    found = torch.autograd.grad(loss, operands, allow_unused=True)
    errors = [
        reference(operands[i], operands[j]).detach() for i, j in ((0, 4), (1, 5), (2, 4), (3, 5))
    ]
    margin = -beta / 2 * ((errors[0] - errors[2]) - (errors[1] - errors[3]))
    scale = (weight * torch.sigmoid(-margin) * beta / 100)[:, None, None, None]
    assert_close(found[0], scale * (operands[0] - operands[4]).detach(), rtol=1e-12, atol=1e-12)
    assert_close(found[1], -scale * (operands[1] - operands[5]).detach(), rtol=1e-12, atol=1e-12)
    assert found[2:] == (None,) * 4


def test_gradcheck_of_all_operands():
    operands = [drawn(2, 3, seed=seed).double().requires_grad_() for seed in range(3)]
    assert torch.autograd.gradcheck(lambda *o: OP(*o, ""), operands)
    assert torch.autograd.gradcheck(lambda p, t: OP(p, t, None, ""), operands[:2])


@pytest.mark.filterwarnings(
    "ignore:The .grad attribute of a Tensor that is not a leaf"
)  # opcheck looks at its own
def test_they_are_operations_as_torch_wants_them():
    prediction, target = (operand.requires_grad_() for operand in pair(3, 4))
    other = drawn(3, 4, seed=2, dtype=torch.bfloat16).requires_grad_()
    torch.library.opcheck(OP, (prediction, target, None, ""))
    torch.library.opcheck(OP, (prediction, target.detach(), other, ""))
    gradient = torch.ops.rewardlab.squared_error_gradient
    torch.library.opcheck(gradient, (other.detach(), target.detach(), torch.ones(3), ""))


def test_they_compile_without_a_graph_break():
    def loss(chosen, rejected, *others):
        return (
            diffusion_dpo_loss(chosen * 2, rejected, *others, beta=3.0).sum()
            + squared_error(chosen, rejected).mean()
        )

    compiled = torch.compile(loss, fullgraph=True, backend="aot_eager", dynamic=True)
    for rows in (2, 5):
        operands = four(rows=rows)
        policy = [operand.requires_grad_() for operand in operands[:2]]
        found = torch.autograd.grad(compiled(*operands), policy)
        for ours, expected in zip(found, torch.autograd.grad(loss(*operands), policy), strict=True):
            assert_close(ours, expected)


def test_autocast_changes_nothing():
    prediction, target = pair(3, 40)
    expected = squared_error(prediction, target)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(squared_error(prediction, target), expected)
        assert torch.equal(
            diffusion_dpo_loss(*four(), beta=1.0), diffusion_dpo_loss(*four(), beta=1.0).float()
        )


def test_a_rows_error_is_its_own():
    prediction, target = pair(5, 300)
    prediction[2] = torch.nan
    found = squared_error(prediction, target)
    assert found.isnan().tolist() == [False, False, True, False, False]
    assert_close(
        torch.cat([squared_error(prediction[[i]], target[[i]]) for i in (0, 4)]), found[[0, 4]]
    )


def test_what_does_not_fit_is_refused(monkeypatch):
    one = torch.ones(2, 3)
    for other in (torch.ones(2, 4), torch.ones(2, 3, dtype=torch.long)):
        with pytest.raises(
            InputError, match=r"of one shape on one device; got prediction torch.float32 \[2, 3\]"
        ):
            squared_error(one, other)
    with pytest.raises(InputError, match=r"rows are empty: \[2, 0\]"):
        squared_error(torch.ones(2, 0), torch.ones(2, 0))
    with pytest.raises(InputError, match="got 2 chosen and 1 rejected"):
        diffusion_dpo_loss(one, one[:1], one, one[:1], one, one[:1], beta=1.0)
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    with pytest.raises(InputError, match="triton"):
        squared_error(one, one, backend="triton")
    assert list(hindrances(one, one)) == ["triton", "torch", "reference"]
