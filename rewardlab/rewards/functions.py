"""Rewards from plain functions."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from torch import Tensor

from rewardlab.errors import InputError
from rewardlab.rewards.abilities import Saved
from rewardlab.rewards.base import Reward, checked_scores
from rewardlab.rewards.folders import check_trusted, read_config, read_settings, write_reward
from rewardlab.rewards.function_paths import import_path, imported, name_of
from rewardlab.types import Samples, images_of


class Function(Reward, Saved):
    """A reward from a plain function, so that a config can name one by its import path.

    A function that another program can import is saved by that path. Loading it runs its module's
    code, so it needs `load_reward(path, trust=True)`.

    Args:
        function: takes Samples and returns one finite score a sample [B].

    Example:
        >>> import torch
        >>> def lengths(samples):
        ...     return torch.tensor([float(len(text)) for text in samples.outputs])
        >>> Function(lengths)(Samples(["hi", "hi"], ["hello", "hey"])).tolist()
        [5.0, 3.0]
    """

    takes_trust = True

    def __init__(self, function: Callable[[Samples], Tensor]) -> None:
        super().__init__()
        self.function = function

    def forward(self, samples: Samples) -> Tensor:
        """Return the function's scores, float32 [B].

        Raises:
            InputError: if it returns anything but one finite number a sample.
        """
        name = name_of(self.function)
        scores = self.function(samples)
        if not isinstance(scores, Tensor) or scores.shape != (len(samples),):
            raise InputError(
                f"The function {name} has to return one score a sample, a tensor "
                f"[{len(samples)}]; got {_described(scores)}."
            )
        return checked_scores(scores, samples, name)

    def check_savable(self) -> None:
        """Refuse a function that another program cannot import.

        Raises:
            InputError: for a lambda, a function inside another, a method of an object, or a script.
        """
        import_path(self.function)

    def save_pretrained(self, folder: str | Path) -> None:
        """Write the function's import path, not its code.

        Raises:
            InputError: as `check_savable`.
        """
        write_reward(folder, self, {"function": import_path(self.function)})

    @classmethod
    def from_pretrained(cls, folder: str | Path, trust: bool = False) -> Function:
        """Import the function that `save_pretrained` named, in eval mode.

        Raises:
            InputError: without trust, or if the function cannot be imported.
        """
        path = read_settings(folder, "function")["function"]
        danger = f"the function {path}; loading it would run its code"
        check_trusted(folder, danger, trust=trust)
        return cls(imported(folder, path)).eval()


class Brightness(Reward, Saved):
    """The mean of all pixels of an image or a video, in [0, 1].

    Example:
        >>> import torch
        >>> grey = torch.tensor([0.25, 0.75]).view(2, 1, 1, 1).expand(2, 3, 4, 4)
        >>> Brightness()(Samples(["", ""], grey)).tolist()
        [0.25, 0.75]
    """

    def check_samples(self, samples: Samples) -> None:
        """Refuse outputs that are no images."""
        images_of(samples, "Brightness")

    def forward(self, samples: Samples) -> Tensor:
        """Return the mean pixel of each output, float32 [B]."""
        images = images_of(samples, "Brightness")
        return checked_scores(images.flatten(1).mean(1), samples, "Brightness")

    def save_pretrained(self, folder: str | Path) -> None:
        """Write the class's name; there is nothing else to save."""
        write_reward(folder, self)

    @classmethod
    def from_pretrained(cls, folder: str | Path) -> Brightness:
        """Load what `save_pretrained` wrote, in eval mode."""
        read_config(folder)
        return cls().eval()


class Fact(Reward, Saved):
    """A fact that samples bring along, such as "length", as a score; for `Debiased`.

    Args:
        name: of the fact; `rewardlab.types.FACTS` lists those that policies give.

    Raises:
        InputError: on use, if the samples lack it, or it is not one number a sample.

    Example:
        >>> import torch
        >>> Fact("length")(Samples([""], ["a b"], {"length": torch.tensor([3])})).tolist()
        [3.0]
    """

    def __init__(self, name: str) -> None:
        super().__init__()
        self.name = name

    def forward(self, samples: Samples) -> Tensor:
        """Return the fact, float32 [B].

        Raises:
            InputError: see the class.
        """
        column = samples.facts.get(self.name)
        if column is None or column.dim() != 1:
            raise InputError(
                f"Fact({self.name!r}) reads one number a sample; the samples have the facts "
                f"{sorted(samples.facts)}. Do they come from a file instead of a policy? Measure "
                "the output itself, such as by Length()."
            )
        return column.float()

    def save_pretrained(self, folder: str | Path) -> None:
        """Write the fact's name."""
        write_reward(folder, self, {"name": self.name})

    @classmethod
    def from_pretrained(cls, folder: str | Path) -> Fact:
        """Load what `save_pretrained` wrote, in eval mode."""
        return cls(**read_settings(folder, "name")).eval()


def _described(result: Any) -> str:
    if isinstance(result, Tensor):
        return f"a tensor {list(result.shape)}"
    return f"a {type(result).__name__}"
