"""How scores become the rewards that PPO maximizes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Literal

import torch
from torch import Tensor

from rewardlab.errors import AlikeError, InputError
from rewardlab.training.processes import across_processes, mean
from rewardlab.types import Samples


@dataclass(frozen=True)
class ReferenceFigures:
    """Statistics of the reference's samples, which are the units of shaped rewards.

    Attributes:
        mean: mean of the scores.
        deviation: standard deviation of the scores of one prompt's samples, pooled over prompts. An
            offset that a reward adds to a prompt does not count.
        length: mean of the fact "length", or NaN.
        scores: the scores of each prompt's samples, by the prompt's row; kept for `Shaping.par`
            alone.
    """

    mean: float
    deviation: float
    length: float
    scores: Mapping[int, list[float]] = field(default_factory=dict)

    def missing(self, rows: Tensor) -> Tensor:
        """Return which prompts have no scores here, bool [P], by their rows [P]."""
        return torch.tensor([row not in self.scores for row in rows.tolist()], dtype=torch.bool)

    def extended(self, rows: Tensor, scores: Tensor) -> ReferenceFigures:
        """Return the same figures with the scores [P·K] of further prompts, by their rows [P]."""
        groups = scores.view(len(rows), -1).tolist()
        further = dict(zip(rows.tolist(), groups, strict=True))
        return replace(self, scores={**self.scores, **further})


@dataclass(frozen=True)
class Shaping:
    """How scores become the rewards that PPO maximizes. By default they stay as they are.

    Clip and penalties are in σ, the standard deviation of the reference's scores within a
    prompt, so that they mean the same for any reward. They apply in this order, before the KL:
    clip, penalties, `par`, whitening.

    Args:
        clip: most σ that a score may be away from the reference's mean; it is clamped there.
        length_penalty: σ that an output loses for each reference length (the mean) that it is long.
            It reads the fact "length" of the samples.
        unfinished_penalty: σ that a response loses which did not end by itself. It reads the fact
            "finished" of the samples.
        whiten: bring each step's batch of rewards, over all processes, to mean 0 and deviation 1.
            The KL's weight is then in those units; an attack's penalties then rule the scale.
        par: τ in σ, above 0: the reward is the mean over the reference's samples j of
            sigmoid((score - score_j) / τσ), the preference as reward of Fu et al., arXiv
            2502.18770. It lies between 0 and 1 and is steepest at the reference, so what a policy
            gains beyond the reference it gains ever less for. Their τ is 1 for scores of Bradley
            and Terry as they are; here the scores are brought to σ first. The KL's weight is then
            in these units. None leaves the scores unbounded.
        references: which samples of the reference `par` compares with. "prompt": the K of the same
            prompt, drawn once, when the prompt is first met; what a reward adds to a prompt then
            changes nothing, and the first pass over the prompts draws twice. "pooled": all of the
            first batch, whatever their prompts, which costs that batch alone.

    Raises:
        InputError: if `par` is not above 0.

    Example:
        >>> import torch
        >>> samples = Samples(["a"] * 2, ["b", "c"], {"length": torch.tensor([5.0, 20.0])})
        >>> reference = ReferenceFigures(mean=0.0, deviation=2.0, length=10.0)
        >>> shaping = Shaping(clip=3.0, length_penalty=1.0)
        >>> shaping(torch.tensor([9.0, 1.0]), samples, reference).tolist()
        [5.0, -3.0]
        >>> reference = ReferenceFigures(0.0, 2.0, float("nan"), {3: [1.0]})
        >>> samples = Samples(["a"] * 2, ["b", "c"], {"row": torch.tensor([3, 3])})
        >>> bounded = Shaping(par=1.0)(torch.tensor([1.0, 99.0]), samples, reference)
        >>> bounded.tolist()
        [0.5, 1.0]
    """

    clip: float | None = None
    length_penalty: float = 0.0
    whiten: bool = False
    unfinished_penalty: float = 0.0
    par: float | None = None
    references: Literal["prompt", "pooled"] = "prompt"

    def __post_init__(self) -> None:
        if self.par is not None and not self.par > 0:
            raise InputError(
                "shaping.par is the temperature of a sigmoid, in standard deviations of the "
                f"reference, so it has to be above 0; got {self.par:g}. Take 1, or null for no "
                "bound."
            )

    @property
    def needs_reference(self) -> bool:
        """Tell whether the reference has to be sampled from, once."""
        has_penalty = self.length_penalty != 0 or self.unfinished_penalty != 0
        return self.clip is not None or has_penalty or self.par is not None

    @property
    def needs_each_prompt(self) -> bool:
        """Tell whether the reference has to be sampled from for every prompt."""
        return self.par is not None and self.references == "prompt"

    def __call__(
        self, scores: Tensor, samples: Samples, reference: ReferenceFigures | None
    ) -> Tensor:
        """Return the rewards [B] of scores [B].

        `reference` may be None where nothing is in its units.
        """
        if self.needs_reference:
            assert reference is not None  # whoever calls has measured it
            scores = self._in_units_of(reference, scores, samples)
        return whitened(scores) if self.whiten else scores

    def _in_units_of(self, reference: ReferenceFigures, scores: Tensor, samples: Samples) -> Tensor:
        """Return the scores [B] with clip and penalties."""
        if self.clip is not None:
            bound = self.clip * reference.deviation
            scores = reference.mean + (scores - reference.mean).clamp(-bound, bound)
        if self.length_penalty:
            unit = self.length_penalty * reference.deviation
            scores = scores - unit * lengths(samples).to(scores) / reference.length
        if self.unfinished_penalty:
            unit = self.unfinished_penalty * reference.deviation
            scores = scores - unit * unfinished(samples).to(scores)
        if self.par is not None:
            others = self._compared_with(reference, samples).to(scores)
            scores = preference_as_reward(scores, others, self.par * reference.deviation)
        return scores

    def _compared_with(self, reference: ReferenceFigures, samples: Samples) -> Tensor:
        """Return the reference's scores [B, K] of each sample's prompt, or all of them [1, N]."""
        if self.references == "pooled":
            pool = torch.tensor(list(reference.scores.values()))
            return pool.view(1, -1)
        rows = samples.facts["row"].tolist()
        return torch.tensor([reference.scores[row] for row in rows])


def preference_as_reward(scores: Tensor, references: Tensor, temperature: float) -> Tensor:
    """Return the mean over j of sigmoid((score - reference_j) / temperature), [B].

    Fu et al., arXiv 2502.18770, section 4, with several references. References that are not scored
    (NaN) are left out; with none the result is NaN.

    Args:
        scores: [B].
        references: scores of reference samples, [B, m] or [1, m].
        temperature: above 0, in the scores' unit. The slope at a single reference is 1/(4·τ).

    Example:
        >>> references = torch.tensor([[0.0, 0.0]])
        >>> preference_as_reward(torch.tensor([0.0, 50.0]), references, 1.0).tolist()
        [0.5, 1.0]
    """
    gaps = scores[:, None] - references
    shares = (gaps / temperature).sigmoid()
    return torch.where(references.isnan().any(1), shares.nanmean(1), shares.mean(1))


def lengths(samples: Samples) -> Tensor:
    """Return the fact "length" [B], which a length penalty reads.

    Raises:
        InputError: if the policy gives none.
    """
    if "length" in samples.facts:
        return samples.facts["length"].float()
    raise InputError(
        f'A length penalty reads the fact "length" of the samples; they have '
        f"{sorted(samples.facts)}. Is this a policy whose outputs have no length? Set "
        "shaping.length_penalty to 0."
    )


def unfinished(samples: Samples) -> Tensor:
    """Return which responses did not end by themselves [B], by the fact "finished".

    Raises:
        InputError: if the policy gives none.
    """
    if "finished" in samples.facts:
        return ~samples.facts["finished"].bool()
    raise InputError(
        f'A penalty of unfinished responses reads the fact "finished" of the samples; they have '
        f"{sorted(samples.facts)}. Is this a policy whose outputs cannot be cut off? Set "
        "shaping.unfinished_penalty to 0."
    )


def reference_figures(
    scores: Tensor, samples: Samples, samples_per_prompt: int, shaping: Shaping
) -> ReferenceFigures:
    """Measure the scores [B] and lengths of the reference's samples, over all processes.

    Scores that are not there (NaN) count in nothing.

    Raises:
        InputError: if no prompt's samples differ in score, since nothing can be measured in units
            of 0.
    """
    present = scores[~scores.isnan()]
    deviation = _deviation(scores.view(-1, samples_per_prompt))
    if not deviation > 0:
        raise AlikeError(
            f"Shaping is in units of the reference's standard deviation, but its {len(scores)} "
            f"samples score alike ({scores[0].item():g}) within each prompt. Take more prompts a "
            "step, or no clip, no bound and no penalties."
        )
    length = mean(lengths(samples)).item() if shaping.length_penalty else float("nan")
    return ReferenceFigures(mean(present).item(), deviation, length)


def _deviation(groups: Tensor) -> float:
    """Return the standard deviation of scores [P, K], within each prompt where K is above 1.

    It is over all processes. Each prompt's mean takes a degree of freedom.
    """
    is_scored = ~groups.isnan()
    count = across_processes(is_scored.sum())
    factor = 1.0
    if groups.shape[1] > 1:
        center = _group_means(groups)
        means = across_processes(is_scored.any(1).sum())
        factor = count.item() / max((count - means).item(), 1)
    else:
        center = mean(groups[is_scored])
    squares = (groups - center).square().flatten()
    variance = mean(squares[~squares.isnan()])
    return variance.mul(factor).sqrt().item()


def _group_means(groups: Tensor) -> Tensor:
    """Return the mean [P, 1] of what is scored of each row [P, K]; NaN where nothing is."""
    means = groups.mean(1, keepdim=True)
    return torch.where(means.isnan(), groups.nanmean(1, keepdim=True), means)


def whitened(values: Tensor) -> Tensor:
    """Return values less their mean, over their standard deviation, both over all processes.

    They are 0 where all values are alike. Values that are NaN stay so, and count in neither.

    Example:
        >>> import torch
        >>> whitened(torch.tensor([1.0, 3.0, float("nan")])).tolist()
        [-1.0, 1.0, nan]
    """
    present = ~values.isnan()
    centered = values - mean(values[present])
    deviation = mean(centered[present].square()).sqrt()
    return centered / deviation.clamp_min(1e-8)
