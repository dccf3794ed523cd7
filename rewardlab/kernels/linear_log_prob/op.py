"""linear_log_prob as two operators of torch's own kind: opaque to the compiler, with fakes,
autograd and autocast.

`backend` is "torch", "triton" (the same tiles, each step on one a single pass) or "auto";
`batch_invariant` asks for the fused forward pass, whose tiles never reach memory.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.library import Library

from rewardlab.errors import InputError
from rewardlab.kernels.dispatch import chosen, triton_hindrance
from rewardlab.kernels.linear_log_prob.chunked import (
    autocast_operands,
    backward,
    forward,
    statistics_type,
)
from rewardlab.kernels.linear_log_prob.eager import Curve, Statistics, Upstream, at
from rewardlab.kernels.operators import operator

_OPERANDS = "Tensor hidden, Tensor weight, Tensor targets, Tensor? bias, Tensor? mask"
_SETTINGS = "float temperature, float? softcap, int budget, str backend, bool batch_invariant"
_FORWARD = f"({_OPERANDS}, bool entropy, {_SETTINGS}) -> (Tensor, Tensor, Tensor, Tensor)"
_BACKWARD = (
    f"({_OPERANDS}, Tensor known, Tensor? a, Tensor? b, Tensor? h, bool[] wanted, {_SETTINGS})"
    " -> (Tensor, Tensor, Tensor)"
)
_library: Any = Library("rewardlab", "FRAGMENT")  # type: ignore[no-untyped-call]


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
    """Return log_prob, log_sum_exp and entropy [N] (the last [0] if it is not wanted), and what
    `backward` needs, [3, N].
    """
    live, targets, rows = compacted(hidden, targets, mask)
    check_targets(targets, len(weight))
    name = "fused" if batch_invariant else _chosen(hidden, weight, backend)
    curve = Curve(bias, temperature, softcap)
    log_prob, log_sum_exp, spread, known = forward(
        live, weight, targets, curve, entropy, budget, name
    )
    found = torch.stack([log_prob, log_sum_exp, *([] if spread is None else [spread]), *known])
    if rows is not None:
        found = found.new_zeros(len(found), len(hidden)).index_copy_(1, rows, found)
    first = [row.clone() for row in found[:-3]]  # results may not share memory
    return first[0], first[1], first[2] if entropy else found.new_empty(0), found[-3:].clone()


@operator("linear_log_prob_backward", _BACKWARD)
def linear_log_prob_backward_op(
    hidden: Tensor,
    weight: Tensor,
    targets: Tensor,
    bias: Tensor | None,
    mask: Tensor | None,
    known: Tensor,
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
    """Return the gradients of hidden, weight and bias, [0] for those not wanted, from those of the
    three results.
    """
    live, targets, rows = compacted(hidden, targets, mask)
    upstream = Upstream(torch.zeros_like(known[0]) if a is None else a, b, h)
    columns = Statistics(*known)
    if rows is not None:
        # type: ignore[arg-type]
        upstream = Upstream(*at(upstream, rows))
        columns = Statistics(*at(columns, rows))
    which = (wanted[0], wanted[1], wanted[2])
    curve = Curve(bias, temperature, softcap)
    gradients = backward(
        live,
        weight,
        targets,
        curve,
        columns,
        upstream,
        which,
        budget,
        _chosen(hidden, weight, backend),
    )
    d_hidden, d_weight, d_bias = (
        known.new_empty(0) if each is None else each for each in gradients
    )
    if rows is not None and wanted[0]:
        d_hidden = torch.zeros_like(hidden, memory_format=torch.contiguous_format).index_copy_(
            0, rows, d_hidden
        )
    return d_hidden, d_weight, d_bias


def hindrances(
    hidden: Tensor,
    weight: Tensor,
    targets: Tensor | None = None,
    *,
    batch_invariant: bool = False,
    **_: object,
) -> dict[str, str]:
    """Why each backend of `linear_log_prob` cannot take these arguments, in order of preference;
    empty if it can.

    Example:
        >>> hindrances(torch.eye(2), torch.eye(2))["torch"]
        ''
    """
    triton = triton_hindrance(hidden.device)
    if not triton and torch.float64 in (hidden.dtype, weight.dtype):
        triton = "the operands are float64; its statistics are float32"
    library = "a library's matrix product is not batch invariant" if batch_invariant else ""
    return {"triton": triton, "torch": library, "reference": library}


def _chosen(hidden: Tensor, weight: Tensor, backend: str) -> str:
    """The backend of the tiles' steps; the reference is no operator."""
    if backend in ("torch", "triton"):
        return backend
    found = {
        name: reason for name, reason in hindrances(hidden, weight).items() if name != "reference"
    }
    return chosen("linear_log_prob", found, None if backend == "auto" else backend)


def compacted(
    hidden: Tensor, targets: Tensor, mask: Tensor | None
) -> tuple[Tensor, Tensor, Tensor | None]:
    """The rows that count, their targets and their numbers, which are None if all do. On a GPU it
    waits for the mask.

    Example:
        >>> compacted(torch.eye(2), torch.tensor([3, 4]), torch.tensor([False, True]))[1:]
        (tensor([4]), tensor([1]))
    """
    if mask is None:
        return hidden, targets, None
    rows = mask.nonzero()[:, 0]
    return hidden[rows], targets[rows], rows


def check_targets(targets: Tensor, words: int) -> None:
    """Make sure, on a CPU, that there are such targets. Elsewhere to look would be to wait, and
    their rows become NaN.

    Raises:
        InputError: if one is out of range.
    """
    if (
        targets.device.type == "cpu"
        and len(targets)
        and not 0 <= targets.min() <= targets.max() < words
    ):
        span = f"{targets.min()} to {targets.max()}"
        raise InputError(
            f"targets have to be in [0, {words}), rows of weight; got {span}. Should some be masked?"
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
    kind = statistics_type(hidden, weight)
    one, other = (hidden.new_empty(count, dtype=kind) for _ in range(2))
    return (
        one,
        other,
        hidden.new_empty(count if entropy else 0, dtype=kind),
        hidden.new_empty(3, count, dtype=kind),
    )


@torch.library.register_fake("rewardlab::linear_log_prob_backward")
def _(
    hidden: Tensor,
    weight: Tensor,
    targets: Tensor,
    bias: Tensor | None,
    mask: Any,
    known: Tensor,
    a: Any,
    b: Any,
    h: Any,
    wanted: list[bool],
    *settings: Any,
) -> tuple[Tensor, Tensor, Tensor]:
    operands = zip(wanted, (hidden, weight, bias), strict=True)
    found = [
        known.new_empty(0) if not is_wanted or x is None else x.new_empty(x.shape)
        for is_wanted, x in operands
    ]
    return found[0], found[1], found[2]


def _remember(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    hidden, weight, targets, bias, mask, ctx.entropy, *ctx.settings = inputs
    ctx.set_materialize_grads(False)
    ctx.mark_non_differentiable(output[3])
    ctx.save_for_backward(hidden, weight, targets, bias, mask, output[3])


def _differentiated(
    ctx: Any, a: Tensor | None, b: Tensor | None, h: Tensor | None, _: Any
) -> tuple[Any, ...]:
    *operands, bias, mask, known = ctx.saved_tensors
    wanted = [ctx.needs_input_grad[index] for index in (0, 1, 3)]
    h = h if ctx.entropy else None
    found = linear_log_prob_backward_op(
        *operands, bias, mask, known, a, b, h, wanted, *ctx.settings
    )
    d_hidden, d_weight, d_bias = (
        each if is_wanted else None for each, is_wanted in zip(found, wanted, strict=True)
    )
    return d_hidden, d_weight, None, d_bias, None, None, *[None] * len(ctx.settings)


torch.library.register_autograd(
    "rewardlab::linear_log_prob", _differentiated, setup_context=_remember
)


def _register_autocast(device: str) -> None:
    """Cast to autocast's type of the moment; torch's own registration knows only one type for good."""
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
