"""Towers that are no open_clip models, in the form in which `Tower` takes one.

They are models of timm, image halves without a text half, and CLIP-like models of transformers.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from rewardlab.errors import InputError
from rewardlab.networks.recomputing import checkpoint_blocks

NUMBERS = ("size", "mean", "std", "interpolation", "resize_mode", "fill_color", "crop_pct")


class ForeignTower(nn.Module, ABC):
    """A model with an image half, called as an open_clip model is.

    Attributes:
        visual: the image half.
        numbers: its preprocessing numbers, as `Preprocessing` takes them.
        settings: what features depend on beside weights and preprocessing, for the fingerprint.
        image_weights: beginnings of the names of the image half's weights.
        unused: beginnings of the names of weights that no feature depends on.
        tokenizer: of the text half, called as open_clip's are; None without one.
    """

    visual: Any
    numbers: dict[str, Any]
    settings: list[Any]
    image_weights: tuple[str, ...] = ("visual.",)
    unused: tuple[str, ...] = ()
    tokenizer: Any = None

    @abstractmethod
    def encode_image(self, images: Tensor, normalize: bool = False) -> Tensor:
        """Return the embeddings [B, D] of preprocessed images [B, 3, H, W]."""

    def encode_text(self, ids: Tensor, normalize: bool = False) -> Tensor:
        """Return the embeddings [B, D] of texts' token ids [B, T].

        Raises:
            InputError: by default, since not every model has a text half.
        """
        raise InputError(
            f"A tower of {type(self.visual).__name__} has no text half. Set conditional=False, or "
            "take a CLIP-like tower."
        )

    def checkpoint_activations(self) -> None:
        """Let the backward pass compute anew what each block of the image half made.

        Raises:
            InputError: if its blocks cannot.
        """
        checkpoint_blocks(self.visual)

    @abstractmethod
    def save(self, folder: Path, numbers: Mapping[str, Any]) -> None:
        """Write the model into a folder that "local-dir:FOLDER" loads.

        Args:
            folder: made if missing.
            numbers: the preprocessing numbers in use.
        """


def with_numbers(tower: ForeignTower, preprocessing: Any) -> None:
    """Replace a tower's preprocessing numbers by those of a mapping; anything else changes none.

    Raises:
        InputError: if a number is unknown.
    """
    if not isinstance(preprocessing, Mapping):
        return
    unknown = sorted(map(str, preprocessing.keys() - set(NUMBERS)))
    if unknown:
        raise InputError(f"preprocessing takes {', '.join(NUMBERS)}; got {unknown[0]} as well.")
    tower.numbers = tower.numbers | dict(preprocessing)
