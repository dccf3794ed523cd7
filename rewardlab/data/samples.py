"""Data modules of samples and of preference pairs, from a folder or from memory."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import pytorch_lightning as pl
from torch.utils.data import Dataset

from rewardlab.conversations import Prompt
from rewardlab.data.loader import ResumableLoader, Rows
from rewardlab.data.long_rows import LongRows, fitting, models_of
from rewardlab.data.token_budget import budget_of, check_batch
from rewardlab.errors import InputError
from rewardlab.storage.exchange_rows import read_good_exchanges
from rewardlab.storage.image_folder import ImageFolder
from rewardlab.storage.metadata import read_kind, read_lines
from rewardlab.storage.picture_files import picture_files
from rewardlab.storage.prompts import read_prompts
from rewardlab.storage.samples import is_saved_video, load_pairs, load_samples
from rewardlab.storage.tables import is_dataset
from rewardlab.storage.video_files import is_medium_name, is_video_name
from rewardlab.storage.video_folder import VideoFolder
from rewardlab.storage.videos import Clip
from rewardlab.types import PreferencePairs, Samples


class SamplesData(pl.LightningDataModule):
    """Samples to fine-tune on, such as SFT's: images, videos or texts, from a folder or memory.

    Args:
        samples: a folder of images or videos, with their prompts in `metadata.jsonl`; a folder that
            `save_samples` wrote; a file of rows with "prompt" and "completion" (or "response"), or
            with "messages" (see `read_good_exchanges`); or Samples in memory.
        batch_size: samples a step, on each device.
        size: resize and crop images of a folder to size × size; see `read_image`.
        channels: 3 for RGB, 1 for grey, for images of a folder.
        seed: names the order.
        num_workers: processes that read ahead.
        strict: refuse unusable images instead of skipping them.
        long_rows: what becomes of texts that do not fit the context of the model that is trained:
            "refuse", "drop" or "truncate" (see `rewardlab.data.long_rows.fitting`).
        clip: which frames are taken of a folder's videos; see `open_samples`.
        tokens_per_batch: tokens a step, on each device, in place of `batch_size`: samples of like
            length together (see `rewardlab.data.token_budget.budget_of`). For texts alone.

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
        clip: Clip | None = None,
        tokens_per_batch: int | None = None,
    ) -> None:
        super().__init__()
        check_batch(batch_size, tokens_per_batch)
        self.long_rows = long_rows
        self.tokens_per_batch = tokens_per_batch
        self.samples = samples
        self.clip = clip
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
            self.dataset = open_samples(
                self.samples, self.size, self.channels, self.strict, self.clip
            )
        if isinstance(self.dataset, Rows):
            noun = fitting(self.dataset.noun, models_of(self.trainer), self.long_rows, "samples")
            self.dataset = Rows(noun)

    def train_dataloader(self) -> ResumableLoader:
        noun = self.dataset.noun if isinstance(self.dataset, Rows) else self.dataset
        models = models_of(self.trainer)
        return ResumableLoader(
            self.dataset,
            self.batch_size,
            seed=self.seed,
            num_workers=self.num_workers,
            budget=budget_of(noun, self.tokens_per_batch, models, "samples"),
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
        tokens_per_batch: tokens a step, on each device, in place of `batch_size`: pairs of like
            length together (see `rewardlab.data.token_budget.budget_of`). For texts alone.
    """

    def __init__(
        self,
        pairs: str | Path | PreferencePairs,
        batch_size: int = 16,
        seed: int = 0,
        num_workers: int = 0,
        long_rows: LongRows = "refuse",
        tokens_per_batch: int | None = None,
    ) -> None:
        super().__init__()
        check_batch(batch_size, tokens_per_batch)
        self.long_rows = long_rows
        self.tokens_per_batch = tokens_per_batch
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
        noun = None if self.dataset is None else self.dataset.noun
        models = models_of(self.trainer)
        return ResumableLoader(
            self.dataset,
            self.batch_size,
            seed=self.seed,
            num_workers=self.num_workers,
            budget=budget_of(noun, self.tokens_per_batch, models, "pairs"),
        )


def open_samples(
    samples: str | Path | Samples,
    size: int | None = None,
    channels: Literal[1, 3] = 3,
    strict: bool = False,
    clip: Clip | None = None,
    checked: bool = True,
) -> Dataset[Samples]:
    """Return samples in memory or in a folder as a data set of one-row Samples with row numbers.

    Args:
        samples: a folder of images or of videos, a folder that `save_samples` wrote, or Samples in
            memory; or a file of prompts and responses.
        size: resize and crop images and frames of a folder to size × size; see `read_image`.
        channels: 3 for RGB, 1 for grey, for images and videos of a folder.
        strict: refuse unusable files instead of skipping them.
        clip: which frames are taken of videos. With it a folder is one of videos, so that folders
            of pictures in it are the frames of a video each, and GIFs are videos; without it, where
            it holds video files and no pictures.
        checked: decode every file of a folder at the start; see `ImageFolder`.

    Example:
        >>> open_samples(Samples(["hi"] * 3, ["a", "b", "c"]))[2].facts["row"].tolist()
        [2]
    """
    if isinstance(samples, Samples):
        return Rows(_numbered(samples))
    folder = Path(samples)
    if is_dataset(folder) or (folder.is_file() and not is_medium_name(folder)):
        return Rows(_numbered(read_good_exchanges(folder)))
    first = _first_saved(folder)
    saved_videos = False
    if isinstance(first.get("file_name"), str):
        saved_videos = is_saved_video(folder / first["file_name"], read_kind(folder))
    if clip is not None or (saved_videos and size is not None):
        return VideoFolder(samples, clip, size, channels, strict, checked)
    if "output" in first or saved_videos:
        return Rows(_numbered(load_samples(samples)))
    if _holds_videos(folder):
        return VideoFolder(samples, clip, size, channels, strict, checked)
    return ImageFolder(samples, size, channels, strict, checked)


def _numbered(samples: Samples) -> Samples:
    """Give samples without row numbers those of their order."""
    return samples if "row" in samples.facts else samples.numbered()


def _first_saved(folder: Path) -> dict[str, Any]:
    """Return the first line of a folder's metadata, which tells what its samples are."""
    file = folder / "metadata.jsonl"
    lines = read_lines(file) if file.is_file() else []
    return lines[0] if lines else {}


def _holds_videos(folder: Path) -> bool:
    """Tell whether a folder holds files of videos, at any depth, and no pictures."""
    if not folder.is_dir() or picture_files(folder).images:
        return False
    return any(is_video_name(path) for path in folder.rglob("*"))


def with_prompts(rows: Dataset[Samples], file: str | Path, name: str | Path) -> Dataset[Samples]:
    """Return one-row samples under the prompts of a file, one each.

    Args:
        rows: samples, one a row.
        file: see `rewardlab.data.read_prompts`.
        name: what the samples are called in messages.

    Raises:
        InputError: if their numbers differ, or a line is blank.
    """
    prompts = read_prompts(file, strict=True)
    count = len(rows)  # type: ignore[arg-type]
    if len(prompts) != count:
        raise InputError(
            f"{file} holds {len(prompts)} prompts and {name} {count} samples; one a sample is "
            "wanted, in their order."
        )
    return _Prompted(rows, prompts)


class _Prompted(Dataset[Samples]):
    """One-row samples under other prompts."""

    def __init__(self, rows: Dataset[Samples], prompts: list[Prompt]) -> None:
        self.rows = rows
        self.prompts = prompts

    def __len__(self) -> int:
        return len(self.prompts)

    def __getitem__(self, index: int) -> Samples:
        sample = self.rows[index]
        return Samples([self.prompts[index]], sample.outputs, sample.facts)
