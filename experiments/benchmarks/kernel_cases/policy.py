"""A policy loss of a head, forward and backward (T3, T4, T5 and T8)."""

from __future__ import annotations

from typing import NamedTuple

import torch

from kernel_cases import others
from kernel_cases.head_calls import gradients, matrix_product, our_policy, ours, policy_of
from kernel_cases.head_data import Head, Score, heads, shape_label
from kernel_cases.head_errors import exact, gradient_errors, policy_upstream
from kernel_cases.measuring import Call, Errors, Measurements, Providers, Run, measure, over
from kernel_cases.writing import Case, RatioAim, aim, aim_ratios, report

BONUS = 0.01  # of the entropy
MODE = "forward and backward"


class _Bounds(NamedTuple):
    """What a shape's time over 3 torch.mm and naive time over ours must be, and would best be."""

    over_mm: str
    over_mm_moonshot: str = ""
    naive: str = ""


BOUNDS = {
    "S1": _Bounds("<= 1.15", "<= 1.06", ">= 1.4"),
    "S2": _Bounds("<= 1.3", naive=">= 2"),
    "S3": _Bounds("<= 1.6"),
}
S1_RATIOS = [
    RatioAim(
        "T4",
        "time of all rows over that of 40 %",
        "ours",
        "ours, 40 % live",
        must=">= 2.2",
        moonshot=">= 2.4",
    ),
    RatioAim(
        "T5",
        "loss and gradient, with entropy over without",
        "ours",
        "ours, no entropy",
        must="<= 1.05",
        moonshot="<= 1.02",
    ),
    RatioAim("T5", "the naive form's, for comparison", "naive", "naive, no entropy"),
    RatioAim("T8", "loss and gradient: naive peak over ours", "naive", must=">= 20", figure="peak"),
]


def policy(run: Run, shape: str, seconds: float) -> None:
    """Measure PPO's loss with k3 and an entropy bonus: T3, and at S1 T4, T5 and T8."""
    batches = heads(run, shape)
    label = shape_label(run, shape)
    providers = _providers(run, batches)
    if shape == "S1":
        providers |= _s1_providers(batches)
    measurements = measure(run, providers, seconds)
    whole = {name: measurement for name, measurement in measurements.items() if "40 %" not in name}
    mm = measurements["torch.mm"].median
    case = Case("T3", "policy loss", MODE, label)
    report(run, case, whole, _errors(batches[0], whole), mm)
    aim_ratios(run, label, measurements, _ratios(BOUNDS[shape]))
    if shape == "S1":
        _aim_at_s1(run, label, measurements)


def _ratios(bounds: _Bounds) -> list[RatioAim]:
    return [
        RatioAim(
            "T3",
            "time over 3 torch.mm",
            "ours",
            "torch.mm",
            must=bounds.over_mm,
            moonshot=bounds.over_mm_moonshot,
            products=3,
        ),
        RatioAim("T3", "naive time over ours", "naive", must=bounds.naive),
        RatioAim("T3", "Liger scaled CE's time over ours", "Liger scaled CE", moonshot=">= 1.2"),
    ]


def _call(batches: list[Head], score: Score, bonus: float = BONUS, masked: bool = False) -> Call:
    return gradients(batches, policy_of(score, bonus, masked))


def _providers(run: Run, batches: list[Head]) -> Providers:
    return {
        "torch.mm": lambda: matrix_product(batches),
        "ours": lambda: gradients(batches, our_policy(BONUS)),
        "naive": lambda: _call(batches, others.naive(True)),
        "Liger scaled CE": lambda: _call(batches, others.liger_scaled(True)),
        "verl": lambda: _call(batches, others.verl()),
        "naive, torch.compile": lambda: _call(
            batches, others.compiled(others.naive(True), run.quick)
        ),
        "ours, four products": lambda: _call(batches, ours(True)),
    }


def _s1_providers(batches: list[Head]) -> Providers:
    return {
        "Liger GRPO, no entropy": lambda: gradients(batches, others.liger_policy()),
        "cut-cross-entropy, no entropy": lambda: _call(batches, others.cut(), 0.0),
        "Liger scaled CE, chunks of 512": lambda: _call(batches, others.liger_chunks(True)),
        "ours, no entropy": lambda: gradients(batches, our_policy(0.0)),
        "naive, no entropy": lambda: _call(batches, others.naive(False), 0.0),
        "ours, 40 % live": lambda: gradients(batches, our_policy(BONUS, masked=True)),
        "naive, 40 % live": lambda: _call(batches, others.naive(True), masked=True),
    }


def _errors(head: Head, measurements: Measurements) -> Errors:
    """Return the errors of the gradients; some providers' losses have no entropy bonus."""
    truth = exact(head)
    upstream = policy_upstream(head, truth)
    with_bonus: Measurements = {}
    without: Measurements = {}
    for name, measurement in measurements.items():
        group = without if "no entropy" in name else with_bonus
        group[name] = measurement
    errors = gradient_errors(head, truth, upstream, with_bonus)
    if without:
        plain = upstream._replace(entropy=torch.zeros_like(upstream.entropy))
        errors |= gradient_errors(head, truth, plain, without)
    return errors


def _aim_at_s1(run: Run, label: str, measurements: Measurements) -> None:
    ratio = over(measurements, "Liger GRPO, no entropy", "ours, no entropy")
    aim(run, "T3", "Liger GRPO's time over ours, without entropy", label, ratio, ">= 5")
    live = {name: measurement for name, measurement in measurements.items() if "40 %" in name}
    case = Case("T4", "policy loss, 40 % live", MODE, label)
    report(run, case, live, mm=measurements["torch.mm"].median, base="ours, 40 % live")
    aim_ratios(run, label, measurements, S1_RATIOS)
    what = "loss and gradient: MiB above operands and results"
    aim(run, "T8", what, label, measurements["ours"].peak, moonshot="<= 256")
