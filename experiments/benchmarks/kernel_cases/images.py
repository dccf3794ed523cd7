"""Preparing images (T13): resize, crop, clamp and normalise, beside the library's interpolation."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor
from torch.nn import functional

from kernel_cases import others
from kernel_cases.measuring import (
    Call,
    Found,
    Provider,
    Run,
    error_of,
    errors_of,
    measure,
    over,
    repeats,
)
from kernel_cases.writing import aim, report
from rewardlab.kernels import resize


def pixels(run: Run, _: str, seconds: float) -> None:
    """T13: resize, crop and normalise, forward and backward, beside the library's interpolation."""
    side, count = (32, 2) if run.quick else (1024, 8)
    whole, window = ((16, 16), (1, 1, 14, 14)) if run.quick else ((256, 256), (16, 16, 224, 224))
    place = f"{count}x3x{side}x{side} to {window[2]}x{window[3]}"
    random = torch.Generator(run.device).manual_seed(0)
    draw = partial(torch.rand, count, 3, side, side, generator=random, device=run.device)
    made = [draw() for _ in range(run.copies(12 * count * side**2))]
    seen = torch.randn(count, 3, *window[2:], generator=random, device=run.device)
    mean, std = (
        torch.tensor(each, device=run.device) for each in ([0.48, 0.46, 0.41], [0.27, 0.26, 0.28])
    )

    def naive(images: Tensor) -> Tensor:
        top, left, height, width = window
        found = functional.interpolate(images, whole, mode="bicubic", antialias=True)
        found = found[:, :, top : top + height, left : left + width].clamp(0, 1)
        return (found - mean[:, None, None]) / std[:, None, None]

    of = partial(_gradients, made, seen)
    ours = partial(resize, size=whole, window=window, mean=mean, std=std)
    providers: dict[str, Provider] = {
        "ours": lambda: of(ours),
        "ours, matrix products": lambda: of(partial(ours, backend="matrix")),
        "ours, plain torch": lambda: of(partial(ours, backend="torch")),
        "naive": lambda: of(naive),
        "naive, torch.compile": lambda: of(others.compiled(naive, run.quick)),
    }
    found = measure(run, providers, seconds)
    _report(run, place, found, of(partial(ours, backend="reference"))(0), float(std.max()))


def _gradients(made: list[Tensor], seen: Tensor, function: Callable[[Tensor], Tensor]) -> Call:
    """Pixels, and the images' gradient from `seen`, which is that of the pixels."""

    def call(turn: int) -> dict[str, Tensor]:
        images = made[turn % len(made)].detach().requires_grad_()
        found = function(images)
        return {"pixels": found.detach(), "images": torch.autograd.grad(found, images, seen)[0]}

    return call


def _report(
    run: Run, place: str, found: dict[str, Found], truth: dict[str, Tensor], unit: float
) -> None:
    """Rows of it all; `unit` turns an error of normalised pixels into the largest it may be of
    pixels in [0, 1].
    """

    def compare(result: dict[str, Tensor]) -> dict[str, float]:
        return {
            "largest error of a pixel": float((result["pixels"] - truth["pixels"]).abs().max())
            * unit,
            "relative error of d images": float(
                (result["images"] - truth["images"]).norm() / truth["images"].norm()
            ),
        }

    errors = errors_of(found, compare)
    report(run, "T13", "resize", "forward and backward", place, found, errors)
    aim(run, "T13", "naive time over ours", place, over(found, "naive"), ">= 3")
    error = error_of(errors, "ours", "largest error of a pixel")
    aim(run, "T13", "largest error of a pixel, of a range of 1", place, error, "<= 1e-3")
    for name, bound in (("ours", "== 1"), ("naive", "")):
        same = repeats(found[name], "images", 3)
        aim(
            run,
            "T13",
            f"{name}: the gradient repeats itself to the bit (1: yes)",
            place,
            same,
            bound,
        )
