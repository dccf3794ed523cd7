"""From images in [0, 1] to what a tower was trained on, on tensors and differentiable."""

from __future__ import annotations

import math
import time
from collections.abc import Hashable, Mapping, Sequence
from numbers import Real
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, nn

from rewardlab.errors import InputError
from rewardlab.kernels.resize import resize

Size = tuple[int, int]  # height, width
DEFAULTS = {"interpolation": "bicubic", "resize_mode": "shortest", "fill_color": 0}
INTERPOLATIONS = ("bicubic", "bilinear")
RESIZE_MODES = ("shortest", "longest", "squash")
MOST_PIXELS = 16384  # of a side: more is a damaged config
MOST_AHEAD = 4  # results that are kept until they are asked for


class Kept(NamedTuple):
    """A result that was computed ahead, with the images that it is of."""

    images: Tensor
    prepared: Tensor


class Preprocessing(nn.Module):
    """Antialiased resize, centre crop and normalisation with a tower's own numbers.

    The result is what open_clip computes on PIL images, within one grey level. PIL's images hold
    bytes between the passes too, so values are clamped after each. Its order is that of Pillow 13:
    the height first where the width shrinks by less than half as many pixels as the height, else
    the width first. Earlier ones always take the width first.

    Args:
        numbers: `size` (height, width), `mean`, `std`, and optionally `interpolation` (bicubic or
            bilinear), `resize_mode` (shortest, longest or squash) and `fill_color`; what
            `open_clip.PreprocessCfg` holds. With a `crop_pct` it is what timm computes: images are
            resized to `size`/crop_pct, and `size` of them is cropped.

    Attributes:
        seconds: how long `forward` took so far; on a GPU, how long it took to start its work.

    Raises:
        InputError: if a number is missing or none that preprocesses.

    Example:
        >>> prepare = Preprocessing({"size": (4, 4), "mean": [0.5] * 3, "std": [0.5] * 3})
        >>> prepare(torch.ones(2, 1, 8, 6)).shape
        torch.Size([2, 3, 4, 4])
    """

    mean: Tensor
    std: Tensor

    def __init__(self, numbers: Mapping[str, Any]) -> None:
        super().__init__()
        self.numbers: dict[str, Any] = checked_numbers(numbers)
        self.size: Size = self.numbers["size"]
        mean = torch.as_tensor(numbers["mean"], dtype=torch.float32).view(-1, 1, 1)
        std = torch.as_tensor(numbers["std"], dtype=torch.float32).view(-1, 1, 1)
        self.register_buffer("mean", mean, persistent=False)
        self.register_buffer("std", std, persistent=False)
        self.seconds = 0.0
        self._kept: dict[Hashable, Kept] = {}

    def ahead(self, images: Tensor) -> None:
        """Compute what `forward` will be asked for, in another thread, and keep it until then.

        It is given to the first that asks for the very same tensor, or a view of all of it. Where
        nobody asks, at most `MOST_AHEAD` results are computed. Images that do not fit are left to
        `forward`, which says why.

        Args:
            images: [B, C, H, W] in [0, 1], on the device of the numbers.
        """
        if len(self._kept) >= MOST_AHEAD:
            return
        try:
            with torch.no_grad():
                self._kept[_identity(images)] = Kept(images, self._prepared(images, resize=True))
        except InputError:
            return

    def forget(self) -> None:
        """Drop what was computed ahead and not asked for."""
        self._kept.clear()

    def forward(self, images: Tensor, resize: bool = True) -> Tensor:
        """Return normalised images [B, 3, size] from [B, C, H, W] in [0, 1], where C is 1 or 3.

        Args:
            images: one channel is shown as grey in all three.
            resize: if false, images have to come in the tower's size.

        Raises:
            InputError: if channels or, without resize, sizes do not fit the tower.
        """
        kept = self._kept.pop(_identity(images), None) if resize and self._kept else None
        if kept is not None and not images.requires_grad:
            return kept.prepared
        start = time.perf_counter()
        prepared = self._prepared(images, resize)
        self.seconds += time.perf_counter() - start
        return prepared

    def _prepared(self, images: Tensor, resize: bool) -> Tensor:
        channels, height, width = images.shape[1:]
        if channels not in (1, 3):
            raise InputError(
                "The tower takes images with 3 channels (or 1, shown as grey); got a tower whose "
                f"channels do not fit: images {list(images.shape)} have {channels}. Drop an alpha "
                "channel, or decode latents to pixels first."
            )
        images = images.to(self.mean.device, torch.float32).expand(-1, 3, -1, -1)
        if (height, width) == self.size and (not resize or self._scaled == self.size):
            return (images - self.mean) / self.std
        if not resize:
            raise InputError(
                f"The tower takes images of {self.size[0]}x{self.size[1]} and resize is off; got "
                f"images of {height}x{width}. Turn resize on, or choose a tower of that size."
            )
        return self._fit(images)

    @property
    def _scaled(self) -> Size:
        """Return the size to which images are resized before `size` of them is cropped."""
        share = self.numbers.get("crop_pct", 1.0)
        height, width = self.size
        return math.floor(height / share), math.floor(width / share)

    @property
    def _interpolation(self) -> Literal["bicubic", "bilinear"]:
        """Return the filter; open_clip's is bicubic for shortest sides of oblong towers."""
        is_oblong = self.size[0] != self.size[1]
        shortest = self.numbers["resize_mode"] == "shortest"
        if shortest and is_oblong and "crop_pct" not in self.numbers:
            return "bicubic"
        return "bilinear" if self.numbers["interpolation"] == "bilinear" else "bicubic"

    def _fit(self, images: Tensor) -> Tensor:
        """Resize, crop and normalise."""
        have = (images.shape[2], images.shape[3])
        size = _resized(have, self._scaled, self.numbers["resize_mode"])
        mode = self._interpolation
        between = _between_passes(have, size)
        if between not in (have, size):
            images = resize(images, between, mode=mode)
        return resize(
            images,
            size,
            window=_window(size, self.size),
            fill=self.numbers["fill_color"] / 255,
            mean=self.mean,
            std=self.std,
            mode=mode,
        )


def preprocessing_of(reward: nn.Module) -> list[Preprocessing]:
    """Return the parts of a reward that preprocess images.

    Example:
        >>> numbers = {"size": (4, 4), "mean": [0.5] * 3, "std": [0.5] * 3}
        >>> len(preprocessing_of(nn.Sequential(Preprocessing(numbers), nn.Linear(4, 1))))
        1
    """
    return [part for part in reward.modules() if isinstance(part, Preprocessing)]


def _identity(images: Tensor) -> Hashable:
    """Return what only the same numbers in the same memory have."""
    version = None if images.is_inference() else images._version
    return images.data_ptr(), tuple(images.shape), images.stride(), version


def checked_numbers(numbers: Mapping[str, Any]) -> dict[str, Any]:
    """Return preprocessing numbers with defaults for those that may be left out.

    Raises:
        InputError: if one is missing or no image can be preprocessed by it.

    Example:
        >>> checked_numbers({"size": 8, "mean": [0.5], "std": [0.5]})["size"]
        (8, 8)
    """
    if not isinstance(numbers, Mapping):
        raise InputError(f"Preprocessing numbers should be a mapping; got {numbers!r:.80}.")
    checked: dict[str, Any] = {**DEFAULTS, **numbers}
    size = checked.get("size")
    checked["size"] = tuple(size) if isinstance(size, Sequence) else (size, size)
    wrong = _first_wrong(checked)
    if wrong is not None:
        raise InputError(
            f"Preprocessing with {wrong}={checked.get(wrong)!r:.80} is not possible. It takes a "
            "size (height, width) in whole pixels, a finite mean and a positive std of one or "
            f"three channels, an interpolation of {', '.join(INTERPOLATIONS)}, a resize_mode of "
            f"{', '.join(RESIZE_MODES)}, a fill_color from 0 to 255 and a crop_pct about 1. Is the "
            "config edited?"
        )
    return checked


def _first_wrong(numbers: Mapping[str, Any]) -> str | None:
    """Return the name of the first number by which nothing can be preprocessed, None without."""
    std: Any = numbers.get("std")
    rules = {
        "size": _is_size(numbers["size"]),
        "mean": _are_channels(numbers.get("mean")),
        "std": _are_channels(std) and min(std) > 0,
        "interpolation": numbers["interpolation"] in INTERPOLATIONS,
        "resize_mode": numbers["resize_mode"] in RESIZE_MODES,
        "fill_color": _lies_between(0, numbers["fill_color"], 255),
        "crop_pct": _lies_between(0.1, numbers.get("crop_pct", 1.0), 10),
    }
    for name, is_right in rules.items():
        if not is_right:
            return name
    return None


def _is_size(size: Sequence[Any]) -> bool:
    if len(size) != 2:
        return False
    return all(type(side) is int and 0 < side <= MOST_PIXELS for side in size)


def _are_channels(numbers: Any) -> bool:
    """Tell whether there is a finite number for each of one or three channels."""
    if isinstance(numbers, str) or not isinstance(numbers, Sequence):
        return False
    return len(numbers) in (1, 3) and all(map(_is_number, numbers))


def _lies_between(low: float, value: Any, high: float) -> bool:
    return _is_number(value) and low <= value <= high


def _is_number(value: Any) -> bool:
    return isinstance(value, Real) and not isinstance(value, bool) and math.isfinite(value)


def _between_passes(have: Size, want: Size) -> Size:
    """Return the size (height, width) that an image has between PIL's two passes."""
    flattened = have[0] - want[0]
    narrowed = have[1] - want[1]
    if flattened > 0 and 2 * narrowed < flattened:
        return want[0], have[1]
    return have[0], want[1]


def _resized(size: Size, target: Size, mode: str) -> Size:
    """Return the size to which an image is resized before it is cropped or padded to `target`."""
    if mode == "squash":
        return target
    height, width = target
    height_ratio = size[0] / height
    width_ratio = size[1] / width
    choose = max if mode == "longest" else min
    ratio = choose(height_ratio, width_ratio)
    # torchvision, which crops to squares, truncates; open_clip rounds
    truncates = mode == "shortest" and height == width
    whole = int if truncates else round
    if height_ratio != ratio:
        height = max(1, whole(size[0] / ratio))
    if width_ratio != ratio:
        width = max(1, whole(size[1] / ratio))
    return height, width


def _window(size: Size, target: Size) -> tuple[int, int, int, int]:
    """Return the part (top, left, height, width) of an image that is `target` large.

    It lies about the image's centre, and is negative where it begins outside.
    """
    height, width = target
    top = _margin(size[0], height)
    left = _margin(size[1], width)
    return top, left, height, width


def _margin(length: int, target: int) -> int:
    """Return how much of a length lies before the `target` at its middle; negative if it lacks."""
    if length > target:
        return round((length - target) / 2)
    return -((target - length) // 2)
