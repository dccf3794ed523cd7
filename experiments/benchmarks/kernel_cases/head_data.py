"""A head's shapes, its operands, and the policy loss of its log-probabilities."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor

from kernel_cases.measuring import Run

SHAPES = {
    "S1": (8192, 4096, 128256),
    "S2": (8192, 2048, 128256),
    "S3": (8192, 896, 151936),
    "S4": (8192, 2304, 256000),
}
TINY = {"S1": (64, 32, 512), "S2": (64, 16, 512), "S3": (64, 24, 640), "S4": (64, 16, 1000)}


class Head(NamedTuple):
    """A head's operands, and a policy loss's: [N, D], [V, D], then [N] each; sequences are of
    `length` tokens.
    """

    hidden: Tensor
    weight: Tensor
    targets: Tensor
    old: Tensor
    anchor: Tensor
    gain: Tensor
    live: Tensor
    length: int


Score = Callable[
    [Tensor, Tensor, Tensor], tuple[Tensor, Tensor | None]
]  # hidden, weight, targets -> log p, entropy
Mean = Callable[[Tensor, Tensor, Tensor], Tensor]  # hidden, weight, targets -> the mean of -log p
Value = Callable[
    [Head, Tensor, Tensor], Tensor
]  # the head, its hidden and its weight as leaves -> a loss
Loss = Callable[
    [Tensor, Tensor | None, Tensor], Tensor
]  # log p and entropy of some rows, and which these are -> a loss


def sizes(run: Run, shape: str, rows: int | None = None) -> tuple[int, int, int]:
    """N, D and V of a shape, with at most `rows` rows."""
    count, width, words = (TINY if run.quick else SHAPES)[shape]
    return min(rows or count, count), width, words


def heads(run: Run, shape: str, rows: int | None = None) -> list[Head]:
    """As many as the caches cannot hold. Logits have standard deviation 3, targets are drawn by
    them, 40 % of rows are live.
    """
    count, width, words = sizes(run, shape, rows)
    length = max(1, count // 8)
    made = []
    for seed in range(run.copies(2 * width * (count + words))):
        random = torch.Generator(run.device).manual_seed(seed)
        draw = partial(torch.randn, generator=random, device=run.device)
        hidden = draw(count, width).bfloat16()
        weight = draw(words, width).mul_(3 / width**0.5).bfloat16()
        targets = []
        old = []
        for part in hidden.split(1024):
            log_prob = (part @ weight.T).float().log_softmax(1)
            targets.append(torch.multinomial(log_prob.exp(), 1, generator=random))
            old.append(log_prob.gather(1, targets[-1]))
        before = torch.cat(old)[:, 0] + 0.1 * draw(count)
        gain = draw(count // length).repeat_interleave(length)
        live = torch.rand(count, generator=random, device=run.device) < 0.4
        made.append(
            Head(
                hidden,
                weight,
                torch.cat(targets)[:, 0],
                before,
                before + 0.1 * draw(count),
                gain,
                live,
                length,
            )
        )
    return made


def policy_loss(head: Head, bonus: float, rows: Tensor | None = None) -> Loss:
    """PPO's clipped loss with k3 and an entropy bonus, a mean over `rows`, which are all by
    default.
    """
    count = len(head.old) if rows is None else len(rows)

    def loss(log_prob: Tensor, entropy: Tensor | None, rows: Tensor) -> Tensor:
        old = head.old[rows]
        gain = head.gain[rows]
        behind = head.anchor[rows] - log_prob
        ratio = (log_prob - old).exp()
        step = -torch.minimum(ratio * gain, ratio.clamp(0.8, 1.2) * gain) + 0.04 * (
            behind.exp() - 1 - behind
        )
        return (step if entropy is None else step - bonus * entropy).sum() / count

    return loss
