"""Proximal policy optimization of any policy against any reward."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from functools import partial
from math import inf
from typing import Any, ClassVar

import torch
from pytorch_lightning.cli import LRSchedulerCallable, OptimizerCallable
from torch import Tensor
from torch.optim import AdamW, Optimizer

from rewardlab.conversations import Prompt
from rewardlab.data.prompt_data import NumberedPrompts
from rewardlab.losses.kl import adapted_weight, k2, k3
from rewardlab.losses.policy_gradient import Normalization, log_ratio, surrogate, value_error
from rewardlab.networks.unregistered import hold
from rewardlab.policies import Policy
from rewardlab.policies.base import At, Steps
from rewardlab.rewards import Reward
from rewardlab.seeds import derive
from rewardlab.training.base import Trained, frozen_reference, trainable
from rewardlab.training.collecting import collect_experience
from rewardlab.training.gradient_regularization import GradientRegularization
from rewardlab.training.manual import optimizer_of, step_schedule
from rewardlab.training.modes import evaluating, random_parts
from rewardlab.training.ppo_checks import check_advantage, check_entropy, check_kl
from rewardlab.training.processes import across_processes, mean
from rewardlab.training.renamed import accept_earlier_names
from rewardlab.training.rollouts import (
    Baseline,
    Experience,
    KLKind,
    minibatches,
    rollout_figures,
    weights_of,
    without_unscored,
)
from rewardlab.training.sample_table import SampleTable
from rewardlab.training.shaping import ReferenceFigures, Shaping

_log = logging.getLogger("rewardlab")
KL_LOSSES = {"k2": k2, "k3": k3}


class PPO(Trained):
    """Raise the reward of what a policy samples, by proximal policy optimization.

    arXiv 1707.06347. It is PPO, RLOO and GRPO for text, and DDPO for images. Batches are
    NumberedPrompts (`rewardlab.data.Prompts`). The policy as it is samples K outputs of each
    prompt, which are decoded and scored once. Then come `epochs` passes of optimizer steps, each
    clipped where the new policy leaves the old one. Dropout is off, as it would make the policy
    that samples differ from the one that is scored. With one epoch of one minibatch every ratio is
    1, and this is REINFORCE with the chosen baseline.

    Outputs that the reward does not score (docs/guide/not_scored.md) are left out of their group's
    advantages and of every loss; their share is logged as `unscored`. An optimizer step without any
    scored output counts, and changes neither weights nor the optimizer's state, which a warning
    says.

    Optimization is manual: `gradient_clip` and `micro_batch` are given here and not to the Trainer,
    and `global_step` and `max_steps` count optimizer steps. Logged: `score` and `score_std`; `kl`,
    the estimated KL to the reference of whole outputs in nats, with its k2 estimate `kl_k2`;
    `clip_fraction`, `advantage_std`, `lr`; and where the policy has them, `entropy`, `length`, the
    critic's `explained_variance` and, of a denoiser, `norm_ratio` (‖v‖/‖v_ref‖ over the steps).

    Args:
        policy: the policy to train. It samples from exactly the distribution that it scores.
        reward: the reward to raise. It is not trained, and not in the checkpoint.
        advantage: "leave_one_out" (RLOO) or "group_normalized" (GRPO) over a prompt's samples;
            "generalized" (GAE) with the critic that the policy offers as `value`; "decoupled"
            (GDPO) of a `rewards.Weighted`, each of whose rewards is normalized by itself; or a
            function of scores [P, K].
        samples_per_prompt: K, at least 2 unless there is a critic.
        epochs: passes over each rollout.
        minibatch: rows an optimizer step; the whole rollout (prompts times K) by default.
        micro_batch: rows run through the network at once; it changes memory, not the result.
        clip: ε of the ratio. 0.2 suits text; 1e-4 suits images, whose log-probabilities are means
            over dimensions (DDPO).
        gradient_clip: the gradient's largest norm.
        kl: how the policy is held to the reference. "reward" takes the reverse KL's exact gradient
            through the reward. "k2" is a loss, the same for single steps. "k3" is GRPO's loss (the
            gradient of the other KL; text only). "absolute" is the token mean of |log-ratio| in the
            reward, as the author of Adv-RM has it.
        kl_weight: β, score a nat. An image's trajectory has many nats, so its β is small.
        kl_target: nats an output at which β is steered to hold the KL; β is fixed by default.
        loss_normalization: what all steps have in common: see `step_weights`; "constant" takes the
            longest row.
        entropy_weight: bonus for the entropy that the policy offers as `entropy`.
        value_weight: weight of the critic's loss.
        value_clip: how far the critic may move from what it said at the rollout, in the reward's
            units; any way by default.
        lam: λ of the generalized advantages, which are not discounted.
        shaping: clip, length penalty and whitening of the scores.
        table_every: rollouts between two that are kept whole, with prompts, outputs and scores,
            beside the logger's files; none is kept by default.
        reference: policy that the KL is against; by default the policy as it is now.
        optimizer: makes the optimizer from the trainable parameters.
        schedule: makes a learning-rate schedule, stepped once an optimizer step.
        seed: seed of the rollouts' noise and the minibatches.
        gradient_regularization: γ and ε of steps that keep away from large gradients; by default
            steps are plain.

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
        >>> from rewardlab.training.trainers import SILENT
        >>> policy = DiffusionPolicy(tiny_diffusion(classes=0), sampler=Sampler(steps=3))
        >>> module = PPO(policy, Brightness(), clip=1e-4, epochs=2, kl_weight=0.0)
        >>> trainer = pl.Trainer(max_epochs=1, **SILENT)
        >>> trainer.fit(module, Prompts([""] * 2, batch_size=2))
        >>> trainer.global_step
        2
    """

    learns_from = "prompts"
    shards = True
    instead_of_trainer: ClassVar[Mapping[str, str]] = {
        "gradient_clip_val": "gradient_clip",
        "accumulate_grad_batches": "micro_batch",
    }
    policy: Policy
    reward: Reward
    reference: Policy
    reference_figures: ReferenceFigures | None = None
    _table: SampleTable | None = None
    _is_empty_step = False

    @accept_earlier_names(loss_normalisation="loss_normalization")
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
        loss_normalization: Normalization = "token",
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
        gradient_regularization: GradientRegularization | None = None,
    ) -> None:
        super().__init__(optimizer, schedule, seed)
        self.automatic_optimization = False
        self.policy = trainable(policy)
        hold(self, "reward", reward)
        self.reference = frozen_reference(policy, reference)
        self.advantage = advantage
        self.samples_per_prompt = samples_per_prompt
        self.epochs = epochs
        self.minibatch = minibatch
        self.micro_batch = micro_batch
        self.clip = clip
        self.gradient_clip = gradient_clip
        self.kl = kl
        self.kl_weight = kl_weight
        self.kl_target = kl_target
        self.loss_normalization = loss_normalization
        self.entropy_weight = entropy_weight
        self.value_weight = value_weight
        self.value_clip = inf if value_clip is None else value_clip
        self.lam = lam
        self.shaping = shaping
        self.table_every = table_every
        self.gradient_regularization = gradient_regularization
        check_advantage(self)
        check_entropy(self.policy, entropy_weight)
        check_kl(self.policy, kl, kl_weight, kl_target)

    def training_step(self, batch: NumberedPrompts, batch_idx: int) -> None:
        """Sample with the policy as it is, then take clipped steps on the samples."""
        first_step = self.global_step
        clip_fractions = []
        with evaluating([*self.reward.modules(), *random_parts(self.policy)]):
            experience = self.collect(batch.prompts, batch.rows)
            self.announce(experience.samples, experience.rollout.scores)
            learned = without_unscored(experience)
            seed = derive(self.seed, "PPO", "minibatches", self.global_step)
            for rows in minibatches(len(learned), self.minibatch, self.epochs, seed):
                clip_fractions.append(self._update(learned.part(rows)))
        self._report(experience, torch.stack(clip_fractions).mean(), first_step)

    def takes_one_step(self, count: int) -> bool:
        """Tell whether a rollout of so many rows is run through the network at once, for one step.

        The policy is then the one that drew, so what it says of the rollout serves the step too.
        """
        sizes = [size for size in (self.minibatch, self.micro_batch) if size is not None]
        whole = min(sizes, default=count) >= count
        return whole and self.epochs == 1 and self.gradient_regularization is None

    def collect(self, prompts: Sequence[Prompt], rows: Tensor) -> Experience:
        """Return the experience of K outputs of each prompt (see `collect_experience`)."""
        return collect_experience(self, prompts, rows)

    def _update(self, minibatch: Experience) -> Tensor:
        """Take one optimizer step, and return the share of clipped steps."""
        optimizer = optimizer_of(self)
        if not across_processes(minibatch.rollout.trajectory.mask.sum()):
            return self._step_without_scores()
        clip_fraction = self._accumulate(minibatch)
        regularize = self.gradient_regularization
        if regularize is not None and regularize.weight != 0:
            trained = dict(self.policy.named_parameters())
            change = regularize(trained, partial(self._accumulate, minibatch))
            self.log("gradient_change", change, sync_dist=True)
        optimizer.step()
        optimizer.zero_grad()  # or the gradients are there through the next rollout
        step_schedule(self)
        return clip_fraction

    def _step_without_scores(self) -> Tensor:
        """Count a step that changes nothing, since no output in it is scored.

        Without gradients an optimizer leaves weights, momentum and their decay alone. A scaler of
        float16 wants gradients, so there the step is not counted either.
        """
        _log.warning(
            "No output of a PPO step is scored (the reward's parts say why), so the policy and the "
            "optimizer's momentum stay as they are at step %d",
            self.global_step,
        )
        if getattr(self.trainer.precision_plugin, "scaler", None) is None:
            self._is_empty_step = True
            optimizer_of(self).step()
            self._is_empty_step = False
            step_schedule(self)
        return torch.zeros((), device=self.device)

    def _accumulate(self, minibatch: Experience) -> Tensor:
        """Add a minibatch's gradient by micro-batches, and return the share of clipped steps."""
        optimizer = optimizer_of(self)
        mask = minibatch.rollout.trajectory.mask
        weights = weights_of(minibatch, self.loss_normalization)
        clipped = torch.zeros((), device=mask.device)
        parts = torch.split(torch.arange(len(minibatch)), self.micro_batch or len(minibatch))
        for part in parts:
            with optimizer.toggle_model(sync_grad=part is parts[-1]):
                loss, clipped_steps = self.loss(minibatch.part(part), weights[part])
                self.manual_backward(loss)
            clipped += clipped_steps
        return across_processes(clipped) / across_processes(mask.sum()).clamp_min(1)

    def loss(self, batch: Experience, weights: Tensor) -> tuple[Tensor, Tensor]:
        """Return the weighted sum of the steps' losses, and the number of clipped steps."""
        mask = batch.rollout.trajectory.mask
        trajectory = batch.prepared or batch.rollout.trajectory
        other_losses = self.kl in KL_LOSSES or self.entropy_weight != 0 or batch.values is not None
        steps_with_loss = mask
        if not other_losses:
            steps_with_loss = mask & (batch.rollout.advantages != 0)
        clipped_counts = []

        def weighted_loss(steps: Steps, at: At) -> Tensor:
            losses, clipped = self._step_loss(steps, at, batch)
            clipped_counts.append(clipped.sum())
            return (at(weights) * losses).sum()

        loss = self.policy.apply_loss(
            trajectory,
            weighted_loss,
            rows=steps_with_loss,
            entropy=self.entropy_weight != 0,
            value=batch.values is not None,
        )
        return loss, sum(clipped_counts, mask.new_zeros((), dtype=torch.long))

    def _step_loss(self, steps: Steps, at: At, batch: Experience) -> tuple[Tensor, Tensor]:
        """Return the loss of each step, and a mask of the steps whose ratio was clipped.

        All that is differentiated is stated here and in `_kl_losses`.

        Args:
            steps: what the policy says of some steps now.
            at: picks the same steps of any table [B, T] or [B, 1].
            batch: what was known at the rollout.
        """
        rollout = batch.rollout
        mask = at(rollout.trajectory.mask)
        old_log_prob = at(rollout.log_prob)
        advantages = at(rollout.advantages)
        losses, clipped = surrogate(steps.log_prob, old_log_prob, advantages, mask, clip=self.clip)
        if self.kl in KL_LOSSES:
            losses = losses + self._kl_losses(steps, at, batch)
        if steps.entropy is not None:
            losses = losses - self.entropy_weight * steps.entropy.where(mask, 0)
        if steps.value is not None and batch.values is not None:
            old = at(batch.values)
            returns = at(rollout.advantages + batch.values)
            errors = value_error(steps.value, old, returns, mask, clip=self.value_clip)
            losses = losses + self.value_weight * errors
        return losses, clipped

    def _kl_losses(self, steps: Steps, at: At, batch: Experience) -> Tensor:
        """Return each step's KL from the reference, as it counts in the loss."""
        rollout = batch.rollout
        mask = at(rollout.trajectory.mask)
        ratio = log_ratio(steps.log_prob, at(rollout.reference_log_prob), mask)
        weight = self.kl_weight * self.policy.dimensions
        losses: Tensor = weight * KL_LOSSES[self.kl](ratio)
        if batch.kl_shares is None:
            return losses
        return losses * at(batch.kl_shares)

    def on_before_optimizer_step(self, optimizer: Optimizer) -> None:
        """Clip the gradient; here mixed precision has taken its scale out."""
        if self._is_empty_step:
            return
        self.check_gradients()
        self.clip_gradients(optimizer, self.gradient_clip, "norm")

    def _report(self, experience: Experience, clip_fraction: Tensor, step: int) -> None:
        """Log the rollout's figures, steer the KL's weight, and keep the samples."""
        scores = experience.rollout.scores
        count = len(experience)
        figures = rollout_figures(experience, self.policy)
        figures["clip_fraction"] = clip_fraction
        if self.kl_target is not None:
            self.log("kl_weight", self.kl_weight)
            nats = mean(figures["kl"][None]).item()
            self.kl_weight = adapted_weight(self.kl_weight, nats, self.kl_target)
        self.log_dict(figures, batch_size=count, sync_dist=True)
        self.log("lr", optimizer_of(self).param_groups[0]["lr"])
        self.log_dict(self.score_figures(scores), prog_bar=True, batch_size=count)
        rollout_number = self.trainer.fit_loop.epoch_loop.total_batch_idx
        if self._table is not None and self._table.is_due(rollout_number):
            self._table.write(step, experience.samples, scores.tolist())

    def on_train_start(self) -> None:
        if self.gradient_regularization is not None:
            precision = self.trainer.precision
            self.gradient_regularization.check_precision(self.policy, precision)
        self.reward.to(self.device)
        folder = self.trainer.log_dir or self.trainer.default_root_dir  # asked of every process
        if self.table_every and self.trainer.is_global_zero:
            self._table = SampleTable(folder, self.global_step, self.table_every)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        super().on_save_checkpoint(checkpoint)
        figures = None if self.reference_figures is None else asdict(self.reference_figures)
        checkpoint["ppo"] = {
            "kl_weight": self.kl_weight,
            "reference_figures": figures,
            "generations": self.generations,
        }

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        super().on_load_checkpoint(checkpoint)
        saved = checkpoint["ppo"]
        self.kl_weight = saved["kl_weight"]
        self.generations = saved.get("generations", 0)
        figures = saved["reference_figures"]
        self.reference_figures = None if figures is None else ReferenceFigures(**figures)
