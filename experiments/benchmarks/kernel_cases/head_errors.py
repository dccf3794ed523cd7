"""A head's exact values in float64 without all logits, and the errors of log-probabilities and
gradients against them.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from kernel_cases.head_data import Head, policy_loss
from kernel_cases.measuring import Errors, Found, errors_of


class Exact(NamedTuple):
    """Of each row, in float64: its target's log-probability, the log-sum-exp of its logits, and
    their mean.
    """

    log_prob: Tensor
    total: Tensor
    mean: Tensor


@torch.no_grad()
def exact(head: Head, rows: int | None = None) -> Exact:
    """Of the first rows, or of all."""
    hidden = head.hidden[:rows].double()
    targets = head.targets[:rows]
    total = torch.full((len(hidden),), -torch.inf, dtype=torch.float64, device=hidden.device)
    mean = torch.zeros_like(total)
    score = torch.zeros_like(total)
    for start, weight in _words(head.weight):
        logits = hidden @ weight.T
        part = logits.logsumexp(1)
        joined = torch.logaddexp(total, part)
        its_mean = ((logits - part[:, None]).exp() * logits).sum(1)
        mean = mean * (total - joined).exp() + its_mean * (part - joined).exp()
        place = targets - start
        here = (place >= 0) & (place < len(weight))
        score += logits.gather(1, place.clamp(0, len(weight) - 1)[:, None])[:, 0].where(here, 0)
        total = joined
    return Exact(score - total, total, mean)


def _words(weight: Tensor, size: int = 4096) -> Iterator[tuple[int, Tensor]]:
    return ((start, weight[start : start + size].double()) for start in range(0, len(weight), size))


def score_errors(head: Head, found: dict[str, Found]) -> Errors:
    """The largest error of each provider's log-probabilities, and the root mean square of that of
    sums over 512 rows.
    """
    rows = min(2048, len(head.targets))
    truth = exact(head, rows).log_prob

    def compare(result: dict[str, Tensor]) -> dict[str, float]:
        gap = result["log_prob"][:rows].double() - truth
        sums = torch.stack([part.sum() for part in gap.split(512)])
        return {
            "largest error of log p": float(gap.abs().max()),
            "rms of 512-row sums": float(sums.square().mean().sqrt()),
        }

    return errors_of(found, compare)


def upstream(head: Head, truth: Exact) -> tuple[Tensor, Tensor]:
    """The policy loss's gradients by log-probability and entropy at the exact values, in float64."""
    log_prob = truth.log_prob.clone().requires_grad_()
    entropy = (truth.total - truth.mean).requires_grad_()
    wide = head._replace(
        old=head.old.double(), anchor=head.anchor.double(), gain=head.gain.double()
    )
    value = policy_loss(wide, 0.01)(
        log_prob, entropy, torch.arange(len(log_prob), device=log_prob.device)
    )
    a, h = torch.autograd.grad(value, [log_prob, entropy])
    return a, h


@torch.no_grad()
def gradient_errors(
    head: Head, truth: Exact, a: Tensor, h: Tensor, found: dict[str, Found]
) -> Errors:
    """Norms of the errors of the gradients of hidden and weight over the exact ones' norms, a slice
    of words at a time.
    """
    hidden = head.hidden.double()
    exact_hidden = torch.zeros_like(head.hidden, dtype=torch.float64)
    some = {name: each.result for name, each in found.items() if each.result}
    missed = dict.fromkeys(some, 0.0)
    norm = 0.0
    for start, weight in _words(head.weight):
        logits = hidden @ weight.T
        share = (logits - truth.total[:, None]).exp()
        slope = share * (-a[:, None] - h[:, None] * (logits - truth.mean[:, None]))
        place = head.targets - start
        here = ((place >= 0) & (place < len(weight))).nonzero()[:, 0]
        slope[here, place[here]] += a[here]
        exact_hidden += slope @ weight
        of_words = slope.T @ hidden
        norm += float(of_words.square().sum())
        for name, result in some.items():
            missed[name] += float(
                (result["weight"][start : start + len(weight)].double() - of_words).square().sum()
            )
    scale = exact_hidden.norm()
    return {
        name: {
            "relative error of d hidden": float(
                (result["hidden"].double() - exact_hidden).norm() / scale
            ),
            "relative error of d weight": math.sqrt(missed[name] / norm),
        }
        for name, result in some.items()
    }
