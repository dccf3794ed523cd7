"""A head's exact values in float64 without all logits, and errors against them."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from kernel_cases.head_data import Head, policy_loss
from kernel_cases.measuring import Errors, Measurements, Metrics, Result, errors_of


class Exact(NamedTuple):
    """Each row's values, in float64.

    Attributes:
        log_prob: the target's log-probability.
        total: the log-sum-exp of the logits.
        mean: the mean of the logits.
    """

    log_prob: Tensor
    total: Tensor
    mean: Tensor


class Upstream(NamedTuple):
    """A loss's gradients by log-probability and entropy, [N] each."""

    log_prob: Tensor
    entropy: Tensor


class _Slice(NamedTuple):
    """Tokens of a head: the first one, and their weights in float64."""

    start: int
    weight: Tensor


@torch.no_grad()
def exact(head: Head, rows: int | None = None) -> Exact:
    """Return the exact values of the first rows, or of all."""
    hidden = head.hidden[:rows].double()
    targets = head.targets[:rows]
    score = hidden.new_zeros(len(hidden))
    mean = torch.zeros_like(score)
    total = torch.full_like(score, -torch.inf)
    for tokens in _vocabulary(head.weight):
        logits = hidden @ tokens.weight.T
        slice_total = logits.logsumexp(1)
        probabilities = (logits - slice_total[:, None]).exp()
        slice_mean = (probabilities * logits).sum(1)
        joined = torch.logaddexp(total, slice_total)
        share = (total - joined).exp()
        slice_share = (slice_total - joined).exp()
        mean = mean * share
        mean += slice_mean * slice_share
        score += _target_logits(logits, targets - tokens.start)
        total = joined
    return Exact(score - total, total, mean)


def _vocabulary(weight: Tensor, size: int = 4096) -> Iterator[_Slice]:
    """Yield the weight's rows in slices of `size` tokens."""
    for start in range(0, len(weight), size):
        part = weight[start : start + size]
        yield _Slice(start, part.double())


def _target_logits(logits: Tensor, columns: Tensor) -> Tensor:
    """Return the logit of each row's column, 0 if the slice has no such column."""
    last = logits.shape[1] - 1
    nearest = columns.clamp(0, last)
    scores = logits.gather(1, nearest[:, None])[:, 0]
    return scores.where(_inside(columns, logits), 0)


def score_errors(head: Head, measurements: Measurements) -> Errors:
    """Return the errors of each provider's log-probabilities.

    They are the largest one, and the root mean square of that of sums over 512 rows.
    """
    rows = min(2048, len(head.targets))
    truth = exact(head, rows).log_prob

    def compare(result: Result) -> Metrics:
        log_prob = result["log_prob"][:rows].double()
        gaps = log_prob - truth
        sums = torch.stack([rows.sum() for rows in gaps.split(512)])
        mean_square = sums.square().mean()
        return {
            "largest error of log p": float(gaps.abs().max()),
            "rms of 512-row sums": float(mean_square.sqrt()),
        }

    return errors_of(measurements, compare)


def policy_upstream(head: Head, truth: Exact) -> Upstream:
    """Return the policy loss's gradients at the exact values, in float64."""
    log_prob = truth.log_prob.clone().requires_grad_()
    entropy = truth.total - truth.mean
    leaves = [log_prob, entropy.requires_grad_()]
    wide = head._replace(
        old=head.old.double(),
        anchor=head.anchor.double(),
        gain=head.gain.double(),
    )
    rows = torch.arange(len(log_prob), device=log_prob.device)
    loss = policy_loss(wide, 0.01)
    gradients = torch.autograd.grad(loss(*leaves, rows), leaves)
    return Upstream(*gradients)


class _Sums(NamedTuple):
    """The exact gradient of hidden, and sums of squares over the gradients of the weight.

    `missed` has the squared errors of each provider.
    """

    of_hidden: Tensor
    of_weight: float
    missed: Metrics


@torch.no_grad()
def gradient_errors(
    head: Head, truth: Exact, upstream: Upstream, measurements: Measurements
) -> Errors:
    """Return the relative errors of each provider's gradients of hidden and weight.

    They are norms of the errors over the exact gradients' norms, taken a slice of tokens at a time.
    """
    results = {name: each.result for name, each in measurements.items() if each.result}
    sums = _sums(head, truth, upstream, results)
    scale = sums.of_hidden.norm()
    errors = {}
    for name, result in results.items():
        gaps = result["hidden"].double() - sums.of_hidden
        hidden_error = gaps.norm() / scale
        weight_error = sums.missed[name] / sums.of_weight
        errors[name] = {
            "relative error of d hidden": float(hidden_error),
            "relative error of d weight": math.sqrt(weight_error),
        }
    return errors


def _sums(head: Head, truth: Exact, upstream: Upstream, results: dict[str, Result]) -> _Sums:
    hidden = head.hidden.double()
    of_hidden = torch.zeros_like(hidden)
    of_weight = 0.0
    missed = dict.fromkeys(results, 0.0)
    for tokens in _vocabulary(head.weight):
        logits = hidden @ tokens.weight.T
        slope = _slope(logits, truth, upstream)
        columns = head.targets - tokens.start
        _add_at_targets(slope, columns, upstream.log_prob)
        of_hidden += slope @ tokens.weight
        of_part = slope.T @ hidden
        of_weight += _squares(of_part)
        rows = slice(tokens.start, tokens.start + len(tokens.weight))
        for name, result in results.items():
            of_provider = result["weight"][rows].double()
            missed[name] += _squares(of_provider - of_part)
    return _Sums(of_hidden, of_weight, missed)


def _squares(values: Tensor) -> float:
    return float(values.square().sum())


def _slope(logits: Tensor, truth: Exact, upstream: Upstream) -> Tensor:
    """Return the loss's gradient by a slice of logits, but for the targets' part."""
    total = truth.total[:, None]
    mean = truth.mean[:, None]
    a = upstream.log_prob[:, None]
    h = upstream.entropy[:, None]
    probabilities = (logits - total).exp()
    return probabilities * (-a - h * (logits - mean))


def _add_at_targets(slope: Tensor, columns: Tensor, of_log_prob: Tensor) -> None:
    """Add the targets' part of the gradient, where a row's column is in the slice."""
    rows = _inside(columns, slope).nonzero()[:, 0]
    slope[rows, columns[rows]] += of_log_prob[rows]


def _inside(columns: Tensor, logits: Tensor) -> Tensor:
    """Return which rows' columns a slice of logits has."""
    width = logits.shape[1]
    return (columns >= 0) & (columns < width)
