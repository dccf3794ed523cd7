"""Features of a reward's frozen part, computed once for each sample."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor
from torch.utils.data import Dataset
from tqdm import tqdm

from rewardlab.provenance import fingerprint
from rewardlab.rewards import Reward
from rewardlab.storage.atomic import write_atomically
from rewardlab.types import Samples, concatenate


@torch.no_grad()
def features_of(
    reward: Reward, dataset: Dataset[Samples], cache: str | Path | None = None, batch_size: int = 64
) -> Tensor:
    """Return `reward.features` of every item, [N, ...] on the CPU, from the cache where it holds
    them.

    A row's key is its pixels (or text) and its prompt; the file's name is the reward's frozen
    weights and preprocessing. So nothing stale is read when a sample, the tower or the
    preprocessing changes.

    Args:
        reward: with `features`, and `frozen_fingerprint()` when there is a cache.
        dataset: items are Samples of one row.
        cache: a folder; None computes anew.
        batch_size: rows that the frozen part sees at once.

    Example:
        >>> import tempfile
        >>> from rewardlab import VisionReward
        >>> from rewardlab.data import Rows
        >>> from rewardlab.testing import tiny_tower
        >>> reward, images = VisionReward(tiny_tower(), width=8), Rows(Samples([""] * 3, torch.rand(3, 3, 16, 16)))
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     first, again = (features_of(reward, images, folder) for _ in range(2))
        >>> first.equal(again), len(first)
        (True, 3)
    """
    name = None if cache is None else reward.frozen_fingerprint()
    file = None
    if cache is not None and name is not None:
        file = Path(cache) / f"features-{name}.safetensors"
    known = _load(file)
    before = len(known)
    rows = []
    was_training = reward.training
    reward.eval()
    starts = range(0, len(dataset), batch_size)
    for start in tqdm(starts, "features", leave=False, disable=None if len(starts) > 10 else True):
        samples = concatenate(
            [dataset[i] for i in range(start, min(start + batch_size, len(dataset)))]
        )
        rows += _features(reward, samples, known, keyed=file is not None)
    reward.train(was_training)
    if file is not None and len(known) > before:
        file.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(file, save(known))
    return torch.stack(rows)


def _features(
    reward: Reward, samples: Samples, known: dict[str, Tensor], *, keyed: bool
) -> list[Tensor]:
    """The rows' features; those that are not known are computed and, if keyed, noted."""
    if not keyed:
        return list(reward.features(samples.to(_device(reward))).cpu())
    keys = [fingerprint([samples.outputs[i], samples.prompts[i]]) for i in range(len(samples))]
    missing = [i for i, key in enumerate(keys) if key not in known]
    if missing:
        computed = reward.features(samples[missing].to(_device(reward))).cpu()
        known |= {keys[i]: row.clone() for i, row in zip(missing, computed, strict=True)}
    return [known[key] for key in keys]


def _load(file: Path | None) -> dict[str, Tensor]:
    """What the cache holds; a file that cannot be read is as good as none, and is written anew."""
    try:
        return load_file(file) if file is not None and file.exists() else {}
    except SafetensorError:
        return {}


def _device(reward: Any) -> torch.device:
    return next((parameter.device for parameter in reward.parameters()), torch.device("cpu"))
