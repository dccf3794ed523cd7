"""Candidates of each prompt, and how many of them are chosen from."""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from rewardlab.bulk.entries import Entry, Numbered
from rewardlab.bulk.journal import Results
from rewardlab.errors import InputError
from rewardlab.evaluation.choosing_n import choose_n, familiar_n

_log = logging.getLogger("rewardlab")
_MOST_TRIED = 64  # sizes; beyond it powers of two are tried


@dataclass
class Group:
    """The candidates of one prompt.

    Attributes:
        name: the prompt, or the value of the column that groups.
        rows: numbers of the rows that are scored, in their order.
        gold: a judge's score of each of them; None where a row has none.
        unscored: how many more rows are not scored.
    """

    name: str
    rows: list[int] = field(default_factory=list)
    gold: list[float | None] = field(default_factory=list)
    unscored: int = 0


class Grouping:
    """The candidates of each prompt, which it is shown as they are scored.

    A row without a value in the column that groups belongs to no other and is a group by itself; a
    warning counts such rows.

    Args:
        results: the scores.
        column: the column that says what belongs together; by default the prompt.
        gold: the column with a judge's scores, if there is one.
    """

    def __init__(
        self, results: Results, column: str | None = None, gold: str | None = None
    ) -> None:
        self.results = results
        self.column = column
        self.gold = gold
        self._groups: dict[Any, Group] = {}
        self._alone: list[str] = []

    def check(self, first: Entry) -> None:
        """Refuse a misspelt column by the first row, before anything is scored.

        Raises:
            InputError: if the row lacks a column.
        """
        for column in (self.column, self.gold):
            if column is not None and not first.problem:
                _value(first, column)

    def add(self, chunk: Sequence[Numbered]) -> None:
        """Take in rows that are scored by now.

        Raises:
            InputError: if a row lacks a column, or gold is no number.
        """
        scored = self.results.scored
        for row, entry in chunk:
            key: Any = entry.prompt if self.column is None else _group_value(entry, self.column)
            if key is None:
                key = row
                self._alone.append(entry.place)
            group = self._groups.setdefault(key, Group(str(key)))
            if not scored[row]:
                group.unscored += 1
                continue
            group.rows.append(row)
            group.gold.append(None if self.gold is None else _number(entry, self.gold))

    def groups(self) -> list[Group]:
        """Return the candidates of each prompt, in the order in which prompts first came."""
        if self._alone:
            _log.warning(
                "%d rows have no value in the column %r (the first: %s), so nothing says what they "
                "belong to, and each is a group by itself. Fill the column, or remove those rows.",
                len(self._alone),
                self.column,
                self._alone[0],
            )
        return list(self._groups.values())


def _group_value(entry: Entry, column: str) -> str | None:
    """Return what a row has in the column that groups, as text; None where it has nothing."""
    if entry.problem and column not in {**entry.origin, **entry.columns}:
        return None  # what cannot be read has no columns
    value = _value(entry, column)
    return None if value in ("", "null", "NaN") else value


def _value(entry: Entry, column: str) -> str:
    """Return what a row has in a column, as text."""
    columns = {**entry.origin, **entry.columns}
    if column not in columns:
        names = ", ".join(map(str, columns))
        raise InputError(
            f"{entry.place} has no column {column!r}; it has {names[:300]}. Name one of those."
        )
    value = columns[column]
    return value if isinstance(value, str) else json.dumps(value, default=str)


def _number(entry: Entry, column: str) -> float | None:
    """Return a judge's score in a row, None where it is empty.

    Raises:
        InputError: if it is no finite number.
    """
    text = _value(entry, column)
    if text in ("", "null"):
        return None
    try:
        number = float(text)
    except ValueError:
        number = float("nan")
    if number - number != 0:
        raise InputError(f"{entry.place}: {column!r} should be a number; got {text[:60]!r}.")
    return number


def chosen_n(groups: Sequence[Group], results: Results, has_gold: bool) -> dict[str, Any]:
    """Return from how many candidates the best is taken, and by which rule.

    With gold it is the n at which the mean gold of the best of n by the reward is highest, over the
    prompts that have gold for each candidate (`evaluation.choosing_n.choose_n`). Without, it is the
    largest n up to which the best of n is no more doubtful than candidates are, by the deviation of
    the reward's members (`familiar_n`). Both look at as many candidates as every prompt has.

    Raises:
        InputError: if there is neither gold nor a second member, or a prompt has one candidate.
    """
    judged = [group for group in groups if not has_gold or _is_judged(group)]
    if not judged:
        raise InputError(
            "--n auto needs prompts whose candidates all have a judge's score; none has. Fill the "
            "column that --gold names for some prompts."
        )
    size = min(len(group.rows) for group in judged)
    if size < 2:
        raise InputError(
            "--n auto compares n, so each prompt needs 2 candidates or more that are scored; "
            f"{next(group.name for group in judged if len(group.rows) < 2)[:60]!r} has {size}."
        )
    proxy = _pool(results.scores, judged, size)
    ns = _sizes(size)
    if has_gold:
        values = [group.gold[:size] for group in judged]
        found = choose_n(proxy, torch.tensor(values), ns)
        return {"rule": "gold", "prompts": len(judged), **found.as_dict()}
    if results.members is None or results.members.shape[1] < 2:
        raise InputError(
            "--n auto needs --gold COLUMN with a judge's scores, or a reward with several members, "
            "whose disagreement says how far to go. Give --gold, or --n N."
        )
    doubt = _pool(results.members.std(1, correction=0), judged, size)
    familiar = familiar_n(proxy, doubt, ns)
    return {"rule": "disagreement", "prompts": len(judged), **familiar.as_dict()}


def _is_judged(group: Group) -> bool:
    return bool(group.rows) and None not in group.gold


def _pool(values: Tensor, groups: Sequence[Group], size: int) -> Tensor:
    """Return the values [P, N] of the first N candidates of each prompt."""
    return torch.stack([values[group.rows[:size]] for group in groups])


def _sizes(size: int) -> list[int]:
    if size <= _MOST_TRIED:
        return list(range(1, size + 1))
    powers = [2**power for power in range(size.bit_length()) if 2**power < size]
    return [*powers, size]
