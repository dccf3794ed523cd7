"""Proximal policy optimisation of any policy against any reward."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from math import inf
from typing import Any

import torch
from pytorch_lightning.cli import LRSchedulerCallable, OptimizerCallable
from torch import Tensor
from torch.optim import AdamW, Optimizer

from rewardlab.data.prompt_data import NumberedPrompts, numbered
from rewardlab.errors import InputError
from rewardlab.losses.kl import adapted_weight, k2, k3
from rewardlab.losses.policy_gradient import (
    Normalisation,
    log_ratio,
    step_weights,
    surrogate,
    value_error,
)
from rewardlab.networks.unregistered import hold
from rewardlab.policies import Policy
from rewardlab.policies.abilities import HasCritic, HasEntropy
from rewardlab.policies.base import At, Steps
from rewardlab.rewards import Reward
from rewardlab.rewards.base import checked_scores
from rewardlab.seeds import derive, row_seeds
from rewardlab.training.base import Trained, frozen_reference, trainable
from rewardlab.training.rollouts import (
    Baseline,
    Experience,
    KLKind,
    SampleTable,
    across_processes,
    advantages,
    evaluating,
    in_parts,
    mean,
    penalties,
    random_parts,
    rollout_figures,
)
from rewardlab.training.shaping import ReferenceFigures, Shaping, reference_figures
from rewardlab.types import PreferencePairs, Rollout, Samples

KL_LOSSES = {"k2": k2, "k3": k3}


class PPO(Trained):
    """Raise the reward of what a policy samples: PPO, RLOO and GRPO for text, DDPO for images.
    arXiv 1707.06347.

    Batches are NumberedPrompts (`rewardlab.data.Prompts`). The policy as it is samples K outputs of
    each prompt, which are decoded and scored once; then come `epochs` passes of optimiser steps,
    each clipped where the new policy leaves the old one. Dropout is off, as it would part the
    policy that samples from the one that is scored. With one epoch of one minibatch every ratio is
    1, and this is REINFORCE with the chosen baseline.

    Optimisation is manual: `gradient_clip` and `micro_batch` are given here and not to the Trainer,
    and `global_step` and `max_steps` count optimiser steps. Logged: `score` and `score_std`; `kl`,
    the estimated KL to the reference of whole outputs in nats, with its k2 estimate `kl_k2`;
    `clip_fraction`, `advantage_std`, `lr`; and where the policy has them, `entropy`, `length` and
    the critic's `explained_variance`.

    Args:
        policy: what is trained. It has to sample from exactly the distribution that it scores.
        reward: what is raised; it is not trained, and not in the checkpoint.
        advantage: "leave_one_out" (RLOO) or "group_normalized" (GRPO) over a prompt's samples;
            "generalized" (GAE) with the critic that the policy offers as `value`; or a function of
            scores [P, K].
        samples_per_prompt: K, at least 2 unless there is a critic.
        epochs: passes over each rollout.
        minibatch: rows an optimiser step; the whole rollout (prompts times K) by default.
        micro_batch: rows run through the network at once; it changes memory, not the result.
        clip: ε of the ratio: 0.2 for text. 1e-4 for images, whose log-probabilities are means over
            dimensions (DDPO).
        gradient_clip: the gradient's largest norm.
        kl: how the policy is held to the reference: in the "reward" (the reverse KL's exact
            gradient), as a "k2" loss (the same for single steps), as GRPO's "k3" loss (the gradient
            of the other KL; text only), or as the "absolute" token mean in the reward of Adv-RM's
            author.
        kl_weight: β, score a nat. An image's trajectory has many nats, so its β is small.
        kl_target: nats an output at which β is steered to hold the KL; fixed by default.
        loss_normalisation: what all steps have in common: see `step_weights`; "constant" takes the
            longest row.
        entropy_weight: bonus for the entropy that the policy offers as `entropy`.
        value_weight: of the critic's loss.
        value_clip: how far the critic may move from what it said at the rollout, in the reward's
            units; any way by default.
        lam: λ of the generalised advantages, which are not discounted.
        shaping: clip, length penalty and whitening of the scores.
        table_every: keep all prompts, outputs and scores of every so many rollouts beside the
            logger's files.
        reference: what the KL is against; the policy as it is now by default.
        optimizer: makes the optimiser from the trainable parameters.
        schedule: makes a learning-rate schedule, stepped once an optimiser step.
        seed: of the rollouts' noise and the minibatches.

    Raises:
        InputError: if the policy lacks what is asked of it, or (on use) a score is not finite; no
            weight is changed then.

    Example:
        >>> import pytorch_lightning as pl
        >>> from rewardlab import DiffusionPolicy
        >>> from rewardlab.data.prompt_data import Prompts
        >>> from rewardlab.policies.samplers import Sampler
        >>> from rewardlab.rewards import Brightness
        >>> from rewardlab.testing import tiny_diffusion
        >>> policy = DiffusionPolicy(tiny_diffusion(classes=0), sampler=Sampler(steps=3))
        >>> module = PPO(policy, Brightness(), clip=1e-4, epochs=2, kl_weight=0.0)
        >>> quiet = dict.fromkeys(["logger", "enable_checkpointing", "enable_progress_bar", "enable_model_summary"], False)
        >>> trainer = pl.Trainer(max_epochs=1, **quiet)
        >>> trainer.fit(module, Prompts([""] * 2, batch_size=2))
        >>> trainer.global_step
        2
    """

    learns_from = "prompts"

    def __init__(
        self,
        policy: Policy,
        reward: Reward,
        advantage: Baseline | Callable[[Tensor], Tensor] = "leave_one_out",
        samples_per_prompt: int = 4,
        epochs: int = 1,
        minibatch: int | None = None,
        micro_batch: int | None = None,
        clip: float = 0.2,
        gradient_clip: float | None = 1.0,
        kl: KLKind = "reward",
        kl_weight: float = 0.01,
        kl_target: float | None = None,
        loss_normalisation: Normalisation = "token",
        entropy_weight: float = 0.0,
        value_weight: float = 0.5,
        value_clip: float | None = None,
        lam: float = 0.95,
        shaping: Shaping = Shaping(),  # noqa: B008  (frozen)
        table_every: int | None = None,
        reference: Policy | None = None,
        optimizer: OptimizerCallable = AdamW,
        schedule: LRSchedulerCallable | None = None,
        seed: int = 0,
    ) -> None:
        super().__init__(optimizer, schedule, seed)
        self.automatic_optimization = False
        self.policy = trainable(policy)
        hold(self, "reward", reward)
        self.reference = frozen_reference(policy, reference)
        self.advantage = advantage
        self.samples_per_prompt = samples_per_prompt
        self.lam = lam
        self.shaping = shaping
        self.epochs = epochs
        self.minibatch = minibatch
        self.micro_batch = micro_batch
        self.clip = clip
        self.gradient_clip = gradient_clip
        self.loss_normalisation = loss_normalisation
        self.kl = kl
        self.kl_weight = kl_weight
        self.kl_target = kl_target
        self.entropy_weight = entropy_weight
        self.value_weight = value_weight
        self.table_every = table_every
        self.value_clip = inf if value_clip is None else value_clip
        self.reference_figures: ReferenceFigures | None = None
        self.generations = 0  # outputs drawn so far, in this process
        self._table: SampleTable | None = None
        _check(self)

    @staticmethod
    def examples(pairs: PreferencePairs) -> NumberedPrompts:
        """Return what this loop learns from: the prompts, whose outputs it samples itself."""
        return numbered(pairs.chosen.prompts)

    def training_step(self, batch: NumberedPrompts, batch_idx: int) -> None:
        """Sample with the policy as it is, then take clipped steps on what was sampled."""
        begin = self.global_step
        with evaluating([*self.reward.modules(), *random_parts(self.policy)]):
            experience = self.collect(batch.prompts, batch.rows)
            clipped = [
                self._update(experience[rows]) for rows in self._minibatches(len(experience))
            ]
        self._report(experience, torch.stack(clipped).mean(), begin)

    def _minibatches(self, count: int) -> Iterator[Tensor]:
        """Row numbers of each optimiser step: `epochs` passes, in new orders where a pass takes
        several.
        """
        size = min(self.minibatch or count, count)
        generator = torch.Generator().manual_seed(
            derive(self.seed, "PPO", "minibatches", self.global_step)
        )
        for _ in range(self.epochs):
            order = (
                torch.randperm(count, generator=generator) if size < count else torch.arange(count)
            )
            yield from order.split(size)

    def _update(self, batch: Experience) -> Tensor:
        """Take one optimiser step, a part of the minibatch after another; return the share of
        clipped steps.
        """
        optimizer = self.optimizers()
        schedule = self.lr_schedulers()
        mask = batch.rollout.trajectory.mask
        weights = self._weights(mask)
        clipped = torch.zeros((), device=mask.device)
        parts = torch.arange(len(batch)).split(self.micro_batch or len(batch))
        for part in parts:
            with optimizer.toggle_model(sync_grad=part is parts[-1]):
                loss, held = self.loss(batch[part], weights[part])
                self.manual_backward(loss)
            clipped += held
        optimizer.step()
        optimizer.zero_grad()  # or the gradients are there through the next rollout
        if schedule is not None:
            schedule.step()
        return clipped / mask.sum()

    def loss(self, batch: Experience, weights: Tensor) -> tuple[Tensor, Tensor]:
        """The weighted sum over the steps [B, T], and how many were clipped: all that is
        differentiated is stated here.
        """
        rollout = batch.rollout
        mask = batch.rollout.trajectory.mask
        held = []

        def added(steps: Steps, at: At) -> Tensor:
            losses, clipped = surrogate(
                steps.log_prob,
                at(rollout.log_prob),
                at(rollout.advantages),
                at(mask),
                clip=self.clip,
            )
            if self.kl in KL_LOSSES:
                x = log_ratio(steps.log_prob, at(rollout.reference_log_prob), at(mask))
                losses = losses + self.kl_weight * self.policy.dimensions * KL_LOSSES[self.kl](x)
            if steps.entropy is not None:
                losses = losses - self.entropy_weight * steps.entropy.where(at(mask), 0)
            if batch.values is not None and steps.value is not None:
                old = at(batch.values)
                returns = at(rollout.advantages + batch.values)
                losses = losses + self.value_weight * value_error(
                    steps.value, old, returns, at(mask), clip=self.value_clip
                )
            held.append(clipped.sum())
            return (at(weights) * losses).sum()

        wanted = {"entropy": self.entropy_weight != 0, "value": batch.values is not None}
        idle = (rollout.advantages == 0) & (self.kl not in KL_LOSSES and not any(wanted.values()))
        loss = self.policy.apply_loss(rollout.trajectory, added, rows=mask & ~idle, **wanted)
        return loss, torch.stack(held).sum() if held else mask.new_zeros((), dtype=torch.long)

    def _weights(self, mask: Tensor) -> Tensor:
        """The steps' weights in a mean over the minibatches of all processes, which will average
        their gradients.
        """
        longest = across_processes(torch.tensor(mask.shape[1], device=mask.device), "MAX")
        own = (
            mask.sum()
            if self.loss_normalisation == "token"
            else torch.tensor(len(mask), device=mask.device)
        )
        return step_weights(mask, self.loss_normalisation, longest.item()) * (
            own / mean(own[None].float()).clamp_min(1e-8)
        )

    def on_before_optimizer_step(self, optimizer: Optimizer) -> None:
        """Clip the gradient; here mixed precision has taken its scale out."""
        self.clip_gradients(optimizer, self.gradient_clip, "norm")

    @torch.no_grad()
    def collect(self, prompts: Sequence[str], rows: Tensor) -> Experience:
        """Sample K outputs a prompt and find out all that the steps will need: B = P·K rows, a
        prompt's together.

        Args:
            prompts: P strings.
            rows: int64 [P], the prompts' numbers; the k-th sample's noise comes from (seed, epoch,
                row, k).
        """
        samples, trajectory = self._sample(self.policy, prompts, rows, self.current_epoch)
        scores = self._score(samples)
        mask = trajectory.mask
        log_prob, reference = (
            in_parts(p.log_prob, trajectory, self.micro_batch)
            for p in (self.policy, self.reference)
        )
        values = (
            None
            if self.advantage != "generalized"
            else in_parts(self.policy.value, trajectory, self.micro_batch)
        )
        if self.shaping.needs_reference and self.reference_figures is None:
            others, _ = self._sample(self.reference, prompts, rows, "reference")
            self.reference_figures = reference_figures(
                self._score(others), others, self.samples_per_prompt, self.shaping
            )
        penalty = self.kl_weight * penalties(
            self.kl, log_prob - reference, mask, self.policy.dimensions
        )
        rewards = self.shaping(scores, samples, self.reference_figures)
        gains = advantages(
            self.advantage, rewards, penalty, mask, self.samples_per_prompt, values, self.lam
        )
        return Experience(Rollout(trajectory, log_prob, reference, scores, gains), samples, values)

    def _sample(
        self, policy: Policy, prompts: Sequence[str], rows: Tensor, epoch: int | str
    ) -> tuple[Samples, Any]:
        """Draw K outputs a prompt; the samples know the number of their prompt as the fact "row"."""
        k = self.samples_per_prompt
        seeds = torch.stack(
            [row_seeds(derive(self.seed, "PPO", epoch, i), rows) for i in range(k)], 1
        ).flatten()
        trajectory = policy.sample([prompt for prompt in prompts for _ in range(k)], seeds=seeds)
        self.generations += len(seeds)
        return policy.decode(trajectory).with_facts(row=rows.repeat_interleave(k)), trajectory

    def _score(self, samples: Samples) -> Tensor:
        """Score samples in the reward's own precision: float32 [B], on this module's device."""
        with torch.autocast(self.device.type, enabled=False):
            scores = self.reward(samples.to(self.device))
        name = type(self.reward).__name__
        if not isinstance(scores, Tensor) or scores.shape != (len(samples),):
            got = list(scores.shape) if isinstance(scores, Tensor) else type(scores).__name__
            raise InputError(
                f"{name} has to return one score a sample, a tensor [{len(samples)}]; got {got}."
            )
        return checked_scores(scores.to(self.device), samples, name)

    def _report(self, experience: Experience, clip_fraction: Tensor, step: int) -> None:
        """Log the rollout's figures, steer the KL's weight, and keep the samples."""
        figures = rollout_figures(experience, self.policy.dimensions) | {
            "clip_fraction": clip_fraction
        }
        if self.kl_target is not None:
            self.log("kl_weight", self.kl_weight)
            nats = mean(figures["kl"][None]).item()
            self.kl_weight = adapted_weight(self.kl_weight, nats, self.kl_target)
        self.log_dict(figures, batch_size=len(experience), sync_dist=True)
        self.log("lr", self.optimizers().param_groups[0]["lr"])
        self.log(
            "score",
            experience.rollout.scores.mean(),
            prog_bar=True,
            batch_size=len(experience),
            sync_dist=True,
        )
        if (
            self._table is not None
            and self.trainer.fit_loop.epoch_loop.total_batch_idx % self.table_every == 0
        ):
            self._table.write(step, experience.samples, experience.rollout.scores.tolist())

    def on_train_start(self) -> None:
        self.reward.to(self.device)
        folder = self.trainer.log_dir or self.trainer.default_root_dir  # asked of every process
        if self.table_every and self.trainer.is_global_zero:
            self._table = SampleTable(folder, self.global_step)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        super().on_save_checkpoint(checkpoint)
        figures = None if self.reference_figures is None else asdict(self.reference_figures)
        kept = {
            "kl_weight": self.kl_weight,
            "reference_figures": figures,
            "generations": self.generations,
        }
        checkpoint["ppo"] = kept

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        super().on_load_checkpoint(checkpoint)
        kept = checkpoint["ppo"]
        self.kl_weight = kept["kl_weight"]
        self.generations = kept.get("generations", 0)
        self.reference_figures = (
            None
            if kept["reference_figures"] is None
            else ReferenceFigures(**kept["reference_figures"])
        )


def _check(module: PPO) -> None:
    """Refuse what cannot work, before anything is sampled."""
    if module.advantage == "generalized":
        _check_critic(module.policy)
    if module.entropy_weight and not isinstance(module.policy, HasEntropy):
        raise InputError(
            f"entropy_weight={module.entropy_weight:g} needs a policy with `entropy`; "
            f"{type(module.policy).__name__} has none. Set it to 0."
        )
    if module.samples_per_prompt < 2 and module.advantage != "generalized":
        raise InputError(
            f"A baseline compares the samples of one prompt; got samples_per_prompt={module.samples_per_prompt}. "
            'Take at least 2, or a critic: advantage="generalized".'
        )
    if module.kl == "k3" and module.policy.mean_log_prob:
        raise InputError(
            f'kl="k3" exponentiates log-ratios in nats; those of {type(module.policy).__name__} are means over '
            f'{module.policy.dimensions} dimensions. Take "reward" or "k2".'
        )
    if module.kl_target is not None and not (module.kl_target > 0 and module.kl_weight > 0):
        raise InputError(
            f"kl_target steers kl_weight by factors, so both have to be above 0; got {module.kl_target:g} and "
            f"{module.kl_weight:g}. Start from a small weight, such as 0.01."
        )


def _check_critic(policy: Policy) -> None:
    """Refuse a policy without the critic that generalized advantages need."""
    if not isinstance(policy, HasCritic):
        raise InputError(
            f'advantage="generalized" needs a policy with `value`; {type(policy).__name__} has '
            "none. Take leave_one_out, which needs no critic."
        )
    if not policy.has_critic:
        raise InputError(
            f'advantage="generalized" needs a critic, and this {type(policy).__name__} was made '
            "without one. Make it with value_head=True, or take leave_one_out, which needs none."
        )
