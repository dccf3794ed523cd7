"""Debiased: a reward less what a scalar fact, such as length, explains of it."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn

from rewardlab.errors import AlikeError, InputError
from rewardlab.rewards.abilities import Saved
from rewardlab.rewards.base import Reward
from rewardlab.rewards.combine import load_numbered, numbered
from rewardlab.rewards.folders import (
    CONFIG,
    check_parts,
    load_reward,
    read_settings,
    write_reward,
)
from rewardlab.rewards.rules import Length
from rewardlab.rewards.scoring import judged_by, scored_part, scores_of
from rewardlab.types import Samples

NAMES = ("knots", "values", "slopes")
KNOTS = 256  # of a curve; it is a straight line between two
PASSES = 20  # of backfitting, at most
TAIL = 0.1  # share of the references whose line goes on beyond them
Beyond = Literal["lower", "line", "constant"]


class Debiased(Reward, Saved):
    """The score less what a scalar measure of the output, such as its length, explains of it.

    r - m(x), where m is the locally weighted regression of the score r on the measure x over
    reference outputs (Cleveland, Journal of the American Statistical Association 74, 1979),
    fitted once: the calibration of Huang et al., arXiv 2409.17407. A reward that is linear in the
    measure becomes 0; one that ignores it loses its mean over the references alone. Several
    measures are fitted by backfitting. Each member has curves of its own; the score is the mean of
    the members.

    Beyond the references' range nothing is known of m, and an optimizer goes there if that pays. By
    default m goes on with the line through the outermost tenth where that line rises outwards, and
    stays as it is at the end where it falls: leaving the range is never paid for by m.

    Args:
        reward: whose scores are corrected.
        references: outputs of the policy that optimization starts from, or the saved curves.
        measures: rewards that measure x; by default `Length`, the number of words. `Fact("length")`
            is the policy's own count of tokens. Any rule does, of texts or pictures.
        share: share of the references that each local line is fitted to, in (0, 1].
        batch_size: references scored at once.
        beyond: how m goes on beyond the references' range: "line" with the line through their
            outermost tenth, "constant", or "lower", with whichever of both leaves the lower score.
            Saved curves go on as they were fitted.

    Raises:
        InputError: if `beyond` is another word, the share is outside its range, all references
            measure alike, or (on use) the curves belong to another number of members.

    Example:
        >>> from rewardlab.rewards import Function, Length
        >>> texts = ["a", "a b", "a b c", "a b c d", "a b c d e"]
        >>> wordy = Function(lambda samples: 3 * Length()(samples) + 1)
        >>> reward = Debiased(wordy, Samples([""] * 5, texts))
        >>> [round(score, 4) for score in reward(Samples([""] * 2, ["a b", "a " * 50])).tolist()]
        [0.0, 0.0]
    """

    mean_of_members = True
    takes_trust = True

    def __init__(
        self,
        reward: Reward,
        references: Samples | Sequence[Curve],
        measures: list[Reward] | None = None,
        share: float = 0.4,
        batch_size: int = 256,
        beyond: Beyond = "lower",
    ) -> None:
        super().__init__()
        if beyond not in get_args(Beyond):
            raise InputError(
                f'Debiased goes on beyond the references by "lower", "line" or "constant"; got '
                f'{beyond!r}. Take "lower", which never pays for leaving their range.'
            )
        if not 0 < share <= 1:
            raise InputError(
                "Debiased fits each local line to a share of the references, in (0, 1]; "
                f"got share={share}. Take 0.4."
            )
        self.reward = reward
        measures = measures or [Length()]
        self.measures: Any = nn.ModuleList(measures)
        if isinstance(references, Samples):
            judged = judged_by(reward, reward.members, references, batch_size)
            references, members = scored_part(references, judged, "references")
            scores = members.double()
            columns = []
            for measure in measures:
                column = scores_of(measure, references, batch_size)
                columns.append(column.double())
            curves = fit_curves(columns, scores, share)
            for curve in curves:
                curve.slopes = slopes_beyond(curve.slopes, beyond)
        else:
            curves = list(references)
        self.curves: Any = nn.ModuleList(curves)

    def forward(self, samples: Samples) -> Tensor:
        """Return the mean of the members' corrected scores, float32 [B]."""
        return self.members(samples).mean(1)

    def members(self, samples: Samples) -> Tensor:
        """Return the members' corrected scores, float32 [B, M].

        Raises:
            InputError: if the curves are of a reward with another number of members.
        """
        scores = self.reward.members(samples)
        count = self.curves[0].values.shape[1]
        if scores.shape[1] != count:
            raise InputError(
                f"These curves were fitted to {count} members, and {type(self.reward).__name__} "
                f"has {scores.shape[1]}. They belong to one reward only; fit them anew."
            )
        for measure, curve in zip(self.measures, self.curves, strict=True):
            scores = scores - curve(measure(samples)).to(scores)
        return scores

    def check_savable(self) -> None:
        """Refuse a reward or a measure inside that cannot be saved."""
        check_parts([self.reward, *self.measures])

    def save_pretrained(self, folder: str | Path) -> None:
        """Write the curves and, into `folder`/reward and /0, /1 and so on, reward and measures.

        Raises:
            InputError: if one of them cannot be saved, or `folder` holds something else.
        """
        settings = {"curves": [curve.as_lists() for curve in self.curves]}
        write_reward(folder, self, settings, {"reward": self.reward, **numbered(self.measures)})

    @classmethod
    def from_pretrained(cls, folder: str | Path, trust: bool = False) -> Debiased:
        """Load what `save_pretrained` wrote, in eval mode. The references are not needed again."""
        described = read_settings(folder, "curves")["curves"]
        try:
            curves = [_curve(rows) for rows in described]
        except (TypeError, KeyError, ValueError, RuntimeError) as error:
            raise InputError(
                f"{Path(folder) / CONFIG} does not hold the curves of a Debiased: {error!r}. Is it "
                "edited?"
            ) from error
        reward = load_reward(Path(folder) / "reward", trust=trust)
        return cls(reward, curves, load_numbered(folder, len(curves), trust)).eval()


def _curve(rows: Mapping[str, Any]) -> Curve:
    """Return the curve that a config describes."""
    tensors = {name: torch.tensor(rows[name], dtype=torch.float64) for name in NAMES}
    return Curve(**tensors)


class Curve(nn.Module):
    """A function of one number for each of M members: straight between knots, straight beyond.

    Args:
        knots: [G], rising.
        values: [G, M], at the knots.
        slopes: [2, M], before the first knot and after the last.

    Example:
        >>> knots, values = torch.tensor([0.0, 2.0]), torch.tensor([[0.0], [4.0]])
        >>> curve = Curve(knots, values, torch.tensor([[0.0], [1.0]]))
        >>> curve(torch.tensor([-5.0, 1.0, 3.0])).flatten().tolist()
        [0.0, 2.0, 5.0]
    """

    knots: Tensor
    values: Tensor
    slopes: Tensor

    def __init__(self, knots: Tensor, values: Tensor, slopes: Tensor) -> None:
        super().__init__()
        members = values.shape[1]
        if values.shape != (len(knots), members) or slopes.shape != (2, members):
            raise ValueError(f"{list(knots.shape)}, {list(values.shape)}, {list(slopes.shape)}")
        self.register_buffer("knots", knots.double())
        self.register_buffer("values", values.double())
        self.register_buffer("slopes", slopes.double())

    def forward(self, x: Tensor) -> Tensor:
        """Return the members' values [B, M] at x [B]."""
        x = x.to(self.knots)
        first = self.knots[0]
        last = self.knots[-1]
        inside = x.clamp(first, last)
        right = torch.searchsorted(self.knots, inside).clamp(1, len(self.knots) - 1)
        left = right - 1
        width = self.knots[right] - self.knots[left]
        part = (inside - self.knots[left]) / width
        values = torch.lerp(self.values[left], self.values[right], part[:, None])
        below = (x - first).clamp_max(0)
        above = (x - last).clamp_min(0)
        return values + below[:, None] * self.slopes[0] + above[:, None] * self.slopes[1]

    def as_lists(self) -> dict[str, Any]:
        """Return the arguments as plain lists."""
        return {name: getattr(self, name).tolist() for name in NAMES}


def fit_curves(columns: Sequence[Tensor], scores: Tensor, share: float) -> list[Curve]:
    """Return a curve for each measure, whose sum explains the scores; several by backfitting.

    Buja, Hastie and Tibshirani, Annals of Statistics 17, 1989: each curve in turn is fitted to what
    the others leave, all but the first with mean 0, until none changes.

    Args:
        columns: the measures, each float64 [N].
        scores: float64 [N, M].
        share: share of the N that a local line is fitted to.

    Raises:
        InputError: if a measure is the same for all.
    """
    explained = torch.zeros(len(columns), *scores.shape).to(scores)
    curves: list[Curve] = []
    passes = PASSES if len(columns) > 1 else 1
    for _ in range(passes):
        before = explained.clone()
        curves = []
        for place, column in enumerate(columns):
            others = explained.sum(0) - explained[place]
            curve = local_regression(column, scores - others, share)
            if place:
                curve.values -= curve(column).mean(0)
            explained[place] = curve(column)
            curves.append(curve)
        change = (explained - before).abs().max()
        if change <= 1e-6 * scores.abs().max():
            break
    return curves


def slopes_beyond(slopes: Tensor, beyond: Beyond) -> Tensor:
    """Return the slopes [2, M] with which curves go on, before the first knot and after the last.

    Example:
        >>> line = torch.tensor([[1.0, -1.0], [1.0, -1.0]])
        >>> slopes_beyond(line, "lower").tolist()
        [[0.0, -1.0], [1.0, 0.0]]
    """
    if beyond == "line":
        return slopes
    if beyond == "constant":
        return torch.zeros_like(slopes)
    return torch.stack([slopes[0].clamp_max(0), slopes[1].clamp_min(0)])


def local_regression(x: Tensor, y: Tensor, share: float) -> Curve:
    """Return the locally weighted linear regression of y on x, without robustness weights.

    At each knot a line is fitted to the nearest share of the x, with tricube weights
    (1 - (d/h)³)³ of the distance d, h the largest among them: Cleveland, 1979, equation 2.1. A
    knot whose neighbours all lie at one x looks as far as the next x.

    Args:
        x: float64 [N].
        y: float64 [N, M].
        share: of N, at least two.

    Raises:
        InputError: if all x are alike.

    Example:
        >>> x = torch.arange(5.0).double()
        >>> curve = local_regression(x, x[:, None].square(), share=1.0)
        >>> [round(value, 3) for value in curve.values.flatten().tolist()]
        [-0.62, 1.862, 4.573, 9.862, 15.38]
    """
    distinct = x.unique()
    if len(distinct) < 2:
        raise AlikeError(
            f"All {len(x)} references measure {x[0].item():g}, so nothing can be said of how the "
            "score changes with it. Give references that differ in the measure, or another one."
        )
    count = max(2, math.ceil(share * len(x)))
    places = torch.linspace(0, len(distinct) - 1, min(KNOTS, len(distinct)))
    knots = distinct[places.round().long()]
    values = torch.stack([_local_value(knot, x, y, count) for knot in knots])
    first_tenth = knots <= x.quantile(TAIL)
    first_tenth[:2] = True
    last_tenth = knots >= x.quantile(1 - TAIL)
    last_tenth[-2:] = True
    before = _slope(knots[first_tenth], values[first_tenth])
    after = _slope(knots[last_tenth], values[last_tenth])
    return Curve(knots, values, torch.stack([before, after]))


def _local_value(knot: Tensor, x: Tensor, y: Tensor, count: int) -> Tensor:
    """Return the value [M] at a knot of the line through its `count` nearest."""
    distances = (x - knot).abs()
    width = distances.kthvalue(count).values
    if width == 0:  # they all lie on the knot
        width = distances[distances > 0].min()
    relative = (distances / width).clamp_max(1)
    weights = (1 - relative**3) ** 3
    weights = weights / weights.sum()
    center = weights @ x
    mean = weights @ y
    centered = x - center
    spread = weights @ centered.square()
    if spread <= 1e-12 * width.square():
        return mean
    slope = (weights * centered) @ y / spread
    return mean + slope * (knot - center)


def _slope(knots: Tensor, values: Tensor) -> Tensor:
    """Return the slopes [M] of the least-squares lines through values [G, M] at knots [G]."""
    centered = knots - knots.mean()
    slope: Tensor = centered @ values / centered.square().sum()
    return slope
