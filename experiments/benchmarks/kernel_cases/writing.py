"""Rows of what was measured and of what it must be.

They are printed as they come, then written as CSV and as tables.
"""

from __future__ import annotations

import csv
import importlib.util
import math
import operator
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

import rewardlab
from kernel_cases.measuring import Errors, Measurement, Measurements, Run, over

COLUMNS = (
    "target",
    "operation",
    "provider",
    "mode",
    "shape",
    "metric",
    "value",
    "p20",
    "p80",
    "ratio to mm",
    "ratio to ours",
    "must",
    "moonshot",
    "note",
    "device",
    "torch",
    "triton",
    "rewardlab",
)
SMOKE = "smoke run on a CPU, not a measurement"
TARGETS_HEADING = "| target | of ours | shape | measured | must | moonshot | |"
PROVIDERS_HEADING = (
    "| target | operation | shape | provider | figure | | over torch.mm | over ours | |"
)
_SIGNS = {"<=": operator.le, ">=": operator.ge, "==": operator.eq}


class Case(NamedTuple):
    """What is measured, and at which shape."""

    target: str
    operation: str
    mode: str
    shape: str


class RatioAim(NamedTuple):
    """What a provider's figure over another's must be, and what it would best be.

    The ratio is divided by `products`, matrix products that are compared with at once.
    """

    target: str
    what: str
    provider: str
    base: str = "ours"
    must: str = ""
    moonshot: str = ""
    figure: str = "median"
    products: int = 1


def row(
    run: Run, target: str, operation: str, provider: str, metric: str, value: float, **others: Any
) -> dict[str, Any]:
    """Add a row."""
    columns: dict[str, Any] = dict.fromkeys(COLUMNS, "")
    columns |= {"target": target, "operation": operation, "provider": provider}
    columns |= {"metric": metric, "value": value}
    columns |= others
    columns |= _versions(run.device)
    for name in ("ratio to mm", "ratio to ours"):
        if columns[name] != "" and math.isnan(columns[name]):
            columns[name] = ""
    if run.quick:
        columns["note"] = f"{SMOKE}; {columns['note']}".rstrip("; ")
    run.rows.append(columns)
    return columns


@cache
def _versions(device: torch.device) -> dict[str, str]:
    name = "CPU"
    if device.type == "cuda":
        name = torch.cuda.get_device_name(device)
    triton = "none"
    if importlib.util.find_spec("triton"):
        triton = importlib.import_module("triton").__version__
    return {
        "device": name,
        "torch": torch.__version__,
        "triton": triton,
        "rewardlab": rewardlab.__version__,
    }


def aim(
    run: Run, target: str, what: str, shape: str, value: float, must: str = "", moonshot: str = ""
) -> None:
    """Add and print a row of a target, a ratio or an error of ours.

    The row says what it must be, and what it would best be.
    """
    verdicts = []
    if not run.quick and not math.isnan(value):
        verdicts += _verdict("must", must, value)
        verdicts += _verdict("moonshot", moonshot, value)
    note = "no figure" if math.isnan(value) else ", ".join(verdicts)
    columns = row(
        run,
        target,
        what,
        "ours",
        "target",
        value,
        shape=shape,
        must=must,
        moonshot=moonshot,
        note=note,
    )
    bounds = f"must {must or '-':9} moonshot {moonshot or '-':9}"
    print(f"  {target:4}{what:52}{value:10.4g}   {bounds} {columns['note']}", flush=True)


def _verdict(name: str, bound: str, value: float) -> list[str]:
    """Return whether the value meets a bound, nothing without one."""
    if not bound:
        return []
    sign, limit = bound.split()
    met = _SIGNS[sign](value, float(limit))
    return [f"{name} met" if met else f"{name} missed"]


def aim_ratios(run: Run, shape: str, measurements: Measurements, aims: Sequence[RatioAim]) -> None:
    """Add and print a row of each ratio."""
    for each in aims:
        ratio = over(measurements, each.provider, each.base, each.figure) / each.products
        aim(run, each.target, each.what, shape, ratio, each.must, each.moonshot)


def report(
    run: Run,
    case: Case,
    measurements: Measurements,
    errors: Errors | None = None,
    mm: float = math.nan,
    base: str = "ours",
) -> None:
    """Add and print rows of time, memory and error of each provider.

    `mm` is the time of the matrix product that they are compared with, and `base` the provider.
    """
    ours = measurements[base].median if base in measurements else math.nan
    print(f"{case.target} {case.operation}, {case.mode}, {case.shape}")
    for name, measurement in measurements.items():
        if measurement.error:
            _case_row(run, case, name, "ms", math.nan, note=measurement.error)
            print(f"    {name:38} {measurement.error}", flush=True)
            continue
        of_provider = (errors or {}).get(name, {})
        ratios = {
            "ratio to mm": measurement.median / mm,
            "ratio to ours": measurement.median / ours,
        }
        _report_provider(run, case, name, measurement, ratios, of_provider)


def _report_provider(
    run: Run,
    case: Case,
    name: str,
    measurement: Measurement,
    ratios: dict[str, float],
    errors: dict[str, float],
) -> None:
    median = measurement.median
    low, high = np.percentile(measurement.times, [20, 80])
    note = f"{len(measurement.times)} calls"
    _case_row(run, case, name, "ms", median, p20=low, p80=high, note=note, **ratios)
    if not math.isnan(measurement.peak):
        _case_row(run, case, name, "MiB above operands and results", measurement.peak)
    for metric, value in errors.items():
        _case_row(run, case, name, metric, value)
    ends = f"({low:.4g} to {high:.4g})"
    to_mm = ratios["ratio to mm"]
    to_ours = ratios["ratio to ours"]
    text = f"    {name:38} {median:10.4g} ms {ends:22} {to_mm:6.2f} mm {to_ours:7.2f} ours"
    text += f" {measurement.peak:9.1f} MiB, {note}"
    for metric, value in errors.items():
        text += f", {metric} {value:.2g}"
    print(text, flush=True)


def _case_row(
    run: Run, case: Case, provider: str, metric: str, value: float, **others: Any
) -> None:
    row(
        run,
        case.target,
        case.operation,
        provider,
        metric,
        value,
        mode=case.mode,
        shape=case.shape,
        **others,
    )


def write(run: Run, folder: Path) -> None:
    """Write what there is so far: figures.csv and table.md."""
    with (folder / "figures.csv").open("w", encoding="utf-8", newline="") as stream:
        writer = csv.DictWriter(stream, COLUMNS)
        writer.writeheader()
        writer.writerows(run.rows)
    lines = []
    if run.quick:
        lines += [f"**{SMOKE}**", ""]
    if run.rows:
        lines += [_versions_line(run.rows[0]), ""]
    lines += [TARGETS_HEADING, "|---|---|---|---|---|---|---|"]
    lines += [_target_line(columns) for columns in run.rows if columns["metric"] == "target"]
    lines += ["", PROVIDERS_HEADING, "|---" * 9 + "|"]
    lines += [_provider_line(columns) for columns in run.rows if columns["metric"] != "target"]
    text = "\n".join(lines)
    (folder / "table.md").write_text(f"{text}\n", encoding="utf-8")


def _versions_line(columns: dict[str, Any]) -> str:
    device = columns["device"]
    versions = f"torch {columns['torch']}, Triton {columns['triton']}"
    return f"{device}, {versions}, rewardlab {columns['rewardlab']}."


def _target_line(columns: dict[str, Any]) -> str:
    return _line(
        columns["target"],
        columns["operation"],
        columns["shape"],
        _figure(columns["value"]),
        columns["must"],
        columns["moonshot"],
        columns["note"],
    )


def _provider_line(columns: dict[str, Any]) -> str:
    operation = f"{columns['operation']}, {columns['mode']}".rstrip(", ")
    figure = _figure(columns["value"])
    if columns["p20"] != "":
        figure += f" ({columns['p20']:.4g} to {columns['p80']:.4g})"
    return _line(
        columns["target"],
        operation,
        columns["shape"],
        columns["provider"],
        figure,
        columns["metric"],
        _figure(columns["ratio to mm"]),
        _figure(columns["ratio to ours"]),
        columns["note"],
    )


def _line(*cells: str) -> str:
    return f"| {' | '.join(cells)} |"


def _figure(value: Any) -> str:
    return "" if value == "" or math.isnan(value) else f"{value:.4g}"
