"""The best of n samples by a proxy: its expected gold score, and its distance from its source.

Best of Poisson draws n anew for each output, 1 plus a Poisson number.
"""

from __future__ import annotations

import math
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from rewardlab.errors import InputError
from rewardlab.metrics.columns import checked_columns, share_ties

Draws = Literal["fixed", "poisson"]
TAIL = 1e-3  # of the numbers that a pool may be too small for
NODES = 200  # of the quadrature, on an interval beyond which e^-s is below 1e-21
REACH = 50.0


def best_of_n_expected(proxy: Tensor, gold: Tensor, n: int) -> float:
    """Return the expected gold score of the best of n by proxy, Σ_i C(i-1, n-1)/C(N, n) · gold_(i).

    Rows are sorted by proxy. Unbiased: the mean over all subsets of n (Nakano et al., arXiv
    2112.09332). Tied proxies share their mean gold score, as if a coin chose among them.

    Args:
        proxy: [N], scores of N samples of one prompt; take the mean over prompts afterwards.
        gold: [N], scores of the same samples.
        n: 1 ≤ n ≤ N.

    Example:
        >>> proxy, gold = torch.tensor([1.0, 2.0, 3.0]), torch.tensor([0.0, 5.0, 1.0])
        >>> round(best_of_n_expected(proxy, gold, 2), 6)
        2.333333
    """
    ordered = ranked_by(proxy, gold)
    if not 1 <= n <= len(ordered):
        raise InputError(
            "best_of_n_expected takes the best of n out of N samples, so 1 <= n <= N; "
            f"got n={n}, N={len(ordered)}."
        )
    weights = _rank_weights(len(ordered), n).to(ordered.device)
    return float(weights @ ordered[n - 1 :])


def ranked_by(proxy: Tensor, gold: Tensor) -> Tensor:
    """Return gold [N] by rising proxy, float64; where proxies tie, their mean.

    Example:
        >>> ranked_by(torch.tensor([2.0, 1.0, 2.0]), torch.tensor([0.0, 5.0, 1.0])).tolist()
        [5.0, 0.5, 0.5]
    """
    keys, values = checked_columns(1, proxy=proxy, gold=gold)
    return share_ties(keys, values)[keys.argsort()]


def _rank_weights(size: int, n: int) -> Tensor:
    """Return C(i-1, n-1)/C(N, n) for the ranks i = n, …, N of N = `size` samples, float64."""
    ranks = torch.arange(n, size + 1, dtype=torch.float64)
    # log C(i-1, n-1) up to a constant; Σ_i C(i-1, n-1) = C(N, n), so the weights are its softmax
    logs = torch.lgamma(ranks) - torch.lgamma(ranks - n + 1)
    return logs.softmax(0)


def best_of_n_kl(n: int) -> float:
    """Return the KL divergence in nats of the best of n from its source, ln n - (n - 1)/n.

    Stiennon et al., arXiv 2009.01325. Exact for continuous scores without ties, otherwise an upper
    bound (Beirami et al., arXiv 2401.01879).

    Example:
        >>> round(best_of_n_kl(4), 4)
        0.6363
    """
    if n < 1:
        raise InputError(f"best_of_n_kl needs n >= 1; got {n}.")
    return math.log(n) - (n - 1) / n


def poisson_counts(extra: float, largest: int | None = None) -> Tensor:
    """Return the chances [K] of n = 1, 2, …, K for n = 1 + Poisson(extra), which sum to 1.

    K leaves out less than 1e-9, or is `largest`.

    Raises:
        InputError: if `extra` is below 0 or not finite.

    Example:
        >>> [round(chance, 4) for chance in poisson_counts(1.0, 3).tolist()]
        [0.4, 0.4, 0.2]
    """
    if not (math.isfinite(extra) and extra >= 0):
        raise InputError(
            "Best of Poisson draws 1 + Poisson(extra) outputs, and extra is a finite number of 0 "
            f"or more; got {extra}. Its mean n is 1 + extra."
        )
    count = largest or math.ceil(extra + 8 * math.sqrt(extra) + 20)
    numbers = torch.arange(count, dtype=torch.float64)
    rate = torch.tensor(extra, dtype=torch.float64)
    logs = torch.xlogy(numbers, rate) - torch.lgamma(numbers + 1)
    return logs.softmax(0)


def poisson_fits(extra: float, size: int) -> bool:
    """Tell whether a pool of N = `size` outputs is large enough for 1 + Poisson(extra) of them.

    Example:
        >>> poisson_fits(3.0, 8), poisson_fits(3.0, 12)
        (False, True)
    """
    return _tail(extra, size) <= TAIL


def poisson_weights(extra: float, size: int) -> Tensor:
    """Return how much each of N = `size` outputs counts for the best of Poisson, float64 [N].

    Outputs are sorted by proxy, rising.

    Raises:
        InputError: if `extra` is below 0, or N is too small for it.

    Example:
        >>> [round(weight, 3) for weight in poisson_weights(0.0, 4).tolist()]
        [0.25, 0.25, 0.25, 0.25]
    """
    if not poisson_fits(extra, size):
        raise InputError(
            f"Best of Poisson with {1 + extra:g} outputs in the mean draws more than the pool's "
            f"N={size} with chance {_tail(extra, size):.3f}, above {TAIL:g}. Draw more outputs of "
            "each prompt, or take a smaller mean."
        )
    kept = poisson_counts(extra)[:size]
    kept = kept / kept.sum()
    weights = torch.zeros(size, dtype=torch.float64)
    for number, chance in enumerate(kept.tolist(), start=1):
        weights[number - 1 :] += chance * _rank_weights(size, number)
    return weights


def _tail(extra: float, size: int) -> float:
    """Return the chance of more outputs than there are."""
    return poisson_counts(extra)[size:].sum().item()


def best_of_poisson_expected(proxy: Tensor, gold: Tensor, extra: float) -> float:
    """Return the expected gold score of the best of n by proxy, n = 1 + Poisson(extra).

    arXiv 2506.19248: the dial is continuous, and the chosen output is closer to the tilted
    distribution, the best there is at a KL, than that of the best of n. It is the mean of
    `best_of_n_expected` over n, without bias but for the n above N, whose chance may be 1e-3 at
    most and which are left out.

    Args:
        proxy: [N], scores of N samples of one prompt.
        gold: [N], scores of the same samples.
        extra: the mean of n - 1, 0 or more.

    Raises:
        InputError: if `extra` is below 0, or N is too small for it.

    Example:
        >>> scores = torch.arange(12.0)
        >>> best_of_poisson_expected(scores, scores, 0.0)
        5.5
        >>> round(best_of_poisson_expected(scores, scores, 3.0), 3)
        9.039
    """
    weights = poisson_weights(extra, len(proxy))
    return float(weights.to(gold.device) @ ranked_by(proxy, gold))


def best_of_poisson_kl(extra: float) -> float:
    """Return the KL divergence in nats of the best of Poisson from its source.

    ln(1 + μ) - 1 + e^(-μ-1)·(Ei(μ + 1) - Ei(1))/μ with μ = `extra`: arXiv 2506.19248. Exact for
    continuous scores without ties.

    Raises:
        InputError: if `extra` is below 0 or not finite.

    Example:
        >>> best_of_poisson_kl(0.0), round(best_of_poisson_kl(3.0), 4)
        (0.0, 0.4946)
    """
    poisson_counts(extra, 1)  # refuses what is no mean
    if extra == 0:
        return 0.0
    # e^(-μ-1)·(Ei(μ + 1) - Ei(1)) = ∫ e^(-s)/(1 + μ - s) ds over 0 ≤ s ≤ μ, by Gauss and Legendre
    end = min(extra, REACH)
    places, weights = np.polynomial.legendre.leggauss(NODES)
    steps = (places + 1) * end / 2
    integral = end / 2 * float(weights @ (np.exp(-steps) / (1 + extra - steps)))
    return math.log1p(extra) - 1 + integral / extra
