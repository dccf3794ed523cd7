"""discounted_sum against its loop in float64, and as an operation that autograd, compilers and
autocast know.
"""

from __future__ import annotations

import pytest
import torch
from torch.testing import assert_close

from rewardlab.errors import InputError
from rewardlab.kernels.scan import blocked, discounted_sum, hindrances
from rewardlab.kernels.scan.reference import reference

SHAPES = [(1, 1), (2, 3), (7, 1), (3, 17), (5, 64), (2, 1000), (300, 257)]
OP = torch.ops.rewardlab.discounted_sum


def drawn(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def episodes(*shape, top=1.0, seed=1):
    """Decays in [0, top), of which a tenth ends an episode."""
    decays = torch.rand(2, *shape, generator=torch.Generator().manual_seed(seed))
    return (top * decays[0]).where(decays[1] > 0.1, 0)


def check(values, decay, rtol=1e-6, **options):
    """Each sum is within `rtol` of float64's, in units of the sum of what it adds up, all taken
    positive.
    """
    found = discounted_sum(values, decay, **options)
    exact = decay.double() if isinstance(decay, torch.Tensor) else decay
    size = reference(values.double().abs(), exact if isinstance(decay, float) else exact.abs())
    assert found.dtype == torch.float32
    assert found.is_contiguous()
    error = (
        ((found.double() - reference(values.double(), exact)).abs() / size.clamp_min(1e-30))
        .max()
        .item()
    )
    assert error <= rtol, error


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("backend", ["torch", "reference"])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_sums_are_float64s(shape, backend, dtype):
    values = drawn(*shape).to(dtype)
    for decay in (0.0, 0.95, 1.0):
        check(values, decay, backend=backend)
    check(values, episodes(*shape), backend=backend)
    check(values, episodes(*shape).to(dtype), backend=backend)


def test_strided_values_and_empty_ones():
    check(drawn(50, 6).T, episodes(50, 6).T)
    check(drawn(6, 40).T, episodes(6, 40).T)  # two blocks of three steps: nothing is filled up
    check(drawn(6, 40).T, 0.9)
    check(drawn(6, 100)[:, ::2], episodes(6, 100)[:, 1::2])
    check(drawn(1, 40).expand(3, 40), 0.9)
    for shape in ((0, 5), (5, 0), (0, 0)):
        assert (
            discounted_sum(torch.zeros(shape), 0.5).shape
            == discounted_sum(torch.zeros(shape), torch.ones(shape)).shape
            == shape
        )


def test_a_large_batch_is_summed_in_parts(monkeypatch):
    values, decay = drawn(9, 50), episodes(9, 50)
    whole = discounted_sum(values, decay), discounted_sum(values, 0.9)
    monkeypatch.setattr(blocked, "CACHED", 100)
    for found, expected in zip(
        (discounted_sum(values, decay), discounted_sum(values, 0.9)), whole, strict=True
    ):
        assert_close(found, expected, rtol=0, atol=1e-6)


def test_a_decay_of_zero_ends_an_episode_exactly():
    values, decay = drawn(2, 100), torch.ones(2, 100)
    decay[:, 60] = 0
    first = discounted_sum(values, decay)[:, :61]
    values[:, 61:] = 1e30
    assert torch.equal(discounted_sum(values, decay)[:, :61], first)


def test_the_last_decay_is_not_read():
    values, decay = drawn(2, 40), torch.full((2, 40), 0.5)
    expected = discounted_sum(values, decay)
    decay[:, -1] = torch.nan
    assert torch.equal(discounted_sum(values, decay), expected)
    assert_close(OP(values, decay, 0.0, True, ""), OP(values, None, 0.5, True, ""))


def test_nan_reaches_only_what_is_before_it():
    values = drawn(2, 50)
    values[0, 20] = torch.nan
    found = discounted_sum(values, episodes(2, 50) + 0.1)
    assert found[0, :21].isnan().all()
    assert found[0, 21:].isfinite().all()
    assert found[1].isfinite().all()


@pytest.mark.parametrize("decay", [2.0, 30.0, -20.0])
def test_decays_above_one_over_many_steps_overflow_only_where_the_sums_do(decay):
    values = torch.zeros(2, 4000)
    values[0, 10] = 1.0
    found = discounted_sum(values, decay)
    assert_close(
        found[0, :11].double(),
        float(decay) ** torch.arange(10, -1, -1, dtype=torch.float64),
        rtol=1e-6,
        atol=0,
    )
    assert found[0, 11:].abs().max() == found[1].abs().max() == 0
    assert torch.equal(discounted_sum(values, torch.full_like(values, decay)), found)
    values[1] = 1.0
    exact = reference(values[1:].double(), decay)
    inside = exact.abs() < 1e37
    assert inside.sum() > 20
    assert_close(
        discounted_sum(values[1:], decay).double()[inside], exact[inside], rtol=1e-5, atol=0
    )


def test_gradients_to_the_second_order_are_those_of_the_loop():
    values, decay = drawn(2, 7).double().requires_grad_(), episodes(2, 7).double().requires_grad_()
    for transposed in (False, True):
        for inputs in ((values, decay, 0.0), (values, None, 0.7)):
            assert torch.autograd.gradcheck(lambda *i, t=transposed: OP(*i, t, ""), inputs)
            assert torch.autograd.gradgradcheck(lambda *i, t=transposed: OP(*i, t, ""), inputs)


def test_gradients_reach_each_input_in_its_own_type():
    values, decay, weight = (
        drawn(3, 30).bfloat16().requires_grad_(),
        episodes(3, 30).requires_grad_(),
        drawn(3, 30, seed=2),
    )
    found = torch.autograd.grad((discounted_sum(values, decay) * weight).sum(), (values, decay))
    expected = torch.autograd.grad(
        (reference(values.float(), decay) * weight).sum(), (values, decay)
    )
    for ours, exact in zip(found, expected, strict=True):
        assert ours.dtype == exact.dtype
        assert_close(ours, exact, atol=1e-5, rtol=1e-2 if ours.dtype == torch.bfloat16 else 1e-5)


@pytest.mark.parametrize("transposed", [False, True])
@pytest.mark.filterwarnings(
    "ignore:The .grad attribute of a Tensor that is not a leaf"
)  # opcheck looks at its own
def test_it_is_an_operation_as_torch_wants_it(transposed):
    values, decay = drawn(3, 10).requires_grad_(), episodes(3, 10).requires_grad_()
    torch.library.opcheck(OP, (values, decay, 0.0, transposed, ""))
    torch.library.opcheck(OP, (values.detach(), None, 0.9, transposed, ""))


@pytest.mark.parametrize("dynamic", [False, True])
def test_it_compiles_without_a_graph_break(dynamic):
    def loss(values, decay):
        return discounted_sum(values * 2, decay).square().sum() + discounted_sum(values, 0.9).sum()

    compiled = torch.compile(loss, fullgraph=True, backend="aot_eager", dynamic=dynamic)
    for steps in (5, 9):
        values, decay = drawn(3, steps).requires_grad_(), episodes(3, steps).requires_grad_()
        found = torch.autograd.grad(compiled(values, decay), (values, decay))
        for ours, exact in zip(
            found, torch.autograd.grad(loss(values, decay), (values, decay)), strict=True
        ):
            assert_close(ours, exact)


def test_autocast_leaves_it_in_float32():
    values, decay = drawn(3, 40), episodes(3, 40)
    expected = discounted_sum(values, decay)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(discounted_sum(values, decay), expected)
        found = OP(values.bfloat16(), decay.bfloat16(), 0.0, False, "")
    assert torch.equal(found, discounted_sum(values.bfloat16(), decay.bfloat16()))
    assert found.dtype == torch.float32


def test_what_does_not_fit_is_refused():
    with pytest.raises(InputError, match=r"values \[B, T\]; got torch.float32 \[3\]"):
        discounted_sum(torch.zeros(3), 0.5)
    with pytest.raises(InputError, match=r"floating-point values .* got torch.int64"):
        discounted_sum(torch.zeros(3, 2, dtype=torch.long), 0.5)
    with pytest.raises(InputError, match=r"\[B, T\] = \[3, 2\].*got torch.float32 \[2\]"):
        discounted_sum(torch.zeros(3, 2), torch.zeros(2))


def test_backends_are_told_and_none_is_taken_instead_of_another(monkeypatch):
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    assert hindrances(torch.zeros(1, 1))["torch"] == ""
    assert list(hindrances(torch.zeros(1, 1))) == ["triton", "torch", "reference"]
    with pytest.raises(InputError, match="triton"):
        discounted_sum(torch.zeros(1, 1), 0.5, backend="triton")
    monkeypatch.setenv("REWARDLAB_KERNELS", "triton")
    with pytest.raises(
        InputError, match="REWARDLAB_KERNELS asks for triton: the tensors are on cpu"
    ):
        discounted_sum(torch.zeros(1, 1), 0.5)
