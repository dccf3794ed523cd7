"""linear_log_prob on a CUDA device: every backend against float64, memory full of NaN, to the bit,
and past 2^31 numbers.

Imports nothing but rewardlab.kernels, torch and pytest, so that a bare machine runs it: `pytest
tests/gpu -o addopts=`.
"""

from __future__ import annotations

import pytest
import torch

from rewardlab.kernels import linear_log_prob
from rewardlab.kernels.linear_log_prob.reference import reference

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")

SHAPES = [(1, 8, 1), (37, 19, 1001), (300, 96, 5000), (129, 512, 32771), (0, 5, 7)]
# How near gradients in them can be. A sum in float32 over thousands of terms, one after another, is
# no nearer than 1e-5.
TYPES = {torch.float32: 1e-5, torch.bfloat16: 3e-3, torch.float16: 1e-3}
ROUNDED_TWICE = 1e-2  # in bfloat16, of the one number that a vocabulary of one word leaves
OPTIONS = {"plain": {}, "curved": {"temperature": 0.7, "softcap": 30.0, "bias": True}}
FORMS = {
    "torch": {"backend": "torch"},
    "triton": {"backend": "triton"},
    "fused": {"batch_invariant": True},
}


@pytest.fixture(autouse=True)
def poisoned():
    """Fill memory that comes next with NaN, so that what a kernel forgets to write is seen."""
    torch.cuda.empty_cache()
    torch.full((2**28,), torch.nan, device="cuda")
    torch.cuda.synchronize()


def operands(rows, width, words, dtype, options, spread=3.0):
    random = torch.Generator("cuda").manual_seed(0)
    hidden = torch.randn(rows, width, generator=random, device="cuda").to(dtype)
    weight = (torch.randn(words, width, generator=random, device="cuda") * spread / width**0.5).to(
        dtype
    )
    targets = torch.randint(words, (rows,), generator=random, device="cuda")
    targets[-1:] = words - 1
    options = dict(options)
    if options.pop("bias", False):
        options["bias"] = torch.randn(words, generator=random, device="cuda")
    return hidden, weight, targets, options


def exact(hidden, weight, targets, bias=None, **options):
    bias = None if bias is None else bias.double()
    return reference(hidden.double(), weight.double(), targets, bias, entropy=True, **options)


@pytest.mark.parametrize("form", FORMS.values(), ids=FORMS)
@pytest.mark.parametrize("dtype", TYPES, ids=str)
@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_values_and_gradients_are_float64s(shape, options, dtype, form):
    hidden, weight, targets, options = operands(*shape, dtype, options)
    mask = torch.arange(shape[0], device="cuda") % 5 != 3
    inputs = [hidden.requires_grad_(), weight.requires_grad_()]
    ours = linear_log_prob(
        hidden, weight, targets, entropy=True, mask=mask, budget=2**22, **form, **options
    )
    copies = [x.detach().double().requires_grad_() for x in inputs]
    theirs = [x.where(mask, 0) for x in exact(*copies, targets, **options)]
    for value, expected in zip(ours, theirs, strict=True):
        assert value.dtype == torch.float32
        # tensor cores cut off, rather than round, what they add up: the error grows with the depth
        torch.testing.assert_close(
            value.double(), expected, atol=1e-5 * max(1, shape[1] / 100), rtol=0
        )
    random = torch.Generator("cuda").manual_seed(1)
    upstream = [torch.randn(shape[0], generator=random, device="cuda") for _ in ours]
    given = torch.autograd.grad(list(ours), inputs, upstream)
    wanted = torch.autograd.grad(theirs, copies, [x.double() for x in upstream])
    for one, other in zip(given, wanted, strict=True):
        assert one.dtype == dtype
        limit = ROUNDED_TWICE if shape[2] == 1 else TYPES[dtype]
        assert ((one.double() - other).norm() <= limit * other.norm()).item()


@pytest.mark.parametrize("form", FORMS.values(), ids=FORMS)
def test_views_with_gaps(form):
    """Every other target, and rows that lie 515 numbers apart."""
    hidden, weight, targets, _ = operands(70, 512, 32771, torch.bfloat16, {})
    wide = torch.full((70, 515), torch.nan, dtype=torch.bfloat16, device="cuda")
    wide[:, :512] = hidden
    ours = linear_log_prob(
        wide[:, :512], weight, torch.stack([targets, 0 * targets], 1)[:, 0], entropy=True, **form
    )
    whole = linear_log_prob(hidden, weight, targets, entropy=True, **form)
    for one, other in zip(ours, whole, strict=True):
        torch.testing.assert_close(one, other, atol=1e-4, rtol=0)


@pytest.mark.parametrize("form", FORMS.values(), ids=FORMS)
def test_it_repeats_itself_to_the_bit(form):
    hidden, weight, targets, _ = operands(1000, 512, 32771, torch.bfloat16, {})
    runs = []
    for _ in range(3):
        inputs = [hidden.clone().requires_grad_(), weight.clone().requires_grad_()]
        result = linear_log_prob(*inputs, targets, entropy=True, **form)
        runs.append(
            [*result, *torch.autograd.grad(result.log_prob.sum() + result.entropy.sum(), inputs)]
        )
    assert all(
        torch.equal(one, other) for run in runs[1:] for one, other in zip(runs[0], run, strict=True)
    )


@pytest.mark.parametrize("dtype", TYPES, ids=str)
@pytest.mark.parametrize("width", [512, 99])
def test_batch_invariance_to_the_bit(dtype, width):
    """A row's results are the same alone, among few, among many and at another place."""
    hidden, weight, targets, _ = operands(700, width, 32771, dtype, {})
    whole = linear_log_prob(hidden, weight, targets, entropy=True, batch_invariant=True)
    for rows in (
        torch.tensor([0]),
        torch.tensor([699]),
        torch.arange(100, 229),
        torch.randperm(700),
    ):
        rows = rows.cuda()
        part = linear_log_prob(
            hidden[rows], weight, targets[rows], entropy=True, batch_invariant=True
        )
        assert all(torch.equal(one, other[rows]) for one, other in zip(part, whole, strict=True))


@pytest.mark.parametrize("form", FORMS.values(), ids=FORMS)
def test_a_wrong_target_is_nan_in_its_row_and_forbidden_words_are_forbidden(form):
    hidden, weight, targets, _ = operands(9, 64, 9000, torch.bfloat16, {})
    targets[4] = -100
    bias = torch.zeros(9000, device="cuda").index_fill(
        0, torch.arange(5000, device="cuda"), -torch.inf
    )
    result = linear_log_prob(
        hidden, weight, targets.clamp_min(5000).where(targets >= 0, targets), bias=bias, **form
    )
    assert result.log_prob.isnan().tolist() == [row == 4 for row in range(9)]
    assert (
        linear_log_prob(hidden, weight, 0 * targets, bias=bias, **form).log_prob == -torch.inf
    ).all()


@pytest.mark.parametrize("form", FORMS.values(), ids=FORMS)
def test_offsets_past_32_bits(form):
    """A weight of more than 2^31 numbers: its last words have to be found."""
    words, width = 2**21 + 300, 1032
    hidden = torch.randn(3, width, device="cuda").bfloat16()
    weight = torch.zeros(words, width, dtype=torch.bfloat16, device="cuda")
    weight[-2:] = hidden[:2] / 8
    targets = torch.tensor([words - 2, words - 1, 5], device="cuda")
    ours = linear_log_prob(hidden, weight, targets, **form)
    logits = torch.zeros(3, words, dtype=torch.float64, device="cuda")
    logits[:, -2:] = hidden.double() @ weight[-2:].double().T
    expected = logits.log_softmax(1).gather(1, targets[:, None])[:, 0]
    torch.testing.assert_close(ours.log_prob.double(), expected, atol=1e-4, rtol=0)


def test_memory_is_the_budget():
    """Forward of 8192 rows and 131,072 words: 4 GiB of logits, within 64 MiB and what is small."""
    hidden, weight, targets, _ = operands(8192, 256, 131072, torch.bfloat16, {})
    for form in FORMS.values():
        linear_log_prob(
            hidden, weight, targets, **form
        )  # the library's own workspace comes with its first product
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        linear_log_prob(hidden, weight, targets, **form)
        assert torch.cuda.max_memory_allocated() - before < 80 * 2**20


def test_autocast_and_the_compiler():
    hidden, weight, targets, _ = operands(100, 64, 3000, torch.float32, {})
    with torch.autocast("cuda", torch.bfloat16):
        ours = linear_log_prob(hidden, weight, targets).log_prob
    assert torch.equal(
        ours, linear_log_prob(hidden.bfloat16(), weight.bfloat16(), targets).log_prob
    )
    compiled = torch.compile(
        lambda *given: linear_log_prob(*given).log_prob, fullgraph=True, backend="aot_eager"
    )
    assert torch.equal(
        compiled(hidden, weight, targets), linear_log_prob(hidden, weight, targets).log_prob
    )
