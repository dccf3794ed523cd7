"""Points are run once each, whatever is killed when; the summary says what they came to.

The runs here are a script of a few lines in place of rewardlab: what counts is who starts whom.
"""

import csv
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from rewardlab.errors import InputError
from rewardlab.report.picture import canvas
from rewardlab.report.sweep_page import sweep_page
from rewardlab.report.sweep_plots import axis_of, set_axis
from rewardlab.runs.locks import lock_file
from rewardlab.sweeps import SweepFolder, read_sweep, run_points, summarize
from rewardlab.sweeps.figures import figure_of
from rewardlab.sweeps.running import How
from rewardlab.sweeps.summary import write_summary

# Works as long as the file `slow` says, fails as often as `fail-<x>` says, and leaves a run folder.
TOY = """
import json, sys, time
from pathlib import Path
flags = dict(word[2:].split("=", 1) for word in sys.argv[2:] if "=" in word)
run, x, seed = Path(flags["out"]), float(flags["a.x"]), int(flags["experiment.seed"])
with open("starts.txt", "a") as file:
    print(f"{flags['a.x']} {seed}", file=file)
slow = Path("slow")
if slow.exists():
    time.sleep(float(slow.read_text()))
fail = Path(f"fail-{flags['a.x']}")
if fail.exists() and int(fail.read_text()):
    fail.write_text(str(int(fail.read_text()) - 1))
    sys.exit("the disk is full")
run.mkdir(parents=True, exist_ok=True)
gold = {"mean": (x - 2) ** 2 + 0.1 * seed}
(run / "results.json").write_text(json.dumps({"rounds": {"9": {}, "10": {"gold": gold}}}))
(run / "run.json").write_text('{"status": "finished"}')
with open("ends.txt", "a") as file:
    print(f"{flags['a.x']} {seed}", file=file)
"""
SWEEP = """
config: run.yaml
grid: {a.x: [1, 2, 4]}
seeds: [0, 1]
figure: rounds.last.gold
better: lower
"""
DRIVER = """
import sys
from pathlib import Path
from rewardlab.sweeps import SweepFolder, read_sweep, run_points
from rewardlab.sweeps.running import How
sweep = read_sweep(Path("sweep.yaml"))
folder = SweepFolder(Path("out"))
folder.open(sweep.text)
run_points(sweep, folder, How(2, 0, [sys.executable, "toy.py"]))
"""
EVERY = [f"{x} {seed}" for x in (1, 2, 4) for seed in (0, 1)]


@pytest.fixture(autouse=True)
def place(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("toy.py").write_text(TOY)
    Path("sweep.yaml").write_text(SWEEP)
    Path("driver.py").write_text(DRIVER)
    return tmp_path


def go(retries=1, workers=2):
    """Run the sweep, and return it with its folder, the points that failed and what was said."""
    sweep = read_sweep(Path("sweep.yaml"))
    folder = SweepFolder(Path("out"))
    folder.open(sweep.text)
    said = []
    how = How(workers, retries, [sys.executable, "toy.py"], said.append)
    return sweep, folder, run_points(sweep, folder, how), said


def lines(name):
    return Path(name).read_text().splitlines() if Path(name).exists() else []


def test_points_are_run_once_and_compared_over_seeds():
    sweep, folder, failed, said = go()
    assert failed == []
    assert sorted(lines("starts.txt")) == EVERY
    assert said[0] == "6 runs: 0 stand, 6 to do, 2 at once."
    assert said[-1].startswith("[6/6]")
    assert said[-1].endswith("; 0 s left")
    summary = summarize(sweep, folder)
    assert (summary.best.label, summary.level, summary.troubles) == ("x=2", [], [])
    mean, low, high = summary.best.interval
    assert mean == pytest.approx(0.05)
    assert (
        high - mean == mean - low == pytest.approx(12.706 * 0.05, rel=1e-4)
    )  # Student's, 1 degree
    rows = list(csv.DictReader(write_summary(summary, folder).read_text().splitlines()))
    assert [(row["a.x"], row["finished"], row["seed 1"]) for row in rows] == [
        ("1", "2", "1.1"),
        ("2", "2", "0.1"),
        ("4", "2", "4.1"),
    ]
    assert rows[1]["command"] == (
        f"rewardlab rounds --config=run.yaml --a.x=2 --experiment.seed=0 "
        f"--out=runs/{sweep.points[2].name}"
    )


def test_going_on_runs_nothing_twice_and_adds_what_is_new():
    go()
    Path("sweep.yaml").write_text(SWEEP.replace("[1, 2, 4]", "[1, 2, 3]"))
    sweep, folder, _, said = go()
    assert said[0] == "6 runs: 4 stand, 2 to do, 2 at once."
    assert sorted(lines("starts.txt")) == sorted([*EVERY, "3 0", "3 1"])
    assert [setting.label for setting in summarize(sweep, folder).settings] == ["x=1", "x=2", "x=3"]


def test_failed_points_are_tried_again_and_reported():
    Path("fail-2").write_text("1")
    Path("fail-4").write_text("4")
    sweep, folder, failed, said = go()
    assert [point.label for point in failed] == ["x=4", "x=4"]
    assert "Trying 3 that failed again." in said
    assert [line for line in lines("starts.txt") if line.startswith("2")].count("2 0") <= 2
    troubles = summarize(sweep, folder).troubles
    assert [(trouble.label, trouble.status, trouble.tries) for trouble in troubles] == [
        ("x=4, seed 0", "failed", 2),
        ("x=4, seed 1", "failed", 2),
    ]
    assert {trouble.reason for trouble in troubles} == {"the disk is full"}
    assert "the disk is full" in sweep_page("s", summarize(sweep, folder).data())
    del folder  # and with it its lock
    *_, failed, said = go()
    assert (failed, said[0]) == ([], "6 runs: 4 stand, 2 to do, 2 at once.")


def test_a_point_that_was_refused_is_not_tried_again_at_once():
    Path("toy.py").write_text("import sys; print('rewardlab: no such key'); sys.exit(2)")
    sweep, folder, failed, said = go(retries=3, workers=3)
    assert len(failed) == 6
    assert not any("again" in line for line in said)
    assert {trouble.reason for trouble in summarize(sweep, folder).troubles} == {"no such key"}


def start():
    """Start the sweep in a process of its own, and wait until two runs are at work."""
    Path("slow").write_text("0.8")
    driver = subprocess.Popen([sys.executable, "driver.py"], stdout=subprocess.DEVNULL)
    deadline = time.monotonic() + 60
    while len(lines("starts.txt")) < 2 and time.monotonic() < deadline:
        time.sleep(0.02)
    return driver


def test_runs_that_outlive_a_killed_sweep_are_waited_for_and_not_doubled():
    driver = start()
    driver.send_signal(signal.SIGKILL)
    driver.wait()
    assert lines("ends.txt") == []
    Path("slow").unlink()
    *_, failed, said = go()
    assert "x=1, seed 0, is still run by a sweep that was killed; wait." in said
    assert "6 runs: 2 stand, 4 to do, 2 at once." in said
    assert sorted(lines("starts.txt")) == sorted(lines("ends.txt")) == EVERY
    assert failed == []


def test_a_sweep_that_is_asked_to_end_ends_its_runs_and_goes_on_later():
    driver = start()
    driver.send_signal(signal.SIGINT)
    driver.wait()
    Path("slow").unlink()
    assert lines("ends.txt") == []
    *_, failed, said = go()
    assert said[0] == "6 runs: 0 stand, 6 to do, 2 at once."
    assert failed == []
    assert sorted(lines("ends.txt")) == EVERY


def test_a_run_that_was_begun_and_not_ended_is_interrupted():
    sweep = read_sweep(Path("sweep.yaml"))
    folder = SweepFolder(Path("out"))
    folder.run(sweep.points[0]).mkdir(parents=True)
    (folder.run(sweep.points[0]) / "run.json").write_text('{"status": "running"}')
    troubles = summarize(sweep, folder).troubles
    assert [trouble.status for trouble in troubles] == ["interrupted"] + ["waiting"] * 5


def test_two_sweeps_do_not_share_a_folder_and_none_takes_another_s_files():
    sweep = read_sweep(Path("sweep.yaml"))
    first = SweepFolder(Path("out"))
    first.check(resume=False)
    first.open(sweep.text)
    second = SweepFolder(Path("out"))
    second.open(sweep.text)  # one process may go on in its own folder, with both objects alive
    del first
    assert lock_file(Path("out/.lock"), wait=False) is None, "the second still holds the lock"
    del second
    other = lock_file(Path("out/.lock"), wait=False)
    first = SweepFolder(Path("out"))
    with pytest.raises(InputError, match="Another process is working"):
        first.open(sweep.text)
    os.close(other)
    with pytest.raises(InputError, match="Add --resume"):
        first.check(resume=False)
    first.check(resume=True)
    Path("other").mkdir()
    Path("other/thesis.txt").touch()
    with pytest.raises(InputError, match="it holds thesis"):
        SweepFolder(Path("other")).check(resume=True)
    assert os.listdir("other") == ["thesis.txt"]


def test_figures_are_read_from_results_and_metrics():
    run = Path("run")
    run.mkdir()
    results = {"rounds": {"2": {"judged": {"v/a.b": {"mean": 1, "low": 0, "high": 2}}}, "10": {}}}
    (run / "results.json").write_text(json.dumps({**results, "bad": float("nan"), "yes": True}))
    (run / "metrics.csv").write_text("step,val/auc,loss\n0,,1\n1,0.75,2\n2,,nan\n")
    assert figure_of(run, "rounds.2.judged.v/a.b") == 1
    assert figure_of(run, "rounds.last.judged.v/a.b") is None
    assert figure_of(run, "metrics.val/auc") == 0.75
    absent = ("metrics.loss", "metrics.none", "bad", "yes", "rounds", "none.at.all")
    assert [figure_of(run, name) for name in absent] == [None] * len(absent)


def test_the_page_plots_each_parameter_and_names_the_best():
    sweep, folder, *_ = go()
    page = sweep_page("mine", summarize(sweep, folder).data())
    assert page.count("<img") == 1
    assert "Best, lower being better: x=2, rounds.last.gold 0.0500 [−0.585, 0.685]." in page
    assert "All 2 other points are worse" in page
    assert page.count("rewardlab rounds --config=run.yaml") == 4  # the best's, and every point's
    assert "http" not in page.replace("http://www.w3.org", "")


def test_a_logarithmic_axis_has_numbers_that_can_be_read():
    axis = axis_of(["1e-4", "0.01", "1"])
    assert axis.is_log
    assert not axis_of(["0", "100"]).is_log
    assert not axis_of(["0.1", "4", "6", "10"]).is_log  # draws from 0 to 10
    with canvas(4, 3) as figure:
        axes = figure.subplots()
        axes.plot(axis.places, [0, 1, 2])
        set_axis(axes, axis)
        figure.canvas.draw()
        labels = {label.get_text() for label in axes.get_xticklabels(which="both")}
    assert {"0.0001", "0.01", "1", ""} <= labels
    assert not any("$" in label for label in labels)
