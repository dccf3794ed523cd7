"""What is known of a reward from the files that other commands left: for its model card."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from rewardlab.errors import InputError
from rewardlab.provenance import fingerprint
from rewardlab.report.held_out import held_out_sentence
from rewardlab.report.single import logged_values
from rewardlab.runs import layout
from rewardlab.runs.read import Run, read_runs
from rewardlab.storage.class_files import read_json

Figures = Mapping[str, Any]
CANNOT_TELL = "so whether its figures are of this reward cannot be told"


class Training(NamedTuple):
    """What a run folder says of how a reward was trained.

    Attributes:
        command: the words of the run's command.
        versions: of packages.
        data: fingerprints by what they are of; a text where there is none.
        held_out: the last figure of each name on held-out data.
        sentence: on how many samples are held out; "" if unknown.
    """

    command: list[str]
    versions: dict[str, str]
    data: dict[str, str]
    held_out: dict[str, float]
    sentence: str


class Results(NamedTuple):
    """Figures of one command, and what made them.

    Attributes:
        path: of its results.json.
        command: its words.
        figures: content of results.json.
    """

    path: str
    command: list[str]
    figures: Figures


class Evidence(NamedTuple):
    """All that is known of a reward; what is not is None or empty.

    Attributes:
        training: of its run.
        attacks: of `rewardlab attack`.
        evaluations: of `rewardlab evaluate`.
    """

    training: Training | None = None
    attacks: Sequence[Results] = ()
    evaluations: Sequence[Results] = ()


def read_evidence(reward: str | Path, run: str | Path | None, results: Sequence[str]) -> Evidence:
    """Read what a run folder and results files say of a reward.

    Args:
        reward: its folder.
        run: the run folder that trained it.
        results: results.json files of `attack` and `evaluate`, or the folders that hold them.

    Raises:
        InputError: if a file is missing or of another command, or is of another reward.
    """
    own = fingerprint(Path(reward))
    training = None if run is None else _training(Path(reward), Path(run), own)
    attacks = []
    evaluations = []
    for path in results:
        file = _results_file(Path(path))
        figures = read_json(file)
        command = _facts(file).get("command", [])
        if "files" in figures and "reward" in figures:
            _check_same(figures["reward"].get("fingerprint"), own, file)
            evaluations.append(Results(str(path), command, figures))
        elif "measures" in figures and "verdict" in figures:
            _check_same(_facts(file).get("inputs", {}).get("reward"), own, file)
            attacks.append(Results(str(path), command, figures))
        else:
            raise InputError(
                f"{file} is neither of `rewardlab attack` nor of `rewardlab evaluate`. Give the "
                "results.json that one of them wrote."
            )
    return Evidence(training, attacks, evaluations)


def _results_file(path: Path) -> Path:
    """Return a results.json that is given by its path or its folder's.

    Raises:
        InputError: if there is none.
    """
    file = path / layout.RESULTS_FILE if path.is_dir() else path
    if not file.is_file():
        raise InputError(
            f"{file} does not exist. Give the results.json of an attack or evaluation."
        )
    return file


def _facts(file: Path) -> dict[str, Any]:
    """Return run.json beside a results file; an empty one if there is none."""
    facts = file.parent / layout.FACTS_FILE
    return read_json(facts) if facts.is_file() else {}


def _check_same(measured: Any, own: str, file: Path) -> None:
    """Refuse figures of another reward.

    Raises:
        InputError: naming both fingerprints.
    """
    if measured is None:
        raise InputError(f"No {layout.FACTS_FILE} stands beside {file}, {CANNOT_TELL}.")
    if measured != own:
        raise InputError(
            f"{file} holds figures of another reward: fingerprint {measured}, and the one that is "
            f"exported has {own}. Measure this one, or export that one."
        )


def _training(reward: Path, folder: Path, own: str) -> Training:
    """Return what a run folder says of the reward that it trained.

    Raises:
        InputError: if it is no run folder, or another reward came out of it.
    """
    (run,) = read_runs([folder])
    trained = run.path / layout.REWARD_FOLDER
    is_inside = run.path in Path(reward).absolute().parents
    is_same = trained.is_dir() and fingerprint(trained) == own
    if not is_inside and not is_same:
        raise InputError(
            f"The reward in {reward} is not the one that the run {folder} trained: {trained} "
            f"{'has another fingerprint' if trained.is_dir() else 'does not exist'}. Give the run "
            "that trained it, or leave --run out."
        )
    values = {name: series[-1] for name, series in logged_values(run).items()}
    return Training(
        command=list(run.facts.get("command", [])),
        versions=dict(run.facts.get("versions", {})),
        data=_data(run),
        held_out=values or _round_values(run),
        sentence=held_out_sentence(run),
    )


def _round_values(run: Run) -> dict[str, float]:
    """Return the held-out figures of the last round's reward."""
    if not run.steps:
        return {}
    return _flat_values(run.steps[-1].figures, "")


def _flat_values(tree: Any, prefix: str) -> dict[str, float]:
    """Return the numbers under names that begin with val/, named by where they stand."""
    values: dict[str, float] = {}
    for name, child in tree.items() if isinstance(tree, Mapping) else ():
        if isinstance(child, Mapping):
            values |= _flat_values(child, f"{prefix}{name} ")
        elif str(name).startswith("val/") and isinstance(child, int | float):
            values[f"{prefix}{name}"] = float(child)
    return values


def _data(run: Run) -> dict[str, str]:
    """Return fingerprints of what a run was trained on.

    Those of the run's own record count. Files that its config names under data: are looked at now.
    """
    data = {}
    for name, value in run.facts.get("fingerprints", {}).items():
        values = value if isinstance(value, list) else [value]
        data[f"{name} (as the run recorded)"] = ", ".join(map(str, values))
    for place in dict.fromkeys(_texts(run.config.get("data"))):
        if Path(place).exists():
            data[f"{place} (as it is now)"] = fingerprint(Path(place))
        elif "/" in place or Path(place).suffix in (".jsonl", ".json", ".csv", ".parquet"):
            data[place] = "not there any more, so its hash is not known"
    return data


def _texts(tree: Any) -> list[str]:
    """Return all texts in a part of a config, in order."""
    if isinstance(tree, str):
        return [tree]
    children: Sequence[Any] = ()
    if isinstance(tree, Mapping):
        children = [child for name, child in tree.items() if name != "class_path"]
    elif isinstance(tree, list):
        children = tree
    texts = []
    for child in children:
        texts += _texts(child)
    return texts
