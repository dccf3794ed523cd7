"""linear_log_prob against its definition in float64, on the same quantised inputs."""

from __future__ import annotations

import pytest
import torch
from torch.testing import assert_close
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from rewardlab.errors import InputError
from rewardlab.kernels import linear_log_prob, linear_logits
from rewardlab.kernels.linear_log_prob import chunked, matmul
from rewardlab.kernels.linear_log_prob.chunked import ROWS, Wanted
from rewardlab.kernels.linear_log_prob.eager import Curve, Upstream
from rewardlab.kernels.linear_log_prob.reference import reference

SMALL = 2**15  # bytes: several slices of the vocabulary and of the rows for the shapes here
SHAPES = [(0, 5, 7), (1, 1, 1), (1, 8, 300), (37, 19, 1001), (70, 33, 515)]
TYPES = [torch.float32, torch.bfloat16, torch.float16]
OPTIONS = {
    "plain": {},
    "temperature": {"temperature": 0.7},
    "bias": {"bias": True},
    "softcap": {"softcap": 5.0, "temperature": 1.3, "bias": True},
}


def operands(rows, width, words, dtype=torch.float32, spread=3.0, seed=0):
    """Hidden states, a head whose logits have about the standard deviation `spread`, and targets
    that reach the last word.
    """
    random = torch.Generator().manual_seed(seed)
    hidden = torch.randn(rows, width, generator=random)
    weight = torch.randn(words, width, generator=random) * spread / width**0.5
    targets = torch.randint(words, (rows,), generator=random)
    targets[-1:] = words - 1
    return hidden.to(dtype), weight.to(dtype), targets


def with_bias(options, weight, seed=1):
    options = dict(options)
    if options.pop("bias", False):
        options["bias"] = torch.randn(len(weight), generator=torch.Generator().manual_seed(seed))
    return options


def double(hidden, weight, targets, bias=None, **options):
    bias = None if bias is None else bias.double()
    return reference(hidden.double(), weight.double(), targets, bias, entropy=True, **options)


def check_values(hidden, weight, targets, **options):
    """Every value is within 1e-5 · max(1, max|z| / 32) of float64's."""
    budget = options.pop("budget", SMALL)
    ours = linear_log_prob(hidden, weight, targets, entropy=True, budget=budget, **options)
    largest = (hidden.double() @ weight.double().T).abs().max().item() if len(hidden) else 0
    for name, value, expected in zip(
        ours._fields, ours, double(hidden, weight, targets, **options), strict=True
    ):
        assert value.dtype == torch.float32
        assert_close(
            value.double(),
            expected,
            atol=1e-5 * max(1, largest / 32),
            rtol=0,
            msg=lambda text, n=name: f"{n}: {text}",
        )
    return ours


def gradients(results, inputs, seed=2):
    """Gradients under a random upstream gradient of all three results."""
    random = torch.Generator().manual_seed(seed)
    loss = sum(
        (torch.randn(len(value), generator=random, dtype=torch.float64) * value).sum()
        for value in results
    )
    return torch.autograd.grad(loss, inputs)


def relative(ours, expected):
    return ((ours.double() - expected).norm() / expected.norm()).item()


@pytest.mark.parametrize("dtype", TYPES, ids=str)
@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_values_are_float64s(shape, options, dtype):
    hidden, weight, targets = operands(*shape, dtype)
    result = check_values(hidden, weight, targets, **with_bias(options, weight))
    assert (result.entropy >= 0).all()
    assert (result.entropy <= torch.tensor(float(shape[2])).log() + 1e-5).all()


@pytest.mark.parametrize(
    ("dtype", "limit"),
    [(torch.float32, 1e-6), (torch.bfloat16, 3e-3), (torch.float16, 1e-3)],
    ids=str,
)
@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
def test_gradients_are_float64s(options, dtype, limit):
    hidden, weight, targets = operands(70, 33, 515, dtype)
    options = with_bias(options, weight)
    inputs = [
        hidden.requires_grad_(),
        weight.requires_grad_(),
        *([options["bias"].requires_grad_()] if "bias" in options else []),
    ]
    ours = gradients(
        linear_log_prob(hidden, weight, targets, entropy=True, budget=SMALL, **options), inputs
    )
    copies = [tensor.detach().double().requires_grad_() for tensor in inputs]
    bias = dict(zip(["bias"], copies[2:], strict=False))
    expected = gradients(double(copies[0], copies[1], targets, **(options | bias)), copies)
    for one, other, given in zip(ours, expected, inputs, strict=True):
        assert one.dtype == given.dtype
        assert relative(one, other) < limit


@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
def test_gradcheck(options):
    hidden, weight, targets = operands(5, 3, 11, torch.float64, spread=1.0)
    options = with_bias(options, weight)
    bias = options.pop("bias", torch.zeros(11)).double()
    mask = torch.tensor([True, True, False, True, True])

    def results(hidden, weight, bias):
        return linear_log_prob(
            hidden, weight, targets, bias=bias, entropy=True, mask=mask, budget=400, **options
        )

    assert torch.autograd.gradcheck(
        results, [hidden.requires_grad_(), weight.requires_grad_(), bias.requires_grad_()]
    )


@pytest.mark.parametrize("used", [0, 1, 2])
def test_each_result_alone_has_its_own_gradient(used):
    hidden, weight, targets = (
        tensor.requires_grad_() if tensor.is_floating_point() else tensor
        for tensor in operands(9, 6, 50)
    )
    ours = torch.autograd.grad(
        linear_log_prob(hidden, weight, targets, entropy=True, budget=SMALL)[used].sum(),
        [hidden, weight],
    )
    theirs = torch.autograd.grad(
        reference(hidden, weight, targets, entropy=True)[used].sum(), [hidden, weight]
    )
    assert_close(ours, theirs, rtol=1e-5, atol=1e-6)


def test_a_frozen_head_gets_no_gradient_and_none_is_computed_for_it():
    hidden, weight, targets = operands(9, 6, 50)
    linear_log_prob(hidden.requires_grad_(), weight, targets).log_prob.sum().backward()
    assert hidden.grad is not None
    assert weight.grad is None


def test_logits_of_ten_thousand():
    hidden, weight, targets = operands(20, 16, 300, spread=4000.0)
    assert (hidden @ weight.T).abs().max() > 1e4
    check_values(hidden.requires_grad_(), weight, targets)
    ours = torch.autograd.grad(
        linear_log_prob(hidden, weight, targets, budget=SMALL).log_prob.sum(), hidden
    )[0]
    twin = hidden.detach().double().requires_grad_()
    expected = torch.autograd.grad(double(twin, weight, targets)[0].sum(), twin)[0]
    assert relative(ours, expected) < 1e-3  # float32's spacing at 1e4 is 1e-3


def test_a_bias_of_minus_infinity_forbids_tokens_and_leaves_finite_gradients():
    hidden, weight, targets = operands(30, 8, 700)
    bias = torch.zeros(700)
    bias[:300] = -torch.inf  # whole slices of the vocabulary among them
    targets = targets.clamp_min(300)
    check_values(hidden, weight, targets, bias=bias)
    result = linear_log_prob(
        hidden.requires_grad_(),
        weight.requires_grad_(),
        targets,
        bias=bias,
        entropy=True,
        budget=SMALL,
    )
    sum(value.sum() for value in result).backward()
    assert hidden.grad.isfinite().all()
    assert (weight.grad[:300] == 0).all()
    forbidden = linear_log_prob(
        hidden, weight, torch.zeros(30, dtype=torch.long), bias=bias, budget=SMALL
    )
    assert (forbidden.log_prob == -torch.inf).all()


def test_operands_need_not_be_contiguous():
    hidden, weight, targets = operands(21, 12, 130)
    strided = torch.stack([hidden, hidden], 2).flatten(1)[:, ::2].requires_grad_()
    turned = weight.T.contiguous().T.requires_grad_()
    assert not strided.is_contiguous()
    assert not turned.is_contiguous()
    check_values(strided, turned, torch.stack([targets, targets], 1)[:, 0])
    linear_log_prob(strided, turned, targets, budget=SMALL).log_prob.sum().backward()
    twins = hidden.requires_grad_(), weight.requires_grad_()
    linear_log_prob(*twins, targets, budget=SMALL).log_prob.sum().backward()
    assert_close([strided.grad, turned.grad], [twin.grad for twin in twins])


def test_masked_rows_never_reach_the_head():
    """Their results and gradients are 0, and the others' are the same to the bit whatever they
    hold.
    """
    mask = torch.arange(40) % 3 != 0
    hidden, weight, targets = operands(40, 16, 200)
    poisoned = hidden.masked_fill(~mask[:, None], torch.nan)
    results = []
    for given in (hidden, poisoned):
        given, head = given.clone().requires_grad_(), weight.clone().requires_grad_()
        result = linear_log_prob(
            given, head, targets.masked_fill(~mask, -100), entropy=True, mask=mask, budget=SMALL
        )
        sum(value.sum() for value in result).backward()
        assert all((value[~mask] == 0).all() for value in result)
        assert (given.grad[~mask] == 0).all()
        results.append([*result, given.grad, head.grad])
    assert all(torch.equal(one, other) for one, other in zip(*results, strict=True))
    alone = linear_log_prob(hidden[mask], weight, targets[mask], budget=SMALL)
    assert torch.equal(results[0][0][mask], alone.log_prob)


def test_a_mask_without_any_row_gives_zeros_and_zero_gradients():
    hidden, weight, targets = operands(4, 3, 9)
    result = linear_log_prob(
        hidden.requires_grad_(),
        weight.requires_grad_(),
        targets,
        mask=torch.zeros(4, dtype=torch.bool),
    )
    result.log_prob.sum().backward()
    assert result.log_prob.tolist() == [0] * 4
    assert (hidden.grad == 0).all()
    assert (weight.grad == 0).all()


def test_vocabulary_shards_merge_by_their_log_sum_exps():
    hidden, weight, targets = operands(25, 10, 331)
    whole = linear_log_prob(hidden, weight, targets)
    cut, total, found = 0, [], torch.zeros(25)
    for shard in weight.split(100):
        here = (targets >= cut) & (targets < cut + len(shard))
        part = linear_log_prob(hidden, shard, (targets - cut).clamp(0, len(shard) - 1))
        found += (part.log_prob + part.log_sum_exp).where(here, 0)
        total.append(part.log_sum_exp)
        cut += len(shard)
    log_sum_exp = torch.stack(total).logsumexp(0)
    assert_close(log_sum_exp, whole.log_sum_exp, atol=1e-5, rtol=0)
    assert_close(found - log_sum_exp, whole.log_prob, atol=1e-5, rtol=0)


def test_neither_a_shift_of_the_logits_nor_the_order_of_the_vocabulary_matters():
    hidden, weight, targets = operands(12, 8, 90)
    result = linear_log_prob(hidden, weight, targets, entropy=True, budget=SMALL)
    shifted = linear_log_prob(
        hidden, weight, targets, bias=torch.full((90,), 7.0), entropy=True, budget=SMALL
    )
    assert_close(shifted.log_prob, result.log_prob, atol=1e-5, rtol=0)
    assert_close(shifted.entropy, result.entropy, atol=1e-5, rtol=0)
    assert_close(shifted.log_sum_exp, result.log_sum_exp + 7, atol=1e-5, rtol=0)
    order = torch.randperm(90, generator=torch.Generator().manual_seed(0))
    moved = linear_log_prob(
        hidden, weight[order], order.argsort()[targets], entropy=True, budget=SMALL
    )
    assert_close(list(moved), list(result), atol=1e-5, rtol=0)


def test_the_gradient_of_a_log_probability_sums_to_zero_over_the_vocabulary():
    hidden, weight, targets = operands(12, 8, 90)
    bias = torch.zeros(90, requires_grad=True)
    (
        linear_log_prob(hidden, weight, targets, bias=bias, budget=SMALL).log_prob
        * torch.linspace(-2, 1, 12)
    ).sum().backward()
    assert abs(bias.grad.sum().item()) < 1e-5


def test_more_rows_than_a_tile_has():
    hidden, weight, targets = operands(ROWS + 5, 4, 40)
    check_values(hidden, weight, targets, budget=2**26)


class Largest(TorchDispatchMode):
    """Remembers the bytes of the largest tensor that any operation made, views aside."""

    bytes = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        given = {
            leaf.untyped_storage().data_ptr()
            for leaf in tree_leaves((args, kwargs))
            if isinstance(leaf, torch.Tensor)
        }
        for leaf in tree_leaves(result):
            if isinstance(leaf, torch.Tensor) and leaf.untyped_storage().data_ptr() not in given:
                self.bytes = max(self.bytes, leaf.untyped_storage().nbytes())
        return result


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_no_tensor_grows_with_rows_times_vocabulary(dtype):
    rows, width, words, budget = 3000, 8, 2500, 2**18
    hidden, weight, targets = operands(rows, width, words, dtype)
    curve = Curve(None, 1.0, None)
    with Largest() as largest:  # an operator's body is not seen from outside
        *values, known = chunked.forward(hidden, weight, targets, curve, True, budget, "torch")
        chunked.backward(
            hidden,
            weight,
            targets,
            curve,
            known,
            Upstream(*values),
            Wanted(True, True, False),
            budget,
            "torch",
        )
    accumulator = 4 * width * max(rows, words)
    assert largest.bytes <= max(budget, accumulator), f"{largest.bytes} bytes at once"
    assert largest.bytes < 4 * rows * words / 50
    with Largest() as naive:
        reference(hidden, weight, targets)
    assert naive.bytes >= 4 * rows * words, "the counter does not count"


@pytest.mark.parametrize("kind", [torch.bfloat16, torch.float16], ids=str)
def test_autocast_rounds_float32_operands_and_nothing_else(kind):
    hidden, weight, targets = operands(12, 32, 90)
    bias, rounded = torch.linspace(-1, 1, 90), [hidden.to(kind), weight.to(kind)]
    expected = linear_log_prob(
        rounded[0].requires_grad_(),
        rounded[1],
        targets,
        bias=bias.to(kind),
        entropy=True,
        budget=SMALL,
    )
    (gradient,) = torch.autograd.grad(expected.log_prob.sum(), rounded[0])
    with torch.autocast("cpu", kind):
        ours = linear_log_prob(
            hidden.requires_grad_(), weight, targets, bias=bias, entropy=True, budget=SMALL
        )
        (own,) = torch.autograd.grad(ours.log_prob.sum(), hidden)
        definition = linear_log_prob(
            hidden, weight, targets, bias=bias, entropy=True, backend="reference"
        )
        logits = linear_logits(hidden, weight)
    assert all(torch.equal(one, other) for one, other in zip(ours, expected, strict=True))
    assert torch.equal(own, gradient.float())
    assert (ours.log_prob.dtype, own.dtype, logits.dtype) == (torch.float32,) * 3
    assert_close(list(definition), list(ours), atol=1e-5, rtol=0)
    assert_close(logits, rounded[0].detach().float() @ rounded[1].float().T)


def test_float64_operands_stay_under_autocast():
    hidden, weight, targets = operands(3, 8, 20, torch.float64)
    with torch.autocast("cpu", torch.bfloat16):
        ours = linear_log_prob(hidden, weight, targets).log_prob
    assert torch.equal(ours, linear_log_prob(hidden, weight, targets).log_prob)


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("entropy", [False, True])
@pytest.mark.filterwarnings(
    "ignore:The .grad attribute of a Tensor that is not a leaf"
)  # opcheck reads it on purpose
def test_it_is_an_operator_as_torch_wants_them(entropy, masked):
    hidden, weight, targets = operands(9, 6, 40)
    mask = torch.arange(9) % 3 != 0 if masked else None
    bias = torch.linspace(-1, 1, 40).requires_grad_()
    arguments = (
        hidden.requires_grad_(),
        weight.requires_grad_(),
        targets,
        bias,
        mask,
        entropy,
        0.7,
        5.0,
        SMALL,
        "torch",
        False,
    )
    done = torch.library.opcheck(torch.ops.rewardlab.linear_log_prob.default, arguments)
    assert set(done.values()) == {"SUCCESS"}


def test_it_compiles_as_one_graph():
    hidden, weight, targets = operands(9, 6, 40)
    inputs, mask = [hidden.requires_grad_(), weight.requires_grad_()], torch.arange(9) % 3 != 0

    def loss(hidden, weight):
        result = linear_log_prob(hidden, weight, targets, entropy=True, temperature=0.7, mask=mask)
        return result.log_prob.sum() + result.entropy.square().sum()

    compiled = torch.compile(loss, fullgraph=True, backend="aot_eager")(*inputs)
    assert torch.equal(compiled, loss(*inputs))
    ours, expected = (torch.autograd.grad(value, inputs) for value in (compiled, loss(*inputs)))
    assert all(torch.equal(one, other) for one, other in zip(ours, expected, strict=True))


def test_an_operand_that_needs_no_gradient_gets_none_through_the_operator():
    hidden, weight, targets = operands(9, 6, 40)
    with pytest.raises(RuntimeError, match="does not require grad"):
        linear_log_prob(hidden, weight, targets).log_prob.sum().backward()


@pytest.mark.parametrize("dtype", TYPES, ids=str)
@pytest.mark.parametrize("biased", [False, True])
def test_the_types_on_a_gpu_fit(cuda_fakes, dtype, biased):
    """No device is needed for that: fakes of CUDA tensors go through the same lines, and products
    with float32 results.
    """
    hidden, weight = (torch.empty(rows, 64, dtype=dtype, device="cuda") for rows in (300, 1000))
    targets = torch.zeros(300, dtype=torch.long, device="cuda")
    curve = Curve(torch.zeros(1000, device="cuda") if biased else None, 0.7, 5.0)
    *values, known = chunked.forward(hidden, weight, targets, curve, True, 2**18, "torch")
    arguments = (
        hidden,
        weight,
        targets,
        curve,
        known,
        Upstream(*values),
        Wanted(True, True, biased),
        2**18,
        "torch",
    )
    gradients = chunked.backward(*arguments)
    assert {value.dtype for value in values} == {torch.float32}
    assert [None if x is None else x.dtype for x in gradients] == [
        dtype,
        dtype,
        torch.float32 if biased else None,
    ]
    assert matmul.product_type(hidden, weight) == dtype, "the tensor cores' own type"
    assert linear_logits(hidden, weight).dtype == torch.float32


def test_operands_of_two_types_keep_theirs_in_the_gradients():
    hidden, weight, targets = operands(12, 8, 90)
    hidden = hidden.bfloat16().requires_grad_()
    check_values(hidden, weight.requires_grad_(), targets)
    linear_log_prob(hidden, weight, targets).log_prob.sum().backward()
    assert (hidden.grad.dtype, weight.grad.dtype) == (torch.bfloat16, torch.float32)


def test_logits_are_what_is_scored():
    hidden, weight, targets = operands(12, 8, 90, torch.bfloat16)
    bias = torch.linspace(-1, 1, 90)
    logits = linear_logits(hidden, weight, bias, temperature=0.6, softcap=4.0)
    scored = linear_log_prob(hidden, weight, targets, bias=bias, temperature=0.6, softcap=4.0)
    assert logits.dtype == torch.float32
    assert_close(
        logits.log_softmax(1).gather(1, targets[:, None])[:, 0], scored.log_prob, atol=1e-5, rtol=0
    )


def test_the_reference_backend_is_the_definition():
    hidden, weight, targets = operands(12, 8, 90)
    mask = torch.arange(12) > 2
    ours = linear_log_prob(hidden, weight, targets, mask=mask, entropy=True)
    theirs = linear_log_prob(hidden, weight, targets, mask=mask, entropy=True, backend="reference")
    assert_close(list(ours), list(theirs), atol=1e-5, rtol=0)
    assert linear_log_prob(hidden, weight, targets, mask=mask).entropy is None


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"targets": torch.tensor([0, 9])}, r"in \[0, 9\)"),
        ({"targets": torch.tensor([0, -100])}, "masked"),
        ({"targets": torch.tensor([0])}, r"targets \[1\]"),
        ({"weight": torch.zeros(9, 4)}, r"weight \[9, 4\]"),
        ({"bias": torch.zeros(8)}, r"bias \[8\]"),
        ({"mask": torch.ones(2)}, "bool"),
        ({"temperature": 0.0}, "above 0"),
        ({"backend": "cuda"}, "no such backend, only triton, torch, reference"),
        ({"backend": "triton"}, "the tensors are on cpu"),
        ({"batch_invariant": True}, "not batch invariant"),
    ],
)
def test_what_cannot_be_used_is_refused(change, message):
    given = {
        "hidden": torch.zeros(2, 3),
        "weight": torch.zeros(9, 3),
        "targets": torch.tensor([0, 1]),
    } | change
    hidden, weight, targets = given.pop("hidden"), given.pop("weight"), given.pop("targets")
    with pytest.raises(InputError, match=message):
        linear_log_prob(hidden, weight, targets, **given)
