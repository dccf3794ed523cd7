"""Randomness as an argument: every row of every batch has a seed of its own.

A seed is derived from names (run seed, stage, round, epoch) and numbers (row, sample index), never
from a rank or a batch's shape. So a row's noise is the same bits in whatever batch and process it
is drawn.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

Rows = Sequence[int] | Tensor


def derive(seed: int, *parts: int | str) -> int:
    """Return the seed in [0, 2**62) that belongs to `parts` under `seed`.

    Example:
        >>> derive(0, "round", 1) == derive(0, "round", 1) != derive(0, "round", 2)
        True
    """
    words = repr((int(seed), *parts)).encode()
    return int.from_bytes(hashlib.blake2b(words, digest_size=8).digest(), "little") >> 2


def row_seeds(seed: int, rows: int | Rows) -> Tensor:
    """Return int64 seeds [B], one a row: the finaliser of splitmix64 over `seed` and each row's own
    number.

    Args:
        seed: from `derive`; names the use, so that two uses of one row draw different noise.
        rows: row numbers [B], or a count B for 0 … B-1.

    Example:
        >>> torch.equal(row_seeds(7, 4)[2:], row_seeds(7, [2, 3]))
        True
    """
    numbers = (
        np.arange(rows)
        if isinstance(rows, int)
        else np.asarray(torch.as_tensor(rows).cpu(), dtype=np.int64)
    )
    with np.errstate(over="ignore"):  # arithmetic modulo 2**64 is meant
        mixed = numbers.astype(np.uint64) * np.uint64(0x9E3779B97F4A7C15) + np.uint64(seed)
        mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        mixed = mixed ^ (mixed >> np.uint64(31))
    return torch.from_numpy((mixed >> np.uint64(2)).astype(np.int64))


def generators(seeds: Tensor) -> list[torch.Generator]:
    """Return one CPU generator a row. CPU, so that a row's noise is the same on every device.

    Example:
        >>> a, b = generators(row_seeds(0, 2)), generators(row_seeds(0, 1))
        >>> bool(torch.randn(3, generator=a[0]).equal(torch.randn(3, generator=b[0])))
        True
    """
    return [torch.Generator().manual_seed(seed) for seed in seeds.tolist()]


def normal(
    shape: Sequence[int], rows: list[torch.Generator], device: torch.device | str = "cpu"
) -> Tensor:
    """Return standard normal noise [B, *shape] in float32, each row drawn from its own generator.

    Example:
        >>> normal((2, 3), generators(row_seeds(0, 4))).shape
        torch.Size([4, 2, 3])
    """
    noise = torch.empty(len(rows), *shape)
    for row, generator in zip(noise, rows, strict=True):
        torch.randn(row.shape, generator=generator, out=row)
    return noise.to(device, non_blocking=True)


def uniform(
    shape: Sequence[int], rows: list[torch.Generator], device: torch.device | str = "cpu"
) -> Tensor:
    """Return uniform noise in [0, 1) of shape [B, *shape] in float32, each row drawn from its own
    generator.

    Example:
        >>> uniform((), generators(row_seeds(0, 4))).shape
        torch.Size([4])
    """
    noise = torch.empty(len(rows), *shape)
    for i, generator in enumerate(rows):
        torch.rand(noise[i].shape, generator=generator, out=noise[i])
    return noise.to(device, non_blocking=True)
