"""What a command line writes, word by word, and each class's own defaults where another is named.

jsonargparse (4.53) keeps the arguments of the class that was there before, its defaults too, where
the next class has arguments of those names, and drops `${...}` that are no numbers. Here a class
gets its own defaults, and keeps what was written.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import Any, NamedTuple

import yaml

Keys = tuple[str, ...]
STRUCTURE = ("init_args", "class_path")
# Where a bare name is looked for, as in `--model SFT`.
PACKAGES = (
    "rewardlab.training",
    "rewardlab.data",
    "rewardlab.rounds",
    "rewardlab.policies",
    "rewardlab.rewards",
    "torch.optim",
    "torch.optim.lr_scheduler",
    "pytorch_lightning.callbacks",
)


class Signature(NamedTuple):
    """What a class of a config takes.

    Attributes:
        names: its arguments.
        defaults: the values of those that have one, as plain data.
    """

    names: frozenset[str]
    defaults: dict[str, Any]


class Word(NamedTuple):
    """One setting of a command line: a config, or a flag with its value.

    Attributes:
        words: the words as they stand.
        keys: the flag's path, without `init_args` and `class_path`; none for a config.
        value: the config's content, or the flag's value.
        names_class: whether the flag ends in `class_path`.
        appends: whether the flag adds to a list.
    """

    words: list[str]
    keys: Keys
    value: Any
    names_class: bool = False
    appends: bool = False


class Composition:
    """The settings of a command line in their order, of which later ones override earlier ones.

    Attributes:
        values: the last scalar at each path; paths leave out `init_args` and `class_path`, and
            count items of lists.
        classes: the class that is named at each path.
        lengths: the length of each list.

    Example:
        >>> composition = Composition(signature_of=lambda factory: Signature(frozenset(), {}))
        >>> composition.words(["--model=a.B", "--model.init_args.lr=0.1"])
        ['--model=a.B', '--model.init_args.lr=0.1']
        >>> composition.values
        {('model',): 'a.B', ('model', 'lr'): 0.1}
    """

    def __init__(self, signature_of: Callable[[Any], Signature]) -> None:
        self.signature_of = cache(signature_of)
        self.values: dict[Keys, Any] = {}
        self.classes: dict[Keys, str] = {}
        self.lengths: dict[Keys, int] = {}
        self._replaced: list[Keys] = []

    def words(self, argv: Sequence[str]) -> list[str]:
        """Return the command line, with a config before each word that names another class.

        That config gives the class, its own defaults, and what was written for it before.
        """
        composed: list[str] = []
        for word in settings(argv):
            self._replaced = []
            self._set_word(word)
            for keys in self._roots():
                if keys in self.lengths:
                    composed.append(_config(self._placed(keys, [])))
                composed.append(_config(self._placed(keys, self._explicit(keys))))
            composed += word.words
        return composed

    def has(self, keys: Keys) -> bool:
        """Tell whether a value was written at a path."""
        return keys in self.values

    def tree(self) -> dict[str, Any]:
        """Return everything that was written, as one config."""
        tree = self._written(())
        assert isinstance(tree, dict)
        return tree

    def class_at(self, keys: Keys) -> str | None:
        """Return the class that is named at a path, or that an argument there has by default."""
        if keys in self.classes:
            return self.classes[keys]
        for length in range(len(keys) - 1, 0, -1):
            factory = find(self.classes.get(keys[:length]))
            if factory is not None:
                default = _at(self.signature_of(factory).defaults, keys[length:])
                return default["class_path"] if _is_object(default) else None
        return None

    def _set_word(self, word: Word) -> None:
        keys = word.keys
        if word.appends:
            keys = (*keys, str(self.lengths.get(keys, 0)))
            self.lengths[word.keys] = self.lengths.get(word.keys, 0) + 1
        if not keys:
            self._set_mapping(keys, word.value)
        elif word.names_class and isinstance(word.value, str):
            self._name_class(self._in_lists(keys), word.value)
        else:
            self._set(self._in_lists(keys), word.value)

    def _in_lists(self, keys: Keys) -> Keys:
        """Return a path with the last item's number after each list, whose item a flag means."""
        counted: Keys = ()
        for key in keys:
            length = self.lengths.get(counted, 0)
            if length and not key.isdigit():
                counted = (*counted, str(length - 1))
            counted = (*counted, key)
        return counted

    def _set(self, keys: Keys, value: Any) -> None:
        """Write a value of any kind at a path."""
        if isinstance(value, Mapping) and value:
            self._set_mapping(keys, value)
        elif isinstance(value, list) and value:
            self._set_list(keys, value)
        elif isinstance(value, str) and self._names_class(keys, value):
            self._name_class(keys, value)
        else:
            self._forget(keys)
            self.values[keys] = value

    def _names_class(self, keys: Keys, text: str) -> bool:
        """Tell whether a text that stands alone names the class at its path."""
        looks_like_a_class = re.fullmatch(r"[\w.]*\b[A-Z]\w*", text) is not None
        if looks_like_a_class or self.class_at(keys) is not None:
            return callable(find(self._full(keys, text)))
        return False

    def _set_mapping(self, keys: Keys, value: Mapping[str, Any]) -> None:
        if isinstance(value.get("class_path"), str):
            self._name_class(keys, value["class_path"])
        self.values.pop(keys, None)
        arguments = value.get("init_args")
        if isinstance(arguments, Mapping):
            self._set_mapping(keys, arguments)
        for key, argument in value.items():
            if str(key).endswith("+") and isinstance(argument, list):
                self._append((*keys, str(key)[:-1]), argument)
            elif key not in STRUCTURE:
                self._set((*keys, str(key)), argument)

    def _append(self, keys: Keys, items: list[Any]) -> None:
        """Write items behind those that a list has, as a key with a plus sign asks."""
        for item in items:
            number = self.lengths.get(keys, 0)
            self.lengths[keys] = number + 1
            self._set((*keys, str(number)), item)

    def _set_list(self, keys: Keys, items: list[Any]) -> None:
        """Write a list; items of one of the same length were merged with those before."""
        if self.lengths.get(keys) != len(items):
            self._forget(keys)
        self.lengths[keys] = len(items)
        for number, item in enumerate(items):
            self._set((*keys, str(number)), item)

    def _name_class(self, keys: Keys, class_path: str) -> None:
        """Name the class at a path, and note if it takes another's place."""
        before = self.class_at(keys)
        self.classes[keys] = self._full(keys, class_path)
        if before is None:
            self.values[keys] = class_path
            return
        self.values.pop(keys, None)
        factory = find(self.classes[keys])
        if factory is None or factory is find(before):
            return
        self._replaced.append(keys)
        names = self.signature_of(factory).names
        for below in self._below(keys):
            if below[len(keys)] not in names:
                self._forget(below)

    def _full(self, keys: Keys, class_path: str) -> str:
        """Return the path that a bare name stands for: of a class near the present one, or ours."""
        if "." in class_path:
            return class_path
        package = (self.class_at(keys) or "").rpartition(".")[0]
        packages = []
        while package:
            packages.append(package)
            package = package.rpartition(".")[0]
        for name in (*packages, *PACKAGES):
            if find(f"{name}.{class_path}") is not None:
                return f"{name}.{class_path}"
        return class_path

    def _forget(self, keys: Keys) -> None:
        """Drop all that was written at a path and below it."""
        for table in (self.values, self.classes, self.lengths):
            for path in [path for path in table if path[: len(keys)] == keys]:
                del table[path]

    def _below(self, keys: Keys) -> list[Keys]:
        """Return the paths of everything below a path."""
        paths = {*self.values, *self.classes, *self.lengths}
        return sorted(path for path in paths if path[: len(keys)] == keys and path != keys)

    def _roots(self) -> list[Keys]:
        """Return where configs are put in: at replaced classes, or at the list that holds one."""
        roots: dict[Keys, None] = {}
        for keys in self._replaced:
            lists = [keys[:length] for length in range(len(keys)) if keys[:length] in self.lengths]
            roots[lists[0] if lists else keys] = None
        return list(roots)

    def _children(self, keys: Keys) -> dict[str, None]:
        """Return the names directly below a path, in the order in which they were written."""
        depth = len(keys)
        names: dict[str, None] = {}
        for path in (*self.values, *self.classes, *self.lengths):
            if path[:depth] == keys and len(path) > depth:
                names[path[depth]] = None
        return names

    def _written(self, keys: Keys, explicit: bool = False) -> Any:
        """Return what was written at a path as a config says it.

        Args:
            keys: the path.
            explicit: whether every class gets its own defaults beside.
        """
        if keys in self.values and not self._children(keys):
            return self.values[keys]
        if keys in self.lengths:
            numbers = range(self.lengths[keys])
            return [self._written((*keys, str(number)), explicit) for number in numbers]
        arguments = {}
        for name in self._children(keys):
            arguments[name] = self._written((*keys, name), explicit)
        if keys not in self.classes:
            return arguments
        factory = find(self.classes[keys])
        if explicit and factory is not None:
            signature = self.signature_of(factory)
            arguments = {name: arguments[name] for name in arguments if name in signature.names}
            arguments = {**signature.defaults, **arguments}
        return {"class_path": self.classes[keys], "init_args": arguments}

    def _explicit(self, keys: Keys) -> Any:
        return self._written(keys, explicit=True)

    def _placed(self, keys: Keys, value: Any) -> dict[str, Any]:
        """Return a config that holds a value at a path, with the classes on the way there."""
        for length in range(len(keys) - 1, -1, -1):
            value = {keys[length]: value}
            if keys[:length] in self.classes:
                value = {"class_path": self.classes[keys[:length]], "init_args": value}
        assert isinstance(value, dict)
        return value


def settings(argv: Sequence[str]) -> list[Word]:
    """Return the settings of a command line whose configs are one word each.

    Example:
        >>> [(word.keys, word.value) for word in settings(["--a.init_args.lr", "1", "--resume"])]
        [(('a', 'lr'), 1), (('resume',), None)]
    """
    found = []
    words = list(argv)
    while words:
        flag = words.pop(0)
        name, equals, text = flag.partition("=")
        if name == "--config":
            found.append(Word([flag], (), _content(text)))
            continue
        taken = [flag]
        if not equals and words and not words[0].startswith("--"):
            text = words.pop(0)
            taken.append(text)
        found.append(_flag(taken, name, text))
    return found


def _flag(words: list[str], name: str, text: str) -> Word:
    """Return the setting of one flag."""
    path = name.removeprefix("--").removesuffix("+").split(".")
    keys = tuple(key for key in path if key not in STRUCTURE)
    value = _plain(text) if text else None
    return Word(words, keys, value, path[-1] == "class_path", name.endswith("+"))


def _plain(text: str) -> Any:
    """Return a flag's value as YAML reads it, or the text where that is none."""
    try:
        return yaml.safe_load(text)
    except yaml.YAMLError:
        return text


def _content(text: str) -> dict[str, Any]:
    """Return the mapping of a config, a file or the text of one."""
    if "\n" not in text and not text.startswith("{"):
        text = Path(text).read_text(encoding="utf-8")
    content = yaml.safe_load(text)
    return content if isinstance(content, dict) else {}


def find(class_path: str | None) -> Any:
    """Return what an import path names, or None if it cannot be imported.

    Example:
        >>> find("collections.OrderedDict"), find("collections.Ordered"), find(None)
        (<class 'collections.OrderedDict'>, None, None)
    """
    module, _, name = (class_path or "").rpartition(".")
    if not module:
        return None
    try:
        return getattr(import_module(module), name, None)
    except Exception:  # what a module of the user's raises is said where the parser imports it
        return None


def plain_defaults(defaults: Mapping[str, Any], required: Iterable[str]) -> dict[str, Any]:
    """Return the defaults that a config can hold, without those of required arguments."""
    kept = {}
    for name, value in defaults.items():
        if name in required:
            continue
        try:
            kept[name] = json.loads(json.dumps(value))
        except (TypeError, ValueError):
            continue
    return kept


def _at(tree: Any, keys: Keys) -> Any:
    """Return what stands at a path of plain data, or None."""
    for key in keys:
        if isinstance(tree, Mapping) and "init_args" in tree:
            tree = tree["init_args"]
        tree = tree.get(key) if isinstance(tree, Mapping) else None
    return tree


def _is_object(value: Any) -> bool:
    return isinstance(value, Mapping) and isinstance(value.get("class_path"), str)


def _config(content: dict[str, Any]) -> str:
    return f"--config={json.dumps(content)}"
