"""What is timed of a head: calls that take its operands in turns, and ours, to be called so."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from kernel_cases.head_data import Head, Mean, Score, Scores, Value, policy_loss
from kernel_cases.measuring import Call, Result, in_turn
from rewardlab.kernels import linear_log_prob, linear_loss


class _Leaves(NamedTuple):
    """A head's hidden and weight, which need a gradient."""

    hidden: Tensor
    weight: Tensor


class _Graph(NamedTuple):
    """Log-probabilities, and the leaves that they depend on."""

    leaves: _Leaves
    log_prob: Tensor


def matrix_product(batches: list[Head], dtype: torch.dtype | None = None) -> Call:
    """Return the floor: hidden · weightᵀ by the library, with a bfloat16 or a float32 result."""
    options = {} if dtype is None else {"out_dtype": dtype}

    def multiply(head: Head) -> Result:
        torch.mm(head.hidden, head.weight.T, **options)
        return {}

    return in_turn(batches, multiply)


def scored(batches: list[Head], score: Score) -> Call:
    """Return a call for the log-probabilities alone."""

    @torch.no_grad()
    def log_prob_of(head: Head) -> Result:
        return {"log_prob": score(head.hidden, head.weight, head.targets)[0]}

    return in_turn(batches, log_prob_of)


def gradients(batches: list[Head], value: Value) -> Call:
    """Return a call of a loss, forward and backward."""

    def gradients_of(head: Head) -> Result:
        leaves = _leaves(head)
        loss = value(head, leaves.hidden, leaves.weight)
        results = torch.autograd.grad(loss, leaves)
        return {"hidden": results[0], "weight": results[1]}

    return in_turn(batches, gradients_of)


def backwards(batches: list[Head], score: Score, a: Tensor) -> Call:
    """Return a call of the backward pass of log-probabilities alone, from a gradient of each."""
    graphs = []
    for head in batches:
        leaves = _leaves(head)
        log_prob = score(leaves.hidden, leaves.weight, head.targets)[0]
        graphs.append(_Graph(leaves, log_prob))

    def gradients_of(graph: _Graph) -> Result:
        upstream = a.to(graph.log_prob.dtype)
        results = torch.autograd.grad(graph.log_prob, graph.leaves, upstream, retain_graph=True)
        return {"hidden": results[0], "weight": results[1]}

    return in_turn(graphs, gradients_of)


def _leaves(head: Head) -> _Leaves:
    hidden = head.hidden.detach().requires_grad_()
    weight = head.weight.detach().requires_grad_()
    return _Leaves(hidden, weight)


def ours(entropy: bool, **options: Any) -> Score:
    """Return our score."""

    def score(hidden: Tensor, weight: Tensor, targets: Tensor) -> Scores:
        results = linear_log_prob(hidden, weight, targets, entropy=entropy, **options)
        return results.log_prob, results.entropy

    return score


def our_mean() -> Mean:
    """Return our cross-entropy, with its gradient taken in the forward pass."""

    def mean(hidden: Tensor, weight: Tensor, targets: Tensor) -> Tensor:
        def loss(log_prob: Tensor, entropy: Tensor | None, rows: Tensor) -> Tensor:
            return -log_prob.sum() / len(targets)

        return linear_loss(hidden, weight, targets, loss)[0]

    return mean


def our_policy(bonus: float, masked: bool = False) -> Value:
    """Return our policy loss, with its gradient taken in the forward pass."""

    def value(head: Head, hidden: Tensor, weight: Tensor) -> Tensor:
        mask = None
        rows = None
        if masked:
            mask = head.live
            rows = head.live.nonzero()[:, 0]
        loss = policy_loss(head, bonus, rows)
        return linear_loss(hidden, weight, head.targets, loss, mask=mask, entropy=bonus > 0)[0]

    return value


def _rows(head: Head, masked: bool) -> Tensor:
    if masked:
        return head.live.nonzero()[:, 0]
    return torch.arange(len(head.targets), device=head.targets.device)


def policy_of(score: Score, bonus: float, masked: bool = False) -> Value:
    """Return the policy loss of a score's log-probabilities and entropies."""

    def value(head: Head, hidden: Tensor, weight: Tensor) -> Tensor:
        log_prob, entropy = score(hidden, weight, head.targets)
        rows = _rows(head, masked)
        of_rows = None
        if entropy is not None and bonus:
            of_rows = entropy[rows]
        return policy_loss(head, bonus, rows)(log_prob[rows], of_rows, rows)

    return value
