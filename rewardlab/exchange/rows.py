"""Preference pairs and prompts as data sets in TRL's columns, and back."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

from rewardlab.conversations import Prompt, messages_of
from rewardlab.errors import InputError
from rewardlab.exchange.turns import answer_message, are_conversational
from rewardlab.storage.pair_rows import PAIR_FACTS, Dialogues
from rewardlab.storage.preferences import pair_file_of
from rewardlab.storage.records import Record
from rewardlab.types import PreferencePairs, texts_of

_log = logging.getLogger("rewardlab")
UNREAD = {"label": 1.0, "weight": 1.0}  # facts that TRL does not read, and what it takes them for


def preference_dataset(pairs: PreferencePairs, conversational: bool | None = None) -> Any:
    """Return preference pairs as a `datasets.Dataset` for TRL's DPOTrainer and RewardTrainer.

    The columns are prompt, chosen and rejected, as texts or as lists of messages, and "margin" and
    "label" where the pairs have these facts; TRL's RewardTrainer reads the margin.

    Args:
        pairs: of texts.
        conversational: write messages, which TRL formats by the model's chat template. By default
            where a prompt is a conversation. Texts it takes as they are, so a chat model's pairs of
            plain prompts want True.

    Raises:
        InputError: if the pairs are of images, or there are none.

    Example:
        >>> from rewardlab import PreferencePairs, Samples
        >>> pairs = PreferencePairs(Samples(["2+2?"], ["4"]), Samples(["2+2?"], ["5"]))
        >>> preference_dataset(pairs)[0]
        {'prompt': '2+2?', 'chosen': '4', 'rejected': '5'}
        >>> preference_dataset(pairs, conversational=True)[0]["chosen"]
        [{'role': 'assistant', 'content': '4'}]
    """
    from datasets import Dataset

    _check_pairs(pairs)
    prompts = list(pairs.chosen.prompts)
    halves = {"chosen": list(pairs.chosen.outputs), "rejected": list(pairs.rejected.outputs)}
    columns: dict[str, list[Any]] = {"prompt": prompts, **halves}
    if are_conversational(prompts, conversational):
        columns["prompt"] = [messages_of(prompt) for prompt in prompts]
        for name, responses in halves.items():
            columns[name] = [answer_message(response) for response in responses]
    for fact in PAIR_FACTS:
        if fact.name in pairs.chosen.facts:
            columns[fact.name] = pairs.chosen.facts[fact.name].tolist()
    _tell_of_unread(pairs)
    return Dataset.from_dict(columns)


def read_preferences(
    dataset: Any, strict: bool = False, dialogues: Dialogues = "text"
) -> PreferencePairs:
    """Return the preference pairs of a `datasets.Dataset` in memory, or of any rows.

    Rows are read as those of a file, by `rewardlab.storage.read_preferences`: the prompt may be
    part of chosen and rejected, and rows that are no pairs are skipped, counted and logged.

    Args:
        dataset: yields mappings with the columns of TRL.
        strict: refuse what would be skipped.
        dialogues: what texts with marked turns become.

    Raises:
        InputError: as for a file.

    Example:
        >>> row = {"prompt": "2+2?", "chosen": "4", "rejected": "5"}
        >>> read_preferences([row]).chosen.outputs
        ['4']
    """
    records = []
    for number, row in enumerate(dataset, 1):
        if isinstance(row, Mapping):
            records.append(Record(f"row {number}", dict(row)))
        else:
            records.append(Record(f"row {number}", {}, "not an object"))
    return pair_file_of(Path("the data set"), records, strict, dialogues).pairs


def prompt_dataset(
    prompts: Sequence[Prompt], conversational: bool | None = None, **columns: Sequence[Any]
) -> Any:
    """Return prompts as a `datasets.Dataset` for TRL's GRPOTrainer and RLOOTrainer.

    Args:
        prompts: texts or conversations.
        conversational: as for `preference_dataset`.
        columns: further columns, a value a prompt, which reward functions get.

    Raises:
        InputError: if a column has another length, or there are no prompts.

    Example:
        >>> prompt_dataset(["2+2?"], answer=[4])[0]
        {'prompt': '2+2?', 'answer': 4}
    """
    from datasets import Dataset

    wrong = {name: len(values) for name, values in columns.items() if len(values) != len(prompts)}
    if wrong or not prompts:
        raise InputError(
            f"prompt_dataset takes prompts and a value for each in every column; got {len(prompts)}"
            f" prompts and columns of other lengths {wrong}."
        )
    values: list[Any] = list(prompts)
    if are_conversational(prompts, conversational):
        values = [messages_of(prompt) for prompt in prompts]
    return Dataset.from_dict({"prompt": values, **columns})


def _check_pairs(pairs: PreferencePairs) -> None:
    """Refuse pairs that TRL's trainers could not learn from."""
    if not len(pairs):
        raise InputError("preference_dataset got no pairs. Is the file the one you mean?")
    if isinstance(pairs.chosen.outputs, Tensor):
        raise InputError(
            f"preference_dataset takes pairs of texts; got {len(pairs)} pairs of images. TRL's "
            "trainers learn from texts, and its images are parts of prompts. Train generators of "
            "images here (rewardlab.training.DPO), or write the pairs by storage.save_pairs."
        )
    texts_of(pairs.rejected, "preference_dataset")


def _tell_of_unread(pairs: PreferencePairs) -> None:
    """Warn of facts that TRL would take for another value."""
    for name, taken in UNREAD.items():
        values = pairs.chosen.facts.get(name)
        others = 0 if values is None else int((values != taken).sum())
        if others:
            _log.warning(
                "%d of %d pairs have a %s other than %g, which TRL does not read: it takes every "
                "pair as one that counts once and whose chosen is preferred",
                others,
                len(pairs),
                name,
                taken,
            )
