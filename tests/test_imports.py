"""Lazy names: each one that a package offers can be had, and importing the package loads no leaf."""

import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest

import rewardlab

ROOT = Path(rewardlab.__file__).parent
PACKAGES = [
    "rewardlab",
    *(f"rewardlab.{file.parent.name}" for file in sorted(ROOT.glob("*/__init__.py"))),
]


@pytest.mark.parametrize("package", PACKAGES)
def test_every_name_that_is_offered_exists(package):
    module = import_module(package)
    for name in getattr(module, "__all__", []):
        assert getattr(module, name).__name__ == name
    with pytest.raises(AttributeError, match="no_such_name"):
        module.no_such_name  # noqa: B018


def test_subpackages_load_none_of_the_modality_libraries():
    code = f"import sys; [__import__(name) for name in {PACKAGES!r}]; print(*sys.modules)"
    loaded = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    ).stdout.split()
    assert not {
        "transformers",
        "diffusers",
        "open_clip",
        "trl",
        "peft",
        "sklearn",
        "matplotlib",
    } & set(loaded)
