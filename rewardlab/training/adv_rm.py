"""AdvRM: a reward from preference pairs, clean and adversarial."""

from __future__ import annotations

from typing import NamedTuple

import torch
from pytorch_lightning.cli import LRSchedulerCallable, OptimizerCallable
from torch import Tensor
from torch.optim import AdamW

from rewardlab.data.features import features_of
from rewardlab.data.loader import Rows
from rewardlab.errors import InputError
from rewardlab.losses.ranking import batch_sum_loss, bradley_terry_loss, centering_loss
from rewardlab.metrics import calibration_error
from rewardlab.rewards import Reward
from rewardlab.rewards.abilities import Calibrated, TextLikelihood, frozen_features
from rewardlab.rewards.scoring import scores_of
from rewardlab.seeds import derive, row_seeds
from rewardlab.training.base import Trained, split_data
from rewardlab.training.bootstrap import bootstrap_weights
from rewardlab.training.processes import gathered, joint_batch, joint_rows, relative_share
from rewardlab.training.renamed import accept_earlier_names
from rewardlab.training.training_scores import check_drawn, members, training_scores
from rewardlab.types import PreferencePairs, Samples, concatenate

MEANING = (
    "Bradley-Terry score: differences within a prompt are log-odds; "
    "the offset of each prompt is arbitrary"
)
TYPICAL = 256  # training pairs on which the scores' mean and deviation are taken at the end


class HalfScores(NamedTuple):
    """The members' scores of both halves of B pairs, [B, M] each."""

    chosen: Tensor
    rejected: Tensor


class TrainingParts(NamedTuple):
    """What a reward says of a training batch.

    Attributes:
        scores: of both halves.
        likelihood: the chosen halves' mean log p a token, if GRM asks for it.
        penalty: the reward's own term of the loss, if it has one.
    """

    scores: HalfScores
    likelihood: Tensor | None = None
    penalty: Tensor | None = None


class CachedFeatures(NamedTuple):
    """Features of both halves of N pairs, computed once.

    Attributes:
        order: int64 [N], the place of each row number among the features.
        chosen: [N, ...].
        rejected: [N, ...].
    """

    order: Tensor
    chosen: Tensor
    rejected: Tensor


class HeldOut(NamedTuple):
    """The members' margins [B, M] and the labels [B] of a held-out batch."""

    margins: Tensor
    labels: Tensor


class AdvRM(Trained):
    """Train a reward on preference pairs by Bradley and Terry's loss.

    Adv-RM, arXiv 2504.06141, equation 1. What makes it adversarial is the data: pairs whose
    rejected half an attack has found, beside clean ones. Batches are PreferencePairs of texts or
    images, whose chosen half may have the facts "margin", "label" (0.5 for a tie), "weight" (how
    much it counts) and "row". Both halves run through the reward together. Members of an ensemble
    differ by their first weights and, with `bootstrap`, by the pairs that they count. A reward with
    a frozen part has its features computed once, if the data module numbers its pairs
    (`rewardlab.data.preferences.Preferences`). The loss is the mean over a step's pairs, as often
    as members count them, over all processes and all batches of `accumulate_grad_batches`; BSR's
    sum is a batch's own.

    Logged beside the loss: `accuracy` (ties left out) and `margin` of the members' mean. On
    held-out pairs the same as `val/…`, and `val/calibration_error` (the predicted chance to win,
    σ(margin), against how often it does) and `val/disagreement` (the standard deviation between the
    members' margins).

    Args:
        reward: the reward; all of its parameters that require gradients are trained.
        centering: weight of the centering loss (`rewardlab.losses.centering_loss`). 0.01 is usual
            where scores of different prompts are to be compared.
        bootstrap: whether each member draws its own bootstrap sample. It has no effect on a single
            member.
        optimizer: makes the optimizer from the trainable parameters.
        schedule: makes a learning-rate schedule, stepped once an optimizer step.
        seed: seed of the bootstrap.
        likelihood_weight: α of GRM (arXiv 2406.10216): the loss is (1 - α) · Bradley and Terry's
            + α · (-log p(chosen | prompt) / its tokens) by the language head that the backbone
            came with. It needs a `TextLikelihood` whose backbone is trained; 0.01 is a start.
        batch_sum_weight: λ of BSR (`rewardlab.losses.batch_sum_loss`).

    Raises:
        InputError: if the reward has nothing to train, or no likelihood that its training moves.

    Example:
        >>> import pytorch_lightning as pl
        >>> from rewardlab import VisionReward
        >>> from rewardlab.data.preferences import Preferences
        >>> from rewardlab.testing import tiny_tower
        >>> from rewardlab.training.trainers import SILENT
        >>> noise = 0.1 * torch.rand(20, 3, 16, 16, generator=torch.Generator().manual_seed(0))
        >>> bright = Samples([""] * 20, noise + 0.8)
        >>> dark = Samples([""] * 20, noise + 0.4)
        >>> trainer = pl.Trainer(max_epochs=20, **SILENT)
        >>> module = AdvRM(VisionReward(tiny_tower(), width=16))
        >>> trainer.fit(module, Preferences(PreferencePairs(bright, dark), held_out=5))
        >>> trainer.callback_metrics["val/accuracy"].item()
        1.0
    """

    learns_from = "pairs"
    shards = True
    reward: Reward

    @accept_earlier_names(centring="centering")
    def __init__(
        self,
        reward: Reward,
        centering: float = 0.0,
        bootstrap: bool = True,
        optimizer: OptimizerCallable = AdamW,
        schedule: LRSchedulerCallable | None = None,
        seed: int = 0,
        likelihood_weight: float = 0.0,
        batch_sum_weight: float = 0.0,
    ) -> None:
        super().__init__(optimizer, schedule, seed)
        if not any(parameter.requires_grad for parameter in reward.parameters()):
            raise InputError(
                "AdvRM trains a reward's parameters, and none of this "
                f"{type(reward).__name__}'s can be trained."
            )
        check_drawn(reward, "AdvRM")
        self.reward = reward
        self.centering = centering
        self.bootstrap = bootstrap
        self.batch_sum_weight = batch_sum_weight
        self.likelihood_weight = likelihood_weight
        if likelihood_weight:
            _with_likelihood(reward, likelihood_weight).keep_language_head()
        self._features: CachedFeatures | None = None
        self._held_out: list[HeldOut] = []
        self._held_out_rows: list[Tensor | None] = []

    def on_fit_start(self) -> None:
        """Compute the features of a reward's frozen part, and fit their scale.

        A checkpoint brings the scale of a resumed run.
        """
        self.reward.train()
        data = split_data(self)
        reward = frozen_features(self.reward)
        if data is None or reward is None:
            return
        training_pairs = data.split("train")
        self._features = self._cached(concatenate([training_pairs, data.split("held_out")]))
        if self.global_step == 0:
            count = len(training_pairs)
            features = [self._features.chosen[:count], self._features.rejected[:count]]
            reward.fit_feature_scale(torch.cat(features).to(self.device))

    def _cached(self, pairs: PreferencePairs) -> CachedFeatures:
        """Compute the features of both halves of all pairs."""
        order = pairs.chosen.facts["row"].argsort()
        chosen = features_of(self.reward, Rows(pairs.chosen))
        rejected = features_of(self.reward, Rows(pairs.rejected))
        return CachedFeatures(order, chosen, rejected)

    @torch.no_grad()
    def on_fit_end(self) -> None:
        """Note what the scores mean, and calibrate them on training responses.

        Each reward in an ensemble is calibrated.
        """
        self._features = None
        data = split_data(self)
        responses = None if data is None else _joined(data.split("train")[:TYPICAL])
        for part in self.reward.modules():
            if not (isinstance(part, Reward) and isinstance(part, Calibrated)):
                continue
            part.meaning = MEANING
            if data is not None and responses is not None:
                rows = 2 * data.batch_size  # a training step has room for both halves
                part.calibrate(scores_of(part, responses, rows))

    def training_step(self, pairs: PreferencePairs, batch_idx: int) -> Tensor:
        parts = self._training_scores(pairs)
        scores, likelihood, _ = parts
        weights = self._weights(pairs, scores.chosen)
        loss = self._loss(pairs, parts, weights)
        margin = (scores.chosen - scores.rejected).detach().mean(1)
        figures = {"loss": loss.detach(), "margin": margin.mean()}
        if likelihood is not None:
            figures["likelihood"] = likelihood.detach()
        labels = pairs.chosen.facts.get("label")
        all_labels = None if labels is None else gathered(labels)
        figures |= _accuracy(gathered(margin), all_labels)
        self.log_dict(figures, prog_bar=True, batch_size=len(pairs), sync_dist=True)
        counts = torch.ones_like(scores.chosen) if weights is None else weights
        return self.share_of_step(loss, counts.sum())

    def _loss(self, pairs: PreferencePairs, parts: TrainingParts, weights: Tensor | None) -> Tensor:
        """Return the loss, whose mean over all processes is that of their joint batch."""
        scores, likelihood, penalty = parts
        facts = pairs.chosen.facts
        share = 1.0 if weights is None else relative_share(weights.sum())
        loss = share * bradley_terry_loss(*scores, facts.get("label"), facts.get("margin"), weights)
        if likelihood is not None:
            loss = torch.lerp(loss, -likelihood, self.likelihood_weight)
        if self.centering:
            loss = loss + self.centering * share * centering_loss(*scores, weights)
        if self.batch_sum_weight:
            all_scores = [joint_batch(half) for half in scores]
            loss = loss + self.batch_sum_weight * batch_sum_loss(*all_scores)
        return loss if penalty is None else loss + penalty

    def validation_step(self, pairs: PreferencePairs, batch_idx: int) -> None:
        scores = self._scores(pairs)
        facts = pairs.chosen.facts
        loss = bradley_terry_loss(*scores, facts.get("label"), facts.get("margin"))
        self.log("val/loss", loss, batch_size=len(pairs), sync_dist=True)
        margins = scores.chosen - scores.rejected
        labels = facts.get("label")
        if labels is None:
            labels = torch.ones_like(margins[:, 0])
        self._held_out.append(HeldOut(margins, labels))
        self._held_out_rows.append(facts.get("row"))

    def on_validation_epoch_end(self) -> None:
        held_out = joint_rows(self._held_out, self._held_out_rows)
        self._held_out.clear()
        self._held_out_rows.clear()
        figures = held_out_figures(*held_out)
        named = {f"val/{name}": value for name, value in figures.items()}
        self.log_dict(named, prog_bar=True, sync_dist=True)

    def _weights(self, pairs: PreferencePairs, scores: Tensor) -> Tensor | None:
        """Return how much pairs count, like scores [B, M]: the bootstrap's and their own weights.

        None without either.
        """
        facts = pairs.chosen.facts
        weights = None
        if self.bootstrap and "row" in facts:
            weights = bootstrap_weights(self.seed, facts["row"], scores.shape[1]).to(scores)
        if "weight" not in facts:
            return weights
        own = facts["weight"].to(scores)[:, None].expand_as(scores)
        return own if weights is None else weights * own

    def _training_scores(self, pairs: PreferencePairs) -> TrainingParts:
        """Return the scores, and what else the reward says of the batch."""
        if self.likelihood_weight:
            reward = _with_likelihood(self.reward, self.likelihood_weight)
            scores, likelihoods = reward.members_and_likelihoods(_joined(pairs), len(pairs))
            return TrainingParts(_halves(scores), likelihood=likelihoods.mean())
        seeds = self.seeds(pairs.chosen)
        both = torch.cat([seeds, row_seeds(derive(self.seed, "rejected"), seeds)])
        scores, penalty = training_scores(self.reward, self._inputs(pairs), both)
        return TrainingParts(_halves(scores), penalty=penalty)

    def _scores(self, pairs: PreferencePairs) -> HalfScores:
        """Return the members' scores of both halves, from one forward pass."""
        return _halves(members(self.reward, self._inputs(pairs)))

    def _inputs(self, pairs: PreferencePairs) -> Samples | Tensor:
        """Return both halves, the chosen first: their features where those are cached."""
        if self._features is None:
            return _joined(pairs)
        places = self._features.order[pairs.chosen.facts["row"].cpu()]
        halves = [self._features.chosen[places], self._features.rejected[places]]
        return torch.cat(halves).to(self.device)


def held_out_figures(margins: Tensor, labels: Tensor) -> dict[str, float | Tensor]:
    """Return accuracy, margin, calibration error and disagreement of members on held-out pairs.

    Calibration sees each pair from both sides: the chosen half's chance to win against its label,
    and the rejected half's against what is left of 1. From one side alone every label would be 1,
    and the best forecast a certain one.

    Args:
        margins: [B, M], the members' score of the chosen half minus that of the rejected one.
        labels: [B], chance that the chosen half wins.

    Example:
        >>> margins = torch.tensor([[2.0, 4.0], [-1.0, 1.0]])
        >>> figures = held_out_figures(margins, torch.tensor([1.0, 0.5]))
        >>> {name: round(float(value), 3) for name, value in figures.items()}
        {'margin': 1.5, 'calibration_error': 0.024, 'accuracy': 1.0, 'disagreement': 1.414}
    """
    margin = margins.mean(1)
    both_sides = torch.cat([margin, -margin])
    both_labels = torch.cat([labels, 1 - labels])
    figures: dict[str, float | Tensor] = {
        "margin": margin.mean(),
        "calibration_error": calibration_error(both_sides, both_labels),
    }
    figures |= _accuracy(margin, labels)
    if margins.shape[1] > 1:
        figures["disagreement"] = margins.std(1).mean()
    return figures


def _with_likelihood(reward: Reward, weight: float) -> TextLikelihood:
    """Return the reward as one with a language head; refuse others, and a weight that is no share.

    Raises:
        InputError: saying what to give instead.
    """
    if not 0 < weight < 1:
        raise InputError(
            "likelihood_weight is a share of the loss, from 0 to below 1 (0.01 is a start); "
            f"got {weight:g}."
        )
    if isinstance(reward, TextLikelihood):
        return reward
    raise InputError(
        "GRM's regularizer needs a reward on a language model, whose head says how likely the "
        f"chosen texts are; {type(reward).__name__} has none. Take a LanguageReward, or set "
        "likelihood_weight=0."
    )


def _accuracy(margin: Tensor, labels: Tensor | None) -> dict[str, Tensor]:
    """Return the share of decided pairs that are ordered as labelled; nothing if all are ties.

    Equal scores count one half.
    """
    sides = torch.ones_like(margin) if labels is None else (labels - 0.5).sign()
    is_right = (1 + margin.sign() * sides) / 2
    decided = sides != 0
    return {"accuracy": is_right[decided].mean()} if decided.any() else {}


def _halves(scores: Tensor) -> HalfScores:
    """Return scores of both halves, the chosen first, apart."""
    chosen, rejected = scores.chunk(2)
    return HalfScores(chosen, rejected)


def _joined(pairs: PreferencePairs) -> Samples:
    """Return both halves as one batch, the chosen first."""
    samples: Samples = concatenate([pairs.chosen, pairs.rejected])
    return samples
