"""What trivially separates target samples from generated ones, looked for before a reward is
trained on them.
"""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from math import log, sqrt
from pathlib import Path
from statistics import NormalDist

import torch
from PIL import Image, UnidentifiedImageError
from torch import Tensor
from torch.nn.functional import adaptive_avg_pool2d

from rewardlab.errors import InputError
from rewardlab.metrics import auc
from rewardlab.seeds import derive
from rewardlab.types import Samples

Images = Samples | Sequence[Tensor] | Tensor
Original = tuple[
    str, int, int, float
]  # file type, width, height, mean of the JPEG quantisation table

MOST = 500  # of each class
CROP = 256  # pixels
BLOCK = 8  # pixels, JPEG's
LOSSLESS = {"PNG", "BMP", "PPM", "TIFF"}
FLOOR = 1e-6  # the variance of rounding to 8 bits: below it there is nothing to see
RISK = 0.05  # of a false alarm, over all attributes
LUMA = torch.tensor([0.299, 0.587, 0.114])  # JPEG's brightness of red, green and blue
COSINES = (
    (torch.arange(BLOCK) + 0.5) * torch.arange(BLOCK)[:, None] * (torch.pi / BLOCK)
).cos()  # of its transform

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


@torch.no_grad()
def separators(
    targets: Images,
    generated: Images,
    *,
    target_files: Sequence[str | Path] | None = None,
    generated_files: Sequence[str | Path] | None = None,
    reconstruct: Callable[[Samples], Samples] | None = None,
    seed: int = 0,
) -> list[Separator]:
    """Return how well each simple attribute tells the classes apart, the most telling first.

    A discriminator learns the easiest difference, be it the file format. What the targets were
    chosen for shows up here too (bold strokes as brightness and contrast): this is information, not
    a refusal.

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
        >>> found = separators(noise[:20], noise[20:] * 0.5)
        >>> [one.name for one in found if one.auc > 0.9]
        ['brightness', 'contrast']
    """
    samples = [_choose(targets, "targets", seed), _choose(generated, "generated", seed)]
    middles = [[_middle(image) for _, image in rows] for rows in samples]
    columns = {
        name: [[measure(image) for image in side] for side in middles]
        for name, measure in MEASURES.items()
    }
    originals = [
        _originals(rows, files, seed)
        for rows, files in zip(samples, (target_files, generated_files), strict=True)
    ]
    columns |= {"size": _sizes(*originals), "file type": _types(*originals)}
    if reconstruct is not None:
        columns["autoencoder"] = [_residuals(rows, reconstruct) for rows in samples]
    tests = sum(len(target_rows[0]) for target_rows, _ in columns.values())
    found = [
        Separator(name, _best_auc(one, other), CURES[name], _chance(len(one), len(other), tests))
        for name, (one, other) in columns.items()
    ]
    return sorted(found, key=lambda separator: -separator.auc)


def report(found: Sequence[Separator], threshold: float = 0.8) -> str:
    """Return a warning that lists what separates the classes with its cure, or one line that
    nothing does.

    Args:
        found: from `separators`.
        threshold: the AUC from which an attribute is listed, if chance does not reach it as well.

    Example:
        >>> print(report([Separator("file type", 1.0, "pass both classes through one codec", 0.6)]))
        Before any training, these tell targets from generated samples (AUC, 0.5 is chance):
          file type 1.00: pass both classes through one codec
        A reward trained on them is likely to learn this first.
    """
    telling = [one for one in found if one.auc >= max(threshold, one.chance)]
    if telling:
        lines = [f"  {one.name} {one.auc:.2f}: {one.cure}" for one in telling]
        first = (
            "Before any training, these tell targets from generated samples (AUC, 0.5 is chance):"
        )
        return "\n".join([first, *lines, "A reward trained on them is likely to learn this first."])
    best = max(found, key=lambda one: one.auc)
    chance = max(one.chance for one in found)
    if chance > 1:
        return "There are too few samples to tell whether something simple separates targets from generated samples."
    return (
        f"Nothing simple separates targets from generated samples: the most telling is {best.name}, AUC {best.auc:.2f} "
        f"(chance reaches {chance:.2f})."
    )


def _choose(images: Images, name: str, seed: int) -> list[tuple[str, Tensor]]:
    """Return (prompt, image) of at most 500 samples."""
    outputs = images.outputs if isinstance(images, Samples) else images
    if not len(outputs):
        raise InputError(f"The diagnostic compares two classes of images; {name} is empty.")
    prompts = images.prompts if isinstance(images, Samples) else [""] * len(outputs)
    return [(prompts[i], _checked(outputs[i], name)) for i in _some(len(outputs), seed)]


def _checked(image: object, name: str) -> Tensor:
    if not isinstance(image, Tensor) or image.dim() not in (3, 4) or not image.is_floating_point():
        form = (
            f"{image.dtype} {list(image.shape)}"
            if isinstance(image, Tensor)
            else type(image).__name__
        )
        raise InputError(
            f"The diagnostic compares float images [C, H, W] or videos [F, C, H, W]; {name} holds {form}."
        )
    if not image.isfinite().all():
        raise InputError(
            f"The diagnostic compares images in [0, 1]; one of {name} holds NaN or infinity."
        )
    return image


def _some(count: int, seed: int) -> list[int]:
    if count <= MOST:
        return list(range(count))
    generator = torch.Generator().manual_seed(derive(seed, "diagnostics"))
    return torch.randperm(count, generator=generator)[:MOST].tolist()


def _middle(image: Tensor) -> Tensor:
    """Return the middle of an image, or of a video's middle frame, as float32 [3, at most 256, at
    most 256].
    """
    frame = image[len(image) // 2] if image.dim() == 4 else image
    top, left = (
        (size - CROP) // 2 // BLOCK * BLOCK if size > CROP else 0 for size in frame.shape[1:]
    )
    cut = frame[:, top : top + CROP, left : left + CROP].float().cpu()
    return cut[:3] if len(cut) >= 3 else cut.mean(0, keepdim=True).expand(3, -1, -1)


def _colour(image: Tensor) -> list[float]:
    """Red against green, yellow against blue, and saturation of the coarse picture, over its
    brightness.
    """
    red, green, blue = coarse = adaptive_avg_pool2d(image, BLOCK)
    opponents = (
        (red - green).mean(),
        ((red + green) / 2 - blue).mean(),
        (coarse.amax(0) - coarse.amin(0)).mean(),
    )
    return [(number / (image.mean() + FLOOR)).item() for number in opponents]


def _sharpness(image: Tensor) -> list[float]:
    """The variance of second differences over the variance: the share of fine detail, whatever the
    contrast.
    """
    grey = image.mean(0)
    bends = (
        torch.diff(grey, n=2, dim=0).square().sum() + torch.diff(grey, n=2, dim=1).square().sum()
    )
    return [((bends / grey.numel() + FLOOR) / (grey.var(correction=0) + FLOOR)).item()]


def _blocks(image: Tensor) -> list[float]:
    """How much sparser the cosine transform is on JPEG's grid of 8 x 8 than on a grid half a block
    away.
    """
    if min(image.shape[1:]) < 3 * BLOCK:
        return [0.0]
    luma = torch.tensordot(LUMA, image, 1)
    return [_density(luma, BLOCK // 2) - _density(luma, BLOCK)]


def _density(luma: Tensor, margin: int) -> float:
    """The mean logarithm of cosine coefficients within a margin, from one step of 8 bits upwards."""
    blocks = luma[margin:-margin, margin:-margin].unfold(0, BLOCK, BLOCK).unfold(1, BLOCK, BLOCK)
    return (COSINES @ blocks @ COSINES.T).abs().add(1 / 255).log().mean().item()


MEASURES: dict[str, Callable[[Tensor], list[float]]] = {
    "JPEG blocks": _blocks,
    "colour": _colour,
    "brightness": lambda image: [image.mean().item()],
    "contrast": lambda image: [image.mean(0).std(correction=0).item()],
    "sharpness": _sharpness,
}


def _originals(
    rows: list[tuple[str, Tensor]], files: Sequence[str | Path] | None, seed: int
) -> list[Original]:
    """Return what the files' headers say, or what the tensors do where there are no image files."""
    read = [_header(files[i]) for i in _some(len(files), seed)] if files else []
    return [one for one in read if one] or [
        ("lossless", image.shape[-1], image.shape[-2], 0.0) for _, image in rows
    ]


def _header(file: str | Path) -> Original | None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # no pixel is decoded here
        try:
            with Image.open(file) as image:
                tables = getattr(image, "quantization", None) or {0: [0]}
                kind = "lossless" if image.format in LOSSLESS else str(image.format)
                return kind, image.width, image.height, sum(tables[0]) / len(tables[0])
        except (UnidentifiedImageError, Image.DecompressionBombError):
            return None


def _sizes(*originals: list[Original]) -> list[list[list[float]]]:
    """Area, aspect, and whether the size is the one that generated samples mostly have."""
    ((usual, _),) = Counter(one[1:3] for one in originals[1]).most_common(1)
    return [
        [[w * h, log(w / h), float((w, h) == usual)] for _, w, h, _ in side] for side in originals
    ]


def _types(*originals: list[Original]) -> list[list[list[float]]]:
    """Quantisation, and one number for each file type that occurs."""
    kinds = sorted({one[0] for side in originals for one in side})
    return [
        [[one[3], *(float(one[0] == kind) for kind in kinds)] for one in side] for side in originals
    ]


def _residuals(
    rows: list[tuple[str, Tensor]], reconstruct: Callable[[Samples], Samples]
) -> list[list[float]]:
    """The logarithm of the mean square that a pass through the autoencoder changes."""
    energies = []
    for batch in _batches(rows):
        before = torch.as_tensor(batch.outputs)
        after = torch.as_tensor(reconstruct(batch).outputs)
        if after.shape != before.shape:
            raise InputError(
                f"reconstruct must return the shape it was given, {list(before.shape)}; got {list(after.shape)}."
            )
        changes = (after.to(before) - before).double().square().flatten(1).mean(1)
        energies += [[log(change + FLOOR**2)] for change in changes.tolist()]
    return energies


def _batches(rows: list[tuple[str, Tensor]]) -> Iterator[Samples]:
    """Give up to 16 samples at a time, of one shape."""
    for _, group in groupby(rows, key=lambda row: row[1].shape):
        alike = list(group)
        for start in range(0, len(alike), 16):
            prompts, images = zip(*alike[start : start + 16], strict=True)
            yield Samples(list(prompts), torch.stack(images))


def _best_auc(target_rows: list[list[float]], generated_rows: list[list[float]]) -> float:
    """The highest AUC over columns, in either direction. Numbers equal to six decimals are ties,
    not rounding's order.
    """
    values = torch.tensor(target_rows + generated_rows, dtype=torch.float64).round(decimals=6)
    labels = torch.arange(len(values)) < len(target_rows)
    areas = [auc(column, labels) for column in values.T]
    return max(max(area, 1 - area) for area in areas)


def _chance(targets: int, generated: int, tests: int) -> float:
    """The normal bound of Mann and Whitney's statistic, at the risk shared among all tests
    (Bonferroni).
    """
    deviation = sqrt((targets + generated + 1) / (12 * targets * generated))
    return 0.5 + NormalDist().inv_cdf(1 - RISK / (2 * tests)) * deviation
