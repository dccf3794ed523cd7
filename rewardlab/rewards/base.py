"""Reward: whatever scores finished outputs."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any

import torch
from torch import Tensor, nn

from rewardlab.errors import InputError, check_abilities
from rewardlab.rewards.abilities import ABILITIES, EARLIER, Calibrated
from rewardlab.types import Samples


class Reward(nn.Module, ABC):
    """Scores samples; higher is better. It sees decoded outputs, so it judges any policy.

    `forward` is the score: what loops raise, what ranks, mines and judges. `members` is for
    disagreement. What else a reward can do it declares by deriving from abilities
    (`rewardlab.rewards.abilities`).

    Attributes:
        meaning: what the scores are, such as "log density ratio"; a training loop may set it.
        conditional: whether the score depends on the prompt in a way that needs one.
        mean_of_members: the promise that `forward` is the mean of `members`, so that one pass gives
            both. `RewardConformance` holds it.
        initialization: fingerprint of the common start of copies that `fork` made; not saved.
    """

    meaning: str = "score"
    conditional: bool = False
    mean_of_members: bool = False
    initialization: str | None = None

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        check_abilities(cls, ABILITIES, EARLIER)

    def __call__(self, *args: Any, **options: Any) -> Any:
        """Return `forward`'s scores; what are no samples are refused with how to make them.

        Raises:
            InputError: if the one argument is not Samples.
        """
        if len(args) != 1 or options or not isinstance(args[0], Samples):
            kinds = ", ".join(type(value).__name__ for value in (*args, *options.values()))
            raise InputError(
                f"A reward scores Samples; {type(self).__name__} got ({kinds}). Texts, pictures, "
                "files and folders become samples by rewardlab.as_samples(prompts, outputs)."
            )
        return super().__call__(*args)

    @abstractmethod
    def forward(self, samples: Samples) -> Tensor:
        """Return one score a sample, float32 [B]."""

    def members(self, samples: Samples) -> Tensor:
        """Return the scores of an ensemble's members, float32 [B, M]; by default one column."""
        scores: Tensor = self(samples)
        return scores[:, None]

    def check_samples(self, samples: Samples) -> None:
        """Refuse samples that cannot be scored, such as responses longer than a model's context.

        By default every sample can be scored.

        Raises:
            InputError: if one cannot; the message names the first.
        """


def checked_scores(scores: Tensor, samples: Samples, scorer: str) -> Tensor:
    """Return scores [B] or [B, M] in float32 if every one is finite.

    The one look at them waits for the device once.

    Args:
        scores: of any floating dtype.
        samples: what was scored; a fact "row" is named in the message.
        scorer: what scored, for the message.

    Raises:
        InputError: naming the first sample whose score is NaN or infinite.

    Example:
        >>> scores = torch.tensor([0.5]).double()
        >>> checked_scores(scores, Samples(["a cat"], ["meow"]), "Length").dtype
        torch.float32
    """
    scores = scores.float()
    if torch.isfinite(scores).all():
        return scores
    bad = ~torch.isfinite(scores).view(len(scores), -1).all(1)
    first = int(bad.nonzero()[0])
    raise InputError(
        f"{scorer} gave a score of {scores[first].tolist()} to {named_sample(samples, first)} with "
        f"the prompt {samples.prompts[first]!r}; it is one of {int(bad.sum())} such scores in "
        f"{len(scores)}. Is the output itself finite, or has training diverged?"
    )


def named_sample(samples: Samples, i: int) -> str:
    """Return how a message names a sample: its place in the batch and, where known, its row.

    Example:
        >>> named_sample(Samples(["hi"], ["ho"], {"row": torch.tensor([7])}), 0)
        'sample 0 (row 7)'
    """
    if "row" not in samples.facts:
        return f"sample {i}"
    return f"sample {i} (row {int(samples.facts['row'][i])})"


@torch.no_grad()
def set_score_scale(reward: Calibrated, scores: Tensor) -> None:
    """Set a reward's `score_mean` and `score_std` to those of scores [N]; the deviation is over N.

    Raises:
        InputError: if they are not finite or all equal.
    """
    std, mean = torch.std_mean(scores.double(), correction=0)
    if not (torch.isfinite(std) and std > 0):
        raise InputError(
            f"The scores of {len(scores)} samples have mean {mean.item()} and deviation "
            f"{std.item()}; standardising needs finite scores that differ. Was the reward trained, "
            "and are the samples different?"
        )
    reward.score_mean.copy_(mean)
    reward.score_std.copy_(std)
