"""Direct preference optimisation of any policy."""

from __future__ import annotations

import torch
from pytorch_lightning.cli import LRSchedulerCallable, OptimizerCallable
from torch import Tensor
from torch.optim import AdamW

from rewardlab.losses import dpo_loss
from rewardlab.policies import Policy
from rewardlab.rewards import Reward
from rewardlab.training.base import Trained, frozen_reference, step_total, trainable
from rewardlab.types import PreferencePairs, concatenate


class DPO(Trained):
    """Prefer chosen to rejected outputs more than the reference does: DPO for text, Diffusion-DPO
    for images.

    Batches are PreferencePairs. Both halves are encoded with one seed a pair, so images are
    compared at equal noise, and run through the policy together. Logged beside the loss: `accuracy`
    (share of pairs that the policy prefers rightly, against the reference), `margin` (β ·
    difference of log-ratios), `chosen` and `rejected` (the log-ratios). When both log-ratios fall,
    the policy forgets both: raise β, lower the learning rate, or give `sft_weight`.

    Args:
        policy: what is trained. Start from a policy that can already make the outputs (SFT first).
        reward: not used by the loss; here so that every loop is made from a policy and a reward.
        beta: pull towards the reference. 0.1 suits text; an image log-probability is a mean over
            its dimensions, so β there is in the thousands (5000 for 4x64x64 latents) and belongs to
            the image's size.
        sft_weight: weight of the chosen half's negative log-likelihood, as an anchor.
        reference: what the log-ratios are against; the policy as it is now by default.
        optimizer: makes the optimiser from the trainable parameters.
        schedule: makes a learning-rate schedule, stepped once an optimiser step.
        seed: of the noise that encodes the samples.

    Example:
        >>> import pytorch_lightning as pl, torch
        >>> from rewardlab.testing import tiny_diffusion
        >>> from rewardlab import DiffusionPolicy, PreferencePairs, Samples
        >>> from rewardlab.data import PairsData
        >>> bright, dark = (Samples([""] * 4, torch.full((4, 1, 8, 8), value)) for value in (0.9, 0.1))
        >>> quiet = dict.fromkeys(["logger", "enable_checkpointing", "enable_progress_bar", "enable_model_summary"], False)
        >>> trainer = pl.Trainer(max_epochs=1, **quiet)
        >>> module = DPO(DiffusionPolicy(tiny_diffusion(classes=0)), beta=1000.0)
        >>> trainer.fit(module, PairsData(PreferencePairs(bright, dark), batch_size=4))
        >>> round(float(trainer.callback_metrics["loss"]), 4)  # the policy is still its reference: log 2
        0.6931
    """

    learns_from = "pairs"

    def __init__(
        self,
        policy: Policy,
        reward: Reward | None = None,
        beta: float = 0.1,
        sft_weight: float = 0.0,
        reference: Policy | None = None,
        optimizer: OptimizerCallable = AdamW,
        schedule: LRSchedulerCallable | None = None,
        seed: int = 0,
    ) -> None:
        super().__init__(optimizer, schedule, seed)
        self.policy = trainable(policy)
        self.beta = beta
        self.sft_weight = sft_weight
        self.reference = frozen_reference(policy, reference)

    @staticmethod
    def examples(pairs: PreferencePairs) -> PreferencePairs:
        """Return what this loop learns from: the best candidates against the worst."""
        return pairs

    def training_step(self, pairs: PreferencePairs, batch_idx: int) -> Tensor:
        return self._loss(pairs, "")

    def validation_step(self, pairs: PreferencePairs, batch_idx: int) -> None:
        self._loss(pairs, "val/")

    def _loss(self, pairs: PreferencePairs, prefix: str) -> Tensor:
        both = self.policy.encode(
            concatenate([pairs.chosen, pairs.rejected]), seeds=self.seeds(pairs.chosen).repeat(2)
        )
        count = len(pairs)
        with torch.no_grad():
            reference = step_total(self.reference.log_prob(both), both.mask)

        def loss_of(log_probs: Tensor, rows: Tensor) -> Tensor:
            chosen, rejected = log_probs.chunk(2)
            losses = dpo_loss(chosen, rejected, *reference[rows].chunk(2), beta=self.beta)
            return (losses - self.sft_weight * chosen).sum() / count

        pair = torch.arange(count).repeat(2)
        loss, log_probs = self.policy.apply_row_loss(both, loss_of, groups=pair)
        chosen, rejected = (log_probs - reference).chunk(2)
        figures = {"loss": loss.detach(), "accuracy": (chosen > rejected).float().mean()}
        figures |= {
            "margin": self.beta * (chosen - rejected).mean(),
            "chosen": chosen.mean(),
            "rejected": rejected.mean(),
        }
        figures = {prefix + name: value for name, value in figures.items()}
        self.log_dict(figures, prog_bar=True, batch_size=len(pairs), sync_dist=prefix != "")
        return loss
