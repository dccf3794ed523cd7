"""Preference pairs from files, as strings or as lists of messages."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from rewardlab.errors import InputError
from rewardlab.storage.exchanges import UnusableError
from rewardlab.storage.pair_layouts import laid_out
from rewardlab.storage.pair_rows import (
    PAIR_FACTS,
    SHAPE,
    Dialogues,
    PairLine,
    are_texts,
    parse_pair,
    repeats,
)
from rewardlab.storage.records import FORMS, Record, read_records
from rewardlab.storage.samples import load_pairs
from rewardlab.storage.tables import is_dataset
from rewardlab.types import PreferencePairs, Samples

_DOUBLED_SHARE = 0.9  # of a file's texts that begin with their prompt, from which all do
_SCORES = (("score_chosen", "score_rejected"), ("chosen_score", "rejected_score"))
_log = logging.getLogger("rewardlab")


class PairFile(NamedTuple):
    """The preference pairs of a file, and how it was read.

    Attributes:
        pairs: the pairs; their chosen half has the facts that rows give.
        rows: number of rows in the file; of pairs in a folder.
        layouts: number of rows of each layout, by its name in `pair_layouts.LAYOUTS`; none for a
            folder that `save_pairs` wrote.
        skipped: places of rows that are no pairs, by the reason.
        equal: number of pairs of answers that the file calls equal, which are left out.
        equal_scores: number of pairs whose score_chosen is their score_rejected, which are kept.
    """

    pairs: PreferencePairs
    rows: int
    layouts: Counter[str]
    skipped: dict[str, list[str]]
    equal: int
    equal_scores: int


def read_preferences(
    path: str | Path, strict: bool = False, dialogues: Dialogues = "text"
) -> PreferencePairs:
    r"""Return the preference pairs of a file, or of a folder that `save_pairs` wrote.

    A file is JSON lines, a JSON array, CSV, TSV or parquet, compressed or not, told by what it
    holds; see `read_records`. A folder may also be one that `save_to_disk` of `datasets` wrote.

    A row has the keys prompt, chosen and rejected, as strings or as lists of messages {"role",
    "content"}. Of messages the last assistant message is the response, and all before it is the
    prompt: a single user message as its text, others as a `Conversation`. The prompt may be part of
    chosen and rejected:

    * messages begin with it, whether or not it is a key of its own (UltraFeedback);
    * texts without the key are dialogues with marked turns, such as "Human:" and "Assistant:"
      (hh-rlhf). They share the prompt up to the assistant's last mark, and stay as they are
      written: prompt and response joined are the text, without the special token that ends it;
    * texts begin with the key's text, at a turn's mark, or in nine of ten rows or more.

    The form of ShareGPT, "conversations" with {"from", "value"} beside chosen and rejected, is read
    as messages. So are the layouts of UltraFeedback, HelpSteer, NeMo RL, RewardBench and others,
    told by their columns: `pair_layouts.LAYOUTS` lists them, and the guide to data shows each.

    Two more keys are read, and become facts of the chosen half if a row has them. "margin" is by
    how much chosen should lead; rows without it get 0. "label" is the probability that chosen is
    preferred: 0.5 for a tie; rows without it get 1.

    Rows that are no such pairs, and pairs whose outputs are identical, are skipped, counted and
    logged. Empty responses are kept, since to say nothing is an answer, and counted.

    Args:
        path: the file or folder.
        strict: refuse what would be skipped.
        dialogues: what texts with marked turns become, such as those of hh-rlhf. "text" keeps them
            as they are written; "turns" makes the prompt a conversation of these turns, which a
            chat model's own template formats, and takes the spaces around each turn off.

    Raises:
        InputError: if the file is missing, cannot be read, or holds no pairs; under `strict`,
            naming the first unusable row.

    Example:
        >>> path = getfixture("tmp_path") / "pairs.jsonl"
        >>> _ = path.write_text('{"prompt": "hi", "chosen": "hello", "rejected": "go away"}\n')
        >>> read_preferences(path)[0:1].chosen
        Samples(prompts=['hi'], outputs=['hello'], facts={})
    """
    return read_pair_file(path, strict, dialogues).pairs


def read_pair_file(
    path: str | Path, strict: bool = False, dialogues: Dialogues = "text"
) -> PairFile:
    r"""Return the preference pairs of a file, and how it was read.

    The arguments and errors are those of `read_preferences`.

    Example:
        >>> path = getfixture("tmp_path") / "pairs.jsonl"
        >>> row = '{"prompt": "2+2?", "response_1": "5", "response_2": "4", '
        >>> _ = path.write_text(row + '"preference_strength": 2}\n')
        >>> file = read_pair_file(path)
        >>> file.pairs.chosen.outputs, file.layouts
        (['4'], Counter({'helpsteer2-preference': 1}))
    """
    path = Path(path)
    if path.is_dir() and not is_dataset(path):
        pairs = load_pairs(path)
        return PairFile(pairs, len(pairs), Counter(), {}, 0, 0)
    return pair_file_of(path, read_records(path, ("chosen", "rejected")), strict, dialogues)


def pair_file_of(
    path: Path, records: list[Record], strict: bool = False, dialogues: Dialogues = "text"
) -> PairFile:
    """Return the preference pairs of rows that were read already, and how they were read.

    Args:
        path: names where the rows are from in messages.
        records: the rows.
        strict: refuse what would be skipped.
        dialogues: what texts with marked turns become.

    Raises:
        InputError: as `read_preferences`.
    """
    laid = laid_out(records)
    doubled = _repeat_prompts(path, laid.records)
    lines = []
    skipped = dict(laid.unusable)
    for record in laid.records:
        try:
            lines.append(parse_pair(record, doubled, dialogues))
        except UnusableError as reason:
            skipped.setdefault(str(reason), []).append(record.place)
    if laid.equal and not lines and not skipped:
        raise InputError(
            f"{path} holds no pair that is decided: {laid.equal} pairs of answers are called equal."
        )
    _report_skipped(path, len(records), len(lines), skipped, strict)
    _report_empty(path, lines)
    equal_scores = _equal_scores(records)
    _report_equal(path, laid.equal, equal_scores)
    pairs = _pairs_of(lines)
    return PairFile(pairs, len(records), laid.layouts, skipped, laid.equal, equal_scores)


def _pairs_of(lines: Sequence[PairLine]) -> PreferencePairs:
    prompts = [line.prompt for line in lines]
    chosen = Samples(prompts, [line.chosen for line in lines], _fact_columns(lines))
    rejected = Samples(prompts, [line.rejected for line in lines])
    return PreferencePairs(chosen, rejected)


def _fact_columns(lines: Sequence[PairLine]) -> dict[str, Tensor]:
    """Return the facts that at least one row has, as columns [B]."""
    columns = {}
    for fact in PAIR_FACTS:
        if any(fact.name in line.facts for line in lines):
            values = [line.facts.get(fact.name, fact.default) for line in lines]
            columns[fact.name] = torch.tensor(values)
    return columns


def _repeat_prompts(path: Path, records: list[Record]) -> bool:
    """Tell whether the texts of a file begin with their prompts, and log it.

    One row may do so by chance, "Yes" to the prompt "Yes"; a file whose rows nearly all do was
    written so.
    """
    texts = 0
    repeating = 0
    for record in records:
        row = record.row
        if are_texts(row) and row["prompt"].strip():
            texts += 1
            repeating += repeats(row)
    doubled = repeating > 0 and repeating >= _DOUBLED_SHARE * texts
    if doubled:
        what = "the prompt is taken off both"
    else:
        what = "they are so few that both are kept as they are"
    if repeating:
        _log.warning(
            "In %d of %d rows of %s chosen and rejected begin with the text of the prompt; %s",
            repeating,
            texts,
            path,
            what,
        )
    return doubled


def _equal_scores(records: Sequence[Record]) -> int:
    """Return how many rows give chosen and rejected one score."""
    equal = 0
    for record in records:
        for chosen, rejected in _SCORES:
            score = record.row.get(chosen)
            equal += score is not None and score == record.row.get(rejected)
    return equal


def _report_skipped(
    path: Path, rows: int, usable: int, skipped: dict[str, list[str]], strict: bool
) -> None:
    """Log how many rows were skipped for which reasons, or refuse them."""
    reasons = []
    for reason, places in skipped.items():
        reasons.append(f"{len(places)} {reason} (the first: {places[0]})")
    summary = ", ".join(reasons)
    if not usable:
        contents = f"; its rows are {summary}" if reasons else ", no line at all"
        raise InputError(
            f"{path} holds no preference pairs{contents}. A row should be {SHAPE}, as {FORMS}."
        )
    if strict and skipped:
        reason, places = next(iter(skipped.items()))  # rows came in order
        kind, _, _ = places[0].partition(" ")
        raise InputError(
            f"{path}, {places[0]} is a {kind} {reason}. Mend or remove it, or leave `strict` off."
        )
    if skipped:
        count = len(set().union(*skipped.values()))
        _log.warning("Skipped %d of %d lines in %s: %s", count, rows, path, summary)


def _report_empty(path: Path, pairs: list[PairLine]) -> None:
    """Log how many pairs have an empty response."""
    empty = sum(not (pair.chosen.strip() and pair.rejected.strip()) for pair in pairs)
    if empty:
        _log.warning(
            "%d of %d pairs in %s have an empty response; they are kept", empty, len(pairs), path
        )


def _report_equal(path: Path, equal: int, equal_scores: int) -> None:
    """Log how many pairs of answers are called equal."""
    if equal:
        _log.warning("%d pairs of answers in %s are called equal; they are left out", equal, path)
    if equal_scores:
        _log.warning(
            "%d pairs in %s have one score for chosen and rejected; they are kept",
            equal_scores,
            path,
        )
