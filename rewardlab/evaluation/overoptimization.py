"""Over-optimization: gold against the optimization of its proxy, and Gao's two fits."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from rewardlab.errors import InputError
from rewardlab.evaluation.choosing_n import best_of_each_n
from rewardlab.metrics import best_of_n_kl, best_of_poisson_kl, mean_interval
from rewardlab.metrics.best_of_n import Draws
from rewardlab.seeds import derive

Interval = tuple[float, float]


def best_of_n_curve(
    proxy: Tensor,
    gold: Tensor,
    ns: Sequence[int] | None = None,
    *,
    confidence: float = 0.95,
    seed: int = 0,
    draws: Draws = "fixed",
) -> list[dict[str, Any]]:
    """Return the expected proxy and gold score of the best of n by proxy, against n and √KL.

    KL = ln n - (n - 1)/n. Each point is the mean over all choices of n of a prompt's N samples, and
    then over prompts. The KL is an upper bound where scores tie. Nakano et al., arXiv 2112.09332;
    Gao et al., arXiv 2210.10760, section 2.

    Args:
        proxy: scores [P, N] of N samples of each of P prompts.
        gold: the judge's scores [P, N] of the same samples.
        ns: numbers n with 1 ≤ n ≤ N. By default, powers of two up to N/2, since at n = N one sample
            decides.
        confidence: level of the intervals over prompts, which are left out for a single prompt.
        seed: seed of the intervals' resampling.
        draws: "fixed" n, or "poisson": 1 + Poisson(n - 1) for each output (best of Poisson, arXiv
            2506.19248), whose KL at one n is another.

    Returns:
        A row for each n: "n", "kl", "distance" (√KL), "proxy", "gold", the last two each with
            "…_low" and "…_high".

    Example:
        >>> scores = torch.tensor([[0.0, 1.0, 2.0, 3.0]])
        >>> [(row["n"], round(row["proxy"], 3)) for row in best_of_n_curve(scores, -scores)]
        [(1, 1.5), (2, 2.333)]
    """
    if proxy.dim() != 2 or proxy.shape != gold.shape or not proxy.numel():
        raise InputError(
            "best_of_n_curve needs proxy and gold [P, N]; "
            f"got {list(proxy.shape)} and {list(gold.shape)}."
        )
    rows = []
    for n in ns or powers_of_two(proxy.shape[1] // 2):
        kl = best_of_n_kl(n) if draws == "fixed" else best_of_poisson_kl(n - 1)
        row: dict[str, Any] = {"n": n, "kl": kl}
        row["distance"] = math.sqrt(row["kl"])
        for name, values in (("proxy", proxy), ("gold", gold)):
            column = best_of_each_n(proxy, values, [n], draws)[:, 0].float()
            row |= _expectation(name, column, confidence, seed)
        rows.append(row)
    return rows


def powers_of_two(largest: int) -> list[int]:
    """Return the powers of two up to `largest`, at least 1."""
    count = max(1, largest).bit_length()
    return [2**power for power in range(count)]


def _expectation(name: str, column: Tensor, confidence: float, seed: int) -> dict[str, float]:
    """Return the mean over prompts, with its interval if there are several."""
    figures = {name: column.mean().item()}
    if len(column) > 1:
        low, high = mean_interval(column, confidence, seed)
        figures[f"{name}_low"] = low
        figures[f"{name}_high"] = high
    return figures


@dataclass(frozen=True)
class Fit:
    """A fit of gold to the distance d = √KL from the start. See `fit_overoptimization`.

    Attributes:
        form: "best_of_n" or "rl".
        alpha: α, the slope where optimization begins.
        beta: β, how fast the slope is lost.
        peak: d* of the highest gold; infinite where the fit never turns (β ≤ 0), 0 where it falls
            from the start.
        peak_gold: the fit's gold at the peak, over the start's.
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
        design = _design(distance.double(), self.form)
        coefficients = distance.new_tensor([self.alpha, self.beta])
        return design @ coefficients.double()

    def as_dict(self) -> dict[str, Any]:
        """Return plain data for results.json; what is infinite or not a number becomes None."""
        plain = asdict(self)
        for name, value in plain.items():
            if isinstance(value, float):
                plain[name] = _finite_or_none(value)
        intervals = {}
        for name, interval in self.intervals.items():
            intervals[name] = [_finite_or_none(end) for end in interval]
        plain["intervals"] = intervals
        return plain


def fit_overoptimization(
    distance: Tensor,
    gold: Tensor,
    form: Literal["best_of_n", "rl"],
    *,
    confidence: float = 0.95,
    resamples: int = 1000,
    seed: int = 0,
) -> Fit:
    """Fit a curve of gold over √KL by least squares. Gao et al., arXiv 2210.10760, eq. 1.

    The curve is R(d) = d(α - βd) for best of n, and R(d) = d(α - β·ln d) for RL. Both are linear in
    α and β, so the minimum is exact. Their peaks are d* = α/2β and d* = e^(α/β - 1), with R(d*) =
    α²/4β and β·d*. R is gold less its start: R(0) = 0.

    Args:
        distance: √KL in nats, [S]; 0 where nothing was optimized.
        gold: [S], or [S, K] of K seeds or prompts. Subtract the start first.
        form: form of the curve.
        confidence: level of the intervals, which are percentiles over bootstrap resamples of the K
            columns, or of the residuals for [S]. Residuals along a training run are correlated, so
            there they are too narrow; give several seeds.
        resamples: number of resamples.
        seed: seed of the resampling.

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
    design = _checked_design(d, form)
    mean = columns if columns.dim() == 1 else columns.mean(1)
    solve = torch.linalg.pinv(design)
    coefficients = solve @ mean
    fitted = design @ coefficients
    resampled = solve @ _resampled(columns, fitted, resamples, seed)
    alpha, beta = coefficients.tolist()
    peak = _peaks(torch.tensor(alpha), torch.tensor(beta), form).item()
    return Fit(
        form=form,
        alpha=alpha,
        beta=beta,
        peak=peak,
        peak_gold=_height(alpha, beta, peak, form),
        r2=_r2(mean, fitted),
        intervals=_intervals(resampled, form, confidence),
        reached=d.max().item(),
    )


def _check_curve(d: Tensor, columns: Tensor) -> None:
    """Refuse columns of wrong shapes, and values that no fit can take."""
    shaped = d.dim() == 1 and columns.dim() in (1, 2)
    if not shaped or len(columns) != len(d) or len(d) < 3 or not columns.numel():
        raise InputError(
            "A fit needs distances [S] and gold [S] or [S, K], at least 3 points; "
            f"got {list(d.shape)} and {list(columns.shape)}."
        )
    finite = d.isfinite().all() and columns.isfinite().all()
    if not finite or d.min() < 0:
        raise InputError(
            "A fit needs finite gold and distances √KL >= 0. An estimated KL below 0 counts as 0: "
            "clamp it first."
        )


def _design(d: Tensor, form: str) -> Tensor:
    """Return [S, 2], what α and β are multiplied with."""
    if form == "best_of_n":
        return torch.stack([d, -d.square()], -1)
    if form == "rl":
        return torch.stack([d, -torch.xlogy(d, d)], -1)
    raise InputError(f'The form of a fit is "best_of_n" or "rl"; got {form!r}.')


def _checked_design(d: Tensor, form: str) -> Tensor:
    """Return `_design`, if it determines both numbers."""
    design = _design(d, form)
    if torch.linalg.matrix_rank(design) < 2:
        raise InputError(
            f"A fit of two numbers needs two different distances above 0; got {d.tolist()}."
        )
    return design


def _resampled(columns: Tensor, fitted: Tensor, resamples: int, seed: int) -> Tensor:
    """Return gold [S, R] of bootstrap resamples.

    The columns are resampled if there are several, else the residuals.
    """
    several = columns.dim() == 2 and columns.shape[1] > 1
    count = columns.shape[1] if several else len(columns)
    generator = torch.Generator().manual_seed(derive(seed, "over-optimisation"))
    rows = torch.randint(count, (count, resamples), generator=generator)
    if several:
        return columns[:, rows].mean(1)
    residuals = columns.flatten() - fitted
    return fitted[:, None] + residuals[rows]


def _r2(gold: Tensor, fitted: Tensor) -> float:
    """Return 1 - residual over total sum of squares; NaN if gold is constant."""
    residual = (gold - fitted).square().sum()
    total = (gold - gold.mean()).square().sum()
    if total > 0:
        return (1 - residual / total).item()
    return math.nan


def _intervals(coefficients: Tensor, form: str, confidence: float) -> dict[str, Interval]:
    """Return the intervals of alpha, beta and peak from resampled coefficients [2, R]."""
    alpha = coefficients[0]
    beta = coefficients[1]
    return {
        "alpha": _percentiles(alpha, confidence),
        "beta": _percentiles(beta, confidence),
        "peak": _percentiles(_peaks(alpha, beta, form), confidence),
    }


def _peaks(alpha: Tensor, beta: Tensor, form: str) -> Tensor:
    """Return d* ≥ 0 for each α and β; infinite where gold rises without end."""
    turning_point = _turning_points(alpha, beta, form)
    start = torch.zeros_like(turning_point)
    never = torch.full_like(turning_point, math.inf)
    falls = (beta == 0) & (alpha <= 0)
    without_turn = torch.where(falls, start, never)
    return torch.where(beta > 0, turning_point, without_turn)


def _turning_points(alpha: Tensor, beta: Tensor, form: str) -> Tensor:
    """Return d* of curves that turn, which are those with β > 0."""
    if form == "best_of_n":
        return (alpha / (2 * beta)).clamp_min(0)
    return (alpha / beta - 1).exp()


def _height(alpha: float, beta: float, peak: float, form: str) -> float:
    """Return the fit's gold at its peak."""
    if math.isinf(peak) or peak == 0:
        return peak
    if form == "best_of_n":
        return peak * (alpha - beta * peak)
    return beta * peak


def _percentiles(values: Tensor, confidence: float) -> Interval:
    """Return the percentiles by rank, outwards, so that infinite values need no arithmetic."""
    ordered = values.sort().values
    last = len(values) - 1
    tail = (1 - confidence) / 2 * last
    low = ordered[math.floor(tail)]
    high = ordered[math.ceil(last - tail)]
    return low.item(), high.item()


def _finite_or_none(value: float) -> float | None:
    return value if math.isfinite(value) else None
