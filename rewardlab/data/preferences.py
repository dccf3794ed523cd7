"""Preference pairs as a data module: clean pairs, and adversarial ones beside them."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from copy import copy
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from rewardlab.conversations import Prompt
from rewardlab.data.loader import ResumableLoader, Rows
from rewardlab.data.long_rows import LongRows, Model, fitting, models_of
from rewardlab.data.pair_keys import without_doubles
from rewardlab.data.splits import (
    Part,
    Split,
    SplitData,
    held_out_count,
    prompt_key,
    split_groups,
)
from rewardlab.data.token_budget import budget_of, check_batch
from rewardlab.errors import InputError
from rewardlab.networks.chat import finished_of
from rewardlab.storage.pair_rows import PAIR_FACTS, Dialogues
from rewardlab.storage.preferences import read_preferences
from rewardlab.types import PreferencePairs, Samples, concatenate, distinct, kind_of

HeldOutBy = Literal["auto", "prompts", "pairs"]
MANY_PROMPTS = 20  # from which on single pairs that are held out are worth a warning
log = logging.getLogger("rewardlab")


class Preferences(SplitData):
    """Preference pairs to train a reward on, some of the clean ones held out.

    Batches are PreferencePairs, texts or images. The chosen half has these facts: "row" (clean
    pairs first, so that a pair keeps its number when adversarial ones join), "margin", "label", and
    "extra" (1 for adversarial pairs).

    Where there are at least twice as many prompts as pairs to hold out, whole prompts are held out,
    so that no pair of a held-out prompt is trained on. Prompts that differ only in spaces, case or
    Unicode's compatible forms count as one (see `rewardlab.data.splits.prompt_key`). Where prompts
    are few (class names, or none) single pairs are held out.

    Args:
        pairs: clean pairs: a file or a folder (see `read_preferences`), or PreferencePairs.
        extra: the same of adversarial pairs; all are trained on, none held out.
        held_out: how many clean pairs (a number), or what share of them (below 1), are held out,
            about; 0 for none.
        batch_size: pairs a step, on each device.
        seed: names the split and the order.
        strict: refuse unusable lines instead of skipping them.
        long_rows: what becomes of pairs that do not fit the context of the model that is trained:
            "refuse", "drop" or "truncate" (see `rewardlab.data.long_rows.fitting`). They are looked
            for before the first step.
        dialogues: what dialogues that a file holds as one text become, such as hh-rlhf's: "text",
            or the "turns" of a conversation, for chat models (see `read_preferences`).
        held_out_by: what is held out as a whole: "prompts", or single "pairs". By default ("auto")
            prompts where they are many, as said above; a warning says where they are not.
        dedup: drop pairs that stand earlier already, with the same prompt, halves, margin and
            label, and log how many.
        tokens_per_batch: tokens a step, on each device, in place of `batch_size`: pairs of like
            length together (see `rewardlab.data.token_budget.budget_of`). For texts alone.

    Raises:
        InputError: if the pairs cannot be read, `held_out` leaves none to train on, or clean and
            adversarial ones differ in kind.

    Example:
        >>> texts = [str(number) for number in range(10)]
        >>> pairs = PreferencePairs(Samples(texts, ["yes"] * 10), Samples(texts, ["no"] * 10))
        >>> data = Preferences(pairs, extra=pairs[:2], held_out=2)
        >>> len(data.split("train")), len(data.split("held_out"))
        (10, 2)
    """

    def __init__(
        self,
        pairs: str | Path | PreferencePairs,
        extra: str | Path | PreferencePairs | None = None,
        held_out: float = 0.1,
        batch_size: int = 32,
        seed: int = 0,
        strict: bool = False,
        long_rows: LongRows = "refuse",
        dialogues: Dialogues = "text",
        dedup: bool = False,
        held_out_by: HeldOutBy = "auto",
        tokens_per_batch: int | None = None,
    ) -> None:
        super().__init__()
        check_batch(batch_size, tokens_per_batch)
        self.pairs = pairs
        self.extra = extra
        self.held_out = held_out
        self.batch_size = batch_size
        self.seed = seed
        self.strict = strict
        self.long_rows = long_rows
        self.dialogues = dialogues
        self.dedup = dedup
        self.held_out_by = held_out_by
        self.tokens_per_batch = tokens_per_batch
        self.order_seed = seed
        self._splits: dict[str, PreferencePairs] | None = None
        self._models: list[Model] = []  # whose context the pairs fit

    def extended(self, extra: PreferencePairs, seed: int | None = None) -> Preferences:
        """Return the same clean pairs and split, with `extra` in place of the adversarial ones.

        Another seed changes only the order.
        """
        other = Preferences(
            self.pairs,
            extra if len(extra) else None,
            self.held_out,
            self.batch_size,
            self.seed,
            self.strict,
            self.long_rows,
            self.dialogues,
            self.dedup,
            self.held_out_by,
            self.tokens_per_batch,
        )
        other.order_seed = self.order_seed if seed is None else seed
        return other

    def weighted(self, weights: Tensor) -> Preferences:
        """Return the same data with a fact "weight", how much each pair in training counts.

        Held-out pairs have none: they are all counted alike.

        Args:
            weights: [N], of the pairs in training.

        Raises:
            InputError: if there is not one finite weight of 0 or more for each.
        """
        train = self.split("train")
        is_right = weights.shape == (len(train),) and bool(weights.isfinite().all())
        if not is_right or (weights < 0).any():
            raise InputError(
                f"Preferences takes one finite weight of 0 or more for each of {len(train)} pairs "
                f"in training; got {list(weights.shape)}."
            )
        other = copy(self)
        chosen = train.chosen.with_facts(weight=weights.float())
        other._splits = {
            "train": PreferencePairs(chosen, train.rejected),
            "held_out": self.split("held_out"),
        }
        return other

    def few(self, count: int) -> Preferences:
        """Return the same data module of the first `count` clean pairs, a quarter held out."""
        other = copy(self)
        other.pairs = self._open(self.pairs)[:count]
        other.held_out = 0.25
        other._splits = None
        other._models = []
        return other

    def setup(self, stage: str) -> None:
        """Read and split the pairs, once; look for those that do not fit the trainer's models."""
        if self._splits is None:
            self._splits = self._read()
        models = models_of(self.trainer)
        if models:
            self.fit_to(models)

    def fit_to(self, models: Sequence[Model]) -> None:
        """Refuse, drop or truncate pairs that do not fit the models' context, once for each.

        Raises:
            InputError: if there are some, and `long_rows` refuses them.
        """
        splits = self._splits or self._read()
        models = [model for model in models if model not in self._models]
        for part, name in {"train": "training pairs", "held_out": "held-out pairs"}.items():
            splits[part] = fitting(splits[part], models, self.long_rows, name)
        self._splits = splits
        if models and not self._models:
            _tell_of(splits["train"], len(splits["held_out"]))
        self._models += models

    def _read(self) -> dict[str, PreferencePairs]:
        clean = _with_facts(self._open(self.pairs), first_row=0, extra=0)
        rows = self._split_rows(clean.chosen.prompts)
        train = clean[rows.train]
        if self.extra is not None:
            extra = _with_facts(self._open(self.extra), first_row=len(clean), extra=1)
            _check_kinds(train, extra)
            train = _joined(train, extra)
        return {"train": train, "held_out": clean[rows.held_out]}

    def train_dataloader(self) -> ResumableLoader:
        return self._loader("train", "training pairs", seed=self.order_seed)

    def val_dataloader(self) -> ResumableLoader | list[Any]:
        """Return the held-out pairs' loader, or an empty list if none are held out.

        Lightning warns of the empty list.
        """
        if not len(self.split("held_out")):
            return []
        return self._loader("held_out", "held-out pairs", shuffle=False)

    def _loader(self, part: Part, what: str, **order: Any) -> ResumableLoader:
        pairs = self.split(part)
        budget = budget_of(pairs, self.tokens_per_batch, models_of(self.trainer), what)
        return ResumableLoader(Rows(pairs), self.batch_size, budget=budget, **order)

    def split(self, part: Part) -> PreferencePairs:
        """Return the pairs that are trained on, or those that are held out."""
        self.setup("fit")
        return self._splits[part]

    def _open(self, source: str | Path | PreferencePairs) -> PreferencePairs:
        pairs = source
        if not isinstance(source, PreferencePairs):
            pairs = read_preferences(source, self.strict, self.dialogues)
        return without_doubles(pairs) if self.dedup else pairs

    def _split_rows(self, prompts: Sequence[Prompt]) -> Split:
        """Return the row numbers to train on and to hold out."""
        count = len(prompts)
        held = held_out_count(self.held_out, count)
        if not 0 <= held < count:
            raise InputError(
                f"Preferences was asked to hold out {self.held_out:g} of {count} pairs, "
                "which leaves none to train on."
            )
        unique_prompts = distinct([prompt_key(prompt) for prompt in prompts])
        whole_prompts = 2 * held <= len(unique_prompts.values)
        if self.held_out_by == "auto" and not whole_prompts:
            _warn_of_shared_prompts(held, len(unique_prompts.values))
        if self.held_out_by != "auto":
            whole_prompts = self.held_out_by == "prompts"
        groups = unique_prompts.places if whole_prompts else range(count)
        rows = split_groups(groups, held, self.seed)
        if not rows.train:
            raise InputError(
                f"Preferences holds out whole prompts, and {count} pairs have too few. "
                "Give a smaller held_out."
            )
        return rows


def _warn_of_shared_prompts(held: int, prompts: int) -> None:
    """Warn where pairs are held out whose prompts are trained on, though prompts are many."""
    if prompts >= MANY_PROMPTS:
        log.warning(
            "%d single pairs are held out, since %d prompts are too few to hold out as many whole "
            "ones; so their prompts are trained on too. held_out_by=prompts holds out whole ones, "
            "with all their pairs",
            held,
            prompts,
        )


def _tell_of(train: PreferencePairs, held_out: int) -> None:
    """Log how many pairs are trained on and held out, which diagnostics keep."""
    extra = int(train.chosen.facts["extra"].sum())
    figures = {"train": len(train) - extra, "held_out": held_out, "adversarial": extra}
    more = f", and on {extra} adversarial ones" if extra else ""
    log.info(
        "Trained on %d pairs%s; %d are held out.",
        figures["train"],
        more,
        held_out,
        extra={"figures": {"pairs": figures}},
    )


def _with_facts(pairs: PreferencePairs, first_row: int, extra: int) -> PreferencePairs:
    """Return pairs with their row numbers, and with defaults for the margin and label they lack.

    Which responses ended by themselves ("finished") is kept. Other facts are dropped, as clean and
    adversarial pairs may not share them.
    """
    count = len(pairs)
    facts = {}
    for fact in PAIR_FACTS:
        if fact.name in pairs.chosen.facts:
            facts[fact.name] = pairs.chosen.facts[fact.name].float()
        else:
            facts[fact.name] = torch.full((count,), fact.default)
    chosen = Samples(
        pairs.chosen.prompts, pairs.chosen.outputs, {**facts, **_ends_of(pairs.chosen)}
    )
    rejected = Samples(pairs.rejected.prompts, pairs.rejected.outputs, _ends_of(pairs.rejected))
    numbered = PreferencePairs(chosen, rejected).numbered(first_row)
    chosen = numbered.chosen.with_facts(extra=torch.full((count,), extra))
    return PreferencePairs(chosen, numbered.rejected)


def _ends_of(samples: Samples) -> dict[str, Tensor]:
    """Return the fact "finished" alone, nothing where samples lack it."""
    return {name: column for name, column in samples.facts.items() if name == "finished"}


def _joined(clean: PreferencePairs, extra: PreferencePairs) -> PreferencePairs:
    """Return all pairs; where some say which responses ended by themselves, the others' all did."""
    halves = [clean.chosen, clean.rejected, extra.chosen, extra.rejected]
    if any(_ends_of(half) for half in halves):
        halves = [half.with_facts(finished=torch.tensor(finished_of(half))) for half in halves]
    chosen = concatenate([halves[0], halves[2]])
    return PreferencePairs(chosen, concatenate([halves[1], halves[3]]))


def _check_kinds(clean: PreferencePairs, extra: PreferencePairs) -> None:
    """Refuse to join texts with images, or images of several shapes."""
    halves = (clean.chosen, clean.rejected, extra.chosen, extra.rejected)
    kinds = dict.fromkeys(map(kind_of, halves))
    if len(kinds) > 1:
        raise InputError(
            f"Clean and extra pairs must be of one kind and size; got {', '.join(kinds)}."
        )
