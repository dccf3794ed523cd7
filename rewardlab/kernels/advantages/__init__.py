"""Generalised advantages over steps of which some do not count."""

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
    """A_t = Σ_k (γλ)^k · δ_(t+k), δ_t = r_t + γ·V_(t+1) - V_t, over the steps that count. GAE,
    arXiv 1506.02438, equation 16.

    One sum over time is enough. The return R = A + V is R_t = r_t + C_(t+1), where C_t, what the
    step before is owed, is γ(1-λ)·V_t + γλ·(r_t + C_(t+1)); at a step that does not count C_t =
    C_(t+1). So no step has to look for the next one that counts. Differentiable, as often as is
    wanted: the gradient is the same sum forwards.

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
        >>> rewards, values, mask = torch.tensor([[0.0, 9.0, 1.0]]), torch.zeros(1, 3), torch.tensor([[True, False, True]])
        >>> generalized_advantages(rewards, values, mask, discount=1.0, lam=0.5)[0].tolist()
        [[0.5, 0.0, 1.0]]
    """
    _check(rewards, values, mask, ends)
    kind = torch.promote_types(torch.promote_types(rewards.dtype, values.dtype), torch.float32)
    found = torch.ops.rewardlab.generalized_advantages(
        rewards.to(kind), values.to(kind), mask, ends, float(discount), float(lam), backend or ""
    )
    return found[0], found[1]


def hindrances(rewards: Tensor, values: Tensor, *_: object, **__: object) -> dict[str, str]:
    """Why each backend cannot run; an empty string for one that can. In order of preference."""
    double = torch.float64 in (rewards.dtype, values.dtype)
    why = "the operands are float64, and the kernel's sums are float32" if double else ""
    return {
        "triton": dispatch.triton_hindrance(rewards.device) or why,
        "torch": "",
        "reference": "",
    }


_OPERANDS = "Tensor rewards, Tensor values, Tensor mask, Tensor? ends, float discount, float lam, str backend"


@operator("generalized_advantages", f"({_OPERANDS}) -> (Tensor, Tensor)")
def _op(
    rewards: Tensor,
    values: Tensor,
    mask: Tensor,
    ends: Tensor | None,
    discount: float,
    lam: float,
    backend: str,
) -> tuple[Tensor, Tensor]:
    chosen = dispatch.chosen("generalized_advantages", hindrances(rewards, values), backend or None)  # type: ignore[arg-type]
    if not rewards.numel():
        return rewards.new_empty(rewards.shape), rewards.new_empty(rewards.shape)
    if chosen == "triton":
        from rewardlab.kernels.advantages import triton

        return triton.generalized_advantages(rewards, values, mask, ends, discount, lam)
    if chosen == "reference":
        return reference(rewards, values, mask, discount, lam, ends)
    rewards = rewards.where(mask, 0)
    values = values.where(mask, 0)
    owed = (discount * (1 - lam)) * values + (discount * lam) * rewards
    following = pad(
        discounted_sum(owed, _decays(mask, ends, discount * lam, rewards.dtype), backend="torch")[
            :, 1:
        ],
        (0, 1),
    )
    returns = (rewards + _unended(following, ends)).where(mask, 0)
    return returns - values, returns


def _decays(mask: Tensor, ends: Tensor | None, decay: float, kind: torch.dtype) -> Tensor:
    """What each step keeps of what comes after it: all where it does not count, nothing at the end
    of an episode.
    """
    kept = torch.ones(mask.shape, dtype=kind, device=mask.device).masked_fill_(mask, decay)
    return kept if ends is None else kept.masked_fill_(mask & ends, 0)


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
    """With g = ∂R + ∂A, what is owed at t + 1 gets g_t; each x_t the sum of that from the first
    step on.
    """
    (mask, ends), (discount, lam, backend) = ctx.saved_tensors, ctx.options
    of_return = (of_advantages + of_returns).where(mask, 0)
    later = pad(_unended(of_return, ends)[:, :-1], (1, 0))
    decays = _decays(mask, ends, discount * lam, of_return.dtype)
    scan = "" if backend == "triton" else backend
    owed = torch.ops.rewardlab.discounted_sum(later, decays, 0.0, True, scan).where(mask, 0)
    of_values = (discount * (1 - lam)) * owed - of_advantages.where(mask, 0)
    return of_return + (discount * lam) * owed, of_values, None, None, None, None, None


torch.library.register_autograd(
    "rewardlab::generalized_advantages", _backward, setup_context=_setup_context
)
for _device in ("cpu", "cuda"):
    torch.library.register_autocast("rewardlab::generalized_advantages", _device, torch.float32)


def _check(rewards: Tensor, values: Tensor, mask: Tensor, ends: Tensor | None) -> None:
    given = [rewards, values, mask, *([] if ends is None else [ends])]
    flags = [mask, *([] if ends is None else [ends])]
    typed = (
        rewards.is_floating_point()
        and values.is_floating_point()
        and all(each.dtype == torch.bool for each in flags)
    )
    same = all(each.shape == rewards.shape and each.device == rewards.device for each in given)
    if rewards.dim() != 2 or not typed or not same:
        said = ", ".join(f"{each.dtype} {list(each.shape)} on {each.device}" for each in given)
        raise InputError(
            "generalized_advantages takes floating-point rewards and values [B, T] and a bool mask and ends [B, T] on one "
            f"device; got {said}. A reward of a whole output stands at its last step that counts."
        )
