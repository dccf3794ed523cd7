"""linear_loss against the same loss of linear_log_prob and, in float64, of the definition."""

from __future__ import annotations

import pytest
import torch
from torch.testing import assert_close
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from rewardlab.errors import InputError
from rewardlab.kernels import linear_log_prob
from rewardlab.kernels.linear_log_prob import chunked, eager, matmul
from rewardlab.kernels.linear_log_prob.reference import reference
from rewardlab.kernels.policy_loss import linear_loss
from rewardlab.kernels.policy_loss.walk import LinearLoss, chunks
from rewardlab.losses.policy_gradient import surrogate

ROWS, WIDTH, WORDS = 41, 12, 230
PLAIN = eager.Curve(None, 1.0, None)
OPTIONS = {"plain": {}, "curved": {"temperature": 0.7, "softcap": 5.0, "bias": True}}


def operands(dtype=torch.float64, rows=ROWS, words=WORDS, bias=False):
    random = torch.Generator().manual_seed(0)
    hidden = torch.randn(rows, WIDTH, generator=random, dtype=torch.float64).to(dtype)
    weight = (torch.randn(words, WIDTH, generator=random, dtype=torch.float64) * 3 / WIDTH**0.5).to(
        dtype
    )
    targets = torch.randint(words, (rows,), generator=random)
    given = (
        {"bias": torch.randn(words, generator=random, dtype=torch.float64).to(dtype)}
        if bias
        else {}
    )
    return hidden, weight, targets, given


def sft(log_prob, entropy, rows):
    return -log_prob.sum() / ROWS


def ppo(rows=ROWS, clip=0.2, live=None):
    """PPO's loss with a KL and an entropy bonus."""
    random = torch.Generator().manual_seed(1)
    hidden, weight, targets, _ = operands(rows=rows)
    now = reference(hidden, weight, targets)[0]
    old, other = now + 0.3 * torch.randn(2, rows, generator=random, dtype=torch.float64)
    advantages = torch.randn(rows, generator=random, dtype=torch.float64)
    weights = torch.rand(rows, generator=random, dtype=torch.float64) / rows
    weights = weights if live is None else weights.where(live, 0)

    def loss(log_prob, entropy, some):
        before, apart, gain, weight = (
            column[some].to(log_prob.dtype) for column in (old, other, advantages, weights)
        )
        ratio, apart = (log_prob - before).exp(), apart - log_prob
        steps = -torch.minimum(ratio * gain, ratio.clamp(1 - clip, 1 + clip) * gain)
        steps = steps + 0.04 * (apart.exp() - apart - 1)
        return (weight * (steps if entropy is None else steps - 0.01 * entropy)).sum()

    return loss


def loops(log_prob, entropy, rows):
    """The loops' own functions, which take [B, T]."""
    old, there = -6 - rows % 3, torch.ones(1, len(rows), dtype=torch.bool)
    return (
        surrogate(log_prob[None], old[None].float(), torch.ones(1, 1), there, clip=0.2)[0].sum()
        / ROWS
    )


def sequences(pairs=3):
    """DPO's loss: rows of one sequence are neighbours, sequences n and n + pairs are one pair."""

    def loss(log_prob, entropy, rows):
        totals = log_prob.new_zeros(2 * pairs).index_add(0, rows // 6, log_prob)
        there = torch.zeros(2 * pairs, dtype=torch.bool).index_fill(0, rows // 6, True)[:pairs]
        return (
            -torch.nn.functional.logsigmoid(0.1 * (totals[:pairs] - totals[pairs:]))[there].sum()
            / pairs
        )

    return loss


LOSSES = {"sft": (sft, False), "ppo": (ppo(), False), "ppo with entropy": (ppo(), True)}


def both(loss, entropy, hidden, weight, targets, mask=None, chunk=7, **options):
    """(value, gradients) of linear_loss and of the loss of linear_log_prob."""
    leaves = [hidden, weight, *([options["bias"]] if "bias" in options else [])]
    copies = [x.detach().clone().requires_grad_() for x in leaves]
    value, scored = linear_loss(
        hidden.requires_grad_(),
        weight.requires_grad_(),
        targets,
        loss,
        mask=mask,
        entropy=entropy,
        rows=chunk,
        **options,
    )
    ours = torch.autograd.grad(3 * value, leaves)
    given = options | dict(zip(["bias"], copies[2:], strict=False))
    given.pop("groups", None)
    plain = linear_log_prob(copies[0], copies[1], targets, mask=mask, entropy=entropy, **given)
    rows = torch.arange(len(targets)) if mask is None else mask.nonzero()[:, 0]
    expected = loss(plain.log_prob[rows], plain.entropy[rows] if entropy else None, rows)
    for one, other in zip(scored, plain, strict=True):
        assert (one is None) == (other is None)
        assert one is None or not one.requires_grad
    assert_close(scored.log_prob, plain.log_prob.detach(), atol=1e-5, rtol=0)
    return (value, ours), (expected, torch.autograd.grad(3 * expected, copies))


def check(ours, theirs, limit):
    for one, other in zip((ours[0], *ours[1]), (theirs[0], *theirs[1]), strict=True):
        assert one.dtype == other.dtype
        assert ((one - other).norm() / other.norm()).item() < limit


@pytest.mark.parametrize(
    ("dtype", "limit"), [(torch.float64, 1e-12), (torch.float32, 1e-6)], ids=str
)
@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
@pytest.mark.parametrize("loss", LOSSES.values(), ids=LOSSES)
def test_it_is_the_loss_of_the_log_probabilities(loss, options, masked, dtype, limit):
    """The other's gradients are gradchecked in test_linear_log_prob.py."""
    options = dict(options)
    hidden, weight, targets, given = operands(dtype, bias=options.pop("bias", False))
    given = {name: x.requires_grad_() for name, x in given.items()}
    mask = torch.arange(ROWS) % 3 != 0 if masked else None
    check(*both(*loss, hidden, weight, targets, mask, **options, **given), limit)


def test_it_takes_the_loops_own_losses():
    hidden, weight, targets, _ = operands(torch.float32)
    check(*both(loops, False, hidden, weight, targets), 2e-6)


@pytest.mark.parametrize("chunk", [1, 12, 25, 1000])
def test_groups_are_never_divided(chunk):
    hidden, weight, targets, _ = operands(rows=36)
    pairs, mask = torch.arange(36) // 6 % 3, torch.arange(36) % 5 != 0
    check(
        *both(sequences(), False, hidden, weight, targets, mask, chunk=chunk, groups=pairs), 1e-12
    )


@pytest.mark.parametrize(
    ("chunk", "parts"), [(11, [36]), (12, [12, 24]), (23, [12, 24]), (24, [12, 24]), (36, [36])]
)
def test_groups_that_do_not_fit_are_taken_together_and_the_others_in_chunks(chunk, parts):
    """The workspace stays what was allowed, for a product more; one group has 12 rows, the other
    24.
    """
    hidden, weight, targets, _ = operands(rows=36)
    seen, plain = [], sequences()

    def loss(log_prob, entropy, rows):
        seen.append(len(rows))
        return plain(log_prob, entropy, rows)

    check(
        *both(
            loss,
            False,
            hidden,
            weight,
            targets,
            chunk=chunk,
            groups=(torch.arange(36) // 6 % 3).clamp_max(1),
        ),
        1e-12,
    )
    assert seen[:-1] == parts, "the last call is of the other way"


def test_chunks_hold_whole_groups_and_every_row_once():
    groups = torch.randint(9, (100,), generator=torch.Generator().manual_seed(0))
    mask = torch.arange(100) % 4 > 0
    live = mask.nonzero()[:, 0]
    parts = chunks(live, groups, 20)
    assert torch.equal(torch.cat(parts).sort().values, live)
    owners = [set(groups[rows].tolist()) for rows in parts]
    assert sum(map(len, owners)) == len(set().union(*owners)), "a group in two chunks"
    assert len(parts) > 3
    assert all(len(rows) <= 20 for rows in parts)
    ten = torch.arange(10)
    assert [len(rows) for rows in chunks(ten, None, 4)] == [4, 4, 2]
    assert [len(rows) for rows in chunks(ten, torch.zeros(10).long(), 4)] == [10]
    assert chunks(ten[:0], None, 4) == []


def test_bfloat16_gradients_are_rounded_once():
    """Within 3e-3 of float64's on the same inputs, over 41 chunks: an accumulator in bfloat16 would
    be 1e-2 off.
    """
    hidden, weight, targets, _ = operands(torch.bfloat16)
    (value, ours), _ = both(ppo(), True, hidden, weight, targets, chunk=1)
    _, (expected, theirs) = both(
        ppo(), True, hidden.detach().double(), weight.detach().double(), targets
    )
    assert value.dtype == torch.float32
    assert abs(value.item() - expected.item()) < 1e-6
    for one, other in zip(ours, theirs, strict=True):
        assert one.dtype == torch.bfloat16
        assert ((one.double() - other).norm() / other.norm()).item() < 3e-3


class Products(TorchDispatchMode):
    """Counts multiplications of matrix products, and the bytes of the largest fresh tensor."""

    multiplications = bytes = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        name = function.overloadpacket.__name__
        if name in ("mm", "addmm", "addmm_"):
            a, b = args[-2:]
            self.multiplications += a.shape[0] * a.shape[1] * b.shape[1]
        given = {
            leaf.untyped_storage().data_ptr()
            for leaf in tree_leaves((args, kwargs))
            if isinstance(leaf, torch.Tensor)
        }
        for leaf in tree_leaves(result):
            if isinstance(leaf, torch.Tensor) and leaf.untyped_storage().data_ptr() not in given:
                self.bytes = max(self.bytes, leaf.untyped_storage().nbytes())
        return result


def counted(loss, frozen=False, **options):
    hidden, weight, targets, _ = operands(torch.float32)
    with Products() as products:
        hidden.requires_grad_()
        value, _ = linear_loss(
            hidden, weight if frozen else weight.requires_grad_(), targets, loss, rows=10, **options
        )
        value.backward()
    return products.multiplications / (ROWS * WIDTH * WORDS)


def test_three_products_and_two_with_a_frozen_head():
    hidden, weight, targets, _ = operands(torch.float32)
    with Products() as four:
        *_, known = chunked.forward(hidden, weight, targets, PLAIN, False, 2**26, "torch")
        upstream = eager.Upstream(torch.ones(ROWS))
        chunked.backward(
            hidden,
            weight,
            targets,
            PLAIN,
            known,
            upstream,
            chunked.Wanted(True, True, False),
            2**26,
            "torch",
        )
    assert four.multiplications == 4 * ROWS * WIDTH * WORDS
    assert counted(sft) == 3
    assert counted(sft, frozen=True) == 2


def test_rows_without_a_derivative_cost_one_product_and_masked_rows_none():
    live = torch.arange(ROWS) % 4 == 0
    share = live.sum().item() / ROWS
    assert counted(ppo(live=live)) == pytest.approx(1 + 2 * share)
    assert counted(ppo(live=live), mask=live) == pytest.approx(3 * share)
    assert counted(lambda log_prob, entropy, rows: 0 * log_prob.sum()) == 1
    assert counted(lambda log_prob, entropy, rows: -entropy.sum(), entropy=True) == 3


def test_without_a_gradient_there_is_one_product():
    hidden, weight, targets, _ = operands(torch.float32)
    with Products() as products, torch.no_grad():
        value, _ = linear_loss(hidden.requires_grad_(), weight.requires_grad_(), targets, sft)
    assert products.multiplications == ROWS * WIDTH * WORDS
    assert not value.requires_grad
    assert not linear_loss(hidden.detach(), weight.detach(), targets, sft)[0].requires_grad


def test_masked_rows_never_reach_the_head():
    mask = torch.arange(ROWS) % 3 != 0
    hidden, weight, targets, _ = operands(torch.float32)
    results = []
    for given in (hidden, hidden.masked_fill(~mask[:, None], torch.nan)):
        leaves = given.clone().requires_grad_(), weight.clone().requires_grad_()
        value, scored = linear_loss(
            *leaves, targets.masked_fill(~mask, -100), ppo(), mask=mask, entropy=True, rows=9
        )
        value.backward()
        assert (leaves[0].grad[~mask] == 0).all()
        assert all((column[~mask] == 0).all() for column in scored)
        results.append([value, *(leaf.grad for leaf in leaves)])
    assert all(torch.equal(one, other) for one, other in zip(*results, strict=True))


def test_a_mask_without_any_row_gives_zero_and_zero_gradients():
    hidden, weight, targets, _ = operands(torch.float32)
    value, _ = linear_loss(
        hidden.requires_grad_(),
        weight.requires_grad_(),
        targets,
        sft,
        mask=torch.zeros(ROWS).bool(),
    )
    value.backward()
    assert value.item() == 0
    assert (hidden.grad == 0).all()
    assert (weight.grad == 0).all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_no_tensor_grows_with_rows_times_vocabulary(dtype):
    rows, words, budget = 1000, 2500, 2**18
    hidden, weight, targets, _ = operands(dtype, rows, words)
    inputs, loss = (hidden.requires_grad_(), weight.requires_grad_(), targets), ppo(rows)
    with Products() as seen:
        value, _ = linear_loss(*inputs, loss, entropy=True, budget=budget)
        value.backward()
    assert seen.bytes <= max(budget, 4 * WIDTH * words)
    assert seen.bytes < 4 * rows * words / 35


def test_autocast_rounds_float32_operands_and_nothing_else():
    hidden, weight, targets, _ = operands(torch.float32)
    rounded = hidden.bfloat16().requires_grad_(), weight.bfloat16()
    expected = linear_loss(*rounded, targets, ppo(), entropy=True, rows=9)[0]
    (gradient,) = torch.autograd.grad(expected, rounded[0])
    with torch.autocast("cpu", torch.bfloat16):
        value = linear_loss(hidden.requires_grad_(), weight, targets, ppo(), entropy=True, rows=9)[
            0
        ]
    (own,) = torch.autograd.grad(value, hidden)
    assert torch.equal(value, expected)
    assert torch.equal(own, gradient.float())


@pytest.mark.parametrize("masked", [False, True])
def test_it_compiles_as_one_graph(masked):
    hidden, weight, targets, _ = operands(torch.float32)
    mask, loss = torch.arange(ROWS) % 3 != 0 if masked else None, ppo()

    def value(hidden, weight):
        return linear_loss(hidden, weight, targets, loss, mask=mask, entropy=True, temperature=0.7)[
            0
        ]

    inputs = [hidden.requires_grad_(), weight.requires_grad_()]
    with torch._dynamo.config.patch(capture_dynamic_output_shape_ops=True):
        compiled = torch.compile(value, fullgraph=True, backend="aot_eager")(*inputs)
        ours = torch.autograd.grad(compiled, inputs)
    eager_value = value(*inputs)
    assert_close(compiled, eager_value, rtol=1e-6, atol=1e-7)
    assert_close(ours, torch.autograd.grad(eager_value, inputs), rtol=1e-5, atol=1e-7)


def test_the_reference_backend_is_the_definition():
    hidden, weight, targets, _ = operands()
    inputs = [hidden.requires_grad_(), weight.requires_grad_()]
    options = {"mask": torch.arange(ROWS) > 5, "entropy": True}
    ours, theirs = (
        linear_loss(*inputs, targets, ppo(), backend=name, **options)[0]
        for name in ("torch", "reference")
    )
    assert_close(ours, theirs)
    assert_close(torch.autograd.grad(ours, inputs), torch.autograd.grad(theirs, inputs))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("biased", [False, True])
def test_the_types_on_a_gpu_fit(cuda_fakes, dtype, biased):
    """No device is needed for that: fakes of CUDA tensors go through the same lines, but for those
    that ask for values.
    """
    hidden, weight = (
        torch.empty(rows, 64, dtype=dtype, device="cuda", requires_grad=True)
        for rows in (300, 1000)
    )
    bias = torch.zeros(1000, device="cuda") if biased else None
    part, slope = hidden.detach()[:40], torch.empty(40, 1000, device="cuda")
    from rewardlab.kernels.policy_loss.walk import _Gradients

    gradients = _Gradients(
        hidden.detach(), weight.detach(), bias, chunked.Wanted(True, True, biased)
    )
    gradients.add(slope.to(gradients.slope_type), part, torch.arange(40, device="cuda"))
    kept = torch.float32 if dtype == torch.float16 else dtype
    assert [x if x is None else x.dtype for x in gradients.results()] == [
        kept,
        kept,
        torch.float32 if biased else None,
    ]
    products = torch.empty(40, 1000, device="cuda")
    matmul.write_products(part, weight.detach(), products)
    assert eager.finished(products, eager.Curve(bias, 0.7, 5.0)).dtype == torch.float32


def test_a_second_backward_pass_is_refused():
    hidden, weight, targets, _ = operands(torch.float32)
    value, _ = linear_loss(hidden.requires_grad_(), weight, targets, sft)
    value.backward(retain_graph=True)
    with pytest.raises(InputError, match="one backward pass"):
        value.backward()
    assert issubclass(LinearLoss, torch.autograd.Function)


def test_a_loss_with_a_trained_constant_is_refused():
    hidden, weight, targets, _ = operands(torch.float32)
    scale = torch.ones(1, requires_grad=True)
    with pytest.raises(InputError, match=r"another tensor that needs a gradient, \[1\]"):
        linear_loss(
            hidden.requires_grad_(),
            weight,
            targets,
            lambda log_prob, *_: (scale.exp() * log_prob).sum(),
        )
    linear_loss(
        hidden, weight, targets, lambda log_prob, *_: (scale.detach().exp() * log_prob).sum()
    )


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"loss": lambda log_prob, *_: log_prob}, r"scalar.*got \[2\]"),
        ({"loss": lambda log_prob, *_: 1.0}, "got float"),
        ({"groups": torch.zeros(3).long()}, r"groups \[2\]"),
        ({"rows": 0}, "at least 1"),
        ({"targets": torch.tensor([0, 9])}, r"in \[0, 9\)"),
        ({"weight": torch.zeros(9, 4)}, r"weight \[9, 4\]"),
        ({"backend": "cuda"}, "no such backend"),
        ({"backend": "triton"}, "the tensors are on cpu"),
    ],
)
def test_what_cannot_be_used_is_refused(change, message):
    given = {
        "hidden": torch.zeros(2, 3),
        "weight": torch.zeros(9, 3),
        "targets": torch.tensor([0, 1]),
        "loss": sft,
    } | change
    with pytest.raises(InputError, match=message):
        linear_loss(**given)


def test_float16_gradients_survive_until_the_loss_scale_has_lifted_them():
    """Of a token's 1e-5 nothing is left in float16, whose smallest number is 6e-8, before a scale
    of 65,536 makes it 0.65.
    """
    generator = torch.Generator().manual_seed(0)
    hidden, weight = (
        torch.randn(64, 16, generator=generator).half(),
        torch.randn(4000, 16, generator=generator).half(),
    )
    targets = torch.randint(4000, (64,), generator=generator)
    found = []
    for operands in ((hidden, weight), (hidden.float(), weight.float())):
        leaves = [operand.clone().requires_grad_() for operand in operands]
        value, _ = linear_loss(
            *leaves, targets, lambda log_prob, entropy, rows: -1e-5 * log_prob.sum()
        )
        (65536 * value).backward()
        found.append([leaf.grad.float() for leaf in leaves])
        assert [leaf.grad.dtype for leaf in leaves] == [operand.dtype for operand in operands]
    for own, exact in zip(*found, strict=True):
        assert (own - exact).norm() < 1e-3 * exact.norm()
