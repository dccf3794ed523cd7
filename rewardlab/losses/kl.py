"""Estimates of KL(π ‖ π_ref) from the policy's own samples, each with the gradient that it has.

All are elementwise functions of the log-ratio x = log π(step) - log π_ref(step), where the steps
are drawn from π. Two questions decide which to use: is the mean right, and is the gradient? They
are not the same question. A sample was drawn from π, so differentiating the estimate leaves out how
π changes what is drawn. docs/mathematics/kl.md has the derivations.
"""

from __future__ import annotations

from torch import Tensor


def k1(log_ratio: Tensor) -> Tensor:
    """Return x, an estimate that is unbiased and may be negative.

    Detached and subtracted from the reward, E[x·∇log π] is the gradient of the KL exactly. That is
    the default of PPO here. As a loss it has the gradient E[∇log π] = 0: pure noise.

    Example:
        >>> import torch
        >>> k1(torch.tensor([-1.0, 1.0])).tolist()
        [-1.0, 1.0]
    """
    return log_ratio


def k2(log_ratio: Tensor) -> Tensor:
    """Return ½·x², a biased estimate, never negative, right to second order near π = π_ref.

    As a loss its gradient E[x·∇log π] is that of the KL exactly, while the samples are the policy's
    own. Taken step by step it holds the visited states fixed: it lacks what an early step does to
    the KL of later ones, which the KL in the reward has.

    Example:
        >>> import torch
        >>> k2(torch.tensor([-1.0, 1.0])).tolist()
        [0.5, 0.5]
    """
    return 0.5 * log_ratio.square()


def k3(log_ratio: Tensor) -> Tensor:
    """Return e^(-x) - 1 + x, an estimate that is unbiased, never negative, of low variance.

    Schulman, "Approximating KL divergence", 2020. As a loss (GRPO, arXiv 2402.03300, equation 4)
    its gradient E[(1 - π_ref/π)·∇log π] is that of the *other* divergence, KL(π_ref ‖ π): the
    policy is pulled to cover the reference, not to stay within it. Where π has left the reference's
    support behind, e^(-x) is large. Where π_ref is nearly 0, the pull is at most 1.

    Example:
        >>> import torch
        >>> [round(value, 4) for value in k3(torch.tensor([-1.0, 1.0])).tolist()]
        [0.7183, 0.3679]
    """
    return (-log_ratio).exp() - 1 + log_ratio


def absolute(log_ratio: Tensor) -> Tensor:
    """Return |x|, which is not below the KL on average.

    It is the penalty in the reward of Adv-RM's first author, as a mean over tokens. In the reward
    its gradient is E[|x|·∇log π], which belongs to no divergence: a step less likely than under the
    reference is punished too, and so becomes less likely still.

    Example:
        >>> import torch
        >>> absolute(torch.tensor([-1.0, 1.0])).tolist()
        [1.0, 1.0]
    """
    return log_ratio.abs()


def adapted_weight(
    weight: float, kl: float, target: float, *, rate: float = 0.1, limit: float = 0.2
) -> float:
    """Return β·(1 + rate·clip(KL/target - 1, ±limit)), the weight that steers towards a target.

    Ziegler et al., arXiv 1909.08593.

    Args:
        weight: β, of the KL.
        kl: the measured KL, in the units of the target (nats).
        target: above 0.
        rate: how fast the weight follows; one step changes it by at most rate · limit.
        limit: where the relative error is clipped.

    Example:
        >>> round(adapted_weight(0.1, kl=12.0, target=6.0), 6)
        0.102
        >>> round(adapted_weight(0.1, kl=5.7, target=6.0), 6)
        0.0995
    """
    error = kl / target - 1
    clipped = min(max(error, -limit), limit)
    return weight * (1 + rate * clipped)
