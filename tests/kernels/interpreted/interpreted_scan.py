"""The Triton kernel of discounted_sum, interpreted, against the loop in float64."""

from __future__ import annotations

import pytest
import torch
from torch.testing import assert_close

from rewardlab.kernels.scan import discounted_sum, hindrances
from rewardlab.kernels.scan.reference import reference
from rewardlab.kernels.scan.triton import CONFIGURATIONS

SHAPES = [(1, 1), (33, 16), (3, 17), (3, 255), (1, 2100)]
OP = torch.ops.rewardlab.discounted_sum


def drawn(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def episodes(*shape, seed=1):
    decays = torch.rand(2, *shape, generator=torch.Generator().manual_seed(seed))
    return decays[0].where(decays[1] > 0.1, 0)


@pytest.fixture(autouse=True)
def poisoned(monkeypatch):
    """Whatever torch.empty gives holds NaN, so that what a kernel does not write shows."""
    empty = torch.empty
    monkeypatch.setattr(
        torch, "empty", lambda *size, **options: empty(*size, **options).fill_(float("nan"))
    )


def test_it_is_the_one_that_runs_here():
    assert next(iter(hindrances(torch.zeros(1, 1)).items())) == ("triton", "")
    assert hindrances(torch.zeros(1, 1).double())["triton"]


@pytest.mark.parametrize("transposed", [False, True])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_sums_are_float64s(shape, transposed):
    values, decay = drawn(*shape), episodes(*shape)
    for inputs in ((values, decay, 0.0), (values, None, 0.97)):
        found = OP(*inputs, transposed, "triton")
        exact = OP(
            *(i.double() if isinstance(i, torch.Tensor) else i for i in inputs),
            transposed,
            "reference",
        )
        size = OP(
            *(i.double().abs() if isinstance(i, torch.Tensor) else i for i in inputs),
            transposed,
            "reference",
        )
        assert ((found.double() - exact).abs() <= 1e-6 * size).all()


def test_shapes_cover_every_configuration_and_a_second_block():
    lengths = [steps for _, steps in SHAPES]
    used = {
        next((size for size in CONFIGURATIONS if size >= steps), max(CONFIGURATIONS))
        for steps in lengths
    }
    assert used == set(CONFIGURATIONS)
    assert max(lengths) > 2 * max(CONFIGURATIONS)


def test_strided_rows_and_halves():
    values, decay = drawn(6, 40), episodes(6, 40)
    for part in (lambda x: x[::2], lambda x: x[:, 3:33], lambda x: x.T):
        expected = reference(part(values).double(), part(decay).double()).float()
        assert_close(discounted_sum(part(values), part(decay), backend="triton"), expected)
    half = values.bfloat16()
    assert_close(
        discounted_sum(half, decay, backend="triton"),
        discounted_sum(half.float(), decay, backend="torch"),
    )


def test_gradients():
    values, decay = drawn(3, 60).requires_grad_(), episodes(3, 60).requires_grad_()
    weight = drawn(3, 60, seed=2)
    found = torch.autograd.grad(
        (discounted_sum(values, decay, backend="triton") * weight).sum(), (values, decay)
    )
    expected = torch.autograd.grad((reference(values, decay) * weight).sum(), (values, decay))
    for ours, exact in zip(found, expected, strict=True):
        assert_close(ours, exact, atol=1e-5, rtol=1e-5)


@pytest.mark.filterwarnings(
    "ignore:overflow encountered"
)  # NumPy's; a product of decays is cut off where it overflows
def test_nothing_discounted_by_much_is_nothing_and_nan_stays_in_its_past():
    values = torch.zeros(2, 64)
    values[0, 10] = 1.0
    for decay in (30.0, -20.0):
        found = discounted_sum(values, decay, backend="triton")
        assert_close(
            found[0, :11].double(),
            float(decay) ** torch.arange(10, -1, -1, dtype=torch.float64),
            rtol=1e-5,
            atol=0,
        )
        assert found[0, 11:].abs().max() == found[1].abs().max() == 0
    values, decay = drawn(2, 64), episodes(2, 64) + 0.1
    values[0, 50] = decay[1, 40] = torch.nan
    found = discounted_sum(values, decay, backend="triton")
    assert found[0, :51].isnan().all()
    assert found[0, 51:].isfinite().all()
    assert found[1, :41].isnan().all()
    assert found[1, 41:].isfinite().all()
