"""Checks of a sweep's points: each is built as its command would build it, and nothing is run."""

from __future__ import annotations

import inspect
import json
from collections.abc import Iterator, Mapping, Sequence
from importlib import import_module
from typing import Any

from rewardlab.commands.composing import find
from rewardlab.errors import InputError
from rewardlab.sweeps.files import Sweep
from rewardlab.sweeps.folder import SweepFolder
from rewardlab.sweeps.points import SEED, Point
from rewardlab.sweeps.running import words_of

Tree = dict[str, Any]  # a resolved config


def check_points(sweep: Sweep, folder: SweepFolder) -> None:
    """Build every run of a sweep; write nothing.

    Raises:
        InputError: for a point that cannot be built, whose run folder is of another config, that is
            another point once it is resolved, or that another seed leaves as it is.
    """
    labels: dict[str, str] = {}
    settings: dict[str, dict[int, Tree]] = {}
    for point in sweep.points:
        tree = _built(sweep, folder, point)
        label = f"{point.label}, seed {point.seed}"
        twin = labels.setdefault(_digest(tree), label)
        if twin != label:
            raise InputError(
                f"The sweep's points {twin!r} and {label!r} come to the same config. Is one of "
                "their values the config's own, or overridden by another? Leave one out."
            )
        settings.setdefault(point.name, {})[point.seed] = tree
    for point in sweep.points:
        trees = settings[point.name]
        _check_components(point, next(iter(trees.values())))
        if sweep.command == "rounds":  # a fit seeds everything by the experiment's seed
            _check_repeats(point, trees)


def _built(sweep: Sweep, folder: SweepFolder, point: Point) -> Tree:
    """Return the resolved config of a run that can be built."""
    command, *words = words_of(sweep, folder, point)
    try:
        return _tree(command, words)
    except InputError as error:
        raise InputError(f"The sweep's point {point.label}, seed {point.seed}: {error}") from None


def _tree(command: str, words: Sequence[str]) -> Tree:
    """Build what a command line names, and return its resolved config."""
    if command == "rounds":
        from rewardlab.commands.rounds import build

        return build(words).config
    from rewardlab.commands.fit import TrainingCLI
    from rewardlab.commands.parsing import resolved

    cli = TrainingCLI(command, words)
    return resolved(cli.parser, cli.config)


def _digest(tree: Tree) -> str:
    return json.dumps(tree, sort_keys=True, default=str)


def _check_components(point: Point, tree: Tree) -> None:
    """Refuse components that draw without a seed."""
    for path, component in components(tree):
        if _lacks_seed(component):
            raise InputError(
                f"The sweep's point {point.label}: {path} is a {component['class_path']}, which "
                "takes a seed, and the config sets none, so its runs could not be repeated. Write "
                f"seed: ${{{SEED}}} there, or a number that all seeds share."
            )


def _check_repeats(point: Point, trees: Mapping[int, Tree]) -> None:
    """Refuse seeds that change nothing."""
    without = {seed: _digest(_without_seed(tree)) for seed, tree in trees.items()}
    first, *others = without.items()
    for seed, digest in others:
        if digest == first[1]:
            raise InputError(
                f"The sweep's point {point.label} is the same with seed {first[0]} and seed "
                f"{seed}: every seed of its config is a number of its own, so repeats tell "
                f"nothing. Write ${{{SEED}}} where runs may differ, or give one seed."
            )


def _without_seed(tree: Tree) -> Tree:
    shared = {key: value for key, value in tree["experiment"].items() if key != "seed"}
    return {**tree, "experiment": shared}


def components(node: Any, path: str = "") -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Yield every part of a resolved config that names a class or a function, with its path.

    Example:
        >>> tree = {"model": {"class_path": "a.B", "init_args": {"c": {"class_path": "d.E"}}}}
        >>> [path for path, _ in components(tree)]
        ['model', 'model.c']
    """
    if isinstance(node, list):
        for number, item in enumerate(node):
            yield from components(item, f"{path}.{number}")
    if not isinstance(node, Mapping):
        return
    if isinstance(node.get("class_path"), str):
        yield path, node
    for key, value in node.items():
        below = path if key == "init_args" else f"{path}.{key}".lstrip(".")
        yield from components(value, below)


def _lacks_seed(component: Mapping[str, Any]) -> bool:
    """Tell whether a class takes a seed that its part of the config does not set."""
    factory = find(component["class_path"])
    arguments = component.get("init_args") or {}
    if arguments.get("seed") is not None or factory is None:
        return False
    try:
        return "seed" in inspect.signature(factory).parameters
    except (TypeError, ValueError):
        return False


def rehearse_points(sweep: Sweep, folder: SweepFolder) -> int:
    """Run the first seed of every point with `--dry-run`, and return the exit code.

    Raises:
        InputError: for the first point that refuses a batch, naming it.
    """
    module = import_module(f"rewardlab.commands.{sweep.command}")
    for point in sweep.points:
        if point.seed != sweep.seeds[0]:
            continue
        print(f"\n{point.label}", flush=True)
        command, *words = words_of(sweep, folder, point)
        try:
            code: int = module.run(command, [*words, "--dry-run"])
        except InputError as error:
            raise InputError(f"The sweep's point {point.label}: {error}") from None
        if code:
            return code
    return 0
