"""Resize, crop and normalise images, differentiably: what lies between a decoder and a tower."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import torch
from torch import Tensor
from torch.nn.functional import interpolate, pad

from rewardlab.errors import InputError
from rewardlab.kernels import dispatch
from rewardlab.kernels.operators import operator
from rewardlab.kernels.resize.matrices import Box, Mode, product

__all__ = ["hindrances", "resize"]

Backend = Literal["auto", "matrix", "torch", "reference"]
_Size = tuple[int, int]  # height and width
_Window = tuple[int, int, int, int]  # top, left, height and width


def resize(
    images: Tensor,
    size: tuple[int, int],
    *,
    window: tuple[int, int, int, int] | None = None,
    fill: float = 0.0,
    mean: Tensor | Sequence[float] | None = None,
    std: Tensor | Sequence[float] | None = None,
    mode: Mode = "bicubic",
    backend: Backend | None = None,
) -> Tensor:
    """Return (clamp(A_h · X · A_wᵀ) - mean)/std, an antialiased resize, cropped and normalised.

    Images are resized to `size`, cut to `window`, clamped to [0, 1] and normalised. The clamp is
    what PIL's bytes do to overshoot. The filters are PIL's (bicubic: Keys' with a = -1/2, widened
    by the scale when shrinking; so are those of torchvision and of `interpolate(antialias=True)`).

    The resize is two matrix products with banded matrices A of which only the window's rows are
    computed. So the gradient is the exact transpose, and both are the same bits every time. The
    gradient of the library's kernel on CUDA adds up by atomics.

    Args:
        images: X [B, C, H, W] in [0, 1], any floating-point type; products are in float32. (If TF32
            is allowed for matrix products, the error is about 1e-3.)
        size: height and width that whole images are resized to.
        window: (top, left, height, width) of the resized image that is wanted; all of it by
            default. It may reach beyond.
        fill: value of the image beyond its borders, before normalisation.
        mean, std: numbers of each channel [C]; nothing is normalised by default.
        mode: "bicubic" or "bilinear".
        backend: "matrix", two products (first choice on CUDA), "torch", the library's interpolation
            (first choice elsewhere, where its forward pass is faster), or "reference", the products
            in float64.

    Returns:
        [B, C, height, width], float32 (float64 for float64 images).

    Raises:
        InputError: if shapes or numbers cannot be used, or the backend cannot run.

    Example:
        >>> images = torch.ones(2, 3, 8, 12)
        >>> pixels = resize(images, (4, 6), window=(0, 1, 4, 4), mean=[0.5] * 3, std=[0.25] * 3)
        >>> pixels.shape, round(pixels.mean().item(), 4)
        (torch.Size([2, 3, 4, 4]), 2.0)
    """
    _check(images, size, window, mode)
    box = _box(window, size)
    inside = _part_inside(box, size)
    if images.dtype != torch.float64:
        images = images.float()
    name = dispatch.chosen("resize", hindrances(images, size), backend)
    pixels = _resized(images, size, inside, mode, name).clamp(0, 1)
    if box != inside:
        pixels = pad(pixels, _margins(box, inside), value=fill)
    if mean is not None:
        pixels = pixels - _channels(mean, pixels)
    if std is not None:
        pixels = pixels / _channels(std, pixels)
    return pixels


def _box(window: _Window | None, size: _Size) -> Box:
    """Return a window (top, left, height, width) as a box; the whole image by default."""
    if window is None:
        return Box(0, 0, *size)
    top, left, height, width = window
    return Box(top, left, top + height, left + width)


def _part_inside(box: Box, size: _Size) -> Box:
    height, width = size
    return Box(
        top=max(0, box.top),
        left=max(0, box.left),
        bottom=min(height, box.bottom),
        right=min(width, box.right),
    )


def _margins(box: Box, inside: Box) -> list[int]:
    """Return what is missing of the box at its left, right, top and bottom: the order of `pad`."""
    return [
        inside.left - box.left,
        box.right - inside.right,
        inside.top - box.top,
        box.bottom - inside.bottom,
    ]


def _resized(images: Tensor, size: _Size, box: Box, mode: str, backend: str) -> Tensor:
    """Return the part `box` of the images resized to `size`."""
    if backend == "torch":
        whole = images
        if tuple(images.shape[2:]) != tuple(size):
            whole = interpolate(images, size, mode=mode, antialias=True)
        return whole[:, :, box.top : box.bottom, box.left : box.right]
    pixels: Tensor = torch.ops.rewardlab.resize(
        images,
        [*images.shape[2:]],
        [*size],
        [*box],
        mode,
        backend == "reference",
        False,
    )
    return pixels


def hindrances(images: Tensor, *arguments: Any, **options: Any) -> dict[str, str]:
    """Return why each backend cannot run, an empty string for one that can.

    The backends are in order of preference.
    """
    if images.is_cuda:
        return {"matrix": "", "torch": "", "reference": ""}
    return {"torch": "", "matrix": "", "reference": ""}


_OPERANDS = "Tensor images, SymInt[] original, SymInt[] size, SymInt[] window"
_SETTINGS = "str mode, bool double, bool transposed"


@operator("resize", f"({_OPERANDS}, {_SETTINGS}) -> Tensor")
def _op(
    images: Tensor,
    original: list[int],
    size: list[int],
    window: list[int],
    mode: str,
    double: bool,
    transposed: bool,
) -> Tensor:
    """Return the resize as a linear map from [..., *original] to the window, or its transpose.

    The window is (top, left, bottom, right). The products are in float64 if `double`.
    """
    with torch.autocast(images.device.type, enabled=False):
        dtype = torch.float64 if double else images.dtype
        pixels = product(images.to(dtype), original, size, Box(*window), mode, transposed)
        return pixels.to(images.dtype)


@torch.library.register_fake("rewardlab::resize")
def _(
    images: Tensor,
    original: list[int],
    size: list[int],
    window: list[int],
    mode: str,
    double: bool,
    transposed: bool,
) -> Tensor:
    box = Box(*window)
    sides = original if transposed else [box.bottom - box.top, box.right - box.left]
    return images.new_empty([*images.shape[:2], *sides])


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    _, *ctx.options, ctx.transposed = inputs


def _backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
    of_images = torch.ops.rewardlab.resize(gradient, *ctx.options, not ctx.transposed)
    return of_images, None, None, None, None, None, None


torch.library.register_autograd("rewardlab::resize", _backward, setup_context=_setup_context)
for _device in ("cpu", "cuda"):
    torch.library.register_autocast("rewardlab::resize", _device, torch.float32)


def _channels(numbers: Tensor | Sequence[float], images: Tensor) -> Tensor:
    """Return one number a channel, as [C, 1, 1]."""
    column = torch.as_tensor(numbers, dtype=images.dtype, device=images.device).view(-1, 1, 1)
    count = len(column)
    channels = images.shape[1]
    if count not in (1, channels):
        raise InputError(
            f"resize normalises each channel by a number of its own; got {count} for {channels}."
        )
    return column


def _check(images: Tensor, size: _Size, window: _Window | None, mode: str) -> None:
    if images.dim() != 4 or not images.is_floating_point() or 0 in images.shape[2:]:
        raise InputError(
            "resize takes floating-point images [B, C, H, W] in [0, 1]; "
            f"got {images.dtype} {list(images.shape)}."
        )
    if mode not in ("bicubic", "bilinear"):
        raise InputError(f"resize knows the modes bicubic and bilinear; got {mode!r}.")
    if len(size) != 2 or min(size) < 1:
        raise InputError(f"resize takes a size (height, width) of 1 and more; got {tuple(size)}.")
    if window is not None:
        _check_window(window, size)


def _check_window(window: _Window, size: _Size) -> None:
    box = _box(window, size)
    inside = _part_inside(box, size)
    meets = inside.top < inside.bottom and inside.left < inside.right
    if not meets or min(window[2:]) < 1:
        raise InputError(
            "resize takes a window (top, left, height, width) that meets the image of "
            f"{size}; got {window}."
        )
