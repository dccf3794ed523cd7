"""Tests on pretrained weights: run by `make test-real`, and no part of `make test`.

A test names the files of experiments/real/files.py that it needs by `needs("faces")`. A user's own
folders are environment variables: `$REWARDLAB_STORIES260K` has stories260K.bin and tok512.bin,
`$REWARDLAB_PICTURES` pictures, `$REWARDLAB_OPENRLHF` and `$REWARDLAB_VERL` unpacked packages.
"""

import os
import sys
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType

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
def given():
    """Return a function that gives a user's own folder, or skips and says what it would hold."""

    def folder(variable, content):
        path = os.environ.get(variable)
        if path is None:
            pytest.skip(f"{variable} names no folder with {content}")
        return Path(path)

    return folder


@pytest.fixture(scope="session")
def stories260k(given):
    """Return the paths of stories260K's weights and tokenizer."""
    folder = given("REWARDLAB_STORIES260K", "stories260K.bin and tok512.bin")
    return folder / "stories260K.bin", folder / "tok512.bin"


@pytest.fixture
def unpacked(given, monkeypatch):
    """Return a function that makes an unpacked package importable, part by part."""

    def make(variable, package, parts, stand_ins):
        root = given(variable, f"the unpacked package {package}")
        for name in parts:
            module = ModuleType(name)
            module.__path__ = [str(root / name.replace(".", "/"))]
            monkeypatch.setitem(sys.modules, name, module)
        for name, content in stand_ins.items():
            module = ModuleType(name)
            module.__spec__ = ModuleSpec(name, None)
            vars(module).update(content)
            monkeypatch.setitem(sys.modules, name, module)

    yield make
    for name in list(sys.modules):
        if name.split(".")[0] in ("openrlhf", "verl"):
            del sys.modules[name]
