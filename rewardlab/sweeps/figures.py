"""The figure that points are compared by, read from a run's folder."""

from __future__ import annotations

import csv
import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from rewardlab.runs.layout import METRICS_FILE, RESULTS_FILE
from rewardlab.runs.records import read_record

METRICS = "metrics."
LAST = "last"


def figure_of(run: Path, figure: str) -> float | None:
    """Return a run's figure, or None where it has no finite one.

    Args:
        run: the run folder.
        figure: a dotted path in results.json, where `last` is the highest number among the keys
            and a figure with an interval gives its mean; or `metrics.` and a column of metrics.csv,
            of which the last value counts.

    Example:
        >>> run = getfixture("tmp_path")
        >>> _ = (run / "results.json").write_text('{"rounds": {"1": {"a": 0}, "10": {"a": 2}}}')
        >>> figure_of(run, "rounds.last.a"), figure_of(run, "rounds.last.b")
        (2.0, None)
    """
    if figure.startswith(METRICS):
        return _last_of_column(run / METRICS_FILE, figure.removeprefix(METRICS))
    return _finite(_at(read_record(run / RESULTS_FILE), figure.split(".")))


def figures_in(run: Path) -> list[str]:
    """Return the paths of all figures that a run has.

    Example:
        >>> run = getfixture("tmp_path")
        >>> _ = (run / "results.json").write_text('{"targets": {"ink": {"mean": 1, "low": 0}}}')
        >>> figures_in(run)
        ['targets.ink']
    """
    paths = list(_paths(read_record(run / RESULTS_FILE), ""))
    file = run / METRICS_FILE
    if file.is_file():
        with file.open(encoding="utf-8", newline="") as lines:
            paths += [f"{METRICS}{name}" for name in next(csv.reader(lines), [])]
    return paths


def _paths(tree: Any, path: str) -> Iterator[str]:
    if _finite(tree) is not None:
        yield path
    elif isinstance(tree, Mapping):
        for key, value in tree.items():
            yield from _paths(value, f"{path}.{key}".lstrip("."))


def _at(tree: Any, keys: list[str]) -> Any:
    """Return what stands at a path; a key may itself hold dots."""
    if not keys:
        return tree
    if not isinstance(tree, Mapping):
        return None
    if keys[0] == LAST and LAST not in tree:
        numbers = [key for key in tree if key.isdigit()]
        return _at(tree[max(numbers, key=int)], keys[1:]) if numbers else None
    for length in range(len(keys), 0, -1):
        key = ".".join(keys[:length])
        if key in tree:
            return _at(tree[key], keys[length:])
    return None


def _finite(figure: Any) -> float | None:
    """Return a number, or a figure's mean, if it is finite."""
    if isinstance(figure, Mapping):
        figure = figure.get("mean")
    if isinstance(figure, bool) or not isinstance(figure, int | float):
        return None
    return float(figure) if math.isfinite(figure) else None


def _last_of_column(file: Path, column: str) -> float | None:
    """Return the last value of a column of a CSV file."""
    if not file.is_file():
        return None
    with file.open(encoding="utf-8", newline="") as lines:
        values = [row.get(column) for row in csv.DictReader(lines)]
    texts = [value for value in values if value]
    try:
        return _finite(float(texts[-1])) if texts else None
    except ValueError:
        return None
