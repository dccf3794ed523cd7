"""Likelihood of given outputs."""

from __future__ import annotations

from torch import Tensor


def masked_mean(values: Tensor, mask: Tensor) -> Tensor:
    """The mean of values where mask is true; 0 where it never is. Both [B, T].

    Example:
        >>> import torch
        >>> masked_mean(torch.tensor([[1.0, 3.0, 99.0]]), torch.tensor([[True, True, False]])).item()
        2.0
    """
    return values.where(mask, 0).sum() / mask.sum().clamp_min(1)


def nll_loss(log_prob: Tensor, mask: Tensor) -> Tensor:
    """The mean over steps of -log p(step).

    For tokens this is cross-entropy; for an encoded image, whose log-probability is -1/2 ·
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
    """Raise unless all tensors have the first one's shape. Broadcasting a loss by accident is a
    silent error.
    """
    wrong = [list(other.shape) for other in others if other.shape != first.shape]
    if wrong:
        raise ValueError(f"all arguments must have one shape; got {list(first.shape)} and {wrong}")
