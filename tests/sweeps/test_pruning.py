"""Runs are ended by their own readings, whenever those are seen."""

import json
import re
import sys
from pathlib import Path

import pytest

from rewardlab.errors import InputError
from rewardlab.sweeps import SweepFolder, read_sweep, run_points, summarize
from rewardlab.sweeps.pruning import Reading, Rule, medians_of, readings_of, verdict
from rewardlab.sweeps.running import How

NAN = float("nan")
PEAK = [0.1, 0.5, 0.9, 0.3, 0.2, 0.1]

# Writes a reading every 20 ms, until it is asked to end; x = 2 collapses, x = 3 becomes NaN.
TOY = """
import json, signal, sys, time
from pathlib import Path
flags = dict(word[2:].split("=", 1) for word in sys.argv[2:] if "=" in word)
run, x = Path(flags["out"]), int(flags["a.x"])
run.mkdir(parents=True, exist_ok=True)
with open("starts.txt", "a") as file:
    print(x, file=file)
scratch = run / ".scratch" / "1-post-train-01234567"
scratch.mkdir(parents=True, exist_ok=True)
(run / "run.json").write_text('{"status": "running"}')
signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
curves = {1: [0.1, 0.5, 0.9], 2: [0.1, 0.9, 0.2, 0.2], 3: [0.1, 0.2, float("nan")]}
with open(scratch / "metrics.csv", "w") as file:
    file.write("step,loss,reading/gold\\n")
    for number, value in enumerate(curves[x]):
        file.write(f"{number},0.5,\\n{number},,{value}\\n")
        file.flush()
        time.sleep(0.02)
if x > 1 and not Path("fast").exists():
    time.sleep(60)
(run / "results.json").write_text(json.dumps({"gold": 1.0}))
(run / "run.json").write_text('{"status": "finished"}')
"""
SWEEP = """
config: run.yaml
grid: {a.x: [1, 2, 3]}
prune: {reading: reading/gold, collapse: 0.5}
figure: gold
"""


def curve(values, training=""):
    return [Reading(training, 10.0 * number, value) for number, value in enumerate(values)]


def rule(collapse=None, *, behind=False, patience=1, sign=1, medians=None):
    return Rule("gold", sign, collapse, behind, patience, medians or {})


def test_nan_ends_a_run_at_once_which_optuna_s_pruners_keep():
    found = verdict(rule(), curve([0.5, 0.5, NAN, NAN]))
    assert found == ("gold is nan at step 20, which is no number", 3)
    assert verdict(rule(), curve([0.5, float("-inf")])).readings == 2
    assert verdict(rule(), curve([0.5, 0.5])) is None
    import optuna

    study = optuna.create_study(pruner=optuna.pruners.MedianPruner(n_startup_trials=2))
    for values in ([0.5] * 6, [0.6] * 6, [0.5] * 3 + [NAN] * 3):
        trial = study.ask()
        for step, value in enumerate(values):
            trial.report(value, step)
        assert not trial.should_prune()
        study.tell(trial, 0.5)


def test_a_collapse_ends_a_run_after_as_many_readings_in_a_row():
    assert verdict(rule(0.5), curve(PEAK)).readings == 4
    assert verdict(rule(0.5, patience=2), curve(PEAK)).readings == 5
    assert verdict(rule(0.9), curve(PEAK)) is None
    assert verdict(rule(0.5, patience=2), curve([0.1, 0.9, 0.2, 0.8, 0.2])) is None
    falling = [-value for value in PEAK]
    assert verdict(rule(0.5, sign=-1), curve(falling)).readings == 4
    assert (
        verdict(rule(0.5), [*curve([0.9], "1-post-train"), *curve([0.1], "2-post-train")]) is None
    )


def test_a_run_behind_earlier_points_is_ended():
    medians = {("", 0.0): 0.1, ("", 10.0): 0.6, ("", 20.0): 0.6}
    compared = rule(behind=True, patience=2, medians=medians)
    assert verdict(compared, curve([0.0, 0.5, 0.9])).readings == 2
    assert verdict(compared, curve([0.0, 0.7, 0.5, 0.1])) is None  # no median at step 30
    assert "worse than earlier points' median, 0.6" in verdict(compared, curve([0, 0.1])).reason


def test_medians_are_of_points_and_not_of_seeds():
    lone = [[curve([value])] for value in (1.0, 2.0, 3.0)]
    point_of_three = [curve([value]) for value in (8.0, 9.0, 10.0)]
    assert medians_of([*lone, point_of_three]) == {("", 0.0): 2.5}
    assert medians_of([*lone, [curve([NAN])]]) == {}  # four are needed, and NaN is none


def test_readings_are_those_of_finished_trainings_and_of_the_present_one(tmp_path):
    run = tmp_path / "run"
    stages = tmp_path / "stages"
    for folder, value in (
        (stages / "1-post-train-aaaaaaaa", 1),
        (run / ".scratch" / "1-post-train-aaaaaaaa", 7),  # left over, and the stage stands
        (run / ".scratch" / "2-post-train-bbbbbbbb", 2),
    ):
        folder.mkdir(parents=True)
        (folder / "metrics.csv").write_text(f"step,gold\n0,\n0,{value}\n5,{value}.5\n7")
    (run / "timing.json").write_text(json.dumps({"1-post-train-aaaaaaaa": {"seconds": 1.0}}))
    assert readings_of(run, stages, "gold") == [
        ("1-post-train", 0, 1.0),
        ("1-post-train", 5, 1.5),
        ("2-post-train", 0, 2.0),
        ("2-post-train", 5, 2.5),
    ]
    assert readings_of(run, stages, "other") == readings_of(tmp_path, stages, "gold") == []


@pytest.fixture
def place(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("rewardlab.sweeps.processes.WATCH_EVERY", 0.1)
    Path("toy.py").write_text(TOY)
    return tmp_path


def go(text=SWEEP, workers=3):
    Path("sweep.yaml").write_text(text)
    sweep = read_sweep(Path("sweep.yaml"))
    folder = SweepFolder(Path("out"))
    said = []
    failed = run_points(sweep, folder, How(workers, 1, [sys.executable, "toy.py"], said.append))
    return summarize(sweep, folder), failed, said


def test_pruned_runs_are_ended_reported_and_neither_lost_nor_doubled(place):
    summary, failed, said = go()
    assert failed == []
    reasons = {trouble.label: trouble.reason for trouble in summary.troubles}
    assert reasons == {
        "x=2, seed 0": "reading/gold is 0.2 at step 3, more than 0.5 from its best, 0.9",
        "x=3, seed 0": "reading/gold is nan at step 2, which is no number",
    }
    assert [trouble.status for trouble in summary.troubles] == ["pruned", "pruned"]
    assert any("x=3, seed 0: pruned, reading/gold is nan" in line for line in said)
    assert [(one.finished, one.pruned) for one in summary.settings] == [(1, 0), (0, 1), (0, 1)]
    assert go()[2] == ["3 runs: 3 stand, 0 to do, 3 at once."]
    assert sorted(Path("starts.txt").read_text().split()) == ["1", "2", "3"]


def test_a_run_that_ends_before_it_is_seen_is_judged_in_hindsight(place, monkeypatch):
    monkeypatch.setattr("rewardlab.sweeps.processes.WATCH_EVERY", float("inf"))
    Path("fast").touch()
    summary, failed, _ = go()
    assert [(one.finished, one.pruned) for one in summary.settings] == [(1, 0), (0, 1), (0, 1)]
    assert failed == []
    summary, *_ = go(SWEEP.replace("prune:", "better: higher #"))  # without a rule all count
    assert [(one.finished, one.pruned) for one in summary.settings] == [(1, 0)] * 3
    summary, *_ = go(SWEEP.replace("0.5}", "5}"))
    assert [(one.finished, one.pruned) for one in summary.settings] == [(1, 0), (1, 0), (0, 1)]
    assert sorted(Path("starts.txt").read_text().split()) == ["1", "2", "3"]


def test_a_reading_that_no_run_has_is_said_once(place):
    Path("fast").touch()
    _, _, said = go(SWEEP.replace("reading/gold", "reading/glod"))
    assert len([line for line in said if "column 'reading/glod', so prune: ends" in line]) == 1
    _, _, said = go(SWEEP)
    assert not [line for line in said if "so prune: ends nothing" in line]


@pytest.mark.parametrize(
    ("prune", "sentence"),
    [
        ("0.5", "takes reading:, a column of metrics.csv"),
        ("{reading: gold, colapse: 1}", "has no key 'colapse'"),
        ("{reading: gold, collapse: -1}", "above 0; got -1"),
        ("{reading: gold, patience: 0}", "from 1 on; got 0"),
        ("{reading: gold, better: up}", "better takes higher or lower"),
        ("{reading: gold, behind: true}", "only search: has batches"),
    ],
)
def test_what_is_wrong_with_a_rule_is_one_sentence(place, prune, sentence):
    with pytest.raises(InputError, match=re.escape(sentence)) as caught:
        go(SWEEP.replace("{reading: reading/gold, collapse: 0.5}", prune))
    assert "\n" not in str(caught.value)
