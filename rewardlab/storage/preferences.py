"""Preference pairs from files, as strings or as lists of messages."""

from __future__ import annotations

import logging
import math
from collections import defaultdict
from pathlib import Path
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor

from rewardlab.conversations import Prompt, prompt_of_messages
from rewardlab.errors import InputError
from rewardlab.storage.exchanges import Exchange, UnusableError, exchange
from rewardlab.storage.records import FORMS, Record, read_records
from rewardlab.storage.samples import load_pairs
from rewardlab.storage.tables import is_dataset
from rewardlab.storage.turns import (
    asks_for_answer,
    continues,
    dialogue_turns,
    shared_prompt,
    without_end,
)
from rewardlab.types import PreferencePairs, Samples

SHAPE = '{"prompt": "…", "chosen": "…", "rejected": "…"}'
_DOUBLED_SHARE = 0.9  # of a file's texts that begin with their prompt, from which all do
_log = logging.getLogger("rewardlab")


Dialogues = Literal["text", "turns"]


class PairFact(NamedTuple):
    """A number that a line may give of its pair.

    Attributes:
        name: key in the line, and name of the fact of the chosen half.
        default: value for a line without the key.
        least: lowest value.
        most: highest value.
        form: says in errors what it has to be.
    """

    name: str
    default: float
    least: float
    most: float
    form: str


PAIR_FACTS = (
    PairFact("margin", 0.0, -math.inf, math.inf, "a number"),
    PairFact("label", 1.0, 0.0, 1.0, "a number from 0 to 1"),
)


class _PairLine(NamedTuple):
    """A pair as its row gives it; `facts` has only the facts that the row has."""

    prompt: Prompt
    chosen: str
    rejected: str
    facts: dict[str, float]


class _Halves(NamedTuple):
    """Both sides of a pair."""

    chosen: Exchange
    rejected: Exchange


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
    as messages.

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
    path = Path(path)
    if path.is_dir() and not is_dataset(path):
        return load_pairs(path)
    records = read_records(path, ("chosen", "rejected"))
    doubled = _repeat_prompts(path, records)
    pairs = []
    skipped = defaultdict(list)
    for record in records:
        try:
            pairs.append(_parse_pair(record, doubled, dialogues))
        except UnusableError as reason:
            skipped[str(reason)].append(record.place)
    _report_skipped(path, len(pairs), skipped, strict)
    _report_empty(path, pairs)
    prompts = [pair.prompt for pair in pairs]
    chosen = Samples(prompts, [pair.chosen for pair in pairs], _fact_columns(pairs))
    rejected = Samples(prompts, [pair.rejected for pair in pairs])
    return PreferencePairs(chosen, rejected)


def _fact_columns(pairs: list[_PairLine]) -> dict[str, Tensor]:
    """Return the facts that at least one row has, as columns [B]."""
    columns = {}
    for fact in PAIR_FACTS:
        if any(fact.name in pair.facts for pair in pairs):
            values = [pair.facts.get(fact.name, fact.default) for pair in pairs]
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
        if _are_texts(row) and row["prompt"].strip():
            texts += 1
            repeating += _repeats(row)
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


def _are_texts(row: dict[str, Any]) -> bool:
    names = ("prompt", "chosen", "rejected")
    return all(isinstance(row.get(name), str) for name in names)


def _repeats(row: dict[str, Any]) -> bool:
    """Tell whether the texts of a row both begin with its prompt."""
    prompt = row["prompt"]
    return continues(row["chosen"], prompt) and continues(row["rejected"], prompt)


def _parse_pair(record: Record, doubled: bool, dialogues: Dialogues) -> _PairLine:
    """Return the pair of a row."""
    if record.problem is not None:
        example = f" such as {SHAPE}" if record.problem == "not an object" else ""
        raise UnusableError(record.problem + example)
    row = record.row
    halves = _halves(row, doubled)
    halves = _Halves(_without_end(halves.chosen), _without_end(halves.rejected))
    if dialogues == "turns":
        halves = _Halves(_as_turns(halves.chosen), _as_turns(halves.rejected))
    prompt = halves.chosen.prompt
    chosen = halves.chosen.response
    rejected = halves.rejected.response
    _check_letters(f"{prompt}{chosen}{rejected}")
    if prompt != halves.rejected.prompt:
        raise UnusableError("with another prompt for chosen than for rejected")
    if chosen == rejected:
        raise UnusableError("with identical chosen and rejected")
    return _PairLine(prompt, chosen, rejected, _parse_facts(row))


def _halves(row: dict[str, Any], doubled: bool) -> _Halves:
    """Return both sides of a row, each with its prompt."""
    prompt = row.get("conversations") if row.get("prompt") is None else row["prompt"]
    chosen = row.get("chosen")
    rejected = row.get("rejected")
    if prompt is None and isinstance(chosen, str) and isinstance(rejected, str):
        return _dialogue(chosen, rejected)
    _check_keys(row)
    repeats = _are_texts(row) and _repeats(row)
    if isinstance(prompt, str) and repeats and (doubled or asks_for_answer(prompt)):
        count = len(prompt)
        return _Halves(
            Exchange(prompt, row["chosen"][count:]), Exchange(prompt, row["rejected"][count:])
        )
    return _Halves(exchange(prompt, chosen), exchange(prompt, rejected))


def _as_turns(half: Exchange) -> Exchange:
    """Return a side whose prompt is a dialogue in one text as turns; others stay."""
    if not isinstance(half.prompt, str) or not asks_for_answer(half.prompt):
        return half
    turns = dialogue_turns(half.prompt)
    if not turns or turns[-1].role != "user":
        raise UnusableError(
            "whose dialogue does not begin with a mark, or does not end with a user"
        )
    prompt = prompt_of_messages([vars(turn) for turn in turns])
    return Exchange(prompt, half.response.strip())


def _without_end(half: Exchange) -> Exchange:
    """Return a side without the mark that ends its response, where its prompt has marks."""
    if not isinstance(half.prompt, str):
        return half
    return Exchange(half.prompt, without_end(half.prompt, half.response))


def _dialogue(chosen: str, rejected: str) -> _Halves:
    """Return two texts without a prompt, parted where they begin the assistant's last turn."""
    shared = shared_prompt(chosen, rejected)
    if shared is None:
        raise UnusableError(
            'without "prompt", and chosen and rejected share no dialogue up to their last turn'
        )
    return _Halves(Exchange(shared.prompt, shared.first), Exchange(shared.prompt, shared.second))


def _check_keys(row: dict[str, Any]) -> None:
    """Refuse a row without the keys that a pair needs."""
    needed = ["chosen", "rejected"]
    if row.get("chosen") is None and row.get("rejected") is None and _is_judged(row):
        raise UnusableError(
            "that is one answer, marked as good or bad (as for KTO), where a pair has two answers "
            "of one prompt; good ones alone can be fine-tuned on (SFT)"
        )
    has_conversation = isinstance(row.get("conversations"), list)
    if not isinstance(row.get("chosen"), list) and not has_conversation:
        needed.insert(0, "prompt")  # else messages may hold it
    missing = [f'"{name}"' for name in needed if row.get(name) is None]
    if missing:
        raise UnusableError("without " + " and ".join(missing))


def _is_judged(row: dict[str, Any]) -> bool:
    """Tell whether a row is a single answer with a verdict of true or false."""
    return any(isinstance(row.get(name), bool) for name in ("label", "kto_tag"))


def _check_letters(text: str) -> None:
    if any("\ud800" <= letter <= "\udfff" for letter in text):
        raise UnusableError("with half a surrogate pair, which is no character")


def _parse_facts(row: dict[str, Any]) -> dict[str, float]:
    """Return the numbers that a row gives of its pair."""
    facts = {}
    for fact in PAIR_FACTS:
        value = _number(row.get(fact.name))
        if value is None:
            continue
        if not math.isfinite(value) or not fact.least <= value <= fact.most:
            raise UnusableError(f'whose "{fact.name}" is not {fact.form}')
        facts[fact.name] = value
    return facts


def _number(value: Any) -> float | None:
    """Return a number, also from the text of a table's cell; NaN if it is none, None if absent."""
    if value is None or value == "":
        return None
    if not isinstance(value, int | float | str):
        return math.nan
    try:
        return float(value)
    except (ValueError, OverflowError):
        return math.nan


def _report_skipped(path: Path, usable: int, skipped: dict[str, list[str]], strict: bool) -> None:
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
        count = sum(map(len, skipped.values()))
        _log.warning("Skipped %d of %d lines in %s: %s", count, usable + count, path, summary)


def _report_empty(path: Path, pairs: list[_PairLine]) -> None:
    """Log how many pairs have an empty response."""
    empty = sum(not (pair.chosen.strip() and pair.rejected.strip()) for pair in pairs)
    if empty:
        _log.warning(
            "%d of %d pairs in %s have an empty response; they are kept", empty, len(pairs), path
        )
