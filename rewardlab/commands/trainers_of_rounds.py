"""The trainers that a config of rounds names, checked before anything is drawn."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import torch

from rewardlab.commands.composing import find
from rewardlab.errors import InputError
from rewardlab.training.base import Trained
from rewardlab.training.trainer_options import check_options


def check_trainers(tree: Mapping[str, Any]) -> None:
    """Refuse trainers of several processes, and options that the loop beside cannot follow.

    Args:
        tree: the resolved config.

    Raises:
        InputError: naming the key.
    """
    for path, stage in _stages(tree.get("rounds"), "rounds"):
        path = f"{path}.trainer"
        options = stage["trainer"].get("init_args") or {}
        _check_alone(path, options)
        named = stage.get("loop") or {}
        loop = find(named.get("class_path"))
        if isinstance(loop, type) and issubclass(loop, Trained):
            _check_loop(path, loop, options)


def _stages(node: Any, path: str) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Yield every part of a config that has a trainer, with its path."""
    if isinstance(node, Mapping):
        if isinstance(node.get("trainer"), Mapping):
            yield path, node
        for key, value in node.items():
            yield from _stages(value, path if key == "init_args" else f"{path}.{key}")


def _check_loop(path: str, loop: type[Trained], options: Mapping[str, Any]) -> None:
    try:
        check_options(loop.__name__, loop.instead_of_trainer, options)
    except InputError as error:
        raise InputError(f"{path}: {error}") from None


def _check_alone(path: str, options: Mapping[str, Any]) -> None:
    """Refuse a trainer that would start further processes, each of which would run the rounds."""
    devices = options.get("devices", "auto")
    accelerator = str(options.get("accelerator", "auto"))
    nodes = options.get("num_nodes") or 1
    if nodes == 1 and _count(devices, accelerator) <= 1:
        return
    raise InputError(
        f"{path} asks for several processes (devices {devices!r}, num_nodes {nodes}), and rounds "
        "run in one: every process would draw, fit and write the same stages. Give "
        f"{path}.init_args.devices=1; several processes train with `rewardlab fit`."
    )


def _count(devices: Any, accelerator: str) -> int:
    """Return how many devices a trainer would take."""
    if isinstance(devices, list):
        return len(devices)
    text = str(devices)
    if text in ("auto", "-1"):
        return 1 if accelerator in ("cpu", "mps") else torch.cuda.device_count()
    if "," in text:
        return len(text.strip(",").split(","))
    return int(text) if text.isdigit() else 1
