"""Preference Proxy Data: target samples against the generator's own, as GAN-RM's training data."""

from __future__ import annotations

import logging
from copy import copy
from functools import partial
from pathlib import Path
from typing import Any, Literal

from torch import Tensor
from torch.utils.data import Dataset, Subset

from rewardlab.data.captions import check_prompts, mismatched
from rewardlab.data.compared import evenly_spread, files_of
from rewardlab.data.diagnostics import report, separators
from rewardlab.data.features import features_of
from rewardlab.data.labeling import Source, labeled
from rewardlab.data.loader import ResumableLoader, Rows
from rewardlab.data.long_rows import fitting, models_of
from rewardlab.data.reconstruction import reconstructed
from rewardlab.data.samples import open_samples
from rewardlab.data.splits import Part, Split, SplitData, held_out_count, split_groups
from rewardlab.data.token_budget import FEATURES, budget_of, check_batch, not_texts
from rewardlab.errors import InputError
from rewardlab.policies import Policy
from rewardlab.policies.abilities import HasAutoencoder
from rewardlab.rewards import Reward
from rewardlab.rewards.abilities import frozen_features
from rewardlab.seeds import derive, row_seeds
from rewardlab.storage.videos import Clip
from rewardlab.types import LabeledSamples, Samples, concatenate, kind_of

log = logging.getLogger("rewardlab")


class TargetSamples(SplitData):
    """Target samples (label 1) against generated ones (label 0), with some of both held out.

    The method is GAN-RM's, section 3.1. Both classes are decoded, resized and cropped by one path
    and must come out in one shape. Before the first batch, whatever trivially separates the classes
    is logged as a warning with its cure. The trainer's reward, if it has a frozen part, sees its
    features, computed once.

    Args:
        targets: a folder of what is wanted (images, videos, or samples that `save_samples` wrote),
            or Samples.
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
        seed: names the split, the order and the policy's draws.
        clip: frames that are taken of a folder's videos, as {frames: 16}; see `open_samples`.
        tokens_per_batch: tokens a step, on each device, in place of `batch_size`. For texts and a
            reward whose backbone is trained (see `rewardlab.data.token_budget.budget_of`).

    Raises:
        InputError: if a source is missing or empty, the classes' shapes differ, or there are too
            few samples to hold out.

    Example:
        >>> import torch
        >>> targets = Samples([""] * 10, torch.rand(10, 3, 8, 8))
        >>> negatives = Samples([""] * 10, torch.rand(10, 3, 8, 8))
        >>> data = TargetSamples(targets, negatives)
        >>> data.setup("fit")
        >>> batch = next(iter(data.train_dataloader()))
        >>> len(batch), batch.labels.sum().item(), [len(batch) for batch in data.val_dataloader()]
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
        clip: Clip | None = None,
        tokens_per_batch: int | None = None,
    ) -> None:
        super().__init__()
        check_batch(batch_size, tokens_per_batch)
        self.targets = targets
        self.clip = clip
        self.negatives = negatives
        self.policy = policy
        self.held_out = held_out
        self.size = size
        self.channels = channels
        self.reconstruct = reconstruct
        self.batch_size = batch_size
        self.tokens_per_batch = tokens_per_batch
        self.cache = cache
        self.strict = strict
        self.seed = seed
        self.pseudo: tuple[Samples, Tensor] | None = None
        self._swap = False
        self._generator = policy
        self._target_data: Dataset[Samples] | None = None
        self._splits: dict[str, LabeledSamples] | None = None
        self._reward: Reward | None = None  # whose features the splits hold

    def drawn_by(self, policy: Policy) -> None:
        """Say whose samples the negatives are, unless a policy was given.

        Rounds call it. Targets then pass that policy's autoencoder where `reconstruct` asks for
        it, and its signature is looked for.
        """
        self._generator = self.policy or policy

    def few(self, count: int) -> TargetSamples:
        """Return the same data module of the first `count` targets, a quarter of them held out."""
        targets = self._open(self.targets)
        other = self._unopened()
        other.targets = gather(Subset(targets, range(min(count, len(targets)))))
        other.held_out = 0.25
        return other

    def against(
        self, negatives: Samples, pseudo: tuple[Samples, Tensor] | None = None, swap: bool = False
    ) -> TargetSamples:
        """Return the same targets and split against other negatives.

        Args:
            negatives: samples of the generator.
            pseudo: samples with labels [N] of their own, which are trained on too.
            swap: train on the held-out part and hold out the other, for a classifier that knows
                nothing of what the reward saw.
        """
        other = self._unopened()
        other.negatives = negatives
        other._target_data = self._open_targets()
        other.pseudo = pseudo
        other._swap = swap
        return other

    def _unopened(self) -> TargetSamples:
        """Return a data module of the same settings that has read nothing and has no trainer."""
        other = copy(self)
        other.trainer = None
        other._target_data = None
        other._splits = None
        other._reward = None
        return other

    def setup(self, stage: str) -> None:
        """Read, compare and split both classes and compute features, once for each reward."""
        reward = _reward_of(self.trainer)
        if self._splits is not None and reward in (None, self._reward):
            return
        if self.tokens_per_batch is not None and frozen_features(reward) is not None:
            raise not_texts("samples", FEATURES)  # before they are computed
        negatives = self._open_negatives()
        targets = self._open_targets()
        self._check_classes(targets, negatives)
        if kind_of(targets[0]) == "texts":
            models = models_of(self.trainer)
            fitting(gather(targets), models, "refuse", "targets")
            fitting(gather(negatives), models, "refuse", "negatives")
        if reward is not None and reward.conditional:
            check_prompts(reward, gather(targets).prompts, gather(negatives).prompts)
        train = self._labeled("train", negatives, reward)
        held_out = self._labeled("held_out", negatives, reward)
        self._splits = {"train": train, "held_out": held_out}
        self._reward = reward

    def train_dataloader(self) -> ResumableLoader:
        return self._loader("train", seed=self.seed)

    def val_dataloader(self) -> ResumableLoader:
        return self._loader("held_out", shuffle=False)

    def _loader(self, part: Part, **order: Any) -> ResumableLoader:
        rows = self.split(part)
        budget = budget_of(rows.inputs, self.tokens_per_batch, models_of(self.trainer), "samples")
        return ResumableLoader(Rows(rows), self.batch_size, budget=budget, **order)

    @property
    def target_count(self) -> int:
        """The number of targets, those that are held out among them."""
        return len(self._open_targets())  # type: ignore[arg-type]

    def target_samples(self, part: Part) -> Samples:
        """Return the targets that are trained on, or those that are held out."""
        return gather(self._part(self._open_targets(), part))

    def first_samples(self, part: Part, most: int) -> Samples:
        """Return the first targets of a part, and as many negatives where they are given.

        Args:
            part: "train" or "held_out".
            most: of each class.
        """
        classes = [self._part(self._open_targets(), part)]
        if self.negatives is not None:
            classes.append(self._part(self._open_negatives(), part))
        rows = []
        for dataset in classes:
            count: int = len(dataset)  # type: ignore[arg-type]
            rows += [dataset[i] for i in range(min(count, most))]
        samples: Samples = concatenate(rows)
        return samples

    def split(self, part: Part) -> LabeledSamples:
        """Return what is trained on, or held out: both classes, as the loaders' batches are."""
        if self._splits is None:
            self.setup("fit")
        return self._splits[part]

    def _open_targets(self) -> Dataset[Samples]:
        if self._target_data is None:
            self._target_data = self._open(self.targets)
            if self.reconstruct:
                targets = gather(self._target_data)
                self._target_data = Rows(reconstructed(self._generator, targets, self.seed))
        return self._target_data

    def _open_negatives(self) -> Dataset[Samples]:
        if self.negatives is not None:
            return self._open(self.negatives)
        if self.policy is None:
            raise InputError(
                "TargetSamples needs what the generator makes: "
                "give `negatives` (a folder) or a `policy` to draw from."
            )
        prompts = gather(self._open_targets()).prompts
        seeds = row_seeds(derive(self.seed, "negatives"), len(prompts))
        return Rows(self.policy.generate(prompts, seeds=seeds))

    def _open(self, samples: str | Path | Samples) -> Dataset[Samples]:
        return open_samples(samples, self.size, self.channels, self.strict, self.clip)

    def _check_classes(self, targets: Dataset[Samples], negatives: Dataset[Samples]) -> None:
        """Refuse classes that differ in kind or shape; warn of what separates them otherwise."""
        target_kind = kind_of(targets[0])
        negative_kind = kind_of(negatives[0])
        if target_kind != negative_kind:
            raise InputError(
                "Targets and negatives must pass the same decode, resize and crop; "
                f"targets are {target_kind}, negatives {negative_kind}. "
                "Give `size` and `channels`, of videos `clip` (and a generator of that size)."
            )
        if target_kind != "texts" and self.pseudo is None and not self._swap:
            self._warn_of_separators(targets, negatives)

    def _warn_of_separators(self, targets: Dataset[Samples], negatives: Dataset[Samples]) -> None:
        """Log what trivially separates the classes, and how to mend it."""
        reconstruct = None
        if self._may_leave_a_signature():
            reconstruct = partial(reconstructed, self._generator, seed=self.seed)
        compared_targets = evenly_spread(targets)
        compared_negatives = evenly_spread(negatives)
        attributes = separators(
            gather(compared_targets),
            gather(compared_negatives),
            target_files=files_of(compared_targets),
            generated_files=files_of(compared_negatives),
            reconstruct=reconstruct,
        )
        counts = {part: len(self._part(targets, part)) for part in ("train", "held_out")}
        figures = {
            "auc": {attribute.name: attribute.auc for attribute in attributes},
            "chance": max(attribute.chance for attribute in attributes),
            "targets": counts,
            "generated": {part: len(self._part(negatives, part)) for part in counts},
        }
        log.warning(report(attributes), extra={"figures": figures})

    def _may_leave_a_signature(self) -> bool:
        """Tell whether the generator has an autoencoder; one that does not say may have one."""
        generator = self._generator
        if isinstance(generator, HasAutoencoder):
            return generator.has_autoencoder
        return self.policy is not None

    def _part(self, data: Dataset[Samples], part: Part) -> Dataset[Samples]:
        """Return the rows of a class that are trained on, or held out."""
        rows = self._split_rows(len(data))
        return Subset(data, rows.train if part == "train" else rows.held_out)

    def _split_rows(self, count: int) -> Split:
        """Return the row numbers of a class to train on and to hold out."""
        held = held_out_count(self.held_out, count)
        if not 1 <= held < count:
            raise InputError(
                f"TargetSamples was asked to hold out {self.held_out:g} of {count} samples, "
                f"which leaves {max(count - held, 0)} to train on and {held} held out. "
                "Give more samples, or another held_out."
            )
        rows = split_groups(range(count), held, self.seed)
        return Split(rows.held_out, rows.train) if self._swap else rows

    def _labeled(
        self, part: Part, negatives: Dataset[Samples], reward: Reward | None
    ) -> LabeledSamples:
        """Return a part of all sources, labeled and joined."""
        sources = self._sources(part, negatives, reward)
        return labeled(sources, [self._inputs(reward, source.data) for source in sources])

    def _sources(
        self, part: Part, negatives: Dataset[Samples], reward: Reward | None
    ) -> list[Source]:
        """Return the sources of a part with their labels."""
        targets = self._part(self._open_targets(), part)
        sources = [
            Source("target", targets, 1.0),
            Source("generated", self._part(negatives, part), 0.0),
        ]
        if reward is not None and reward.conditional:
            sources.append(Source("mismatched", Rows(mismatched(gather(targets))), 0.0))
        if part == "train" and self.pseudo is not None:
            samples, labels = self.pseudo
            if len(samples):
                sources.append(Source("pseudo-labelled", Rows(samples), labels))
        return sources

    def _inputs(self, reward: Reward | None, data: Dataset[Samples]) -> Samples | Tensor:
        if reward is not None and frozen_features(reward) is not None:
            return features_of(reward, data, self.cache)
        return gather(data)


def gather(dataset: Any) -> Samples:
    """Return all items of a dataset of one-row Samples as Samples."""
    return concatenate([dataset[i] for i in range(len(dataset))])


def _reward_of(trainer: Any) -> Reward | None:
    """Return the reward of the loop that a trainer runs, if it has one."""
    module = None if trainer is None else trainer.lightning_module
    reward = getattr(module, "reward", None)
    return reward if isinstance(reward, Reward) else None
