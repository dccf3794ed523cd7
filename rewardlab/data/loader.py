"""The loader that can be stopped and resumed, and the data modules that use it."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Literal

import pytorch_lightning as pl
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from rewardlab.errors import InputError
from rewardlab.seeds import derive
from rewardlab.storage.images import ImageFolder
from rewardlab.storage.metadata import read_lines
from rewardlab.storage.samples import load_pairs, load_samples
from rewardlab.types import PreferencePairs, Samples, concatenate


class Rows(Dataset[Any]):
    """Any noun in memory as a dataset: item i is its row i, still a noun of one row.

    A loader's batch is taken in one piece, so its collate function gets a list of one noun of B
    rows.

    Example:
        >>> rows = Rows(Samples(["a", "b"], ["x", "y"]))
        >>> len(rows), rows[1].outputs, rows.__getitems__([1, 0])[0].outputs
        (2, ['y'], ['y', 'x'])
    """

    def __init__(self, noun: Any) -> None:
        self.noun = noun

    def __len__(self) -> int:
        return len(self.noun)

    def __getitem__(self, index: int) -> Any:
        return self.noun[index : index + 1]

    def __getitems__(self, indices: list[int]) -> list[Any]:
        return [self.noun[torch.tensor(indices)]]


class ResumableLoader:
    """Batches in an order that (seed, epoch) fixes, from a position that can be saved and loaded.

    Each whole pass moves on to the next epoch; a pass that is broken off starts again, unless its
    state was loaded. Lightning finds `state_dict` by itself, keeps it in its checkpoints, and sets
    the epoch. Nothing here draws from the global random state. Under torch.distributed each rank
    takes every world-size-th row of the order, which is filled up from its own start (or cut, with
    `drop_last`) so that all ranks have equally many.

    Args:
        dataset: N items.
        batch_size: items a batch, on each rank.
        seed: names the order.
        shuffle: permute anew in each epoch; otherwise 0 … N-1.
        drop_last: leave out a last batch of fewer items.
        num_workers: processes that read ahead; 0 reads in this one.
        collate: makes a batch of a list of items.

    Attributes:
        epoch: the pass that is under way, or the next.
        batches: how many of its batches were handed out.

    Raises:
        InputError: if there are no items, or fewer than one batch under `drop_last`.

    Example:
        >>> loader = ResumableLoader(Rows(Samples([""] * 5, list("abcde"))), batch_size=2, seed=1)
        >>> batches = [batch.outputs for batch in loader]
        >>> again = ResumableLoader(loader.dataset, batch_size=2, seed=1)
        >>> _ = next(iter(again))
        >>> state, resumed = again.state_dict(), ResumableLoader(loader.dataset, batch_size=2, seed=1)
        >>> resumed.load_state_dict(state)
        >>> [batch.outputs for batch in resumed] == batches[1:]
        True
    """

    def __init__(
        self,
        dataset: Dataset[Any],
        batch_size: int,
        *,
        seed: int = 0,
        shuffle: bool = True,
        drop_last: bool = False,
        num_workers: int = 0,
        collate: Callable[[list[Any]], Any] = concatenate,
    ) -> None:
        self.dataset = dataset
        self.batch_size = batch_size
        self.seed = seed
        self.shuffle = shuffle
        self.drop_last = drop_last
        self.num_workers = num_workers
        self.collate = collate
        self.epoch = self.batches = 0
        self._loaded = False
        if batch_size < 1:
            raise InputError(f"batch_size should be at least 1; got {batch_size}.")
        if not len(self):
            raise InputError(
                f"{len(dataset)} items do not fill one batch of {batch_size}. Give more, or a smaller batch_size."
            )

    def __len__(self) -> int:
        return _count(len(self.dataset), self.batch_size, _ranks()[1], self.drop_last)

    def __iter__(self) -> Iterator[Any]:
        start = self.batches if self._loaded else 0
        self.batches = start
        self._loaded = False
        # An explicit generator, as DataLoader would otherwise draw its workers' seed from the
        # global one.
        generator = torch.Generator().manual_seed(derive(self.seed, "workers", self.epoch))
        remaining = _batches(self._order(), self.batch_size, *_ranks(), self.drop_last)[start:]
        for batch in DataLoader(
            self.dataset,
            batch_sampler=remaining,
            collate_fn=self.collate,
            num_workers=self.num_workers,
            generator=generator,
        ):
            self.batches += 1
            yield batch
        self.set_epoch(self.epoch + 1)

    def _order(self) -> Tensor:
        if not self.shuffle:
            return torch.arange(len(self.dataset))
        generator = torch.Generator().manual_seed(derive(self.seed, "order", self.epoch))
        return torch.randperm(len(self.dataset), generator=generator)

    def set_epoch(self, epoch: int) -> None:
        """Go to the start of `epoch`; a position loaded inside that very epoch is kept."""
        if epoch != self.epoch:
            self.epoch = epoch
            self.batches = 0
            self._loaded = False

    @property
    def batch_sampler(self) -> Any:
        """Where Lightning looks for `sampler.set_epoch`, which it calls at the start of each epoch."""
        return SimpleNamespace(sampler=self)

    def state_dict(self) -> dict[str, int]:
        """Return the position: epoch, batches handed out, and what they are counted in."""
        return {"epoch": self.epoch, "batches": self.batches, **self._units()}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Go to a saved position; the next pass yields the batches that remain.

        Raises:
            InputError: if the position is one among other data, batches, seeds or ranks.
        """
        wrong = {
            name: value for name, value in self._units().items() if state.get(name, value) != value
        }
        if wrong:
            was = {name: state[name] for name in wrong}
            raise InputError(
                f"The saved position was counted with {was}, now it is {wrong}. Resume with the same data and settings."
            )
        over = state["batches"] >= len(self)
        self.epoch, self.batches = (
            (state["epoch"] + 1, 0) if over else (state["epoch"], state["batches"])
        )
        self._loaded = True

    def _units(self) -> dict[str, int]:
        return {
            "rows": len(self.dataset),
            "batch_size": self.batch_size,
            "seed": self.seed,
            "ranks": _ranks()[1],
        }


def _ranks() -> tuple[int, int]:
    """Return this process's rank and the world size; 0 and 1 when there is one process."""
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        return torch.distributed.get_rank(), torch.distributed.get_world_size()
    return 0, 1


def _count(rows: int, batch_size: int, ranks: int, drop_last: bool) -> int:
    return (
        rows // ranks // batch_size
        if drop_last
        else math.ceil(math.ceil(rows / ranks) / batch_size)
    )


def _batches(
    order: Tensor, batch_size: int, rank: int, ranks: int, drop_last: bool
) -> list[list[int]]:
    """Return the rows of each of one rank's batches; every rank gets equally many."""
    each = len(order) // ranks if drop_last else math.ceil(len(order) / ranks)
    filled = order.repeat(math.ceil(each * ranks / len(order)))[: each * ranks]
    batches = filled[rank::ranks].split(batch_size)
    return [batch.tolist() for batch in batches[: _count(len(order), batch_size, ranks, drop_last)]]


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
    ) -> None:
        super().__init__()
        self.samples = samples
        self.batch_size = batch_size
        self.seed = seed
        self.num_workers = num_workers
        self.size = size
        self.channels = channels
        self.strict = strict
        self.dataset: Dataset[Samples] | None = None

    def setup(self, stage: str) -> None:
        """Read the folder, once."""
        if self.dataset is None:
            self.dataset = self._open()

    def train_dataloader(self) -> ResumableLoader:
        return ResumableLoader(
            self.dataset, self.batch_size, seed=self.seed, num_workers=self.num_workers
        )

    def _open(self) -> Dataset[Samples]:
        if isinstance(self.samples, Samples):
            return Rows(_numbered(self.samples))
        if _holds_images(Path(self.samples)):
            return ImageFolder(self.samples, self.size, self.channels, self.strict)
        return Rows(_numbered(load_samples(self.samples)))


class PairsData(pl.LightningDataModule):
    """Preference pairs, such as DPO's, from a folder with chosen/ and rejected/ or from memory.

    Args:
        pairs: a folder that `save_pairs` wrote, or PreferencePairs in memory.
        batch_size: pairs a step, on each device.
        seed: names the order.
        num_workers: processes that read ahead.
    """

    def __init__(
        self,
        pairs: str | Path | PreferencePairs,
        batch_size: int = 16,
        seed: int = 0,
        num_workers: int = 0,
    ) -> None:
        super().__init__()
        self.pairs = pairs
        self.batch_size = batch_size
        self.seed = seed
        self.num_workers = num_workers
        self.dataset: Dataset[PreferencePairs] | None = None

    def setup(self, stage: str) -> None:
        """Read the folder, once."""
        if self.dataset is None:
            pairs = (
                self.pairs if isinstance(self.pairs, PreferencePairs) else load_pairs(self.pairs)
            )
            self.dataset = Rows(PreferencePairs(_numbered(pairs.chosen), _numbered(pairs.rejected)))

    def train_dataloader(self) -> ResumableLoader:
        return ResumableLoader(
            self.dataset, self.batch_size, seed=self.seed, num_workers=self.num_workers
        )


def _numbered(samples: Samples) -> Samples:
    """Give samples without row numbers those of their order."""
    return samples if "row" in samples.facts else samples.with_facts(row=torch.arange(len(samples)))


def _holds_images(folder: Path) -> bool:
    """Tell a folder of images from one of texts or videos, by the first line of its metadata."""
    file = folder / "metadata.jsonl"
    first = next(iter(read_lines(file)), {}) if file.is_file() else {}
    return "output" not in first and not (folder / str(first.get("file_name", "none"))).is_dir()
