"""Points as jobs of a queue or tasks of a cluster: the same folders, the same resumption."""

import importlib.util
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest

from rewardlab.commands.signals import ending_signals
from rewardlab.errors import InputError, Terminated
from rewardlab.sweeps import SweepFolder, read_sweep, run_points, summarize
from rewardlab.sweeps.launchers import IsFinished, Launcher, Remote, opened, read_launcher
from rewardlab.sweeps.processes import Job, run_jobs
from rewardlab.sweeps.ray_cluster import launch_of
from rewardlab.sweeps.running import How

TOY = """
import json, os, sys, time
from pathlib import Path
flags = dict(word[2:].split("=", 1) for word in sys.argv[2:] if "=" in word)
run, x = Path(flags["out"]), float(flags["a.x"])
with open("starts.txt", "a") as file:
    print(flags["a.x"], file=file)
time.sleep(float(Path("slow").read_text()) if Path("slow").exists() else 0)
if Path("fail").exists() and x == 2:
    sys.exit("the disk is full")
if Path("die").exists() and x == 2:
    os.kill(os.getppid(), 9)  # what returns the result
    os.kill(os.getpid(), 9)
run.mkdir(parents=True, exist_ok=True)
(run / "results.json").write_text(json.dumps({"gold": x}))
(run / "run.json").write_text('{"status": "finished"}')
with open("ends.txt", "a") as file:
    print(flags["a.x"], file=file)
"""
SWEEP = """
config: run.yaml
grid: {a.x: [1, 2, 3]}
launcher: LAUNCHER
figure: gold
"""
QUEUE = "{slurm: {cluster: local, timeout_min: 5}}"
CLUSTER = "{ray: {num_cpus: 1}}"
needs_ray = pytest.mark.skipif(
    importlib.util.find_spec("ray") is None, reason="needs rewardlab[ray]"
)
DRIVER = """
import sys
from pathlib import Path
from rewardlab.sweeps import SweepFolder, read_sweep, run_points
from rewardlab.sweeps.launchers import opened
from rewardlab.sweeps.running import How
sweep = read_sweep(Path("sweep.yaml"))
folder = SweepFolder(Path("out"))
folder.open(sweep.text)
launch = opened(sweep.launcher, folder.queue)
run_points(sweep, folder, How(2, 0, [sys.executable, "toy.py"], launch=launch))
"""


@pytest.fixture
def place(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("rewardlab.sweeps.slurm.POLL", 0.05)
    monkeypatch.setattr("submitit.Job._results_timeout_s", 1)
    Path("toy.py").write_text(TOY)
    Path("driver.py").write_text(DRIVER)
    return tmp_path


def go(launcher, retries=0):
    Path("sweep.yaml").write_text(SWEEP.replace("LAUNCHER", launcher))
    sweep = read_sweep(Path("sweep.yaml"))
    folder = SweepFolder(Path("out"))
    launch = opened(sweep.launcher, folder.queue)
    said = []
    how = How(3, retries, [sys.executable, "toy.py"], said.append, launch=launch)
    failed = run_points(sweep, folder, how)
    return summarize(sweep, folder), failed, said


def lines(name):
    return sorted(Path(name).read_text().split()) if Path(name).exists() else []


def check_a_sweep(launcher):
    """A point fails by itself and is reported, then goes on; what stands is left alone."""
    Path("fail").touch()
    summary, failed, said = go(launcher, retries=1)
    assert [point.label for point in failed] == ["x=2"]
    assert "Trying 1 that failed again." in said
    [trouble] = summary.troubles
    assert (trouble.status, trouble.tries, trouble.reason) == ("failed", 2, "the disk is full")
    Path("fail").unlink()
    summary, failed, said = go(launcher)
    assert said[0] == "3 runs: 2 stand, 1 to do, 3 at once."
    assert (failed, summary.best.label) == ([], "x=3")
    assert lines("ends.txt") == ["1", "2", "3"]


def check_a_lost_machine(launcher):
    """A job that leaves no result is a failed point with a reason, and the others go on."""
    Path("die").touch()
    summary, failed, _ = go(launcher)
    assert [point.label for point in failed] == ["x=2"]
    assert summary.troubles[0].reason.startswith("Signal 9 ended it; last: The ")
    assert "left no result" in summary.troubles[0].reason
    assert summary.best.label == "x=3"


def check_a_killed_sweep(launcher):
    """Jobs that a killed sweep left behind are waited for, and none is run twice."""
    Path("slow").write_text("1.5")
    Path("sweep.yaml").write_text(SWEEP.replace("LAUNCHER", launcher))
    driver = subprocess.Popen([sys.executable, "driver.py"], stdout=subprocess.DEVNULL)
    limit = time.monotonic() + 60
    while len(lines("starts.txt")) < 2 and time.monotonic() < limit:
        time.sleep(0.02)
    driver.kill()
    driver.wait()
    _, failed, said = go(launcher)
    if launcher != CLUSTER:  # which takes seconds to start again
        assert any("is still run by a sweep that was killed; wait." in line for line in said)
    assert failed == []
    assert lines("starts.txt") == lines("ends.txt") == ["1", "2", "3"]


def check_an_interrupted_sweep(launcher):
    """Ctrl-C ends the runs with the sweep."""
    Path("slow").write_text("3")
    Path("sweep.yaml").write_text(SWEEP.replace("LAUNCHER", launcher))
    driver = subprocess.Popen([sys.executable, "driver.py"], stdout=subprocess.DEVNULL)
    limit = time.monotonic() + 60
    while len(lines("starts.txt")) < 2 and time.monotonic() < limit:
        time.sleep(0.02)
    driver.send_signal(signal.SIGINT)
    driver.wait()
    Path("slow").unlink()
    _, failed, said = go(launcher)
    assert "3 runs: 0 stand, 3 to do, 3 at once." in said
    assert failed == []
    assert lines("ends.txt") == ["1", "2", "3"]


@pytest.mark.nightly
def test_an_interrupted_sweep_by_a_queue(place):
    check_an_interrupted_sweep(QUEUE)


def test_a_sweep_by_a_queue(place):
    check_a_sweep(QUEUE)


@pytest.mark.nightly
def test_a_job_of_a_queue_that_leaves_no_result(place):
    check_a_lost_machine(QUEUE)


def test_jobs_of_a_queue_outlive_a_killed_sweep(place):
    check_a_killed_sweep(QUEUE)


def test_a_job_that_another_one_has_finished_is_not_run(tmp_path):
    run = tmp_path / "run"
    run.mkdir()
    words = [sys.executable, "-c", f"open({str(tmp_path / 'ran')!r}, 'w')"]
    job = Job("x", words, tmp_path / "log.txt", tmp_path / "x.lock", {}, IsFinished(run))
    here = os.getcwd()
    try:
        assert Remote(job, tmp_path)()[0] == 0
        assert (tmp_path / "ran").exists()
        (tmp_path / "ran").unlink()
        (run / "run.json").write_text('{"status": "finished"}')
        assert Remote(job, tmp_path)() == (0, 0.0)
    finally:
        os.chdir(here)
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize(
    ("launcher", "sentence"),
    [
        ("kubernetes", "takes local, slurm, ray"),
        ({"slurm": 3}, "takes local, slurm, ray"),
        ({"local": {"gpus": 1}}, "local has no options"),
    ],
)
def test_a_launcher_that_there_is_not_is_refused(launcher, sentence):
    with pytest.raises(InputError, match=re.escape(sentence)):
        read_launcher(launcher)


def test_what_is_wrong_with_a_queue_is_said_before_anything_is_written(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    for options, sentence in (
        ({}, "there is no srun on this machine"),
        ({"cluster": "pbs"}, "cluster takes slurm or local; got 'pbs'"),
        ({"cluster": "local", "gpus": 1}, "submitit refuses an option of slurm"),
    ):
        with pytest.raises(InputError, match=re.escape(sentence)):
            opened(Launcher("slurm", options), tmp_path / "queue")
    assert list(tmp_path.iterdir()) == []
    monkeypatch.setattr("rewardlab.sweeps.launchers.find_spec", lambda name: None)
    for name in ("slurm", "ray"):
        with pytest.raises(InputError, match=re.escape(f"pip install 'rewardlab[{name}]'")):
            opened(Launcher(name, {}), tmp_path / "queue")


def test_the_local_launcher_is_processes_of_this_machine():
    assert opened(read_launcher("local"), Path("nowhere")) is run_jobs


def test_sigterm_ends_a_sweep_as_before_when_ray_has_set_its_own_handler(tmp_path, monkeypatch):
    def init(**options):
        signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(number))

    task = SimpleNamespace(options=lambda **options: None)
    ray = SimpleNamespace(init=init, is_initialized=lambda: False, remote=lambda function: task)
    monkeypatch.setitem(sys.modules, "ray", ray)
    with ending_signals():
        before = signal.getsignal(signal.SIGTERM)
        launch_of({}, tmp_path)
        assert signal.getsignal(signal.SIGTERM) is before
        with pytest.raises(Terminated):
            os.kill(os.getpid(), signal.SIGTERM)


@pytest.mark.nightly
@needs_ray
@pytest.mark.parametrize(
    "check",
    [check_a_sweep, check_a_lost_machine, check_a_killed_sweep, check_an_interrupted_sweep],
)
def test_a_sweep_by_a_ray_cluster(place, check):
    import ray

    try:
        check(CLUSTER)
    finally:
        ray.shutdown()


@pytest.mark.nightly
@needs_ray
def test_what_is_wrong_with_a_cluster_is_one_sentence(tmp_path):
    for options, sentence in (
        ({"cpus": 1}, "ray has no option 'cpus'"),
        ({"address": "127.0.0.1:1"}, "no Ray cluster answers at 127.0.0.1:1"),
    ):
        with pytest.raises(InputError, match=re.escape(sentence)):
            opened(Launcher("ray", options), tmp_path)
