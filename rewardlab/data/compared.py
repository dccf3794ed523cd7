"""Which samples of a class the diagnostic of target data looks at, and their files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from torch import Tensor
from torch.utils.data import Dataset, Subset

from rewardlab.storage.image_folder import ImageFolder
from rewardlab.types import Samples

MOST = 500  # samples of each class, about
MOST_BYTES = 2**30  # of videos of each class
LEAST = 50


def evenly_spread(dataset: Dataset[Samples]) -> Subset[Samples]:
    """Return about `MOST` items of a dataset, or all if they are fewer.

    Of large videos there are so many that they fit into `MOST_BYTES`, but `LEAST` at least.
    """
    rows: Any = dataset
    most = MOST
    outputs = rows[0].outputs
    if isinstance(outputs, Tensor) and outputs.dim() == 5:
        most = min(MOST, max(LEAST, MOST_BYTES // outputs.nbytes))
    count = len(rows)
    step = max(1, count // most)
    return Subset(dataset, range(0, count, step))


def files_of(subset: Subset[Samples]) -> list[Path] | None:
    """Return the pictures that the items were read from; None if they are in memory, or videos."""
    images = subset.dataset
    if not isinstance(images, ImageFolder):
        return None
    return [images.paths[row] for row in subset.indices]
