"""A head's shapes, its operands, and the policy loss of its log-probabilities."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor

from kernel_cases.measuring import Run


class Size(NamedTuple):
    """N rows, D, and V tokens of the vocabulary."""

    rows: int
    width: int
    vocabulary: int


SIZES = {
    "S1": Size(8192, 4096, 128256),
    "S2": Size(8192, 2048, 128256),
    "S3": Size(8192, 896, 151936),
    "S4": Size(8192, 2304, 256000),
}
TINY = {
    "S1": Size(64, 32, 512),
    "S2": Size(64, 16, 512),
    "S3": Size(64, 24, 640),
    "S4": Size(64, 16, 1000),
}


class Head(NamedTuple):
    """A head's operands, and a policy loss's: [N, D], [V, D], then [N] each.

    Attributes:
        hidden: [N, D].
        weight: [V, D].
        targets: int64 [N].
        old: log-probabilities under the policy that sampled.
        anchor: log-probabilities under the reference.
        gain: advantages.
        live: bool, the rows that count.
        length: tokens of a sequence.
    """

    hidden: Tensor
    weight: Tensor
    targets: Tensor
    old: Tensor
    anchor: Tensor
    gain: Tensor
    live: Tensor
    length: int


Scores = tuple[Tensor, Tensor | None]  # log p, entropy
# hidden, weight, targets -> scores
Score = Callable[[Tensor, Tensor, Tensor], Scores]
# hidden, weight, targets -> the mean of -log p
Mean = Callable[[Tensor, Tensor, Tensor], Tensor]
# the head, its hidden and its weight as leaves -> a loss
Value = Callable[[Head, Tensor, Tensor], Tensor]
# log p and entropy of some rows, and which these are -> a loss
Loss = Callable[[Tensor, Tensor | None, Tensor], Tensor]


def size_of(run: Run, shape: str, rows: int | None = None) -> Size:
    """Return the size of a shape, with at most `rows` rows."""
    size = TINY[shape] if run.quick else SIZES[shape]
    if rows is None:
        return size
    return size._replace(rows=min(rows, size.rows))


def shape_label(run: Run, shape: str, rows: int | None = None) -> str:
    """Return a shape's name and size, as they stand in a row."""
    size = size_of(run, shape, rows)
    return f"{shape} {size.rows}x{size.width}x{size.vocabulary}"


def heads(run: Run, shape: str, rows: int | None = None) -> list[Head]:
    """Return as many heads as the caches cannot hold.

    Logits have standard deviation 3, targets are drawn by them, and 40 % of the rows are live.
    """
    size = size_of(run, shape, rows)
    count = run.copies(2 * size.width * (size.rows + size.vocabulary))
    return [_head(run, size, seed) for seed in range(count)]


def _head(run: Run, size: Size, seed: int) -> Head:
    random = torch.Generator(run.device).manual_seed(seed)
    draw = partial(torch.randn, generator=random, device=run.device)
    length = max(1, size.rows // 8)
    hidden = draw(size.rows, size.width).bfloat16()
    scale = 3 / size.width**0.5
    weight = draw(size.vocabulary, size.width).mul_(scale).bfloat16()
    sampled = _sampled(hidden, weight, random)
    old = sampled.log_prob + 0.1 * draw(size.rows)
    gain = draw(size.rows // length)
    chances = torch.rand(size.rows, generator=random, device=run.device)
    live = chances < 0.4
    return Head(
        hidden=hidden,
        weight=weight,
        targets=sampled.targets,
        old=old,
        anchor=old + 0.1 * draw(size.rows),
        gain=gain.repeat_interleave(length),
        live=live,
        length=length,
    )


class _Sampled(NamedTuple):
    """Targets drawn by a head, and their log-probabilities, [N] each."""

    targets: Tensor
    log_prob: Tensor


def _sampled(hidden: Tensor, weight: Tensor, random: torch.Generator) -> _Sampled:
    targets = []
    log_prob = []
    for part in hidden.split(1024):
        logits = part @ weight.T
        log_probs = logits.float().log_softmax(1)
        probabilities = log_probs.exp()
        columns = torch.multinomial(probabilities, 1, generator=random)
        targets.append(columns[:, 0])
        log_prob.append(log_probs.gather(1, columns)[:, 0])
    return _Sampled(torch.cat(targets), torch.cat(log_prob))


def policy_loss(head: Head, bonus: float, rows: Tensor | None = None) -> Loss:
    """Return PPO's clipped loss with k3 and an entropy bonus.

    It is a mean over `rows`, which are all by default.
    """
    count = len(head.old) if rows is None else len(rows)

    def loss(log_prob: Tensor, entropy: Tensor | None, rows: Tensor) -> Tensor:
        old = head.old[rows]
        gain = head.gain[rows]
        behind = head.anchor[rows] - log_prob
        ratio = (log_prob - old).exp()
        free = ratio * gain
        held = ratio.clamp(0.8, 1.2) * gain
        clipped = torch.minimum(free, held)
        k3 = behind.exp() - 1 - behind
        losses = -clipped + 0.04 * k3
        if entropy is not None:
            losses = losses - bonus * entropy
        return losses.sum() / count

    return loss
