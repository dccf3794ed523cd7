"""Losses that regress a denoiser's output on clean samples, weighted by their advantages.

Outputs, targets and references are float32 [B, D, ...]: D noisings of each of B samples, in the
network's own units. Both losses are affine in them with weights that add up to 1, so for ε- and
x0-prediction they are the velocity's, but for a weight of each noise level.
"""

from __future__ import annotations

from torch import Tensor


def ram_loss(output: Tensor, reference: Tensor, target: Tensor, advantages: Tensor) -> Tensor:
    """Return the loss of reward-weighted velocity matching, a scalar.

    RAM, arXiv 2605.10759: the mean of ‖v - sg(v_ref + a·(u - v))‖² over samples, noisings and
    dimensions. At its fixed point v - v_ref is the covariance of a and u at x_t. For a Gaussian and
    a linear reward that is the exact tilt of the reference by exp(a).

    Args:
        output: v, with a gradient.
        reference: v_ref, of the frozen reference.
        target: u, what a perfect network would say of the sample.
        advantages: a, float32 [B], in units of the reward's weight against the KL.

    Example:
        >>> import torch
        >>> one = torch.ones(1, 1, 2)
        >>> ram_loss(one, 0 * one, 3 * one, torch.tensor([0.5])).item()
        0.0
    """
    weights = _per_row(advantages, output)
    goal = reference + weights * (target - output)
    return (output - goal.detach()).square().mean()


def nft_loss(
    output: Tensor, old: Tensor, target: Tensor, advantages: Tensor, beta: float
) -> Tensor:
    """Return the loss of negative-aware fine-tuning, a scalar.

    DiffusionNFT, arXiv 2509.16117, equation 8: w·‖(1-β)·v_old + β·v - u‖² plus
    (1-w)·‖(1+β)·v_old - β·v - u‖², where w = ½ + ½·clip(a, -1, 1). Good samples pull v towards
    them, bad ones push it away from where v_old would go.

    Args:
        output: v, with a gradient.
        old: v_old, of the policy that drew the samples, or of an average of the weights.
        target: u, what a perfect network would say of the sample.
        advantages: a, float32 [B]; 1 is as good as counts.
        beta: β, above 0; smaller values make larger steps from v_old.

    Example:
        >>> import torch
        >>> one = torch.ones(1, 1, 2)
        >>> nft_loss(one, 0 * one, one, torch.tensor([1.0]), beta=1.0).item()
        0.0
    """
    weights = _per_row(0.5 + 0.5 * advantages.clamp(-1, 1), output)
    towards = old + beta * (output - old)
    away = old - beta * (output - old)
    pulled = (towards - target).square()
    pushed = (away - target).square()
    return (weights * pulled + (1 - weights) * pushed).mean()


def norm_ratios(velocity: Tensor, reference: Tensor) -> Tensor:
    """Return ‖v‖/‖v_ref‖ of each noising, float32 [B, D].

    NormGuard, arXiv 2606.27771: it grows when a generator is over-optimized.

    Args:
        velocity: [B, D, ...], in units that may differ between noisings.
        reference: the reference's, in the same units.

    Example:
        >>> import torch
        >>> norm_ratios(2 * torch.ones(1, 1, 4), torch.ones(1, 1, 4)).item()
        2.0
    """
    norms: Tensor = velocity.flatten(2).norm(dim=2)
    reference_norms: Tensor = reference.flatten(2).norm(dim=2)
    return ratios_of_norms(norms, reference_norms)


def ratios_of_norms(norms: Tensor, reference_norms: Tensor) -> Tensor:
    """Return the ratios of norms, where those of the reference may be 0.

    Example:
        >>> import torch
        >>> ratios_of_norms(torch.tensor([3.0]), torch.tensor([2.0])).item()
        1.5
    """
    return norms / reference_norms.clamp_min(1e-12)


def norm_hinge(ratios: Tensor) -> Tensor:
    """Return the mean of relu(ratio - 1)², a scalar (NormGuard, arXiv 2606.27771).

    Example:
        >>> import torch
        >>> norm_hinge(torch.tensor([[0.5, 1.5]])).item()
        0.125
    """
    return (ratios - 1).relu().square().mean()


def _per_row(values: Tensor, like: Tensor) -> Tensor:
    """Return values [B] with further dimensions of size 1, to multiply `like` with."""
    return values.to(like).view(-1, *[1] * (like.dim() - 1))
