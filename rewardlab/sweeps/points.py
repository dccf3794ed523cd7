"""The points of a sweep: settings as flags of the command line, and what they multiply from."""

from __future__ import annotations

import hashlib
import itertools
import json
import shlex
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rewardlab.errors import InputError

Settings = dict[str, str]  # the text of each flag's value, by its dotted key
STRUCTURE = ("init_args", "class_path")  # parts of a key that name no argument
CONFIG = "config"  # the key of a config file that a point lays over the sweep's
SEED = "experiment.seed"
NAME_LENGTH = 48


@dataclass(frozen=True)
class Point:
    """One setting of a sweep with one seed: one run.

    Attributes:
        settings: the text of each flag's value, by its dotted key.
        seed: the experiment's seed.

    Example:
        >>> point = Point({"rounds.init_args.attack.weight": "0.5"}, seed=1)
        >>> point.label, point.flags
        ('weight=0.5', ['--rounds.init_args.attack.weight=0.5', '--experiment.seed=1'])
    """

    settings: Settings
    seed: int

    @property
    def label(self) -> str:
        """The settings for people, by the last part of each key."""
        return label_of(self.settings)

    @property
    def name(self) -> str:
        """The settings' folder: their label as a file name, and a digest of all of them."""
        return name_of(self.settings)

    @property
    def run(self) -> str:
        """The run's folder below `runs/`, by which the point is known."""
        return f"{self.name}/seed-{self.seed}"

    @property
    def flags(self) -> list[str]:
        """The settings and the seed as words of a command line."""
        words = []
        for key, text in self.settings.items():
            words.append(f"--{key}={text}")
        return [*words, f"--{SEED}={self.seed}"]


def label_of(settings: Mapping[str, str]) -> str:
    """Return settings for people: the shortest ends of the keys that tell them apart.

    Example:
        >>> label_of({"a.init_args.lr": "0.1", "b.lr": "0.2", "a.z": "3"})
        'a.lr=0.1, b.lr=0.2, z=3'
        >>> label_of({})
        'as configured'
    """
    names = short_names(settings)
    parts = [f"{names[key]}={text}" for key, text in settings.items()]
    return ", ".join(parts) or "as configured"


def short_names(keys: Iterable[str]) -> dict[str, str]:
    """Return for each key its shortest end that no other key shares.

    Example:
        >>> short_names(["a.init_args.lr", "b.init_args.lr"])
        {'a.init_args.lr': 'a.lr', 'b.init_args.lr': 'b.lr'}
    """
    paths = {key: path_of(key) for key in keys}
    names = {}
    for key, path in paths.items():
        others = [other for another, other in paths.items() if another != key]
        length = 1
        while length < len(path) and any(other[-length:] == path[-length:] for other in others):
            length += 1
        names[key] = ".".join(path[-length:])
    return names


def path_of(key: str) -> tuple[str, ...]:
    """Return the parts of a key that name arguments.

    Example:
        >>> path_of("model.init_args.optimizer.class_path")
        ('model', 'optimizer')
    """
    return tuple(part for part in key.split(".") if part not in STRUCTURE)


def name_of(settings: Mapping[str, str]) -> str:
    """Return the folder name of settings; the same whatever their order, and however typed.

    Example:
        >>> name_of({"a.lr": "1e-3"}).split("-")[-1] == name_of({"a.lr": "0.001"}).split("-")[-1]
        True
    """
    plain = {".".join(path_of(key)): canonical(text) for key, text in settings.items()}
    content = json.dumps(plain, sort_keys=True).encode()
    digest = hashlib.blake2b(content, digest_size=4).hexdigest()
    words = ""
    for letter in label_of(settings):
        words += letter if letter.isascii() and (letter.isalnum() or letter == ".") else " "
    return f"{'-'.join(words.split())[:NAME_LENGTH]}-{digest}"


def canonical(text: str) -> str:
    """Return one text for all ways to type a number, and other texts as they are.

    Example:
        >>> canonical("1e-3") == canonical("0.001"), canonical("true")
        (True, 'true')
    """
    number = number_of(text)
    return text if number is None else repr(number)


def number_of(text: str) -> float | None:
    """Return the number that a flag's text is, or None."""
    try:
        return float(text)
    except ValueError:
        return None


def text_of(value: Any) -> str:
    """Return a value of a YAML file as the text of a flag.

    Raises:
        InputError: for what no flag takes, such as a date.

    Example:
        >>> text_of(0.5), text_of(True), text_of(None), text_of([1, 2]), text_of(1e-05)
        ('0.5', 'true', 'null', '[1, 2]', '1.0e-05')
    """
    if isinstance(value, str):
        return value
    if isinstance(value, float):
        mantissa, exponent, power = repr(value).partition("e")
        if exponent and "." not in mantissa:  # YAML reads 1e-05 as a word
            mantissa += ".0"
        return f"{mantissa}{exponent}{power}"
    try:
        return json.dumps(value)
    except TypeError:
        raise InputError(
            f"A point of the sweep has the value {value!s:.60}, which is a {type(value).__name__} "
            "to YAML. Write it in quotes, as a text."
        ) from None


def multiplied(factors: Sequence[Sequence[Settings]], seeds: Sequence[int]) -> list[Point]:
    """Return a point for each choice of one alternative of each factor, and each seed.

    Args:
        factors: each a list of alternatives.
        seeds: each makes a run of every setting.

    Raises:
        InputError: if a point sets something twice, or two points are one.

    Example:
        >>> points = multiplied([[{"a.x": "1"}, {"a.x": "2"}], [{"a.y": "3"}]], seeds=[0, 1])
        >>> [(point.label, point.seed) for point in points]
        [('x=1, y=3', 0), ('x=1, y=3', 1), ('x=2, y=3', 0), ('x=2, y=3', 1)]
    """
    points = []
    names: dict[str, str] = {}
    for choice in itertools.product(*factors):
        pairs = itertools.chain.from_iterable(part.items() for part in choice)
        settings = _merged(pairs)
        label = label_of(settings)
        digest = name_of(settings).rpartition("-")[2]
        if digest in names:
            raise InputError(
                f"The sweep has the point {label} twice, also as {names[digest]}. Are two of its "
                "values one? Leave one out; repeats are what seeds: is for."
            )
        names[digest] = label
        points += [Point(settings, seed) for seed in seeds]
    return points


def _merged(pairs: Iterable[tuple[str, str]]) -> Settings:
    """Return settings in the order in which they are given, without a conflict.

    Raises:
        InputError: if two keys are one, or a later one would replace an earlier one.
    """
    settings: Settings = {}
    for key, text in pairs:
        for earlier in settings:
            check_apart(earlier, key)
        settings[key] = text
    return settings


def check_apart(earlier: str, later: str) -> None:
    """Refuse two keys of one point of which the later undoes the earlier.

    Example:
        >>> check_apart("a.optimizer", "a.optimizer.init_args.lr")  # a class, then its argument
        >>> check_apart("a.optimizer.init_args.lr", "a.optimizer.lr")
        Traceback (most recent call last):
        rewardlab.errors.InputError: A point of the sweep sets a.optimizer.init_args.lr and ...
    """
    if earlier == later == CONFIG:
        return
    first = path_of(earlier)
    second = path_of(later)
    if first[: len(second)] == second:
        what = "the same key" if first == second else "what it is part of"
        raise InputError(
            f"A point of the sweep sets {earlier} and after it {later}, {what}, so the first value "
            "would be lost. Keep one of them, or give what holds the other first."
        )


def command_of(words: Sequence[str]) -> str:
    """Return a command line that a shell takes.

    Example:
        >>> command_of(["rewardlab", "fit", "--a.b=[1, 2]"])
        "rewardlab fit '--a.b=[1, 2]'"
    """
    return shlex.join(words)
