"""What a run says is in its folder: a log file, and diagnostics for the page."""

import json
import logging
import re
import time

from rewardlab.progress import counted
from rewardlab.runs.early_records import EARLY
from rewardlab.runs.folder import RunFolder
from rewardlab.runs.journal import read_diagnostics

log = logging.getLogger("rewardlab")


def opened(place, **options):
    return RunFolder.open(place / "run", {"seed": 0}, **options)


def test_warnings_and_figures_are_diagnostics_of_their_stage_and_each_is_kept_once(tmp_path):
    run = opened(tmp_path)
    log.warning("before")

    def fit(folder):
        for _ in range(2):
            log.warning("Sizes %s.", "differ", extra={"figures": {"size": 1.0}})

    with run.attempt(["rewardlab", "rounds"]):
        log.warning("of the run")
        run.stage("1-reward", {"a": 1}, fit)
    log.warning("after")
    assert json.loads((tmp_path / "run" / "diagnostics.json").read_text()) == [
        {"stage": "rounds", "level": "warning", "sentence": "of the run", "figures": {}},
        {
            "stage": "1-reward",
            "level": "warning",
            "sentence": "Sizes differ.",
            "figures": {"size": 1.0},
        },
    ]


def test_what_a_command_warned_of_before_its_folder_was_open_is_the_runs(tmp_path):
    for place, number in ((tmp_path / "a", 1), (tmp_path / "b", 2)):
        with EARLY.kept():
            log.warning("Skipped %d lines.", number)
            run = opened(place)
            with run.attempt(["rewardlab", "rounds"]):
                log.warning("of the run")
        sentences = [entry["sentence"] for entry in read_diagnostics(run.path)]
        assert sentences == [f"Skipped {number} lines.", "of the run"]
        assert (run.path / "log.txt").read_text().count(f"Skipped {number} lines.") == 1
    with EARLY.kept():
        log.warning("of a command without a folder")
    with opened(tmp_path / "c").attempt(["rewardlab", "rounds"]):
        pass
    assert read_diagnostics(tmp_path / "c" / "run") == []


def test_a_shared_stage_brings_its_diagnostics(tmp_path):
    shared = tmp_path / "shared"
    first = RunFolder.open(tmp_path / "a", {"seed": 0}, stages_root=shared)
    first.stage("1-reward", {"a": 1}, lambda folder: log.warning("Sizes differ."))
    second = RunFolder.open(tmp_path / "b", {"seed": 1}, stages_root=shared)
    second.stage("1-reward", {"a": 1}, lambda folder: 1 / 0)
    assert read_diagnostics(tmp_path / "b") == read_diagnostics(tmp_path / "a") != []


def test_the_log_file_has_a_line_for_each_message_with_its_time(tmp_path, caplog):
    caplog.set_level(logging.INFO, "rewardlab")
    run = opened(tmp_path)
    with run.attempt(["rewardlab", "rounds"]):
        run.stage("1-reward", {"a": 1}, lambda folder: None)
    lines = (tmp_path / "run" / "log.txt").read_text().splitlines()
    assert [line.split()[1] for line in lines] == ["info", "info"]
    assert "1-reward begins" in lines[0]
    assert lines[1].split()[2] == "1-reward"


def test_a_resumed_run_adds_to_both_and_says_nothing_twice(tmp_path):
    for resume in (False, True):
        with opened(tmp_path, resume=resume).attempt(["rewardlab", "rounds"]):
            log.warning("Too few are held out.")
    assert len(read_diagnostics(tmp_path / "run")) == 1
    assert len((tmp_path / "run" / "log.txt").read_text().splitlines()) >= 2


def test_a_damaged_file_is_set_aside(tmp_path):
    run = opened(tmp_path)
    for text in ("{", "[1]", '{"a": 1}', "[" * 10_000):
        run.path.joinpath("diagnostics.json").write_text(text)
        assert read_diagnostics(run.path) == []
    assert (run.path / "diagnostics.json.damaged").exists()


def test_a_long_stage_gives_signs_of_life_with_rate_and_time_left(tmp_path, monkeypatch):
    monkeypatch.setattr("rewardlab.runs.journal.MINUTE", 0.02)
    run = opened(tmp_path)

    def draw(folder):
        for _ in counted(range(0, 20, 2), 20, "drawing", hidden=True):
            time.sleep(0.03)

    run.stage("1-candidates", {"a": 1}, draw)
    text = (tmp_path / "run" / "log.txt").read_text()
    assert re.search(r"1-candidates: drawing \d+ of 20, [\d.]+ a second, \d+ s left", text)
    before = len(text)
    time.sleep(0.1)
    assert len((tmp_path / "run" / "log.txt").read_text()) == before
