"""Preference Proxy Data: target samples against the generator's own, as GAN-RM's training data."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import pytorch_lightning as pl
import torch
from torch import Tensor
from torch.utils.data import Dataset, Subset

from rewardlab.data.diagnostics import report, separators
from rewardlab.data.features import features_of
from rewardlab.data.loader import ResumableLoader, Rows, SamplesData
from rewardlab.errors import InputError
from rewardlab.policies import Policy
from rewardlab.rewards import Reward
from rewardlab.rewards.probe import prompt_probe_auc
from rewardlab.seeds import derive, row_seeds
from rewardlab.types import SOURCES, Labelled, Samples, balanced, concatenate, take

PROBE_LIMIT = 0.55  # AUC of a probe that sees only the prompt
log = logging.getLogger("rewardlab")


class TargetSamples(pl.LightningDataModule):
    """Target samples (label 1) against generated ones (label 0), with some of both held out.
    GAN-RM, section 3.1.

    Both classes are decoded, resized and cropped by one path and must come out in one shape. Before
    the first batch, whatever trivially separates the classes is logged as a warning with its cure.
    The trainer's reward, if it has a frozen part, sees its features, computed once.

    Args:
        targets: a folder of what is wanted (images, or samples that `save_samples` wrote), or
            Samples.
        negatives: the same of what the generator makes; or give `policy`.
        policy: draws as many negatives as there are targets, one for each target's prompt.
        held_out: how many targets (a number), or what share of them (below 1), the reward never
            trains on; at least one of each class.
        size: resize and crop images to this side.
        channels: 3 for RGB, 1 for grey.
        reconstruct: pass the targets through the policy's autoencoder, whose decoder leaves a
            signature on generated images.
        batch_size: samples a step.
        cache: folder in which features are kept between runs.
        strict: refuse a file that cannot be read, instead of skipping and counting it.
        seed: of the split, the order and the policy's draws.

    Raises:
        InputError: if a source is missing or empty, the classes' shapes differ, or there are too
            few samples to hold out.

    Example:
        >>> data = TargetSamples(Samples([""] * 10, torch.rand(10, 3, 8, 8)), Samples([""] * 10, torch.rand(10, 3, 8, 8)))
        >>> data.setup("fit")
        >>> batch = next(iter(data.train_dataloader()))
        >>> len(batch), batch.labels.sum().item(), [len(batch.labels) for batch in data.val_dataloader()]
        (16, 8.0, [4])
    """

    def __init__(
        self,
        targets: str | Path | Samples,
        negatives: str | Path | Samples | None = None,
        policy: Policy | None = None,
        held_out: float = 0.2,
        size: int | None = None,
        channels: Literal[1, 3] = 3,
        reconstruct: bool = False,
        batch_size: int = 64,
        cache: str | Path | None = None,
        strict: bool = False,
        seed: int = 0,
    ) -> None:
        super().__init__()
        self.targets = targets
        self.negatives = negatives
        self.policy = policy
        self.held_out = held_out
        self.size = size
        self.channels = channels
        self.reconstruct = reconstruct
        self.batch_size = batch_size
        self.cache = cache
        self.strict = strict
        self.seed = seed
        self.pseudo: tuple[Samples, Tensor] | None = None
        self._swap = False
        self._opened: Dataset[Samples] | None = None
        self._splits: dict[str, Labelled] | None = None
        self._reward: Reward | None = None  # whose features the splits hold

    def against(
        self, negatives: Samples, pseudo: tuple[Samples, Tensor] | None = None, swap: bool = False
    ) -> TargetSamples:
        """Return the same targets and split against other negatives, and with pseudo-labelled
        samples to train on.

        With `swap` the held-out part is what is trained on, and the other is held out: for a
        classifier that knows nothing of what the reward saw.
        """
        other = TargetSamples(
            self.targets, negatives, self.policy, self.held_out, self.size, self.channels, self.reconstruct,
            self.batch_size, self.cache, self.strict, self.seed,
        )  # fmt: skip
        other._opened = self._target_set()
        other.pseudo = pseudo
        other._swap = swap
        return other

    def setup(self, stage: str) -> None:
        """Read both classes, warn of what separates them, split them and compute features; once for
        each reward.
        """
        reward = getattr(getattr(self.trainer, "lightning_module", None), "reward", None)
        if self._splits is not None and reward in (None, self._reward):
            return
        negatives = self._negatives()
        self._check_path(self._target_set(), negatives)
        if getattr(reward, "conditional", False):
            check_prompts(reward, gather(self._target_set()).prompts, gather(negatives).prompts)
        self._splits = {
            part: self._labelled(part, negatives, reward) for part in ("train", "held_out")
        }
        self._reward = reward

    def train_dataloader(self) -> ResumableLoader:
        return ResumableLoader(Rows(self.split("train")), self.batch_size, seed=self.seed)

    def val_dataloader(self) -> ResumableLoader:
        return ResumableLoader(Rows(self.split("held_out")), self.batch_size, shuffle=False)

    def target_samples(self, part: Literal["train", "held_out"]) -> Samples:
        """Return the targets that are trained on, or those that are held out."""
        return gather(Subset(self._target_set(), self._rows(len(self._target_set()))[part]))

    def split(self, part: Literal["train", "held_out"]) -> Labelled:
        """Return what is trained on, or held out: both classes, as the loaders' batches are."""
        if self._splits is None:
            self.setup("fit")
        return self._splits[part]

    def _target_set(self) -> Dataset[Samples]:
        if self._opened is None:
            self._opened = self._open(self.targets)
            if self.reconstruct:
                self._opened = Rows(reconstructed(self.policy, gather(self._opened), self.seed))
        return self._opened

    def _open(self, source: str | Path | Samples) -> Dataset[Samples]:
        data = SamplesData(source, size=self.size, channels=self.channels, strict=self.strict)
        data.setup("fit")
        return data.dataset

    def _negatives(self) -> Dataset[Samples]:
        if self.negatives is not None:
            return self._open(self.negatives)
        if self.policy is None:
            raise InputError(
                "TargetSamples needs what the generator makes: give `negatives` (a folder) or a `policy` to draw from."
            )
        prompts = gather(self._target_set()).prompts
        return Rows(
            self.policy.generate(
                prompts, seeds=row_seeds(derive(self.seed, "negatives"), len(prompts))
            )
        )

    def _check_path(self, targets: Dataset[Samples], negatives: Dataset[Samples]) -> None:
        """Refuse classes that differ in kind or shape; warn of what separates them otherwise."""
        kinds = [_kind(dataset[0]) for dataset in (targets, negatives)]
        if kinds[0] != kinds[1]:
            raise InputError(
                f"Targets and negatives must pass the same decode, resize and crop; targets are {kinds[0]}, negatives "
                f"{kinds[1]}. Give `size` and `channels` (and a generator of that size)."
            )
        if kinds[0] != "texts" and self.pseudo is None and not self._swap:
            (wanted, wanted_files), (own, own_files) = _some(targets), _some(negatives)
            through = (
                None
                if self.policy is None
                else lambda samples: reconstructed(self.policy, samples, self.seed)
            )
            found = separators(
                wanted,
                own,
                target_files=wanted_files,
                generated_files=own_files,
                reconstruct=through,
            )
            log.warning(report(found))

    def _rows(self, count: int) -> dict[str, list[int]]:
        """Row numbers to train on and to hold out."""
        held = round(self.held_out * count) if self.held_out < 1 else int(self.held_out)
        if not 1 <= held < count:
            raise InputError(
                f"TargetSamples was asked to hold out {self.held_out:g} of {count} samples, which leaves "
                f"{max(count - held, 0)} to train on and {held} held out. Give more samples, or another held_out."
            )
        order = row_seeds(derive(self.seed, "held out"), count).argsort().tolist()
        first = sorted(order[held:])
        second = sorted(order[:held])
        return (
            {"train": second, "held_out": first}
            if self._swap
            else {"train": first, "held_out": second}
        )

    def _labelled(self, part: str, negatives: Dataset[Samples], reward: Reward | None) -> Labelled:
        targets, generated = (
            Subset(data, self._rows(len(data))[part]) for data in (self._target_set(), negatives)
        )
        sources: dict[str, Any] = {"target": (targets, 1.0), "generated": (generated, 0.0)}
        if getattr(reward, "conditional", False):
            sources["mismatched"] = (Rows(mismatched(gather(targets))), 0.0)
        if part == "train" and self.pseudo is not None and len(self.pseudo[0]):
            sources["pseudo-labelled"] = (Rows(self.pseudo[0]), self.pseudo[1])
        inputs = concatenate([self._inputs(reward, dataset) for dataset, _ in sources.values()])
        labels = torch.cat(
            [torch.ones(len(dataset)) * label for dataset, label in sources.values()]
        )
        kinds = torch.cat(
            [
                torch.full((len(dataset),), SOURCES.index(name))
                for name, (dataset, _) in sources.items()
            ]
        )
        return Labelled(inputs, labels, torch.arange(len(labels)), balanced(labels), kinds)

    def _inputs(self, reward: Reward | None, dataset: Any) -> Samples | Tensor:
        return (
            features_of(reward, dataset, self.cache)
            if hasattr(reward, "features")
            else gather(dataset)
        )


def gather(dataset: Any) -> Samples:
    """Return all items of a dataset of one-row Samples as Samples."""
    return concatenate([dataset[i] for i in range(len(dataset))])


def check_prompts(reward: Any, targets: Sequence[str], negatives: Sequence[str]) -> None:
    """Refuse prompts from which the class could be guessed: a conditional reward would learn the
    prompt, not the image.

    Raises:
        InputError: if a target has no caption, or a probe that sees prompts alone tells the classes
            apart (AUC > 0.55).
    """
    missing = sum(not prompt for prompt in targets)
    if missing:
        raise InputError(
            f"A conditional reward needs a caption for every target; {missing} of {len(targets)} have none. "
            "Add `prompt` to metadata.jsonl, or set conditional=false."
        )
    labels = torch.cat([torch.ones(len(targets)), torch.zeros(len(negatives))])
    guessed = prompt_probe_auc(reward.prompt_features([*targets, *negatives]), labels)
    if guessed > PROBE_LIMIT:
        raise InputError(
            f"The prompt alone tells targets from negatives (AUC {guessed:.2f} > {PROBE_LIMIT}), so a conditional reward would "
            "learn it. Draw the negatives for the targets' own captions (`policy`), or set conditional=false."
        )


def mismatched(samples: Samples) -> Samples:
    """Return the samples with each other's prompts: negatives that teach a conditional reward to
    read the prompt.

    Every prompt stays as frequent as it was, so that it gives nothing away. Where one is more
    frequent than all others together, samples that would keep their own are left out.

    Example:
        >>> mismatched(Samples(["a", "b", "c"], ["A", "B", "C"])).prompts
        ['b', 'c', 'a']
    """
    prompts = list(samples.prompts)
    if len(set(prompts)) < 2:
        raise InputError(
            "A conditional reward needs at least two different captions among its targets; all are the same."
        )
    order = sorted(range(len(prompts)), key=prompts.__getitem__)
    most = max(
        Counter(prompts).values()
    )  # shifted by so many places, the sorted prompts meet none of their own kind
    given = {row: prompts[order[(place + most) % len(order)]] for place, row in enumerate(order)}
    rows = [row for row in range(len(prompts)) if given[row] != prompts[row]]
    return Samples([given[row] for row in rows], take(samples.outputs, rows), samples[rows].facts)


def reconstructed(policy: Policy | None, samples: Samples, seed: int) -> Samples:
    """Return the samples after the policy's encoder and decoder, so that both classes carry its
    signature.
    """
    if policy is None:
        raise InputError(
            "reconstruct=True passes targets through the generator's autoencoder; give the `policy`."
        )
    with torch.no_grad():
        return policy.decode(
            policy.encode(samples, seeds=row_seeds(derive(seed, "reconstruct"), len(samples)))
        )


def _kind(samples: Samples) -> str:
    return (
        f"images {list(samples.outputs.shape[1:])}"
        if isinstance(samples.outputs, Tensor)
        else "texts"
    )


def _some(dataset: Any, most: int = 500) -> tuple[Samples, list[Path] | None]:
    """At most about `most` samples, evenly spread, and the files that they were read from, if any."""
    rows = range(0, len(dataset), max(1, len(dataset) // most))
    files = [dataset.paths[row] for row in rows] if hasattr(dataset, "paths") else None
    return gather(Subset(dataset, rows)), files
