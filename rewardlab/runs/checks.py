"""Whether a folder can be a run's, and whether the run in it is the one that is asked for."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import yaml

from rewardlab.errors import InputError
from rewardlab.runs.damage import UNREADABLE, read_object
from rewardlab.runs.identity import first_difference, without
from rewardlab.runs.layout import CONFIG_FILE, FACTS_FILE, LOCK_FILE

FORM = 2  # of the stages' keys in rounds; 1 hashed the order of calls
# Arguments that say how often a result is kept on the way, and so change none.
NO_SETTINGS = ("checkpoint_minutes",)


def check_run(path: Path, config: Mapping[str, Any], resume: bool) -> bool:
    """Return whether a run stands already; write nothing.

    Raises:
        InputError: as `RunFolder.check`.
    """
    if path.exists() and not path.is_dir():
        raise InputError(f"The run folder {path} is a file. Give another --out.")
    if (path / LOCK_FILE).is_dir():
        raise InputError(
            f"{path / LOCK_FILE} is a folder; expected a file that rewardlab locks. Remove it, or "
            "give another --out."
        )
    if not (path / CONFIG_FILE).exists():
        _check_empty(path)
        return False
    stored = read_config(path)
    different = first_difference(without(stored, NO_SETTINGS), without(config, NO_SETTINGS))
    if different:
        raise InputError(
            f"{path} belongs to another config: {different}. Give another --out, or that config."
        )
    if not resume:
        raise InputError(
            f"{path} holds a run of this config already. Add --resume to go on, or give "
            "another --out."
        )
    _check_form(path, stored)
    return True


def read_config(path: Path) -> dict[str, Any]:
    """Return the config that a run was made with, as its config.yaml holds it.

    Raises:
        InputError: if the file is damaged. No other file says what the run is, so it is refused.
    """
    file = path / CONFIG_FILE
    try:
        content = yaml.safe_load(file.read_text(encoding="utf-8"))
    except (*UNREADABLE, yaml.YAMLError):
        content = None
    if not isinstance(content, dict):
        raise InputError(
            f"{file} is damaged: expected the YAML of a config, got what cannot be read as one. A "
            "full disk or a crash may have cut it. Restore it from a copy, or give another --out."
        )
    return content


def _check_empty(path: Path) -> None:
    """Refuse a folder that holds other things than a run that was about to begin."""
    foreign = sorted(_foreign_names(item.name for item in path.glob("*")))
    if foreign:
        raise InputError(
            f"{path} is not a run folder: it holds {foreign[0]} but no {CONFIG_FILE}. Give another "
            "--out."
        )


def _foreign_names(names: Iterable[str]) -> list[str]:
    """Return the names that no run leaves that was killed before its config stood."""
    foreign = []
    for name in names:
        is_partial = name.startswith(".") and name.endswith(".partial")
        is_facts = name == FACTS_FILE or name.startswith(f"{FACTS_FILE}.")
        if name != LOCK_FILE and not is_partial and not is_facts:
            foreign.append(name)
    return foreign


def _check_form(path: Path, config: Mapping[str, Any]) -> None:
    """Refuse rounds whose stages an earlier version named, since none would be found again.

    A run.json that is damaged says nothing of it.
    """
    if "rounds" not in config:
        return
    form = 1
    if (path / FACTS_FILE).exists():
        try:
            form = read_object(path / FACTS_FILE).get("form", 1)
        except UNREADABLE:
            return
    if form != FORM:
        raise InputError(
            f"{path} was made by a version of rewardlab that named stages in another way (form "
            f"{form}, here {FORM}), so none of its stages would be found. Read it with `rewardlab "
            "report`, finish it with that version, or give another --out."
        )
