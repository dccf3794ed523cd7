"""What samples must be: prompts are texts or conversations, outputs pictures or texts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from rewardlab.errors import InputError

OUTSIDE = 0.02  # by how much pixels may leave [0, 1]: rounding of half precision and of resizing


def check_images(outputs: Tensor) -> None:
    """Refuse a tensor that is no batch of float images or videos."""
    if outputs.dim() not in (4, 5) or not outputs.is_floating_point():
        raise InputError(
            "Samples hold float images [B, C, H, W] or videos [B, F, C, H, W] in [0, 1], "
            f"or strings; got a {outputs.dtype} tensor {list(outputs.shape)}."
        )


def check_texts(outputs: Sequence[Any]) -> None:
    """Refuse outputs that are no strings, such as a list of pictures, and one text for a list."""
    if isinstance(outputs, str):
        raise InputError(
            f"Samples hold one output a sample in a list; got the one text {outputs[:60]!r}."
        )
    for output in outputs:
        if not isinstance(output, str):
            raise InputError(
                "Samples hold images as one float tensor [B, C, H, W] in [0, 1], or strings; got a "
                f"{type(outputs).__name__} with a {type(output).__name__}. For a list of pictures "
                "or files there is rewardlab.as_samples(prompts, outputs)."
            )


def check_range(images: Tensor, who: str) -> None:
    """Refuse pixels outside [0, 1], which a reward would score without a word."""
    if images.numel() == 0:
        return
    least, largest = images.detach().aminmax()
    if least < -OUTSIDE or largest > 1 + OUTSIDE:
        mend = "divide them by 255" if largest > 2 else "take (pixels + 1) / 2"
        raise InputError(
            f"{who} scores images in [0, 1]; these hold {least.item():.4g} to "
            f"{largest.item():.4g}. Are they levels up to 255, or in [-1, 1]? Here: {mend}. "
            "rewardlab.as_samples(prompts, outputs) reads pictures, files and uint8 as they are."
        )
