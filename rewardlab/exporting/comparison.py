"""What was written has to score as the reward does, before it stands."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

from rewardlab.errors import InputError
from rewardlab.rewards import Reward
from rewardlab.rewards.scoring import member_scores, scores_of
from rewardlab.types import Samples

TOLERANCES = {"float32": 1e-4, "bfloat16": 0.1, "float16": 0.02}  # of the largest score, or of 1


class Comparison(NamedTuple):
    """How far the scores of what was written lie from the reward's.

    Attributes:
        samples: how many both scored.
        difference: the largest absolute difference.
        largest: the reward's largest absolute score on them.
        tolerance: the largest difference that is accepted.
    """

    samples: int
    difference: float
    largest: float
    tolerance: float


def expected_outputs(reward: Reward, samples: Samples, count: int) -> Tensor:
    """Return a reward's score of each sample, and its members' where they are wanted, [B, O].

    Args:
        reward: the original.
        samples: B of them.
        count: O, 1 or 1 + M.
    """
    scores = scores_of(reward, samples)[:, None]
    if count == 1:
        return scores
    return torch.cat([scores, member_scores(reward, samples)], 1)


def coarsest(dtype: str, reward: nn.Module) -> str:
    """Return the coarser of a precision and those in which a reward itself computes.

    Args:
        dtype: in which what was written computes.
        reward: the original.

    Example:
        >>> coarsest("float32", nn.Identity())
        'float32'
    """
    names = [dtype]
    for part in reward.modules():
        name = str(getattr(part, "dtype", dtype)).removeprefix("torch.")
        if name in TOLERANCES:
            names.append(name)
    return max(names, key=TOLERANCES.__getitem__)


def compared(scores: Tensor, expected: Tensor, dtype: str, what: str) -> Comparison:
    """Compare scores [B], or outputs [B, O], with the reward's own.

    Args:
        scores: of what was written.
        expected: of the reward.
        dtype: the coarser precision of the two: "float32", "bfloat16" or "float16".
        what: name of what was written, for the message.

    Raises:
        InputError: if they differ by more than the tolerance: 1e-4, 0.1 or 0.02 of the largest
            score or of 1, whichever is larger.

    Example:
        >>> compared(torch.tensor([2.0]), torch.tensor([2.0]), "float32", "a copy").difference
        0.0
    """
    differences = (scores.detach().double().cpu() - expected.double()).abs()
    difference = differences.max().item()
    largest = expected.abs().max().item()
    tolerance = TOLERANCES[dtype] * max(1.0, largest)
    if not difference <= tolerance:
        worst = int(torch.nan_to_num(differences, nan=torch.inf).argmax())
        score = scores.flatten()[worst].item()
        wanted = expected.flatten()[worst].item()
        raise InputError(
            f"{what} gives {score:.6g} to a probe where the reward gives {wanted:.6g}, which is "
            f"more apart than {tolerance:.2g}; nothing was written. Is the model changed in memory "
            f"in a way that its config does not tell, or is {dtype} too coarse (--dtype float32)?"
        )
    return Comparison(len(expected), difference, largest, tolerance)
