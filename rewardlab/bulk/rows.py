"""Entries from rows of tables and from samples of shards."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

from torch import Tensor

from rewardlab.bulk.entries import Entry, Reading
from rewardlab.conversations import Prompt, from_json
from rewardlab.errors import InputError
from rewardlab.storage.exchange_rows import (
    CONVERSATION_KEYS,
    RESPONSE_KEYS,
    SHAPE,
    row_exchange,
)
from rewardlab.storage.exchanges import UnusableError, exchange
from rewardlab.storage.images import read_picture
from rewardlab.storage.metadata import prompt_of
from rewardlab.storage.pair_columns import prompt_beside
from rewardlab.storage.picture_files import is_picture_name
from rewardlab.storage.records import Record
from rewardlab.storage.shards import TEXTS, ShardSample

PICTURES = ("image", "picture", "jpg", "png")  # columns that hold pictures, in tables of datasets


def entry_of_row(path: Path, record: Record, reading: Reading, origin: Mapping[str, Any]) -> Entry:
    """Return a table's row.

    Raises:
        InputError: if it cannot be read, unless such rows are skipped.
    """
    place = f"{path}, {record.place}"
    try:
        if record.problem is not None:
            raise InputError(f"{place} is {record.problem}. It should be {SHAPE}.")
        prompt, output = _exchange(place, record.row, reading)
        _check_letters(place, prompt, output)
    except InputError as error:
        return unread(error, place, origin, record.row, reading)
    return Entry(place, prompt, output, origin, record.row)


def _check_letters(place: str, prompt: Prompt, output: Any) -> None:
    """Refuse texts that are no UTF-8, which no tokenizer reads."""
    try:
        str(prompt).encode()
        str(output).encode()
    except UnicodeEncodeError:
        raise InputError(
            f"{place} has half a surrogate pair in a text, which is no character. Mend it."
        ) from None


def entry_of_shard(sample: ShardSample, reading: Reading, has_pictures: bool = False) -> Entry:
    """Return a shard's sample: a picture with its caption, a row in its json, or a text.

    Args:
        sample: what was read of it.
        reading: which members are prompt and output.
        has_pictures: whether other samples are pictures, so that this one has to be, too.

    Raises:
        InputError: if it cannot be read, unless such samples are skipped.
    """
    origin = {"shard": str(sample.shard), "key": sample.key}
    columns: dict[str, Any] = {}
    try:
        columns = sample.json()
        if has_pictures and sample.picture is None and reading.output_column is None:
            raise InputError(
                f"{sample.place} has no picture, and other samples have one. Mend the shard."
            )
        if reading.output_column is not None or reading.prompt_column is not None:
            prompt, output = _named(sample, columns, reading)
        else:
            prompt, output = _usual(sample, columns, reading)
        _check_letters(sample.place, prompt, output)
    except InputError as error:
        return unread(error, sample.place, origin, columns, reading)
    return Entry(sample.place, prompt, output, origin, columns)


def unread(
    error: InputError,
    place: str,
    origin: Mapping[str, Any],
    columns: Mapping[str, Any],
    reading: Reading,
) -> Entry:
    """Return the entry of a row that cannot be read.

    Raises:
        InputError: the error itself, unless such rows are skipped.
    """
    if not reading.skip_unreadable:
        raise InputError(f"{error} Or leave such rows unscored: --skip-unreadable.") from None
    prompt = _prompt_alone(columns, reading)
    return Entry(place, prompt, origin=origin, columns=columns, problem=str(error))


def _prompt_alone(columns: Mapping[str, Any], reading: Reading) -> Prompt:
    """Return the prompt of a row without an output, "" where it has none that can be read."""
    try:
        if reading.prompt_column is not None:
            return exchange(columns.get(reading.prompt_column), "").prompt
        return exchange(prompt_beside(columns, ""), "").prompt
    except UnusableError:
        return ""


def _exchange(place: str, row: dict[str, Any], reading: Reading) -> tuple[Prompt, Any]:
    """Return prompt and output of a table's row."""
    if reading.output_column is None and reading.prompt_column is None:
        for name in PICTURES:
            content = picture_bytes(row.get(name))
            if content is not None:
                return prompt_of(row), _picture(content, place, reading)
    for name in reading.members:
        _check_column(place, row, name)
    output = None if reading.output_column is None else row[reading.output_column]
    content = picture_bytes(output)
    if content is not None:
        named = row if reading.prompt_column is None else {"prompt": row[reading.prompt_column]}
        return prompt_of(named), _picture(content, place, reading)
    try:
        return row_exchange(_renamed(row, reading))
    except UnusableError as reason:
        raise InputError(
            f"{place} is a row {reason}. It should be {SHAPE}; or name its columns: "
            "--prompt-column, --output-column."
        ) from None


def _check_column(place: str, row: Mapping[str, Any], name: str) -> None:
    if name not in row:
        names = ", ".join(map(str, row))
        raise InputError(
            f"{place} has no column {name!r}; it has {names[:300]}. Name one of those."
        )


def _renamed(row: dict[str, Any], reading: Reading) -> dict[str, Any]:
    """Return a row with prompt and response under their usual names.

    Where the output's column is named, no other takes its place.
    """
    renamed = dict(row)
    if reading.output_column is not None:
        for name in (*RESPONSE_KEYS, *CONVERSATION_KEYS):
            renamed.pop(name, None)
        renamed.pop(reading.output_column, None)
        renamed["response"] = row[reading.output_column]
    if reading.prompt_column is not None:
        renamed["prompt"] = row[reading.prompt_column]
    return renamed


def picture_bytes(value: Any) -> bytes | None:
    """Return the bytes of a picture that a cell holds, None where it holds something else.

    Example:
        >>> picture_bytes({"bytes": b"x", "path": "a.png"}), picture_bytes("a.png")
        (b'x', None)
    """
    if isinstance(value, Mapping):
        value = value.get("bytes")
    return value if isinstance(value, bytes) else None


def _picture(content: bytes, place: str, reading: Reading) -> Any:
    return partial(_decoded, content, place, reading.size)


def _decoded(content: bytes, place: str, size: int | None) -> Tensor:
    """Return a picture's pixels, float32 [3, H, W] in [0, 1].

    Raises:
        InputError: if it cannot be used.
    """
    return read_picture(content, place, size).float() / 255


def _usual(sample: ShardSample, row: dict[str, Any], reading: Reading) -> tuple[Prompt, Any]:
    """Return prompt and output of a sample, by the names of its members."""
    caption = next((name for name in TEXTS if name in sample.members), None)
    if sample.picture is not None:
        prompt = prompt_of(row) or ("" if caption is None else sample.text(caption))
        return prompt, _picture(sample.members[sample.picture], sample.place, reading)
    if row:
        try:
            return row_exchange(row)
        except UnusableError as reason:
            raise InputError(f"{sample.place} has a json {reason}. It should be {SHAPE}.") from None
    if caption is not None:
        return "", sample.text(caption)
    names = ", ".join(f".{name}" for name in sample.members)
    raise InputError(
        f"{sample.place} has {names} and nothing to score: a picture (png, jpg, webp), a json with "
        f"{SHAPE}, or a txt. Name the member: --output-column EXTENSION."
    )


def _named(sample: ShardSample, row: dict[str, Any], reading: Reading) -> tuple[Prompt, Any]:
    """Return prompt and output of a sample, by members or json's keys that were named."""
    values: dict[str, Any] = {}
    for name in reading.members:
        values[name] = _value(sample, row, name)
    prompt = values.get(reading.prompt_column or "")
    if reading.output_column is None:
        return _checked_prompt(sample, prompt), _usual(sample, row, reading)[1]
    output = values[reading.output_column]
    if reading.prompt_column is None:
        caption = next((name for name in TEXTS if name in sample.members), None)
        named = caption not in (None, reading.output_column)
        prompt = prompt_of(row) or (sample.text(str(caption)) if named else "")
    if isinstance(output, bytes):
        return _checked_prompt(sample, prompt), _picture(output, sample.place, reading)
    try:
        return exchange(prompt, output)
    except UnusableError as reason:
        raise InputError(f"{sample.place} is a sample {reason}.") from None


def _checked_prompt(sample: ShardSample, prompt: Any) -> Prompt:
    if not isinstance(prompt, str | list):
        raise InputError(f"{sample.place} has a prompt that is no text. Name another member.")
    return from_json(prompt)


def _value(sample: ShardSample, row: dict[str, Any], name: str) -> Any:
    """Return a member's text, a picture's bytes, or a value of the json."""
    if name in sample.members:
        return sample.members[name] if is_picture_name(f"a.{name}") else sample.text(name)
    if name in row:
        return row[name]
    names = ", ".join([*sample.members, *row])
    raise InputError(f"{sample.place} has no member {name!r}; it has {names[:300]}.")
