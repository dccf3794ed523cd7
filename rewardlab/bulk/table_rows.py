"""Rows of a table of scores: what was said of a sample, where it comes from, its own columns."""

from __future__ import annotations

import math
from collections.abc import Sequence
from importlib import import_module
from typing import Any, Literal

from rewardlab.bulk.entries import Entry
from rewardlab.bulk.journal import Results
from rewardlab.bulk.sources import Source
from rewardlab.bulk.tables import Row
from rewardlab.conversations import to_json
from rewardlab.errors import InputError

Keep = Literal["all", "scored", "none"]
KEEPS = ("all", "scored", "none")
INPUT = "input_"  # before the name of a column of the samples that is called as one of ours


def table_row(number: int, entry: Entry, results: Results, keep: Keep) -> Row:
    """Return a sample's row of the table.

    Example:
        >>> table_row(0, Entry("line 1", "hi", "ho", columns={"id": 7}), Results(1), "all")
        {'row': 0, 'score': None, 'reason': None, 'id': 7}
    """
    row: Row = {"row": number, **verdict_columns(number, results)}
    row.update(entry.origin)
    row.update(kept_columns(entry, keep, tuple(row)))
    return row


def verdict_columns(number: int, results: Results) -> Row:
    """Return what was said of a sample: score, reason, and the members where they were asked."""
    is_scored = number not in results.reasons
    row: Row = {"score": None, "reason": results.reasons.get(number)}
    score = results.scores[number].item()
    if is_scored and not math.isnan(score):
        row["score"] = score
    if results.members is None:
        return row
    members = results.members[number]
    for place, value in enumerate(members.tolist()):
        row[f"member_{place}"] = value if is_scored else None
    row["disagreement"] = members.std(correction=0).item() if is_scored else None
    return row


def kept_columns(entry: Entry, keep: Keep, taken: Sequence[str]) -> Row:
    """Return a sample's columns that stay; those called as one of ours get another name.

    Raises:
        InputError: if that name is taken, too.
    """
    if keep == "none":
        return {}
    if keep == "scored":
        kept: Row = {"prompt": to_json(entry.prompt)}
        if isinstance(entry.output, str) and not entry.problem:
            kept["output"] = entry.output  # what cannot be read may have been a picture
        return kept
    columns = {}
    for name, value in entry.columns.items():
        columns[_free_name(name, entry.columns, taken)] = value
    return columns


def _free_name(name: str, columns: Any, taken: Sequence[str]) -> str:
    if name not in taken:
        return name
    if INPUT + name in columns:
        raise InputError(
            f"The samples have the columns {name!r} and {INPUT + name!r}, and the table of scores "
            f"has {name!r} of its own. Rename one of them, or give --keep scored."
        )
    return INPUT + name


def columns_of(source: Source, results: Results, keep: Keep, own: Sequence[str]) -> list[str]:
    """Return the names of all columns of the table, in their order.

    Args:
        source: the samples.
        results: their scores.
        keep: which columns of the samples stay.
        own: the samples' columns.
    """
    first = next(iter(source))
    if keep == "scored":  # the first that can be read says whether outputs are texts
        first = next((entry for entry in source if not entry.problem), first)
    blank = Entry(first.place, first.prompt, first.output, first.origin, dict.fromkeys(own))
    return list(table_row(0, blank, results, keep))


def schema_of(source: Source, results: Results, keep: Keep, own: Sequence[str]) -> Any:
    """Return the schema of pyarrow of a table whose samples have one; None where it is not known.

    So a column of the samples keeps its kind, such as dates or pictures' bytes.

    Args:
        source: the samples.
        results: their scores.
        keep: which columns of the samples stay.
        own: the samples' columns.
    """
    if source.schema is None or keep != "all" or not set(own) <= set(source.schema.names):
        return None
    arrow = import_module("pyarrow")
    origin = next(iter(source)).origin
    ours = list(table_row(0, Entry("", origin=origin), results, keep))
    kinds = {
        "row": arrow.int64(),
        "reason": arrow.string(),
        **dict.fromkeys(origin, arrow.string()),
    }
    fields = [arrow.field(name, kinds.get(name, arrow.float64())) for name in ours]
    for name in own:
        fields.append(source.schema.field(name).with_name(_free_name(name, own, ours)))
    return arrow.schema(fields)
