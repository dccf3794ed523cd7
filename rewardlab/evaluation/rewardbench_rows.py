"""Rows of RewardBench's files, of both versions."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from rewardlab.conversations import Prompt
from rewardlab.errors import InputError
from rewardlab.storage.exchanges import Exchange, UnusableError, exchange
from rewardlab.storage.pair_layouts import is_listed
from rewardlab.storage.records import Record, read_records

SHAPE = '{"prompt": "…", "chosen": "…", "rejected": "…", "subset": "llmbar-natural", "id": 0}'


class BenchRow(NamedTuple):
    """A prompt with its right and its wrong answers.

    Attributes:
        prompt: a text or a conversation.
        chosen: one or more right answers.
        rejected: one or more wrong answers.
        listed: whether the file lists them, as the second version does.
        subset: the name of its subset.
        row_id: its id.
    """

    prompt: Prompt
    chosen: list[str]
    rejected: list[str]
    listed: bool
    subset: str
    row_id: Any


def read_bench_rows(path: str | Path) -> list[BenchRow]:
    """Return the rows of a file in any of the forms of `read_records`.

    A row without an id gets its number in the file, from 0; one without a subset belongs to "all".

    Raises:
        InputError: if the file is missing, empty or broken, or a row lacks a text; the row is
            named.
    """
    return rows_of_records(path, read_records(path))


def rows_of_records(path: str | Path, records: Sequence[Record]) -> list[BenchRow]:
    """Return records as rows, under the same rules as `read_bench_rows`.

    Args:
        path: the file, for messages.
        records: what `read_records` read of it.
    """
    if not records:
        raise InputError(f"{path} holds no pairs. A line should be {SHAPE}.")
    rows = []
    for number, record in enumerate(records):
        if record.problem is not None:
            raise InputError(
                f"{path}, {record.place} is {record.problem}. A line should be {SHAPE}."
            )
        try:
            rows.append(_bench_row(record, number))
        except UnusableError as reason:
            raise InputError(
                f"{path}, row {number + 1} {reason}. A line should be {SHAPE}."
            ) from None
    return rows


def _bench_row(record: Record, number: int) -> BenchRow:
    row = record.row
    listed = is_listed(row.get("chosen")) and is_listed(row.get("rejected"))
    chosen: list[Any] = [row.get("chosen")]
    rejected: list[Any] = [row.get("rejected")]
    if listed:
        chosen = row["chosen"]
        rejected = row["rejected"]
    _check_texts(row, chosen, rejected)
    answers = _exchanges(row.get("prompt"), [*chosen, *rejected])
    responses = [answer.response for answer in answers]
    return BenchRow(
        prompt=answers[0].prompt,
        chosen=responses[: len(chosen)],
        rejected=responses[len(chosen) :],
        listed=listed,
        subset=str(row.get("subset", "all")),
        row_id=row.get("id", number),
    )


def _check_texts(row: dict[str, Any], chosen: list[Any], rejected: list[Any]) -> None:
    columns = {"prompt": [row.get("prompt")], "chosen": chosen, "rejected": rejected}
    if row.get("prompt") is None and not isinstance(chosen[0], str):
        del columns["prompt"]  # the answers' messages hold it
    wrong = [name for name, values in columns.items() if not all(map(_is_text, values))]
    if wrong:
        raise UnusableError(f"has no string {' and '.join(wrong)}")


def _is_text(value: Any) -> bool:
    """Tell whether a value is a text, or messages, which are mappings."""
    if isinstance(value, list):
        return bool(value) and all(isinstance(item, dict) for item in value)
    return isinstance(value, str)


def _exchanges(prompt: Any, answers: list[Any]) -> list[Exchange]:
    exchanges = [exchange(prompt, answer) for answer in answers]
    if len({answered.prompt for answered in exchanges}) > 1:
        raise UnusableError("has another prompt for one answer than for another")
    return exchanges
