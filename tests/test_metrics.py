import math
from itertools import combinations

import numpy as np
import pytest
import torch
from scipy.integrate import quad
from scipy.linalg import sqrtm
from scipy.optimize import brentq
from scipy.special import expi
from scipy.stats import poisson, spearmanr
from sklearn.calibration import calibration_curve
from sklearn.metrics import roc_auc_score

from rewardlab import metrics
from rewardlab.errors import InputError


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def features(rows: int, width: int = 5, seed: int = 0) -> torch.Tensor:
    return normal(rows, width, seed=seed) @ normal(width, width, seed=99)


def classes(count: int, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Scores with many ties, and labels of both classes."""
    labels = torch.arange(count) % 3 == 0
    return (2 * normal(count, seed=seed)).round() + labels, labels


@pytest.mark.parametrize("seed", range(5))
def test_auc_counts_pairs_and_ties(seed):
    scores, labels = classes(40, seed)
    pairs = scores[labels][:, None] - scores[~labels][None]
    expected = ((pairs > 0).double() + (pairs == 0) / 2).mean().item()
    assert metrics.auc(scores, labels) == pytest.approx(expected, abs=1e-12)
    assert metrics.auc(scores, labels) == pytest.approx(
        roc_auc_score(labels.numpy(), scores.numpy()), abs=1e-12
    )


def test_auc_sees_order_only():
    scores, labels = normal(50), torch.arange(50) < 20
    expected = metrics.auc(scores, labels)
    assert metrics.auc(scores.exp() * 3 + 1, labels) == expected
    assert metrics.auc(-scores, labels) == pytest.approx(1 - expected, abs=1e-12)
    assert metrics.auc(scores, ~labels) == pytest.approx(1 - expected, abs=1e-12)


def test_auc_tells_float32_neighbours_apart_and_takes_bfloat16():
    one = torch.tensor(1.0)
    assert (
        metrics.auc(torch.stack([one, torch.nextafter(one, 2 * one)]), torch.tensor([0, 1])) == 1.0
    )
    assert metrics.auc(torch.zeros(6, dtype=torch.bfloat16), torch.arange(6) % 2) == 0.5


def test_auc_interval_covers_and_narrows():
    """With unit normals δ apart the AUC is Φ(δ/√2): 0.7602 for δ = 1."""
    truth, covered, widths = 0.5 * (1 + math.erf(0.5)), 0, {}
    for seed in range(60):
        for count in (30, 120):
            labels = torch.arange(2 * count) < count
            low, high = metrics.auc_interval(
                normal(2 * count, seed=seed) + labels, labels, resamples=300, seed=seed
            )
            covered += low <= truth <= high
            widths[count] = high - low
    assert 0.86 <= covered / 120 <= 0.99
    assert widths[120] < 0.7 * widths[30]


def test_auc_interval_of_separated_classes_has_width():
    labels = torch.arange(8) < 4
    assert metrics.auc_interval(labels.float(), labels) == pytest.approx((0.025**0.25, 1.0))
    assert metrics.auc_interval(-labels.float(), labels) == pytest.approx((0.0, 1 - 0.025**0.25))


@pytest.mark.parametrize("seed", range(3))
def test_rank_correlation_with_ties(seed):
    a = (2 * normal(30, seed=seed)).round()
    b = (a + 2 * normal(30, seed=seed + 10)).round()
    assert metrics.rank_correlation(a, b) == pytest.approx(
        spearmanr(a.numpy(), b.numpy()).statistic, abs=1e-12
    )
    assert metrics.rank_correlation(a, -b) == pytest.approx(
        -metrics.rank_correlation(a, b), abs=1e-12
    )


def test_rank_correlation_of_a_constant_is_zero():
    assert metrics.rank_correlation(torch.ones(5), torch.arange(5.0)) == 0.0


def test_calibration_error_is_sklearns_where_bins_are_equal():
    logits, labels = 2 * normal(150).double(), (normal(150, seed=1) > 0).long()
    seen, said = calibration_curve(
        labels.numpy(), logits.sigmoid().numpy(), n_bins=15, strategy="quantile"
    )
    assert metrics.calibration_error(logits, labels) == pytest.approx(
        np.abs(seen - said).mean(), abs=1e-9
    )


def test_calibration_error_of_true_probabilities_is_its_bias():
    errors = []
    for seed in range(20):
        logits = 0.1 * normal(600, seed=seed)
        labels = (
            torch.rand(600, generator=torch.Generator().manual_seed(seed + 100)) < logits.sigmoid()
        )
        errors.append(metrics.calibration_error(logits, labels))
    assert np.mean(errors) == pytest.approx(0.4 * math.sqrt(15 / 600), rel=0.15)


def test_calibration_error_ignores_row_order_and_ties():
    logits, labels = classes(90, seed=3)
    order = torch.randperm(90, generator=torch.Generator().manual_seed(0))
    assert metrics.calibration_error(logits, labels) == pytest.approx(
        metrics.calibration_error(logits[order], labels[order])
    )
    assert metrics.calibration_error(torch.zeros(90), torch.arange(90) % 2) == pytest.approx(
        0.0, abs=1e-12
    )
    assert metrics.calibration_error(torch.zeros(90), torch.full((90,), 0.5)) == pytest.approx(
        0.0, abs=1e-12
    )
    assert metrics.calibration_error(torch.full((90,), 50.0), torch.zeros(90)) == pytest.approx(1.0)


def test_mean_interval_covers_and_shifts():
    covered = 0
    for seed in range(100):
        low, high = metrics.mean_interval(normal(40, seed=seed), seed=seed, resamples=300)
        covered += low <= 0 <= high
    assert 0.88 <= covered / 100 <= 0.99
    values = normal(40)
    assert metrics.mean_interval(values + 3) == pytest.approx(
        tuple(x + 3 for x in metrics.mean_interval(values)), abs=1e-6
    )
    assert (
        metrics.mean_interval(values, seed=1)
        == metrics.mean_interval(values, seed=1)
        != metrics.mean_interval(values, seed=2)
    )
    assert metrics.mean_interval(torch.ones(9)) == (1.0, 1.0)


@pytest.mark.parametrize(("rows", "width"), [(60, 5), (5, 40)])
def test_frechet_distance_against_the_matrix_square_root(rows, width):
    a, b = features(rows, width).double(), features(rows + 3, width, seed=1).double() * 1.5 + 1
    covariances = [np.cov(x.numpy(), rowvar=False) for x in (a, b)]
    if rows > width:
        cross = sqrtm(covariances[0] @ covariances[1]).real
    else:  # the product is singular, so the root is taken in its symmetric form
        values, vectors = np.linalg.eigh(covariances[0])
        half = vectors * np.sqrt(values.clip(0)) @ vectors.T
        cross = np.diag(np.sqrt(np.linalg.eigvalsh(half @ covariances[1] @ half).clip(0)))
    expected = (
        (a.mean(0) - b.mean(0)).square().sum().item()
        + np.trace(covariances[0] + covariances[1])
        - 2 * np.trace(cross)
    )
    assert metrics.frechet_distance(a, b) == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("rows", [4, 50])
def test_frechet_distance_identities(rows):
    a, b = features(rows, 12), features(rows, 12, seed=1)
    scale = a.double().var(0).sum().item()
    assert metrics.frechet_distance(a, a) == pytest.approx(0.0, abs=1e-12 * scale)
    assert metrics.frechet_distance(a, b) == pytest.approx(metrics.frechet_distance(b, a))
    assert metrics.frechet_distance(3 * a, 3 * b) == pytest.approx(
        9 * metrics.frechet_distance(a, b), rel=1e-5
    )
    assert metrics.frechet_distance(a.double(), a.double() + 2) == pytest.approx(4 * 12)
    turn = torch.linalg.qr(normal(12, 12, seed=7).double()).Q
    assert metrics.frechet_distance(a @ turn.float(), b @ turn.float()) == pytest.approx(
        metrics.frechet_distance(a, b), rel=1e-5
    )


@pytest.mark.filterwarnings("ignore:Metric `Kernel Inception Distance` will save:UserWarning")
def test_distances_equal_torchmetrics():
    from torchmetrics.image.fid import FrechetInceptionDistance
    from torchmetrics.image.kid import KernelInceptionDistance

    a, b = features(40).double(), features(40, seed=1).double() * 1.5 + 0.3
    network = torch.nn.Identity()
    network.num_features = 5
    fid = FrechetInceptionDistance(feature=network).set_dtype(torch.float64)
    kid = KernelInceptionDistance(feature=network, subsets=1, subset_size=40)
    for metric in (fid, kid):
        metric.update(a, real=True)
        metric.update(b, real=False)
    assert metrics.frechet_distance(a, b) == pytest.approx(fid.compute().item(), rel=1e-8)
    assert metrics.kernel_distance(a, b) == pytest.approx(kid.compute()[0].item(), rel=1e-8)


def test_kernel_distance_against_loops():
    a, b = features(6).double(), features(4, seed=1).double() + 1

    def kernel(x, y):
        return (x @ y / 5 + 1).item() ** 3

    within = [
        np.mean(
            [kernel(rows[i], rows[j]) for i in range(len(rows)) for j in range(len(rows)) if i != j]
        )
        for rows in (a, b)
    ]
    expected = sum(within) - 2 * np.mean([kernel(x, y) for x in a for y in b])
    assert metrics.kernel_distance(a, b) == pytest.approx(expected)


def test_kernel_distance_is_unbiased():
    """Over 300 pairs of sets from one distribution the mean lies within 3 standard errors of 0, on
    both sides of it.
    """
    values = torch.tensor(
        [
            metrics.kernel_distance(features(10, seed=2 * s), features(8, seed=2 * s + 1))
            for s in range(300)
        ]
    )
    assert abs(values.mean()) < 3 * values.std() / math.sqrt(300)
    assert values.min() < 0 < values.max()


def test_kernel_distance_interval_covers():
    """0 for equal distributions (then it is wide: 300 of 300 measured); 1 for constants that
    differ.
    """
    same = [
        metrics.kernel_distance_interval(
            features(20, seed=2 * s), features(20, seed=2 * s + 1), resamples=200, seed=s
        )
        for s in range(40)
    ]
    assert sum(low <= 0 <= high for low, high in same) >= 37
    a, b = features(60), features(60, seed=1) + 2
    low, high = metrics.kernel_distance_interval(a, b)
    assert 0 < low < metrics.kernel_distance(a, b) < high
    assert metrics.kernel_distance_interval(torch.zeros(9, 2), torch.ones(9, 2)) == pytest.approx(
        (7.0, 7.0)
    )


def test_diversity_against_loops():
    rows = features(7).double()
    assert metrics.diversity(rows) == pytest.approx(
        np.mean([(x - y).norm().item() for x, y in combinations(rows, 2)])
    )
    assert metrics.diversity(torch.ones(4, 3)) == 0.0


def test_precision_recall_against_loops():
    real, generated = features(30).double(), features(20, seed=1).double() * 0.5

    def share(centres, rows):
        radii = [sorted((x - y).norm().item() for y in centres)[3] for x in centres]
        return np.mean(
            [
                any((x - y).norm().item() <= r for y, r in zip(centres, radii, strict=True))
                for x in rows
            ]
        )

    assert metrics.precision_recall(real, generated) == pytest.approx(
        (share(real, generated), share(generated, real))
    )


def test_precision_recall_of_copies_and_strangers():
    real = features(20)
    assert metrics.precision_recall(real, real) == (1.0, 1.0)
    assert metrics.precision_recall(real, real + 1000) == (0.0, 0.0)
    assert metrics.precision_recall(real.repeat(5, 1), real.repeat(5, 1)) == (
        1.0,
        1.0,
    )  # radii are 0 there
    assert metrics.precision_recall(real, real[:1].repeat(5, 1))[0] == 1.0
    assert metrics.precision_recall(real, real[:1].repeat(5, 1))[1] == 1 / 20


def test_coverage_against_loops():
    real, generated = features(30).double(), features(20, seed=1).double() * 0.5
    covered = []
    for x in real:
        radius = sorted((x - y).norm().item() for y in real)[5]
        covered.append(min((x - y).norm().item() for y in generated) <= radius)
    assert metrics.coverage(real, generated) == pytest.approx(np.mean(covered))
    assert 0 < np.mean(covered) < 1


def test_an_outlier_covers_less_than_it_recalls():
    real = features(20)
    strangers = torch.cat([real[:4] + 1000, real[:4] - 1000])
    assert metrics.precision_recall(real, strangers, k=4)[1] == 1.0
    assert metrics.coverage(real, strangers, k=4) == 0.0
    assert metrics.coverage(real, real[:1], k=4) < 1.0 == metrics.coverage(real, real, k=4)


@pytest.mark.parametrize("n", range(1, 8))
def test_best_of_n_is_the_mean_over_subsets(n):
    proxy, gold = normal(7).double(), normal(7, seed=1).double()
    best = [
        gold[max(subset, key=lambda i: proxy[i])].item() for subset in combinations(range(7), n)
    ]
    assert metrics.best_of_n_expected(proxy, gold, n) == pytest.approx(np.mean(best))


@pytest.mark.parametrize("n", [1, 2, 3, 6])
def test_best_of_n_shares_ties(n):
    proxy, gold = torch.tensor([1.0, 2.0, 2.0, 2.0, 0.0, 1.0]), normal(6).double()
    means = []
    for subset in combinations(range(6), n):
        top = max(proxy[i] for i in subset)
        means.append(np.mean([gold[i].item() for i in subset if proxy[i] == top]))
    assert metrics.best_of_n_expected(proxy, gold, n) == pytest.approx(np.mean(means))


def test_best_of_n_of_many_samples():
    """The best of n out of 1 … N has the mean n·(N + 1)/(n + 1)."""
    values = torch.arange(1, 20_001.0)
    for n in (1, 4, 256, 19_999):
        assert metrics.best_of_n_expected(values, values, n) == pytest.approx(
            n * 20_001 / (n + 1), rel=1e-9
        )
    assert metrics.best_of_n_expected(torch.zeros(20), torch.arange(20.0), 5) == pytest.approx(9.5)


@pytest.mark.parametrize("extra", [0.0, 0.6, 3.0, 10.0])
def test_best_of_poisson_is_the_mean_over_numbers_and_exact_on_ranks(extra):
    """Of the pool 1, …, N the best of n is n(N + 1)/(n + 1) in the mean, whatever N."""
    chances = poisson.pmf(np.arange(40), extra)
    ranks = torch.arange(1.0, 41.0)
    by_n = [n * 41 / (n + 1) for n in range(1, 41)]
    found = metrics.best_of_poisson_expected(ranks, ranks, extra)
    assert found == pytest.approx(chances @ by_n, rel=1e-9)
    gold = normal(40)
    best = [metrics.best_of_n_expected(ranks, gold, n) for n in range(1, 41)]
    found = metrics.best_of_poisson_expected(ranks, gold, extra)
    assert found == pytest.approx(chances @ best, abs=1e-9)


def poisson_density(extra, quantile):
    return (1 + extra * quantile) * math.exp(extra * (quantile - 1))


@pytest.mark.parametrize("extra", [0.01, 1.0, 7.0, 100.0])
def test_best_of_poisson_kl_against_its_integral_and_its_closed_form(extra):
    def integrand(quantile):
        density = poisson_density(extra, quantile)
        return density * (math.log1p(extra * quantile) + extra * (quantile - 1))

    start = max(0.0, 1 - 60 / extra)
    expected, _ = quad(integrand, start, 1, epsabs=1e-12, epsrel=1e-12)
    found = metrics.best_of_poisson_kl(extra)
    assert found == pytest.approx(expected, rel=1e-8, abs=1e-10)
    tail = math.exp(-extra - 1) * (expi(extra + 1) - expi(1)) / extra
    assert found == pytest.approx(math.log1p(extra) - 1 + tail, rel=1e-9, abs=1e-12)


@pytest.mark.parametrize("n", [2, 8, 32])
def test_best_of_poisson_reaches_higher_than_best_of_n_at_its_kl(n):
    kl = metrics.best_of_n_kl(n)
    extra = brentq(lambda extra: metrics.best_of_poisson_kl(extra) - kl, 0, 100)
    height, _ = quad(lambda u: u * poisson_density(extra, u), 0, 1)
    tilt = brentq(lambda tilt: tilted(tilt)[1] - kl, 1e-3, 100)
    assert n / (n + 1) < height < tilted(tilt)[0]


def tilted(tilt):
    """Return mean and KL of the density that is proportional to e^(tilt · u)."""
    log_total = math.log(math.expm1(tilt) / tilt)
    mean = 1 / (1 - math.exp(-tilt)) - 1 / tilt
    return mean, tilt * mean - log_total


@pytest.mark.parametrize("n", [1, 2, 16])
def test_best_of_n_kl_against_its_integral(n):
    """By proxy's quantile u the best of n has the density n·u^(n-1), so the KL is ∫
    n·u^(n-1)·ln(n·u^(n-1)) du.
    """
    u = (torch.arange(200_000, dtype=torch.float64) + 0.5) / 200_000
    density = n * u ** (n - 1)
    assert metrics.best_of_n_kl(n) == pytest.approx(
        torch.xlogy(density, density).mean().item(), abs=1e-6
    )


LABELS = torch.tensor([0, 1, 1])
BAD = float("nan")


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: metrics.auc(torch.zeros(0), torch.zeros(0)), "N >= 1"),
        (lambda: metrics.auc(torch.zeros(1), torch.zeros(1)), "at least one of each"),
        (lambda: metrics.auc(torch.zeros(3), torch.tensor([0, 0.5, 1])), "labels 0 and 1"),
        (lambda: metrics.auc(torch.zeros(2), LABELS), "scores and labels"),
        (lambda: metrics.auc(torch.zeros(3, 1), LABELS), r"\[3, 1\]"),
        (
            lambda: metrics.auc(torch.tensor([0.0, BAD, 1.0]), LABELS),
            "scores must be finite.*row 1",
        ),
        (
            lambda: metrics.auc_interval(torch.tensor([0.0, torch.inf, 1.0]), LABELS),
            "scores must be finite",
        ),
        (lambda: metrics.rank_correlation(torch.zeros(1), torch.zeros(1)), "N >= 2"),
        (
            lambda: metrics.rank_correlation(torch.tensor([0.0, BAD]), torch.zeros(2)),
            "a must be finite",
        ),
        (lambda: metrics.calibration_error(torch.zeros(0), torch.zeros(0)), "N >= 1"),
        (lambda: metrics.calibration_error(torch.zeros(2), torch.tensor([-1, 1])), "-1.0 to 1.0"),
        (lambda: metrics.mean_interval(torch.zeros(1)), "N >= 2"),
        (lambda: metrics.mean_interval(torch.tensor([BAD, 1.0])), "values must be finite"),
        (lambda: metrics.frechet_distance(torch.zeros(1, 3), torch.zeros(5, 3)), "N >= 2"),
        (lambda: metrics.kernel_distance(torch.zeros(5, 3), torch.zeros(5, 4)), "one D"),
        (lambda: metrics.kernel_distance(torch.full((2, 2), BAD), torch.zeros(2, 2)), "4 NaN"),
        (lambda: metrics.diversity(torch.zeros(1, 3)), "N >= 2"),
        (lambda: metrics.precision_recall(torch.zeros(3, 2), torch.zeros(9, 2)), "N >= 4"),
        (lambda: metrics.coverage(torch.zeros(5, 2), torch.zeros(9, 2)), "N >= 6"),
        (lambda: metrics.coverage(torch.zeros(6, 2), torch.zeros(0, 2)), "N >= 1"),
        (lambda: metrics.best_of_n_expected(torch.zeros(3), torch.zeros(3), 4), "n=4, N=3"),
        (lambda: metrics.best_of_n_expected(torch.zeros(3), torch.zeros(3), 0), "n=0"),
        (lambda: metrics.best_of_n_kl(0), "n >= 1"),
        (lambda: metrics.best_of_poisson_kl(-1.0), "0 or more; got -1"),
        (
            lambda: metrics.best_of_poisson_expected(torch.zeros(8), torch.zeros(8), 9.0),
            r"more than the pool's N=8 with chance 0\.676",
        ),
    ],
)
def test_bad_input_is_named(call, words):
    with pytest.raises(InputError, match=words):
        call()
