"""What a table of scores depends on, and the file beside it that says so."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from dataclasses import asdict, fields
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from rewardlab.bulk.entries import Reading
from rewardlab.bulk.journal import Results, check_job, part_of
from rewardlab.bulk.sources import Source
from rewardlab.bulk.tables import BROKEN_LETTERS
from rewardlab.errors import InputError
from rewardlab.provenance import described, fingerprint
from rewardlab.rewards import Reward
from rewardlab.runs.attempts import typed_words
from rewardlab.storage.atomic import write_atomically
from rewardlab.storage.records import parsed
from rewardlab.version import __version__


def job_of(
    reward: Reward,
    source: Source,
    reading: Reading,
    members: bool,
    origin: Mapping[str, Any] | None,
) -> dict[str, Any]:
    """Return what scores depend on: the reward, the samples and how they are read.

    Args:
        reward: what scores.
        source: the samples.
        reading: how they are read.
        members: whether members are asked for.
        origin: what names the reward; by default its class and the contents of its weights.
    """
    if origin is None:
        origin = {
            "class": f"{type(reward).__module__}.{type(reward).__qualname__}",
            "weights": fingerprint(reward),
            "settings": described(_public(reward)),
        }
    settings = {}
    for name, value in asdict(reading).items():
        if value is not None:
            settings[name] = value if isinstance(value, bool | int) else str(value)
    samples = {"paths": [str(path) for path in source.paths], "fingerprint": source.fingerprint()}
    return {
        "reward": dict(origin),
        "samples": samples,
        "reading": settings,
        "members": members,
    }


def _public(reward: Reward) -> Mapping[str, Any]:
    """Return a reward's plain public attributes, but for its mode, which is eval for scores."""
    public = {}
    for name, value in vars(reward).items():
        if name[:1] != "_" and name != "training" and isinstance(value, str | int | float | bool):
            public[name] = value
    return public


def record_path(out: Path) -> Path:
    """Return where the record of a table stands.

    Example:
        >>> record_path(Path("scores.csv")).name
        'scores.csv.json'
    """
    return out.with_name(out.name + ".json")


def record_of(out: Path, job: Mapping[str, Any]) -> dict[str, Any] | None:
    """Return the record of a table that the same job wrote, None if there is no table.

    Args:
        out: the table.
        job: what its scores, and what it shows of them, depend on.

    Raises:
        InputError: if it is of another job, or no record.
    """
    if not out.exists():
        return None
    path = record_path(out)
    if not path.is_file():
        raise InputError(
            f"{out} stands without its record {path.name}, so nothing says what it was made of. "
            "Give another --out, or remove it and begin anew."
        )
    record = parsed(path.read_text(encoding="utf-8"))
    if not isinstance(record, dict):
        raise InputError(f"{path} is no record of a table of scores. Give another --out.")
    check_job(path, record.get("job"), job)
    part_of(out).unlink(missing_ok=True)
    return record


def figures_of(kind: type, record: Mapping[str, Any]) -> dict[str, Any]:
    """Return the fields of a dataclass of results, but for `out`, from a table's record.

    Those that an earlier version did not write have their defaults.
    """
    names = [field.name for field in fields(kind) if field.name != "out"]
    return {name: record[name] for name in names if name in record}


def write_record(
    out: Path, job: Mapping[str, Any], figures: Mapping[str, Any], results: Results, **more: Any
) -> None:
    """Write what a table was made of and by, and its figures, beside it.

    Args:
        out: the table.
        job: what its scores depend on.
        figures: of the scores.
        results: the scores; the reasons of rows without one are counted.
        more: further figures.
    """
    counts: dict[str, int] = {}
    for reason in results.reasons.values():
        counts[reason] = counts.get(reason, 0) + 1
    most = sorted(counts.items(), key=lambda item: -item[1])[:20]
    record = {
        "rewardlab": __version__,
        "command": [_without_query(word) for word in typed_words(sys.argv)],
        "written": datetime.now(UTC).isoformat(timespec="seconds"),
        **figures,
        **more,
        "reasons": dict(most),
        "job": dict(job),
    }
    text = json.dumps(record, indent=1, ensure_ascii=False) + "\n"
    write_atomically(record_path(out), text.encode(errors=BROKEN_LETTERS))


def _without_query(word: str) -> str:
    """Return a word without a URL's query, which may hold a key."""
    if not word.startswith(("http://", "https://")):
        return word
    return word.partition("?")[0]
