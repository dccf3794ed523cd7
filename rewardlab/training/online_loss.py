"""The loss of an update of a correction: wanted outputs against the policy's own."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from rewardlab.losses.discrimination import discrimination_loss
from rewardlab.losses.likelihood import weighted_mean
from rewardlab.losses.ranking import bradley_terry_loss
from rewardlab.training.joint_scores import JointScores

Pairing = Literal["prompt", "any"]


def online_loss(pairing: Pairing, scores: JointScores, weights: Tensor | None = None) -> Tensor:
    """Return the loss of wanted outputs against own ones, with clean pairs among them.

    It is Bradley and Terry's over pairs, or binary cross-entropy over all outputs, plus the
    reward's own term.

    Args:
        pairing: "prompt" for pairs, row by row; "any" for labels 1 and 0.
        scores: members' scores [B, M] of wanted outputs, of own ones and, for "prompt", of both
            halves of clean pairs where there are some.
        weights: [B], of mean 1, how much each own output counts; all alike by default.

    Returns:
        A scalar, float32.

    Example:
        >>> scores = JointScores([torch.zeros(2, 1), torch.zeros(2, 1)], None)
        >>> round(online_loss("prompt", scores, torch.tensor([0.5, 1.5])).item(), 4)
        0.6931
    """
    loss = _labelled(scores, weights) if pairing == "any" else _paired(scores, weights)
    return loss if scores.penalty is None else loss + scores.penalty


def lead_of(scores: JointScores, weights: Tensor | None = None) -> float:
    """Return the mean score of the wanted outputs less that of the own ones, as these count.

    Example:
        >>> scores = JointScores([torch.ones(2, 1), torch.tensor([[0.0], [2.0]])], None)
        >>> lead_of(scores), lead_of(scores, torch.tensor([2.0, 0.0]))
        (0.0, 1.0)
    """
    good, own = scores.members[:2]
    counts = None if weights is None else _columns(weights, own)
    lead: Tensor = good.mean() - weighted_mean(own, counts)
    return lead.item()


def _labelled(scores: JointScores, weights: Tensor | None) -> Tensor:
    good, own = scores.members
    labels = torch.cat([torch.ones(len(good)), torch.zeros(len(own))])
    joined = torch.cat([good, own])
    counts = None
    if weights is not None:
        counts = _columns(torch.cat([torch.ones(len(good)), weights]), joined)
    return discrimination_loss(joined, labels.to(joined), counts)


def _paired(scores: JointScores, weights: Tensor | None) -> Tensor:
    good, own, *clean = scores.members
    chosen = torch.cat([good, *clean[:1]])
    rejected = torch.cat([own, *clean[1:]])
    counts = None
    if weights is not None:
        of_clean = torch.ones(len(chosen) - len(good))
        counts = _columns(torch.cat([weights, of_clean]), chosen)
    return bradley_terry_loss(chosen, rejected, weights=counts)


def _columns(weights: Tensor, scores: Tensor) -> Tensor:
    """Return the rows' weights [B] for each member's scores [B, M]."""
    return weights.to(scores)[:, None].expand_as(scores)
