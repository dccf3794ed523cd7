"""linear_log_prob tile by tile: rows times a slice of the vocabulary, under a budget of bytes.

The outer loop is over the vocabulary, so each slice of the weight is read, and if need be
converted, once a pass, and each slice of its gradient is written once. What is done to a tile is
another module's: `eager` in plain torch, `triton` in one pass.
"""

from __future__ import annotations

from collections.abc import Iterator
from importlib import import_module
from types import ModuleType

import torch
from torch import Tensor

from rewardlab.kernels.linear_log_prob import eager
from rewardlab.kernels.linear_log_prob.eager import LOW, Curve, Running, Statistics, Upstream, at

ROWS = 1024  # of a tile on a CPU: enough to keep a matrix product busy
CUDA_ROWS = 8192  # and on a GPU
ALIGNED = 128  # columns: slices are a multiple of it where there is room


def steps(name: str) -> ModuleType:
    """The module of the two steps on a tile: "torch" or "triton"."""
    return eager if name == "torch" else import_module("rewardlab.kernels.linear_log_prob.triton")


@torch.no_grad()
def linear_logits(
    hidden: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    temperature: float = 1.0,
    softcap: float | None = None,
) -> Tensor:
    """The logits [N, V] that `linear_log_prob` scores by, in float32 and without a gradient: to
    sample few rows from.

    Example:
        >>> linear_logits(torch.ones(1, 2), torch.eye(2), temperature=0.5)
        tensor([[2., 2.]])
    """
    hidden, weight, bias = autocast_operands(hidden, weight, bias)
    logits = hidden.new_empty(len(hidden), len(weight), dtype=statistics_type(hidden, weight))
    with torch.autocast(hidden.device.type, enabled=False):
        products(hidden, weight, logits)
        return eager.finished(logits, Curve(bias, temperature, softcap))


def forward(
    hidden: Tensor,
    weight: Tensor,
    targets: Tensor,
    curve: Curve,
    entropy: bool,
    budget: int,
    backend: str,
) -> tuple[Tensor, Tensor, Tensor | None, Statistics]:
    """Return (log_prob, log_sum_exp, entropy or None, statistics), [N] each. `backend` is "torch",
    "triton" or "fused".
    """
    targets = targets.contiguous()  # kernels read one beside the other
    running = start(hidden, weight, targets, entropy)
    if backend == "fused":
        import_module("rewardlab.kernels.linear_log_prob.fused").fused(
            hidden, weight, targets, curve, running
        )
        return finish(running)
    step = steps(backend)
    row_slices, walk = _walk(hidden, weight, curve, budget, step.blocks(hidden.device, False))
    sliced = [(hidden[rows], targets[rows], Running(*at(running, rows))) for rows in row_slices]  # type: ignore[arg-type]
    for columns, part, part_curve in walk:
        for rows, its_targets, its_running in sliced:
            logits = step.finished(product(rows, part.T), part_curve)
            step.add(logits, part_curve, its_targets, columns.start, its_running)
            del logits  # or it is there beside the next
    return finish(running)


def backward(
    hidden: Tensor,
    weight: Tensor,
    targets: Tensor,
    curve: Curve,
    known: Statistics,
    upstream: Upstream,
    wanted: tuple[bool, bool, bool],
    budget: int,
    backend: str,
) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
    """Return the gradients of hidden, weight and bias, those that are wanted, each in its operand's
    type.
    """
    kind = statistics_type(hidden, weight)
    step = steps(backend)
    targets = targets.contiguous()
    d_hidden = torch.zeros(hidden.shape, dtype=kind, device=hidden.device) if wanted[0] else None
    d_weight = (
        torch.empty_like(weight, memory_format=torch.contiguous_format) if wanted[1] else None
    )
    d_bias = torch.zeros(len(weight), dtype=kind, device=hidden.device) if wanted[2] else None
    row_slices, walk = _walk(
        hidden, weight, curve, budget, step.blocks(hidden.device, True), wanted[1], half=False
    )
    for columns, part, part_curve in walk:
        d_part = None
        if d_weight is not None:
            d_part = (
                d_weight[columns].zero_()
                if d_weight.dtype == kind
                else torch.zeros_like(part, dtype=kind)
            )
        for rows in row_slices:
            logits = step.finished(product(hidden[rows], part.T), part_curve)
            of_rows = Statistics(*at(known, rows)), Upstream(*at(upstream, rows))  # type: ignore[arg-type]
            result = (
                kind if d_bias is not None else part.dtype
            )  # a bias's gradient is summed before it is rounded
            slope = step.gradient(
                logits, part_curve, targets[rows], columns.start, *of_rows, None, result
            )
            if d_bias is not None:
                d_bias[columns] += slope.sum(0)
            slope = slope.to(part.dtype)
            if d_hidden is not None:
                add_product(d_hidden[rows], slope, part)
            if d_part is not None:
                add_product(d_part, slope.T, hidden[rows].to(part.dtype))
            del logits, slope
        if d_weight is not None and d_part is not None and d_weight.dtype != kind:
            d_weight[columns] = d_part
    bias = curve.bias
    return (
        None if d_hidden is None else d_hidden.to(hidden.dtype),
        d_weight,
        None if d_bias is None or bias is None else d_bias.to(bias.dtype),
    )


def start(hidden: Tensor, weight: Tensor, targets: Tensor, entropy: bool) -> Running:
    """What is known of rows before the first tile; a target that there is not makes the row's score
    NaN.
    """
    valid = (targets >= 0) & (targets < len(weight))
    score = torch.zeros(
        len(hidden), dtype=statistics_type(hidden, weight), device=hidden.device
    ).masked_fill_(~valid, torch.nan)
    return Running(
        score,
        torch.full_like(score, LOW),
        torch.zeros_like(score),
        torch.zeros_like(score) if entropy else None,
    )


def finish(running: Running) -> tuple[Tensor, Tensor, Tensor | None, Statistics]:
    """Make (log_prob, log_sum_exp, entropy or None, statistics) of what is known after the last
    tile.
    """
    score, peak, mass, moment = running
    log_mass = mass.log()
    known = Statistics(peak, log_mass, torch.zeros_like(mass) if moment is None else moment / mass)
    return (
        score - peak - log_mass,
        peak + log_mass,
        None if moment is None else log_mass - known.mean,
        known,
    )


def statistics_type(hidden: Tensor, weight: Tensor) -> torch.dtype:
    """float64 for float64 operands, else float32."""
    return torch.promote_types(torch.promote_types(hidden.dtype, weight.dtype), torch.float32)


def operand_type(hidden: Tensor, weight: Tensor, *, half: bool = True) -> torch.dtype:
    """The type that products are taken in: the operands' own where the device keeps a float32
    accumulator of them.

    Elsewhere it is float32. Gradients never are float16 (`half=False`): what is small in them would
    vanish.
    """
    native = (torch.bfloat16, torch.float16) if half else (torch.bfloat16,)
    if hidden.is_cuda and hidden.dtype == weight.dtype and hidden.dtype in native:
        return hidden.dtype
    return statistics_type(hidden, weight)


def product(a: Tensor, b: Tensor) -> Tensor:
    """The product a · b from a float32 accumulator that is never rounded, in a fresh tensor and in
    b's type of arithmetic.
    """
    a = a.to(b.dtype)
    return torch.mm(a, b, out_dtype=torch.float32) if b.dtype.itemsize == 2 else a @ b


def add_product(total: Tensor, a: Tensor, b: Tensor) -> None:
    """Add a · b to `total` in float32, in place.

    Example:
        >>> add_product(total := torch.ones(1, 1), torch.ones(1, 2), torch.ones(2, 1))
        >>> total
        tensor([[3.]])
    """
    if b.dtype.itemsize == 2:
        torch.addmm(total, a, b, out_dtype=torch.float32, out=total)
    else:
        total.addmm_(a, b)


def products(hidden: Tensor, weight: Tensor, out: Tensor) -> None:
    """Write hidden · weightᵀ [N, V] into `out`; a weight that has to be converted is so slice by
    slice.
    """
    kind = operand_type(hidden, weight)
    hidden = hidden.to(kind)
    if kind.itemsize == 2:
        torch.mm(hidden, weight.T, out_dtype=torch.float32, out=out)
        return
    size = len(weight) if weight.dtype == kind else max(1, 2**22 // max(1, weight.shape[1]))
    for columns in _slices(len(weight), size):
        torch.mm(hidden, weight[columns].to(kind).T, out=out[:, columns])


def autocast_operands(
    hidden: Tensor, weight: Tensor, bias: Tensor | None
) -> tuple[Tensor, Tensor, Tensor | None]:
    """Under autocast, float32 and half operands become its type, as torch's linear layers' do;
    float64 ones stay.
    """
    device = hidden.device.type
    if not torch.amp.is_autocast_available(device) or not torch.is_autocast_enabled(device):
        return hidden, weight, bias
    kind = torch.get_autocast_dtype(device)
    cast = [
        x if x is None or x.dtype == torch.float64 else x.to(kind) for x in (hidden, weight, bias)
    ]
    return cast[0], cast[1], cast[2]  # type: ignore[return-value]


def _walk(
    hidden: Tensor,
    weight: Tensor,
    curve: Curve,
    budget: int,
    blocks: int,
    gradient: bool = False,
    half: bool = True,
) -> tuple[list[slice], Iterator[tuple[slice, Tensor, Curve]]]:
    """Return the slices of rows, and a walk over the vocabulary: each slice, its weights in the
    product's type, its curve.

    The workspace is `blocks` tiles, and beside them the slice's weights if they are converted, and
    their gradient. Autocast, which would round the products, is off during the walk.
    """
    kind = operand_type(hidden, weight, half=half)
    item = statistics_type(hidden, weight).itemsize
    row_count = max(
        1,
        min(
            len(hidden), CUDA_ROWS if hidden.is_cuda else ROWS, budget // (blocks * ALIGNED * item)
        ),
    )
    beside = hidden.shape[1] * ((weight.dtype != kind) + gradient)
    column_count = max(1, budget // (item * (blocks * row_count + beside)))
    column_count -= column_count % ALIGNED if column_count > ALIGNED else 0
    return list(_slices(len(hidden), row_count)), _columns(
        weight, curve, kind, column_count, hidden.device
    )


def _columns(
    weight: Tensor, curve: Curve, kind: torch.dtype, count: int, device: torch.device
) -> Iterator[tuple[slice, Tensor, Curve]]:
    with torch.autocast(device.type, enabled=False):
        for columns in _slices(len(weight), count):
            part_curve = curve if curve.bias is None else curve._replace(bias=curve.bias[columns])
            yield columns, weight[columns].to(kind), part_curve


def _slices(count: int, size: int) -> Iterator[slice]:
    return (slice(start, min(start + size, count)) for start in range(0, count, size))
