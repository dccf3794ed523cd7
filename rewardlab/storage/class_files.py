"""JSON files that say of which class a folder is."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from rewardlab.errors import InputError

POLICY_FILE = "policy.json"


def read_json(file: str | Path) -> dict[str, Any]:
    """Read a JSON file that holds a mapping.

    Raises:
        InputError: if it is not readable JSON, or holds something else.
    """
    file = Path(file)
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise InputError(
            f"{file} is not readable JSON: {error}. Is the file cut off or edited?"
        ) from error
    if not isinstance(content, dict):
        raise InputError(f"{file} should hold a mapping; got {str(content)[:60]}. Is it edited?")
    return content


def read_class_file(file: str | Path) -> dict[str, Any]:
    """Read a JSON file that names a class: a mapping with at least `class_path`.

    Raises:
        InputError: if it is missing, or not such a mapping.
    """
    file = Path(file)
    if not file.is_file():
        raise InputError(f"{file.parent} holds no {file.name}. Was the folder copied in part?")
    content = read_json(file)
    if not isinstance(content.get("class_path"), str):
        raise InputError(f"{file} names no class_path. Is it edited?")
    return content
