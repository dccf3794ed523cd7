"""Mistakes of `fit` and `rounds` that are plain before torch is imported, within a second.

What cannot be told from files, names and sources is left to the parser, which imports everything.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import fields
from functools import cache
from pathlib import Path
from typing import Any

from rewardlab.commands import earlier_names
from rewardlab.commands.composing import STRUCTURE, Keys, Word, settings
from rewardlab.commands.mistakes import MOVED_KEYS, nearest, unknown_flags
from rewardlab.commands.static_names import Found, look_up
from rewardlab.commands.words import Experiment, joined_configs, out_in_experiment, readable_configs
from rewardlab.errors import InputError

TRAINER = "pytorch_lightning.trainer.trainer.Trainer"
# The keys of the commands' configs; what one verb lacks, its parser refuses.
_OF_FIT = (
    "model",
    "data",
    "trainer",
    "experiment",
    "seed_everything",
    "resume",
    "report",
    "dry-run",
    "ckpt_path",
    "weights_only",
    "verbose",
    "return_predictions",
)
TOP_KEYS = {
    "fit": _OF_FIT,
    "validate": _OF_FIT,
    "test": _OF_FIT,
    "predict": _OF_FIT,
    "rounds": ("rounds", "experiment", "resume", "report", "dry-run", "stages"),
}
_REFERENCE = re.compile(r"\$\{experiment\.(data_path|prompts_path|tower_path)\}")


def check(command: str, argv: Sequence[str]) -> None:
    """Refuse what is wrong with a command line as far as files and names tell.

    Raises:
        InputError: for a config that cannot be read, a key or flag that there is not, or a file of
            `experiment` that does not exist.
    """
    if any(word.partition("=")[0].endswith(("help", "print_config")) for word in argv):
        return
    words = settings(readable_configs(joined_configs(out_in_experiment(argv))))
    names = _Names(command)
    for word in words:
        if word.keys:
            names.check_flag(word)
        else:
            names.check_config(word.value)
    _check_files(names)


class _Names:
    """What the settings of a command line name so far.

    Attributes:
        classes: the class at each path.
        values: the last value at each path, with the class that takes it.
    """

    def __init__(self, command: str) -> None:
        self.keys = TOP_KEYS[command]
        self.look_up = cache(look_up)
        self.experiment = [field.name for field in fields(Experiment)]
        self.classes: dict[Keys, str] = {}
        self.values: dict[Keys, Any] = {}

    def check_flag(self, word: Word) -> None:
        """Refuse a flag whose first names are not known; a class's own keys are left."""
        root = word.keys[0]
        known = root in self.keys
        valid = self._below(root)
        if known and len(word.keys) > 1 and valid:
            known = word.keys[1] in valid
        if not known:
            message = f"unrecognized arguments: {word.words[0].partition('=')[0]}"
            raise InputError(unknown_flags(message, self._flags()) or message)
        if word.names_class or (len(word.keys) == 1 and isinstance(word.value, str)):
            self._name_class(word.keys, str(word.value))
        elif isinstance(word.value, Mapping):
            self._walk(word.value, word.keys)
        else:
            self._check_argument(word.keys)
            self._forget(word.keys)
            self.values[word.keys] = word.value

    def check_config(self, content: Mapping[str, Any]) -> None:
        """Refuse unknown keys of a config: at its top, of known groups, and of classes."""
        _check_keys("The config", content, self.keys)
        for root in ("experiment", "trainer"):
            group = content.get(root)
            if isinstance(group, Mapping):
                _check_keys(root, group, self._below(root))
        self._walk(content, ())

    def trainer(self) -> tuple[str, ...]:
        """Return the arguments of Lightning's Trainer."""
        found = self.look_up(TRAINER)
        return (found.arguments or ()) if found else ()

    def _below(self, root: str) -> Sequence[str]:
        """Return the keys of a group whose keys are known without its config."""
        if root == "experiment":
            return self.experiment
        return self.trainer() if root == "trainer" else ()

    def _flags(self) -> list[str]:
        flags = [f"--{key}" for key in self.keys]
        flags += [f"--experiment.{name}" for name in self.experiment]
        flags += [f"--trainer.{name}" for name in self.trainer()]
        return [*flags, "--out", "--config"]

    def _walk(self, value: Any, keys: Keys) -> None:
        """Note the classes and values of a config, and refuse keys that a class does not take."""
        if isinstance(value, list):
            for number, item in enumerate(value):
                self._walk(item, (*keys, str(number)))
        elif isinstance(value, Mapping):
            self._walk_mapping(value, keys)
        else:
            self.values[keys] = value

    def _walk_mapping(self, value: Mapping[str, Any], keys: Keys) -> None:
        if isinstance(value.get("class_path"), str):
            self._name_class(keys, value["class_path"])
        arguments = value.get("init_args")
        if isinstance(arguments, Mapping):
            self._check_arguments(keys, arguments)
            self._walk_mapping(arguments, keys)
        for key, item in value.items():
            if key not in STRUCTURE:
                self._walk(item, (*keys, str(key)))

    def _name_class(self, keys: Keys, class_path: str) -> None:
        if self.classes.get(keys) != class_path:
            self._forget(keys)
        self.classes[keys] = class_path

    def _forget(self, keys: Keys) -> None:
        """Drop what was noted at a path and below, which another class or value replaces."""
        for table in (self.classes, self.values):
            for path in [path for path in table if path[: len(keys)] == keys]:
                del table[path]

    def _check_argument(self, keys: Keys) -> None:
        """Refuse a flag of a class's own argument, where the class is known at that very path."""
        if keys[:-1] in self.classes:
            self._check_arguments(keys[:-1], [keys[-1]])

    def _check_arguments(self, keys: Keys, arguments: Iterable[str]) -> None:
        """Refuse arguments that the class at a path does not take."""
        class_path = self.classes.get(keys)
        found = self.look_up(class_path) if class_path else None
        if class_path is None or found is None or found.arguments is None or _has_moved(found):
            return
        path = ".".join(key for key in keys if not key.isdigit())
        earlier = earlier_names.EARLIER_ARGUMENTS.get(class_path, {})
        _check_keys(f"{path}: {found.name}", arguments, (*found.arguments, *earlier))


def _has_moved(found: Found) -> bool:
    """Tell whether a class had other keys once, of which the parser says where they went."""
    return any(owner.rpartition(".")[2] == found.name.rpartition(".")[2] for owner in MOVED_KEYS)


def _check_keys(owner: str, keys: Iterable[str], valid: Sequence[str]) -> None:
    for key in keys:
        if valid and str(key).split(".")[0] not in valid:
            raise InputError(f"{owner} has no key {key!r}; {nearest(str(key), valid)}")


def _check_files(names: _Names) -> None:
    """Refuse files of `experiment` that do not exist, where a class of ours will read them."""
    for keys, value in names.values.items():
        match = _REFERENCE.fullmatch(value) if isinstance(value, str) else None
        owner = names.classes.get(keys[:-1], "") if match else ""
        if match is None or not owner.startswith("rewardlab."):
            continue
        location = names.values.get(("experiment", match[1]))
        if isinstance(location, str) and _is_missing(match[1], location):
            raise InputError(
                f"experiment.{match[1]} is {location!r}, and there is no such file or folder, "
                f"which {owner} would read. Is the path right? Give --experiment.{match[1]}=PATH."
            )


def _is_missing(name: str, location: str) -> bool:
    """Tell whether a location must be a file or folder here, and is none."""
    if "://" in location or "${" in location:
        return False
    if name == "tower_path":
        is_folder = location.startswith("local-dir:")
        return is_folder and not Path(location.removeprefix("local-dir:")).exists()
    return not Path(location).exists()
