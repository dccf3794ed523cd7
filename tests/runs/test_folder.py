"""RunFolder: nothing is overwritten, a stage stands whole or not at all, and a killed run goes on."""

from __future__ import annotations

import json
import subprocess
import sys
import textwrap
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
import yaml

from rewardlab.errors import InputError
from rewardlab.runs.folder import RunFolder
from rewardlab.runs.identity import absolute, first_difference

CONFIG = {
    "experiment": {"seed": 3, "data_path": None},
    "rounds": {"init_args": {"betas": [0.1, 1e-5], "kind": "dpo"}},
}


def changed(**experiment):
    return {**CONFIG, "experiment": {**CONFIG["experiment"], **experiment}}


def write(text):
    return lambda folder: (folder / "made.txt").write_text(text)


def refuse(folder):
    raise AssertionError("a stage that stands was run again")


def test_a_new_folder_says_what_was_run_and_with_what(tmp_path):
    RunFolder.open(tmp_path / "deep" / "run", CONFIG)
    assert yaml.safe_load((tmp_path / "deep" / "run" / "config.yaml").read_text()) == CONFIG
    facts = json.loads((tmp_path / "deep" / "run" / "run.json").read_text())
    assert facts["seeds"] == {"experiment.seed": 3}
    assert facts["versions"]["torch"]
    assert facts["device"]["threads"] >= 1
    assert len(facts["config"]) == 16


@dataclass
class Later:
    """Arguments that came in a later version: a number, a list and settings of their own."""

    old: int
    number: float | None = None
    names: tuple[str, ...] = ("a", "b")
    place: Path = Path("here")


@dataclass
class Shown:
    count: int = 1
    names: tuple[str, ...] = ("c",)


SHOWN = Shown()


class Loop:
    def __init__(
        self, old: int, later: Later | None = None, *, rows: str = "refuse", shown: Shown = SHOWN
    ) -> None:
        pass


def loop_config(later=None, **more):
    arguments = {"old": 1, **more}
    if later is not None:
        arguments["later"] = later
    return {"loops": [{"class_path": f"{__name__}.Loop", "init_args": arguments}]}


OLD = loop_config({"old": 2})


@pytest.mark.parametrize(
    "new",
    [
        loop_config({"old": 2}, rows="refuse"),
        loop_config({"old": 2, "number": None}),
        loop_config({"old": 2}, shown={"count": 1, "names": ["c"]}),
        loop_config({"old": 2, "names": ["a", "b"], "place": "here"}, rows="refuse"),
    ],
)
def test_a_run_of_an_earlier_version_goes_on_if_new_arguments_have_their_defaults(tmp_path, new):
    RunFolder.open(tmp_path / "run", OLD)
    run = RunFolder.open(tmp_path / "run", new, resume=True)
    assert run.config == OLD  # by which its stages are named


@pytest.mark.parametrize(
    ("new", "difference"),
    [
        (loop_config({"old": 2}, rows="drop"), "rows is absent there and drop here"),
        (loop_config({"old": 2}, shown=["a"]), "shown.0 is absent there and a here"),
        (loop_config({"old": 2, "number": 3.0}), "number is absent there and 3.0 here"),
        (loop_config({"old": 2, "names": ["a"]}), "names.0 is absent there and a here"),
        (loop_config({"old": 2, "unknown": None}), "unknown is absent there and None here"),
        (loop_config({"old": 3}, rows="refuse"), "later.old is 2 there and 3 here"),
    ],
)
def test_another_value_of_a_new_argument_is_another_run(tmp_path, new, difference):
    RunFolder.open(tmp_path / "run", OLD)
    with pytest.raises(InputError, match=difference):
        RunFolder.open(tmp_path / "run", new, resume=True)


def test_an_equal_config_needs_resume(tmp_path):
    RunFolder.open(tmp_path / "run", CONFIG)
    with pytest.raises(InputError, match="Add --resume"):
        RunFolder.open(tmp_path / "run", CONFIG)
    before = (tmp_path / "run" / "run.json").read_bytes()
    RunFolder.open(tmp_path / "run", CONFIG, resume=True)
    assert (tmp_path / "run" / "run.json").read_bytes() == before


@pytest.mark.parametrize(
    ("other", "difference"),
    [
        (changed(seed=4), "experiment.seed is 3 there and 4 here"),
        (changed(extra=1), "experiment.extra is absent there and 1 here"),
        (
            {"experiment": CONFIG["experiment"]},
            "rounds.init_args.betas.0 is 0.1 there and absent here",
        ),
    ],
)
def test_another_config_is_refused_and_its_first_difference_named(tmp_path, other, difference):
    RunFolder.open(tmp_path / "run", CONFIG)
    with pytest.raises(InputError, match=difference):
        RunFolder.open(tmp_path / "run", other, resume=True)
    assert yaml.safe_load((tmp_path / "run" / "config.yaml").read_text()) == CONFIG


def test_a_folder_of_something_else_is_refused_and_left_alone(tmp_path):
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "a.png").touch()
    with pytest.raises(InputError, match=r"photos is not a run folder: it holds a\.png"):
        RunFolder.open(tmp_path / "photos", CONFIG)
    assert [item.name for item in (tmp_path / "photos").iterdir()] == ["a.png"]
    with pytest.raises(InputError, match="is a file"):
        RunFolder.open(tmp_path / "photos" / "a.png", CONFIG)


def test_paths_are_saved_absolute_and_compare_equal_however_they_were_given(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "in" / "targets").mkdir(parents=True)
    given = changed(data_path="in/targets", tower_path="local-dir:in/targets", name="in")
    saved = changed(
        data_path=f"{tmp_path}/in/targets", tower_path=f"local-dir:{tmp_path}/in/targets", name="in"
    )
    assert absolute(given) == saved
    RunFolder.open("run", given)
    assert yaml.safe_load(Path("run/config.yaml").read_text()) == saved
    RunFolder.open("run", given, resume=True)
    RunFolder.open("run", saved, resume=True)


def test_a_path_that_the_first_run_made_does_not_change_the_config(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    RunFolder.open("run", changed(cache="made/later"))
    Path("made/later").mkdir(parents=True)
    RunFolder.open("run", changed(cache="made/later"), resume=True)


def test_types_count_in_a_difference():
    assert first_difference({"a": 1}, {"a": True}) == "a is 1 there and True here"
    assert first_difference({"a": {}}, {"a": {}}) is None
    assert first_difference({"a": [1, 2]}, {"a": (1, 2)}) is None


def test_a_stage_is_made_once_for_each_key(tmp_path):
    run = RunFolder.open(tmp_path / "run", CONFIG)
    first = run.stage("sample", {"seed": 1}, write("one"))
    assert first.parent == tmp_path / "run" / "stages"
    assert run.stage("sample", {"seed": 1}, refuse) == first
    other = run.stage("sample", {"seed": 2}, write("two"))
    assert (first / "made.txt").read_text() == "one"
    assert (other / "made.txt").read_text() == "two"
    assert (
        RunFolder.open(tmp_path / "run", CONFIG, resume=True).stage("sample", {"seed": 2}, refuse)
        == other
    )


def test_a_stage_that_fails_leaves_nothing_but_its_time(tmp_path):
    run = RunFolder.open(tmp_path / "run", CONFIG)

    def fail(folder):
        (folder / "half.txt").touch()
        raise ValueError("no")

    with pytest.raises(ValueError, match="no"):
        run.stage("fit", {}, fail)
    assert all(item.name.endswith(".lock") for item in run.stages.iterdir())
    seconds = run._read("timing.json")
    run.stage("fit", {}, write("done"))
    (title,) = seconds
    assert run._read("timing.json")[title]["seconds"] > seconds[title]["seconds"] > 0
    assert run._read("timing.json")[title]["peak_memory_mib"] > 1


def test_runs_share_stages_through_a_root(tmp_path):
    one = RunFolder.open(tmp_path / "a", CONFIG, stages_root=tmp_path / "shared")
    two = RunFolder.open(tmp_path / "b", changed(seed=4), stages_root=tmp_path / "shared")
    made = one.stage("base", {"width": 8}, write("base"))
    assert two.stage("base", {"width": 8}, refuse) == made
    taken = json.loads((made / "seconds.json").read_text())["seconds"]
    assert two._read("timing.json") == {made.name: {"reused": True, "seconds_then": taken}}


def test_results_merge_and_keep_every_digit(tmp_path):
    run = RunFolder.open(tmp_path / "run", CONFIG)
    run.results({"rounds": {"1": {"auc": 0.1 + 0.2}}, "b": 1})
    whole = run.results(
        {"rounds": {"2": {"auc": torch.tensor(0.5)}}, "a": [torch.tensor([1.0, 2.0])]}
    )
    assert whole == {
        "a": [[1.0, 2.0]],
        "b": 1,
        "rounds": {"1": {"auc": 0.1 + 0.2}, "2": {"auc": 0.5}},
    }
    text = (tmp_path / "run" / "results.json").read_text()
    assert "0.30000000000000004" in text
    assert text.index('"a"') < text.index('"b"') < text.index('"rounds"')


KILLED = """
    import os, sys
    from rewardlab.runs.folder import RunFolder
    run = RunFolder.open(sys.argv[1], {"a": 1})
    run.stage("one", {}, lambda folder: (folder / "made.txt").write_text("one"))
    def die(folder):
        (folder / "half.txt").touch()
        (run.scratch("two", {}) / "checkpoint").write_text("step 5")
        print(sorted(item.name for item in run.stages.iterdir() if item.name.endswith(".partial")), flush=True)
        sys.stdin.read()
    run.stage("two", {}, die)
"""


def test_a_killed_run_keeps_what_was_finished_and_its_scratch_and_shuts_others_out_until_then(
    tmp_path,
):
    words = [sys.executable, "-c", textwrap.dedent(KILLED), str(tmp_path / "run")]
    with subprocess.Popen(
        words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert ".partial" in process.stdout.readline()
        with pytest.raises(InputError, match="Another process is working in"):
            RunFolder.open(tmp_path / "run", {"a": 1}, resume=True)
        neighbour = RunFolder.open(
            tmp_path / "other", {"a": 2}, stages_root=tmp_path / "run" / "stages"
        )
        assert len(list(neighbour.stages.glob(".*.partial"))) == 1, (
            "a live run's work is not cleaned away"
        )
        process.kill()
    run = RunFolder.open(tmp_path / "run", {"a": 1}, resume=True)
    assert not list(run.stages.glob(".*.partial"))
    run.stage("one", {}, refuse)
    scratch = run.scratch("two", {})
    assert (scratch / "checkpoint").read_text() == "step 5"
    assert sorted(item.name for item in run.stage("two", {}, write("two")).iterdir()) == [
        "checksums.json",
        "made.txt",
        "seconds.json",
    ]
    assert not scratch.exists()
