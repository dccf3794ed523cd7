"""What a run folder says: its figures, stages and provenance. What is absent is empty and noted,
never guessed.
"""

from __future__ import annotations

import csv
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from rewardlab.errors import InputError
from rewardlab.storage.metadata import read_text

NOT_JUDGES = ("distance", "real_distance", "diversity")


def at(tree: Any, *keys: str) -> Any:
    """Return the entry under nested keys, or an empty mapping where one is absent.

    Example:
        >>> at({"rounds": {"1": {"steps": 3}}}, "rounds", "1", "steps"), at({}, "rounds", "1")
        (3, {})
    """
    for key in keys:
        tree = tree.get(key) if isinstance(tree, Mapping) else None
    return {} if tree is None else tree


@dataclass
class Run:
    """A run folder that was read.

    Attributes:
        path: the folder.
        name: what tells it from the other runs of a report.
        results: results.json.
        facts: run.json.
        timing: timing.json, by stage.
        config: config.yaml as a tree.
        notes: what the report would show and the folder lacks.
    """

    path: Path
    name: str
    results: dict[str, Any]
    facts: dict[str, Any]
    timing: dict[str, Any]
    config: dict[str, Any]
    notes: list[str] = field(default_factory=list)

    @property
    def kind(self) -> Literal["rounds", "fit", "attack", "curve"]:
        """The command that made it, as its config says; "rounds" where there is none."""
        if "rounds" in self.config or "rounds" in self.results:
            return "rounds"
        marks: dict[str, Literal["fit", "attack", "curve"]] = {
            "model": "fit",
            "attack": "attack",
            "curve": "curve",
        }
        return next((kind for key, kind in marks.items() if key in self.config), "rounds")

    @property
    def stages(self) -> Path:
        """The folder of stages, which several runs may share."""
        named = self.path / str(self.facts.get("stages", "stages"))
        return named if named.is_dir() else self.path / "stages"

    @property
    def steps(self) -> list[Step]:
        """The rounds that have figures, in order; the base generator's round 0 is not among them."""
        numbers = sorted(int(number) for number in at(self.results, "rounds") if number.isdigit())
        return [Step(self, number) for number in numbers if number > 0]

    @property
    def trained(self) -> list[Step]:
        """The rounds whose policy was judged; Adv-RM's others only attack the reward."""
        return [step for step in self.steps if step.judged] or self.steps

    @property
    def base(self) -> Any:
        """What the judges say of the generator before the first round."""
        return at(self.results, "rounds", "0", "judged")

    @property
    def targets(self) -> Any:
        """What the judges say of the real targets."""
        return at(self.results, "targets")

    def stage(self, name: str) -> Path | None:
        """Return the folder of one of this run's stages, or None if it does not stand."""
        titles = list(self.timing) or ([folder.name for folder in self.path.glob("stages/*")])
        folders = [self.stages / title for title in titles if title.rpartition("-")[0] == name]
        return next((folder for folder in folders if folder.is_dir()), None)

    def file(self, stage: str, inside: str, what: str) -> Path | None:
        """Return a file or folder in a stage, or None after noting that `what` is missing."""
        folder = self.stage(stage)
        if folder is not None and (folder / inside).exists():
            return folder / inside
        self.notes.append(f"{what}: no {stage}-…/{inside}")
        return None


@dataclass(frozen=True)
class Step:
    """One round of one run."""

    run: Run
    number: int

    @property
    def figures(self) -> Any:
        return at(self.run.results, "rounds", str(self.number))

    @property
    def judged(self) -> Any:
        """What the judges say after the round."""
        return at(self.figures, "judged")

    @property
    def before(self) -> Any:
        """What the judges said last before the round; rounds that only attack the reward ask none."""
        earlier = (
            at(self.run.results, "rounds", str(number), "judged")
            for number in range(self.number - 1, -1, -1)
        )
        return next((judged for judged in earlier if judged), {})

    @property
    def separation(self) -> Any:
        """Scores and AUCs of the round's reward."""
        return at(self.figures, "separation")

    @property
    def guard_stop(self) -> int | None:
        """The optimiser step at which a guard stopped the round."""
        stops = at(self.figures, "post_train", "guard_stopped_at") or []
        return next((stop for stop in stops if stop is not None), None)

    def scores(self) -> dict[str, Any]:
        """Return the mean score over members [B] of "targets", "before" and "after", by the round's
        reward.
        """
        from safetensors.torch import load_file

        path = self.run.file(
            f"{self.number}-scores",
            "scores.safetensors",
            f"reward histogram of round {self.number}",
        )
        scores = load_file(path) if path else {}
        return {
            side: _scores(scores[side]) for side in ("targets", "before", "after") if side in scores
        }

    def curves(self, prefix: str = "guard/") -> dict[str, list[tuple[float, float]]]:
        """Return each reading of the round's training as (step, value), by its name without the
        prefix.
        """
        path = self.run.file(
            f"{self.number}-post-train", "metrics.csv", f"readings of round {self.number}"
        )
        rows = list(csv.DictReader(read_text(path).splitlines())) if path else []
        names = [name for name in (rows[0] if rows else ()) if name and name.startswith(prefix)]
        if rows and not any(name and name.startswith(("guard/", "reading/")) for name in rows[0]):
            self.run.notes.append(
                f"guard readings of round {self.number}: training had neither guard nor readings"
            )
        return {
            name.removeprefix(prefix): [
                (float(row["step"]), float(row[name])) for row in rows if row[name] and row["step"]
            ]
            for name in names
        }


def read_runs(paths: Sequence[Path]) -> list[Run]:
    """Read run folders; each once, named by what tells it from the others.

    Raises:
        InputError: if there is none, or one is no run folder, or a file of one cannot be read.
    """
    folders = list(dict.fromkeys(Path(os.path.abspath(path)) for path in paths))
    if not folders:
        raise InputError("A report needs at least one run folder; got none.")
    for folder in folders:
        if not any(
            (folder / name).is_file() for name in ("results.json", "run.json", "config.yaml")
        ):
            raise InputError(
                f"{folder} is no run folder: it has no results.json. Give one that `rewardlab rounds` or `rewardlab fit` wrote."
            )
    names = [folder.name for folder in folders]
    if len(set(names)) < len(names):
        names = [os.path.relpath(folder, common_parent(folders)) for folder in folders]
    return [_read(folder, name) for folder, name in zip(folders, names, strict=True)]


def common_parent(folders: Sequence[Path]) -> Path:
    """Return the folder that holds all of `folders`; one folder is its own."""
    return Path(os.path.commonpath([os.path.abspath(folder) for folder in folders]))


def _read(folder: Path, name: str) -> Run:
    results, facts, timing = (
        _json(folder / file) for file in ("results.json", "run.json", "timing.json")
    )
    run = Run(folder, name, results, facts, timing, _config(folder / "config.yaml"))
    found = {
        "results.json": results,
        "run.json": facts,
        "timing.json": timing,
        "config.yaml": run.config,
    }
    if run.kind != "rounds":
        return run
    run.notes += [f"no {file}" for file, content in found.items() if not content]
    if results:
        expected = {
            "judges on the targets": run.targets,
            "judges on the base": run.base,
            "finished rounds": run.steps,
        }
        run.notes += [
            f"{what}: not in results.json" for what, content in expected.items() if not content
        ]
    return run


def _json(path: Path) -> dict[str, Any]:
    if not path.is_file():
        return {}
    try:
        content = json.loads(read_text(path))
    except json.JSONDecodeError as error:
        raise InputError(
            f"{path}, line {error.lineno} is not JSON ({error.msg}). Restore it, or remove it."
        ) from None
    if not isinstance(content, dict):
        raise InputError(
            f"{path} should hold an object; got {str(content)[:60]}. Was it written by rewardlab?"
        )
    return content


def _config(path: Path) -> dict[str, Any]:
    import yaml

    if not path.is_file():
        return {}
    try:
        return dict(yaml.safe_load(read_text(path)) or {})
    except (yaml.YAMLError, TypeError, ValueError):
        raise InputError(f"{path} is not the YAML of a config. Restore it, or remove it.") from None


def yaml_text(tree: dict[str, Any]) -> str:
    """Return a config as YAML, its keys in their own order; nothing for an empty one."""
    import yaml

    return yaml.safe_dump(tree, sort_keys=False, allow_unicode=True) if tree else ""


def method(run: Run) -> str | None:
    """Return how the policy was trained, such as "DPO, β 500", as far as the config says.

    Example:
        >>> loop = {"class_path": "rewardlab.training.DPO", "init_args": {"beta": 500.0}}
        >>> config = {"rounds": {"init_args": {"post_train": {"loop": loop}}}}
        >>> method(Run(Path("a"), "a", {}, {}, {}, config))
        'DPO, β 500'
    """
    post_train = at(run.config, "rounds", "init_args", "post_train")
    post_train = at(post_train, "init_args") or post_train
    if not isinstance(post_train, Mapping) or "loop" not in post_train:
        return None
    if post_train["loop"] is None:
        return f"best of {post_train['candidates']}" if "candidates" in post_train else "best of n"
    title = str(at(post_train["loop"], "class_path") or "").rpartition(".")[2]
    beta = at(post_train["loop"], "init_args", "beta")
    return (f"{title}, β {beta:g}" if isinstance(beta, int | float) else title) or None


def differences(runs: Sequence[Run]) -> dict[str, list[Any]]:
    """Return the config keys in which runs differ, each with one value a run; output folders aside.

    What only some runs have at all is left out, unless it is the class that brings it.
    """
    trees = [_flat(run.config) for run in runs]
    table = {key: [tree.get(key) for tree in trees] for tree in trees for key in tree}
    return {key: values for key, values in table.items() if _differs(key, values)}


def _differs(key: str, values: Sequence[Any]) -> bool:
    several = len({str(value) for value in values if value is not None}) > 1
    return key != "out" and (several or (key.endswith("class_path") and None in values))


def _flat(tree: Any, prefix: str = "") -> dict[str, Any]:
    if isinstance(tree, list):
        tree = {str(i): item for i, item in enumerate(tree)}
    if not isinstance(tree, Mapping):
        return {prefix: tree}
    parts = (_flat(value, f"{prefix}.{key}" if prefix else str(key)) for key, value in tree.items())
    return {key: value for part in parts for key, value in part.items()}


def _scores(column: Any) -> Any:
    """Return scores [B]; runs of version 0.1 kept the members' [B, M], of which the mean counts."""
    return column.float() if column.dim() == 1 else column.float().flatten(1).mean(1)
