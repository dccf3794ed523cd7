"""What a crash, a full disk or a kill leaves in a run folder is found, said and begun anew."""

import json
import logging
import os

import pytest

from rewardlab.errors import InputError, Terminated
from rewardlab.runs.damage import find_damage, write_checksums
from rewardlab.runs.folder import RunFolder

CONFIG = {"seed": 1}
BROKEN = {
    "empty": b"",
    "cut": b'{"a": {"b',
    "binary": b"\xff\xfe\x00\x01",
    "list": b"[1, 2]",
    "deep": b"[" * 100_000,
}


@pytest.fixture(autouse=True)
def heard(monkeypatch):
    monkeypatch.setattr(logging.getLogger("rewardlab"), "propagate", True)
    logging.getLogger("rewardlab").setLevel(logging.INFO)


@pytest.fixture
def run(tmp_path):
    """A run of one stage."""
    return opened(tmp_path / "run")


def opened(path, made=None, resume=False):
    """Return a run whose one stage stands; the list `made` tells whether it was made."""

    def make(folder):
        if made is not None:
            made.append(folder.name)
        (folder / "figures.json").write_text('{"auc": 0.5}')
        (folder / "deep").mkdir()
        (folder / "deep" / "image.png").write_bytes(b"pixels")

    run = RunFolder.open(path, CONFIG, resume=resume)
    run.stage("fit", {}, make)
    run.results({"auc": 0.5})
    return run


def stage_of(run):
    (folder,) = run.stages.glob("fit-????????")
    return folder


def damage(stage, kind):
    image = stage / "deep" / "image.png"
    if kind == "missing":
        image.unlink()
    elif kind == "flipped":
        image.write_bytes(b"pixelt")
    elif kind == "checksums":
        (stage / "checksums.json").write_bytes(b'{"deep/image.png": "0')
    elif kind == "older":  # no checksums, and JSON that is none
        (stage / "checksums.json").unlink()
        (stage / "figures.json").write_bytes(b'{"auc": 0.')


@pytest.mark.parametrize(
    ("kind", "phrase"),
    [
        ("missing", "deep/image.png is missing"),
        ("flipped", "deep/image.png is not as it was written"),
        ("checksums", "checksums.json cannot be read"),
        ("older", "figures.json cannot be read"),
    ],
)
def test_a_damaged_stage_is_set_aside_and_made_anew(tmp_path, run, caplog, kind, phrase):
    path = stage_of(run)
    damage(path, kind)
    del run
    made = []
    opened(tmp_path / "run", made, resume=True)
    assert len(made) == 1
    assert f"The stage {path} is damaged ({phrase}): it is made anew" in caplog.text
    assert (path.parent / f"{path.name}.damaged").is_dir()
    assert (path / "figures.json").read_text() == '{"auc": 0.5}'
    assert find_damage(path) is None


def test_a_sound_stage_is_taken_and_so_is_one_of_a_version_without_checksums(tmp_path, run):
    (stage_of(run) / "checksums.json").unlink()
    del run
    made = []
    opened(tmp_path / "run", made, resume=True)
    assert made == []


def test_hidden_files_and_notes_in_a_stage_are_no_damage(tmp_path):
    (tmp_path / "a.txt").write_text("a")
    write_checksums(tmp_path)
    (tmp_path / ".DS_Store").touch()
    (tmp_path / "notes.txt").write_text("good run")
    assert find_damage(tmp_path) is None


@pytest.mark.parametrize("content", BROKEN.values(), ids=BROKEN)
@pytest.mark.parametrize("name", ["run.json", "timing.json", "results.json"])
def test_a_damaged_record_is_set_aside_and_begun_anew(tmp_path, run, caplog, name, content):
    before = json.loads((run.path / name).read_text())
    (run.path / name).write_bytes(content)
    del run
    run = opened(tmp_path / "run", resume=True)
    assert f"{run.path / name} is damaged (" in caplog.text
    assert (run.path / f"{name}.damaged").read_bytes() == content
    after = json.loads((run.path / name).read_text())
    assert after.keys() == before.keys()
    if name != "timing.json":
        assert after == before


def test_seconds_that_are_no_number_are_damage(tmp_path, run, caplog):
    title = stage_of(run).name
    (run.path / "timing.json").write_text(json.dumps({title: {"seconds": "12"}}))
    del run
    opened(tmp_path / "run", resume=True)
    assert f"timing.json is damaged (the seconds of {title} are '12')" in caplog.text


@pytest.mark.parametrize("content", BROKEN.values(), ids=BROKEN)
def test_a_damaged_config_is_refused_and_left(tmp_path, run, content):
    file = run.path / "config.yaml"
    file.write_bytes(content)
    del run
    with pytest.raises(InputError, match=r"run/config\.yaml is damaged: expected the YAML"):
        opened(tmp_path / "run", resume=True)
    assert file.read_bytes() == content


def test_a_folder_in_the_place_of_the_lock_is_refused(tmp_path):
    (tmp_path / "run" / ".lock").mkdir(parents=True)
    with pytest.raises(InputError, match=r"\.lock is a folder; expected a file"):
        opened(tmp_path / "run")


def test_what_a_killed_run_left_half_written_goes_when_the_run_goes_on(tmp_path, run):
    leftovers = [
        run.path / ".run.json.0123456789ab.partial",
        run.path / ".scratch" / "fit-01234567" / ".last.ckpt.partial",
        run.path / ".reward.0123456789ab.partial" / "new" / "config.json",
        run.stages / ".fit-01234567.0123456789ab.partial" / "half.txt",
    ]
    page = run.path / ".report.html.0123456789ab.partial"  # written without the run's lock
    for file in (*leftovers, page):
        file.parent.mkdir(parents=True, exist_ok=True)
        file.touch()
    del run
    run = opened(tmp_path / "run", resume=True)
    left = {file.name for file in run.path.rglob(".*.partial")}
    assert left == {page.name}


def test_checkpoints_of_a_stage_that_stands_go_when_the_run_goes_on(tmp_path, run):
    """A kill came between the stage's renaming and the removal of its checkpoints."""
    (run.scratch("fit", {}) / "last.ckpt").touch()
    path = run.path
    del run
    opened(path, resume=True)
    assert not list((path / ".scratch").iterdir())


def test_a_run_that_was_killed_before_its_config_stood_begins_again(tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / ".run.json.0123456789ab.partial").touch()
    opened(tmp_path / "run")
    assert not list((tmp_path / "run").glob(".*.partial"))


def test_resuming_says_what_stands_and_what_is_made_anew(tmp_path, run, caplog):
    with pytest.raises(ValueError, match="no"):
        run.stage("1-pairs", {}, lambda folder: int("no"))
    run.scratch("1-post-train", {})
    path = run.path
    del run
    RunFolder.open(path, CONFIG, resume=True)
    assert (
        f"Going on in {path}: 1 stage stands (fit); 2 are made anew or from a checkpoint "
        "(1-pairs, 1-post-train)." in caplog.text
    )


class TestAttempts:
    def test_run_json_says_what_was_typed_when_it_began_and_how_it_ended(self, run):
        typed = ["rewardlab", "attack", "--reward", "http://me:secret@host:80/", "--out", "run"]
        with run.attempt(typed):
            inside = json.loads((run.path / "run.json").read_text())
            assert (inside["status"], inside["end"]) == ("running", None)
        after = json.loads((run.path / "run.json").read_text())
        assert after["status"] == "finished"
        assert after["command"][3] == "http://host:80/"
        assert inside["start"] == after["start"] <= after["end"]
        assert after["seeds"] == {"seed": 1}

    @pytest.mark.parametrize(
        ("error", "status"),
        [
            (KeyboardInterrupt, "interrupted"),
            (lambda: Terminated(15), "interrupted"),
            (lambda: ValueError("no"), "failed"),
        ],
    )
    def test_the_status_of_one_that_raised(self, run, error, status):
        with pytest.raises(BaseException), run.attempt(["rewardlab"]):  # noqa: B017, PT011
            raise error()
        assert json.loads((run.path / "run.json").read_text())["status"] == status

    def test_earlier_attempts_are_kept_and_a_killed_one_was_interrupted(self, run):
        run.record({"command": ["a"], "start": "then", "end": None, "status": "running"})
        with run.attempt(["b"]):
            pass
        facts = json.loads((run.path / "run.json").read_text())
        assert facts["command"] == ["b"]
        killed = {"command": ["a"], "start": "then", "end": None, "status": "interrupted"}
        assert facts["earlier"] == [killed]

    def test_one_that_left_nothing_leaves_no_record(self, tmp_path):
        run = RunFolder.open(tmp_path / "new", CONFIG)
        with run.attempt(["rewardlab"]):
            run.abandon()
        assert not os.path.exists(tmp_path / "new")


def test_half_a_surrogate_pair_in_a_record_is_damage(tmp_path, run, caplog):
    (run.path / "timing.json").write_text('{"cost": {"seconds": 1, "note": "\\ud800"}}')
    path = run.path
    del run
    again = opened(path, resume=True)
    again.timing({"cost": {"seconds": 2}})
    assert "timing.json is damaged" in caplog.text
    assert (path / "timing.json.damaged").exists()
