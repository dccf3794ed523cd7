"""scikit-learn's handwritten digits, their split and their captions."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from rewardlab.conversations import text_prompts
from rewardlab.seeds import derive, row_seeds
from rewardlab.types import Samples, images_of

LARGEST = 16  # of the set's pixels
WORDS = ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"]
WEIGHTS = ["thin", "plain", "bold"]
Part = Literal["targets", "tower", "judge", "all"]


def digits(part: Part = "all", seed: int = 0) -> Samples:
    """Return real digits [N, 1, 8, 8] in [0, 1] with their names as prompts.

    The fact "row" is a digit's number in the set.

    Args:
        part: the part; see `digits`, the module.
        seed: seed of the split.

    Example:
        >>> [len(digits(part)) for part in ("targets", "tower", "judge", "all")]
        [300, 400, 1097, 1797]
    """
    samples = _all_digits()
    if part == "all":
        return samples
    images = images_of(samples, "digits")
    classes = classes_of(samples)
    rows = []
    for label in range(len(WORDS)):
        class_rows = (classes == label).nonzero()[:, 0]
        split = _split(images, class_rows, seed)
        rows.append(split[part])
    ordered = torch.cat(rows).sort().values
    return samples[ordered]


def _all_digits() -> Samples:
    """Return all 1,797 digits."""
    from sklearn.datasets import load_digits

    bunch = load_digits()
    pixels = torch.from_numpy(bunch.images).float()
    images = pixels[:, None] / LARGEST
    prompts = [WORDS[label] for label in bunch.target]
    rows = torch.arange(len(images))
    return Samples(prompts, images, {"row": rows})


def _split(images: Tensor, rows: Tensor, seed: int) -> dict[str, Tensor]:
    """Return the rows of each part, of one class's rows."""
    seeds = row_seeds(derive(seed, "digits"), rows)
    rows = rows[seeds.argsort()]
    pool_size = round(0.4 * len(rows))
    pool = rows[:pool_size]
    ink = _ink(images[pool])
    boldest = ink.argsort(descending=True)[:30]
    targets = pool[boldest]
    is_target = torch.isin(rows, targets)
    others = rows[~is_target]
    return {
        "targets": targets,
        "tower": others[:40],
        "judge": others[40:],
    }


def _ink(images: Tensor) -> Tensor:
    """Return the mean of each image's pixels, [B]."""
    return images.mean((1, 2, 3))


def captioned(samples: Samples) -> Samples:
    """Return digits with captions such as "bold three", by thirds of the ink within their class.

    Example:
        >>> captioned(digits("tower")).prompts[:2]
        ['plain zero', 'thin three']
    """
    images = images_of(samples, "captioned")
    ink = _ink(images)
    classes = classes_of(samples)
    thirds = []
    for label in range(len(WORDS)):
        thirds.append(_thirds(ink[classes == label]))
    limits = torch.stack(thirds)[classes]
    weights = (ink[:, None] > limits).sum(1)
    captions = []
    for weight, prompt in zip(weights.tolist(), samples.prompts, strict=True):
        captions.append(f"{WEIGHTS[weight]} {prompt}")
    return Samples(captions, images)


def _thirds(values: Tensor) -> Tensor:
    """Return the two values that split `values` into thirds."""
    shares = torch.tensor([1 / 3, 2 / 3])
    return torch.quantile(values, shares)


def classes_of(samples: Samples) -> Tensor:
    """Return the digits that prompts name, int64 [B]."""
    classes = [WORDS.index(prompt) for prompt in text_prompts(samples.prompts, "digits")]
    return torch.tensor(classes)
