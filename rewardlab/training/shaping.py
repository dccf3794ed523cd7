"""How scores become the rewards that PPO maximizes."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from rewardlab.errors import AlikeError, InputError
from rewardlab.training.processes import mean
from rewardlab.types import Samples


@dataclass(frozen=True)
class ReferenceFigures:
    """Statistics of the reference's samples, which are the units of shaped rewards.

    Attributes:
        mean: mean of the scores.
        deviation: standard deviation of the scores of one prompt's samples, pooled over prompts. An
            offset that a reward adds to a prompt does not count.
        length: mean of the fact "length", or NaN.
    """

    mean: float
    deviation: float
    length: float


@dataclass(frozen=True)
class Shaping:
    """How scores become the rewards that PPO maximizes. By default they stay as they are.

    Clip and penalties are in σ, the standard deviation of the reference's scores within a
    prompt, so that they mean the same for any reward. They apply in this order, before the KL.

    Args:
        clip: most σ that a score may be away from the reference's mean; it is clamped there.
        length_penalty: σ that an output loses for each reference length (the mean) that it is long.
            It reads the fact "length" of the samples.
        unfinished_penalty: σ that a response loses which did not end by itself. It reads the fact
            "finished" of the samples.
        whiten: bring each step's batch of rewards, over all processes, to mean 0 and deviation 1.
            The KL's weight is then in those units; an attack's penalties then rule the scale.

    Example:
        >>> import torch
        >>> samples = Samples(["a"] * 2, ["b", "c"], {"length": torch.tensor([5.0, 20.0])})
        >>> reference = ReferenceFigures(mean=0.0, deviation=2.0, length=10.0)
        >>> shaping = Shaping(clip=3.0, length_penalty=1.0)
        >>> shaping(torch.tensor([9.0, 1.0]), samples, reference).tolist()
        [5.0, -3.0]
    """

    clip: float | None = None
    length_penalty: float = 0.0
    whiten: bool = False
    unfinished_penalty: float = 0.0

    @property
    def needs_reference(self) -> bool:
        """Tell whether the reference has to be sampled from, once."""
        return self.clip is not None or self.length_penalty != 0 or self.unfinished_penalty != 0

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
        return scores


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

    Raises:
        InputError: if no prompt's samples differ in score, since nothing can be measured in units
            of 0.
    """
    groups = scores.view(-1, samples_per_prompt)
    center = groups.mean(1, keepdim=True) if samples_per_prompt > 1 else mean(scores)
    variance = mean((groups - center).square())
    unbiased = variance.mul(samples_per_prompt / max(samples_per_prompt - 1, 1))
    deviation = unbiased.sqrt().item()
    if deviation == 0:
        raise AlikeError(
            f"Shaping is in units of the reference's standard deviation, but its {len(scores)} "
            f"samples score alike ({scores[0].item():g}) within each prompt. Take more prompts a "
            "step, or no clip and no penalties."
        )
    length = mean(lengths(samples)).item() if shaping.length_penalty else float("nan")
    return ReferenceFigures(mean(scores).item(), deviation, length)


def whitened(values: Tensor) -> Tensor:
    """Return values less their mean, over their standard deviation, both over all processes.

    They are 0 where all values are alike.

    Example:
        >>> import torch
        >>> whitened(torch.tensor([1.0, 3.0])).tolist()
        [-1.0, 1.0]
    """
    centered = values - mean(values)
    deviation = mean(centered.square()).sqrt()
    return centered / deviation.clamp_min(1e-8)
