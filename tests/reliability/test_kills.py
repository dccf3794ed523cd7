"""Runs that are killed at random moments end as those that nothing stopped."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def outcomes(kills, seed, *kinds):
    """What kills.py found, a dictionary for each kind of run."""
    words = [sys.executable, "tests/reliability/kills.py", *kinds, "--kills", str(kills)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [*words, "--seed", str(seed)],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]


@pytest.mark.parametrize(
    ("kills", "seed"), [(5, 0), pytest.param(40, 1, marks=pytest.mark.nightly)]
)
@pytest.mark.timeout(3600)
def test_weights_results_and_rows_are_equal_to_the_last_bit(kills, seed):
    rounds, fit = outcomes(kills, seed)
    assert (rounds["kills"], fit["kills"]) == (kills, kills)
    assert rounds["compared"] >= 12
    assert fit["compared"] >= 3
    assert rounds["different"] == {}
    assert fit["different"] == {}


@pytest.mark.nightly
@pytest.mark.timeout(7200)
def test_two_hundred_kills_over_every_kind_of_run_change_nothing():
    found = outcomes(20, 1, "all")
    assert len(found) == 10
    assert sum(each["kills"] for each in found) == 200
    assert [each["kind"] for each in found if each["different"]] == []
