"""What a config's classes raise when they are made is one sentence."""

from __future__ import annotations

import sys
from types import ModuleType

import pytest
from jsonargparse import ArgumentParser

from rewardlab.commands.parsing import instantiate
from rewardlab.errors import InputError


class Logger:
    """What the config asks for."""


class Watched(Logger):
    """A logger whose package is not there."""

    def __init__(self, name: str = "") -> None:
        import no_such_package_at_all  # noqa: F401


class Refused(Logger):
    """A logger that refuses its arguments."""

    def __init__(self, name: str = "") -> None:
        raise InputError("Give a name.")


@pytest.fixture
def parser(monkeypatch):
    module = ModuleType("loggers_of_people")
    for kind in (Watched, Refused):
        monkeypatch.setattr(kind, "__module__", module.__name__)
        setattr(module, kind.__name__, kind)
    monkeypatch.setitem(sys.modules, module.__name__, module)
    made = ArgumentParser(exit_on_error=False)
    made.add_argument("--logger", type=Logger | bool | None)
    return made


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("Watched", r"^loggers_of_people.Watched cannot be made.*no_such_package_at_all"),
        ("Refused", "^Give a name.$"),
    ],
)
def test_a_class_that_cannot_be_made_is_a_sentence(parser, name, sentence):
    config = parser.parse_object({"logger": {"class_path": f"loggers_of_people.{name}"}})
    with pytest.raises(InputError, match=sentence):
        instantiate(parser, config)
