"""A search for what trivially separates target samples from generated ones, before any training."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from math import log, sqrt
from pathlib import Path
from statistics import NormalDist
from typing import NamedTuple

import torch
from torch import Tensor

from rewardlab.data.file_measures import Original, file_types, read_header, sizes, usual_size
from rewardlab.data.pixel_measures import FLOOR, MEASURES, middle
from rewardlab.errors import InputError
from rewardlab.metrics import auc
from rewardlab.seeds import derive
from rewardlab.types import Samples

Images = Samples | Sequence[Tensor] | Tensor
Files = Sequence[str | Path] | None

MOST = 500  # of each class
RISK = 0.05  # of a false alarm, over all attributes

UNLESS_WANTED = "; if this is what you want the reward to like, ignore it"
CURES = {
    "size": "resize and crop both classes by the same path, from originals of like sizes",
    "file type": "pass both classes through one codec at one quality",
    "JPEG blocks": "pass both classes through one codec at one quality",
    "colour": "match the colours of both classes" + UNLESS_WANTED,
    "brightness": "match the brightness of both classes" + UNLESS_WANTED,
    "contrast": "match the contrast of both classes" + UNLESS_WANTED,
    "sharpness": "resize both classes by the same path, from originals of like sizes"
    + UNLESS_WANTED,
    "autoencoder": "pass targets through the generator's own autoencoder: reconstruct=true",
}


@dataclass(frozen=True)
class Separator:
    """A simple attribute, and how well it alone tells targets from generated samples.

    Attributes:
        name: "size", "file type", "JPEG blocks", "colour", "brightness", "contrast", "sharpness" or
            "autoencoder".
        auc: from 0.5 (chance) to 1, whichever class has more of it; the best of the attribute's
            numbers.
        cure: what to do about it.
        chance: what the highest AUC of equal classes of these sizes stays below 95 times in 100.
            Above 1 where the samples are too few to tell.
    """

    name: str
    auc: float
    cure: str
    chance: float


class _Picture(NamedTuple):
    prompt: str
    image: Tensor


class _Attribute(NamedTuple):
    """An attribute's numbers, one row a sample of each class, all rows of one length."""

    name: str
    targets: list[list[float]]
    generated: list[list[float]]


@torch.no_grad()
def separators(
    targets: Images,
    generated: Images,
    *,
    target_files: Files = None,
    generated_files: Files = None,
    reconstruct: Callable[[Samples], Samples] | None = None,
    seed: int = 0,
) -> list[Separator]:
    """Return how well each simple attribute tells the classes apart, the most telling first.

    A discriminator learns the easiest difference, be it the file format. What the targets were
    chosen for shows up too (bold strokes as brightness and contrast): this is information, not a
    refusal.

    Args:
        targets, generated: Samples of images or videos, or tensors [C, H, W] or [F, C, H, W] in [0,
            1] of any sizes. At most 500 of each are looked at: a video by its middle frame, an
            image by its middle 256 x 256 pixels.
        target_files, generated_files: the originals, from before any resize; their sizes and codecs
            are compared. A class without files counts as lossless and of its tensors' sizes. Files
            that are not images (videos) are left out.
        reconstruct: the generator's autoencoder, there and back. It changes least what it has
            decoded before.
        seed: chooses the samples where there are more than 500.

    Raises:
        InputError: if a class is empty or holds something other than finite images.

    Example:
        >>> noise = torch.rand(40, 3, 32, 32, generator=torch.Generator().manual_seed(0))
        >>> results = separators(noise[:20], noise[20:] * 0.5)
        >>> [result.name for result in results if result.auc > 0.9]
        ['brightness', 'contrast']
    """
    target_pictures = _choose(targets, "targets", seed)
    generated_pictures = _choose(generated, "generated", seed)
    attributes = _pixel_attributes(target_pictures, generated_pictures)
    attributes += _file_attributes(
        _originals(target_pictures, target_files, seed),
        _originals(generated_pictures, generated_files, seed),
    )
    if reconstruct is not None:
        target_changes = _reconstruction_changes(target_pictures, reconstruct)
        generated_changes = _reconstruction_changes(generated_pictures, reconstruct)
        attributes.append(_Attribute("autoencoder", target_changes, generated_changes))
    return _ranked(attributes)


def report(found: Sequence[Separator], threshold: float = 0.8) -> str:
    """Return a warning that lists what separates the classes, or one line that nothing does.

    Each attribute is listed with its cure.

    Args:
        found: from `separators`.
        threshold: the AUC from which an attribute is listed, if chance does not reach it as well.

    Example:
        >>> print(report([Separator("file type", 1.0, "pass both classes through one codec", 0.6)]))
        Before any training, these tell targets from generated samples (AUC, 0.5 is chance):
          file type 1.00: pass both classes through one codec
        A reward trained on them is likely to learn this first.
    """
    telling = [result for result in found if result.auc >= max(threshold, result.chance)]
    if telling:
        return _warning(telling)
    chance = max(result.chance for result in found)
    if chance > 1:
        return (
            "There are too few samples to tell whether something simple "
            "separates targets from generated samples."
        )
    best = max(found, key=lambda result: result.auc)
    return (
        "Nothing simple separates targets from generated samples: "
        f"the most telling is {best.name}, AUC {best.auc:.2f} (chance reaches {chance:.2f})."
    )


def _warning(telling: Sequence[Separator]) -> str:
    lines = ["Before any training, these tell targets from generated samples (AUC, 0.5 is chance):"]
    for result in telling:
        lines.append(f"  {result.name} {result.auc:.2f}: {result.cure}")
    lines.append("A reward trained on them is likely to learn this first.")
    return "\n".join(lines)


def _choose(images: Images, name: str, seed: int) -> list[_Picture]:
    """Return at most 500 samples of a class."""
    outputs = images.outputs if isinstance(images, Samples) else images
    if not len(outputs):
        raise InputError(f"The diagnostic compares two classes of images; {name} is empty.")
    prompts = images.prompts if isinstance(images, Samples) else [""] * len(outputs)
    pictures = []
    for i in _choose_rows(len(outputs), seed):
        _check_image(outputs[i], name)
        pictures.append(_Picture(prompts[i], outputs[i]))
    return pictures


def _choose_rows(count: int, seed: int) -> list[int]:
    """Return all rows where they are few, else 500 at random."""
    if count <= MOST:
        return list(range(count))
    generator = torch.Generator().manual_seed(derive(seed, "diagnostics"))
    return torch.randperm(count, generator=generator)[:MOST].tolist()


def _check_image(image: object, name: str) -> None:
    is_tensor = isinstance(image, Tensor)
    if not is_tensor or image.dim() not in (3, 4) or not image.is_floating_point():
        form = f"{image.dtype} {list(image.shape)}" if is_tensor else type(image).__name__
        raise InputError(
            "The diagnostic compares float images [C, H, W] or videos [F, C, H, W]; "
            f"{name} holds {form}."
        )
    if not image.isfinite().all():
        raise InputError(
            f"The diagnostic compares images in [0, 1]; one of {name} holds NaN or infinity."
        )


def _pixel_attributes(
    targets: Sequence[_Picture], generated: Sequence[_Picture]
) -> list[_Attribute]:
    """Return what the pixels measure."""
    target_images = [middle(picture.image) for picture in targets]
    generated_images = [middle(picture.image) for picture in generated]
    attributes = []
    for name, measure in MEASURES.items():
        target_rows = list(map(measure, target_images))
        generated_rows = list(map(measure, generated_images))
        attributes.append(_Attribute(name, target_rows, generated_rows))
    return attributes


def _file_attributes(
    targets: Sequence[Original], generated: Sequence[Original]
) -> list[_Attribute]:
    """Return sizes and file types; the usual size is the one that generated samples mostly have."""
    usual = usual_size(generated)
    kinds = sorted({original.kind for original in (*targets, *generated)})
    return [
        _Attribute("size", sizes(targets, usual), sizes(generated, usual)),
        _Attribute("file type", file_types(targets, kinds), file_types(generated, kinds)),
    ]


def _originals(pictures: Sequence[_Picture], files: Files, seed: int) -> list[Original]:
    """Return what the files' headers say, or what the tensors do where there are no image files."""
    headers = []
    for i in _choose_rows(len(files), seed) if files else ():
        header = read_header(files[i])
        if header is not None:
            headers.append(header)
    if headers:
        return headers
    shapes = [picture.image.shape for picture in pictures]
    return [Original("lossless", shape[-1], shape[-2], 0.0) for shape in shapes]


def _reconstruction_changes(
    pictures: Sequence[_Picture], reconstruct: Callable[[Samples], Samples]
) -> list[list[float]]:
    """Return the logarithm of the mean square that a pass through the autoencoder changes."""
    rows = []
    for batch in _batches(pictures):
        before = torch.as_tensor(batch.outputs)
        after = torch.as_tensor(reconstruct(batch).outputs)
        if after.shape != before.shape:
            raise InputError(
                f"reconstruct must return the shape it was given, {list(before.shape)}; "
                f"got {list(after.shape)}."
            )
        changes = (after.to(before) - before).double().square().flatten(1).mean(1)
        for change in changes.tolist():
            rows.append([log(change + FLOOR**2)])
    return rows


def _batches(pictures: Sequence[_Picture]) -> Iterator[Samples]:
    """Yield up to 16 samples at a time, of one shape."""
    for _, group in groupby(pictures, key=lambda picture: picture.image.shape):
        alike = list(group)
        for start in range(0, len(alike), 16):
            batch = alike[start : start + 16]
            prompts = [picture.prompt for picture in batch]
            images = torch.stack([picture.image for picture in batch])
            yield Samples(prompts, images)


def _ranked(attributes: Sequence[_Attribute]) -> list[Separator]:
    """Return how well each attribute tells the classes apart, the most telling first."""
    tests = sum(len(attribute.targets[0]) for attribute in attributes)
    results = []
    for name, targets, generated in attributes:
        chance = _chance(len(targets), len(generated), tests)
        results.append(Separator(name, _best_auc(targets, generated), CURES[name], chance))
    return sorted(results, key=lambda result: -result.auc)


def _best_auc(target_rows: list[list[float]], generated_rows: list[list[float]]) -> float:
    """Return the highest AUC over an attribute's numbers, in either direction.

    Numbers that are equal to six decimals tie, so that rounding orders nothing.
    """
    values = torch.tensor(target_rows + generated_rows, dtype=torch.float64).round(decimals=6)
    labels = torch.arange(len(values)) < len(target_rows)
    areas = [auc(column, labels) for column in values.T]
    return max(max(area, 1 - area) for area in areas)


def _chance(targets: int, generated: int, tests: int) -> float:
    """Return the normal bound of Mann and Whitney's statistic for classes of these sizes.

    The risk is shared among all tests (Bonferroni).
    """
    deviation = sqrt((targets + generated + 1) / (12 * targets * generated))
    return 0.5 + NormalDist().inv_cdf(1 - RISK / (2 * tests)) * deviation
