"""Gradients of a head: the backward pass alone (T6), and cross-entropy (T7)."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor

from kernel_cases import others
from kernel_cases.head_calls import backwards, gradients, matrix_product, our_mean, ours
from kernel_cases.head_data import Head, Mean, Score, heads, shape_label
from kernel_cases.head_errors import Upstream, exact, gradient_errors
from kernel_cases.measuring import MIB, Call, Providers, Run, error_of, measure
from kernel_cases.writing import Case, RatioAim, aim, aim_ratios, report

OVER_MM = RatioAim(
    "T6",
    "time over 3 torch.mm",
    "ours",
    "torch.mm",
    must="<= 1.15",
    moonshot="<= 1.05",
    products=3,
)
LIGER_OVER_OURS = RatioAim("T6", "Liger scaled CE's time over ours", "Liger scaled CE")
LIGER_BOUNDS = {"S1": ">= 1.5", "S3": ">= 3"}


def backward(run: Run, shape: str, seconds: float) -> None:
    """Measure the backward pass of log-probabilities from a gradient of each: T6.

    The logits are recomputed.
    """
    batches = heads(run, shape)
    label = shape_label(run, shape)
    a = batches[0].gain / len(batches[0].gain)
    measurements = measure(run, _backward_providers(run, batches, a), seconds)
    wide = a.double()
    upstream = Upstream(wide, torch.zeros_like(wide))
    errors = gradient_errors(batches[0], exact(batches[0]), upstream, measurements)
    case = Case("T6", "log-probability", "backward", label)
    report(run, case, measurements, errors, measurements["torch.mm"].median)
    aim_ratios(run, label, measurements, [OVER_MM])
    for operand in ("hidden", "weight"):
        metric = f"relative error of d {operand}"
        aim(run, "T6", metric, label, error_of(errors, "ours", metric), "<= 3e-3")
    aim_ratios(run, label, measurements, [LIGER_OVER_OURS])


def _backward_providers(run: Run, batches: list[Head], a: Tensor) -> Providers:
    naive = others.naive(False)
    scores: dict[str, Callable[[], Score]] = {
        "ours": partial(ours, False, budget=128 * MIB),
        "naive": partial(others.naive, False),
        "cut-cross-entropy": others.cut,
        "cut-cross-entropy, no filter": partial(others.cut, filter_eps=None),
        "verl": others.verl,
        "Liger scaled CE": partial(others.liger_scaled, False),
        "naive, torch.compile": partial(others.compiled, naive, run.quick),
    }

    def call(make: Callable[[], Score]) -> Call:
        return backwards(batches, make(), a)

    return _providers(batches, call, scores)


def cross_entropy(run: Run, shape: str, seconds: float) -> None:
    """Measure the mean negative log-probability of 4096 rows, forward and backward: T7."""
    batches = heads(run, shape, 4096)
    label = shape_label(run, shape, 4096)
    measurements = measure(run, _mean_providers(run, batches), seconds)
    truth = exact(batches[0])
    a = torch.full_like(truth.log_prob, -1 / len(truth.log_prob))
    upstream = Upstream(a, torch.zeros_like(a))
    errors = gradient_errors(batches[0], truth, upstream, measurements)
    case = Case("T7", "cross-entropy", "forward and backward", label)
    report(run, case, measurements, errors, measurements["torch.mm"].median)
    bound = LIGER_BOUNDS[shape]
    ratios = [
        RatioAim("T7", "Liger Triton's time over ours", "Liger Triton", must=bound),
        RatioAim("T7", "time over 3 torch.mm", "ours", "torch.mm", products=3),
    ]
    aim_ratios(run, label, measurements, ratios)


def _mean_providers(run: Run, batches: list[Head]) -> Providers:
    naive = others.naive_mean()
    means: dict[str, Callable[[], Mean]] = {
        "ours": our_mean,
        "Liger Triton": others.liger_mean,
        "Liger Triton, float32 sums": partial(others.liger_mean, torch.float32),
        "cut-cross-entropy": others.cut_mean,
        "cut-cross-entropy, no filter": partial(others.cut_mean, filter_eps=None),
        "verl": lambda: others.mean_of(others.verl()),
        "Liger scaled CE": lambda: others.mean_of(others.liger_scaled(False)),
        "naive": others.naive_mean,
        "naive, torch.compile": partial(others.compiled, naive, run.quick),
        "torch's linear_cross_entropy": others.torch_mean,
    }

    def call(make: Callable[[], Mean]) -> Call:
        mean = make()

        def value(head: Head, hidden: Tensor, weight: Tensor) -> Tensor:
            return mean(hidden, weight, head.targets)

        return gradients(batches, value)

    return _providers(batches, call, means)


def _providers(
    batches: list[Head],
    call: Callable[[Callable[[], Any]], Call],
    makers: dict[str, Callable[[], Any]],
) -> Providers:
    """Return the floor, and a provider of each call; a call is prepared when it is measured."""
    providers: Providers = {"torch.mm": partial(matrix_product, batches)}
    for name, make in makers.items():
        providers[name] = partial(call, make)
    return providers
