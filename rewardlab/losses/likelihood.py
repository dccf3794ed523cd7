"""Likelihood of given outputs, and the means that the losses take."""

from __future__ import annotations

from torch import Tensor


def masked_mean(values: Tensor, mask: Tensor) -> Tensor:
    """Return the mean of values where the mask is true, 0 where it never is. Both [B, T].

    Example:
        >>> import torch
        >>> mask = torch.tensor([[True, True, False]])
        >>> masked_mean(torch.tensor([[1.0, 3.0, 99.0]]), mask).item()
        2.0
    """
    total = values.where(mask, 0).sum()
    count = mask.sum()
    return total / count.clamp_min(1)


def weighted_mean(losses: Tensor, weights: Tensor | None) -> Tensor:
    """Return the mean of the losses by weights of their shape; the plain mean by default.

    Example:
        >>> import torch
        >>> weighted_mean(torch.tensor([1.0, 3.0]), torch.tensor([0.0, 2.0])).item()
        3.0
    """
    if weights is None:
        return losses.mean()
    check_shapes(losses, weights)
    total = (losses * weights).sum()
    weight = weights.sum()
    return total / weight.clamp_min(1e-8)


def nll_loss(log_prob: Tensor, mask: Tensor) -> Tensor:
    """Return the mean over steps of -log p(step).

    For tokens this is cross-entropy. For an encoded image, whose log-probability is -1/2 ·
    mean((target - f)²), it is half the denoising loss (DDPM, arXiv 2006.11239, equation 14).

    Args:
        log_prob: [B, T].
        mask: bool [B, T], true where a step counts.

    Returns:
        A scalar, float32.

    Example:
        >>> import torch
        >>> nll_loss(torch.tensor([[-1.0, -2.0]]), torch.tensor([[True, True]])).item()
        1.5
    """
    check_shapes(log_prob, mask)
    return -masked_mean(log_prob.float(), mask)


def check_shapes(first: Tensor, *others: Tensor) -> None:
    """Raise ValueError unless all tensors have the first one's shape.

    Broadcasting a loss by accident is a silent error.
    """
    wrong = [list(other.shape) for other in others if other.shape != first.shape]
    if wrong:
        raise ValueError(f"all arguments must have one shape; got {list(first.shape)} and {wrong}")
