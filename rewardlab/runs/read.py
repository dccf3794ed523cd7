"""Reading a run folder: its figures, stages and provenance.

What is absent is empty and noted, never guessed.
"""

from __future__ import annotations

import csv
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from rewardlab.errors import InputError
from rewardlab.runs import layout
from rewardlab.storage.loading import loading
from rewardlab.storage.metadata import read_text

if TYPE_CHECKING:
    from torch import Tensor

Kind = Literal["rounds", "fit", "attack", "curve"]
Curve = list[tuple[float, float]]

NOT_JUDGES = ("distance", "real_distance", "diversity")
KIND_OF_KEY: dict[str, Kind] = {"model": "fit", "attack": "attack", "curve": "curve"}
SIDES = ("targets", "before", "after")


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
        name: what distinguishes it from the other runs of a report.
        results: content of results.json.
        facts: content of run.json.
        timing: content of timing.json, by stage.
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
    def kind(self) -> Kind:
        """The command that made the run, as its config says; "rounds" where there is no config."""
        if "rounds" in self.config or "rounds" in self.results:
            return "rounds"
        for key, kind in KIND_OF_KEY.items():
            if key in self.config:
                return kind
        return "rounds"

    @property
    def stages(self) -> Path:
        """The folder of stages, which several runs may share."""
        folder = self.path / str(self.facts.get("stages", layout.STAGES_FOLDER))
        if folder.is_dir():
            return folder
        return self.path / layout.STAGES_FOLDER

    @property
    def steps(self) -> list[Step]:
        """The rounds that have figures, in order, without the base generator's round 0."""
        numbers = [int(key) for key in at(self.results, "rounds") if key.isdigit()]
        return [Step(self, number) for number in sorted(numbers) if number > 0]

    @property
    def trained(self) -> list[Step]:
        """The rounds that changed the policy; Adv-RM's other rounds only attack the reward."""
        steps = [step for step in self.steps if step.changed_policy]
        return steps or self.steps

    @property
    def base(self) -> Any:
        """The judges' figures of the generator before the first round."""
        return at(self.results, "rounds", "0", "judged")

    @property
    def targets(self) -> Any:
        """The judges' figures of the real targets."""
        return at(self.results, "targets")

    def stage(self, name: str) -> Path | None:
        """Return the folder of one of this run's stages, or None if it does not exist."""
        for title in self._titles():
            folder = self.stages / title
            if layout.name_of_title(title) == name and folder.is_dir():
                return folder
        return None

    def _titles(self) -> list[str]:
        """Return the titles of the run's stages."""
        if self.timing:
            return list(self.timing)
        return [folder.name for folder in (self.path / layout.STAGES_FOLDER).glob("*")]

    def file(self, stage: str, inside: str, what: str) -> Path | None:
        """Return a file or folder in a stage, or None after noting that `what` is missing."""
        folder = self.stage(stage)
        if folder is not None and (folder / inside).exists():
            return folder / inside
        self.notes.append(f"{what}: no {stage}-…/{inside}")
        return None


@dataclass(frozen=True)
class Step:
    """One round of one run.

    Attributes:
        run: the run.
        number: number of the round.
    """

    run: Run
    number: int

    @property
    def figures(self) -> Any:
        """The figures of the round in results.json."""
        return at(self.run.results, "rounds", str(self.number))

    @property
    def judged(self) -> Any:
        """The judges' figures after the round."""
        return at(self.figures, "judged")

    @property
    def before(self) -> Any:
        """The judges' last figures before the round; rounds that only attack have none."""
        for number in range(self.number - 1, -1, -1):
            judged = at(self.run.results, "rounds", str(number), "judged")
            if judged:
                return judged
        return {}

    @property
    def separation(self) -> Any:
        """Scores and AUCs of the round's reward."""
        return at(self.figures, "separation")

    @property
    def changed_policy(self) -> bool:
        """Whether the round has figures of its policy: those of judges, or the reward's scores."""
        return bool(self.judged or self.separation)

    @property
    def guard_stop(self) -> int | None:
        """The optimizer step at which a guard stopped the round."""
        stops = at(self.figures, "post_train", "guard_stopped_at") or []
        return next((stop for stop in stops if stop is not None), None)

    def scores(self) -> dict[str, Tensor]:
        """Return the round's reward scores [B] of "targets", "before" and "after"."""
        from safetensors.torch import load_file

        path = self.run.file(
            layout.stage_name(self.number, layout.SCORES),
            layout.SCORES_FILE,
            f"reward histogram of round {self.number}",
        )
        if path is None:
            return {}
        with loading(path):
            columns = load_file(path)
            return {side: _scores(columns[side]) for side in SIDES if side in columns}

    def curves(self, prefix: str = "guard/") -> dict[str, Curve]:
        """Return each reading of the round's training as (step, value), by name without prefix."""
        path = self.run.file(
            layout.stage_name(self.number, layout.POST_TRAIN),
            layout.METRICS_FILE,
            f"readings of round {self.number}",
        )
        if path is None:
            return {}
        with loading(path):
            return self._curves(list(csv.DictReader(read_text(path).splitlines())), prefix)

    def _curves(self, rows: list[dict[str, str]], prefix: str) -> dict[str, Curve]:
        """Return the curves of the columns with a prefix; note a training without readings."""
        if not rows:
            return {}
        names = [name for name in rows[0] if name]
        curves = {}
        for name in names:
            if name.startswith(prefix):
                curves[name.removeprefix(prefix)] = curve_of(rows, name)
        return curves


def _scores(column: Tensor) -> Tensor:
    """Return scores [B].

    Runs of version 0.1 kept the members' [B, M], of which the mean counts.
    """
    scores = column.float()
    if scores.dim() == 1:
        return scores
    return scores.flatten(1).mean(1)


def curve_of(rows: Sequence[Mapping[str, str]], name: str) -> Curve:
    """Return (step, value) of the rows of metrics.csv that have both; none without the column."""
    curve = []
    for row in rows:
        if row.get(name) and row["step"]:
            curve.append((float(row["step"]), float(row[name])))
    return curve


def read_runs(paths: Sequence[Path]) -> list[Run]:
    """Read run folders, each once, and name each by what distinguishes it from the others.

    Raises:
        InputError: if there is none, or one is no run folder, or a file of one cannot be read.
    """
    folders = list(dict.fromkeys(Path(os.path.abspath(path)) for path in paths))
    if not folders:
        raise InputError("A report needs at least one run folder; got none.")
    for folder in folders:
        _check_run_folder(folder)
    names = [folder.name for folder in folders]
    if len(set(names)) < len(names):
        parent = common_parent(folders)
        names = [os.path.relpath(folder, parent) for folder in folders]
    return [_read(folder, name) for folder, name in zip(folders, names, strict=True)]


def _check_run_folder(folder: Path) -> None:
    files = (layout.RESULTS_FILE, layout.FACTS_FILE, layout.CONFIG_FILE)
    if not any((folder / name).is_file() for name in files):
        raise InputError(
            f"{folder} is no run folder: it has no results.json. Give one that `rewardlab rounds` "
            "or `rewardlab fit` wrote."
        )


def common_parent(folders: Sequence[Path]) -> Path:
    """Return the folder that holds all of `folders`; a single folder is its own parent."""
    return Path(os.path.commonpath([os.path.abspath(folder) for folder in folders]))


def _read(folder: Path, name: str) -> Run:
    """Read a run folder, and note what it lacks for a report on rounds."""
    run = Run(
        path=folder,
        name=name,
        results=_json(folder / layout.RESULTS_FILE),
        facts=_json(folder / layout.FACTS_FILE),
        timing=_json(folder / layout.TIMING_FILE),
        config=_config(folder / layout.CONFIG_FILE),
    )
    if run.kind == "rounds":
        run.notes += _missing_files(run)
        run.notes += _missing_figures(run)
    return run


def _missing_files(run: Run) -> list[str]:
    contents = {
        layout.RESULTS_FILE: run.results,
        layout.FACTS_FILE: run.facts,
        layout.TIMING_FILE: run.timing,
        layout.CONFIG_FILE: run.config,
    }
    return [f"no {file}" for file, content in contents.items() if not content]


def _missing_figures(run: Run) -> list[str]:
    if not run.results:
        return []
    contents = {"finished rounds": run.steps}
    if asks_judges(run):
        contents["judges on the targets"] = run.targets
        contents["judges on the base"] = run.base
    return [f"{what}: not in results.json" for what, content in contents.items() if not content]


def asks_judges(run: Run) -> bool:
    """Return whether a run's config names judges; without a config it may have."""
    evaluation = at(run.config, "rounds", "init_args", "evaluation")
    if not evaluation:
        return True
    return bool(at(evaluation, "judges") or at(evaluation, "init_args", "judges"))


def _json(path: Path) -> dict[str, Any]:
    """Return a file's JSON object, or an empty one if the file is absent."""
    if not path.is_file():
        return {}
    with loading(path):
        content = json.loads(read_text(path))
    if not isinstance(content, dict):
        raise InputError(f"{path} should hold an object; got {str(content)[:60]}. Is it edited?")
    return content


def _config(path: Path) -> dict[str, Any]:
    """Return a config's tree, or an empty one if the file is absent."""
    import yaml

    if not path.is_file():
        return {}
    try:
        return dict(yaml.safe_load(read_text(path)) or {})
    except (yaml.YAMLError, TypeError, ValueError, RecursionError):
        raise InputError(f"{path} is not the YAML of a config. Restore it, or remove it.") from None


def yaml_text(tree: dict[str, Any]) -> str:
    """Return a config as YAML, its keys in their own order; "" for an empty one."""
    import yaml

    if not tree:
        return ""
    text: str = yaml.safe_dump(tree, sort_keys=False, allow_unicode=True)
    return text


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
    loop = post_train["loop"]
    if loop is None:
        return f"best of {post_train.get('candidates', 'n')}"
    class_path = str(at(loop, "class_path") or "")
    title = class_path.rpartition(".")[2]
    beta = at(loop, "init_args", "beta")
    if isinstance(beta, int | float):
        return f"{title}, β {beta:g}"
    return title or None
