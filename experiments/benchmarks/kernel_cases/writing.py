"""Rows of what was measured and of what it must be, printed as they come, then written as CSV and
as tables.
"""

from __future__ import annotations

import csv
import importlib.util
import math
import operator
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch

import rewardlab
from kernel_cases.measuring import Errors, Found, Run

COLUMNS = (
    "target", "operation", "provider", "mode", "shape", "metric", "value", "p20", "p80", "ratio to mm", "ratio to ours",
    "must", "moonshot", "note", "device", "torch", "triton", "rewardlab",
)  # fmt: skip
SMOKE = "smoke run on a CPU, not a measurement"
_SIGNS = {"<=": operator.le, ">=": operator.ge, "==": operator.eq}


def row(
    run: Run, target: str, operation: str, provider: str, metric: str, value: float, **others: Any
) -> dict[str, Any]:
    """Add a row."""
    given = {
        "target": target,
        "operation": operation,
        "provider": provider,
        "metric": metric,
        "value": value,
    }
    found = dict.fromkeys(COLUMNS, "") | given | others | _versions(run.device)
    found |= {
        name: ""
        for name in ("ratio to mm", "ratio to ours")
        if found[name] != "" and math.isnan(found[name])
    }
    if run.quick:
        found["note"] = f"{SMOKE}; {found['note']}".rstrip("; ")
    run.rows.append(found)
    return found


@cache
def _versions(device: torch.device) -> dict[str, str]:
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else "CPU"
    triton = (
        importlib.import_module("triton").__version__
        if importlib.util.find_spec("triton")
        else "none"
    )
    return {
        "device": name,
        "torch": torch.__version__,
        "triton": triton,
        "rewardlab": rewardlab.__version__,
    }


def aim(
    run: Run, target: str, what: str, shape: str, value: float, must: str = "", moonshot: str = ""
) -> None:
    """Add and print a row of a target: a ratio or an error of ours, what it must be, and what it
    would best be.
    """
    verdicts = []
    for name, bound in (("must", must), ("moonshot", moonshot)):
        if bound and not run.quick and not math.isnan(value):
            sign, limit = bound.split()
            verdicts.append(f"{name} {'met' if _SIGNS[sign](value, float(limit)) else 'missed'}")
    note = "no figure" if math.isnan(value) else ", ".join(verdicts)
    found = row(
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
    print(
        f"  {target:4}{what:52}{value:10.4g}   must {must or '-':9} moonshot {moonshot or '-':9} {found['note']}",
        flush=True,
    )


def report(
    run: Run, target: str, operation: str, mode: str, shape: str, found: dict[str, Found],
    errors: Errors | None = None, mm: float = math.nan, base: str = "ours",
) -> None:  # fmt: skip
    """Add and print rows of time, memory and error of each provider."""
    ours = found[base].median if base in found else math.nan
    print(f"{target} {operation}, {mode}, {shape}")
    for name, each in found.items():
        place = {"mode": mode, "shape": shape}
        if each.error:
            row(run, target, operation, name, "ms", math.nan, note=each.error, **place)
            print(f"    {name:38} {each.error}", flush=True)
            continue
        low, high = np.percentile(each.times, [20, 80])
        ratios = {"ratio to mm": each.median / mm, "ratio to ours": each.median / ours}
        note = f"{len(each.times)} calls"
        row(
            run,
            target,
            operation,
            name,
            "ms",
            each.median,
            p20=low,
            p80=high,
            note=note,
            **ratios,
            **place,
        )
        if not math.isnan(each.peak):
            row(run, target, operation, name, "MiB above operands and results", each.peak, **place)
        ends = f"({low:.4g} to {high:.4g})"
        text = f"    {name:38} {each.median:10.4g} ms {ends:22} {each.median / mm:6.2f} mm {each.median / ours:7.2f} ours"
        text += f" {each.peak:9.1f} MiB, {note}"
        for metric, value in (errors or {}).get(name, {}).items():
            row(run, target, operation, name, metric, value, **place)
            text += f", {metric} {value:.2g}"
        print(text, flush=True)


def write(run: Run, folder: Path) -> None:
    """Write what there is so far: figures.csv and table.md."""
    with (folder / "figures.csv").open("w", encoding="utf-8", newline="") as stream:
        writer = csv.DictWriter(stream, COLUMNS)
        writer.writeheader()
        writer.writerows(run.rows)
    lines = [f"**{SMOKE}**\n"] if run.quick else []
    if run.rows:
        one = run.rows[0]
        lines.append(
            f"{one['device']}, torch {one['torch']}, Triton {one['triton']}, rewardlab {one['rewardlab']}.\n"
        )
    lines.append(
        "| target | of ours | shape | measured | must | moonshot | |\n|---|---|---|---|---|---|---|"
    )
    lines += [_target_line(x) for x in run.rows if x["metric"] == "target"]
    lines.append(
        "\n| target | operation | shape | provider | figure | | over torch.mm | over ours | |\n"
        + "|---" * 9
        + "|"
    )
    lines += [_provider_line(x) for x in run.rows if x["metric"] != "target"]
    (folder / "table.md").write_text("\n".join(lines) + "\n", encoding="utf-8")


def _target_line(x: dict[str, Any]) -> str:
    return _line(
        x["target"],
        x["operation"],
        x["shape"],
        _figure(x["value"]),
        x["must"],
        x["moonshot"],
        x["note"],
    )


def _provider_line(x: dict[str, Any]) -> str:
    what = f"{x['operation']}, {x['mode']}".rstrip(", ")
    spread = f" ({x['p20']:.4g} to {x['p80']:.4g})" if x["p20"] != "" else ""
    ratios = (_figure(x[name]) for name in ("ratio to mm", "ratio to ours"))
    figure = _figure(x["value"]) + spread
    return _line(
        x["target"], what, x["shape"], x["provider"], figure, x["metric"], *ratios, x["note"]
    )


def _line(*cells: str) -> str:
    return f"| {' | '.join(cells)} |"


def _figure(value: Any) -> str:
    return "" if value == "" or math.isnan(value) else f"{value:.4g}"
