"""Names with braces and stars, as shards are named: one name for many files."""

from __future__ import annotations

import re
from collections.abc import Sequence
from glob import glob
from pathlib import Path

from rewardlab.errors import InputError

_BRACES = re.compile(r"\{([^{}]*)\}")
_RANGE = re.compile(r"(\d+)\.\.(\d+)")
_MOST_NAMES = 1_000_000


def matching_files(patterns: Sequence[str | Path]) -> list[Path]:
    """Return the files and folders that names or patterns stand for, in their order.

    `{000..003}` stands for the numbers from 000 to 003, as wide as the first; `{a,b}` for a and b;
    `*`, `?` and `[...]` for what is there, sorted. A name that exists is that name, whatever it is
    made of.

    Raises:
        InputError: if something is not there, or is named twice.

    Example:
        >>> folder = getfixture("tmp_path")
        >>> for number in range(3):
        ...     _ = (folder / f"s-{number:02}.tar").write_text("")
        >>> [path.name for path in matching_files([folder / "s-{00..01}.tar"])]
        ['s-00.tar', 's-01.tar']
        >>> len(matching_files([folder / "*.tar"]))
        3
    """
    paths = []
    for pattern in patterns:
        paths += _expanded(str(pattern))
    seen = set()
    for path in paths:
        file = path.resolve()
        if file in seen:
            raise InputError(f"{path} is given twice, so its rows would be, too. Name it once.")
        seen.add(file)
    return paths


def braces(pattern: str) -> list[str]:
    """Return the names that a pattern with braces stands for.

    Raises:
        InputError: if they are more than a million.

    Example:
        >>> braces("{a,b}-{8..10}")
        ['a-8', 'a-9', 'a-10', 'b-8', 'b-9', 'b-10']
        >>> braces("{x}")
        ['{x}']
        >>> braces("{2..1}")
        ['2', '1']
    """
    names = [""]
    rest = 0
    for match in _BRACES.finditer(pattern):
        between = pattern[rest : match.start()]
        endings = [between + choice for choice in _choices(match)]
        if len(names) * len(endings) > _MOST_NAMES:
            raise InputError(f"{pattern[:100]} stands for more than a million files. Name fewer.")
        names = _joined(names, endings)
        rest = match.end()
    return [name + pattern[rest:] for name in names]


def _choices(match: re.Match[str]) -> list[str]:
    """Return what one pair of braces stands for; itself if it is neither a range nor a list."""
    inside = match[1]
    ends = _RANGE.fullmatch(inside)
    if ends is None:
        return inside.split(",") if "," in inside else [match[0]]
    first, last = ends.groups()
    if abs(int(last) - int(first)) >= _MOST_NAMES:
        raise InputError(f"{match[0]} stands for more than a million files. Name fewer.")
    step = 1 if int(first) <= int(last) else -1  # as shells count
    return [f"{number:0{len(first)}}" for number in range(int(first), int(last) + step, step)]


def _joined(names: list[str], endings: list[str]) -> list[str]:
    """Return each name with each ending."""
    longer = []
    for name in names:
        longer += [name + ending for ending in endings]
    return longer


def _expanded(pattern: str) -> list[Path]:
    """Return what one name or pattern stands for."""
    if Path(pattern).exists():
        return [Path(pattern)]
    if pattern.startswith(("pipe:", "http://", "https://", "s3://", "gs://")):
        raise InputError(f"{pattern[:100]} is no local file. Copy it here, and name the copy.")
    paths = []
    for name in braces(pattern):
        if Path(name).exists():
            paths.append(Path(name))
            continue
        found = [Path(path) for path in sorted(glob(name, recursive=True))]
        if not found:
            raise InputError(
                f"{name} does not exist. Give a folder or a file of samples, or a pattern in "
                "quotes such as 'shards/{000..003}.tar'."
            )
        paths += found
    return paths
