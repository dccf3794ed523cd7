"""Scores of several groups of outputs, from as few passes of a reward as can be."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from rewardlab.networks.chat import finished_of
from rewardlab.rewards import Reward
from rewardlab.rewards.abilities import DrawsNoise
from rewardlab.seeds import derive, row_seeds
from rewardlab.training.replay import Drawn, Inputs
from rewardlab.training.training_scores import training_scores
from rewardlab.types import Samples, concatenate, distinct


class JointScores(NamedTuple):
    """Members' scores [B, M] of each group, and the mean of the reward's own term of the loss."""

    members: list[Tensor]
    penalty: Tensor | None


def joint_scores(reward: Reward, groups: Sequence[Drawn], seed: int) -> JointScores:
    """Return the members' scores of several groups of outputs, with gradients.

    Groups of one form share a pass, and a row that comes again, which its key says, is run once. A
    reward that draws noise (`DrawsNoise`) draws for each row anew.

    Args:
        reward: what is trained.
        groups: B outputs each, as the reward reads them.
        seed: names the noise.
    """
    device = next(reward.parameters()).device
    runs = [_rows_to_run(group, isinstance(reward, DrawsNoise)) for group in groups]
    parts = [run.rows.inputs for run in runs]
    row_count = sum(map(len, parts))
    members: dict[int, Tensor] = {}  # of each group, by its number
    penalties = []
    for form, numbers in enumerate(_of_one_form(parts)):
        inputs = _joined([parts[number] for number in numbers])
        seeds = row_seeds(derive(seed, "noise", form), len(inputs))
        scores = training_scores(reward, inputs.to(device), seeds)
        sizes = [len(parts[number]) for number in numbers]
        for number, rows in zip(numbers, scores.members.split(sizes), strict=True):
            members[number] = rows[runs[number].places]
        if scores.penalty is not None:
            penalties.append(scores.penalty * (len(inputs) / row_count))
    penalty = sum(penalties[1:], penalties[0]) if penalties else None
    return JointScores([members[number] for number in range(len(groups))], penalty)


class _RowsToRun(NamedTuple):
    """The rows of a group that are run, and where each row of the group stands among them."""

    rows: Drawn
    places: list[int]


def _rows_to_run(group: Drawn, keep_repeats: bool) -> _RowsToRun:
    """Return a group's rows, of which none comes twice unless repeats are kept."""
    if keep_repeats:
        return _RowsToRun(group, list(range(len(group.keys))))
    unique = distinct(group.keys.tolist())
    return _RowsToRun(group.rows(torch.tensor(unique.first_rows)), unique.places)


def _of_one_form(parts: Sequence[Inputs]) -> list[list[int]]:
    """Return the numbers of the parts that can be joined: texts, pixels or features of one size."""
    forms: dict[object, list[int]] = {}
    for place, part in enumerate(parts):
        values = part.outputs if isinstance(part, Samples) else part
        form: object = str
        if isinstance(values, Tensor):
            form = (isinstance(part, Samples), values.shape[1:], values.dtype)
        forms.setdefault(form, []).append(place)
    return list(forms.values())


def _joined(parts: Sequence[Inputs]) -> Inputs:
    """Return parts of one form as one; texts keep which of them ended by themselves."""
    if len(parts) == 1:
        return parts[0]
    whole = []
    for part in parts:
        is_text = isinstance(part, Samples) and not isinstance(part.outputs, Tensor)
        whole.append(_told_ends(part) if is_text else part)
    joined: Inputs = concatenate(whole)
    return joined


def _told_ends(part: Inputs) -> Samples:
    """Return texts with the fact "finished", which joining would drop if one part lacked it."""
    assert isinstance(part, Samples)
    return part.with_facts(finished=torch.tensor(finished_of(part)))
