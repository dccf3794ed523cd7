"""Readings pooled over seeds: the means, the range, and which runs are one group."""

import runpy
from pathlib import Path
from types import SimpleNamespace

import pytest

from rewardlab.report.pooled import common_name
from rewardlab.report.seed_curves import _pooled, _readings, seed_curves
from rewardlab.runs.read import read_runs

FOLDERS = SimpleNamespace(**runpy.run_path(str(Path(__file__).with_name("run_folders.py"))))


@pytest.fixture
def runs(tmp_path):
    """Two runs whose judge goes from 1 to 2, and from 3 to 7 with one step more."""
    folders = []
    for number, values in enumerate(([1.0, 2.0], [3.0, 7.0, 9.0])):
        folder = FOLDERS.make_run(tmp_path / f"plain-{number}", FOLDERS.CLEAN)
        stage = next(path for path in (folder / "stages").iterdir() if "post-train" in path.name)
        lines = ["step,reading/gold", *(f"{10 * i},{value}" for i, value in enumerate(values))]
        (stage / "metrics.csv").write_text("\n".join(lines) + "\n")
        folders.append(folder)
    return read_runs(folders)


def test_means_and_ranges_are_taken_above_each_start_at_shared_steps(runs):
    readings = [_readings(run) for run in runs]
    pooled = _pooled("plain", readings, "gold")
    assert pooled.steps == [0.0, 10.0]
    assert pooled.means == [0.0, 2.5]
    assert (pooled.lows, pooled.highs) == ([0.0, 1.0], [0.0, 4.0])
    assert _pooled("plain", readings, "other") is None
    picture = seed_curves([("plain", runs)])
    assert "plain: gold ends 2.5" in picture.alt
    assert seed_curves([("plain", runs[:0])]) is None


def test_runs_of_one_way_are_named_by_what_they_share():
    assert common_name(["rlhf_kl-1", "rlhf_kl-10", "rlhf_kl-2"]) == "rlhf_kl"
    assert common_name(["kl/seed1", "kl/seed2"]) == "kl"
    assert common_name(["1", "2"]) == "1"
    assert common_name(["a", "b"]) == "a"
