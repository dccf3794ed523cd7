"""Preference pairs from JSONL files, as strings or as lists of messages."""

from __future__ import annotations

import json
import logging
import math
from collections import defaultdict
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from rewardlab.errors import InputError
from rewardlab.storage.metadata import read_text
from rewardlab.storage.samples import load_pairs
from rewardlab.types import PreferencePairs, Samples

SHAPE = '{"prompt": "…", "chosen": "…", "rejected": "…"}'
_log = logging.getLogger("rewardlab")


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
    """A pair as its line gives it; `facts` has only the facts that the line has."""

    prompt: str
    chosen: str
    rejected: str
    facts: dict[str, float]


class _Exchange(NamedTuple):
    """A prompt, and a response to it."""

    prompt: str
    response: str


class _Message(NamedTuple):
    role: str
    content: str


class _UnusableError(Exception):
    """The reason why a line is no pair, in words that are counted."""


def read_preferences(path: str | Path, strict: bool = False) -> PreferencePairs:
    r"""Return the preference pairs of a UTF-8 .jsonl file, or of a folder that `save_pairs` wrote.

    A line has the keys prompt, chosen and rejected, as strings or as TRL's lists of messages
    {"role", "content"}. Of messages the last assistant message is the response, and all before it
    is the prompt. The prompt may be part of chosen and rejected instead of a key of its own. A
    single user message is its text; longer conversations are "role: text" in paragraphs.

    Two more keys are read, and become facts of the chosen half if a line has them. "margin" is by
    how much chosen should lead; lines without it get 0. "label" is the probability that chosen is
    preferred: 0.5 for a tie; lines without it get 1.

    Lines that are no such pairs, and pairs whose outputs are identical, are skipped, counted and
    logged. Empty responses are kept, since to say nothing is an answer, and counted.

    Args:
        path: the file or folder.
        strict: refuse what would be skipped.

    Raises:
        InputError: if the file is missing, is not UTF-8, or holds no pairs; under `strict`, naming
            the first unusable line.

    Example:
        >>> path = getfixture("tmp_path") / "pairs.jsonl"
        >>> _ = path.write_text('{"prompt": "hi", "chosen": "hello", "rejected": "go away"}\n')
        >>> read_preferences(path)[0:1].chosen
        Samples(prompts=['hi'], outputs=['hello'], facts={})
    """
    path = Path(path)
    if path.is_dir():
        return load_pairs(path)
    pairs = []
    skipped = defaultdict(list)
    for number, line in enumerate(read_text(path).split("\n"), 1):
        if not line.strip():
            continue
        try:
            pairs.append(_parse_pair(line))
        except _UnusableError as reason:
            skipped[str(reason)].append(number)
    _report_skipped(path, len(pairs), skipped, strict)
    _report_empty(path, pairs)
    prompts = [pair.prompt for pair in pairs]
    chosen = Samples(prompts, [pair.chosen for pair in pairs], _fact_columns(pairs))
    rejected = Samples(prompts, [pair.rejected for pair in pairs])
    return PreferencePairs(chosen, rejected)


def _fact_columns(pairs: list[_PairLine]) -> dict[str, Tensor]:
    """Return the facts that at least one line has, as columns [B]."""
    columns = {}
    for fact in PAIR_FACTS:
        if any(fact.name in pair.facts for pair in pairs):
            values = [pair.facts.get(fact.name, fact.default) for pair in pairs]
            columns[fact.name] = torch.tensor(values)
    return columns


def _parse_pair(line: str) -> _PairLine:
    """Return the pair of a line."""
    row = _parse_object(line)
    chosen = _exchange(row.get("prompt"), row["chosen"])
    rejected = _exchange(row.get("prompt"), row["rejected"])
    _check_letters(chosen.prompt + chosen.response + rejected.response)
    if chosen.prompt != rejected.prompt:
        raise _UnusableError("with another prompt for chosen than for rejected")
    if chosen.response == rejected.response:
        raise _UnusableError("with identical chosen and rejected")
    return _PairLine(chosen.prompt, chosen.response, rejected.response, _parse_facts(row))


def _parse_object(line: str) -> dict[str, Any]:
    """Return a line's JSON object, which has the keys that a pair needs."""
    try:
        row = json.loads(line)
    except json.JSONDecodeError:
        raise _UnusableError("not JSON") from None
    if not isinstance(row, dict):
        raise _UnusableError(f"not an object such as {SHAPE}")
    needed = ["chosen", "rejected"]
    if not isinstance(row.get("chosen"), list):  # whose messages may hold the prompt
        needed.insert(0, "prompt")
    missing = [f'"{name}"' for name in needed if row.get(name) is None]
    if missing:
        raise _UnusableError("without " + " and ".join(missing))
    return row


def _check_letters(text: str) -> None:
    if any("\ud800" <= letter <= "\udfff" for letter in text):
        raise _UnusableError("with half a surrogate pair, which is no character")


def _exchange(prompt: Any, response: Any) -> _Exchange:
    """Return prompt and response as texts, from strings or lists of messages."""
    if isinstance(response, list):
        return _from_messages(prompt, response)
    if isinstance(prompt, list):
        return _from_messages(prompt, [{"role": "assistant", "content": response}])
    if not isinstance(prompt, str) or not isinstance(response, str):
        raise _UnusableError(
            "whose prompt, chosen or rejected is neither a string nor a list of messages"
        )
    return _Exchange(prompt, response)


def _from_messages(prompt: Any, response: list[Any]) -> _Exchange:
    """Return what the assistant says last as the response, and all before it as the prompt."""
    question = [{"role": "user", "content": prompt}] if isinstance(prompt, str) else prompt or []
    messages = [*_messages(question), *_messages(response)]
    if not messages or messages[-1].role != "assistant":
        raise _UnusableError("whose messages do not end with the assistant's")
    before = messages[:-1]
    if len(before) == 1 and before[0].role == "user":
        text = before[0].content
    else:
        text = "\n\n".join(f"{message.role}: {message.content}" for message in before)
    return _Exchange(text, messages[-1].content)


def _messages(messages: Any) -> list[_Message]:
    if not isinstance(messages, list) or not all(map(_is_message, messages)):
        raise _UnusableError('with messages that are not {"role": "…", "content": "…"}')
    return [_Message(message["role"], message["content"]) for message in messages]


def _is_message(message: Any) -> bool:
    if not isinstance(message, dict):
        return False
    return isinstance(message.get("role"), str) and isinstance(message.get("content"), str)


def _parse_facts(row: dict[str, Any]) -> dict[str, float]:
    """Return the numbers that a line gives of its pair."""
    facts = {}
    for fact in PAIR_FACTS:
        value = row.get(fact.name)
        if value is None:
            continue
        is_finite = isinstance(value, int | float) and math.isfinite(value)
        if not is_finite or not fact.least <= value <= fact.most:
            raise _UnusableError(f'whose "{fact.name}" is not {fact.form}')
        facts[fact.name] = float(value)
    return facts


def _report_skipped(path: Path, usable: int, skipped: dict[str, list[int]], strict: bool) -> None:
    """Log how many lines were skipped for which reasons, or refuse them."""
    reasons = []
    for reason, lines in skipped.items():
        reasons.append(f"{len(lines)} {reason} (the first: line {lines[0]})")
    summary = ", ".join(reasons)
    if not usable:
        contents = f"; its lines are {summary}" if reasons else ", no line at all"
        raise InputError(f"{path} holds no preference pairs{contents}. A line should be {SHAPE}.")
    if strict and skipped:
        reason, lines = min(skipped.items(), key=lambda item: item[1][0])
        raise InputError(
            f"{path}, line {lines[0]} is a line {reason}. Mend or remove it, or leave `strict` off."
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
