"""The long stages of a round, each with checkpoints of its own: fits and post-training."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch
from pytorch_lightning import Callback, LightningDataModule, LightningModule, Trainer
from pytorch_lightning.callbacks import EarlyStopping, ModelCheckpoint
from pytorch_lightning.loggers import CSVLogger
from pytorch_lightning.utilities.seed import isolate_rng
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import nn

from rewardlab.data import ResumableLoader, Rows
from rewardlab.data.long_rows import fitting
from rewardlab.data.token_budget import budget_of, check_batch
from rewardlab.errors import InputError
from rewardlab.evaluation import Guard, MonitoredPolicy, Readings
from rewardlab.mining import check_candidates
from rewardlab.policies import Policy, frozen_copy
from rewardlab.rewards import Reward
from rewardlab.rewards.corrected import Corrected
from rewardlab.runs.damage import UNREADABLE, read_object
from rewardlab.runs.layout import (
    CORRECTION_FILE,
    FIGURES_FILE,
    LAST_CHECKPOINT,
    METRICS_FILE,
    STATE_FILE,
)
from rewardlab.seeds import derive
from rewardlab.training import GANRM
from rewardlab.training.base import Trained, frozen_reference, trained_state
from rewardlab.training.checkpoints import MINUTES, LastCheckpoint, checkpoint_to_resume
from rewardlab.training.online import correction_state
from rewardlab.training.resumable import Resumable
from rewardlab.training.steps import CountedSteps
from rewardlab.training.trainers import Interruptible, make_trainer
from rewardlab.types import PreferencePairs, Samples

BEST_CHECKPOINT = "best.ckpt"


@dataclass
class FitReward:
    """How the reward is fitted in each round.

    Args:
        loop: makes the LightningModule from the reward; none leaves a finished reward as it is
            (Adv-RM's rounds, without attacks).
        trainer: makes the Trainer; logger, checkpoints and progress are set here.
        patience: epochs without a lower held-out loss after which the fit stops. The best epoch's
            weights are kept.
        warm_start: go on from the last round's reward instead of its first weights.
        checkpoint_minutes: minutes between checkpoints, beside that of each epoch. No result
            depends on it.
    """

    loop: Callable[[Reward], LightningModule] | None = GANRM
    trainer: Callable[[], Trainer] = Trainer
    patience: int = 10
    warm_start: bool = False
    checkpoint_minutes: float = MINUTES

    def __call__(
        self, reward: Reward, data: LightningDataModule, folder: Path, scratch: Path
    ) -> None:
        """Fit `reward` in place and write its weights, figures and metrics into `folder`."""
        if self.loop is None:
            raise InputError(
                "These rounds fit their reward, and fit.loop is none. Give it a loop, such as "
                "GANRM; a finished reward is taken as it is by AdvRMRounds with rounds=0."
            )
        module = self.loop(reward.train())
        best = ModelCheckpoint(scratch, "best", monitor="val/loss", enable_version_counter=False)
        stopping = EarlyStopping("val/loss", patience=self.patience, check_finite=True)
        last = LastCheckpoint(
            scratch / LAST_CHECKPOINT, minutes=self.checkpoint_minutes, epochs=True
        )
        trainer = _fit(self.trainer, module, scratch, [stopping, best, last], datamodule=data)
        weights = torch.load(best.best_model_path, weights_only=True)["state_dict"]
        module.load_state_dict(weights, strict=False)
        module.on_fit_end()
        with torch.no_grad():
            trainer.validate(module, datamodule=data, verbose=False)
        figures: dict[str, Any] = {"meaning": reward.meaning, "epochs": trainer.current_epoch}
        for name, value in trainer.callback_metrics.items():
            if name.startswith("val/"):
                figures[name] = value.item()
        save_stage(folder, reward, figures, scratch)


@dataclass
class PostTrain:
    """How the policy is trained against the reward in each round.

    Args:
        loop: makes the LightningModule from policy and reward (SFT, DPO or PPO); none means
            best-of-n: candidates are filtered at test time and no weights change.
        trainer: makes the Trainer; logger, checkpoints and progress are set here.
        candidates: K outputs of each prompt, from which best and worst are taken. A loop that
            samples for itself, such as PPO, needs none, and none are drawn for it.
        groups: number of prompts that are trained on, or that K candidates are drawn of, the
            prompts in turn; once for each prompt by default.
        batch_size: examples a step.
        callbacks: such as EMA and Guard; each round gets fresh copies.
        reference: what the loop is held to: the policy at the start of this "round", or of the
            "run", or another policy, such as `load_policy` gives. The loop's own `reference` is
            none of it.
        checkpoint_every: optimizer steps between checkpoints, which bound what a kill can lose.
        checkpoint_minutes: minutes between checkpoints, whichever comes first. No result depends
            on it.
        long_rows: what becomes of prompts that do not fit the policy's context: "refuse" or "drop".
            Outputs that the policy drew and that do not fit it any more, which is rare, are
            dropped.
        tokens_per_batch: tokens a step in place of `batch_size`: texts of like length together,
            for loops that learn from samples or pairs.
    """

    loop: Callable[[Policy, Reward], LightningModule] | None = None
    trainer: Callable[[], Trainer] = Trainer
    candidates: int = 8
    groups: int | None = None
    batch_size: int = 16
    callbacks: list[Callback] = field(default_factory=list)
    reference: Literal["round", "run"] | Policy = "round"
    checkpoint_every: int = 500
    checkpoint_minutes: float = MINUTES
    long_rows: Literal["refuse", "drop"] = "refuse"
    tokens_per_batch: int | None = None

    def __post_init__(self) -> None:
        check_batch(self.batch_size, self.tokens_per_batch)
        if self.loop is not None:
            check_candidates(self.candidates)
            check_reference(getattr(self.loop, "keywords", {}))
        _check_states(self.callbacks)

    def build(self, policy: Policy, reward: Reward, first: Policy) -> Trained:
        """Return the loop of a round, held to its reference.

        Args:
            policy: what is trained, as it is at the start of the round.
            reward: what scores.
            first: the policy at the start of the run.

        Raises:
            InputError: if the loop does not derive from `Trained`.
        """
        assert self.loop is not None
        module = self.loop(policy, reward)
        if not isinstance(module, Trained):
            raise InputError(
                "Rounds train by loops that derive from rewardlab.training.Trained, which say what "
                f"they learn from; {type(module).__name__} does not. Derive it, or train outside "
                "of rounds."
            )
        if module.reference is not None:
            module.reference = frozen_reference(policy, self._held_to(policy, first))
        return module

    def _held_to(self, policy: Policy, first: Policy) -> Policy:
        """Return the reference: the policy as it is, as it was at first, or the one given."""
        if isinstance(self.reference, Policy):
            return self.reference
        return first if self.reference == "run" else frozen_copy(policy)

    def __call__(
        self, module: Trained, examples: Any, watched: MonitoredPolicy, folder: Path, scratch: Path
    ) -> None:
        """Train the loop's policy in place; write its weights, figures and metrics into `folder`.

        Args:
            module: what `build` returned.
            examples: what it learns from: numbered prompts, Samples or PreferencePairs.
            watched: what guards and readings read.
            folder: of the stage.
            scratch: for checkpoints.
        """
        callbacks = deepcopy(self.callbacks)
        for callback in callbacks:
            if isinstance(callback, Guard | Readings):
                callback.observe(watched)
        checkpoints = LastCheckpoint(
            scratch / LAST_CHECKPOINT, self.checkpoint_every, self.checkpoint_minutes
        )
        examples = fitting(_numbered(examples), [module.policy], "drop", "examples")
        budget = budget_of(examples, self.tokens_per_batch, [module.policy], "examples")
        loader = ResumableLoader(Rows(examples), self.batch_size, seed=module.seed, budget=budget)
        module.policy.train()
        added = [*callbacks, checkpoints]
        trainer = _fit(self.trainer, module, scratch, added, train_dataloaders=loader)
        _check_finite(module.policy)
        if isinstance(module.reward, Corrected):
            save_file(correction_state(module.reward), folder / CORRECTION_FILE)
        save_stage(folder, module.policy, _figures(trainer, module, callbacks), scratch)


def _check_states(callbacks: Sequence[Callback]) -> None:
    """Refuse callbacks whose states in checkpoints have one name; Lightning would, after the fits.

    Raises:
        InputError: naming them.
    """
    stateful = [part for part in callbacks if type(part).state_dict is not Callback.state_dict]
    keys = [callback.state_key for callback in stateful]
    doubled = {key for key in keys if keys.count(key) > 1}
    if doubled:
        raise InputError(
            f"post_train.callbacks has two of {', '.join(sorted(doubled))}, whose states in a "
            "checkpoint could not be told apart. Does a fragment add one (callbacks+) that the "
            "config has? Leave one out: --rounds.init_args.post_train.callbacks=null before the "
            "fragment drops the config's."
        )


def check_reference(loop: Mapping[str, Any]) -> None:
    """Refuse a reference among a loop's arguments: rounds would put their own in its place.

    Raises:
        InputError: if there is one.
    """
    if loop.get("reference") is not None:
        raise InputError(
            "The loop of post_train is given a reference, and rounds choose what a loop is held "
            "to. Set post_train.reference instead: round, run, or that policy."
        )


def _figures(trainer: Trainer, module: Trained, callbacks: Sequence[Callback]) -> dict[str, Any]:
    """Return what post-training says of itself: its last metrics, steps, guards and readings."""
    figures: dict[str, Any] = {}
    for name, value in trainer.callback_metrics.items():
        figures[name] = value.item()
    stability: dict[str, Any] = {}
    for callback in callbacks:
        if isinstance(callback, Readings):
            stability |= callback.figures()
    figures["steps"] = trainer.global_step
    figures["guard_stopped_at"] = [
        callback.stopped_at for callback in callbacks if isinstance(callback, Guard)
    ]
    figures["generations"] = module.generations
    figures["stability"] = stability
    return figures


def _fit(
    make: Callable[..., Trainer],
    module: LightningModule,
    scratch: Path,
    callbacks: list[Any],
    **data: Any,
) -> Trainer:
    """Run a fit that logs and keeps checkpoints in `scratch`, and goes on from the furthest.

    Dropout draws from torch's global generator, so that is seeded here: a resumed run draws the
    same numbers.
    """
    checkpoint = checkpoint_to_resume(scratch, besides=BEST_CHECKPOINT)
    trainer = make_trainer(
        make,
        num_sanity_val_steps=0,
        logger=CSVLogger(scratch, name="", version=""),
        default_root_dir=scratch,
        callbacks=[
            *callbacks,
            Resumable(),
            Interruptible(scratch / LAST_CHECKPOINT),
            CountedSteps(),
        ],
        enable_model_summary=False,
        log_every_n_steps=10,
    )
    seed = module.seed if isinstance(module, Trained) else 0
    with isolate_rng(include_cuda=False):
        torch.manual_seed(derive(seed, "fit"))
        trainer.fit(module, ckpt_path=checkpoint, weights_only=True, **data)
    module.to(trainer.strategy.root_device)  # Lightning leaves it on the CPU
    return trainer


def save_stage(folder: Path, module: nn.Module, figures: dict[str, Any], scratch: Path) -> None:
    """Write a stage's result: the trained weights, the figures and the metrics."""
    save_file(trained_state(module), folder / STATE_FILE)
    text = json.dumps(figures, indent=1, sort_keys=True)
    (folder / FIGURES_FILE).write_text(text + "\n", encoding="utf-8")
    if (scratch / METRICS_FILE).exists():
        shutil.copy(scratch / METRICS_FILE, folder)


def load_stage(folder: Path, module: nn.Module) -> dict[str, Any]:
    """Put a stage's weights into `module` and return its figures."""
    figures = _read_stage(folder, module)
    if isinstance(module, Reward):
        module.meaning = figures["meaning"]
    module.eval()
    return figures


def _read_stage(folder: Path, module: nn.Module) -> dict[str, Any]:
    """Put a stage's weights into `module` and return its figures.

    Raises:
        InputError: if a file is damaged. Stages with checksums never come here damaged.
    """
    try:
        file = STATE_FILE
        module.load_state_dict(load_file(folder / file), strict=False)
        file = FIGURES_FILE
        figures = read_object(folder / file)
        if isinstance(module, Reward) and not isinstance(figures.get("meaning"), str):
            raise ValueError
    except (*UNREADABLE, RuntimeError, SafetensorError):
        raise InputError(
            f"The stage {folder} is damaged: its {file} is missing, or not what this stage keeps. "
            "A full disk or a crash may have cut it. Remove that folder, and the same command with "
            "--resume makes the stage anew."
        ) from None
    return figures


def _numbered(examples: Any) -> Any:
    """Return the examples with row numbers, which seed each row's noise; prompts have them."""
    if isinstance(examples, Samples | PreferencePairs):
        return examples.numbered()
    return examples


def _check_finite(policy: Policy) -> None:
    """Refuse a policy whose training has diverged, before its weights are kept."""
    broken = []
    for name, parameter in policy.named_parameters():
        if parameter.requires_grad and not parameter.isfinite().all():
            broken.append(name)
    if broken:
        raise InputError(
            f"Post-training diverged: {len(broken)} of the policy's weights are NaN or infinite "
            f"(first: {broken[0]}). The last round's policy stands. Lower the learning rate, or "
            "raise beta."
        )
