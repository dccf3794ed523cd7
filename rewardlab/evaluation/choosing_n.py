"""How large an n: best of n, and its soft form, on few judged prompts; and without a judge."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

from rewardlab.errors import InputError
from rewardlab.metrics import best_of_n_expected, mean_interval
from rewardlab.metrics.best_of_n import Draws, poisson_fits, poisson_weights, ranked_by
from rewardlab.metrics.bootstrap import percentiles, resample_counts
from rewardlab.seeds import derive


@dataclass(frozen=True)
class ChosenN:
    """The n at which the mean gold of the best of n is highest.

    Attributes:
        n: the argmax; of the best of Poisson the mean number of outputs.
        low: lower end of its bootstrap interval over prompts.
        high: the upper end.
        gold: mean gold at n.
        largest: the largest n that was tried; an n there may be too small.
    """

    n: int
    low: int
    high: int
    gold: float
    largest: int

    def as_dict(self) -> dict[str, Any]:
        """Return plain data."""
        return asdict(self)


@dataclass(frozen=True)
class FamiliarN:
    """Up to which n the best of n stays among what the first policy's outputs are.

    Attributes:
        n: the largest n tried up to which the share of doubtful choices is not above the
            references' by its interval.
        leaves: the first n at which it is; None if it is nowhere.
        shares: the share at each n, by n.
    """

    n: int
    leaves: int | None
    shares: dict[int, float]

    def as_dict(self) -> dict[str, Any]:
        """Return plain data."""
        return asdict(self)


def choose_n(
    proxy: Tensor,
    gold: Tensor,
    ns: Sequence[int] | None = None,
    *,
    confidence: float = 0.95,
    seed: int = 0,
    resamples: int = 1000,
    draws: Draws = "fixed",
) -> ChosenN:
    """Return the n with the highest mean gold of the best of n by proxy, with its interval.

    Hedging over n: arXiv 2506.19248. Gold at every n is estimated without bias from one pool. The
    interval is that of the argmax over bootstrap resamples of the prompts. For a single prompt it
    is the argmax alone.

    Args:
        proxy: scores [P, N] of N outputs of each of P prompts.
        gold: the judge's scores [P, N] of the same outputs.
        ns: what is tried, 1 ≤ n ≤ N; by default all.
        confidence: level of the interval.
        seed: seed of the resampling.
        resamples: how many.
        draws: "fixed" n, or "poisson": 1 + Poisson(n - 1) for each output, n in the mean. Of the
            default `ns` those are tried for which the pool is large enough.

    Raises:
        InputError: if the shapes do not fit, or the pool is too small for an n of `ns`.

    Example:
        >>> proxy = torch.arange(6.0).repeat(3, 1)
        >>> choose_n(proxy, -(proxy - 3).abs()).n
        2
    """
    check_pool(proxy, gold)
    tried = list(ns or fitting_ns(range(1, proxy.shape[1] + 1), proxy.shape[1], draws))
    by_n = best_of_each_n(proxy, gold, tried, draws)
    means = by_n.mean(0)
    best = int(means.argmax())
    counts = resample_counts(len(by_n), resamples, derive(seed, "n"), by_n.device)
    argmaxes = (counts @ by_n).argmax(1)
    chosen = torch.tensor(tried, dtype=torch.float64)[argmaxes]
    low, high = percentiles(chosen, confidence)
    return ChosenN(tried[best], round(low), round(high), means[best].item(), max(tried))


def familiar_n(
    proxy: Tensor,
    doubt: Tensor,
    ns: Sequence[int],
    *,
    share: float = 0.95,
    confidence: float = 0.95,
    seed: int = 0,
) -> FamiliarN:
    """Return up to which n what is chosen stays within the references' 95 %, without any gold.

    An output is doubtful whose doubt is above the pool's 95 % quantile: of the pool itself 5 % are.
    For distances in feature space the share is MOP at level 0.05 (`rewards.Outliers`); for an
    ensemble the doubt is the members' deviation. It has left where the lower end of the interval
    over prompts of the share among the best of n is above 5 %.

    Args:
        proxy: scores [P, N] of N outputs of each of P ≥ 2 prompts.
        doubt: [P, N], higher for what is less known.
        ns: what is tried, rising.
        share: of the pool that is not doubtful.
        confidence: level of the intervals.
        seed: seed of the intervals' resampling.

    Raises:
        InputError: if the shapes do not fit, or there is one prompt.

    Example:
        >>> proxy = torch.arange(40.0).repeat(5, 1)
        >>> familiar_n(proxy, proxy, [1, 2, 4, 8]).leaves
        2
    """
    check_pool(proxy, doubt)
    if len(proxy) < 2:
        raise InputError(
            "familiar_n measures a share over prompts and needs 2 or more; got 1. Give more "
            "prompts."
        )
    doubtful = (doubt > doubt.flatten().double().quantile(share)).double()
    by_n = best_of_each_n(proxy, doubtful, ns)
    shares = dict(zip(ns, by_n.mean(0).tolist(), strict=True))
    last = ns[0]
    for place, n in enumerate(ns):
        low, _ = mean_interval(by_n[:, place], confidence, seed)
        if low > 1 - share and n > 1:
            return FamiliarN(last, n, shares)
        last = n
    return FamiliarN(last, None, shares)


def soft_best_of_n_expected(
    proxy: Tensor, gold: Tensor, n: int, sharpness: float, *, subsets: int = 200, seed: int = 0
) -> Tensor:
    """Return the expected gold [P] of soft best of n: one of n outputs by softmax(λ · proxy).

    arXiv 2506.19248. λ → ∞ is the best of n and λ = 0 a random output. The mean over random subsets
    of n of each prompt's pool is unbiased at any number of subsets; at n = N it is exact.

    Args:
        proxy: scores [P, N].
        gold: scores [P, N] of the same outputs.
        n: 1 ≤ n ≤ N.
        sharpness: λ, in 1/unit of the proxy.
        subsets: random subsets of each prompt's pool.
        seed: seed of the subsets.

    Raises:
        InputError: if the shapes do not fit, or n is not in the pool's range.

    Example:
        >>> scores = torch.tensor([[0.0, 1.0, 2.0]])
        >>> soft_best_of_n_expected(scores, scores, 3, 0.0).tolist()
        [1.0]
    """
    check_pool(proxy, gold)
    prompts, size = proxy.shape
    if not 1 <= n <= size:
        raise InputError(
            f"Soft best of n draws n of N outputs, so 1 <= n <= N; got n={n}, N={size}. Draw more "
            "outputs of each prompt."
        )
    generator = torch.Generator().manual_seed(derive(seed, "soft best of n"))
    count = 1 if n == size else subsets
    order = torch.rand(prompts, count, size, generator=generator).argsort(2)
    chosen = order[..., :n].to(proxy.device).flatten(1)
    shape = (prompts, count, n)
    proxies = proxy.double().gather(1, chosen).view(shape)
    golds = gold.double().gather(1, chosen).view(shape)
    weights = (sharpness * proxies).softmax(2)
    expected = (weights * golds).sum(2)
    return expected.mean(1)


def fitting_ns(ns: Sequence[int], size: int, draws: Draws) -> list[int]:
    """Return the n for which a pool of N = `size` outputs is large enough.

    Example:
        >>> fitting_ns([1, 2, 4, 8], 12, "poisson"), fitting_ns([1, 2, 4, 8], 12, "fixed")
        ([1, 2, 4], [1, 2, 4, 8])
    """
    if draws == "poisson":
        return [n for n in ns if poisson_fits(n - 1, size)]
    return list(ns)


def best_of_each_n(
    proxy: Tensor, values: Tensor, ns: Sequence[int], draws: Draws = "fixed"
) -> Tensor:
    """Return the unbiased expected value of the best of each n by proxy, float64 [P, len(ns)]."""
    if draws == "poisson":
        weights = torch.stack([poisson_weights(n - 1, proxy.shape[1]) for n in ns], 1)
        columns = zip(proxy, values, strict=True)
        ordered = [ranked_by(prompt_proxy, of_prompt).cpu() for prompt_proxy, of_prompt in columns]
        return torch.stack(ordered) @ weights
    rows = []
    for prompt_proxy, prompt_values in zip(proxy, values, strict=True):
        rows.append([best_of_n_expected(prompt_proxy, prompt_values, n) for n in ns])
    return torch.tensor(rows, dtype=torch.float64)


def check_pool(proxy: Tensor, values: Tensor) -> None:
    """Refuse scores that are not of one pool.

    Raises:
        InputError: if they are no tables [P, N] of one shape.
    """
    if proxy.dim() != 2 or proxy.shape != values.shape or not proxy.numel():
        raise InputError(
            "How large an n is read off two tables of scores [P, N] of the same outputs; "
            f"got {list(proxy.shape)} and {list(values.shape)}. Are both of all prompts?"
        )
