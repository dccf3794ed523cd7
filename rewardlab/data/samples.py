"""Data modules of samples and of preference pairs, from a folder or from memory."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import pytorch_lightning as pl
from torch.utils.data import Dataset

from rewardlab.data.loader import ResumableLoader, Rows
from rewardlab.data.long_rows import LongRows, fitting, models_of
from rewardlab.storage.image_folder import ImageFolder
from rewardlab.storage.metadata import read_lines
from rewardlab.storage.samples import load_pairs, load_samples
from rewardlab.types import PreferencePairs, Samples


class SamplesData(pl.LightningDataModule):
    """Samples to fine-tune on, such as SFT's: images or texts, from a folder or from memory.

    Args:
        samples: a folder of images, with their prompts in `metadata.jsonl`; a folder that
            `save_samples` wrote; or Samples in memory.
        batch_size: samples a step, on each device.
        size: resize and crop images of a folder to size × size; see `read_image`.
        channels: 3 for RGB, 1 for grey, for images of a folder.
        seed: names the order.
        num_workers: processes that read ahead.
        strict: refuse unusable images instead of skipping them.
        long_rows: what becomes of texts that do not fit the context of the model that is trained:
            "refuse", "drop" or "truncate" (see `rewardlab.data.long_rows.fitting`).

    Example:
        >>> data = SamplesData(Samples(["hi"] * 3, ["a", "b", "c"]), batch_size=2)
        >>> data.setup("fit")
        >>> [len(batch) for batch in data.train_dataloader()]
        [2, 1]
    """

    def __init__(
        self,
        samples: str | Path | Samples,
        batch_size: int = 16,
        size: int | None = None,
        channels: Literal[1, 3] = 3,
        seed: int = 0,
        num_workers: int = 0,
        strict: bool = False,
        long_rows: LongRows = "refuse",
    ) -> None:
        super().__init__()
        self.long_rows = long_rows
        self.samples = samples
        self.batch_size = batch_size
        self.seed = seed
        self.num_workers = num_workers
        self.size = size
        self.channels = channels
        self.strict = strict
        self.dataset: Dataset[Samples] | None = None

    def setup(self, stage: str) -> None:
        """Read the folder, once; look for rows that do not fit the trainer's models."""
        if self.dataset is None:
            self.dataset = open_samples(self.samples, self.size, self.channels, self.strict)
        if isinstance(self.dataset, Rows):
            noun = fitting(self.dataset.noun, models_of(self.trainer), self.long_rows, "samples")
            self.dataset = Rows(noun)

    def train_dataloader(self) -> ResumableLoader:
        return ResumableLoader(
            self.dataset, self.batch_size, seed=self.seed, num_workers=self.num_workers
        )


class PairsData(pl.LightningDataModule):
    """Preference pairs, such as DPO's, from a folder with chosen/ and rejected/ or from memory.

    Args:
        pairs: a folder that `save_pairs` wrote, or PreferencePairs in memory.
        batch_size: pairs a step, on each device.
        seed: names the order.
        num_workers: processes that read ahead.
        long_rows: what becomes of texts that do not fit the context of the model that is trained:
            "refuse", "drop" or "truncate" (see `rewardlab.data.long_rows.fitting`).
    """

    def __init__(
        self,
        pairs: str | Path | PreferencePairs,
        batch_size: int = 16,
        seed: int = 0,
        num_workers: int = 0,
        long_rows: LongRows = "refuse",
    ) -> None:
        super().__init__()
        self.long_rows = long_rows
        self.pairs = pairs
        self.batch_size = batch_size
        self.seed = seed
        self.num_workers = num_workers
        self.dataset: Rows | None = None

    def setup(self, stage: str) -> None:
        """Read the folder, once; look for pairs that do not fit the trainer's models."""
        if self.dataset is None:
            pairs = self.pairs
            if not isinstance(pairs, PreferencePairs):
                pairs = load_pairs(pairs)
            self.dataset = Rows(PreferencePairs(_numbered(pairs.chosen), _numbered(pairs.rejected)))
        noun = fitting(self.dataset.noun, models_of(self.trainer), self.long_rows, "pairs")
        self.dataset = Rows(noun)

    def train_dataloader(self) -> ResumableLoader:
        return ResumableLoader(
            self.dataset, self.batch_size, seed=self.seed, num_workers=self.num_workers
        )


def open_samples(
    samples: str | Path | Samples,
    size: int | None = None,
    channels: Literal[1, 3] = 3,
    strict: bool = False,
) -> Dataset[Samples]:
    """Return samples in memory or in a folder as a data set of one-row Samples with row numbers.

    Args:
        samples: a folder of images, a folder that `save_samples` wrote, or Samples in memory.
        size: resize and crop images of a folder to size × size; see `read_image`.
        channels: 3 for RGB, 1 for grey, for images of a folder.
        strict: refuse unusable images instead of skipping them.

    Example:
        >>> open_samples(Samples(["hi"] * 3, ["a", "b", "c"]))[2].facts["row"].tolist()
        [2]
    """
    if isinstance(samples, Samples):
        return Rows(_numbered(samples))
    if _holds_images(Path(samples)):
        return ImageFolder(samples, size, channels, strict)
    return Rows(_numbered(load_samples(samples)))


def _numbered(samples: Samples) -> Samples:
    """Give samples without row numbers those of their order."""
    return samples if "row" in samples.facts else samples.numbered()


def _holds_images(folder: Path) -> bool:
    """Tell a folder of images from one of texts or videos, by the first line of its metadata."""
    file = folder / "metadata.jsonl"
    lines = read_lines(file) if file.is_file() else []
    first = lines[0] if lines else {}
    name = first.get("file_name")
    is_video = name is not None and (folder / str(name)).is_dir()
    return "output" not in first and not is_video
