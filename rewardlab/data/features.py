"""Features of a reward's frozen part, computed once for each sample."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor
from torch.utils.data import Dataset

from rewardlab.progress import counted
from rewardlab.provenance import fingerprint
from rewardlab.rewards import Reward
from rewardlab.storage.atomic import write_atomically
from rewardlab.types import Samples, concatenate


@torch.no_grad()
def features_of(
    reward: Reward, dataset: Dataset[Samples], cache: str | Path | None = None, batch_size: int = 64
) -> Tensor:
    """Return `reward.features` of every item, [N, ...] on the CPU, from a cache if there is one.

    A row's key in the cache is its pixels (or text) and its prompt, and that a text is unfinished
    where it is. The cache file is named by the reward's frozen weights and preprocessing. So
    nothing stale is read when a sample, the tower or the preprocessing changes.

    Args:
        reward: has `features`, and `frozen_fingerprint()` when there is a cache.
        dataset: items are Samples of one row.
        cache: a folder; None computes anew.
        batch_size: rows that the frozen part sees at once.

    Example:
        >>> import tempfile
        >>> from rewardlab import VisionReward
        >>> from rewardlab.data import Rows
        >>> from rewardlab.testing import tiny_tower
        >>> reward = VisionReward(tiny_tower(), width=8)
        >>> images = Rows(Samples([""] * 3, torch.rand(3, 3, 16, 16)))
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     computed = features_of(reward, images, folder)
        ...     loaded = features_of(reward, images, folder)
        >>> computed.equal(loaded), len(computed)
        (True, 3)
    """
    name = None if cache is None else reward.frozen_fingerprint()
    was_training = reward.training
    reward.eval()
    if cache is None or name is None:
        rows = _computed_rows(reward, dataset, batch_size)
    else:
        file = Path(cache) / f"features-{name}.safetensors"
        rows = _cached_rows(reward, dataset, batch_size, file)
    reward.train(was_training)
    return torch.stack(rows)


def _computed_rows(reward: Reward, dataset: Dataset[Samples], batch_size: int) -> list[Tensor]:
    rows: list[Tensor] = []
    for start in _batch_starts(dataset, batch_size):
        rows.extend(_features(reward, _batch(dataset, start, batch_size)))
    return rows


def _cached_rows(
    reward: Reward, dataset: Dataset[Samples], batch_size: int, file: Path
) -> list[Tensor]:
    """Return the features from the file; those that it lacks are computed and written into it."""
    features = _load(file)
    loaded = len(features)
    rows = []
    for start in _batch_starts(dataset, batch_size):
        samples = _batch(dataset, start, batch_size)
        keys = [_key(samples, i) for i in range(len(samples))]
        missing = [i for i, key in enumerate(keys) if key not in features]
        if missing:
            computed = _features(reward, samples[missing])
            for i, row in zip(missing, computed, strict=True):
                features[keys[i]] = row.clone()
        rows += [features[key] for key in keys]
    if len(features) > loaded:
        file.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(file, save(features))
    return rows


def _key(samples: Samples, row: int) -> str:
    """Return the key of a row: all that its features depend on beside the reward."""
    parts = [samples.outputs[row], samples.prompts[row]]
    if "finished" in samples.facts and not samples.facts["finished"][row]:
        parts.append("unfinished")
    return fingerprint(parts)


def _batch_starts(dataset: Dataset[Samples], batch_size: int) -> Any:
    """Return the first row of each batch, with a progress bar if there are more than ten."""
    starts = range(0, len(dataset), batch_size)
    hidden = None if len(starts) > 10 else True
    return counted(starts, len(dataset), "features", hidden=hidden)


def _batch(dataset: Dataset[Samples], start: int, batch_size: int) -> Samples:
    stop = min(start + batch_size, len(dataset))
    return concatenate([dataset[i] for i in range(start, stop)])


def _features(reward: Reward, samples: Samples) -> Tensor:
    """Return the features of the samples on the CPU."""
    parameter = next(iter(reward.parameters()), None)
    device = torch.device("cpu") if parameter is None else parameter.device
    return reward.features(samples.to(device)).cpu()


def _load(file: Path) -> dict[str, Tensor]:
    """Return the features in a cache file; none where it is missing or cannot be read.

    A file that cannot be read is written anew.
    """
    if not file.exists():
        return {}
    try:
        return load_file(file)
    except SafetensorError:
        return {}
