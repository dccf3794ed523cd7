"""Gated KL: only samples that the reward likes more than its witnesses do pay for the KL."""

from __future__ import annotations

import math
from collections import deque
from typing import Any

import torch
from pytorch_lightning import Callback, LightningModule, Trainer
from torch import Tensor

from rewardlab.errors import InputError
from rewardlab.metrics.doubt import doubts, most_doubted
from rewardlab.rewards import Reward
from rewardlab.training.base import ChecksLoop
from rewardlab.training.collecting import score_rollout
from rewardlab.training.ppo import PPO
from rewardlab.training.processes import from_all_processes
from rewardlab.training.weighing import WeighsRollouts
from rewardlab.types import Samples

WINDOW = 20  # steps whose mean doubts rule the share
RISE, FALL = 1.1, 0.9


class GatedKL(Callback, WeighsRollouts, ChecksLoop):
    """Let the KL hold only those samples whose score is doubted most.

    GARDO, arXiv 2512.24138. A sample is doubted as far as the reward ranks it higher among the
    step's samples than witnesses do (`rewardlab.metrics.doubts`). The KL counts for the share q of
    the samples with a doubt of 0 or more that are doubted most, and for no others, so the policy is
    free where the reward is believed. q follows the doubt: it is multiplied by 1.1 when the step's
    mean doubt (over doubts of 0 or more; over all samples it is 0) is above those of the last 20
    steps, and by 0.9 when it is below all of them.

    PPO's `kl_weight` is that of the gated samples; 0.04 to 0.08 are the authors'. Logged:
    `kl_share` (q), `doubt` (its mean) and `kl_gated` (the share of samples whose KL counts).

    Args:
        witnesses: rewards that should object, of any scale; best of another family than the
            reward. They are only scored with.
        share: q at the start.
        lowest: smallest q.
        highest: largest q.
        as_published: turn the doubt's sign, as the authors' code does by ranking descendingly: then
            samples are held that the reward likes less than the witnesses.

    Attributes:
        share: q as it is now.

    Raises:
        InputError: without a witness, if a share is out of range, or (at the start) if the loop is
            no PPO with a KL.

    Example:
        >>> import pytorch_lightning as pl
        >>> from rewardlab import DiffusionPolicy
        >>> from rewardlab.data import Prompts
        >>> from rewardlab.policies.samplers import Sampler
        >>> from rewardlab.rewards import Brightness, Function
        >>> from rewardlab.testing import tiny_diffusion
        >>> from rewardlab.training.trainers import SILENT
        >>> contrast = Function(lambda samples: samples.outputs.flatten(1).std(1))
        >>> policy = DiffusionPolicy(tiny_diffusion(classes=0), sampler=Sampler(steps=3))
        >>> trainer = pl.Trainer(max_epochs=1, callbacks=[GatedKL([contrast])], **SILENT)
        >>> trainer.fit(PPO(policy, Brightness(), kl_weight=0.04), Prompts([""] * 2, batch_size=2))
        >>> trainer.callback_metrics["kl_gated"].item()  # one of eight samples
        0.125
    """

    def __init__(
        self,
        witnesses: list[Reward],
        share: float = 0.1,
        lowest: float = 0.02,
        highest: float = 0.2,
        as_published: bool = False,
    ) -> None:
        if not witnesses:
            raise InputError(
                "GatedKL doubts scores by what witnesses say, and got none. Give a reward or more "
                "of another family or another training than the loop's."
            )
        if not 0 < lowest <= share <= highest <= 1:
            raise InputError(
                "GatedKL needs 0 < lowest <= share <= highest <= 1; got "
                f"lowest={lowest:g}, share={share:g} and highest={highest:g}."
            )
        self.witnesses = list(witnesses)
        self.share = share
        self.lowest = lowest
        self.highest = highest
        self.as_published = as_published
        self._doubts: deque[float] = deque(maxlen=WINDOW)

    def check_loop(self, module: LightningModule) -> None:
        """Refuse a loop whose KL cannot be gated."""
        if not isinstance(module, PPO) or module.kl_weight == 0:
            raise InputError(
                f"GatedKL says whose KL counts, and this {type(module).__name__} has no KL with a "
                "weight. Train by PPO with a kl_weight above 0, such as 0.04."
            )

    def on_train_start(self, trainer: Trainer, module: LightningModule) -> None:
        """Check the loop, and bring the witnesses to its device."""
        self.check_loop(module)
        for witness in self.witnesses:
            witness.to(module.device).eval()

    def kl_shares(self, loop: PPO, samples: Samples, scores: Tensor) -> Tensor:
        """Return 1 for each sample of this process whose KL counts, otherwise 0, float32 [B]."""
        columns = [scores]
        for witness in self.witnesses:
            columns.append(score_rollout(witness, samples, loop.device))
        tables = from_all_processes(torch.stack(columns, 1).cpu())
        table = torch.cat(tables)
        doubt = self._doubts_of(table)
        gated = most_doubted(doubt, self.share).float()
        mean_doubt = doubt[doubt >= 0].mean().item()
        figures = {"kl_share": self.share, "doubt": mean_doubt, "kl_gated": gated.mean().item()}
        loop.log_dict(figures, batch_size=len(samples))
        if not math.isnan(mean_doubt):
            self._adapt(mean_doubt)
        before = sum(map(len, tables[: loop.global_rank]))
        return gated[before : before + len(samples)].to(loop.device)

    def _doubts_of(self, table: Tensor) -> Tensor:
        """Return the doubt [B] of the scores [B, 1 + W] of reward and witnesses.

        It is -∞, so that no KL counts, where one of them does not score a sample.
        """
        scored = ~table.isnan().any(1)
        doubt = doubts(table[scored, 0], table[scored, 1:])
        if self.as_published:
            doubt = -doubt
        return torch.full((len(table),), -torch.inf).masked_scatter(scored, doubt)

    def _adapt(self, doubt: float) -> None:
        """Move q after the step's mean doubt, once there are 20 to compare it with."""
        if len(self._doubts) == WINDOW:
            if doubt > max(self._doubts):
                self.share = min(self.share * RISE, self.highest)
            elif doubt < min(self._doubts):
                self.share = max(self.share * FALL, self.lowest)
        self._doubts.append(doubt)

    def state_dict(self) -> dict[str, Any]:
        """Return q and the mean doubts of the last steps."""
        return {"share": self.share, "doubts": list(self._doubts)}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take what `state_dict` returned."""
        self.share = state_dict["share"]
        self._doubts = deque(state_dict["doubts"], maxlen=WINDOW)
