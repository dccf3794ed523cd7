"""Generalized advantages in one launch: a program walks back over its rows in blocks of steps.

Each block is an associative scan. Imported only when it runs.
"""

# mypy: disable-error-code="untyped-decorator,no-untyped-def"
from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from rewardlab.kernels.dispatch import on
from rewardlab.kernels.scan.triton import CONFIGURATIONS, block_for, dense_rows, join


def generalized_advantages(
    rewards: Tensor, values: Tensor, mask: Tensor, ends: Tensor | None, discount: float, lam: float
) -> tuple[Tensor, Tensor]:
    """Return (advantages, returns) of float32 rewards and values [B, T], T > 0.

    Steps where the mask is false are passed over.
    """
    rows, steps = rewards.shape
    rewards = dense_rows(rewards)
    values = dense_rows(values)
    counts = dense_rows(mask).view(torch.uint8)
    # without ends the pointer is never read
    last_steps = counts if ends is None else dense_rows(ends).view(torch.uint8)
    advantages = torch.empty((rows, steps), dtype=torch.float32, device=rewards.device)
    returns = torch.empty((rows, steps), dtype=torch.float32, device=rewards.device)
    block = block_for(steps)
    configuration = CONFIGURATIONS[block]
    with on(rewards.device):
        advantages_kernel[(triton.cdiv(rows, configuration.rows),)](
            rewards,
            values,
            counts,
            last_steps,
            advantages,
            returns,
            rows,
            steps,
            rewards.stride(0),
            values.stride(0),
            counts.stride(0),
            last_steps.stride(0),
            discount * lam,
            discount * (1 - lam),
            ENDS=ends is not None,
            ROWS=configuration.rows,
            BLOCK=block,
            num_warps=configuration.warps,
        )
    return advantages, returns


@triton.jit
def _offsets(row, stride, step):
    """Return where the steps of rows are."""
    return (row * stride)[:, None] + step[None, :]


@triton.jit
def advantages_kernel(
    Rewards,
    Values,
    Mask,
    Ends,
    Advantages,
    Returns,
    rows,
    steps,
    reward_stride,
    value_stride,
    mask_stride,
    end_stride,
    decay,
    share,
    ENDS: tl.constexpr,
    ROWS: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """Write both results of each row, from its last step to the first.

    The scan at a step is of the steps behind it.
    """
    program = tl.program_id(0).to(tl.int64)
    row = program * ROWS + tl.arange(0, ROWS)
    offset = tl.arange(0, BLOCK)
    carried = tl.zeros((ROWS,), tl.float32)
    for start in range(0, steps, BLOCK):
        order = start + offset  # 0 is the last step, which is taken first
        step = steps - 1 - order
        inside = (row < rows)[:, None] & (order < steps)[None, :]
        reward_at = _offsets(row, reward_stride, step)
        value_at = _offsets(row, value_stride, step)
        mask_at = _offsets(row, mask_stride, step)
        follows = inside & (order > 0)[None, :]
        next_counts = tl.load(Mask + mask_at + 1, mask=follows, other=0) != 0
        next_reward = tl.load(Rewards + reward_at + 1, mask=next_counts, other=0.0)
        owed = decay * next_reward
        next_value = tl.load(Values + value_at + 1, mask=next_counts, other=0.0)
        owed += share * next_value
        factor = tl.where(next_counts, decay, 1.0)
        if ENDS:
            end_at = _offsets(row, end_stride, step)
            next_ends = tl.load(Ends + end_at + 1, mask=next_counts, other=0) != 0
            factor = tl.where(next_ends, 0.0, factor)
        product, total = tl.associative_scan((factor, owed), 1, join)
        total += product * carried[:, None]
        counts = tl.load(Mask + mask_at, mask=inside, other=0) != 0
        goes_on = counts
        if ENDS:
            unended = tl.load(Ends + end_at, mask=counts, other=1) == 0
            goes_on = counts & unended
        reward = tl.load(Rewards + reward_at, mask=counts, other=0.0)
        returned = reward + tl.where(goes_on, total, 0.0)
        value = tl.load(Values + value_at, mask=counts, other=0.0)
        result_at = _offsets(row, steps, step)
        tl.store(Advantages + result_at, returned - value, mask=inside)
        tl.store(Returns + result_at, returned, mask=inside)
        last = (offset == BLOCK - 1)[None, :]
        carried = tl.sum(tl.where(last, total, 0.0), 1)
