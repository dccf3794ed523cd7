"""What is timed of a head: calls that take its operands in turns, and ours, to be called so."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from kernel_cases.head_data import Head, Score, Value, policy_loss
from kernel_cases.measuring import Call
from rewardlab.kernels import linear_log_prob, linear_loss


def matrix_product(made: list[Head], kind: torch.dtype | None = None) -> Call:
    """The floor: hidden · weightᵀ by the library, with a bfloat16 or a float32 result."""
    options = {} if kind is None else {"out_dtype": kind}

    def call(turn: int) -> dict[str, Tensor]:
        head = made[turn % len(made)]
        torch.mm(head.hidden, head.weight.T, **options)
        return {}

    return call


def scored(made: list[Head], score: Score) -> Call:
    """Log-probabilities alone."""

    @torch.no_grad()
    def call(turn: int) -> dict[str, Tensor]:
        head = made[turn % len(made)]
        return {"log_prob": score(head.hidden, head.weight, head.targets)[0]}

    return call


def gradients(made: list[Head], value: Value) -> Call:
    """A loss, forward and backward."""

    def call(turn: int) -> dict[str, Tensor]:
        head = made[turn % len(made)]
        both = _leaves(head)
        return dict(
            zip(("hidden", "weight"), torch.autograd.grad(value(head, *both), both), strict=True)
        )

    return call


def backwards(made: list[Head], score: Score, a: Tensor) -> Call:
    """The backward pass of log-probabilities alone, from a gradient of each."""
    graphs = []
    for head in made:
        both = _leaves(head)
        graphs.append((both, score(*both, head.targets)[0]))

    def call(turn: int) -> dict[str, Tensor]:
        both, log_prob = graphs[turn % len(graphs)]
        found = torch.autograd.grad(log_prob, both, a.to(log_prob.dtype), retain_graph=True)
        return dict(zip(("hidden", "weight"), found, strict=True))

    return call


def _leaves(head: Head) -> list[Tensor]:
    return [head.hidden.detach().requires_grad_(), head.weight.detach().requires_grad_()]


def ours(entropy: bool, **options: Any) -> Score:
    def score(hidden: Tensor, weight: Tensor, targets: Tensor) -> tuple[Tensor, Tensor | None]:
        found = linear_log_prob(hidden, weight, targets, entropy=entropy, **options)
        return found.log_prob, found.entropy

    return score


def our_mean(hidden: Tensor, weight: Tensor, targets: Tensor) -> Tensor:
    """Our cross-entropy, with its gradient taken in the forward pass."""
    return linear_loss(
        hidden, weight, targets, lambda log_prob, *_: -log_prob.sum() / len(targets)
    )[0]


def our_policy(bonus: float, masked: bool = False) -> Value:
    """Our policy loss, with its gradient taken in the forward pass."""

    def value(head: Head, hidden: Tensor, weight: Tensor) -> Tensor:
        mask = head.live if masked else None
        loss = policy_loss(head, bonus, head.live.nonzero()[:, 0] if masked else None)
        return linear_loss(hidden, weight, head.targets, loss, mask=mask, entropy=bonus > 0)[0]

    return value


def policy_of(score: Score, bonus: float, masked: bool = False) -> Value:
    """The policy loss of a score's log-probabilities and entropies."""

    def value(head: Head, hidden: Tensor, weight: Tensor) -> Tensor:
        log_prob, entropy = score(hidden, weight, head.targets)
        rows = (
            head.live.nonzero()[:, 0]
            if masked
            else torch.arange(len(log_prob), device=log_prob.device)
        )
        of_rows = entropy[rows] if entropy is not None and bonus else None
        return policy_loss(head, bonus, rows)(log_prob[rows], of_rows, rows)

    return value
