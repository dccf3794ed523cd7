"""Direct preference optimization of any policy."""

from __future__ import annotations

import logging
from typing import Literal, get_args

import torch
from pytorch_lightning.cli import LRSchedulerCallable, OptimizerCallable
from torch import Tensor
from torch.optim import AdamW

from rewardlab.errors import InputError
from rewardlab.losses import chi_po_loss, dpo_loss
from rewardlab.policies import Policy
from rewardlab.policies.abilities import KeepsNoise
from rewardlab.policies.norm_ratios import NormRatios, check_norm_guard
from rewardlab.rewards import Reward
from rewardlab.training.base import (
    Trained,
    frozen_reference,
    step_total,
    trainable,
)
from rewardlab.types import PreferencePairs, Samples, Trajectory, concatenate

log = logging.getLogger("rewardlab")

Link = Literal["kl", "mixed-chi2"]


class DPO(Trained):
    """Prefer chosen to rejected outputs more than the reference does.

    This is DPO for text and Diffusion-DPO for images. Batches are PreferencePairs. Both halves are
    encoded with one seed a pair, so images are compared at equal noise, and run through the policy
    together.

    Logged beside the loss: `accuracy` (share of pairs that the policy prefers rightly, against the
    reference; a tie counts one half), `margin` (β · difference of log-ratios), `chosen` and
    `rejected` (the log-ratios). When both log-ratios fall, the policy forgets both: raise β, lower
    the learning rate, or give `sft_weight`. Of a policy that denoises, `norm_ratio`, the mean of
    ‖v‖/‖v_ref‖ (NormGuard, arXiv 2606.27771), comes from the passes that the loss takes anyway.

    Args:
        policy: the policy to train. It can already make the outputs (SFT first).
        reward: not used by the loss; here so that every loop is made from a policy and a reward.
        beta: strength of the pull towards the reference. 0.1 suits text. An image log-probability
            is a mean over its dimensions, so β there is in the thousands (5000 for 4x64x64 latents)
            and belongs to the image's size.
        sft_weight: weight of the chosen half's negative log-likelihood, as an anchor.
        norm_guard: weight of the hinge relu(‖v‖/‖v_ref‖ - 1)², for policies that denoise.
        noise: "fresh", or "own" for the noise that each sample was drawn from (PNAPO, arXiv
            2605.09433), for pairs of a flow-matching policy with deterministic steps. Pairs without
            the fact "seed", from outside, get fresh noise, with one warning.
        reference: policy that the log-ratios are against; by default the policy as it is now.
        optimizer: makes the optimizer from the trainable parameters.
        schedule: makes a learning-rate schedule, stepped once an optimizer step.
        seed: seed of the noise that encodes the samples.
        link: what stands for the reward: β·log(π/π_ref) ("kl", DPO), or β·(π/π_ref + log(π/π_ref))
            ("mixed-chi2", χPO, arXiv 2407.13399), which holds the policy back where the reference
            is rare. χPO is for text alone.
        reward_range: R of χPO, which clips the margin at ±2R.

    Raises:
        InputError: if the policy cannot be trained, the link is unknown, or χPO is asked of a
            policy of images.

    Example:
        >>> import pytorch_lightning as pl, torch
        >>> from rewardlab.testing import tiny_diffusion
        >>> from rewardlab import DiffusionPolicy, PreferencePairs, Samples
        >>> from rewardlab.data import PairsData
        >>> from rewardlab.training.trainers import SILENT
        >>> bright = Samples([""] * 4, torch.full((4, 1, 8, 8), 0.9))
        >>> dark = Samples([""] * 4, torch.full((4, 1, 8, 8), 0.1))
        >>> trainer = pl.Trainer(max_epochs=1, **SILENT)
        >>> module = DPO(DiffusionPolicy(tiny_diffusion(classes=0)), beta=1000.0)
        >>> trainer.fit(module, PairsData(PreferencePairs(bright, dark), batch_size=4))
        >>> loss = trainer.callback_metrics["loss"]
        >>> round(float(loss), 4)  # the policy is still its reference: log 2
        0.6931
    """

    learns_from = "pairs"
    shards = True
    policy: Policy
    reference: Policy

    def __init__(
        self,
        policy: Policy,
        reward: Reward | None = None,
        beta: float = 0.1,
        sft_weight: float = 0.0,
        norm_guard: float = 0.0,
        noise: Literal["fresh", "own"] = "fresh",
        reference: Policy | None = None,
        optimizer: OptimizerCallable = AdamW,
        schedule: LRSchedulerCallable | None = None,
        seed: int = 0,
        link: Link = "kl",
        reward_range: float = 10.0,
    ) -> None:
        super().__init__(optimizer, schedule, seed)
        self.policy = trainable(policy)
        _check_link(self.policy, link, reward_range)
        self.link = link
        self.reward_range = reward_range
        self.beta = beta
        self.sft_weight = sft_weight
        self.reference = frozen_reference(policy, reference)
        check_norm_guard(norm_guard, policy, self.reference)
        check_noise(noise, policy)
        self.norm_guard = norm_guard
        self.noise = noise
        self._lacked_seeds = False

    def training_step(self, pairs: PreferencePairs, batch_idx: int) -> Tensor:
        return self.share_of_step(self._loss(pairs, ""), len(pairs))

    def validation_step(self, pairs: PreferencePairs, batch_idx: int) -> None:
        self._loss(pairs, "val/")

    def _loss(self, pairs: PreferencePairs, prefix: str) -> Tensor:
        trajectory = self._both_halves(pairs)
        count = len(pairs)
        norms = NormRatios()
        with norms.of_reference(self.reference):
            reference = step_total(self.reference.log_prob(trajectory), trajectory.mask)

        def pair_loss(log_probs: Tensor, rows: Tensor) -> Tensor:
            chosen, rejected = log_probs.chunk(2)
            reference_chosen, reference_rejected = reference[rows].chunk(2)
            losses = self._pair_losses(chosen, rejected, reference_chosen, reference_rejected)
            return (losses - self.sft_weight * chosen).sum() / count

        pair_numbers = torch.arange(count).repeat(2)
        with norms.of_policy(self.policy):
            loss, log_probs = self.policy.apply_row_loss(trajectory, pair_loss, groups=pair_numbers)
        loss = loss + norms.penalty(self.norm_guard)
        self._log_figures(loss, log_probs - reference, prefix, norms)
        return loss

    def _pair_losses(self, *log_probs: Tensor) -> Tensor:
        """Return the loss of each pair [B], from what `dpo_loss` takes."""
        if self.link == "kl":
            return dpo_loss(*log_probs, beta=self.beta)
        return chi_po_loss(*log_probs, beta=self.beta, reward_range=self.reward_range)

    def _both_halves(self, pairs: PreferencePairs) -> Trajectory:
        """Return the trajectory of both halves, the chosen first, with one seed a pair."""
        halves = [pairs.chosen, pairs.rejected]
        seeds = self.seeds(pairs.chosen)
        if self.noise == "own" and self._have_seeds(halves):
            assert isinstance(self.policy, KeepsNoise)  # checked when the loop was made
            encoded = [self.policy.encode_own(half, seeds=seeds) for half in halves]
            both: Trajectory = concatenate(encoded)
            return both
        return self.policy.encode(concatenate(halves), seeds=seeds.repeat(2))

    def _have_seeds(self, halves: list[Samples]) -> bool:
        """Tell whether both halves say what noise they were drawn from; warn once if not."""
        if all("seed" in half.facts for half in halves):
            return True
        if not self._lacked_seeds:
            log.warning(
                'DPO has noise="own", but the pairs have no fact "seed": they are not of the '
                "policy itself, or the fact was lost. They are encoded with fresh noise."
            )
        self._lacked_seeds = True
        return False

    def _log_figures(
        self, loss: Tensor, log_ratios: Tensor, prefix: str, norms: NormRatios
    ) -> None:
        """Log the loss and what the log-ratios [2·B] of both halves say."""
        chosen, rejected = log_ratios.chunk(2)
        figures = {
            f"{prefix}loss": loss.detach(),
            f"{prefix}accuracy": (1 + (chosen - rejected).sign()).mean() / 2,
            f"{prefix}margin": self.beta * (chosen - rejected).mean(),
            f"{prefix}chosen": chosen.mean(),
            f"{prefix}rejected": rejected.mean(),
            **norms.figures(prefix),
        }
        self.log_dict(figures, prog_bar=True, batch_size=len(chosen), sync_dist=True)


def _check_link(policy: Policy, link: str, reward_range: float) -> None:
    """Refuse an unknown link, and χPO for what has no log-probabilities in nats."""
    if link not in get_args(Link):
        raise InputError(f'DPO takes the link "kl" or "mixed-chi2"; got {link!r}.')
    if link == "mixed-chi2" and policy.mean_log_prob:
        raise InputError(
            'link="mixed-chi2" exponentiates log-ratios of whole outputs in nats; those of '
            f"{type(policy).__name__} are means over {policy.dimensions} dimensions of a denoising "
            'error, which give no ratio of images. Take link="kl" for images.'
        )
    if not reward_range > 0:
        raise InputError(
            f"χPO clips its margin at ±2·reward_range, which is above 0; got {reward_range:g}."
        )


def check_noise(noise: str, policy: Policy) -> None:
    """Refuse own noise of a policy that cannot give it.

    Raises:
        InputError: if the word is another, or the policy's outputs do not follow from their noise.
    """
    if noise not in ("fresh", "own"):
        raise InputError(f'DPO takes noise "fresh" or "own"; got {noise!r}.')
    if noise == "fresh":
        return
    if not isinstance(policy, KeepsNoise):
        raise InputError(
            f'noise="own" needs a policy that draws its outputs from one noise, such as a '
            f"DiffusionPolicy; a {type(policy).__name__} does not. Leave noise at fresh."
        )
    policy.check_own_noise()
