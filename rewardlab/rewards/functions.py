"""Rewards from plain functions."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

from rewardlab.errors import InputError
from rewardlab.rewards.base import Reward, checked_scores
from rewardlab.types import Samples


class Function(Reward):
    """A reward from a plain function, so that a config can name one by its import path.

    Args:
        function: takes Samples and returns one finite score a sample [B].

    Example:
        >>> import torch
        >>> reward = Function(lambda samples: torch.tensor([float(len(text)) for text in samples.outputs]))
        >>> reward(Samples(["hi", "hi"], ["hello", "hey"])).tolist()
        [5.0, 3.0]
    """

    def __init__(self, function: Callable[[Samples], Tensor]) -> None:
        super().__init__()
        self.function = function

    def forward(self, samples: Samples) -> Tensor:
        """Return the function's scores, float32 [B].

        Raises:
            InputError: if it returns anything but one finite number a sample.
        """
        name = getattr(self.function, "__name__", type(self.function).__name__)
        scores = self.function(samples)
        if not isinstance(scores, Tensor) or scores.shape != (len(samples),):
            got = (
                f"a tensor {list(scores.shape)}"
                if isinstance(scores, Tensor)
                else f"a {type(scores).__name__}"
            )
            raise InputError(
                f"The function {name} has to return one score a sample, a tensor [{len(samples)}]; got {got}."
            )
        return checked_scores(scores, samples, name)


class Brightness(Reward):
    """The mean of all pixels of an image or a video, in [0, 1].

    Example:
        >>> import torch
        >>> Brightness()(Samples(["", ""], torch.tensor([0.25, 0.75]).view(2, 1, 1, 1).expand(2, 3, 4, 4))).tolist()
        [0.25, 0.75]
    """

    def forward(self, samples: Samples) -> Tensor:
        return checked_scores(
            images_of(samples, "Brightness").flatten(1).mean(1), samples, "Brightness"
        )


def images_of(samples: Samples, scorer: str, channels: str = "C") -> Tensor:
    """Return the samples' images or videos.

    Raises:
        InputError: if they are strings.
    """
    if isinstance(samples.outputs, Tensor):
        return samples.outputs
    raise InputError(
        f"{scorer} scores images [B, {channels}, H, W] in [0, 1]; got a list of {len(samples)} strings. "
        "Is the policy a language model?"
    )
