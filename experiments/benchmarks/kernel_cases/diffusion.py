"""The Diffusion-DPO loss (T10).

It is small, where launches count, and large, where the memory's bandwidth does.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from kernel_cases import others
from kernel_cases.measuring import (
    Call,
    Errors,
    Measurements,
    Metrics,
    Providers,
    Result,
    Run,
    errors_of,
    in_turn,
    launches,
    measure,
    over,
)
from kernel_cases.writing import Case, aim, report
from rewardlab.kernels import diffusion_dpo_loss

SHAPES = {"latents": (8, 4, 128, 128), "video latents": (16, 16, 32, 128, 128)}
TINY = (2, 4, 8, 8)
BETA = 5000.0
MODE = "forward and backward"
HIDDEN = f"{MODE}, launches hidden"


class Pairs(NamedTuple):
    """Predictions of the policy and of the reference, and targets, as the loss takes them."""

    chosen: Tensor
    rejected: Tensor
    reference_chosen: Tensor
    reference_rejected: Tensor
    chosen_target: Tensor
    rejected_target: Tensor


def diffusion(run: Run, size: str, seconds: float) -> None:
    """Measure the Diffusion-DPO loss of bfloat16 predictions, forward and backward: T10.

    The gradient is of the policy's two predictions.
    """
    shape = TINY if run.quick else SHAPES[size]
    numbers = "x".join(map(str, shape))
    case = Case("T10", "Diffusion-DPO", MODE, f"{size} {numbers}")
    batches = _operands(run, shape)
    providers = _providers(run, batches)
    if size == "latents":
        measurements = measure(run, providers, seconds / 2)
        _report_small(run, case, batches, providers, measurements, seconds / 2)
    else:
        measurements = measure(run, providers, seconds)
        _report_large(run, case, batches, providers, measurements, seconds / 4)


def _operands(run: Run, shape: tuple[int, ...]) -> list[Pairs]:
    """Return as many operands as the caches cannot hold."""
    random = torch.Generator(run.device).manual_seed(0)
    batches = []
    for _ in range(run.copies(12 * math.prod(shape))):
        tensors = []
        for _ in Pairs._fields:
            noise = torch.randn(shape, generator=random, device=run.device)
            tensors.append(noise.bfloat16())
        batches.append(Pairs(*tensors))
    return batches


def _providers(run: Run, batches: list[Pairs]) -> Providers:
    ours = partial(diffusion_dpo_loss, beta=BETA)
    return {
        "ours": lambda: _gradients(batches, ours),
        "ours, plain torch": lambda: _gradients(batches, partial(ours, backend="torch")),
        "naive": lambda: _gradients(batches, naive),
        "naive, torch.compile": lambda: _gradients(batches, others.compiled(naive, run.quick)),
    }


def naive(c: Tensor, r: Tensor, rc: Tensor, rr: Tensor, tc: Tensor, tr: Tensor) -> Tensor:
    """Return the loss of each pair in float32; the arguments are those of `Pairs`."""
    of_chosen = _mean_square(c, tc) - _mean_square(rc, tc)
    of_rejected = _mean_square(r, tr) - _mean_square(rr, tr)
    return functional.softplus(BETA / 2 * (of_chosen - of_rejected))


def _mean_square(x: Tensor, y: Tensor) -> Tensor:
    difference = x.float() - y.float()
    return difference.square().flatten(1).mean(1)


def exact(operands: Pairs) -> Tensor:
    """Return the loss of each pair in float64."""
    wide = Pairs(*(tensor.double() for tensor in operands))
    of_chosen = _exact_gap(wide.chosen, wide.reference_chosen, wide.chosen_target)
    of_rejected = _exact_gap(wide.rejected, wide.reference_rejected, wide.rejected_target)
    return functional.softplus(BETA / 2 * (of_chosen - of_rejected))


def _exact_gap(prediction: Tensor, reference: Tensor, target: Tensor) -> Tensor:
    """Return the mean over each row of the squared errors less the reference's."""
    errors = (prediction - target) ** 2
    reference_errors = (reference - target) ** 2
    gaps = errors - reference_errors
    return gaps.flatten(1).mean(1)


def _gradients(batches: list[Pairs], loss: Callable[..., Tensor]) -> Call:
    def gradients_of(operands: Pairs) -> Result:
        chosen = operands.chosen.detach().requires_grad_()
        rejected = operands.rejected.detach().requires_grad_()
        losses = loss(*operands._replace(chosen=chosen, rejected=rejected))
        results = torch.autograd.grad(losses.sum(), [chosen, rejected])
        return {"losses": losses.detach(), "chosen": results[0], "rejected": results[1]}

    return in_turn(batches, gradients_of)


def _errors(operands: Pairs, measurements: Measurements) -> Errors:
    truth = exact(operands)

    def compare(result: Result) -> Metrics:
        gaps = result["losses"].double() - truth
        return {"largest error of a loss": float(gaps.abs().max())}

    return errors_of(measurements, compare)


def _report_small(
    run: Run,
    case: Case,
    batches: list[Pairs],
    providers: Providers,
    measurements: Measurements,
    seconds: float,
) -> None:
    report(run, case, measurements, _errors(batches[0], measurements))
    aim(run, "T10", "naive time over ours", case.shape, over(measurements, "naive"), ">= 5")
    count = launches(run, measurements["ours"].call)
    aim(run, "T10", "launches", case.shape, count, moonshot="<= 3")
    if run.cuda:
        queued = {name: providers[name] for name in ("ours", "naive", "naive, torch.compile")}
        hidden = measure(run, queued, seconds, queued=True)
        report(run, case._replace(mode=HIDDEN), hidden)


def _report_large(
    run: Run,
    case: Case,
    batches: list[Pairs],
    providers: Providers,
    measurements: Measurements,
    seconds: float,
) -> None:
    report(run, case, measurements)
    hidden = measure(run, {"ours": providers["ours"]}, seconds, queued=run.cuda)
    report(run, case._replace(mode=HIDDEN), hidden)
    # last: it writes over a prediction
    copy = measure(run, {"copy": partial(in_turn, batches, _copy)}, seconds, queued=run.cuda)
    copy_case = Case("T10", "copy of one operand", "launches hidden", case.shape)
    report(run, copy_case, copy, base="copy")
    # the loss reads or writes twelve operands, a copy two
    share = (12 / hidden["ours"].median) / (2 / copy["copy"].median)
    aim(run, "T10", "share of the copy's bandwidth", case.shape, share, ">= 0.85", ">= 0.92")
    aim(run, "T10", "naive time over ours", case.shape, over(measurements, "naive"))


def _copy(operands: Pairs) -> Result:
    operands.rejected.copy_(operands.chosen)
    return {}
