"""Distances of two sets of features [N, D] and [K, D], and how widely one set is spread."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from rewardlab.metrics.bootstrap import percentiles, resample_counts
from rewardlab.metrics.columns import checked_features
from rewardlab.seeds import derive


class _Kernels(NamedTuple):
    """The cubic kernel within a [N, N] and within b [K, K], with zero diagonals, and between."""

    within_a: Tensor
    within_b: Tensor
    between: Tensor


def frechet_distance(features_a: Tensor, features_b: Tensor) -> float:
    """Return Fréchet's distance of two Gaussians, |μ_a - μ_b|² + tr(C_a + C_b - 2·(C_a·C_b)^½).

    FID, Heusel et al., arXiv 1706.08500. The eigenvalues of C_a·C_b are the squared singular values
    of A·Bᵀ, where C_a = Aᵀ·A and C_b = Bᵀ·B. Taking those keeps the distance exact for singular
    covariances too (fewer samples than features). It grows as samples get fewer, so read it beside
    the distance of two real sets of the same sizes. Rows [N, D] and [K, D], N, K ≥ 2.

    Example:
        >>> features = torch.eye(4)
        >>> round(frechet_distance(features, features + 1), 6)
        4.0
    """
    a, b = checked_features(features_a, features_b, least=2)
    variances = a.var(0).sum() + b.var(0).sum()
    root_a = _covariance_root(a)
    root_b = _covariance_root(b)
    overlap = torch.linalg.matrix_norm(root_a @ root_b.T, ord="nuc")
    of_covariances = variances - 2 * overlap
    shift = a.mean(0) - b.mean(0)
    of_means = shift.square().sum()
    return float(of_means + of_covariances.clamp_min(0))


def kernel_distance(features_a: Tensor, features_b: Tensor) -> float:
    """Return the squared maximum mean discrepancy, unbiased, with the kernel (x·y/D + 1)³.

    KID, Bińkowski et al., arXiv 1801.01401. It is taken over all pairs of rows [N, D] and [K, D],
    N, K ≥ 2, without subsets, in memory for (N + K)² numbers. Its expectation is 0 for equal
    distributions, so it may be below 0.

    Example:
        >>> kernel_distance(torch.zeros(3, 2), torch.ones(3, 2))
        7.0
    """
    a, b = checked_features(features_a, features_b, least=2)
    weights_a = a.new_ones(1, len(a))
    weights_b = b.new_ones(1, len(b))
    kernels = _kernels(a, b)
    return _discrepancies(weights_a, weights_b, kernels).item()


def kernel_distance_interval(
    features_a: Tensor,
    features_b: Tensor,
    confidence: float = 0.95,
    *,
    resamples: int = 1000,
    seed: int = 0,
) -> tuple[float, float]:
    """Return the percentile interval (low, high) of `kernel_distance` over bootstrap resamples.

    The rows of both sets are resampled. A row that was drawn twice is not paired with itself, which
    would bias the distance upwards. Near 0 the interval is wider than it need be: it covers more
    often than it says.

    Example:
        >>> a = torch.randn(50, 4, generator=torch.Generator().manual_seed(0))
        >>> low, high = kernel_distance_interval(a, a + 1)
        >>> 0 < low < kernel_distance(a, a + 1) < high
        True
    """
    a, b = checked_features(features_a, features_b, least=2)
    weights_a = resample_counts(len(a), resamples, derive(seed, 0), a.device)
    weights_b = resample_counts(len(b), resamples, derive(seed, 1), b.device)
    distances = _discrepancies(weights_a, weights_b, _kernels(a, b))
    return percentiles(distances, confidence)


def diversity(features: Tensor) -> float:
    """Return the mean Euclidean distance over pairs of distinct rows [N, D], N ≥ 2.

    Example:
        >>> diversity(torch.tensor([[0.0], [1.0], [2.0]])) == 4 / 3
        True
    """
    [rows] = checked_features(features, least=2)
    return torch.pdist(rows).mean().item()


def precision_recall(
    features_real: Tensor, features_generated: Tensor, k: int = 3
) -> tuple[float, float]:
    """Return the share of generated rows near a real one, and of real rows near a generated one.

    They are improved precision and recall, Kynkäänniemi et al., arXiv 1904.06991, equations 1 and
    2. Near means no farther than that row's own k-th neighbour in its set. Rows [N, D] and [K, D],
    more than k of each. A policy that narrows loses recall first.

    Example:
        >>> real = torch.arange(10.0)[:, None]
        >>> precision_recall(real, real[:4])
        (1.0, 0.7)
    """
    real, generated = checked_features(features_real, features_generated, least=k + 1)
    precision = _share(_in_balls(real, generated, k).any(1))
    recall = _share(_in_balls(generated, real, k).any(1))
    return precision, recall


def coverage(features_real: Tensor, features_generated: Tensor, k: int = 5) -> float:
    """Return the share of real rows that have a generated row nearby.

    Naeem et al., arXiv 2002.09797, equation 8. Near means no farther than the real row's own k-th
    neighbour among the real, so one generated outlier cannot cover much, as it can in recall. Rows
    [N, D] and [K, D], more than k real ones.

    Example:
        >>> real = torch.arange(10.0)[:, None]
        >>> coverage(real, real[:4], k=1)
        0.5
    """
    [real] = checked_features(features_real, least=k + 1)
    real, generated = checked_features(features_real, features_generated, least=1)
    return _share(_in_balls(real, generated, k).any(0))


def _covariance_root(rows: Tensor) -> Tensor:
    """Return A with AᵀA the covariance of rows [N, D], of no more than D rows."""
    count = len(rows)
    centered = rows - rows.mean(0)
    scaled = centered / math.sqrt(count - 1)
    if count <= rows.shape[1]:
        return scaled
    triangle: Tensor = torch.linalg.qr(scaled, mode="r").R
    return triangle


def _kernels(a: Tensor, b: Tensor) -> _Kernels:
    within_a = _cubic_kernel(a, a)
    within_b = _cubic_kernel(b, b)
    within_a.fill_diagonal_(0)
    within_b.fill_diagonal_(0)
    between = _cubic_kernel(a, b)
    return _Kernels(within_a, within_b, between)


def _cubic_kernel(a: Tensor, b: Tensor) -> Tensor:
    products = a @ b.T
    dimensions = a.shape[1]
    return (products / dimensions + 1) ** 3


def _discrepancies(weights_a: Tensor, weights_b: Tensor, kernels: _Kernels) -> Tensor:
    """Return MMD² [R] for weights [R, N] and [R, K] of the rows.

    It is NaN where a resample holds one row only.
    """
    within_a = _mean_within(weights_a, kernels.within_a)
    within_b = _mean_within(weights_b, kernels.within_b)
    pairs = weights_a.sum(1) * weights_b.sum(1)
    products = weights_a @ kernels.between * weights_b
    between = 2 * products.sum(1) / pairs
    return within_a + within_b - between


def _mean_within(weights: Tensor, kernel: Tensor) -> Tensor:
    """Return the kernel's mean [R] over pairs of distinct rows, for weights [R, N] of the rows."""
    totals = weights.sum(1)
    squares = weights.square()
    pairs = totals.square() - squares.sum(1)
    products = weights @ kernel * weights
    return products.sum(1) / pairs


def _in_balls(centers: Tensor, rows: Tensor, k: int) -> Tensor:
    """Return which rows [K] lie in the ball of which center [N]: bool [K, N].

    A ball reaches to its center's k-th neighbour among the centers.
    """
    # the quick form is off by 1e-8 for equal points, which a radius of 0 would miss
    exact = "donot_use_mm_for_euclid_dist"
    among_centers = torch.cdist(centers, centers, compute_mode=exact)
    radii = among_centers.kthvalue(k + 1, dim=1).values
    to_centers = torch.cdist(rows, centers, compute_mode=exact)
    return to_centers <= radii


def _share(chosen: Tensor) -> float:
    return chosen.double().mean().item()
