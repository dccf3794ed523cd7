"""Randomness as an argument: every row of every batch has its own seed.

A seed is derived from names (run seed, stage, round, epoch) and numbers (row, sample index), never
from a rank or a batch's shape. So a row's noise is the same bits in whatever batch and process it
is drawn.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from rewardlab.errors import InputError

Rows = Sequence[int] | Tensor
_Numbers = np.ndarray[Any, Any]


def derive(seed: int, *parts: int | str) -> int:
    """Return the seed in [0, 2**62) that belongs to `parts` under `seed`.

    Example:
        >>> derive(0, "round", 1) == derive(0, "round", 1) != derive(0, "round", 2)
        True
    """
    key = repr((int(seed), *parts)).encode()
    digest = hashlib.blake2b(key, digest_size=8).digest()
    return int.from_bytes(digest, "little") >> 2


def row_seeds(seed: int, rows: int | Rows) -> Tensor:
    """Return int64 seeds [B], the finalizer of splitmix64 over `seed` and each row's number.

    Args:
        seed: from `derive`; names the use, so that two uses of one row draw different noise.
        rows: row numbers [B], or a count B for 0 … B-1.

    Example:
        >>> torch.equal(row_seeds(7, 4)[2:], row_seeds(7, [2, 3]))
        True
    """
    hashes = _splitmix64(seed, _row_numbers(rows))
    seeds = hashes >> np.uint64(2)
    return torch.from_numpy(seeds.astype(np.int64))


def check_row_seeds(seeds: object, rows: int) -> None:
    """Refuse what are not the seeds of `rows` rows.

    Raises:
        InputError: unless they are an integer tensor [rows].

    Example:
        >>> check_row_seeds(None, 2)
        Traceback (most recent call last):
        rewardlab.errors.InputError: ... seeds=row_seeds(0, 2) ...
    """
    if isinstance(seeds, Tensor):
        if seeds.shape == (rows,) and not seeds.is_floating_point():
            return
        came = f"a tensor {list(seeds.shape)} of {seeds.dtype}"
    else:
        came = "none" if seeds is None else f"a {type(seeds).__name__}"
    raise InputError(
        f"Each of the {rows} rows is drawn by a seed of its own, an integer tensor [{rows}]; got "
        f"{came}. Give seeds=row_seeds(0, {rows}), of rewardlab.seeds; equal seeds give equal "
        "outputs."
    )


def _row_numbers(rows: int | Rows) -> _Numbers:
    if isinstance(rows, int):
        return np.arange(rows)
    numbers = torch.as_tensor(rows).cpu()
    return np.asarray(numbers, dtype=np.int64)


def _splitmix64(seed: int, numbers: _Numbers) -> _Numbers:
    """Return the uint64 hash of each number; all arithmetic is modulo 2**64."""
    with np.errstate(over="ignore"):
        mixed = numbers.astype(np.uint64)
        mixed = mixed * np.uint64(0x9E3779B97F4A7C15)
        mixed = mixed + np.uint64(seed)
        mixed = _xor_shift(mixed, 30)
        mixed = mixed * np.uint64(0xBF58476D1CE4E5B9)
        mixed = _xor_shift(mixed, 27)
        mixed = mixed * np.uint64(0x94D049BB133111EB)
        return _xor_shift(mixed, 31)


def _xor_shift(numbers: _Numbers, bits: int) -> _Numbers:
    shifted: _Numbers = numbers >> np.uint64(bits)
    return numbers ^ shifted


def generators(seeds: Tensor) -> list[torch.Generator]:
    """Return one CPU generator a row, so that a row's noise is the same on every device.

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
    return _row_noise(torch.randn, shape, rows, device)


def uniform(
    shape: Sequence[int],
    rows: list[torch.Generator],
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
) -> Tensor:
    """Return uniform noise in [0, 1), [B, *shape], each row from its own generator.

    Example:
        >>> uniform((), generators(row_seeds(0, 4))).shape
        torch.Size([4])
    """
    return _row_noise(torch.rand, shape, rows, device, dtype)


def _row_noise(
    draw: Callable[..., Tensor],
    shape: Sequence[int],
    row_generators: list[torch.Generator],
    device: torch.device | str,
    dtype: torch.dtype = torch.float32,
) -> Tensor:
    """Fill noise [B, *shape] with one call of `draw` a row, then move it to the device."""
    noise = torch.empty(len(row_generators), *shape, dtype=dtype)
    for row, generator in zip(noise, row_generators, strict=True):
        draw(row.shape, generator=generator, out=row)
    return noise.to(device, non_blocking=True)
