"""From pictures to what an exported reward's tower takes: on tensors, as rewardlab does it."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor
from torch.nn import functional
from transformers.image_processing_base import BatchFeature, ImageProcessingMixin


class Size(NamedTuple):
    """Height and width of a picture, in pixels."""

    height: int
    width: int


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
        want = Size(**self.size)
        have = size_of(images)
        scaled = self._scaled(want)
        fits = have == want and (not self.do_resize or scaled == want)
        if not fits and not self.do_resize:
            raise ValueError(
                f"This reward takes images of {want}, and resizing is off; got {have}."
            )
        if not fits:
            size = resized(have, scaled, self.resize_mode)
            images = in_two_passes(images, size, self._filter(want))
            images = cropped(images, want, self.fill_color / 255)
        return (images - mean) / std

    def _scaled(self, want: Size) -> Size:
        """Return the size to which pictures are resized before `want` of them is cropped."""
        share = self.crop_pct or 1.0
        height = math.floor(want.height / share)
        width = math.floor(want.width / share)
        return Size(height, width)

    def _filter(self, want: Size) -> str:
        """Return the filter; open_clip's is bicubic for shortest sides of oblong towers."""
        is_oblong = want.height != want.width
        if is_oblong and self.resize_mode == "shortest" and self.crop_pct is None:
            return "bicubic"
        if self.interpolation == "bilinear":
            return "bilinear"
        return "bicubic"


def size_of(images: Tensor) -> Size:
    """Return the size of images [..., H, W]."""
    height, width = images.shape[2:]
    return Size(height, width)


def in_two_passes(images: Tensor, size: Size, mode: str) -> Tensor:
    """Return images resized to a size, with values in [0, 1] after each of Pillow's passes."""
    between = between_passes(size_of(images), size)
    for step in (between, size):
        if size_of(images) != step:
            images = functional.interpolate(images, step, mode=mode, antialias=True)
        images = images.clamp(0, 1)
    return images


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


def between_passes(have: Size, want: Size) -> Size:
    """Return the size that a picture has between Pillow 13's two passes."""
    flattened = have.height - want.height
    narrowed = have.width - want.width
    if flattened > 0 and 2 * narrowed < flattened:
        return Size(want.height, have.width)
    return Size(have.height, want.width)


def resized(size: Size, target: Size, mode: str) -> Size:
    """Return the size to which a picture is resized before it is cropped or padded to `target`."""
    if mode == "squash":
        return target
    height = target.height
    width = target.width
    height_ratio = size.height / height
    width_ratio = size.width / width
    ratio = min(height_ratio, width_ratio)
    if mode == "longest":
        ratio = max(height_ratio, width_ratio)
    truncates = mode == "shortest" and height == width
    whole = int if truncates else round
    if height_ratio != ratio:
        height = max(1, whole(size.height / ratio))
    if width_ratio != ratio:
        width = max(1, whole(size.width / ratio))
    return Size(height, width)


def cropped(images: Tensor, target: Size, fill: float) -> Tensor:
    """Return the middle of images, `target` large, with `fill` where there is nothing."""
    have = size_of(images)
    top = margin(have.height, target.height)
    left = margin(have.width, target.width)
    bottom = top + target.height
    right = left + target.width
    inside = images[:, :, max(0, top) : bottom, max(0, left) : right]
    missing = [
        max(0, -left),
        max(0, right - have.width),
        max(0, -top),
        max(0, bottom - have.height),
    ]
    return functional.pad(inside, missing, value=fill)


def margin(length: int, target: int) -> int:
    """Return how much of a length lies before the `target` at its middle; negative if it lacks."""
    if length > target:
        return round((length - target) / 2)
    return -((target - length) // 2)
