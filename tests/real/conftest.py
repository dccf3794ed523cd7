"""Tests on pretrained weights: run by `make test-real`, and no part of `make test`.

A test names the files of experiments/real/files.py that it needs by `needs("faces")`. Those of
stories260K are a user's own: `$REWARDLAB_STORIES260K` is a folder with stories260K.bin and
tok512.bin.
"""

import os
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("MPLBACKEND", "Agg")
os.environ.setdefault("REWARDLAB_CACHE", str(ROOT / ".cache" / "rewardlab"))
sys.path.insert(0, str(ROOT / "experiments"))


@pytest.fixture(scope="session")
def needs():
    """Return a function that skips a test whose weights are not installed, and says which."""
    from real.files import COMMAND, FILES, is_installed

    def check(*names):
        missing = [FILES[name].package for name in names if not is_installed(name)]
        if missing:
            pytest.skip(f"{', '.join(missing)} is not installed; `{COMMAND}` installs it")

    return check


@pytest.fixture(scope="session")
def stories260k():
    """Return the paths of stories260K's weights and tokenizer."""
    folder = os.environ.get("REWARDLAB_STORIES260K")
    if folder is None:
        pytest.skip("REWARDLAB_STORIES260K names no folder with stories260K.bin and tok512.bin")
    return Path(folder) / "stories260K.bin", Path(folder) / "tok512.bin"
