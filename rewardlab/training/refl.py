"""Reward back-propagation: the reward's own gradient, through one step of a diffusion model."""

from __future__ import annotations

import torch
from pytorch_lightning.cli import LRSchedulerCallable, OptimizerCallable
from torch import Tensor
from torch.optim import AdamW

from rewardlab.data.prompt_data import NumberedPrompts
from rewardlab.errors import InputError
from rewardlab.losses import nll_loss
from rewardlab.networks.recomputing import frozen
from rewardlab.networks.unregistered import hold
from rewardlab.policies import Policy
from rewardlab.policies.abilities import PredictsX0
from rewardlab.rewards import Reward
from rewardlab.rewards.base import checked_scores
from rewardlab.rewards.unscored import is_partial, judged_batch
from rewardlab.seeds import derive, generators, row_seeds, uniform
from rewardlab.training.base import Trained, trainable
from rewardlab.training.collecting import score_rollout
from rewardlab.training.modes import evaluating, random_parts, steady_parts
from rewardlab.training.processes import relative_share
from rewardlab.types import Samples


class ReFL(Trained):
    """Raise a differentiable reward of the images predicted at a late denoising step.

    ReFL, arXiv 2304.05977, section 3.2. Batches are NumberedPrompts (`rewardlab.data.Prompts`), or
    Samples, whose images serve the anchor. Each prompt is sampled without gradient to a random late
    step. From there the network's one step to the finished image (the predicted x0) is taken with
    gradient, decoded and scored. The gradient has little noise, so it is the quickest way up a
    reward, and into its faults: a score rises along whatever its gradient shows, as in
    `PGDAttacker`. Images that the reward does not score (docs/guide/not_scored.md) get no gradient.
    Logged beside the loss: `score` and, where some may be missing, their share as `unscored`.

    Args:
        policy: the policy to train. It offers `predict_x0(trajectory, steps)`, as a DiffusionPolicy
            does, and samples by stochastic steps.
        reward: the reward to raise. It is not trained, and not in the checkpoint. It needs a
            gradient to the images.
        late: share of the sampling steps, counted from the end, from which each row's step is
            drawn. The paper takes the last 10 of 40. Earlier steps predict too little.
        sft_weight: weight of the batch's own images' negative log-likelihood, as an anchor; batches
            are then Samples.
        optimizer: makes the optimizer from the trainable parameters.
        schedule: makes a learning-rate schedule, stepped once an optimizer step.
        seed: seed of the noise and of the steps' choice.

    Raises:
        InputError: if the policy cannot predict x0, a number is out of range, or (on use) the
            reward has no gradient to the images or a score is not finite.

    Example:
        >>> import pytorch_lightning as pl
        >>> from rewardlab import DiffusionPolicy
        >>> from rewardlab.data import Prompts
        >>> from rewardlab.policies.samplers import Sampler
        >>> from rewardlab.rewards import Brightness
        >>> from rewardlab.testing import tiny_diffusion
        >>> from rewardlab.training.trainers import SILENT
        >>> policy = DiffusionPolicy(tiny_diffusion(classes=0), sampler=Sampler(steps=3))
        >>> trainer = pl.Trainer(max_epochs=1, **SILENT)
        >>> trainer.fit(ReFL(policy, Brightness()), Prompts([""] * 2, batch_size=2))
        >>> trainer.global_step
        1
    """

    shards = True
    policy: Policy
    reward: Reward

    def __init__(
        self,
        policy: Policy,
        reward: Reward,
        late: float = 0.25,
        sft_weight: float = 0.0,
        optimizer: OptimizerCallable = AdamW,
        schedule: LRSchedulerCallable | None = None,
        seed: int = 0,
    ) -> None:
        super().__init__(optimizer, schedule, seed)
        if not isinstance(policy, PredictsX0):
            raise InputError(
                "ReFL needs a policy that predicts x0 with a gradient (`predict_x0`), which a "
                f"{type(policy).__name__} does not; text has no gradient to pass on. Take PPO, "
                "whose reward needs none."
            )
        if not 0 < late <= 1 or sft_weight < 0:
            raise InputError(
                "ReFL needs late in (0, 1] and sft_weight of 0 or more; "
                f"got {late:g} and {sft_weight:g}."
            )
        self.policy = trainable(policy)
        hold(self, "reward", reward)
        self.late = late
        self.sft_weight = sft_weight
        self.learns_from = "samples" if sft_weight else "prompts"

    def on_train_start(self) -> None:
        self.reward.to(self.device)

    def training_step(self, batch: NumberedPrompts | Samples, batch_idx: int) -> Tensor:
        seeds = self._seeds(batch)
        samples = self.predicted(batch, seeds)
        self.announce(samples, self._scores_before(samples))
        scores = self.scores(samples)
        scored = (~scores.isnan()).sum()
        share = relative_share(scored)
        loss = -share * mean_of_scored(scores) + self._anchor(batch, seeds)
        figures = {"loss": loss.detach(), **self.score_figures(scores.detach())}
        self.log_dict(figures, prog_bar=True, batch_size=len(batch), sync_dist=True)
        return self.share_of_step(loss, scored)

    def predicted(self, batch: NumberedPrompts | Samples, seeds: Tensor) -> Samples:
        """Return the images predicted at a late step of each row's own, with a gradient."""
        with evaluating(random_parts(self.policy)):
            trajectory = self.policy.sample(batch.prompts, seeds=seeds)
        count = trajectory.mask.shape[1]
        late = max(1, round(self.late * count))
        draws = uniform((), generators(row_seeds(derive(0, "late step"), seeds)))
        steps = count - late + (draws * late).long()
        assert isinstance(self.policy, PredictsX0)  # checked when the loop was made
        return self.policy.predict_x0(trajectory, steps.to(trajectory.mask.device))

    def scores(self, samples: Samples) -> Tensor:
        """Return the scores in the reward's own precision, float32 [B].

        They have a gradient to the images and to nothing else. NaN stands where an image is not
        scored, which then gets no gradient.
        """
        name = type(self.reward).__name__
        with (
            torch.autocast(self.device.type, enabled=False),
            evaluating(steady_parts(self.reward)),
            frozen(self.reward),
        ):
            judged = judged_batch(self.reward, samples)
            scores = judged.scores
            if judged.unscored:
                _cut_gradients(samples, judged.scored)
            else:
                scores = checked_scores(scores, samples, name)
        if scores.requires_grad:
            return scores
        raise InputError(
            f"ReFL climbs a reward's gradient, and the scores of {name} have none to the images: "
            "it is computed under no_grad, or by steps that cannot be differentiated. Take PPO, "
            "whose reward needs none."
        )

    def _scores_before(self, samples: Samples) -> Tensor | None:
        """Return the scores that tell what is not scored, before a callback changes the reward.

        None says that everything will be.
        """
        if not is_partial(self.reward):
            return None
        with torch.no_grad(), evaluating(self.reward.modules()):
            return score_rollout(self.reward, samples, self.device)

    def _seeds(self, batch: NumberedPrompts | Samples) -> Tensor:
        if isinstance(batch, Samples):
            return self.seeds(batch)
        return row_seeds(derive(self.seed, "ReFL", self.current_epoch), batch.rows)

    def _anchor(self, batch: NumberedPrompts | Samples, seeds: Tensor) -> Tensor | float:
        """Return the weighted negative log-likelihood of the batch's own images."""
        if not self.sft_weight:
            return 0.0
        if not isinstance(batch, Samples):
            raise InputError(
                f"sft_weight={self.sft_weight:g} anchors on images; got prompts alone. "
                "Train on Samples."
            )
        trajectory = self.policy.encode(batch, seeds=seeds)
        return self.sft_weight * nll_loss(self.policy.log_prob(trajectory), trajectory.mask)


def mean_of_scored(scores: Tensor) -> Tensor:
    """Return the mean of the scores [B] that are there; 0, with gradients of 0, if none is.

    Example:
        >>> mean_of_scored(torch.tensor([1.0, float("nan"), 3.0])).item()
        2.0
    """
    missing = scores.isnan()
    if not missing.any():
        return scores.mean()
    present = scores[~missing]
    return present.sum() / max(len(present), 1)


def _cut_gradients(samples: Samples, scored: Tensor) -> None:
    """Let no gradient reach images that are not scored, whose scores' own is not a number."""
    images = samples.outputs
    assert isinstance(images, Tensor)
    missing = ~scored.to(images.device).view(-1, *[1] * (images.dim() - 1))
    if images.requires_grad:
        images.register_hook(lambda gradient: gradient.masked_fill(missing, 0))
