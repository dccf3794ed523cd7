"""discounted_sum on a CUDA device: the same sums as on the CPU, to the bit each time and in any
batch.
"""

from __future__ import annotations

import pytest
import torch
from torch.testing import assert_close

from rewardlab.kernels.scan import discounted_sum, hindrances

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
DEVICE = "cuda"
SHAPES = [(1, 1), (33, 16), (3, 17), (300, 255), (7, 1024), (512, 2048), (3, 70001)]
OP = torch.ops.rewardlab.discounted_sum


def drawn(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).to(DEVICE)


def episodes(*shape, seed=1):
    decays = torch.rand(2, *shape, generator=torch.Generator().manual_seed(seed))
    return decays[0].where(decays[1] > 0.1, 0).to(DEVICE)


@pytest.fixture(autouse=True)
def poisoned(monkeypatch):
    """Whatever torch.empty gives holds NaN, so that what a kernel does not write shows."""
    empty = torch.empty
    monkeypatch.setattr(
        torch, "empty", lambda *size, **options: empty(*size, **options).fill_(float("nan"))
    )


@pytest.mark.parametrize("transposed", [False, True])
@pytest.mark.parametrize("backend", ["triton", "torch"])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_sums_are_float64s(shape, backend, transposed):
    values, decay = drawn(*shape), episodes(*shape)
    for inputs in ((values, decay, 0.0), (values, None, 0.97), (values, None, 1.0)):
        found = OP(*inputs, transposed, backend)
        double = [i.double() if isinstance(i, torch.Tensor) else i for i in inputs]
        exact = OP(*double, transposed, "torch")
        size = OP(
            *(i.abs() if isinstance(i, torch.Tensor) else i for i in double), transposed, "torch"
        )
        assert ((found.double() - exact).abs() <= 1e-6 * size).all()


def test_the_kernel_is_the_first_choice_and_repeats_itself_in_any_batch():
    values, decay = drawn(40, 3000), episodes(40, 3000)
    assert next(iter(hindrances(values).items())) == ("triton", "")
    whole = discounted_sum(values, decay)
    assert torch.equal(whole, OP(values, decay, 0.0, False, "triton"))
    for _ in range(10):
        assert torch.equal(discounted_sum(values, decay), whole)
    for rows in (slice(7, 8), slice(3, 40, 2)):
        assert torch.equal(discounted_sum(values[rows], decay[rows]), whole[rows])


def test_strided_rows_halves_and_nothing():
    values, decay = drawn(6, 40), episodes(6, 40)
    for part in (lambda x: x[::2], lambda x: x[:, 3:33], lambda x: x.T):
        assert_close(
            discounted_sum(part(values), part(decay)),
            discounted_sum(part(values), part(decay), backend="reference"),
        )
    assert_close(
        discounted_sum(values.bfloat16(), decay),
        discounted_sum(values.bfloat16().float(), decay, backend="torch"),
    )
    assert discounted_sum(values[:0], decay[:0]).shape == (0, 40)


def test_gradients():
    values, decay, weight = (
        drawn(5, 1500).requires_grad_(),
        episodes(5, 1500).requires_grad_(),
        drawn(5, 1500, seed=2),
    )
    found, expected = (
        torch.autograd.grad(
            (discounted_sum(values, decay, backend=backend) * weight).sum(), (values, decay)
        )
        for backend in ("triton", "reference")
    )
    for ours, exact in zip(found, expected, strict=True):
        assert_close(ours, exact, atol=1e-5, rtol=1e-5)


def test_nothing_discounted_by_much_is_nothing_and_nan_stays_in_its_past():
    values = torch.zeros(2, 5000, device=DEVICE)
    values[0, 10] = 1.0
    exact = torch.arange(10, -1, -1, dtype=torch.float64, device=DEVICE)
    for decay in (30.0, -20.0):
        found = discounted_sum(values, decay)
        assert_close(found[0, :11].double(), float(decay) ** exact, rtol=1e-5, atol=0)
        assert found[0, 11:].abs().max() == found[1].abs().max() == 0
    values, decay = drawn(2, 5000), episodes(2, 5000) + 0.1
    values[0, 3000] = torch.nan
    found = discounted_sum(values, decay)
    assert found[0, :3001].isnan().all()
    assert found[0, 3001:].isfinite().all()
    assert found[1].isfinite().all()


def test_offsets_beyond_32_bits():
    rows, steps = 2**21 + 3, 1024
    values = torch.zeros(rows, steps, dtype=torch.float32, device=DEVICE)
    values[-1] = 1.0
    found = discounted_sum(values, 1.0)
    assert torch.equal(found[-1], torch.arange(steps, 0, -1, device=DEVICE).float())
    assert not found[:-1].any()


def test_it_compiles_without_a_graph_break():
    def loss(values, decay):
        return discounted_sum(values * 2, decay).square().sum()

    values, decay = drawn(3, 50).requires_grad_(), episodes(3, 50).requires_grad_()
    found = torch.autograd.grad(
        torch.compile(loss, fullgraph=True, backend="aot_eager")(values, decay), (values, decay)
    )
    for ours, exact in zip(
        found, torch.autograd.grad(loss(values, decay), (values, decay)), strict=True
    ):
        assert_close(ours, exact)
