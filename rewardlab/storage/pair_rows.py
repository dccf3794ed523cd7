"""A pair out of a row: prompt, chosen and rejected as texts or messages, and the row's numbers."""

from __future__ import annotations

import math
from typing import Any, Literal, NamedTuple

from rewardlab.conversations import Prompt, prompt_of_messages
from rewardlab.storage.cells import is_broken_list
from rewardlab.storage.exchanges import Exchange, UnusableError, exchange
from rewardlab.storage.records import Record
from rewardlab.storage.turns import (
    asks_for_answer,
    continues,
    dialogue_turns,
    shared_prompt,
    without_end,
)

SHAPE = '{"prompt": "…", "chosen": "…", "rejected": "…"}'
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


class PairLine(NamedTuple):
    """A pair as its row gives it; `facts` has only the facts that the row has."""

    prompt: Prompt
    chosen: str
    rejected: str
    facts: dict[str, float]


class _Halves(NamedTuple):
    """Both sides of a pair."""

    chosen: Exchange
    rejected: Exchange


def are_texts(row: dict[str, Any]) -> bool:
    names = ("prompt", "chosen", "rejected")
    return all(isinstance(row.get(name), str) for name in names)


def repeats(row: dict[str, Any]) -> bool:
    """Tell whether the texts of a row both begin with its prompt."""
    prompt = row["prompt"]
    return continues(row["chosen"], prompt) and continues(row["rejected"], prompt)


def parse_pair(record: Record, doubled: bool, dialogues: Dialogues) -> PairLine:
    """Return the pair of a row.

    Raises:
        UnusableError: if the row is none.
    """
    if record.problem is not None:
        example = f" such as {SHAPE}" if record.problem == "not an object" else ""
        raise UnusableError(record.problem + example)
    row = record.row
    _check_lists(row)
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
    return PairLine(prompt, chosen, rejected, _parse_facts(row))


def _halves(row: dict[str, Any], doubled: bool) -> _Halves:
    """Return both sides of a row, each with its prompt."""
    prompt = row.get("conversations") if row.get("prompt") is None else row["prompt"]
    chosen = row.get("chosen")
    rejected = row.get("rejected")
    if prompt is None and isinstance(chosen, str) and isinstance(rejected, str):
        return _dialogue(chosen, rejected)
    _check_keys(row)
    doubles = are_texts(row) and repeats(row)
    if isinstance(prompt, str) and doubles and (doubled or asks_for_answer(prompt)):
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


def _check_lists(row: dict[str, Any]) -> None:
    """Refuse messages that are a text which was cut."""
    for name in ("prompt", "chosen", "rejected"):
        value = row.get(name)
        if isinstance(value, str) and is_broken_list(value):
            raise UnusableError("with messages in a text that cannot be read (were they cut?)")


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
