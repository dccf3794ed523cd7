"""Advantages: how much better each sample, or each step, did than was to be expected.

A score of NaN is one that is not there (docs/guide/not_scored.md): it is left out of its group's
mean and deviation, and its own advantage is 0. A group with fewer than two scores gets zeros.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from rewardlab.errors import InputError
from rewardlab.kernels.advantages import generalized_advantages


def leave_one_out(scores: Tensor) -> Tensor:
    """Return each score less the mean of its prompt's other scores (RLOO, arXiv 2402.14740).

    The baseline does not depend on the sample it is taken from, so the policy gradient stays
    unbiased. The scores keep their scale. An offset that a reward adds to a prompt cancels.

    Args:
        scores: [P, K], the K ≥ 2 samples of each of P prompts; NaN where not scored.

    Returns:
        float32 [P, K]; each row sums to 0.

    Raises:
        InputError: if K < 2.

    Example:
        >>> nan = float("nan")
        >>> leave_one_out(torch.tensor([[1.0, 2.0, 6.0], [1.0, nan, 3.0]])).tolist()
        [[-3.0, -1.5, 4.5], [-2.0, 0.0, 2.0]]
    """
    deviations = _deviations(scores, "leave_one_out")
    counts = _counts(scores)
    others = (counts - 1).clamp_min(1)
    advantages = deviations * (counts / others)
    return advantages.float()


def group_normalized(scores: Tensor) -> Tensor:
    """Return each score less its prompt's mean, over the prompt's standard deviation.

    GRPO, arXiv 2402.03300, section 4.1.2. The standard deviation is the unbiased one. Prompts on
    which all samples do nearly alike count as much as those that tell good from bad, so small
    differences are blown up. A prompt whose samples tie gets zeros.

    Args:
        scores: [P, K], the K ≥ 2 samples of each of P prompts; NaN where not scored.

    Returns:
        float32 [P, K]; each row sums to 0.

    Raises:
        InputError: if K < 2.

    Example:
        >>> group_normalized(torch.tensor([[1.0, 2.0, 3.0], [5.0, 5.0, 5.0]])).tolist()
        [[-1.0, 0.0, 1.0], [0.0, 0.0, 0.0]]
    """
    deviations = _deviations(scores, "group_normalized")
    wide = scores.double()
    squares = deviations.square()
    degrees = _counts(scores) - 1
    variance = squares.sum(1, keepdim=True) / degrees.clamp_min(1)
    std = wide.std(1, keepdim=True)
    std = torch.where(std.isnan(), variance.sqrt(), std)
    sizes = wide.abs().nan_to_num(0)
    largest = sizes.amax(1, keepdim=True)
    tied = std <= 1e-6 * largest  # the rest is float32's rounding
    normalized = deviations / std.clamp_min(1e-30)
    advantages = torch.where(tied, 0, normalized)
    return advantages.float()


def decoupled(scores: Tensor, weights: Tensor) -> Tensor:
    """Return advantages of several rewards, each normalized in its group before they are added.

    GDPO, arXiv 2601.05242: `decoupled_sum`, brought to mean 0 and deviation 1 over the batch. A
    reward counts by its weight, whatever its scale; with one reward this is GRPO's, whitened. A
    sample that no reward scored counts in neither, and gets 0.

    Args:
        scores: [P, K, R], R rewards of the K ≥ 2 samples of each of P prompts; NaN where a reward
            did not score.
        weights: [R].

    Returns:
        float32 [P, K]; 0 where all sums are alike.

    Raises:
        InputError: if K < 2 or the shapes do not fit.

    Example:
        >>> wide_and_binary = torch.tensor([[[900.0, 0.0], [100.0, 1.0]]])
        >>> decoupled(wide_and_binary, torch.tensor([1.0, 2.0])).tolist()
        [[-1.0, 1.0]]
    """
    total = decoupled_sum(scores, weights).double()
    scored = ~scores.isnan().all(2)
    present = total[scored]
    deviations = total - present.mean()
    std = present.std(correction=0)
    whitened = deviations / std.clamp_min(1e-8)
    advantages = whitened.where(scored, 0)
    return advantages.float()


def decoupled_sum(scores: Tensor, weights: Tensor) -> Tensor:
    """Return Σ_r w_r · (s_r - mean)/deviation, mean and deviation over the group: float32 [P, K].

    A reward that scores all of a group alike, or fewer than two, adds 0 there; so does each score
    that is NaN, over what is left of its group.

    Args:
        scores: [P, K, R].
        weights: [R].

    Raises:
        InputError: if K < 2 or the shapes do not fit.

    Example:
        >>> nan = float("nan")
        >>> scores = torch.tensor([[[1.0, 5.0], [3.0, nan], [2.0, 5.0]]])
        >>> decoupled_sum(scores, torch.tensor([1.0, 1.0])).tolist()
        [[-1.0, 1.0, 0.0]]
    """
    if scores.dim() != 3 or scores.shape[1] < 2 or weights.shape != scores.shape[2:]:
        raise InputError(
            "decoupled compares R rewards of the K >= 2 samples of each prompt, scores [P, K, R] "
            f"with weights [R]; got {list(scores.shape)} and {list(weights.shape)}. Draw at least "
            "2 samples a prompt, and give one weight a reward."
        )
    wide = scores.double()
    scored = ~wide.isnan()
    mean = wide.nanmean(1, keepdim=True)
    deviations = (wide - mean).where(scored, 0)
    degrees = scored.sum(1, keepdim=True) - 1
    squares = deviations.square().sum(1, keepdim=True)
    std = (squares / degrees.clamp_min(1)).sqrt()
    sizes = wide.abs().where(scored, 0)
    largest = sizes.amax(1, keepdim=True)
    tied = std <= 1e-6 * largest  # the rest is float32's rounding
    normalized = torch.where(tied, 0, deviations / std.clamp_min(1e-30))
    total = normalized @ weights.double()
    return total.float()


def centered(scores: Tensor) -> Tensor:
    """Return each score less its prompt's mean, float32 [P, K]; the sample itself counts in it.

    What is not scored (NaN) counts in no mean and gets 0.

    Example:
        >>> centered(torch.tensor([[1.0, 3.0]])).tolist()
        [[-1.0, 1.0]]
    """
    return _deviations(scores, "centered").float()


def generalized(
    rewards: Tensor, values: Tensor, mask: Tensor, *, discount: float, lam: float
) -> tuple[Tensor, Tensor]:
    """Return Σ_k (γλ)^k · δ_(t+k), δ_t = r_t + γ·V_(t+1) - V_t, of each step, and its return.

    Generalized advantage estimation, arXiv 1506.02438, equation 16. λ = 1 is the discounted sum of
    later rewards less V_t: unbiased, of high variance. λ = 0 is δ_t: biased by the critic's error.
    Nothing follows the last step. Steps that do not count are passed over, as if they were not
    there.

    Args:
        rewards: [B, T], r: what each step earned.
        values: [B, T], V: what the critic expected from the step on, before it was taken.
        mask: bool [B, T], true where a step counts.
        discount: γ.
        lam: λ.

    Returns:
        (advantages, returns), float32 [B, T]; returns are advantages + values. Both are 0 where the
        mask is false.

    Example:
        >>> rewards = torch.tensor([[0.0, 1.0]])
        >>> mask = torch.ones(1, 2, dtype=torch.bool)
        >>> generalized(rewards, torch.zeros(1, 2), mask, discount=1.0, lam=0.5)[0].tolist()
        [[0.5, 1.0]]
    """
    return generalized_advantages(rewards.float(), values.float(), mask, discount=discount, lam=lam)


class Diversified(NamedTuple):
    """What `diversified` gives.

    Attributes:
        advantages: float32 [P, K, T].
        distances: float32 [P, K], the cosine distance to the nearest other sample of the prompt.
    """

    advantages: Tensor
    distances: Tensor


def diversified(advantages: Tensor, features: Tensor) -> Diversified:
    """Multiply positive advantages by the distance to the nearest other sample of the prompt.

    GARDO, arXiv 2512.24138. The distance is 1 less the cosine of features, and divided by its mean
    over the prompt's samples, so that a prompt counts as much as before. Samples that all lie alike
    keep their advantages. Not for advantages that are divided by the group's deviation.

    Args:
        advantages: [P, K, T], of the K ≥ 2 samples of each of P prompts; T may be 1.
        features: [P, K, D].

    Raises:
        InputError: if K < 2, the shapes do not fit, or a feature is not finite.

    Example:
        >>> features = torch.tensor([[[1.0, 0.0], [1.0, 0.0], [0.0, 1.0]]])
        >>> diversified(torch.tensor([[[2.0], [-3.0], [1.0]]]), features).advantages.tolist()
        [[[0.0], [-3.0], [3.0]]]
    """
    if advantages.shape[:2] != features.shape[:2] or advantages.dim() != 3 or features.dim() != 3:
        raise InputError(
            "diversified takes advantages [P, K, T] and features [P, K, D] of the same samples; "
            f"got {list(advantages.shape)} and {list(features.shape)}."
        )
    if features.shape[1] < 2 or not features.isfinite().all():
        raise InputError(
            "diversified compares the finite features of K >= 2 samples of a prompt; got "
            f"{list(features.shape)}. Draw at least 2, and look at what makes the features."
        )
    distances = _nearest_distances(features.double())
    means = distances.mean(1, keepdim=True)
    factors = distances / means.clamp_min(1e-30)
    factors = factors.where(means > 1e-9, 1.0)
    favored = advantages * factors[:, :, None]
    weighed = favored.where(advantages > 0, advantages)
    return Diversified(weighed.float(), distances.float())


def _nearest_distances(features: Tensor) -> Tensor:
    """Return the cosine distance [P, K] of features [P, K, D] to the nearest other of the row."""
    directions = torch.nn.functional.normalize(features, dim=2)
    cosines = directions @ directions.transpose(1, 2)
    itself = torch.eye(features.shape[1], dtype=torch.bool, device=features.device)
    others = cosines.masked_fill(itself, -torch.inf)
    nearest = others.amax(2)
    distances: Tensor = 1 - nearest
    return distances.clamp_min(0)


def _deviations(scores: Tensor, name: str) -> Tensor:
    """Return scores [P, K] less their row's mean, in float64, so that equal scores become zeros.

    The mean is over what is scored; what is not becomes 0.
    """
    if scores.dim() != 2 or scores.shape[1] < 2:
        raise InputError(
            f"{name} compares the K >= 2 samples of each prompt, scores [P, K]; "
            f"got {list(scores.shape)}. Draw at least 2 samples a prompt (4 is usual)."
        )
    wide = scores.double()
    means = wide.mean(1, keepdim=True)
    of_scored = wide.nanmean(1, keepdim=True)
    means = torch.where(means.isnan(), of_scored, means)
    deviations = wide - means
    return deviations.where(~wide.isnan(), 0)


def _counts(scores: Tensor) -> Tensor:
    """Return the number of scores in each row, float64 [P, 1]."""
    scored = ~scores.isnan()
    counts = scored.sum(1, keepdim=True)
    return counts.double()
