"""Names of earlier versions in users' configs and flags, replaced by those of today."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from typing import NamedTuple

import yaml

# Public paths of earlier versions, and the public path of the same class or function today. Configs
# are kept for years, so a line is never taken out. A line counts once the new name exists.
EARLIER_NAMES = {
    "rewardlab.rounds.AdvRM": "rewardlab.rounds.AdvRMRounds",
    "rewardlab.rounds.GANRM": "rewardlab.rounds.GANRMRounds",
}
# The public path of a class, and its arguments of earlier versions with their names of today.
EARLIER_ARGUMENTS: dict[str, dict[str, str]] = {
    "rewardlab.training.AdvRM": {"centring": "centering"},
    "rewardlab.training.PPO": {"loss_normalisation": "loss_normalization"},
    "rewardlab.policies.Sampler": {"noise": "eta"},
    "rewardlab.policies.samplers.Sampler": {"noise": "eta"},
}

log = logging.getLogger("rewardlab")


def current_names(argv: Sequence[str]) -> list[str]:
    """Return the command line with today's names for those of earlier versions; warn once.

    Config files are not changed: one that holds an earlier name is given as text, `--config=TEXT`.

    Args:
        argv: the command line, with each config as one word, `--config=FILE`.

    Example:
        >>> current_names(["--rounds.class_path=mine.Rounds", "--rounds.init_args.seed=3"])
        ['--rounds.class_path=mine.Rounds', '--rounds.init_args.seed=3']
    """
    renaming = _Renaming()
    renamed = []
    for previous, word in zip(["", *argv], argv, strict=False):
        renamed.append(renaming.word(word, previous))
    if renaming.sentences:
        log.warning(
            "Names of earlier versions are read as those of today: %s. Please write the new names.",
            "; ".join(renaming.sentences),
        )
    return renamed


class _Edit(NamedTuple):
    """A part of a text, from `start` to `end`, and what takes its place."""

    start: int
    end: int
    text: str


class _Renaming:
    """One walk over a command line, in the order in which later words override earlier ones.

    Attributes:
        values: the last scalar at each dotted path, without `init_args` and `class_path`; at the
            path of an object that is its class.
        sentences: what was renamed, each once, in order.
    """

    def __init__(self) -> None:
        self.values: dict[str, str] = {}
        self.sentences: dict[str, None] = {}

    def word(self, word: str, previous: str) -> str:
        """Return a word with today's names; `previous` may be the key of which it is the value."""
        if word.startswith("--config="):
            file = word.removeprefix("--config=")
            text = Path(file).read_text(encoding="utf-8")
            renamed = self._config(text)
            return word if renamed == text else f"--config={renamed}"
        if not word.startswith("--"):
            return self._value(_path(previous), word)
        key, equals, value = word.partition("=")
        key = self._key(key)
        return f"{key}{equals}{self._value(_path(key), value)}" if equals else key

    def _key(self, key: str) -> str:
        """Return a flag's dotted key with the arguments' names of today."""
        path = ""
        renamed = []
        for name in key.removeprefix("--").split("."):
            current = self._argument(path, name)
            renamed.append(current)
            path = _below(path, current)
        return "--" + ".".join(renamed)

    def _config(self, text: str) -> str:
        """Return a config's text with today's names, otherwise as it is."""
        root = yaml.compose(text, Loader=yaml.SafeLoader)
        edits: dict[int, _Edit] = {}
        if root is not None:
            self._visit(root, "", edits)
        for start in sorted(edits, reverse=True):
            edit = edits[start]
            text = text[: edit.start] + edit.text + text[edit.end :]
        return text

    def _visit(self, node: yaml.Node, path: str, edits: dict[int, _Edit]) -> None:
        """Walk over a config's tree and note what is to be renamed, by where it starts."""
        if isinstance(node, yaml.ScalarNode):
            _note(edits, node, self._value(path, node.value))
        elif isinstance(node, yaml.SequenceNode):
            for number, item in enumerate(node.value):
                self._visit(item, _below(path, str(number)), edits)
        elif isinstance(node, yaml.MappingNode):
            for key, value in sorted(node.value, key=_follows_class_path):
                name = self._argument(path, str(key.value))
                _note(edits, key, name)
                self._visit(value, _below(path, name), edits)

    def _value(self, path: str, value: str) -> str:
        """Return the value at a path, with today's name if it is an earlier name of a class."""
        current = EARLIER_NAMES.get(value, value)
        if current != value and _exists(current):
            self.sentences[f"{value} is now {current}"] = None
            value = current
        self.values[path] = value
        return value

    def _argument(self, path: str, name: str) -> str:
        """Return today's name of an argument of the object at a path."""
        class_path = self.values.get(path, "")
        current = EARLIER_ARGUMENTS.get(class_path, {}).get(name, name)
        if current != name:
            self.sentences[f"{name} of {class_path} is now {current}"] = None
        return current


def _note(edits: dict[int, _Edit], node: yaml.Node, name: str) -> None:
    """Note that a scalar gets another name; quotes around it stay."""
    if isinstance(node, yaml.ScalarNode) and node.value != name:
        start = node.start_mark.index
        end = node.end_mark.index
        quote = node.style if node.style in ("'", '"') else ""
        edits[start] = _Edit(start, end, f"{quote}{name}{quote}")


def _follows_class_path(item: tuple[yaml.Node, yaml.Node]) -> bool:
    """Return the sort key by which a mapping's class is known before its arguments are read."""
    return bool(item[0].value != "class_path")


def _path(key: str) -> str:
    """Return a flag's dotted path without `init_args` and `class_path`.

    Example:
        >>> _path("--rounds.init_args.policy.class_path")
        'rounds.policy'
    """
    path = ""
    for name in key.removeprefix("--").split("."):
        path = _below(path, name)
    return path


def _below(path: str, name: str) -> str:
    """Return the path of what `name` names in the object at `path`."""
    if name in ("init_args", "class_path"):
        return path
    return f"{path}.{name}" if path else name


def _exists(class_path: str) -> bool:
    """Tell whether a name can be imported."""
    module, _, name = class_path.rpartition(".")
    try:
        getattr(import_module(module), name)
    except (ImportError, AttributeError):
        return False
    return True
