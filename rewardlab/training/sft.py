"""Supervised fine-tuning of any policy."""

from __future__ import annotations

from typing import NamedTuple

from pytorch_lightning.cli import LRSchedulerCallable, OptimizerCallable
from torch import Tensor
from torch.optim import AdamW

from rewardlab.policies import Policy
from rewardlab.policies.base import At, Steps
from rewardlab.policies.norm_ratios import NormRatios, check_norm_guard
from rewardlab.rewards import Reward
from rewardlab.training.base import Trained, frozen_reference, trainable
from rewardlab.training.processes import joint_step_weights
from rewardlab.types import Samples, Trajectory


class CountedLoss(NamedTuple):
    """A batch's mean loss, and the number of this process's steps of which it is the mean."""

    loss: Tensor
    steps: Tensor


class SFT(Trained):
    """Raise the likelihood of given outputs by supervised fine-tuning.

    For text that is cross-entropy, for images half the denoising loss. Batches are Samples. The
    loss is the mean over a batch's steps, over all processes. With `accumulate_grad_batches` the
    gradient is that of the mean over the steps of all its batches, as of one large batch.

    With `norm_guard` the loop has a reference, the policy as it is when the loop is made, and logs
    `norm_ratio`, the mean of ‖v‖/‖v_ref‖ (NormGuard, arXiv 2606.27771). That costs one pass of the
    reference without gradient a step, about a third more, and a copy of the network unless an
    adapter is trained. `rewardlab.evaluation.NormReading` reads the ratio now and then, instead.

    Args:
        policy: the policy to train.
        reward: not used by the loss; here so that every loop is made from a policy and a reward.
        norm_guard: weight of the hinge relu(‖v‖/‖v_ref‖ - 1)², for policies that denoise.
        optimizer: makes the optimizer from the trainable parameters.
        schedule: makes a learning-rate schedule, stepped once an optimizer step.
        seed: seed of the noise that encodes the samples.

    Example:
        >>> import pytorch_lightning as pl, torch
        >>> from rewardlab.testing import tiny_diffusion
        >>> from rewardlab import DiffusionPolicy, Samples
        >>> from rewardlab.data import SamplesData
        >>> from rewardlab.training.trainers import SILENT
        >>> data = SamplesData(Samples([""] * 4, torch.rand(4, 1, 8, 8)), batch_size=2)
        >>> trainer = pl.Trainer(max_epochs=1, **SILENT)
        >>> trainer.fit(SFT(DiffusionPolicy(tiny_diffusion(classes=0))), data)
        >>> trainer.global_step
        2
    """

    learns_from = "samples"
    shards = True
    policy: Policy

    def __init__(
        self,
        policy: Policy,
        reward: Reward | None = None,
        norm_guard: float = 0.0,
        optimizer: OptimizerCallable = AdamW,
        schedule: LRSchedulerCallable | None = None,
        seed: int = 0,
    ) -> None:
        super().__init__(optimizer, schedule, seed)
        self.policy = trainable(policy)
        if norm_guard:
            self.reference = frozen_reference(policy, None)
        check_norm_guard(norm_guard, policy, self.reference)
        self.norm_guard = norm_guard

    def training_step(self, samples: Samples, batch_idx: int) -> Tensor:
        batch = self._loss(samples)
        self.log("loss", batch.loss, prog_bar=True, batch_size=len(samples), sync_dist=True)
        return self.share_of_step(batch.loss, batch.steps)

    def validation_step(self, samples: Samples, batch_idx: int) -> None:
        loss = self._loss(samples).loss
        self.log("val/loss", loss, prog_bar=True, batch_size=len(samples), sync_dist=True)

    def _loss(self, samples: Samples) -> CountedLoss:
        trajectory = self.policy.encode(samples, seeds=self.seeds(samples))
        weights = joint_step_weights(trajectory.mask, "token")

        def step_loss(steps: Steps, at: At) -> Tensor:
            return -(at(weights) * steps.log_prob).sum()

        norms = self._reference_norms(trajectory)
        with norms.of_policy(self.policy):
            loss = self.policy.apply_loss(trajectory, step_loss)
        loss = loss + norms.penalty(self.norm_guard)
        self._log_norms(norms, len(samples))
        return CountedLoss(loss, trajectory.mask.sum().float())

    def _reference_norms(self, trajectory: Trajectory) -> NormRatios:
        """Return a record with the reference's norms, or an empty one if there is no reference."""
        norms = NormRatios()
        if self.reference is not None:
            with norms.of_reference(self.reference):
                self.reference.log_prob(trajectory)
        return norms

    def _log_norms(self, norms: NormRatios, count: int) -> None:
        if self.training:
            self.log_dict(norms.figures(""), prog_bar=True, batch_size=count, sync_dist=True)
