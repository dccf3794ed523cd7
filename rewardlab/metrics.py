"""Statistics of scores [N] and of features [N, D]: tensors of any float type in, Python floats out,
float64 between.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from rewardlab.errors import InputError
from rewardlab.seeds import derive


def auc(scores: Tensor, labels: Tensor) -> float:
    """The share of (positive, negative) pairs in which the positive scores higher; a tie counts one
    half.

    Exact: Mann and Whitney's U over m·n (Hanley and McNeil, Radiology 143, 1982). Constant scores
    give 0.5.

    Args:
        scores: [N].
        labels: [N], 1 or true for positives, 0 or false for negatives.

    Raises:
        InputError: if a class is empty, a label is neither 0 nor 1, or a score is NaN or infinite.

    Example:
        >>> auc(torch.tensor([0.1, 0.4, 0.4, 0.8]), torch.tensor([0, 0, 1, 1]))
        0.875
    """
    place, positives = _classes(scores, labels)
    counts = (
        torch.bincount(place[which], minlength=len(place)).double()
        for which in (positives, ~positives)
    )
    return _auc_of_counts(*counts).item()


def auc_interval(
    scores: Tensor,
    labels: Tensor,
    confidence: float = 0.95,
    *,
    resamples: int = 1000,
    seed: int = 0,
) -> tuple[float, float]:
    """Percentile interval (low, high) of the AUC over bootstrap resamples, each class resampled by
    itself.

    Resamples of perfectly separated classes cannot differ. There the far bound is ((1 -
    confidence)/2)^(1/k), Clopper and Pearson's for k successes in k trials, with k the smaller
    class's size. On normal scores, 10 to 100 a class, AUC 0.5 to 0.96, intervals at 0.95 were
    measured to cover 0.90 to 0.95 of the time.

    Example:
        >>> scores, labels = torch.arange(40.0), torch.arange(40) >= 20
        >>> auc_interval(scores, labels)
        (0.831..., 1.0)
    """
    place, positives = _classes(scores, labels)
    drawn = []
    for name, which in (("positives", positives), ("negatives", ~positives)):
        counts = _resampled(int(which.sum()), resamples, derive(seed, name), place.device)
        drawn.append(counts.new_zeros(resamples, len(place)).index_add_(1, place[which], counts))
    low, high = _percentiles(_auc_of_counts(*drawn), confidence)
    bound = ((1 - confidence) / 2) ** (1 / min(int(positives.sum()), int((~positives).sum())))
    exact = auc(scores, labels)
    return (min(low, bound) if exact == 1 else low, max(high, 1 - bound) if exact == 0 else high)


def rank_correlation(a: Tensor, b: Tensor) -> float:
    """Spearman's ρ: the correlation of ranks, tied values sharing their mean rank. Both [N], N ≥ 2.

    0 where a column is constant, since there is no order to agree with.

    Example:
        >>> round(rank_correlation(torch.tensor([1.0, 2.0, 3.0]), torch.tensor([1.0, 8.0, 27.0])), 6)
        1.0
    """
    from scipy.stats import spearmanr

    first, second = _columns(2, a=a, b=b)
    if first.min() == first.max() or second.min() == second.max():
        return 0.0
    return float(spearmanr(first.cpu().numpy(), second.cpu().numpy()).statistic)


def calibration_error(logits: Tensor, labels: Tensor, bins: int = 15) -> float:
    """Expected calibration error: Σ_b n_b/N · |mean σ(logit) - mean label| over bins of equal mass.

    Naeini et al., AAAI 2015, in the binary form, with bins of equal count (Nixon et al., arXiv
    1904.01685). Tied logits share their mean label, so the order of the rows does not matter. It is
    never negative, so even a perfect model has a positive one on few samples: about 0.4·√(bins/N)
    where probabilities are near 1/2. logits [N]; labels [N] in [0, 1], soft or hard; at most N bins
    are used.

    Example:
        >>> round(calibration_error(torch.tensor([0.0, 0.0, 0.0, 0.0]), torch.tensor([1, 1, 1, 0])), 6)
        0.25
    """
    values, truth = _columns(1, logits=logits, labels=labels)
    if truth.min() < 0 or truth.max() > 1:
        raise InputError(
            f"calibration_error needs labels in [0, 1]; got {truth.min().item()} to {truth.max().item()}."
        )
    gaps = (values.sigmoid() - _share_ties(values, truth))[values.argsort()]
    parts = gaps.tensor_split(min(bins, len(gaps)))
    return float(sum(part.sum().abs() for part in parts) / len(gaps))


def mean_interval(
    values: Tensor, confidence: float = 0.95, seed: int = 0, *, resamples: int = 1000
) -> tuple[float, float]:
    """Percentile interval (low, high) of the mean over bootstrap resamples (Efron, 1979). values:
    [N], N ≥ 2.

    Example:
        >>> low, high = mean_interval(torch.arange(100.0))
        >>> low < 49.5 < high
        True
    """
    (column,) = _columns(2, values=values)
    drawn = _resampled(len(column), resamples, derive(seed, "mean"), column.device)
    return _percentiles(drawn @ column / len(column), confidence)


def frechet_distance(features_a: Tensor, features_b: Tensor) -> float:
    """|μ_a - μ_b|² + tr(C_a + C_b - 2·(C_a·C_b)^½): Fréchet's distance of two Gaussians. Heusel et
    al., arXiv 1706.08500.

    The eigenvalues of C_a·C_b are the squared singular values of A·Bᵀ, where C_a = Aᵀ·A and C_b =
    Bᵀ·B. Taking those keeps the distance exact for singular covariances too (fewer samples than
    features). It grows as samples get fewer, so read it beside the distance of two real sets of the
    same sizes. Rows [N, D] and [K, D], N, K ≥ 2.

    Example:
        >>> features = torch.eye(4)
        >>> round(frechet_distance(features, features + 1), 6)
        4.0
    """
    a, b = _features(features_a, features_b, least=2)
    spread = (a.var(0).sum() + b.var(0).sum()) - 2 * torch.linalg.matrix_norm(
        _root(a) @ _root(b).T, ord="nuc"
    )
    return float((a.mean(0) - b.mean(0)).square().sum() + spread.clamp_min(0))


def kernel_distance(features_a: Tensor, features_b: Tensor) -> float:
    """Squared maximum mean discrepancy, unbiased, with the kernel (x·y/D + 1)³. KID, Bińkowski et
    al., arXiv 1801.01401.

    Over all pairs of rows [N, D] and [K, D], N, K ≥ 2, without subsets, in memory for (N + K)²
    numbers. Its expectation is 0 for equal distributions, so it may be below 0.

    Example:
        >>> kernel_distance(torch.zeros(3, 2), torch.ones(3, 2))
        7.0
    """
    a, b = _features(features_a, features_b, least=2)
    return _discrepancies(a.new_ones(1, len(a)), b.new_ones(1, len(b)), _kernels(a, b)).item()


def kernel_distance_interval(
    features_a: Tensor,
    features_b: Tensor,
    confidence: float = 0.95,
    *,
    resamples: int = 1000,
    seed: int = 0,
) -> tuple[float, float]:
    """Percentile interval (low, high) of `kernel_distance` over bootstrap resamples of the rows of
    both sets.

    A row that was drawn twice is not paired with itself, which would bias the distance upwards.
    Near 0 the interval is wider than it need be: it covers more often than it says.

    Example:
        >>> a = torch.randn(50, 4, generator=torch.Generator().manual_seed(0))
        >>> low, high = kernel_distance_interval(a, a + 1)
        >>> 0 < low < kernel_distance(a, a + 1) < high
        True
    """
    a, b = _features(features_a, features_b, least=2)
    drawn_a, drawn_b = (
        _resampled(len(x), resamples, derive(seed, i), x.device) for i, x in enumerate((a, b))
    )
    return _percentiles(_discrepancies(drawn_a, drawn_b, _kernels(a, b)), confidence)


def diversity(features: Tensor) -> float:
    """The mean Euclidean distance over pairs of distinct rows [N, D], N ≥ 2.

    Example:
        >>> diversity(torch.tensor([[0.0], [1.0], [2.0]])) == 4 / 3
        True
    """
    (rows,) = _features(features, least=2)
    return torch.pdist(rows).mean().item()


def precision_recall(
    features_real: Tensor, features_generated: Tensor, k: int = 3
) -> tuple[float, float]:
    """(precision, recall): the share of generated rows near a real one, and of real rows near a
    generated one.

    Near means no farther than that row's own k-th neighbour in its set: improved precision and
    recall, Kynkäänniemi et al., arXiv 1904.06991, equations 1 and 2. Rows [N, D] and [K, D], more
    than k of each. A policy that narrows loses recall first.

    Example:
        >>> real = torch.arange(10.0)[:, None]
        >>> precision_recall(real, real[:4])
        (1.0, 0.7)
    """
    real, generated = _features(features_real, features_generated, least=k + 1)
    return _coverage(real, generated, k), _coverage(generated, real, k)


def best_of_n_expected(proxy: Tensor, gold: Tensor, n: int) -> float:
    """Σ_i C(i-1, n-1)/C(N, n) · gold_(i), rows sorted by proxy: the expected gold score of the best
    of n by proxy.

    Unbiased: the mean over all subsets of n (Nakano et al., arXiv 2112.09332). Tied proxies share
    their mean gold score, as if a coin chose among them. proxy and gold [N] are scores of N samples
    of one prompt, 1 ≤ n ≤ N; take the mean over prompts afterwards.

    Example:
        >>> round(best_of_n_expected(torch.tensor([1.0, 2.0, 3.0]), torch.tensor([0.0, 5.0, 1.0]), 2), 6)
        2.333333
    """
    first, second = _columns(1, proxy=proxy, gold=gold)
    if not 1 <= n <= len(first):
        raise InputError(
            f"best_of_n_expected takes the best of n out of N samples, so 1 <= n <= N; got n={n}, N={len(first)}."
        )
    place = torch.arange(n, len(first) + 1, dtype=torch.float64, device=first.device)
    logs = torch.lgamma(place) - torch.lgamma(place - n + 1)  # of C(i-1, n-1), up to a constant
    weights = logs.softmax(0)  # Σ_i C(i-1, n-1) = C(N, n)
    return float(weights @ _share_ties(first, second)[first.argsort()][n - 1 :])


def best_of_n_kl(n: int) -> float:
    """The KL divergence in nats of the best of n from what it was drawn from: ln n - (n - 1)/n.
    Stiennon et al., 2009.01325.

    Exact for continuous scores without ties, otherwise an upper bound (Beirami et al., arXiv
    2401.01879).

    Example:
        >>> round(best_of_n_kl(4), 4)
        0.6363
    """
    if n < 1:
        raise InputError(f"best_of_n_kl needs n >= 1; got {n}.")
    return math.log(n) - (n - 1) / n


def _columns(least: int, **columns: Tensor) -> list[Tensor]:
    shapes = {name: list(values.shape) for name, values in columns.items()}
    lengths = {values.shape[0] if values.dim() == 1 else -1 for values in columns.values()}
    if len(lengths) > 1 or min(lengths) < least:
        raise InputError(f"{' and '.join(shapes)} must be [N] with N >= {least}; got {shapes}.")
    return [_finite(values, name) for name, values in columns.items()]


def _finite(values: Tensor, name: str) -> Tensor:
    wrong = (~values.isfinite()).nonzero()
    if len(wrong):
        raise InputError(
            f"{name} must be finite; got {len(wrong)} NaN or infinite entries, first in row {int(wrong[0, 0])}."
        )
    return values.detach().double()


def _features(*sets: Tensor, least: int) -> list[Tensor]:
    shapes = [list(rows.shape) for rows in sets]
    if any(len(shape) != 2 or shape[0] < least or shape[1] != shapes[0][1] for shape in shapes):
        raise InputError(
            f"features must be [N, D] with one D and N >= {least} in every set; got {shapes}."
        )
    return [_finite(rows, "features") for rows in sets]


def _classes(scores: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Return the place of each score among the distinct ones, ascending, and where the label is 1."""
    values, truth = _columns(1, scores=scores, labels=labels)
    if not ((truth == 0) | (truth == 1)).all() or truth.min() == truth.max():
        raise InputError(
            f"the AUC needs labels 0 and 1, at least one of each; got {truth.unique()[:5].tolist()}."
        )
    return values.unique(return_inverse=True)[1], truth.bool()


def _auc_of_counts(positives: Tensor, negatives: Tensor) -> Tensor:
    """The AUC [...] of counts [..., U] of each class at each of U ascending scores."""
    below = negatives.cumsum(-1) - negatives / 2
    return (positives * below).sum(-1) / (positives.sum(-1) * negatives.sum(-1))


def _share_ties(keys: Tensor, values: Tensor) -> Tensor:
    """Return values [N], each replaced by the mean over the rows whose key is the same."""
    _, place, counts = keys.unique(return_inverse=True, return_counts=True)
    return (torch.zeros_like(counts, dtype=values.dtype).index_add_(0, place, values) / counts)[
        place
    ]


def _resampled(count: int, resamples: int, seed: int, device: torch.device) -> Tensor:
    """How often each of `count` rows was drawn in each bootstrap resample, float64 [resamples,
    count].
    """
    rows = torch.randint(count, (resamples, count), generator=torch.Generator().manual_seed(seed))
    drawn = torch.zeros(resamples, count, dtype=torch.float64)
    return drawn.scatter_add_(1, rows, torch.ones_like(drawn)).to(device)


def _percentiles(values: Tensor, confidence: float) -> tuple[float, float]:
    tail = (1 - confidence) / 2
    low, high = torch.nanquantile(values, values.new_tensor([tail, 1 - tail])).tolist()
    return low, high


def _root(rows: Tensor) -> Tensor:
    """Return A with AᵀA the covariance of rows [N, D], of no more than D rows."""
    centred = (rows - rows.mean(0)) / math.sqrt(len(rows) - 1)
    return torch.linalg.qr(centred, mode="r").R if len(rows) > rows.shape[1] else centred


def _kernels(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The cubic kernel within a, within b (each without its diagonal) and between them."""
    within_a, within_b, between = (
        (x @ y.T / x.shape[1] + 1) ** 3 for x, y in ((a, a), (b, b), (a, b))
    )
    return within_a.fill_diagonal_(0), within_b.fill_diagonal_(0), between


def _discrepancies(
    weights_a: Tensor, weights_b: Tensor, kernels: tuple[Tensor, Tensor, Tensor]
) -> Tensor:
    """MMD² [R] for weights [R, N] and [R, K] of the rows; NaN where a resample holds one row only."""
    sides = ((weights_a, kernels[0]), (weights_b, kernels[1]))
    within = sum(
        (w @ kernel * w).sum(1) / (w.sum(1).square() - w.square().sum(1)) for w, kernel in sides
    )
    return within - 2 * (weights_a @ kernels[2] * weights_b).sum(1) / (
        weights_a.sum(1) * weights_b.sum(1)
    )


def _coverage(centres: Tensor, rows: Tensor, k: int) -> float:
    """The share of rows that lie in the ball of some centre, out to its k-th neighbour among the
    centres.
    """
    # the quick form is off by 1e-8 for equal points, which a radius of 0 would miss
    exact = "donot_use_mm_for_euclid_dist"
    radii = torch.cdist(centres, centres, compute_mode=exact).kthvalue(k + 1, dim=1).values
    return (torch.cdist(rows, centres, compute_mode=exact) <= radii).any(1).double().mean().item()
