"""A search chooses points by those before it, and the same ones whatever is killed when."""

import json
import re
import subprocess
import sys
import time
from pathlib import Path
from statistics import median

import pytest

from rewardlab.errors import InputError
from rewardlab.report.sweep_page import sweep_page
from rewardlab.sweeps import SweepFolder, read_sweep, run_search, summarize
from rewardlab.sweeps.running import How
from rewardlab.sweeps.search import Search, Trial, next_settings, probes
from rewardlab.sweeps.searching import chosen_points, next_batch, trials_of

# A parabola with its peak at x = 3; a point fails where `fail` says so, and prunes itself by NaN.
TOY = """
import json, sys, time
from pathlib import Path
flags = dict(word[2:].split("=", 1) for word in sys.argv[2:] if "=" in word)
run, x, seed = Path(flags["out"]), float(flags["a.x"]), int(flags["experiment.seed"])
with open("starts.txt", "a") as file:
    print(f"{flags['a.x']} {seed}", file=file)
if Path("slow").exists():
    time.sleep(float(Path("slow").read_text()))
if Path("fail-above").exists() and x > float(Path("fail-above").read_text()):
    sys.exit("the disk is full")
value = -(x - 3) ** 2 + (0.01 if flags["a.kind"] == "v" else 0) + 0.001 * seed
run.mkdir(parents=True, exist_ok=True)
(run / "metrics.csv").write_text(f"step,gold\\n0,0.0\\n5,{value if x > 1 else float('nan')}\\n")
(run / "results.json").write_text(json.dumps({"gold": value}))
(run / "run.json").write_text('{"status": "finished"}')
"""
SWEEP = """
config: run.yaml
search:
  {count: 8, batch: 3, startup: 4, seed: 1, of: {a.x: {low: 0, high: 10}, a.kind: [u, v]}}
prune: {reading: gold}
seeds: [0, 1]
figure: gold
"""
DRIVER = """
import sys
from pathlib import Path
from rewardlab.sweeps import SweepFolder, read_sweep, run_search
from rewardlab.sweeps.running import How
sweep = read_sweep(Path("sweep.yaml"))
folder = SweepFolder(Path("out"))
folder.open(sweep.text)
run_search(sweep, folder, How(2, 0, [sys.executable, "toy.py"]))
"""


@pytest.fixture
def place(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("toy.py").write_text(TOY)
    Path("sweep.yaml").write_text(SWEEP)
    Path("driver.py").write_text(DRIVER)
    return tmp_path


def go(out="out", text=SWEEP, workers=2):
    """Run the search, and return its sweep with the points it chose, folder, and what was said."""
    Path("sweep.yaml").write_text(text)
    sweep = read_sweep(Path("sweep.yaml"))
    folder = SweepFolder(Path(out))
    folder.open(sweep.text)
    said = []
    how = How(workers, 0, [sys.executable, "toy.py"], said.append)
    run_search(sweep, folder, how)
    return chosen_points(sweep, folder), folder, said


def settings_of(sweep):
    return [point.settings for point in sweep.points]


def starts():
    return Path("starts.txt").read_text().splitlines()


def test_a_search_that_is_killed_goes_on_with_the_points_of_one_that_is_not(place):
    whole, folder, said = go("whole")
    assert len(whole.points) == 8 * 2 == len(starts())
    assert [line for line in said if line.startswith("Points")] == [
        f"Points {ends} of 8." for ends in ("1 to 3", "4 to 6", "7 to 8")
    ]
    trials = trials_of(whole, folder)
    assert {trial.state for trial in trials} == {"finished", "pruned"}
    by_x = {trial.state: float(trial.settings["a.x"]) for trial in trials}
    assert by_x["pruned"] <= 1 < by_x["finished"]
    Path("starts.txt").unlink()
    for seconds in (0.0, 0.3, 0.7):  # killed before, in and after a batch
        driver = subprocess.Popen([sys.executable, "driver.py"], stdout=subprocess.DEVNULL)
        limit = time.monotonic() + 30
        while not Path("out/sweep.json").exists() and time.monotonic() < limit:
            time.sleep(0.01)
        time.sleep(seconds)
        driver.kill()
        driver.wait()
    resumed, folder, _ = go("out", workers=3)
    assert settings_of(resumed) == settings_of(whole)
    assert sorted(starts()) == sorted(set(starts()))  # none was run twice
    assert len(starts()) == 16
    assert trials_of(resumed, folder) == trials


def test_it_finds_the_peak():
    search = Search(24, 0, 3, 6, {"a.x": {"low": 0, "high": 10}})
    trials = []
    while len(trials) < search.count:
        batch = []
        for number in range(len(trials), len(trials) + search.batch):
            known = [*trials, *(Trial(settings, "running") for settings in batch)]
            batch.append(next_settings(search, number, known, "higher"))
        trials += [Trial(one, "finished", -abs(float(one["a.x"]) - 3)) for one in batch]
    distances = [-trial.value for trial in trials]
    assert median(distances[12:]) < 1 < 2 < median(distances[:6])
    assert min(distances) < 0.2


def test_the_page_of_a_search_shows_its_order(place):
    sweep, folder, _ = go(text=SWEEP.replace("seeds: [0, 1]", "seeds: [0]"))
    summary = summarize(sweep, folder)
    page = sweep_page("mine", summary.data())
    assert page.count("<img") == 3  # in their order, x, kind
    assert "the line is the best mean so far" in page
    assert f"Best, higher being better: {summary.best.label}" in page


def test_more_points_keep_those_that_were_there_and_other_settings_are_refused(place):
    text = SWEEP.replace("seeds: [0, 1]", "seeds: [0]")
    few = go("few", text.replace("count: 8", "count: 5"))[0]
    more = go("few", text)[0]
    whole = go("whole", text)[0]
    assert settings_of(more) == settings_of(whole)
    assert settings_of(more)[:5] == settings_of(few)
    with pytest.raises(InputError, match="other settings than the sweep's file"):
        go("few", text.replace("seed: 1", "seed: 2"))


def test_failed_points_tell_nothing_and_pruned_ones_count_as_worst(place):
    Path("fail-above").write_text("6")
    sweep, folder, said = go()
    summary = summarize(sweep, folder)
    statuses = {trouble.status for trouble in summary.troubles}
    assert statuses == {"failed", "pruned"}
    reasons = {trouble.reason for trouble in summary.troubles}
    assert reasons == {"the disk is full", "gold is nan at step 5, which is no number"}
    assert any("pruned, gold is nan at step 5" in line for line in said)
    page = sweep_page("mine", summary.data())
    assert re.search(r"On the lower edge: × \d+ pruned, \+ \d+ failed\.", page)
    Path("fail-above").unlink()
    before = settings_of(sweep)
    del folder  # and with it its lock
    again, folder, said = go()
    assert settings_of(again) == before
    assert {trouble.status for trouble in summarize(again, folder).troubles} == {"pruned"}


def test_a_small_space_is_exhausted_and_no_point_comes_twice(place):
    text = SWEEP.replace("{low: 0, high: 10}", "{low: 2, high: 4, integer: true}")
    sweep, _, said = go(text=text.replace("seeds: [0, 1]", "seeds: [0]"))
    assert "Every point of the search was tried: there are 6." in said
    points = {tuple(settings.values()) for settings in settings_of(sweep)}
    assert points == {(x, kind) for x in "234" for kind in "uv"}


def test_points_of_one_batch_do_not_know_each_other(place):
    sweep, folder, _ = go(text=SWEEP.replace("seeds: [0, 1]", "seeds: [0]"))
    chosen = folder.chosen(json.loads(Path("out/sweep.json").read_text())["search"])
    assert next_batch(sweep, folder, chosen[:3]) == chosen[3:6]
    assert next_batch(sweep, folder, chosen[:5]) == chosen[5:6]


def test_choices_that_python_takes_for_one_stay_apart():
    search = Search(20, 0, 4, 2, {"a.on": [True, 1, "x"], "a.n": {"low": 0.1, "high": 2}})
    assert probes(search)[0] == {"a.on": "true", "a.n": "0.1"}
    trials = []
    for number in range(12):
        settings = next_settings(search, number, trials, "lower")
        value = 0.0 if settings["a.on"] == "1" else 5.0
        trials.append(Trial(settings, "finished", value + float(settings["a.n"])))
    late = [trial.settings["a.on"] for trial in trials[-6:]]
    assert late.count("1") >= 4


@pytest.mark.parametrize(
    ("search", "sentence"),
    [
        ("{of: {a.x: [1, 2]}}", "count is a whole number from 1 to 10,000; got None"),
        ("{count: 3, of: {}}", "names no key"),
        ("{count: 3, off: {a.x: [1, 2]}}", "takes method: optuna, count: and of:"),
        ("{count: 3, method: grid, of: {a.x: [1]}}", "method takes optuna; got 'grid'"),
        ("{count: 3, of: {a.x: [1, 1.0]}}", "has the choice 1.0 twice"),
        ("{count: 3, of: {a.x: {low: 2, high: 1}}}", "search: a.x has low 2 and high 1"),
        ("{count: 3, of: {experiment.seed: [1]}}", "which seeds: gives"),
        ("{count: 3, of: {a.x: [1], a.init_args.x: [2]}}", "the same key"),
        ("{count: 3, of: {a.x: [1, 2]}}\ngrid: {a.y: [1]}", "chooses every point itself"),
        ("{count: 3, of: {a.x: [1, 2]}}\nset: {a.x: 1}", "the same key"),
        ("{count: 9000, of: {a.x: [1, 2]}}\nseeds: [0, 1]", "18,000 runs"),
    ],
)
def test_what_is_wrong_with_a_search_is_one_sentence(tmp_path, search, sentence):
    file = tmp_path / "sweep.yaml"
    file.write_text(f"config: run.yaml\nfigure: gold\nsearch: {search}\n")
    with pytest.raises(InputError, match=re.escape(sentence)) as caught:
        read_sweep(file)
    assert "\n" not in str(caught.value)


def test_a_missing_extra_is_named_with_its_command(tmp_path, monkeypatch):
    monkeypatch.setattr("rewardlab.sweeps.search.find_spec", lambda name: None)
    file = tmp_path / "sweep.yaml"
    file.write_text("config: a.yaml\nfigure: gold\nsearch: {count: 2, of: {a.x: [1, 2]}}")
    with pytest.raises(InputError, match=re.escape("pip install 'rewardlab[optuna]'")):
        read_sweep(file)
