"""What the studies share: which runs are made, and what ends them."""

import sys
from pathlib import Path

import pytest

STUDIES = Path(__file__).parents[2] / "experiments" / "studies"


@pytest.fixture
def shared(monkeypatch):
    monkeypatch.syspath_prepend(str(STUDIES))
    import side_by_side

    yield side_by_side
    sys.modules.pop("side_by_side")


def test_runs_are_made_seed_by_seed_until_one_fails(shared, monkeypatch, tmp_path):
    codes = iter([0, 0, 3])
    asked = []
    monkeypatch.setattr(shared, "rewardlab", lambda words: asked.append(words) or next(codes))

    def command(arm, seed):
        return [arm, str(seed)]

    runs = shared.made(["a", "b"], [5, 6], tmp_path, command)
    assert next(runs) == ("a", 5, tmp_path / "a-5")
    assert next(runs) == ("b", 5, tmp_path / "b-5")
    with pytest.raises(SystemExit, match="3"):
        next(runs)
    assert asked == [["a", "5"], ["b", "5"], ["a", "6"]]


def test_no_run_begins_after_the_hours(shared, tmp_path, capsys):
    assert list(shared.made(["a"], [0], tmp_path, lambda arm, seed: [], hours=-1)) == []
    assert "the same command goes on" in capsys.readouterr().out


def test_rows_of_other_columns_stand_in_one_file(shared, tmp_path):
    shared.write_csv(tmp_path / "a.csv", [{"x": 1}, {"x": 2, "y": 3}])
    assert (tmp_path / "a.csv").read_text().splitlines() == ["x,y", "1,", "2,3"]
