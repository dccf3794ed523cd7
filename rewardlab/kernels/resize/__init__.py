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
from rewardlab.kernels.resize.matrices import Mode, product

__all__ = ["hindrances", "resize"]

Backend = Literal["auto", "matrix", "torch", "reference"]


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
    """(clamp(A_h · X · A_wᵀ) - mean)/std: antialiased resize to `size`, cut to `window`, clamped to
    [0, 1], normalised.

    The filters are PIL's (bicubic: Keys' with a = -1/2, widened by the scale when shrinking; so are
    those of torchvision and of `interpolate(antialias=True)`). As matrix products with banded
    matrices A of which only the window's rows are computed, the gradient is the exact transpose,
    and both are the same bits every time; the gradient of the library's kernel on CUDA adds up by
    atomics. The clamp is what PIL's bytes do to overshoot.

    Args:
        images: X [B, C, H, W] in [0, 1], any floating-point type; products are in float32. (If TF32
            is allowed for matrix products, the error is about 1e-3.)
        size: height and width that whole images are resized to.
        window: (top, left, height, width) of the resized image that is wanted; all of it by
            default. It may reach beyond.
        fill: what the image has there, before normalisation.
        mean, std: of each channel [C]; nothing is normalised by default.
        mode: "bicubic" or "bilinear".
        backend: "matrix", two products (first choice on CUDA), "torch", the library's interpolation
            (first choice elsewhere, where its forward pass is faster), or "reference", the products
            in float64.

    Returns:
        [B, C, height, width], float32 (float64 for float64 images).

    Raises:
        InputError: if shapes or numbers cannot be used, or the backend cannot run.

    Example:
        >>> pixels = resize(torch.ones(2, 3, 8, 12), (4, 6), window=(0, 1, 4, 4), mean=[0.5] * 3, std=[0.25] * 3)
        >>> pixels.shape, round(pixels.mean().item(), 4)
        (torch.Size([2, 3, 4, 4]), 2.0)
    """
    _check(images, size, window, mode)
    top, left, height, width = window or (0, 0, *size)
    inside = [max(0, top), max(0, left), min(size[0], top + height), min(size[1], left + width)]
    if images.dtype != torch.float64:
        images = images.float()
    chosen = dispatch.chosen("resize", hindrances(images, size), backend)
    if chosen == "torch":
        whole = (
            images
            if tuple(images.shape[2:]) == tuple(size)
            else interpolate(images, size, mode=mode, antialias=True)
        )
        found = whole[:, :, inside[0] : inside[2], inside[1] : inside[3]]
    else:
        found = torch.ops.rewardlab.resize(
            images, [*images.shape[2:]], [*size], inside, mode, chosen == "reference", False
        )
    found = found.clamp(0, 1)
    beyond = (inside[1] - left, left + width - inside[3], inside[0] - top, top + height - inside[2])
    if any(beyond):
        found = pad(found, beyond, value=fill)
    if mean is not None:
        found = found - _channels(mean, found)
    return found if std is None else found / _channels(std, found)


def hindrances(images: Tensor, *arguments: Any, **options: Any) -> dict[str, str]:
    """Why each backend cannot run; an empty string for one that can. In order of preference."""
    order = ("matrix", "torch", "reference") if images.is_cuda else ("torch", "matrix", "reference")
    return dict.fromkeys(order, "")


_SCHEMA = "(Tensor images, SymInt[] original, SymInt[] size, SymInt[] window, str mode, bool double, bool transposed) -> Tensor"


@operator("resize", _SCHEMA)
def _op(
    images: Tensor,
    original: list[int],
    size: list[int],
    window: list[int],
    mode: str,
    double: bool,
    transposed: bool,
) -> Tensor:
    """The resize as a linear map from [..., *original] to the window (top, left, bottom, right), or
    its transpose back.
    """
    with torch.autocast(images.device.type, enabled=False):
        kind = torch.float64 if double else images.dtype
        spans = (window[0], window[2]), (window[1], window[3])
        return product(images.to(kind), original, size, spans, mode, transposed).to(images.dtype)


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
    sides = original if transposed else [window[2] - window[0], window[3] - window[1]]
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
    """One number a channel, as [C, 1, 1]."""
    column = torch.as_tensor(numbers, dtype=images.dtype, device=images.device).view(-1, 1, 1)
    if len(column) not in (1, images.shape[1]):
        raise InputError(
            f"resize normalises each channel by a number of its own; got {len(column)} for {images.shape[1]}."
        )
    return column


def _check(
    images: Tensor, size: tuple[int, int], window: tuple[int, int, int, int] | None, mode: str
) -> None:
    if images.dim() != 4 or not images.is_floating_point() or 0 in images.shape[2:]:
        raise InputError(
            f"resize takes floating-point images [B, C, H, W] in [0, 1]; got {images.dtype} {list(images.shape)}."
        )
    if mode not in ("bicubic", "bilinear"):
        raise InputError(f"resize knows the modes bicubic and bilinear; got {mode!r}.")
    if len(size) != 2 or min(size) < 1:
        raise InputError(f"resize takes a size (height, width) of 1 and more; got {tuple(size)}.")
    if window is None:
        return
    top, left, height, width = window
    if (
        min(height, width) < 1
        or top >= size[0]
        or left >= size[1]
        or top + height <= 0
        or left + width <= 0
    ):
        raise InputError(
            f"resize takes a window (top, left, height, width) that meets the image of {size}; got {window}."
        )
