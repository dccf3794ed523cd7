"""Preferences that the text half of `make demo-real` runs on: yours, people's, or embedded ones."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, NamedTuple

import torch

from rewardlab.data import Preferences
from rewardlab.embedded import topics
from rewardlab.errors import InputError
from rewardlab.seeds import derive, row_seeds
from rewardlab.storage import read_preferences
from rewardlab.types import PreferencePairs, Samples

MOST_CHARACTERS = 800  # of a text; longer ones cost the most and fit the encoder least


class World(NamedTuple):
    """What the text half is run on.

    Attributes:
        name: says in the output what it is.
        train: pairs to fit.
        held_out: pairs of prompts that were not seen.
        people: pairs that people decided; None without a file.
    """

    name: str
    train: PreferencePairs
    held_out: PreferencePairs
    people: PreferencePairs | None


def read_world(pairs: Path | None, human: Path | None, count: int, seed: int) -> World:
    """Return the pairs to fit and to read on."""
    people = None if human is None else short(read_human(human))
    if people is not None:
        people = shuffled(people, seed)[: count // 2]
    if pairs is None:
        everything = topics.preferences(2 * count)
        name = (
            f"No --pairs given: {count} pairs of the embedded world (Python's help topics), whose "
            "judge is counted."
        )
    else:
        everything = short(read_preferences(pairs))
        name = f"{count} pairs of {pairs.name}, texts of at most {MOST_CHARACTERS} characters."
    if human is None:
        name += " No --human given, so no people judge."
    train, held_out = split(everything, count, seed)
    return World(name, train, held_out, people)


def read_human(path: Path) -> PreferencePairs:
    """Return the pairs of a file of PandaLM's form on whose winner two annotators or more agree.

    It is a JSON list of {"instruction", "input", "response1", "response2", "annotator1", …}, where
    an annotator says 1, 2 or, for a tie, 0. Rows whose responses are no texts are left out.

    Raises:
        InputError: if it is not of that form, or decides no pair.
    """
    rows = []
    try:
        for row in json.loads(path.read_text(encoding="utf-8")):
            winner = _winner(row)
            if winner is not None:
                prompt = "\n\n".join(filter(None, [row["instruction"], row["input"]]))
                texts = (row[f"response{winner}"], row[f"response{3 - winner}"])
                rows.append(_Choice(prompt, *texts))
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(
            f"{path} is not of PandaLM's form, a JSON list of instruction, input, response1, "
            f"response2 and annotator1 to annotator3: {error!r}."
        ) from error
    rows = [row for row in rows if isinstance(row.chosen, str) and isinstance(row.rejected, str)]
    if not rows:
        raise InputError(f"{path} has no pair on whose winner two annotators agree.")
    prompts = [row.prompt for row in rows]
    return PreferencePairs(
        Samples(prompts, [row.chosen for row in rows]),
        Samples(prompts, [row.rejected for row in rows]),
    )


class _Choice(NamedTuple):
    """What people chose of two responses."""

    prompt: str
    chosen: Any
    rejected: Any


def _winner(row: Any) -> int | None:
    """Return the number of the response that two annotators prefer."""
    votes = [row[f"annotator{number}"] for number in (1, 2, 3)]
    for winner in (1, 2):
        if votes.count(winner) >= 2:
            return winner
    return None


def short(pairs: PreferencePairs) -> PreferencePairs:
    """Return the pairs both of whose texts are short, none of them empty."""
    rows = []
    for row, texts in enumerate(zip(pairs.chosen.outputs, pairs.rejected.outputs, strict=True)):
        lengths = [len(str(text)) for text in texts]
        if min(lengths) > 0 and max(lengths) <= MOST_CHARACTERS:
            rows.append(row)
    return pairs[torch.tensor(rows)]


def shuffled(pairs: PreferencePairs, seed: int) -> PreferencePairs:
    """Return the pairs in another order."""
    return pairs[row_seeds(derive(seed, "pairs"), len(pairs)).argsort()]


def split(pairs: PreferencePairs, count: int, seed: int) -> tuple[PreferencePairs, PreferencePairs]:
    """Return `count` pairs to fit and half as many of other prompts.

    Raises:
        InputError: if there are too few.
    """
    data = Preferences(shuffled(pairs, seed), held_out=0.4, seed=seed)
    train, held_out = data.split("train"), data.split("held_out")
    if len(train) < count or len(held_out) < count // 2:
        raise InputError(
            f"The text half takes {count} pairs to fit and {count // 2} to read on; there are "
            f"{len(train)} and {len(held_out)}. Give more pairs, or --count."
        )
    return train[:count], held_out[: count // 2]
