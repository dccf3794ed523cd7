"""The forward pass of a head (T1, T2, T5, T8 and T9): log-probabilities without a gradient."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch

from kernel_cases import others
from kernel_cases.head_calls import matrix_product, ours, scored
from kernel_cases.head_data import Head, heads, shape_label
from kernel_cases.head_errors import score_errors
from kernel_cases.measuring import (
    Errors,
    Measurements,
    Providers,
    Run,
    error_of,
    measure,
    over,
    repeats,
)
from kernel_cases.writing import Case, RatioAim, aim, aim_ratios, report

INVARIANT = "ours, batch invariant"


class _Bounds(NamedTuple):
    """What a shape's time over torch.mm and naive time over ours must be, and would best be."""

    over_mm: str = ""
    over_mm_moonshot: str = ""
    naive: str = ""


BOUNDS = {
    "S1": _Bounds("<= 1.15", "<= 1.05", ">= 1.25"),
    "S2": _Bounds("<= 1.25", "", ">= 1.5"),
    "S3": _Bounds("<= 1.5", "", ">= 2"),
    "S4": _Bounds(),
}
S1_RATIOS = [
    RatioAim("T2", "float32 head's time over ours", "naive, float32 head", must=">= 8"),
    RatioAim(
        "T5",
        "forward, with entropy over without",
        "ours, with entropy",
        must="<= 1.05",
        moonshot="<= 1.02",
    ),
    RatioAim("T5", "the naive form's, for comparison", "naive, with entropy", "naive"),
    RatioAim("T8", "forward: naive peak over ours", "naive", must=">= 20", figure="peak"),
]


def forward(run: Run, shape: str, seconds: float) -> None:
    """Measure log-probabilities without a gradient: T1, and at S1 T2, T5, T8 and T9."""
    batches = heads(run, shape)
    label = shape_label(run, shape)
    providers = _providers(run, batches)
    if shape == "S1":
        providers |= _s1_providers(batches)
    measurements = measure(run, providers, seconds)
    errors = score_errors(batches[0], measurements)
    case = Case("T1", "log-probability", "forward", label)
    report(run, case, measurements, errors, measurements["torch.mm"].median)
    aim_ratios(run, label, measurements, _ratios(BOUNDS[shape]))
    if shape == "S1":
        _aim_at_s1(run, label, measurements, errors)
        _aim_at_invariance(run, batches[0], label, measurements)


def _ratios(bounds: _Bounds) -> list[RatioAim]:
    return [
        RatioAim(
            "T1",
            "time over torch.mm",
            "ours",
            "torch.mm",
            must=bounds.over_mm,
            moonshot=bounds.over_mm_moonshot,
        ),
        RatioAim(
            "T1",
            "cut-cross-entropy's time over ours",
            "cut-cross-entropy",
            must=">= 1.5",
            moonshot=">= 2",
        ),
        RatioAim(
            "T1", "verl's time over ours", "verl, with entropy", must=">= 1.5", moonshot=">= 2"
        ),
        RatioAim("T1", "naive time over ours", "naive", must=bounds.naive),
        RatioAim("T1", "Liger scaled CE's time over ours", "Liger scaled CE", moonshot=">= 1.0"),
    ]


def _providers(run: Run, batches: list[Head]) -> Providers:
    return {
        "torch.mm": lambda: matrix_product(batches),
        "ours": lambda: scored(batches, ours(False)),
        "naive": lambda: scored(batches, others.naive(False)),
        "cut-cross-entropy": lambda: scored(batches, others.cut()),
        "verl, with entropy": lambda: scored(batches, others.verl()),
        "Liger scaled CE": lambda: scored(batches, others.liger_scaled(False)),
        "naive, torch.compile": lambda: scored(
            batches, others.compiled(others.naive(False), run.quick)
        ),
        INVARIANT: lambda: scored(batches, ours(False, batch_invariant=True)),
    }


def _s1_providers(batches: list[Head]) -> Providers:
    return {
        "torch.mm, float32 result": lambda: matrix_product(batches, torch.float32),
        "ours, with entropy": lambda: scored(batches, ours(True)),
        "naive, with entropy": lambda: scored(batches, others.naive(True)),
        "ours, plain torch": lambda: scored(batches, ours(False, backend="torch")),
        "Liger scaled CE, chunks of 512": lambda: scored(batches, others.liger_chunks(False)),
        "naive, float32 head": lambda: scored(batches, others.naive(False, torch.float32)),
    }


def _aim_at_s1(run: Run, label: str, measurements: Measurements, errors: Errors) -> None:
    largest = error_of(errors, "ours", "largest error of log p")
    sums = error_of(errors, "ours", "rms of 512-row sums")
    aim(run, "T2", "largest error of log p", label, largest, "<= 1e-5")
    aim(run, "T2", "rms error of sums over 512 rows", label, sums, "<= 1e-4")
    theirs = error_of(errors, "Liger scaled CE", "largest error of log p")
    ratio = theirs / largest if largest else math.nan
    what = "Liger scaled CE's largest error of log p over ours"
    aim(run, "T2", what, label, ratio, moonshot=">= 1000")
    aim_ratios(run, label, measurements, S1_RATIOS)
    peak = measurements["ours"].peak
    aim(run, "T8", "forward: MiB above operands and results", label, peak, moonshot="<= 64")


def _aim_at_invariance(run: Run, head: Head, label: str, measurements: Measurements) -> None:
    """Add the rows of T9: equal inputs give equal bits.

    In batch-invariant mode a row's bits do not depend on the rows beside it.
    """
    ratio = over(measurements, INVARIANT)
    aim(run, "T9", "batch invariant time over fast", label, ratio, "<= 1.35", "<= 1.1")
    repeated = repeats(measurements["ours"], "log_prob", 1)
    aim(run, "T9", "fast mode repeats itself to the bit (1: yes)", label, repeated, "== 1")
    same = math.nan
    if INVARIANT in measurements and not measurements[INVARIANT].error:
        same = _same_alone(head, measurements[INVARIANT].result["log_prob"])
    aim(run, "T9", "rows alone = rows in the batch, to the bit (1: yes)", label, same, "== 1")


@torch.no_grad()
def _same_alone(head: Head, log_prob: torch.Tensor) -> float:
    """Return 1 if a part of the rows has the same bits as in the batch, else 0."""
    score = ours(False, batch_invariant=True)
    count = len(head.targets)
    third = count // 3
    half = count // 2
    same = True
    for rows in (slice(half, half + 1), slice(third, third + 77), slice(0, count - 1)):
        alone, _ = score(head.hidden[rows], head.weight, head.targets[rows])
        same = same and torch.equal(alone, log_prob[rows])
    return float(same)
