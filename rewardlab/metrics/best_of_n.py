"""The best of n samples by a proxy: its expected gold score, and its distance from its source."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from rewardlab.errors import InputError
from rewardlab.metrics.columns import checked_columns, share_ties


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
    keys, values = checked_columns(1, proxy=proxy, gold=gold)
    if not 1 <= n <= len(keys):
        raise InputError(
            "best_of_n_expected takes the best of n out of N samples, so 1 <= n <= N; "
            f"got n={n}, N={len(keys)}."
        )
    ranks = torch.arange(n, len(keys) + 1, dtype=torch.float64, device=keys.device)
    # log C(i-1, n-1) up to a constant; Σ_i C(i-1, n-1) = C(N, n), so the weights are its softmax
    logs = torch.lgamma(ranks) - torch.lgamma(ranks - n + 1)
    weights = logs.softmax(0)
    shared = share_ties(keys, values)
    ordered = shared[keys.argsort()]
    return float(weights @ ordered[n - 1 :])


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
