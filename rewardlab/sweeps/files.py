"""The file of a sweep: which config is run, what is varied, and by which figure it is read."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import yaml

from rewardlab.errors import InputError
from rewardlab.sweeps.launchers import Launcher, read_launcher
from rewardlab.sweeps.points import (
    CONFIG,
    SEED,
    Point,
    Settings,
    check_apart,
    multiplied,
    path_of,
    text_of,
)
from rewardlab.sweeps.pruning import Rule, read_rule
from rewardlab.sweeps.random_draws import drawn
from rewardlab.sweeps.search import Search, probes, read_search

KEYS = (
    "command",
    "config",
    "set",
    "points",
    "grid",
    "random",
    "search",
    "seeds",
    "figure",
    "better",
    "prune",
    "launcher",
)
RANDOM_KEYS = ("count", "seed", "of")
COMMANDS = ("rounds", "fit")
BETTER = ("higher", "lower")
# Flags that the sweep gives itself.
GIVEN = ("out", "experiment.out", "stages", "resume", "report", "dry-run", "ckpt_path")
NONE = "null"  # the config of points without one
MOST = 10_000  # runs; more are a slip of the keyboard


@dataclass(frozen=True)
class Sweep:
    """What the file of a sweep says.

    Attributes:
        command: of rewardlab, "rounds" or "fit".
        configs: its config files, in their order.
        fixed: flags that all points share.
        points: all runs, a setting's seeds side by side; of a search, those at the ends of its
            ranges, which stand for the points that it chooses.
        seeds: of each setting.
        figure: the dotted path in results.json, or `metrics.` and a column of metrics.csv.
        better: "higher" or "lower".
        search: how points are chosen, if they are not given.
        prune: when a run is ended early, if it ever is.
        launcher: what runs the points.
        text: the file's own text.

    Example:
        >>> file = getfixture("tmp_path") / "sweep.yaml"
        >>> grid = "grid: {model.init_args.lr: [0.1, 0.01]}"
        >>> _ = file.write_text(f"config: run.yaml\\n{grid}\\nfigure: metrics.val/auc")
        >>> [point.label for point in read_sweep(file).points]
        ['lr=0.1', 'lr=0.01']
    """

    command: str
    configs: list[str]
    fixed: Settings
    points: list[Point]
    seeds: list[int]
    figure: str
    better: str
    search: Search | None
    prune: Rule | None
    launcher: Launcher
    text: str = field(repr=False)

    def words(self, point: Point) -> list[str]:
        """Return what a point gives to rewardlab, without where it is kept."""
        overlay = [point.settings[CONFIG]] if point.settings.get(CONFIG, NONE) != NONE else []
        words = [f"--config={file}" for file in [*self.configs, *overlay]]
        words += [f"--{key}={text}" for key, text in self.fixed.items()]
        words += [word for word in point.flags if not word.startswith(f"--{CONFIG}=")]
        return [self.command, *words]

    def with_settings(self, settings: Sequence[Settings]) -> Sweep:
        """Return the sweep with other points: all seeds of each setting."""
        return replace(self, points=multiplied([settings], self.seeds) if settings else [])


class _Loader(yaml.SafeLoader):
    """YAML that refuses a key that a mapping has twice; the library takes the last in silence."""


def _mapping(loader: _Loader, node: yaml.MappingNode) -> dict[Any, Any]:
    names = [key.value for key, _ in node.value]
    twice = [name for name in names if names.count(name) > 1]
    if twice:
        line = node.start_mark.line + 1
        raise InputError(
            f"The sweep's file has {twice[0]!r} twice in the mapping at line {line}, so one of the "
            "two would be lost. Put all values in one list."
        )
    content: dict[Any, Any] = loader.construct_mapping(node, deep=True)
    return content


_Loader.add_constructor(yaml.resolver.BaseResolver.DEFAULT_MAPPING_TAG, _mapping)


def _read(text: str) -> Any:
    """Return what YAML holds, by a safe loader: plain data, no objects."""
    loader = _Loader(text)
    try:
        return loader.get_single_data()
    finally:
        loader.dispose()


def read_sweep(file: Path) -> Sweep:
    """Return what the file of a sweep says.

    Raises:
        InputError: for whatever is wrong with it, in one sentence.
    """
    text = _text(file)
    content = _content(file, text)
    for key in content:
        _check_name("The sweep", key, KEYS)
    fixed = _settings("set", content.get("set", {}))
    seeds = _seeds(content.get("seeds", [0]))
    search = read_search(content.get("search"))
    factors = [*_listed(content), *_grid(content), *_random(content), *_searched(search)]
    if search is not None and len(factors) > 1:
        raise InputError(
            "search: chooses every point itself, so points:, grid: and random: are not taken "
            "beside it. Move their keys into its of:, or values that all points share to set:."
        )
    count = math.prod(len(factor) for factor in factors) if search is None else search.count
    _check_count(count * len(seeds))
    _check_fixed(fixed, factors)
    better = _one_of("better", content.get("better", "higher"), BETTER)
    return Sweep(
        command=_one_of("command", content.get("command", "rounds"), COMMANDS),
        configs=_configs(content),
        fixed=fixed,
        points=multiplied(factors, seeds),
        seeds=seeds,
        figure=_figure(content),
        better=better,
        search=search,
        prune=read_rule(content.get("prune"), better, may_compare=search is not None),
        launcher=read_launcher(content.get("launcher", "local")),
        text=text,
    )


def _text(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"The sweep's file {str(file)!r} cannot be read: {error}.") from None


def _content(file: Path, text: str) -> dict[str, Any]:
    try:
        content = _read(text)
    except (yaml.YAMLError, RecursionError) as error:
        reason = " ".join(str(error).split())
        raise InputError(f"The sweep's file {str(file)!r} is not YAML: {reason}.") from None
    if not isinstance(content, dict):
        raise InputError(
            f"The sweep's file {str(file)!r} holds no keys; expected config:, grid: and figure:, "
            f"got {content!r:.60}."
        )
    return content


def _check_name(owner: str, key: Any, valid: tuple[str, ...]) -> None:
    if key not in valid:
        near = get_close_matches(str(key), valid, 1)
        hint = f"did you mean {near[0]!r}?" if near else f"its keys are {', '.join(valid)}."
        raise InputError(f"{owner} has no key {key!r}; {hint}")


def _one_of(key: str, value: Any, valid: tuple[str, ...]) -> str:
    if value not in valid:
        raise InputError(f"{key}: takes {' or '.join(valid)}; got {value!r}.")
    return str(value)


def _configs(content: Mapping[str, Any]) -> list[str]:
    configs = content.get("config")
    files = [configs] if isinstance(configs, str) else configs
    if not isinstance(files, list) or not files or not all(isinstance(one, str) for one in files):
        raise InputError(
            f"config: takes the config files of the runs, one or a list; got {configs!r}."
        )
    return files


def _figure(content: Mapping[str, Any]) -> str:
    figure = content.get("figure")
    if not isinstance(figure, str) or not figure:
        raise InputError(
            "figure: takes the figure that points are compared by, such as "
            f"rounds.last.judged.gold of results.json or metrics.val/auc; got {figure!r}."
        )
    return figure


def _seeds(seeds: Any) -> list[int]:
    if not isinstance(seeds, list) or not seeds or not all(type(seed) is int for seed in seeds):
        raise InputError(f"seeds: takes a list of whole numbers such as [0, 1, 2]; got {seeds!r}.")
    twice = [seed for seed in seeds if seeds.count(seed) > 1]
    if twice:
        raise InputError(
            f"seeds: has {twice[0]} twice, and the same seed gives the same run. Leave one out."
        )
    return seeds


def _settings(owner: str, content: Any) -> Settings:
    """Return a mapping of flags as texts."""
    if not isinstance(content, Mapping):
        raise InputError(
            f"{owner}: takes flags by their dotted keys, such as {{rounds.init_args.rounds: 1}}; "
            f"got {content!r:.60}."
        )
    settings: Settings = {}
    for key, value in content.items():
        _check_key(owner, key)
        for earlier in settings:
            check_apart(earlier, key)
        settings[key] = text_of(value)
    return settings


def _check_key(owner: str, key: Any) -> None:
    """Refuse keys that no flag has, and those that the sweep gives itself."""
    if not isinstance(key, str) or not key or key.startswith("-"):
        raise InputError(
            f"{owner}: takes dotted keys of a config without dashes, such as "
            f"rounds.init_args.attack.weight; got {key!r}."
        )
    if ".".join(path_of(key)) == SEED:
        raise InputError(f"{owner}: sets {key}, which seeds: gives. List the seeds there.")
    if key in GIVEN or (key == CONFIG and owner == "set"):
        raise InputError(f"{owner}: sets {key}, which the sweep gives each run itself. Remove it.")


def _values(owner: str, key: Any, values: Any) -> list[Settings]:
    _check_key(owner, key)
    if not isinstance(values, list) or not values:
        raise InputError(
            f"{owner}: {key} takes a list of values such as [0.5, 1]; got {values!r:.60}."
        )
    return [{key: text_of(value)} for value in values]


def _listed(content: Mapping[str, Any]) -> list[list[Settings]]:
    """Return the factor of `points:`, if there is one."""
    points = content.get("points")
    if points is None:
        return []
    if not isinstance(points, list) or not points:
        raise InputError(f"points: takes a list of mappings of flags; got {points!r:.60}.")
    return [[_settings("points", point) for point in points]]


def _grid(content: Mapping[str, Any]) -> list[list[Settings]]:
    """Return a factor for each key of `grid:`."""
    grid = content.get("grid", {})
    if not isinstance(grid, Mapping):
        raise InputError(f"grid: takes a list of values for each key; got {grid!r:.60}.")
    return [_values("grid", key, values) for key, values in grid.items()]


def _random(content: Mapping[str, Any]) -> list[list[Settings]]:
    """Return the factor of `random:`, if there is one."""
    settings = content.get("random")
    if settings is None:
        return []
    if not isinstance(settings, Mapping) or not isinstance(settings.get("of"), Mapping):
        raise InputError(
            "random: takes count:, seed: and of:, a range or a list of choices for each key; got "
            f"{settings!r:.60}."
        )
    for key in settings:
        _check_name("random:", key, RANDOM_KEYS)
    for key in settings["of"]:
        _check_key("random", key)
    count = settings.get("count")
    if type(count) is not int or not 1 <= count <= MOST:
        raise InputError(f"random: count is a number of points from 1 to {MOST}; got {count!r}.")
    seed = settings.get("seed", 0)
    if type(seed) is not int:
        raise InputError(f"random: seed is a whole number; got {seed!r}.")
    return [drawn(settings["of"], count, seed)]


def _searched(search: Search | None) -> list[list[Settings]]:
    """Return the factor of `search:`: points at the ends of its ranges."""
    if search is None:
        return []
    for key in search.spaces:
        _check_key("search", key)
    return [probes(search)]


def _check_count(count: int) -> None:
    if count > MOST:
        raise InputError(
            f"The sweep has {count:,} runs; at most {MOST:,} are taken. Are all of its values "
            "meant to be multiplied?"
        )


def _check_fixed(fixed: Settings, factors: list[list[Settings]]) -> None:
    """Refuse points that set what all share, or undo it."""
    varied: dict[str, None] = {}
    for factor in factors:
        for alternative in factor:
            varied.update(dict.fromkeys(alternative))
    for shared in fixed:
        for key in varied:
            check_apart(shared, key)
