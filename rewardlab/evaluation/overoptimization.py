"""Over-optimisation: gold against the proxy's optimisation, Gao's two fits, and how long a reward
stays good.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from rewardlab.errors import InputError
from rewardlab.metrics import best_of_n_expected, best_of_n_kl, mean_interval
from rewardlab.seeds import derive

Interval = tuple[float, float]


def best_of_n_curve(
    proxy: Tensor,
    gold: Tensor,
    ns: Sequence[int] | None = None,
    *,
    confidence: float = 0.95,
    seed: int = 0,
) -> list[dict[str, Any]]:
    """Expected proxy and gold score of the best of n by proxy, against n and √KL, with KL = ln n -
    (n - 1)/n.

    Each point is the mean over all choices of n of a prompt's N samples, and then over prompts; the
    KL is an upper bound where scores tie. Nakano et al., arXiv 2112.09332; Gao et al., arXiv
    2210.10760, section 2.

    Args:
        proxy: [P, N], scores of N samples of each of P prompts.
        gold: [P, N], the judge's of the same samples.
        ns: 1 ≤ n ≤ N; powers of two up to N/2 by default, since at n = N one sample decides.
        confidence: of the intervals over prompts, which are left out for a single prompt.
        seed: of the intervals' resampling.

    Returns:
        A row for each n: "n", "kl", "distance" (√KL), "proxy", "gold", each with "…_low" and
            "…_high".

    Example:
        >>> scores = torch.tensor([[0.0, 1.0, 2.0, 3.0]])
        >>> [(row["n"], round(row["proxy"], 3)) for row in best_of_n_curve(scores, -scores)]
        [(1, 1.5), (2, 2.333)]
    """
    if proxy.dim() != 2 or proxy.shape != gold.shape or not proxy.numel():
        raise InputError(
            f"best_of_n_curve needs proxy and gold [P, N]; got {list(proxy.shape)} and {list(gold.shape)}."
        )
    ns = ns or [2**power for power in range(max(1, proxy.shape[1] // 2).bit_length())]
    rows = []
    for n in ns:
        row: dict[str, Any] = {
            "n": n,
            "kl": best_of_n_kl(n),
            "distance": math.sqrt(best_of_n_kl(n)),
        }
        for name, values in (("proxy", proxy), ("gold", gold)):
            column = torch.tensor(
                [best_of_n_expected(*pair, n) for pair in zip(proxy, values, strict=True)]
            )
            row[name] = column.mean().item()
            if len(column) > 1:
                row[f"{name}_low"], row[f"{name}_high"] = mean_interval(column, confidence, seed)
        rows.append(row)
    return rows


@dataclass(frozen=True)
class Fit:
    """A fit of gold to the distance d = √KL from where optimisation began. See
    `fit_overoptimization`.

    Attributes:
        form: "best_of_n" or "rl".
        alpha: α, the slope where optimisation begins.
        beta: β, how fast it is lost.
        peak: d* of the highest gold; infinite where the fit never turns (β ≤ 0), 0 where it falls
            from the start.
        peak_gold: the fit's gold there, over the start's.
        r2: 1 - residual over total sum of squares; NaN if gold is constant.
        intervals: (low, high) of alpha, beta and peak.
        reached: the largest d that was measured; a peak beyond it is extrapolated.
    """

    form: str
    alpha: float
    beta: float
    peak: float
    peak_gold: float
    r2: float
    intervals: dict[str, Interval]
    reached: float

    def __call__(self, distance: Tensor) -> Tensor:
        """Return the fitted gold, over the start's, at distances d = √KL."""
        return (
            _design(distance.double(), self.form)
            @ distance.new_tensor([self.alpha, self.beta]).double()
        )

    def as_dict(self) -> dict[str, Any]:
        """Return plain data for results.json; what is infinite or not a number becomes None."""
        plain = asdict(self) | {
            "intervals": {
                name: [_plain(end) for end in ends] for name, ends in self.intervals.items()
            }
        }
        return {
            name: _plain(value) if isinstance(value, float) else value
            for name, value in plain.items()
        }


def fit_overoptimization(
    distance: Tensor,
    gold: Tensor,
    form: Literal["best_of_n", "rl"],
    *,
    confidence: float = 0.95,
    resamples: int = 1000,
    seed: int = 0,
) -> Fit:
    """Least squares of R(d) = d(α - βd) for best of n, or R(d) = d(α - β·ln d) for RL. Gao et al.,
    arXiv 2210.10760, eq. 1.

    Both are linear in α and β, so the minimum is exact. Their peaks are d* = α/2β and d* = e^(α/β -
    1), with R(d*) = α²/4β and β·d*. R is gold less its start: R(0) = 0.

    Args:
        distance: [S], √KL in nats, 0 where nothing was optimised.
        gold: [S], or [S, K] of K seeds or prompts. Subtract the start first.
        form: of the curve.
        confidence: of the intervals: percentiles over bootstrap resamples of the K columns, or of
            the residuals for [S]. Residuals along a training run are correlated, so there they are
            too narrow; give several seeds.
        resamples: how many.
        seed: of the resampling.

    Raises:
        InputError: if there are fewer than three points, a distance is negative, or all are alike.

    Example:
        >>> d = torch.linspace(0, 4, 9)
        >>> fit = fit_overoptimization(d, d * (3 - 0.5 * d), "best_of_n")
        >>> round(fit.alpha, 4), round(fit.beta, 4), round(fit.peak, 4), round(fit.r2, 4)
        (3.0, 0.5, 3.0, 1.0)
    """
    d = distance.detach().double().cpu()
    columns = gold.detach().double().cpu()
    _check_curve(d, columns)
    design = _design(d, form)
    if torch.linalg.matrix_rank(design) < 2:
        raise InputError(
            f"A fit of two numbers needs two different distances above 0; got {d.tolist()}."
        )
    mean = columns if columns.dim() == 1 else columns.mean(1)
    solve = torch.linalg.pinv(design)
    alpha, beta = (solve @ mean).tolist()
    fitted = design @ (solve @ mean)
    drawn = solve @ _redrawn(columns, fitted, resamples, seed)
    total = (mean - mean.mean()).square().sum()
    r2 = (1 - (mean - fitted).square().sum() / total).item() if total > 0 else math.nan
    peaks = _peaks(drawn[0], drawn[1], form)
    ends = {
        name: _ends(values, confidence)
        for name, values in (("alpha", drawn[0]), ("beta", drawn[1]), ("peak", peaks))
    }
    peak = _peaks(torch.tensor(alpha), torch.tensor(beta), form).item()
    height = _height(alpha, beta, peak, form)
    return Fit(form, alpha, beta, peak, height, r2, ends, d.max().item())


def _check_curve(d: Tensor, columns: Tensor) -> None:
    if (
        d.dim() != 1
        or columns.dim() not in (1, 2)
        or len(columns) != len(d)
        or len(d) < 3
        or not columns.numel()
    ):
        raise InputError(
            "A fit needs distances [S] and gold [S] or [S, K], at least 3 points; "
            f"got {list(d.shape)} and {list(columns.shape)}."
        )
    if not (d.isfinite().all() and columns.isfinite().all()) or d.min() < 0:
        raise InputError(
            "A fit needs finite gold and distances √KL >= 0. An estimated KL below 0 counts as 0: clamp it first."
        )


def _design(d: Tensor, form: str) -> Tensor:
    """Return [S, 2], what α and β are multiplied with."""
    if form not in ("best_of_n", "rl"):
        raise InputError(f'The form of a fit is "best_of_n" or "rl"; got {form!r}.')
    return torch.stack([d, -d.square() if form == "best_of_n" else -torch.xlogy(d, d)], -1)


def _redrawn(columns: Tensor, fitted: Tensor, resamples: int, seed: int) -> Tensor:
    """Return gold [S, R] of bootstrap resamples, of the columns if there are several, else of the
    residuals.
    """
    several = columns.dim() == 2 and columns.shape[1] > 1
    count = columns.shape[1] if several else len(columns)
    rows = torch.randint(
        count,
        (count, resamples),
        generator=torch.Generator().manual_seed(derive(seed, "over-optimisation")),
    )
    if several:
        return columns[:, rows].mean(1)
    return fitted[:, None] + (columns.flatten() - fitted)[rows]


def _peaks(alpha: Tensor, beta: Tensor, form: str) -> Tensor:
    """Return d* ≥ 0 for each α and β; infinite where gold rises without end."""
    turned = (alpha / (2 * beta)).clamp_min(0) if form == "best_of_n" else (alpha / beta - 1).exp()
    falls = torch.zeros_like(turned)
    return torch.where(
        beta > 0,
        turned,
        torch.where((beta == 0) & (alpha <= 0), falls, torch.full_like(turned, math.inf)),
    )


def _height(alpha: float, beta: float, peak: float, form: str) -> float:
    if math.isinf(peak) or peak == 0:
        return peak
    return peak * (alpha - beta * peak) if form == "best_of_n" else beta * peak


def _ends(values: Tensor, confidence: float) -> Interval:
    """Return the percentiles by rank, outwards, so that infinite values need no arithmetic."""
    ordered = values.sort().values
    tail = (1 - confidence) / 2 * (len(values) - 1)
    return ordered[math.floor(tail)].item(), ordered[math.ceil(len(values) - 1 - tail)].item()


def _plain(value: float) -> float | None:
    return value if math.isfinite(value) else None
