"""Learning from a denoiser without a likelihood: velocities regressed on scored samples."""

from __future__ import annotations

from contextlib import nullcontext
from typing import Any, Literal, NamedTuple

import torch
from pytorch_lightning.cli import LRSchedulerCallable, OptimizerCallable
from torch import Tensor
from torch.optim import AdamW

from rewardlab.advantages import group_normalized
from rewardlab.data.prompt_data import NumberedPrompts
from rewardlab.errors import InputError
from rewardlab.losses import nft_loss, norm_hinge, norm_ratios, ram_loss
from rewardlab.networks.unregistered import hold
from rewardlab.policies import Policy
from rewardlab.policies.abilities import Denoises, Denoisings
from rewardlab.rewards import Reward
from rewardlab.seeds import derive, row_seeds
from rewardlab.training.base import Trained, frozen_reference, trainable
from rewardlab.training.collecting import score_rollout
from rewardlab.training.modes import evaluating, random_parts
from rewardlab.training.processes import gathered, relative_share
from rewardlab.training.weight_average import WeightAverage
from rewardlab.types import Samples, Trajectory, take

_AVERAGE = "velocity_average"


class ScoredDraws(NamedTuple):
    """Samples of the policy with their scores and advantages, both float32 [B]; scores may be NaN.

    The number that is scored, over its mean in all processes, is the weight of this one's loss.
    """

    samples: Samples
    scores: Tensor
    advantages: Tensor

    def scored(self) -> ScoredDraws:
        """Return what is scored; all of it where nothing is, since its weight is 0."""
        rows = ~self.scores.isnan()
        if rows.all() or not rows.any():
            return self
        return ScoredDraws(self.samples[rows.cpu()], self.scores[rows], self.advantages[rows])

    def share(self) -> Tensor:
        """Return the weight of the loss among all processes, a scalar."""
        return relative_share(self.scored_count())

    def scored_count(self) -> Tensor:
        """Return how many samples are scored here, a scalar."""
        return (~self.scores.isnan()).sum()


class VelocityMatching(Trained):
    """Raise a reward of a denoiser's samples by regressing its velocity on them.

    Batches are NumberedPrompts (`rewardlab.data.Prompts`). The policy draws K samples of each
    prompt with any sampler, stochastic or not; the reward scores each once; the samples are noised
    again, and the network's output is regressed on what the advantages make of the clean samples.
    No log-probability and no gradient of the reward is needed.

    Two forms: "nft" (DiffusionNFT, arXiv 2509.16117) and "ram" (arXiv 2605.10759); see
    `rewardlab.losses.nft_loss` and `ram_loss`. The samples of "nft" come from an average of the
    weights, which is also its v_old. Guidance belongs to the drawing only: the regression has none.
    The number of noisings of a sample is the policy's `draws`. Samples that the reward does not
    score (docs/guide/not_scored.md) are left out; their share is logged as `unscored`. Logged:
    `loss`, `score`, and `norm_ratio`, ‖v‖/‖v_ref‖, which grows when a generator is over-optimized
    (NormGuard, arXiv 2606.27771).

    Args:
        policy: a policy that denoises, such as a `DiffusionPolicy`.
        reward: the reward to raise. It is not trained, and not in the checkpoint.
        form: "nft" or "ram".
        samples_per_prompt: K, at least 2.
        strength: factor of the advantages. For "ram" it is the reward's weight against the KL, in
            deviations of the reward within a prompt; "nft" clips the product to [-1, 1].
        beta: of "nft", how far its target policies lie from v_old.
        decay: of "nft", share of the average that each step keeps.
        anchor: weight of ‖v - v_ref‖², which holds the policy to its reference.
        norm_guard: weight of the hinge relu(‖v‖/‖v_ref‖ - 1)² (NormGuard).
        optimizer: makes the optimizer from the trainable parameters.
        schedule: makes a learning-rate schedule, stepped once an optimizer step.
        seed: seed of the samples and of their noisings.

    Raises:
        InputError: if the policy does not denoise, or a number is out of range.

    Example:
        >>> import pytorch_lightning as pl
        >>> from rewardlab import DiffusionPolicy, Sampler
        >>> from rewardlab.data.prompt_data import Prompts
        >>> from rewardlab.rewards import Brightness
        >>> from rewardlab.testing import tiny_diffusion
        >>> from rewardlab.training.trainers import SILENT
        >>> sampler = Sampler(steps=2)
        >>> policy = DiffusionPolicy(tiny_diffusion(classes=0), sampler=sampler)
        >>> loop = VelocityMatching(policy, Brightness(), samples_per_prompt=2)
        >>> trainer = pl.Trainer(max_epochs=1, **SILENT)
        >>> trainer.fit(loop, Prompts([""] * 2, batch_size=2))
        >>> trainer.global_step
        1
    """

    shards = True
    policy: Any
    reward: Reward

    def __init__(
        self,
        policy: Policy,
        reward: Reward,
        form: Literal["nft", "ram"] = "nft",
        samples_per_prompt: int = 8,
        strength: float = 1.0,
        beta: float = 1.0,
        decay: float = 0.5,
        anchor: float = 0.0,
        norm_guard: float = 0.0,
        optimizer: OptimizerCallable = AdamW,
        schedule: LRSchedulerCallable | None = None,
        seed: int = 0,
    ) -> None:
        super().__init__(optimizer, schedule, seed)
        _check(policy, form, samples_per_prompt, beta, decay)
        self.learns_from = "prompts"
        self.policy = trainable(policy)
        hold(self, "reward", reward)
        self.reference = frozen_reference(policy, None)
        self.form = form
        self.samples_per_prompt = samples_per_prompt
        self.strength = strength
        self.beta = beta
        self.anchor = anchor
        self.norm_guard = norm_guard
        self.average = WeightAverage(policy, decay) if form == "nft" else None
        self._averaged_steps = 0

    def on_train_start(self) -> None:
        self.reward.to(self.device)
        self._averaged_steps = self.global_step

    def training_step(self, batch: NumberedPrompts, batch_idx: int) -> Tensor:
        drawn = self.draw(batch)
        self.announce(drawn.samples, drawn.scores)
        draws = drawn.scored()
        noise = row_seeds(derive(self.seed, "noisings"), draws.samples.facts["seed"])
        with evaluating(random_parts(self.policy)):
            trajectory = self.policy.encode(draws.samples, seeds=noise)
            current = self.policy.denoisings(trajectory)
            loss = self._loss(current, trajectory, draws.advantages)
        reference = self._reference_denoisings(trajectory)
        ratios = norm_ratios(current.velocity, reference.velocity)
        distance = (current.output - reference.output).square().mean()
        hinge = norm_hinge(ratios)
        total: Tensor = loss + self.anchor * distance + self.norm_guard * hinge
        total = total * drawn.share()
        figures = {"loss": total.detach(), **self.score_figures(drawn.scores)}
        figures["norm_ratio"] = gathered(ratios.detach()).mean()
        self.log_dict(figures, prog_bar=True, batch_size=len(batch), sync_dist=True)
        return self.share_of_step(total, drawn.scored_count())

    @torch.no_grad()
    def draw(self, batch: NumberedPrompts) -> ScoredDraws:
        """Return K samples of each prompt, a prompt's together, with scores and advantages."""
        k = self.samples_per_prompt
        columns = []
        for number in range(k):
            use = derive(self.seed, "velocity", self.current_epoch, number)
            columns.append(row_seeds(use, batch.rows))
        seeds = torch.stack(columns, 1).flatten()
        prompts = take(batch.prompts, torch.arange(len(batch)).repeat_interleave(k))
        averaged = nullcontext() if self.average is None else self.average.in_place()
        with averaged, evaluating(self.policy.modules()):
            samples = self.policy.generate(prompts, seeds=seeds)
        self.generations += len(seeds)
        scores = score_rollout(self.reward, samples, self.device)
        advantages = self.strength * group_normalized(scores.view(-1, k)).flatten()
        return ScoredDraws(samples, scores, advantages)

    def on_train_batch_end(self, *args: Any) -> None:
        """Update the average once an optimizer step."""
        if self.average is not None and self.global_step > self._averaged_steps:
            self.average.update()
        self._averaged_steps = self.global_step

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        super().on_save_checkpoint(checkpoint)
        if self.average is not None:
            checkpoint[_AVERAGE] = self.average.state()

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        super().on_load_checkpoint(checkpoint)
        if self.average is not None and _AVERAGE in checkpoint:
            self.average.load(checkpoint[_AVERAGE])

    def _loss(self, current: Denoisings, trajectory: Trajectory, advantages: Tensor) -> Tensor:
        """Return the loss of the form, without the anchor."""
        if self.average is None:
            reference = self._reference_denoisings(trajectory)
            return ram_loss(current.output, reference.output, current.target, advantages)
        with torch.no_grad(), self.average.in_place():
            old = self.policy.denoisings(trajectory)
        return nft_loss(current.output, old.output, current.target, advantages, self.beta)

    @torch.no_grad()
    def _reference_denoisings(self, trajectory: Trajectory) -> Denoisings:
        denoisings: Denoisings = self.reference.denoisings(trajectory)
        return denoisings


def _check(policy: object, form: str, k: int, beta: float, decay: float) -> None:
    """Refuse what cannot work, before anything is made."""
    if not isinstance(policy, Denoises):
        raise InputError(
            "VelocityMatching needs a policy that denoises (`denoisings`), such as a "
            f"DiffusionPolicy; a {type(policy).__name__} does not. Take PPO."
        )
    if form not in ("nft", "ram"):
        raise InputError(f'VelocityMatching has the forms "nft" and "ram"; got {form!r}.')
    if k < 2 or beta <= 0 or not 0 <= decay < 1:
        raise InputError(
            "VelocityMatching needs samples_per_prompt of 2 or more, beta above 0 and decay in "
            f"[0, 1); got {k}, {beta:g} and {decay:g}."
        )
