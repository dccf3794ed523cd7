"""Labels of published classifiers, and one score of them: the log-odds of what is wanted."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any, NamedTuple

from torch import Tensor

from rewardlab.errors import InputError

Label = str | int
Labels = Label | Sequence[Label] | None
_log = logging.getLogger("rewardlab")
_SHOWN = 10  # how many labels a message lists
_APART = ("multi_label_classification", "regression")  # each label has a score of its own


class Scored(NamedTuple):
    """What of a classifier's logits is the score.

    Attributes:
        wanted: numbers of the labels that count for a sample.
        others: numbers of those that count against it; none where a logit is a score by itself.
    """

    wanted: list[int]
    others: list[int]


def scored_labels(config: Any, label: Labels = None, count: int | None = None) -> Scored:
    """Return which labels of a classifier count for a sample and which against it.

    Of one label the logit is the score. Of two, it is the log-odds of label 1, or of the label that
    is named. Of more, labels have to be named. Where labels are apart (several may hold at once, or
    each is a regression), the one that is named is a score by itself.

    Args:
        config: of a transformers classifier: `num_labels`, `id2label`, `problem_type`.
        label: a label's name or number, or several of them.
        count: how many labels there are; by default what the config says.

    Raises:
        InputError: if nothing decides, or a label is none of the classifier's.
    """
    if count is None:
        count = config.num_labels
    names = _names(config, count)
    is_apart = getattr(config, "problem_type", None) in _APART
    if label is None:
        wanted = _unnamed(count, names, is_apart)
        _tell_of_choice(wanted[0], names)
    else:
        wanted = _named(label, names)
    if is_apart or count == 1:
        if len(wanted) != 1:
            raise InputError(
                f"Each of the {count} labels of this classifier ({_listed(names)}) is a score by "
                f"itself; got label={label!r}. Name one."
            )
        return Scored(wanted, [])
    others = [number for number in range(count) if number not in wanted]
    if not wanted or not others:
        raise InputError(
            f"Log-odds need labels for and labels against; got label={label!r} of the "
            f"{count} labels {_listed(names)}."
        )
    return Scored(wanted, others)


def log_odds(logits: Tensor, scored: Scored) -> Tensor:
    """Return log p(wanted)/p(others), [B], of a softmax over logits [B, K]; or the one logit.

    Example:
        >>> import torch
        >>> log_odds(torch.tensor([[1.0, 3.0]]), Scored([1], [0]))
        tensor([2.])
    """
    logits = logits.float()
    wanted = logits[:, scored.wanted].logsumexp(1)
    if not scored.others:
        return wanted
    others = logits[:, scored.others].logsumexp(1)
    return wanted - others


def one_head(weight: Tensor, config: Any, label: Labels = None) -> Tensor:
    """Return a classifier's linear head [K, D] as the one row [1, D] whose score is `log_odds`.

    Raises:
        InputError: as `scored_labels`, or if the log-odds are not linear in the logits, which those
            of one label against several are not.
    """
    scored = scored_labels(config, label, len(weight))
    if not scored.others:
        return weight[scored.wanted]
    if len(scored.wanted) != 1 or len(scored.others) != 1:
        raise InputError(
            f"The log-odds of one label against {len(weight) - 1} others are no linear head. "
            "ClassifierReward(folder, label=...) scores them."
        )
    return weight[scored.wanted] - weight[scored.others]


def check_members(config: Any, heads: int) -> None:
    """Refuse the labels of one choice, such as good and bad, as members of an ensemble.

    The mean of their logits says nothing. Labels that are apart may be members.

    Raises:
        InputError: if the labels are not apart.
    """
    if getattr(config, "problem_type", None) not in _APART:
        raise InputError(
            f"heads={heads} would take the mean over the labels of a classifier "
            f"({_listed(_names(config, heads))}), which says nothing if they exclude each other. "
            "heads=1 scores the log-odds of one of them (label=...). If each is a score of its "
            "own, say so in its config: problem_type='regression'."
        )


def _names(config: Any, count: int) -> dict[int, str]:
    """Return the labels' names by their numbers."""
    named = {number: f"LABEL_{number}" for number in range(count)}
    for number, name in (getattr(config, "id2label", None) or {}).items():
        if int(number) in named:
            named[int(number)] = str(name)
    return named


def _unnamed(count: int, names: dict[int, str], is_apart: bool) -> list[int]:
    """Return the label that is scored where none is named."""
    if count == 1:
        return [0]
    if count == 2 and not is_apart:
        return [1]
    raise InputError(
        f"The classifier has {count} labels ({_listed(names)}), and which of them is good is not "
        "known. Name one or several: ClassifierReward(folder, label=...)."
    )


def _tell_of_choice(chosen: int, names: dict[int, str]) -> None:
    """Say which of two labels counts as the reward where none was named."""
    if len(names) == 2:
        _log.warning(
            "The classifier has the labels %s and none is named: the score is the log-odds of "
            "%s, so that more of it is better; label=%r turns the scores round",
            _listed(names),
            names[chosen],
            names[1 - chosen],
        )


def _named(label: Label | Sequence[Label], names: dict[int, str]) -> list[int]:
    """Return the numbers of the labels that are named, in order."""
    labels = [label] if isinstance(label, str | int) else label
    numbers = set()
    for one in labels:
        numbers.add(_number(one, names))
    return sorted(numbers)


def _number(label: Label, names: dict[int, str]) -> int:
    """Return the number of a label that is given by its name or number."""
    if isinstance(label, int) and not isinstance(label, bool) and label in names:
        return label
    for number, name in names.items():
        if isinstance(label, str) and name.lower() == label.lower():
            return number
    raise InputError(f"The classifier has no label {label!r}; it has {_listed(names)}.")


def _listed(names: dict[int, str]) -> str:
    shown = []
    for number, name in names.items():
        shown.append(f"{number} {name}")
    if len(shown) > _SHOWN:
        shown[_SHOWN:] = ["…"]
    return ", ".join(shown)
