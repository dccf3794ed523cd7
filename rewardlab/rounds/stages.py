"""The long stages of a round: fitting the reward, and post-training the policy, each with
checkpoints of its own.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from copy import deepcopy
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch
from pytorch_lightning import Callback, LightningDataModule, LightningModule, Trainer
from pytorch_lightning.callbacks import EarlyStopping, ModelCheckpoint
from pytorch_lightning.loggers import CSVLogger
from pytorch_lightning.utilities.seed import isolate_rng
from safetensors.torch import load_file, save_file
from torch import nn

from rewardlab.data import ResumableLoader, Rows
from rewardlab.errors import InputError
from rewardlab.evaluation import Guard, Readings, Watched
from rewardlab.mining import check_candidates
from rewardlab.policies import Policy, frozen_copy
from rewardlab.rewards import Reward
from rewardlab.seeds import derive
from rewardlab.training import GANRM as GANRMLoop
from rewardlab.training.base import frozen_reference, trained_state
from rewardlab.training.resumable import Resumable
from rewardlab.training.trainers import Interruptible, make_trainer
from rewardlab.types import PreferencePairs, Samples

STATE = "state.safetensors"
FIGURES = "figures.json"


@dataclass
class FitReward:
    """How the reward is fitted in each round.

    Args:
        loop: makes the LightningModule from the reward.
        trainer: makes the Trainer; logger, checkpoints and progress are set here.
        patience: epochs without a lower held-out loss after which the fit stops. The best epoch's
            weights are kept.
        warm_start: go on from the last round's reward instead of its first weights.
    """

    loop: Callable[[Reward], LightningModule] = GANRMLoop
    trainer: Callable[[], Trainer] = Trainer
    patience: int = 10
    warm_start: bool = False

    def __call__(
        self, reward: Reward, data: LightningDataModule, folder: Path, scratch: Path
    ) -> None:
        """Fit `reward` in place and write its weights, figures and metrics into `folder`."""
        module = self.loop(reward.train())
        best = ModelCheckpoint(
            scratch, "best", monitor="val/loss", save_last=True, enable_version_counter=False
        )
        stopping = EarlyStopping("val/loss", patience=self.patience, check_finite=True)
        trainer = _fit(self.trainer, module, scratch, [stopping, best], datamodule=data)
        kept = torch.load(best.best_model_path, weights_only=True)["state_dict"]
        module.load_state_dict(kept, strict=False)
        module.on_fit_end()
        with torch.no_grad():
            trainer.validate(module, datamodule=data, verbose=False)
        figures = {
            name: value.item()
            for name, value in trainer.callback_metrics.items()
            if name.startswith("val/")
        }
        note = {"meaning": getattr(reward, "meaning", "score"), "epochs": trainer.current_epoch}
        save_stage(folder, reward, figures | note, scratch)


@dataclass
class PostTrain:
    """How the policy is trained against the reward in each round.

    Args:
        loop: makes the LightningModule from policy and reward (SFT, DPO or PPO); none means
            best-of-N: candidates are filtered at test time and no weights change.
        trainer: makes the Trainer; logger, checkpoints and progress are set here.
        candidates: K outputs of each prompt, from which best and worst are taken.
        groups: how many times K candidates are drawn, the prompts in turn; once for each prompt by
            default.
        batch_size: examples a step.
        callbacks: such as EMA and Guard; each round gets fresh copies.
        reference: what preference losses are held to: the policy at the start of this "round", or
            of the "run".
        checkpoint_every: optimiser steps between checkpoints, which bound what a kill can lose.
    """

    loop: Callable[[Policy, Reward], LightningModule] | None = None
    trainer: Callable[[], Trainer] = Trainer
    candidates: int = 8
    groups: int | None = None
    batch_size: int = 16
    callbacks: list[Callback] = field(default_factory=list)
    reference: Literal["round", "run"] = "round"
    checkpoint_every: int = 500

    def __post_init__(self) -> None:
        if self.loop is not None:
            check_candidates(self.candidates)

    def __call__(
        self,
        policy: Policy,
        reward: Reward,
        pairs: PreferencePairs,
        watched: Watched,
        first: Policy,
        folder: Path,
        scratch: Path,
    ) -> None:
        """Train `policy` in place on mined pairs and write its weights, figures and metrics into
        `folder`.
        """
        module = self.loop(policy.train(), reward)  # type: ignore[misc]
        if hasattr(module, "reference"):
            module.reference = frozen_reference(
                policy, first if self.reference == "run" else frozen_copy(policy)
            )
        callbacks = deepcopy(self.callbacks)
        readers = [callback for callback in callbacks if isinstance(callback, Guard | Readings)]
        for reader in readers:
            reader.observe(watched)
        checkpoints = ModelCheckpoint(
            scratch,
            "{step}",
            save_last=True,
            every_n_train_steps=self.checkpoint_every,
            enable_version_counter=False,
        )
        loader = ResumableLoader(
            Rows(_numbered(module.examples(pairs))),
            self.batch_size,
            seed=getattr(module, "seed", 0),
        )
        trainer = _fit(
            self.trainer, module, scratch, [*callbacks, checkpoints], train_dataloaders=loader
        )
        _check_finite(policy)
        figures = {name: value.item() for name, value in trainer.callback_metrics.items()}
        stopped = [guard.stopped_at for guard in readers if isinstance(guard, Guard)]
        figures |= {
            "steps": trainer.global_step,
            "guard_stopped_at": stopped,
            "generations": getattr(module, "generations", 0),
        }
        figures["stability"] = {
            k: v
            for reader in readers
            if isinstance(reader, Readings)
            for k, v in reader.figures().items()
        }
        save_stage(folder, policy, figures, scratch)


def _fit(
    make: Callable[..., Trainer],
    module: LightningModule,
    scratch: Path,
    callbacks: list[Any],
    **data: Any,
) -> Trainer:
    """Run a fit that logs and keeps checkpoints in `scratch`, and goes on from the last of them.

    Dropout draws from torch's global generator, so that is seeded here; what came before the stage
    must not matter.
    """
    logger = CSVLogger(scratch, name="", version="")
    last = scratch / "last.ckpt"
    trainer = make_trainer(
        make,
        num_sanity_val_steps=0,
        logger=logger,
        default_root_dir=scratch,
        callbacks=[*callbacks, Resumable(), Interruptible(last)],
        enable_model_summary=False,
        log_every_n_steps=10,
    )
    with isolate_rng(include_cuda=False):
        torch.manual_seed(derive(getattr(module, "seed", 0), "fit"))
        trainer.fit(module, ckpt_path=last if last.exists() else None, weights_only=True, **data)
    module.to(
        trainer.strategy.root_device
    )  # Lightning leaves it on the CPU, where the next stage would sample
    return trainer


def save_stage(folder: Path, module: nn.Module, figures: dict[str, Any], scratch: Path) -> None:
    """Write a stage's result: the trained weights, the figures, and the metrics of the way there."""
    save_file(trained_state(module), folder / STATE)
    (folder / FIGURES).write_text(
        json.dumps(figures, indent=1, sort_keys=True) + "\n", encoding="utf-8"
    )
    if (scratch / "metrics.csv").exists():
        shutil.copy(scratch / "metrics.csv", folder)


def load_stage(folder: Path, module: nn.Module) -> dict[str, Any]:
    """Put a stage's weights into `module` and return its figures."""
    module.load_state_dict(load_file(folder / STATE), strict=False)
    figures: dict[str, Any] = json.loads((folder / FIGURES).read_text(encoding="utf-8"))
    if hasattr(module, "meaning"):
        module.meaning = figures["meaning"]
    module.eval()
    return figures


def _numbered(examples: Any) -> Any:
    """Give examples row numbers, from which the loop derives each row's noise."""
    rows = torch.arange(len(examples))
    if isinstance(examples, Samples):
        return examples.with_facts(row=rows)
    if isinstance(examples, PreferencePairs):
        return PreferencePairs(
            examples.chosen.with_facts(row=rows), examples.rejected.with_facts(row=rows)
        )
    return examples  # prompts are numbered


def _check_finite(policy: Policy) -> None:
    bad = [
        name
        for name, parameter in policy.named_parameters()
        if parameter.requires_grad and not parameter.isfinite().all()
    ]
    if bad:
        raise InputError(
            f"Post-training diverged: {len(bad)} of the policy's weights are NaN or infinite (first: {bad[0]}). The last "
            "round's policy stands. Lower the learning rate, or raise beta."
        )
