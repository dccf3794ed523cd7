"""Losses of policy gradients, each of one step; `step_weights` says how much a step counts.

A sum of weights times steps can be cut anywhere, into micro-batches, processes or a policy's own
chunks, and stays the same sum. So the weights come from the whole batch, and everything else is
elementwise.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from rewardlab.losses.likelihood import check_shapes, masked_mean

Normalization = Literal["token", "sequence", "constant"]
# exp(10) is 22,000: beyond it a step is noise, and a diffusion policy's ratio soon overflows
MAX_LOG_RATIO = 10.0


def log_ratio(log_prob: Tensor, other: Tensor, mask: Tensor) -> Tensor:
    """Return log_prob - other, clamped to ±10, 0 where a step does not count. [B, T] in float32.

    Where a step does not count, any value is ignored, NaN too.

    Example:
        >>> log_prob = torch.tensor([[-1.0, 50.0, float("nan")]])
        >>> mask = torch.tensor([[True, True, False]])
        >>> log_ratio(log_prob, torch.zeros(1, 3), mask).tolist()
        [[-1.0, 10.0, 0.0]]
    """
    check_shapes(log_prob, other, mask)
    difference = log_prob.float() - other.float()
    counted = difference.where(mask, 0)
    return counted.clamp(-MAX_LOG_RATIO, MAX_LOG_RATIO)


def step_weights(
    mask: Tensor, normalization: Normalization, constant: float | None = None
) -> Tensor:
    """Return how much each step counts in a mean over the batch, float32 [B, T].

    The weight is 0 where the mask is false.

    Args:
        mask: bool [B, T], true where a step counts.
        normalization: "token" gives every step one weight, so long rows count more (DAPO, arXiv
            2503.14476). "sequence" gives every row one weight, so the steps of long rows count less
            (GRPO, arXiv 2402.03300). "constant" divides by rows times a constant, so neither (Dr.
            GRPO, arXiv 2503.20783): REINFORCE up to that scale.
        constant: T of "constant"; the number of columns by default.

    Example:
        >>> mask = torch.tensor([[True, True], [True, False]])
        >>> step_weights(mask, "sequence").tolist()
        [[0.25, 0.25], [0.5, 0.0]]
        >>> step_weights(mask, "constant").tolist()
        [[0.25, 0.25], [0.25, 0.0]]
    """
    rows, columns = mask.shape
    if normalization == "token":
        return mask / mask.sum().clamp_min(1)
    if normalization == "sequence":
        lengths = mask.sum(1, keepdim=True)
        return mask / (lengths.clamp_min(1) * rows)
    length = columns if constant is None else constant
    return mask / (rows * length)


def surrogate(
    log_prob: Tensor, old_log_prob: Tensor, advantages: Tensor, mask: Tensor, *, clip: float
) -> tuple[Tensor, Tensor]:
    """Return -min(ρ·A, clip(ρ, 1 - ε, 1 + ε)·A) of each step, where ρ = π/π_old.

    PPO, arXiv 1707.06347, equation 7. At ρ = 1 the gradient is REINFORCE's, -A·∇log π. A step that
    has moved past the clip in the direction that its advantage wanted has none. With an image
    policy this is DDPO's loss (arXiv 2305.13301, with importance sampling).

    Args:
        log_prob: [B, T], under the policy as it is.
        old_log_prob: [B, T], under the policy that sampled.
        advantages: [B, T], or [B, 1] where the steps of a row share one.
        mask: bool [B, T], true where a step counts.
        clip: ε; 0.2 is usual for tokens, 1e-4 for images, whose log-probabilities are means over
            the dimensions.

    Returns:
        The loss of each step, float32 [B, T], and whether the clip took its gradient, bool [B, T].
    """
    ratio = log_ratio(log_prob, old_log_prob, mask).exp()
    advantages = advantages.float().where(mask, 0)
    free = ratio * advantages
    held = ratio.clamp(1 - clip, 1 + clip) * advantages
    return -torch.minimum(free, held), held < free


def ppo_loss(
    log_prob: Tensor,
    old_log_prob: Tensor,
    advantages: Tensor,
    mask: Tensor,
    *,
    clip: float,
    normalization: Normalization = "token",
    constant: float | None = None,
) -> tuple[Tensor, Tensor]:
    """Return the weighted mean of `surrogate` over a batch (PPO, arXiv 1707.06347, equation 7).

    Arguments are those of `surrogate` and `step_weights`.

    Returns:
        (loss, clip_fraction), float32 scalars; the second is the share of steps whose gradient the
        clip took.

    Example:
        >>> log_prob, mask = torch.tensor([[0.0, 0.5]]), torch.tensor([[True, True]])
        >>> loss, clipped = ppo_loss(log_prob, torch.zeros(1, 2), torch.ones(1, 1), mask, clip=0.2)
        >>> round(loss.item(), 4), clipped.item()  # -(1 + 1.2)/2: the second ratio is held at 1.2
        (-1.1, 0.5)
    """
    losses, clipped = surrogate(log_prob, old_log_prob, advantages, mask, clip=clip)
    weights = step_weights(mask, normalization, constant)
    loss = (weights * losses).sum()
    clip_fraction = masked_mean(clipped.float(), mask)
    return loss, clip_fraction


def value_error(
    values: Tensor, old_values: Tensor, returns: Tensor, mask: Tensor, *, clip: float
) -> Tensor:
    """Return ½·max((V - R)², (V_old + clip(V - V_old, ±ε) - R)²) of each step.

    So the critic may not move far in one batch. The form is that of the PPO papers' code (Engstrom
    et al., arXiv 2005.12729). All arguments are [B, T]; returns float32 [B, T].
    """
    check_shapes(values, old_values, returns, mask)
    values = values.float().where(mask, 0)
    old_values = old_values.float().where(mask, 0)
    returns = returns.float().where(mask, 0)
    held = old_values + (values - old_values).clamp(-clip, clip)
    free_error = (values - returns).square()
    held_error = (held - returns).square()
    return 0.5 * torch.maximum(free_error, held_error)


def value_loss(
    values: Tensor, old_values: Tensor, returns: Tensor, mask: Tensor, *, clip: float
) -> Tensor:
    """Return the mean over steps of `value_error`, a critic's clipped squared error.

    All arguments are [B, T]; returns a float32 scalar.

    Example:
        >>> one = torch.ones(1, 1)
        >>> loss = value_loss(1.5 * one, one, 2 * one, one.bool(), clip=0.2)
        >>> round(loss.item(), 4)  # ½·(1.2 - 2)², the worse of the two
        0.32
    """
    errors = value_error(values, old_values, returns, mask, clip=clip)
    return masked_mean(errors, mask)
