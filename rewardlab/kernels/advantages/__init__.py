"""Generalized advantages over steps of which some do not count."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import pad

from rewardlab.errors import InputError
from rewardlab.kernels import dispatch
from rewardlab.kernels.advantages.reference import reference
from rewardlab.kernels.operators import operator
from rewardlab.kernels.scan import discounted_sum

__all__ = ["generalized_advantages", "hindrances"]


def generalized_advantages(
    rewards: Tensor,
    values: Tensor,
    mask: Tensor,
    *,
    discount: float,
    lam: float,
    ends: Tensor | None = None,
    backend: dispatch.Backend | None = None,
) -> tuple[Tensor, Tensor]:
    """Return A_t = Σ_k (γλ)^k · δ_(t+k), δ_t = r_t + γ·V_(t+1) - V_t, and the returns A_t + V_t.

    Generalized advantage estimation, arXiv 1506.02438, equation 16, over the steps that count. One
    sum over time is enough. The return R = A + V is R_t = r_t + C_(t+1), where C_t, what the step
    before is owed, is γ(1-λ)·V_t + γλ·(r_t + C_(t+1)). At a step that does not count C_t = C_(t+1).
    So no step has to look for the next one that counts. It is differentiable any number of times;
    the gradient is the same sum forwards.

    Args:
        rewards: r [B, T]; half precision is summed in float32.
        values: V [B, T], before each step.
        mask: bool [B, T]; where it is false nothing is read.
        discount: γ.
        lam: λ.
        ends: bool [B, T], true at the last step of an episode, where a row holds several: nothing
            of the next one flows back.
        backend: "triton" (one launch, on CUDA), "torch" (`discounted_sum`'s blocks, on any device)
            or "reference" (the loop); by default the first of them that can run.

    Returns:
        (advantages, returns) [B, T], float32 (float64 for float64), 0 where the mask is false.

    Raises:
        InputError: if shapes, types or devices disagree, or the backend cannot run.

    Example:
        >>> rewards, values = torch.tensor([[0.0, 9.0, 1.0]]), torch.zeros(1, 3)
        >>> mask = torch.tensor([[True, False, True]])
        >>> generalized_advantages(rewards, values, mask, discount=1.0, lam=0.5)[0].tolist()
        [[0.5, 0.0, 1.0]]
    """
    _check(rewards, values, mask, ends)
    operand_type = torch.promote_types(rewards.dtype, values.dtype)
    sum_type = torch.promote_types(operand_type, torch.float32)
    advantages, returns = torch.ops.rewardlab.generalized_advantages(
        rewards.to(sum_type),
        values.to(sum_type),
        mask,
        ends,
        float(discount),
        float(lam),
        backend or "",
    )
    return advantages, returns


def hindrances(rewards: Tensor, values: Tensor, *_: object, **__: object) -> dict[str, str]:
    """Return why each backend cannot run, an empty string for one that can.

    The backends are in order of preference.
    """
    triton = dispatch.triton_hindrance(rewards.device)
    if not triton and torch.float64 in (rewards.dtype, values.dtype):
        triton = "the operands are float64, and the kernel's sums are float32"
    return {"triton": triton, "torch": "", "reference": ""}


_OPERANDS = "Tensor rewards, Tensor values, Tensor mask, Tensor? ends"
_SETTINGS = "float discount, float lam, str backend"


@operator("generalized_advantages", f"({_OPERANDS}, {_SETTINGS}) -> (Tensor, Tensor)")
def _op(
    rewards: Tensor,
    values: Tensor,
    mask: Tensor,
    ends: Tensor | None,
    discount: float,
    lam: float,
    backend: str,
) -> tuple[Tensor, Tensor]:
    reasons = hindrances(rewards, values)
    name = dispatch.chosen("generalized_advantages", reasons, backend or None)
    if not rewards.numel():
        return rewards.new_empty(rewards.shape), rewards.new_empty(rewards.shape)
    if name == "triton":
        from rewardlab.kernels.advantages import triton

        return triton.generalized_advantages(rewards, values, mask, ends, discount, lam)
    if name == "reference":
        return reference(rewards, values, mask, discount, lam, ends)
    return _by_scan(rewards, values, mask, ends, discount, lam)


def _by_scan(
    rewards: Tensor, values: Tensor, mask: Tensor, ends: Tensor | None, discount: float, lam: float
) -> tuple[Tensor, Tensor]:
    """Return (advantages, returns) by one `discounted_sum` of what each step before is owed."""
    rewards = rewards.where(mask, 0)
    values = values.where(mask, 0)
    decay = discount * lam
    share = discount * (1 - lam)
    owed = share * values + decay * rewards
    decays = _decays(mask, ends, decay, rewards.dtype)
    sums = discounted_sum(owed, decays, backend="torch")
    following = pad(sums[:, 1:], (0, 1))
    returns = rewards + _unended(following, ends)
    returns = returns.where(mask, 0)
    return returns - values, returns


def _decays(mask: Tensor, ends: Tensor | None, decay: float, dtype: torch.dtype) -> Tensor:
    """Return the share of what comes after it that each step keeps.

    It is 1 at a step that does not count, and 0 at the end of an episode.
    """
    decays = torch.ones(mask.shape, dtype=dtype, device=mask.device)
    decays.masked_fill_(mask, decay)
    if ends is not None:
        decays.masked_fill_(mask & ends, 0)
    return decays


def _unended(following: Tensor, ends: Tensor | None) -> Tensor:
    return following if ends is None else following.masked_fill(ends, 0)


@torch.library.register_fake("rewardlab::generalized_advantages")
def _(
    rewards: Tensor,
    values: Tensor,
    mask: Tensor,
    ends: Tensor | None,
    discount: float,
    lam: float,
    backend: str,
) -> tuple[Tensor, Tensor]:
    return rewards.new_empty(rewards.shape), rewards.new_empty(rewards.shape)


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    _, _, mask, ends, *ctx.options = inputs
    ctx.save_for_backward(mask, ends)


def _backward(ctx: Any, of_advantages: Tensor, of_returns: Tensor) -> tuple[Tensor | None, ...]:
    """Return the gradients of rewards and values.

    With g = ∂R + ∂A, what is owed at t + 1 gets g_t. Each x_t gets the sum of that from the first
    step on.
    """
    mask, ends = ctx.saved_tensors
    discount, lam, backend = ctx.options
    decay = discount * lam
    share = discount * (1 - lam)
    of_return = of_advantages + of_returns
    of_return = of_return.where(mask, 0)
    unended = _unended(of_return, ends)
    later = pad(unended[:, :-1], (1, 0))
    decays = _decays(mask, ends, decay, of_return.dtype)
    scan_backend = "" if backend == "triton" else backend
    sums = torch.ops.rewardlab.discounted_sum(later, decays, 0.0, True, scan_backend)
    owed = sums.where(mask, 0)
    of_rewards = of_return + decay * owed
    of_values = share * owed - of_advantages.where(mask, 0)
    return of_rewards, of_values, None, None, None, None, None


torch.library.register_autograd(
    "rewardlab::generalized_advantages", _backward, setup_context=_setup_context
)
for _device in ("cpu", "cuda"):
    torch.library.register_autocast("rewardlab::generalized_advantages", _device, torch.float32)


def _check(rewards: Tensor, values: Tensor, mask: Tensor, ends: Tensor | None) -> None:
    operands = [rewards, values, mask]
    if ends is not None:
        operands.append(ends)
    fits = rewards.dim() == 2 and rewards.is_floating_point() and values.is_floating_point()
    descriptions = []
    for operand in operands:
        fits = fits and operand.shape == rewards.shape and operand.device == rewards.device
        descriptions.append(f"{operand.dtype} {list(operand.shape)} on {operand.device}")
    for flag in operands[2:]:
        fits = fits and flag.dtype == torch.bool
    if fits:
        return
    raise InputError(
        "generalized_advantages takes floating-point rewards and values [B, T] "
        "and a bool mask and ends [B, T] on one device; "
        f"got {', '.join(descriptions)}. "
        "A reward of a whole output stands at its last step that counts."
    )
