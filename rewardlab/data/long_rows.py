"""Rows that do not fit a model's context: found before the first step, never in the middle."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor

from rewardlab.errors import InputError
from rewardlab.networks.chat import finished_of
from rewardlab.policies import Generator, Policy
from rewardlab.rewards import Reward
from rewardlab.types import PreferencePairs, Samples

LongRows = Literal["refuse", "drop", "truncate"]
Model = Generator | Reward
Check = Callable[[Any], None]
AT_ONCE = 64  # rows that are tokenized together
log = logging.getLogger("rewardlab")


class Bad(NamedTuple):
    """A row that a model cannot take, and what the model says of it."""

    row: int
    reason: str


def models_of(trainer: Any) -> list[Model]:
    """Return the policy and the reward of the loop that a trainer runs."""
    module = None if trainer is None else trainer.lightning_module
    parts = [getattr(module, "policy", None), getattr(module, "reward", None)]
    return [part for part in parts if isinstance(part, Generator | Reward)]


def fitting(noun: Any, models: Sequence[Model], long_rows: LongRows, what: str) -> Any:
    """Return the rows of a noun that all models can take; say how many do not fit.

    Args:
        noun: Samples, PreferencePairs or NumberedPrompts. Pictures fit always.
        models: that will see each row.
        long_rows: what becomes of the others: "refuse" all, "drop" them, or "truncate" responses
            to the longest beginning that fits and drop what does not fit even so. What is cut did
            not end by itself: its fact "finished" is false. A pair goes as a whole.
        what: name of a row in the message, in the plural.

    Raises:
        InputError: if rows do not fit and `long_rows` says so, or none is left.

    Example:
        >>> from rewardlab import CausalLMPolicy
        >>> from rewardlab.testing.tiny_text import tiny_causal_lm, tiny_tokenizer
        >>> policy = CausalLMPolicy(tiny_causal_lm(), tiny_tokenizer())  # of 64 tokens
        >>> samples = Samples(["a", "b", "c" * 80], ["d", "e" * 80, "f"])
        >>> fitting(samples, [policy], "drop", "samples").outputs
        ['d']
        >>> [len(text) for text in fitting(samples, [policy], "truncate", "samples").outputs]
        [1, 63]
    """
    checks: list[Check] = []
    for model in models:
        checks += _checks(model, noun)
    bad = _bad_rows(noun, checks)
    if not bad:
        return noun
    if long_rows == "refuse":
        raise InputError(
            f"{_share(len(bad), noun, what)} cannot be used; the first: {bad[0].reason} "
            'Give the data\'s (or PostTrain\'s) long_rows="drop" to leave them out, or "truncate" '
            "to cut their responses."
        )
    cut = noun
    still_bad = bad
    if long_rows == "truncate":
        cut = _truncated(noun, [row for row, _ in bad], checks)
        still_bad = _bad_rows(cut, checks)
    left_out = {row for row, _ in still_bad}
    rows = [row for row in range(len(noun)) if row not in left_out]
    _tell(bad, len(left_out), noun, what)
    if not rows:
        raise InputError(
            f"None of the {len(noun)} {what} fits the model; the first: {bad[0].reason} Give "
            "shorter ones, or a model of a longer context."
        )
    return cut[rows]


def _share(count: int, noun: Any, what: str) -> str:
    return f"{count} of {len(noun)} {what}"


def _tell(bad: Sequence[Bad], left_out: int, noun: Any, what: str) -> None:
    """Warn of rows that were cut or left out."""
    log.warning(
        "%s do not fit the model: %d were cut, %d left out. The first: %s",
        _share(len(bad), noun, what),
        len(bad) - left_out,
        left_out,
        bad[0].reason,
        extra={"figures": {"rows": len(noun), "long": len(bad), "left_out": left_out}},
    )


def _checks(model: Model, noun: Any) -> list[Check]:
    """Return what refuses rows of a noun that a model cannot take."""
    if not isinstance(noun, Samples | PreferencePairs):
        return [_of_prompts(model)] if isinstance(model, Generator) else []
    halves = [noun.chosen, noun.rejected] if isinstance(noun, PreferencePairs) else [noun]
    if isinstance(halves[0].outputs, Tensor):
        return []
    if isinstance(model, Policy):
        return [_of_samples(model.check_samples)]
    if not isinstance(model, Reward):
        return []
    parts = [part for part in model.modules() if isinstance(part, Reward)]
    return [_of_samples(part.check_samples) for part in parts]


def _of_prompts(model: Generator) -> Check:
    def check(noun: Any) -> None:
        model.check_prompts(noun.prompts)

    return check


def _of_samples(check_samples: Callable[[Samples], None]) -> Check:
    def check(noun: Samples | PreferencePairs) -> None:
        if isinstance(noun, Samples):
            check_samples(noun)
        else:
            check_samples(noun.chosen)
            check_samples(noun.rejected)

    return check


def _bad_rows(noun: Any, checks: Sequence[Check]) -> list[Bad]:
    """Return the rows that a check refuses, in order."""
    bad: list[Bad] = []
    if checks:
        for start in range(0, len(noun), AT_ONCE):
            bad += _search(noun, checks, start, min(start + AT_ONCE, len(noun)))
    return bad


def _search(noun: Any, checks: Sequence[Check], start: int, stop: int) -> list[Bad]:
    """Return the bad rows among some; halves that pass as a whole are not looked at closer."""
    reason = _reason(noun[start:stop], checks)
    if reason is None:
        return []
    if stop - start == 1:
        return [Bad(start, reason)]
    middle = (start + stop) // 2
    return [*_search(noun, checks, start, middle), *_search(noun, checks, middle, stop)]


def _reason(noun: Any, checks: Sequence[Check]) -> str | None:
    """Return why a check refuses the rows, or None if all take them."""
    try:
        for check in checks:
            check(noun)
    except InputError as error:
        return str(error)
    return None


def _truncated(noun: Any, rows: Sequence[int], checks: Sequence[Check]) -> Any:
    """Return the noun with the responses of some rows cut; prompts are never cut."""
    if isinstance(noun, PreferencePairs):
        chosen = _truncated(noun.chosen, rows, checks)
        return replace(noun, chosen=chosen, rejected=_truncated(noun.rejected, rows, checks))
    if not isinstance(noun, Samples):
        return noun
    outputs = list(noun.outputs)
    finished = finished_of(noun)
    for row in rows:
        sample = noun[row : row + 1]
        outputs[row] = _longest_beginning(sample, checks)
        finished[row] = finished[row] and outputs[row] == sample.outputs[0]
    if all(finished):
        return replace(noun, outputs=outputs)
    return replace(noun, outputs=outputs).with_facts(finished=torch.tensor(finished))


def _longest_beginning(sample: Samples, checks: Sequence[Check]) -> str:
    """Return the longest beginning of a response that fits; all of it where not even "" does."""
    text = str(sample.outputs[0])
    if _reason(sample, checks) is None:
        return text
    sample = sample.with_facts(finished=torch.tensor([False]))
    if _reason(replace(sample, outputs=[""]), checks):
        return text
    fits = 0
    too_long = len(text)
    while too_long - fits > 1:
        middle = (fits + too_long) // 2
        if _reason(replace(sample, outputs=[text[:middle]]), checks) is None:
            fits = middle
        else:
            too_long = middle
    return text[:fits]
