"""linear_log_prob as two operators of torch's own kind.

They are opaque to the compiler, with fakes, autograd and autocast. `backend` is "torch", "triton"
(the same tiles, each step on one a single pass) or "auto". `batch_invariant` asks for the fused
forward pass, whose tiles never reach memory.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.library import Library

from rewardlab.errors import InputError
from rewardlab.kernels.dispatch import chosen, triton_hindrance
from rewardlab.kernels.linear_log_prob.chunked import Wanted, backward, forward
from rewardlab.kernels.linear_log_prob.eager import Curve, Statistics, Upstream, select_rows
from rewardlab.kernels.linear_log_prob.matmul import autocast_operands, statistics_type
from rewardlab.kernels.operators import operator

_OPERANDS = "Tensor hidden, Tensor weight, Tensor targets, Tensor? bias, Tensor? mask"
_SETTINGS = "float temperature, float? softcap, int budget, str backend, bool batch_invariant"
_FORWARD = f"({_OPERANDS}, bool entropy, {_SETTINGS}) -> (Tensor, Tensor, Tensor, Tensor)"
# a, b and h are the gradients of log_prob, log_sum_exp and entropy
_UPSTREAM = "Tensor statistics, Tensor? a, Tensor? b, Tensor? h, bool[] wanted"
_BACKWARD = f"({_OPERANDS}, {_UPSTREAM}, {_SETTINGS}) -> (Tensor, Tensor, Tensor)"
_library: Any = Library("rewardlab", "FRAGMENT")  # type: ignore[no-untyped-call]


class Live(NamedTuple):
    """The rows that count: their hidden states, targets and numbers, which are None if all do."""

    hidden: Tensor
    targets: Tensor
    rows: Tensor | None


@operator("linear_log_prob", _FORWARD)
def linear_log_prob_op(
    hidden: Tensor,
    weight: Tensor,
    targets: Tensor,
    bias: Tensor | None,
    mask: Tensor | None,
    entropy: bool,
    temperature: float,
    softcap: float | None,
    budget: int,
    backend: str,
    batch_invariant: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return log_prob, log_sum_exp and entropy [N], and what `backward` needs, [3, N].

    The entropy is [0] if it is not wanted.
    """
    live = select_live(hidden, targets, mask)
    check_targets(live.targets, len(weight))
    name = "fused" if batch_invariant else _tile_backend(hidden, weight, backend)
    curve = Curve(bias, temperature, softcap)
    results = forward(live.hidden, weight, live.targets, curve, entropy, budget, name)
    columns = [results.log_prob, results.log_sum_exp, *results.statistics]
    if results.entropy is not None:
        columns.append(results.entropy)
    table = torch.stack(columns)
    if live.rows is not None:
        whole = table.new_zeros(len(table), len(hidden))
        table = whole.index_copy_(1, live.rows, table)
    # results may not share memory
    entropies = table[5].clone() if entropy else table.new_empty(0)
    return table[0].clone(), table[1].clone(), entropies, table[2:5].clone()


@operator("linear_log_prob_backward", _BACKWARD)
def linear_log_prob_backward_op(
    hidden: Tensor,
    weight: Tensor,
    targets: Tensor,
    bias: Tensor | None,
    mask: Tensor | None,
    statistics: Tensor,
    a: Tensor | None,
    b: Tensor | None,
    h: Tensor | None,
    wanted: list[bool],
    temperature: float,
    softcap: float | None,
    budget: int,
    backend: str,
    batch_invariant: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the gradients of hidden, weight and bias, from those of the three results.

    A gradient that is not wanted is [0].
    """
    live = select_live(hidden, targets, mask)
    if a is None:
        a = torch.zeros_like(statistics[0])
    upstream = Upstream(a, b, h)
    columns = Statistics(*statistics)
    if live.rows is not None:
        upstream = select_rows(upstream, live.rows)
        columns = select_rows(columns, live.rows)
    curve = Curve(bias, temperature, softcap)
    name = _tile_backend(hidden, weight, backend)
    wants = Wanted(*wanted)
    of_hidden, of_weight, of_bias = backward(
        live.hidden, weight, live.targets, curve, columns, upstream, wants, budget, name
    )
    if live.rows is not None and of_hidden is not None:
        whole = torch.zeros_like(hidden, memory_format=torch.contiguous_format)
        of_hidden = whole.index_copy_(0, live.rows, of_hidden)
    return (
        _or_empty(of_hidden, statistics),
        _or_empty(of_weight, statistics),
        _or_empty(of_bias, statistics),
    )


def _or_empty(gradient: Tensor | None, statistics: Tensor) -> Tensor:
    """Return the gradient, or [0] without one: an operator's results are tensors."""
    return statistics.new_empty(0) if gradient is None else gradient


def hindrances(
    hidden: Tensor,
    weight: Tensor,
    targets: Tensor | None = None,
    *,
    batch_invariant: bool = False,
    **_: object,
) -> dict[str, str]:
    """Return why each backend of `linear_log_prob` cannot take these arguments, empty if it can.

    The backends are in order of preference.

    Example:
        >>> hindrances(torch.eye(2), torch.eye(2))["torch"]
        ''
    """
    triton = triton_hindrance(hidden.device)
    if not triton and torch.float64 in (hidden.dtype, weight.dtype):
        triton = "the operands are float64; its statistics are float32"
    library = "a library's matrix product is not batch invariant" if batch_invariant else ""
    return {"triton": triton, "torch": library, "reference": library}


def _tile_backend(hidden: Tensor, weight: Tensor, backend: str) -> str:
    """Return the backend of the tiles' steps; the reference is no operator."""
    if backend in ("torch", "triton"):
        return backend
    reasons = hindrances(hidden, weight)
    del reasons["reference"]
    return chosen("linear_log_prob", reasons, None if backend == "auto" else backend)


def select_live(hidden: Tensor, targets: Tensor, mask: Tensor | None) -> Live:
    """Return the rows where the mask is true. On a GPU it waits for the mask.

    Example:
        >>> select_live(torch.eye(2), torch.tensor([3, 4]), torch.tensor([False, True]))[1:]
        (tensor([4]), tensor([1]))
    """
    if mask is None:
        return Live(hidden, targets, None)
    rows = mask.nonzero()[:, 0]
    return Live(hidden[rows], targets[rows], rows)


def check_targets(targets: Tensor, vocabulary: int) -> None:
    """Check, on a CPU, that the targets are in range.

    Elsewhere to look would be to wait, and their rows become NaN.

    Raises:
        InputError: if one is out of range.
    """
    if targets.device.type != "cpu" or not len(targets):
        return
    lowest = targets.min()
    highest = targets.max()
    if lowest < 0 or highest >= vocabulary:
        raise InputError(
            f"targets have to be in [0, {vocabulary}), rows of weight; "
            f"got {lowest} to {highest}. Should some be masked?"
        )


@torch.library.register_fake("rewardlab::linear_log_prob")
def _(
    hidden: Tensor,
    weight: Tensor,
    targets: Tensor,
    bias: Any,
    mask: Any,
    entropy: bool,
    *settings: Any,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    count = hidden.shape[0]
    dtype = statistics_type(hidden, weight)
    return (
        hidden.new_empty(count, dtype=dtype),
        hidden.new_empty(count, dtype=dtype),
        hidden.new_empty(count if entropy else 0, dtype=dtype),
        hidden.new_empty(3, count, dtype=dtype),
    )


@torch.library.register_fake("rewardlab::linear_log_prob_backward")
def _(
    hidden: Tensor,
    weight: Tensor,
    targets: Tensor,
    bias: Tensor | None,
    mask: Any,
    statistics: Tensor,
    a: Any,
    b: Any,
    h: Any,
    wanted: list[bool],
    *settings: Any,
) -> tuple[Tensor, Tensor, Tensor]:
    gradients = []
    for operand, is_wanted in zip((hidden, weight, bias), wanted, strict=True):
        if is_wanted and operand is not None:
            gradients.append(operand.new_empty(operand.shape))
        else:
            gradients.append(statistics.new_empty(0))
    return gradients[0], gradients[1], gradients[2]


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    hidden, weight, targets, bias, mask, ctx.entropy, *ctx.settings = inputs
    statistics = output[3]
    ctx.set_materialize_grads(False)
    ctx.mark_non_differentiable(statistics)
    ctx.save_for_backward(hidden, weight, targets, bias, mask, statistics)


def _backward(
    ctx: Any, a: Tensor | None, b: Tensor | None, h: Tensor | None, _: Any
) -> tuple[Any, ...]:
    needs_hidden, needs_weight, _, needs_bias, *_ = ctx.needs_input_grad
    wanted = [needs_hidden, needs_weight, needs_bias]
    of_hidden, of_weight, of_bias = linear_log_prob_backward_op(
        *ctx.saved_tensors, a, b, h if ctx.entropy else None, wanted, *ctx.settings
    )
    return (
        of_hidden if needs_hidden else None,
        of_weight if needs_weight else None,
        None,
        of_bias if needs_bias else None,
        None,
        None,
        *[None] * len(ctx.settings),
    )


torch.library.register_autograd(
    "rewardlab::linear_log_prob", _backward, setup_context=_setup_context
)


def _register_autocast(device: str) -> None:
    """Cast to autocast's type of the moment; torch's own registration knows only one for good."""
    key = getattr(torch._C.DispatchKey, f"Autocast{device}")

    def cast(
        _: Any, hidden: Tensor, weight: Tensor, targets: Tensor, bias: Tensor | None, *rest: Any
    ) -> Any:
        hidden, weight, bias = autocast_operands(hidden, weight, bias)
        with torch._C._ExcludeDispatchKeyGuard(torch._C.DispatchKeySet(key)):
            return torch.ops.rewardlab.linear_log_prob.default(hidden, weight, targets, bias, *rest)

    _library.impl("linear_log_prob", cast, f"Autocast{device}", with_keyset=True)


for _device in ("CPU", "CUDA"):
    _register_autocast(_device)
