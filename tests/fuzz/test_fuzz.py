"""Odd and broken input gives a value or a sentence: a share in `make test`, 100,000 cases nightly."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize(
    ("cases", "seed"), [(800, 0), pytest.param(100_000, 1, marks=pytest.mark.nightly)]
)
@pytest.mark.timeout(4 * 3600)
def test_every_reader_gives_a_value_or_refuses_in_a_sentence(cases, seed):
    words = ["tests/fuzz/harness.py", "--cases", str(cases), "--seed", str(seed)]
    done = subprocess.run(
        [sys.executable, *words],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stdout.strip(), done.stderr
    summary = json.loads(done.stdout.splitlines()[-1])
    assert summary["faults"] == 0, done.stdout
    assert done.returncode == 0, done.stderr
    assert summary["cases"] >= cases * 0.99
    assert 0.3 * cases < summary["refused"] < 0.95 * cases
