"""What the configs of several runs differ in."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rewardlab.runs.read import Run


def differences(runs: Sequence[Run]) -> dict[str, list[Any]]:
    """Return the config keys in which runs differ, each with one value a run; output folders aside.

    What only some runs have at all is left out, unless it is the class that brings it.
    """
    trees = [_flat(run.config) for run in runs]
    keys: dict[str, None] = {}
    for tree in trees:
        keys |= dict.fromkeys(tree)
    table = {}
    for key in keys:
        values = [tree.get(key) for tree in trees]
        if _differs(key, values):
            table[key] = values
    return table


def _differs(key: str, values: Sequence[Any]) -> bool:
    """Tell whether a report shows a key of the config: runs differ in it, or lack its class."""
    if key == "out":
        return False
    distinct = {str(value) for value in values if value is not None}
    lacks_class = key.endswith("class_path") and None in values
    return len(distinct) > 1 or lacks_class


def _flat(tree: Any, prefix: str = "") -> dict[str, Any]:
    """Return the leaves of a tree by their dotted keys."""
    if isinstance(tree, list):
        tree = {str(i): item for i, item in enumerate(tree)}
    if not isinstance(tree, Mapping):
        return {prefix: tree}
    leaves: dict[str, Any] = {}
    for key, value in tree.items():
        dotted = f"{prefix}.{key}" if prefix else str(key)
        leaves |= _flat(value, dotted)
    return leaves
