"""The loader that can be stopped and resumed."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from rewardlab.data.token_budget import TokenBudget, check_batch, rank_rows, token_batches
from rewardlab.errors import InputError
from rewardlab.seeds import derive
from rewardlab.types import concatenate


class Rows(Dataset[Any]):
    """Any noun in memory as a dataset: item i is its row i, still a noun of one row.

    A loader's batch is taken in one piece, so its collate function gets a list of one noun of B
    rows.

    Example:
        >>> from rewardlab.types import Samples
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

    Each whole pass moves on to the next epoch. A pass that is broken off starts again, unless its
    state was loaded. Lightning finds `state_dict` by itself, keeps it in its checkpoints, and sets
    the epoch. The loader never draws from the global random state. Under torch.distributed each
    rank takes every world-size-th row of the order. The order is filled up from its own start (or
    cut, with `drop_last`) so that all ranks have equally many rows.

    With a `budget` batches are of items of like length, as many as it holds, and come in an order
    of their own (`rewardlab.data.token_budget.token_batches`). Each epoch has other batches, but
    equally many, and all ranks have equally many items of each. Of `batch_size` nothing depends.

    Args:
        dataset: N items.
        batch_size: items a batch, on each rank.
        seed: names the order.
        shuffle: permute anew in each epoch; otherwise 0 … N-1.
        drop_last: leave out a last batch of fewer items.
        num_workers: processes that read ahead; 0 reads in this one.
        collate: makes a batch of a list of items.
        budget: tokens a batch, on each rank, in place of `batch_size`.

    Attributes:
        epoch: the pass that is under way, or the next.
        batches: how many of its batches were handed out.

    Raises:
        InputError: if there are no items, fewer than one batch under `drop_last`, or a budget
            beside `drop_last`.

    Example:
        >>> rows = Rows(torch.arange(5))
        >>> first_pass = list(ResumableLoader(rows, batch_size=2, seed=1))
        >>> stopped = ResumableLoader(rows, batch_size=2, seed=1)
        >>> _ = next(iter(stopped))
        >>> resumed = ResumableLoader(rows, batch_size=2, seed=1)
        >>> resumed.load_state_dict(stopped.state_dict())
        >>> [batch.tolist() for batch in resumed] == [batch.tolist() for batch in first_pass[1:]]
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
        budget: TokenBudget | None = None,
    ) -> None:
        self.dataset = dataset
        self.batch_size = batch_size
        self.seed = seed
        self.shuffle = shuffle
        self.drop_last = drop_last
        self.num_workers = num_workers
        self.collate = collate
        self.budget = budget
        self.epoch = 0
        self.batches = 0
        self._loaded = False
        check_batch(batch_size)
        if budget is not None and drop_last:
            raise InputError(
                "drop_last leaves out a batch of fewer items, and batches of a token budget are of "
                "different numbers anyway. Give one of the two."
            )
        if not len(self):
            raise InputError(
                f"{len(dataset)} items do not fill one batch of {batch_size}. "
                "Give more, or a smaller batch_size."
            )

    def __len__(self) -> int:
        _, ranks = _rank_and_count()
        if self.budget is not None:
            any_order = torch.arange(len(self.dataset))  # type: ignore[arg-type]
            return len(token_batches(self.budget, any_order, ranks))
        return _batch_count(len(self.dataset), self.batch_size, ranks, self.drop_last)

    def __iter__(self) -> Iterator[Any]:
        start = self.batches if self._loaded else 0
        self.batches = start
        self._loaded = False
        # An explicit generator, as DataLoader would otherwise draw its workers' seed from the
        # global one.
        generator = torch.Generator().manual_seed(derive(self.seed, "workers", self.epoch))
        loader = DataLoader(
            self.dataset,
            batch_sampler=self._epoch_batches()[start:],
            collate_fn=self.collate,
            num_workers=self.num_workers,
            generator=generator,
        )
        for batch in loader:
            self.batches += 1
            yield batch
        self.set_epoch(self.epoch + 1)

    def _epoch_batches(self) -> list[list[int]]:
        """Return the rows of each of this rank's batches in this epoch."""
        rank, ranks = _rank_and_count()
        order = self._permutation("order", len(self.dataset))
        if self.budget is None:
            return _rank_batches(order, self.batch_size, rank, ranks, self.drop_last)
        batches = token_batches(self.budget, order, ranks)
        places = self._permutation("batches", len(batches))
        return [rank_rows(batches[place], rank, ranks) for place in places.tolist()]

    def _permutation(self, name: str, count: int) -> Tensor:
        """Return this epoch's order of `count` things, or theirs without `shuffle`."""
        if not self.shuffle:
            return torch.arange(count)
        generator = torch.Generator().manual_seed(derive(self.seed, name, self.epoch))
        return torch.randperm(count, generator=generator)

    def set_epoch(self, epoch: int) -> None:
        """Go to the start of `epoch`; a position loaded inside that very epoch is kept."""
        if epoch != self.epoch:
            self.epoch = epoch
            self.batches = 0
            self._loaded = False

    @property
    def batch_sampler(self) -> Any:
        """The object whose `sampler.set_epoch` Lightning calls at the start of each epoch."""
        return SimpleNamespace(sampler=self)

    def state_dict(self) -> dict[str, int]:
        """Return the position: epoch, batches handed out, and what they are counted in."""
        return {"epoch": self.epoch, "batches": self.batches, **self._units()}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Go to a saved position; the next pass yields the batches that remain.

        Another number of processes may have saved it, if batch_size times their number is the same;
        under a token budget the number has to be the same.

        Raises:
            InputError: if the position is one among other data, seeds or joint batches.
        """
        self._check_units(state)
        if state["batches"] >= len(self):  # that pass is over
            self.epoch = state["epoch"] + 1
            self.batches = 0
        else:
            self.epoch = state["epoch"]
            self.batches = state["batches"]
        self._loaded = True

    def _check_units(self, state: dict[str, int]) -> None:
        saved = {}
        current = {}
        saved_units = _joint_units(state)
        for name, value in _joint_units(self._units()).items():
            if saved_units.get(name, value) != value:
                saved[name] = saved_units[name]
                current[name] = value
        if saved:
            raise InputError(
                f"The saved position was counted with {saved}, now it is {current}. "
                "Resume with the same data and settings."
            )

    def _units(self) -> dict[str, int]:
        _, ranks = _rank_and_count()
        batch = {"batch_size": self.batch_size}
        if self.budget is not None:
            tokens = int(self.budget.lengths.sum())
            batch = {"tokens_per_batch": self.budget.tokens, "tokens": tokens}
        return {"rows": len(self.dataset), **batch, "seed": self.seed, "ranks": ranks}


def _joint_units(state: Mapping[str, int]) -> dict[str, int]:
    """Return what a position is counted in, whatever the number of processes.

    A batch of all processes together has the same rows as one process's batch of that size. A batch
    of a token budget has not, since each process has to hold whole rows.
    """
    units = {name: state[name] for name in ("rows", "seed", "tokens") if name in state}
    units["tokens_per_batch"] = state.get("tokens_per_batch", 0)
    if units["tokens_per_batch"]:
        units["processes"] = state.get("ranks", 1)
    if "batch_size" in state:
        units["rows_of_all_processes_a_batch"] = state["batch_size"] * state.get("ranks", 1)
    return units


def _rank_and_count() -> tuple[int, int]:
    """Return this process's rank and the number of ranks; 0 and 1 for a single process."""
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        return torch.distributed.get_rank(), torch.distributed.get_world_size()
    return 0, 1


def _batch_count(rows: int, batch_size: int, ranks: int, drop_last: bool) -> int:
    """Return how many batches each rank has."""
    if drop_last:
        return rows // ranks // batch_size
    return math.ceil(math.ceil(rows / ranks) / batch_size)


def _rank_batches(
    order: Tensor, batch_size: int, rank: int, ranks: int, drop_last: bool
) -> list[list[int]]:
    """Return the rows of each of one rank's batches; every rank gets equally many."""
    count = len(order)
    share = count // ranks if drop_last else math.ceil(count / ranks)
    copies = math.ceil(share * ranks / count)
    filled = order.repeat(copies)[: share * ranks]
    batches = filled[rank::ranks].split(batch_size)
    most = _batch_count(count, batch_size, ranks, drop_last)
    return [batch.tolist() for batch in batches[:most]]
