"""Generalised advantages: every backend against the loop in float64, gradients to the second order,
and torch's own checks.
"""

import pytest
import torch
from torch.testing import assert_close

from rewardlab.errors import InputError
from rewardlab.kernels import explain, generalized_advantages
from rewardlab.kernels.advantages.reference import reference

OP = torch.ops.rewardlab.generalized_advantages
SHAPES = [(1, 1), (3, 2), (5, 17), (64, 100), (2, 1500)]
SETTINGS = [(1.0, 0.95), (0.9, 0.5), (0.99, 0.0), (0.97, 1.0), (0.0, 0.5)]


def drawn(rows, steps, hole=0.3):
    """Rewards, values and a mask with holes; what does not count is NaN."""
    random = torch.Generator().manual_seed(0)
    mask = torch.rand(rows, steps, generator=random) > hole
    return (
        *(torch.randn(rows, steps, generator=random).where(mask, torch.nan) for _ in range(2)),
        mask,
    )


def exact(rewards, values, mask, discount, lam, ends=None):
    return reference(rewards.double(), values.double(), mask, discount, lam, ends)


def episodes(mask):
    """Ends at a tenth of the steps, among them some that do not count."""
    return torch.rand(mask.shape, generator=torch.Generator().manual_seed(3)) < 0.1


@pytest.mark.parametrize("backend", ["torch", "reference"])
@pytest.mark.parametrize(("discount", "lam"), SETTINGS)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_they_are_float64s(shape, discount, lam, backend):
    operands = drawn(*shape)
    for ends in (None, episodes(operands[2])):
        found = generalized_advantages(
            *operands, discount=discount, lam=lam, ends=ends, backend=backend
        )
        for ours, expected in zip(found, exact(*operands, discount, lam, ends), strict=True):
            assert ours.dtype == torch.float32
            assert_close(ours.double(), expected, atol=2e-5, rtol=1e-5)
            assert (ours[~operands[2]] == 0).all()


@pytest.mark.parametrize("backend", ["torch", "reference"])
def test_episodes_in_a_row_are_as_rows_of_their_own(backend):
    rewards, values, mask = drawn(1, 30)
    mask[0, 11] = True
    rewards, values = rewards.nan_to_num(), values.nan_to_num()
    ends = torch.arange(30)[None] == 11
    whole = generalized_advantages(
        rewards, values, mask, discount=0.9, lam=0.8, ends=ends, backend=backend
    )
    halves = [
        generalized_advantages(
            *(x[:, part] for x in (rewards, values, mask)), discount=0.9, lam=0.8, backend=backend
        )
        for part in (slice(0, 12), slice(12, 30))
    ]
    for found, apart in zip(whole, zip(*halves, strict=True), strict=True):
        assert_close(found, torch.cat(apart, 1))


def test_rows_without_a_step_that_counts_empty_ones_and_views():
    rewards, values, mask = drawn(6, 40)
    mask[2] = False
    whole = generalized_advantages(rewards, values, mask, discount=0.9, lam=0.8)
    assert (whole[0][2] == 0).all()
    turned = generalized_advantages(
        *(x.T.contiguous().T for x in (rewards, values, mask)), discount=0.9, lam=0.8
    )
    assert_close(turned, whole)
    for shape in ((0, 5), (5, 0), (0, 0)):
        empty = torch.zeros(shape)
        assert (
            generalized_advantages(empty, empty, empty.bool(), discount=1.0, lam=1.0)[0].shape
            == shape
        )


def test_nan_reaches_only_what_is_before_it():
    rewards, values, mask = (x.nan_to_num() for x in drawn(1, 30, hole=0.0))
    rewards[0, 20] = torch.nan
    advantages, _ = generalized_advantages(rewards, values, mask.bool(), discount=0.9, lam=0.8)
    assert advantages[0].isnan().tolist() == [step <= 20 for step in range(30)]


@pytest.mark.parametrize(("discount", "lam"), [(0.9, 0.7), (1.0, 1.0), (0.9, 0.0)])
def test_gradients_to_the_second_order_are_those_of_the_loop(discount, lam):
    """The map is linear, so the second order is its transpose's own gradient."""
    rewards, values, mask = drawn(3, 7)
    inputs = [x.nan_to_num().double().requires_grad_() for x in (rewards, values)]
    for ends in (None, episodes(mask)):
        assert torch.autograd.gradcheck(
            lambda r, v, e=ends: OP(r, v, mask, e, discount, lam, ""), inputs
        )
        assert torch.autograd.gradgradcheck(
            lambda r, v, e=ends: OP(r, v, mask, e, discount, lam, ""), inputs
        )
    weights = torch.randn(2, 3, 7, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    losses = [
        (torch.stack(found) * weights).sum()
        for found in (
            OP(*inputs, mask, ends, discount, lam, "torch"),
            reference(*inputs, mask, discount, lam, ends),
        )
    ]
    ours, expected = (torch.autograd.grad(loss, inputs) for loss in losses)
    assert_close(ours, expected)


def test_half_operands_are_summed_in_float32_and_get_their_own_gradients():
    rewards, values, mask = drawn(4, 20)
    inputs = [x.nan_to_num().bfloat16().requires_grad_() for x in (rewards, values)]
    advantages, returns = generalized_advantages(*inputs, mask, discount=0.99, lam=0.95)
    assert advantages.dtype == returns.dtype == torch.float32
    assert_close(advantages.double(), exact(*inputs, mask, 0.99, 0.95)[0], atol=1e-5, rtol=1e-5)
    assert {x.dtype for x in torch.autograd.grad(advantages.square().sum(), inputs)} == {
        torch.bfloat16
    }
    with torch.autocast("cpu", torch.bfloat16):
        assert (
            generalized_advantages(*inputs, mask, discount=0.99, lam=0.95)[0].dtype == torch.float32
        )


@pytest.mark.filterwarnings(
    "ignore:The .grad attribute of a Tensor that is not a leaf"
)  # opcheck looks at its own
def test_it_is_an_operation_as_torch_wants_it_and_compiles_whole():
    rewards, values, mask = drawn(3, 10)
    inputs = [x.nan_to_num().requires_grad_() for x in (rewards, values)]
    torch.library.opcheck(OP, (*inputs, mask, None, 0.9, 0.8, ""))
    torch.library.opcheck(OP, (*inputs, mask, episodes(mask), 0.9, 0.8, ""))

    def loss(rewards, values):
        advantages, returns = generalized_advantages(
            2 * rewards, values, mask, discount=0.9, lam=0.8
        )
        return (advantages * returns).sum()

    compiled = torch.compile(loss, fullgraph=True, backend="aot_eager")
    ours, expected = (torch.autograd.grad(run(*inputs), inputs) for run in (compiled, loss))
    assert_close(ours, expected)


def test_what_does_not_fit_is_refused_and_backends_are_told():
    rewards, values, mask = drawn(3, 5)
    for wrong in (
        (rewards[:, :4], values, mask),
        (rewards, values, mask.long()),
        (rewards[0], values[0], mask[0]),
    ):
        with pytest.raises(
            InputError, match=r"rewards and values \[B, T\] and a bool mask and ends \[B, T\]"
        ):
            generalized_advantages(*wrong, discount=1.0, lam=1.0)
    with pytest.raises(InputError, match="needs a CUDA device"):
        generalized_advantages(rewards, values, mask, discount=1.0, lam=1.0, backend="triton")
    told = explain(generalized_advantages, rewards.double(), values, mask, discount=1.0, lam=1.0)
    assert told.backend == "torch"
