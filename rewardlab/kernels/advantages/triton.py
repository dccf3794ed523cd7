"""Generalised advantages in one launch: a program walks back over its rows in blocks of steps, each
an associative scan.

Imported only when it runs.
"""

# mypy: disable-error-code="untyped-decorator,no-untyped-def"
from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from rewardlab.kernels.dispatch import on
from rewardlab.kernels.scan.triton import CONFIGURATIONS, _then


def generalized_advantages(
    rewards: Tensor, values: Tensor, mask: Tensor, ends: Tensor | None, discount: float, lam: float
) -> tuple[Tensor, Tensor]:
    """Return (advantages, returns) of float32 rewards and values [B, T], T > 0, over the steps that
    count.
    """
    some = mask if ends is None else ends  # a pointer that is never read, where there are none
    rewards, values, mask, some = (
        x if x.stride(1) == 1 else x.contiguous() for x in (rewards, values, mask, some)
    )
    rows, steps = rewards.shape
    advantages, returns = (
        torch.empty((rows, steps), dtype=torch.float32, device=rewards.device) for _ in range(2)
    )
    block = next((size for size in CONFIGURATIONS if size >= steps), max(CONFIGURATIONS))
    row_block, warps = CONFIGURATIONS[block]
    with on(rewards.device):
        advantages_kernel[(triton.cdiv(rows, row_block),)](
            rewards, values, mask.view(torch.uint8), some.view(torch.uint8), advantages, returns, rows, steps,
            rewards.stride(0), values.stride(0), mask.stride(0), some.stride(0), discount * lam, discount * (1 - lam),
            ENDS=ends is not None, ROWS=row_block, BLOCK=block, num_warps=warps,
        )  # fmt: skip
    return advantages, returns


@triton.jit
def advantages_kernel(
    Rewards, Values, Mask, Ends, Advantages, Returns, rows, steps, reward_stride, value_stride, mask_stride, end_stride,
    decay, share, ENDS: tl.constexpr, ROWS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Both results of each row, from its last step to the first. The scan at a step is of the steps
    behind it.
    """
    row = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    place = tl.arange(0, BLOCK)
    carried = tl.zeros((ROWS,), tl.float32)
    for start in range(0, steps, BLOCK):
        order = start + place  # 0 is the last step, which is taken first
        step = steps - 1 - order
        inside = (row < rows)[:, None] & (order < steps)[None, :]
        reward_at = (row * reward_stride)[:, None] + step[None, :]
        value_at = (row * value_stride)[:, None] + step[None, :]
        mask_at = (row * mask_stride)[:, None] + step[None, :]
        behind = tl.load(Mask + mask_at + 1, mask=inside & (order > 0)[None, :], other=0) != 0
        owed = decay * tl.load(Rewards + reward_at + 1, mask=behind, other=0.0)
        owed += share * tl.load(Values + value_at + 1, mask=behind, other=0.0)
        kept = tl.where(behind, decay, 1.0)
        if ENDS:
            end_at = (row * end_stride)[:, None] + step[None, :]
            kept = tl.where(tl.load(Ends + end_at + 1, mask=behind, other=0) != 0, 0.0, kept)
        product, total = tl.associative_scan((kept, owed), 1, _then)
        total += product * carried[:, None]
        counts = tl.load(Mask + mask_at, mask=inside, other=0) != 0
        follows = counts
        if ENDS:
            follows = counts & (tl.load(Ends + end_at, mask=counts, other=1) == 0)
        returned = tl.load(Rewards + reward_at, mask=counts, other=0.0) + tl.where(
            follows, total, 0.0
        )
        value = tl.load(Values + value_at, mask=counts, other=0.0)
        result_at = (row * steps)[:, None] + step[None, :]
        tl.store(Advantages + result_at, returned - value, mask=inside)
        tl.store(Returns + result_at, returned, mask=inside)
        carried = tl.sum(tl.where((place == BLOCK - 1)[None, :], total, 0.0), 1)
