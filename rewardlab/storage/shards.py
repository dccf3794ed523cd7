"""Shards of WebDataset: samples in tar files, whose members share a key before the first dot."""

from __future__ import annotations

import json
import lzma
import re
import tarfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rewardlab.errors import InputError
from rewardlab.storage.picture_files import is_picture_name

SHARD_SUFFIXES = (".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tar.xz")
TEXTS = ("txt", "text", "caption", "transcript")
_OTHERS = ("json", "cls", "cls2", "index", "mp4", "webm", "npy", "pt", "pth", "pyd", "pkl")
_MOST_BYTES = 2**30  # of a member that is read
_NAME = re.compile(r"^((?:.*/)?[^./]+)\.([^/]+)$")  # as webdataset 1.0.2 splits names


@dataclass
class ShardSample:
    """A sample of a shard.

    Attributes:
        shard: the tar file.
        key: what its members' names share.
        members: content of each member that was asked for, by the name behind the key.
    """

    shard: Path
    key: str
    members: dict[str, bytes] = field(default_factory=dict)

    @property
    def place(self) -> str:
        """Where the sample is, for messages."""
        return f"{self.shard}, key {self.key!r}"

    def text(self, name: str) -> str:
        """Return a member's text.

        Raises:
            InputError: if it is not UTF-8.
        """
        try:
            return self.members[name].decode("utf-8-sig")
        except UnicodeDecodeError:
            raise InputError(
                f"{self.place}: .{name} is no text in UTF-8. Mend the shard."
            ) from None

    def json(self) -> dict[str, Any]:
        """Return the object of its json member, an empty one where there is none.

        Raises:
            InputError: if it is no object of JSON.
        """
        if "json" not in self.members:
            return {}
        try:
            value = json.loads(self.text("json"))
        except (ValueError, RecursionError):
            value = None
        if not isinstance(value, dict):
            raise InputError(f"{self.place}: .json holds no object of JSON. Mend the shard.")
        return value

    @property
    def picture(self) -> str | None:
        """The first member that is a picture by its name, None where there is none."""
        return next((name for name in self.members if is_picture_name(f"a.{name}")), None)


def is_shard(path: str | Path) -> bool:
    """Tell whether a file's name is a shard's.

    Example:
        >>> is_shard("train-000.tar"), is_shard("a.tar.gz"), is_shard("a.zip")
        (True, True, False)
    """
    return str(path).lower().endswith(SHARD_SUFFIXES)


def shard_members(shard: Path, names: tuple[str, ...] = ()) -> dict[str, set[str]]:
    """Return the names of each sample's members by its key, and read none.

    Args:
        shard: the tar file.
        names: members' names behind the key that may hold dots, such as "seg.png".

    Raises:
        InputError: if it is no tar file, a key holds a dot or comes again, or there is none.

    Example:
        >>> shard = getfixture("tmp_path") / "a.tar"
        >>> with tarfile.open(shard, "w") as tar:
        ...     for name in ("x1.txt", "x2.txt"):
        ...         tar.addfile(tarfile.TarInfo(name))
        >>> shard_members(shard)
        {'x1': {'txt'}, 'x2': {'txt'}}
    """
    keys: dict[str, set[str]] = {}
    last = None
    for tar_member in _members(shard, names):
        key, name, _ = tar_member
        if key != last and key in keys:
            raise InputError(
                f"{shard} holds members of the key {key!r} in two places, and a sample's have to "
                "follow each other. Write the shard again, sorted by name."
            )
        if name in keys.setdefault(key, set()):
            raise InputError(
                f"{shard} holds {key}.{name} twice, so one of them is lost. Give each sample a key "
                "of its own."
            )
        keys[key].add(name)
        last = key
    if not keys:
        raise InputError(f"{shard} holds no samples: no file in it is named KEY.EXTENSION.")
    return keys


def shard_samples(shard: Path, names: tuple[str, ...] = ()) -> Iterator[ShardSample]:
    """Give the samples of a shard in their order, one in memory at a time.

    A member's name is a sample's key up to its first dot, and behind it what the member is. Of
    members are read texts (txt, caption), json, pictures, and what `names` names.

    Args:
        shard: a tar file, also one that is packed by gzip, bzip2 or xz.
        names: members that are read beside those.

    Raises:
        InputError: as `shard_members`, or if a member is longer than 1 GiB.
    """
    sample = None
    for key, name, read in _members(shard, names):
        if sample is None or sample.key != key:
            if sample is not None:
                yield sample
            sample = ShardSample(shard, key)
        is_wanted = name in (*TEXTS, "json", *names) or is_picture_name(f"a.{name}")
        sample.members[name] = read() if is_wanted else b""
    if sample is not None:
        yield sample


def _members(shard: Path, names: tuple[str, ...]) -> Iterator[tuple[str, str, Any]]:
    """Give key and name of each file in a shard, and a function that reads it."""
    try:
        with tarfile.open(shard, "r|*") as tar:
            for member in tar:
                parts = _NAME.match(member.name)
                if not member.isfile() or parts is None or _is_about_the_shard(member.name):
                    continue
                key, name = parts.groups()
                _check_name(shard, key, name.lower(), names)
                yield key, name.lower(), _Reader(shard, tar, member)
    except (tarfile.TarError, OSError, EOFError, zlib.error, lzma.LZMAError) as error:
        reason = str(error).splitlines() or [type(error).__name__]
        raise InputError(
            f"{shard} cannot be read as a tar file ({reason[0][:100]}). Was it copied in part? "
            "Copy it again."
        ) from None


class _Reader:
    """Reads one member of an open shard."""

    def __init__(self, shard: Path, tar: tarfile.TarFile, member: tarfile.TarInfo) -> None:
        self.shard = shard
        self.tar = tar
        self.member = member

    def __call__(self) -> bytes:
        if self.member.size > _MOST_BYTES:
            raise InputError(
                f"{self.shard}: {self.member.name} has {self.member.size:,} bytes, more than the "
                "1 GiB that is read of a member. Is the shard broken?"
            )
        file = self.tar.extractfile(self.member)
        assert file is not None, "only files are read"
        return file.read()


def _is_about_the_shard(name: str) -> bool:
    """Tell whether a member is of the shard and not of a sample, as webdataset names such."""
    base = name.rpartition("/")[2]
    return base.startswith("__") and base.endswith("__")


def _check_name(shard: Path, key: str, name: str, names: tuple[str, ...]) -> None:
    """Refuse a member of which nobody can say where its key ends."""
    last = name.rpartition(".")[2]
    is_known = last in (*TEXTS, *_OTHERS) or is_picture_name(f"a.{last}")
    if "." not in name or name in names or not is_known:
        return
    longer = f"{key}.{name.rpartition('.')[0]}"
    raise InputError(
        f"{shard} holds {key}.{name}: is its key {longer!r}, or is it the member {name!r} of "
        f"{key!r}, as WebDataset reads it? Then {longer!r} and its like are one sample. Write keys "
        f"without dots; or name the member by --output-column or --prompt-column {name}."
    )
