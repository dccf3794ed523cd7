"""Folders of transformers that bring the code of their classes."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from rewardlab.storage.atomic import write_json

CODE = Path(__file__).parent / "remote"
OUTPUT = "output_reward"  # what both kinds of models return


def copy_code(folder: Path, *names: str) -> None:
    """Copy modules of `remote` into a folder."""
    for name in names:
        shutil.copy(CODE / f"{name}.py", folder)


def name_classes(folder: Path, classes: dict[str, str]) -> None:
    """Say in a folder's config.json which classes of its code load it.

    Args:
        folder: that `save_pretrained` wrote.
        classes: "MODULE.CLASS" by the name of transformers' class that finds it.
    """
    file = folder / "config.json"
    config = json.loads(file.read_text(encoding="utf-8"))
    config["auto_map"] = classes
    write_json(file, config)


def columns_of(output: Any) -> Tensor:
    """Return the scores and the members' that an exported model gave, float32 [B, O]."""
    columns = [output.logits]
    if output.members is not None:
        columns.append(output.members)
    return torch.cat(columns, 1).float()
