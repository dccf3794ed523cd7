"""Simple numbers of an image's pixels, which may tell two classes of images apart."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn.functional import adaptive_avg_pool2d

CROP = 256  # pixels
BLOCK = 8  # pixels, JPEG's
FLOOR = 1e-6  # the variance of rounding to 8 bits: below it there is nothing to see
LUMA = torch.tensor([0.299, 0.587, 0.114])  # JPEG's brightness of red, green and blue


def _cosines() -> Tensor:
    """Return the matrix [8, 8] of JPEG's cosine transform: a frequency a row, a pixel a column."""
    pixels = torch.arange(BLOCK) + 0.5
    frequencies = torch.arange(BLOCK)[:, None]
    return (pixels * frequencies * (torch.pi / BLOCK)).cos()


COSINES = _cosines()


def middle(image: Tensor) -> Tensor:
    """Return the middle of an image, or of a video's middle frame, as RGB on the CPU.

    Args:
        image: [C, H, W], or a video [F, C, H, W].

    Returns:
        float32 [3, at most 256, at most 256], cut on JPEG's grid of blocks. Fewer than three
        channels become their mean, three times.

    Example:
        >>> middle(torch.zeros(1, 300, 40)).shape
        torch.Size([3, 256, 40])
    """
    frame = image
    if image.dim() == 4:
        frame = image[len(image) // 2]
    _, height, width = frame.shape
    crop = frame[:, _crop(height), _crop(width)]
    crop = crop.float().cpu()
    if len(crop) >= 3:
        return crop[:3]
    grey = crop.mean(0, keepdim=True)
    return grey.expand(3, -1, -1)


def _crop(size: int) -> slice:
    """Return the middle 256 of a side's pixels, from a border of JPEG's blocks; all if fewer."""
    if size <= CROP:
        return slice(0, CROP)
    margin = (size - CROP) // 2
    start = margin // BLOCK * BLOCK
    return slice(start, start + CROP)


def jpeg_blocks(image: Tensor) -> list[float]:
    """Return how much sparser the cosine transform is on JPEG's grid than half a block beside it.

    The grid is of 8 x 8 pixels.
    """
    height, width = image.shape[1:]
    if min(height, width) < 3 * BLOCK:
        return [0.0]
    luma = torch.tensordot(LUMA, image, 1)
    beside_grid = _density(luma, margin=BLOCK // 2)
    on_grid = _density(luma, margin=BLOCK)
    return [beside_grid - on_grid]


def _density(luma: Tensor, margin: int) -> float:
    """Return the mean logarithm of the cosine coefficients' size within a margin.

    One step of 8 bits is added to each.
    """
    inner = luma[margin:-margin, margin:-margin]
    bands = inner.unfold(0, BLOCK, BLOCK)
    blocks = bands.unfold(1, BLOCK, BLOCK)
    coefficients = COSINES @ blocks @ COSINES.T
    sizes = coefficients.abs().add(1 / 255)
    return sizes.log().mean().item()


def color(image: Tensor) -> list[float]:
    """Return three color contrasts of the coarse picture, over the image's brightness.

    They are red against green, yellow against blue, and saturation.
    """
    coarse = adaptive_avg_pool2d(image, BLOCK)
    red, green, blue = coarse
    yellow = (red + green) / 2
    spread = coarse.amax(0) - coarse.amin(0)
    red_green = (red - green).mean()
    yellow_blue = (yellow - blue).mean()
    saturation = spread.mean()
    level = image.mean() + FLOOR
    contrasts = torch.stack([red_green, yellow_blue, saturation]) / level
    return contrasts.tolist()


def brightness(image: Tensor) -> list[float]:
    """Return the mean over all pixels."""
    return [image.mean().item()]


def contrast(image: Tensor) -> list[float]:
    """Return the standard deviation of the grey pixels."""
    grey = image.mean(0)
    return [grey.std(correction=0).item()]


def sharpness(image: Tensor) -> list[float]:
    """Return the share of fine detail: the variance of second differences over the variance.

    It does not depend on the contrast.
    """
    grey = image.mean(0)
    vertical = torch.diff(grey, n=2, dim=0)
    horizontal = torch.diff(grey, n=2, dim=1)
    energy = vertical.square().sum() + horizontal.square().sum()
    detail = energy / grey.numel() + FLOOR
    variance = grey.var(correction=0) + FLOOR
    share = detail / variance
    return [share.item()]


MEASURES: dict[str, Callable[[Tensor], list[float]]] = {
    "JPEG blocks": jpeg_blocks,
    "colour": color,
    "brightness": brightness,
    "contrast": contrast,
    "sharpness": sharpness,
}
