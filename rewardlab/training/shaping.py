"""How scores become the rewards that PPO maximises."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from rewardlab.errors import InputError
from rewardlab.training.rollouts import mean
from rewardlab.types import Samples


@dataclass(frozen=True)
class ReferenceFigures:
    """What the reference's samples score, in whose units rewards are shaped.

    Attributes:
        mean: of the scores.
        deviation: standard deviation of the scores of one prompt's samples, pooled over prompts; an
            offset that a reward adds to a prompt does not count.
        length: mean of the fact "length", or NaN.
    """

    mean: float
    deviation: float
    length: float


@dataclass(frozen=True)
class Shaping:
    """How scores become the rewards that PPO maximises. By default they stay as they are.

    Clip and length penalty are in σ, the standard deviation of the reference's scores within a
    prompt, so that they mean the same for any reward. They apply in this order, before the KL.

    Args:
        clip: hold scores within this many σ of the reference's mean.
        length_penalty: how many σ an output loses for each reference length (the mean) that it is
            long. It reads the fact "length" of the samples.
        whiten: bring each step's batch of rewards, over all processes, to mean 0 and deviation 1.
            The KL's weight is then in those units; an attack's penalties then rule the scale.

    Example:
        >>> import torch
        >>> samples = Samples(["a"] * 2, ["b", "c"], {"length": torch.tensor([5.0, 20.0])})
        >>> reference = ReferenceFigures(mean=0.0, deviation=2.0, length=10.0)
        >>> Shaping(clip=3.0, length_penalty=1.0)(torch.tensor([9.0, 1.0]), samples, reference).tolist()
        [5.0, -3.0]
    """

    clip: float | None = None
    length_penalty: float = 0.0
    whiten: bool = False

    @property
    def needs_reference(self) -> bool:
        """Whether the reference has to be sampled from, once."""
        return self.clip is not None or self.length_penalty != 0

    def __call__(
        self, scores: Tensor, samples: Samples, reference: ReferenceFigures | None
    ) -> Tensor:
        """Return the rewards [B] of scores [B]; `reference` may be None where nothing is in its
        units.
        """
        if self.clip is not None:
            scores = reference.mean + (scores - reference.mean).clamp(
                -self.clip * reference.deviation, self.clip * reference.deviation
            )
        if self.length_penalty:
            scores = (
                scores
                - self.length_penalty
                * reference.deviation
                * lengths(samples).to(scores)
                / reference.length
            )
        return whitened(scores) if self.whiten else scores


def lengths(samples: Samples) -> Tensor:
    """Return the fact "length" [B], which a length penalty reads.

    Raises:
        InputError: if the policy gives none.
    """
    if "length" in samples.facts:
        return samples.facts["length"].float()
    raise InputError(
        f'A length penalty reads the fact "length" of the samples; they have {sorted(samples.facts)}. '
        "Is this a policy whose outputs have no length? Set shaping.length_penalty to 0."
    )


def reference_figures(
    scores: Tensor, samples: Samples, samples_per_prompt: int, shaping: Shaping
) -> ReferenceFigures:
    """Measure what the scores [B] and lengths of the reference's samples are, over all processes.

    Raises:
        InputError: if no prompt's samples differ in score: nothing can be measured in units of 0.
    """
    k = samples_per_prompt
    groups = scores.view(-1, samples_per_prompt)
    within = groups - (groups.mean(1, keepdim=True) if k > 1 else mean(scores))
    deviation = mean(within.square()).mul(k / max(k - 1, 1)).sqrt().item()
    if deviation == 0:
        raise InputError(
            f"Shaping is in units of the reference's standard deviation, but its {len(scores)} samples score alike "
            f"({scores[0].item():g}) within each prompt. Take more prompts a step, or no clip and length_penalty."
        )
    length = mean(lengths(samples)).item() if shaping.length_penalty else float("nan")
    return ReferenceFigures(mean(scores).item(), deviation, length)


def whitened(values: Tensor) -> Tensor:
    """Values less their mean, over their standard deviation, both over all processes; 0 where all
    are alike.

    Example:
        >>> import torch
        >>> whitened(torch.tensor([1.0, 3.0])).tolist()
        [-1.0, 1.0]
    """
    centred = values - mean(values)
    return centred / mean(centred.square()).sqrt().clamp_min(1e-8)
