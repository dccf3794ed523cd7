"""From pictures to what an exported reward's tower takes: on tensors, as rewardlab does it."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor
from torch.nn import functional
from transformers.image_processing_base import BatchFeature, ImageProcessingMixin


class ImageRewardProcessor(ImageProcessingMixin):
    """Antialiased resize, centre crop and normalisation, in float32.

    The result is Pillow 13's within one grey level; the order of its two passes is kept, and values
    are clamped after each.

    Args:
        size: {"height", "width"} of what the tower takes.
        image_mean: of each channel.
        image_std: of each channel.
        interpolation: "bicubic" or "bilinear".
        resize_mode: "shortest", "longest" or "squash".
        fill_color: grey level, from 0 to 255, of what a picture does not cover.
        crop_pct: share of the resized picture that is cropped.
        do_resize: whether other sizes than the tower's are taken.
        options: what transformers keeps beside these.
    """

    model_input_names = ("pixel_values",)

    def __init__(
        self,
        size: dict[str, int] | None = None,
        image_mean: list[float] | None = None,
        image_std: list[float] | None = None,
        interpolation: str = "bicubic",
        resize_mode: str = "shortest",
        fill_color: int = 0,
        crop_pct: float | None = None,
        do_resize: bool = True,
        **options: Any,
    ) -> None:
        super().__init__(**options)  # type: ignore[no-untyped-call]
        self.size = size or {"height": 224, "width": 224}
        self.image_mean = image_mean or [0.5]
        self.image_std = image_std or [0.5]
        self.interpolation = interpolation
        self.resize_mode = resize_mode
        self.fill_color = fill_color
        self.crop_pct = crop_pct
        self.do_resize = do_resize

    def __call__(
        self, images: Any, return_tensors: str | None = "pt", **options: Any
    ) -> BatchFeature:
        """Return {"pixel_values": [B, 3, H, W]}, float32.

        Args:
            images: a picture or a list of pictures: of Pillow, arrays [H, W, C] or [H, W] of bytes,
                or tensors [C, H, W] in [0, 1] or of bytes; or a tensor [B, C, H, W].
            return_tensors: "pt" for tensors, "np" for arrays.
            options: ignored.
        """
        if isinstance(images, Tensor) and images.dim() == 4:
            images = list(images)
        if not isinstance(images, list | tuple):
            images = [images]
        rows = [self.prepared(picture_tensor(image)) for image in images]
        return BatchFeature({"pixel_values": torch.cat(rows)}, tensor_type=return_tensors)

    preprocess = __call__

    def prepared(self, images: Tensor) -> Tensor:
        """Return normalised images [B, 3, size] from [B, C, H, W] in [0, 1], where C is 1 or 3."""
        images = images.expand(-1, 3, -1, -1)
        mean = torch.tensor(self.image_mean).view(-1, 1, 1)
        std = torch.tensor(self.image_std).view(-1, 1, 1)
        want = (self.size["height"], self.size["width"])
        have = height_and_width(images)
        scaled = self._scaled(want)
        if have == want and (not self.do_resize or scaled == want):
            return (images - mean) / std
        if not self.do_resize:
            raise ValueError(
                f"This reward takes images of {want}, and resizing is off; got {have}."
            )
        size = resized(have, scaled, self.resize_mode)
        mode = self._filter(want)
        between = between_passes(have, size)
        for step in (between, size):
            if height_and_width(images) != step:
                images = functional.interpolate(images, step, mode=mode, antialias=True)
            images = images.clamp(0, 1)
        return (cropped(images, want, self.fill_color / 255) - mean) / std

    def _scaled(self, want: tuple[int, int]) -> tuple[int, int]:
        """Return the size to which pictures are resized before `want` of them is cropped."""
        share = self.crop_pct or 1.0
        height = math.floor(want[0] / share)
        width = math.floor(want[1] / share)
        return height, width

    def _filter(self, want: tuple[int, int]) -> str:
        """Return the filter; open_clip's is bicubic for shortest sides of oblong towers."""
        if self.resize_mode == "shortest" and want[0] != want[1] and self.crop_pct is None:
            return "bicubic"
        return "bilinear" if self.interpolation == "bilinear" else "bicubic"


def height_and_width(images: Tensor) -> tuple[int, int]:
    """Return the last two sizes of images."""
    height, width = images.shape[2:]
    return height, width


def picture_tensor(image: Any) -> Tensor:
    """Return a picture as float32 [1, C, H, W] in [0, 1]; what is transparent lies on white."""
    if isinstance(image, Image.Image):
        upright = ImageOps.exif_transpose(image)
        if upright.mode in ("RGBA", "LA", "PA") or "transparency" in upright.info:
            white = Image.new("RGBA", upright.size, "white")
            upright = Image.alpha_composite(white, upright.convert("RGBA"))
        image = np.array(upright.convert("RGB"))
    if isinstance(image, np.ndarray):
        array = image if image.ndim == 3 else image[:, :, None]
        image = torch.from_numpy(np.ascontiguousarray(array)).permute(2, 0, 1)
    if image.dtype == torch.uint8:
        image = image.float() / 255
    picture: Tensor = image.float()
    return picture[None]


def between_passes(have: tuple[int, int], want: tuple[int, int]) -> tuple[int, int]:
    """Return the size (height, width) that a picture has between Pillow 13's two passes."""
    flattened = have[0] - want[0]
    narrowed = have[1] - want[1]
    if flattened > 0 and 2 * narrowed < flattened:
        return want[0], have[1]
    return have[0], want[1]


def resized(size: tuple[int, int], target: tuple[int, int], mode: str) -> tuple[int, int]:
    """Return the size to which a picture is resized before it is cropped or padded to `target`."""
    if mode == "squash":
        return target
    height = target[0]
    width = target[1]
    height_ratio = size[0] / height
    width_ratio = size[1] / width
    choose = max if mode == "longest" else min
    ratio = choose(height_ratio, width_ratio)
    truncates = mode == "shortest" and height == width
    whole = int if truncates else round
    if height_ratio != ratio:
        height = max(1, whole(size[0] / ratio))
    if width_ratio != ratio:
        width = max(1, whole(size[1] / ratio))
    return height, width


def cropped(images: Tensor, target: tuple[int, int], fill: float) -> Tensor:
    """Return the middle of images, `target` large, with `fill` where there is nothing."""
    top = margin(images.shape[2], target[0])
    left = margin(images.shape[3], target[1])
    bottom = top + target[0]
    right = left + target[1]
    inside = images[:, :, max(0, top) : bottom, max(0, left) : right]
    before = [max(0, -left), max(0, -top)]
    behind = [max(0, right - images.shape[3]), max(0, bottom - images.shape[2])]
    missing = [before[0], behind[0], before[1], behind[1]]
    return functional.pad(inside, missing, value=fill)


def margin(length: int, target: int) -> int:
    """Return how much of a length lies before the `target` at its middle; negative if it lacks."""
    if length > target:
        return round((length - target) / 2)
    return -((target - length) // 2)
