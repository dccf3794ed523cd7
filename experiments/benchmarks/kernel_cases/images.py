"""Preparing images (T13): resize, crop, clamp and normalise, beside the library's interpolation."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from kernel_cases import others
from kernel_cases.measuring import (
    Call,
    Errors,
    Measurements,
    Metrics,
    Providers,
    Result,
    Run,
    error_of,
    errors_of,
    in_turn,
    measure,
    over,
    repeats,
)
from kernel_cases.writing import Case, aim, report
from rewardlab.kernels import resize

MEAN = (0.48, 0.46, 0.41)
STD = (0.27, 0.26, 0.28)


class Sizes(NamedTuple):
    """How many images of which side become which size, and the window that is cut from it."""

    count: int
    side: int
    size: tuple[int, int]
    window: tuple[int, int, int, int]


WHOLE = Sizes(8, 1024, (256, 256), (16, 16, 224, 224))
TINY = Sizes(2, 32, (16, 16), (1, 1, 14, 14))


def pixels(run: Run, _: str, seconds: float) -> None:
    """Measure resize, crop and normalise, forward and backward: T13."""
    sizes = TINY if run.quick else WHOLE
    random = torch.Generator(run.device).manual_seed(0)
    batches = _operands(run, sizes, random)
    height, width = sizes.window[2:]
    shape = (sizes.count, 3, height, width)
    upstream = torch.randn(shape, generator=random, device=run.device)
    call = partial(_gradients, batches, upstream)
    forms = _forms(run, sizes)
    measurements = measure(run, _providers(run, call, forms), seconds)
    exact = call(partial(forms.ours, backend="reference"))
    errors = _errors(measurements, exact(0))
    label = f"{sizes.count}x3x{sizes.side}x{sizes.side} to {height}x{width}"
    _report(run, label, measurements, errors)


def _operands(run: Run, sizes: Sizes, random: torch.Generator) -> list[Tensor]:
    """Return as many batches of images as the caches cannot hold."""
    shape = (sizes.count, 3, sizes.side, sizes.side)
    size = 4 * math.prod(shape)
    batches = []
    for _ in range(run.copies(size)):
        images = torch.rand(shape, generator=random, device=run.device)
        batches.append(images)
    return batches


class _Forms(NamedTuple):
    """Two functions of images: ours, and the library's."""

    ours: Callable[..., Tensor]
    naive: Callable[[Tensor], Tensor]


def _forms(run: Run, sizes: Sizes) -> _Forms:
    mean = torch.tensor(MEAN, device=run.device)
    std = torch.tensor(STD, device=run.device)
    top, left, height, width = sizes.window
    rows = slice(top, top + height)
    columns = slice(left, left + width)

    def naive(images: Tensor) -> Tensor:
        whole = functional.interpolate(images, sizes.size, mode="bicubic", antialias=True)
        window = whole[:, :, rows, columns]
        clamped = window.clamp(0, 1)
        return (clamped - mean[:, None, None]) / std[:, None, None]

    ours = partial(
        resize,
        size=sizes.size,
        window=sizes.window,
        mean=mean,
        std=std,
    )
    return _Forms(ours, naive)


def _providers(run: Run, call: Callable[..., Call], forms: _Forms) -> Providers:
    return {
        "ours": lambda: call(forms.ours),
        "ours, matrix products": lambda: call(partial(forms.ours, backend="matrix")),
        "ours, plain torch": lambda: call(partial(forms.ours, backend="torch")),
        "naive": lambda: call(forms.naive),
        "naive, torch.compile": lambda: call(others.compiled(forms.naive, run.quick)),
    }


def _gradients(
    batches: list[Tensor], upstream: Tensor, function: Callable[[Tensor], Tensor]
) -> Call:
    """Return a call for the pixels, and the images' gradient from that of the pixels."""

    def gradients_of(images: Tensor) -> Result:
        leaves = images.detach().requires_grad_()
        results = function(leaves)
        of_images = torch.autograd.grad(results, leaves, upstream)[0]
        return {"pixels": results.detach(), "images": of_images}

    return in_turn(batches, gradients_of)


def _errors(measurements: Measurements, truth: Result) -> Errors:
    """Return the errors of pixels in [0, 1] and of the images' gradient.

    The largest standard deviation turns an error of normalised pixels into the largest that it may
    be of pixels in [0, 1].
    """
    unit = float(torch.tensor(STD).max())

    def compare(result: Result) -> Metrics:
        pixel_gaps = result["pixels"] - truth["pixels"]
        largest = float(pixel_gaps.abs().max())
        image_gaps = result["images"] - truth["images"]
        relative = image_gaps.norm() / truth["images"].norm()
        return {
            "largest error of a pixel": largest * unit,
            "relative error of d images": float(relative),
        }

    return errors_of(measurements, compare)


def _report(run: Run, label: str, measurements: Measurements, errors: Errors) -> None:
    case = Case("T13", "resize", "forward and backward", label)
    report(run, case, measurements, errors)
    aim(run, "T13", "naive time over ours", label, over(measurements, "naive"), ">= 3")
    error = error_of(errors, "ours", "largest error of a pixel")
    aim(run, "T13", "largest error of a pixel, of a range of 1", label, error, "<= 1e-3")
    what = "the gradient repeats itself to the bit (1: yes)"
    of_ours = repeats(measurements["ours"], "images", 3)
    aim(run, "T13", f"ours: {what}", label, of_ours, "== 1")
    of_naive = repeats(measurements["naive"], "images", 3)
    aim(run, "T13", f"naive: {what}", label, of_naive)
