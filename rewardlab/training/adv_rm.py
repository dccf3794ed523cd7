"""AdvRM: a reward from preference pairs, clean and adversarial."""

from __future__ import annotations

from typing import Any

import torch
from pytorch_lightning.cli import LRSchedulerCallable, OptimizerCallable
from torch import Tensor
from torch.optim import AdamW

from rewardlab.data.features import features_of
from rewardlab.data.loader import Rows
from rewardlab.errors import InputError
from rewardlab.losses.ranking import bradley_terry_loss, centring_loss
from rewardlab.metrics import calibration_error
from rewardlab.rewards import Reward
from rewardlab.rewards.abilities import Calibrated, frozen_features
from rewardlab.rewards.scoring import scores_of
from rewardlab.training.base import Trained
from rewardlab.training.bootstrap import bootstrap_weights
from rewardlab.types import PreferencePairs, Samples, concatenate

MEANING = "Bradley-Terry score: differences within a prompt are log-odds; the offset of each prompt is arbitrary"
TYPICAL = 256  # training pairs on which the scores' mean and deviation are taken at the end


class AdvRM(Trained):
    """Train a reward on preference pairs by Bradley and Terry's loss (Adv-RM, arXiv 2504.06141,
    equation 1).

    What makes it adversarial is the data: pairs whose rejected half an attack has found, beside
    clean ones. Batches are PreferencePairs of texts or images, whose chosen half may have the facts
    "margin", "label" (0.5 for a tie) and "row". Both halves run through the reward together.
    Members of an ensemble differ by their first weights and, with `bootstrap`, by the pairs that
    they count. A reward with a frozen part has its features computed once, if the data module
    numbers its pairs (`rewardlab.data.preferences.Preferences`).

    Logged beside the loss: `accuracy` (ties left out) and `margin` of the members' mean. On
    held-out pairs the same as `val/…`, and `val/calibration_error` (the predicted chance to win,
    σ(margin), against how often it does) and `val/disagreement` (the standard deviation between the
    members' margins).

    Args:
        reward: what is trained: all of its parameters that require gradients.
        centring: weight of `centring_loss`; 0.01 is usual where scores of different prompts are to
            be compared.
        bootstrap: whether each member draws its own bootstrap sample. Without effect on a single
            member.
        optimizer: makes the optimiser from the trainable parameters.
        schedule: makes a learning-rate schedule, stepped once an optimiser step.
        seed: of the bootstrap.

    Raises:
        InputError: if the reward has nothing to train.

    Example:
        >>> import pytorch_lightning as pl
        >>> from rewardlab import VisionReward
        >>> from rewardlab.data.preferences import Preferences
        >>> from rewardlab.testing import tiny_tower
        >>> noise = 0.1 * torch.rand(20, 3, 16, 16, generator=torch.Generator().manual_seed(0))
        >>> bright, dark = (Samples([""] * 20, noise + level) for level in (0.8, 0.4))
        >>> silent = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False}
        >>> trainer = pl.Trainer(max_epochs=20, enable_checkpointing=False, **silent)
        >>> module = AdvRM(VisionReward(tiny_tower(), width=16))
        >>> trainer.fit(module, Preferences(PreferencePairs(bright, dark), held_out=5))
        >>> trainer.callback_metrics["val/accuracy"].item()
        1.0
    """

    def __init__(
        self,
        reward: Reward,
        centring: float = 0.0,
        bootstrap: bool = True,
        optimizer: OptimizerCallable = AdamW,
        schedule: LRSchedulerCallable | None = None,
        seed: int = 0,
    ) -> None:
        super().__init__(optimizer, schedule, seed)
        if not any(parameter.requires_grad for parameter in reward.parameters()):
            raise InputError(
                f"AdvRM trains a reward's parameters, and none of this {type(reward).__name__}'s can be trained."
            )
        self.reward = reward
        self.centring = centring
        self.bootstrap = bootstrap
        self._features: tuple[Tensor, Tensor, Tensor] | None = None
        self._held_out: list[tuple[Tensor, Tensor]] = []

    def on_fit_start(self) -> None:
        """Compute the features of a reward's frozen part, and set their standardisation unless a
        checkpoint brings it.
        """
        self.reward.train()
        split = getattr(self.trainer.datamodule, "split", None)
        reward = frozen_features(self.reward)
        if split is None or reward is None:
            return
        pairs = concatenate([split("train"), split("held_out")])
        rows = pairs.chosen.facts["row"]
        self._features = (
            rows.argsort(),
            *(features_of(self.reward, Rows(half)) for half in (pairs.chosen, pairs.rejected)),
        )
        if self.global_step == 0:
            known = len(split("train"))
            reward.fit_feature_scale(
                torch.cat([half[:known] for half in self._features[1:]]).to(self.device)
            )

    @torch.no_grad()
    def on_fit_end(self) -> None:
        """Note what the scores mean, and their mean and deviation on training responses: of each
        reward in an ensemble.
        """
        split = getattr(self.trainer.datamodule, "split", None)
        pairs = None if split is None else split("train")[:TYPICAL]
        rows = 2 * getattr(
            self.trainer.datamodule, "batch_size", 32
        )  # as many as a training step has room for
        for leaf in self.reward.modules():
            if not isinstance(leaf, Calibrated):
                continue
            leaf.meaning = MEANING
            if pairs is not None:
                leaf.calibrate(scores_of(leaf, _joined(pairs), rows))
        self._features = None

    def training_step(self, pairs: PreferencePairs, batch_idx: int) -> Tensor:
        chosen, rejected = self._scores(pairs)
        weights = None
        if self.bootstrap and "row" in pairs.chosen.facts:
            weights = bootstrap_weights(self.seed, pairs.chosen.facts["row"], chosen.shape[1]).to(
                chosen
            )
        labels = pairs.chosen.facts.get("label")
        margin = pairs.chosen.facts.get("margin")
        loss = bradley_terry_loss(chosen, rejected, labels, margin, weights)
        if self.centring:
            loss = loss + self.centring * centring_loss(chosen, rejected, weights)
        lead = (chosen - rejected).detach().mean(1)
        figures = {"loss": loss.detach(), "margin": lead.mean(), **_accuracy(lead, labels)}
        self.log_dict(figures, prog_bar=True, batch_size=len(pairs))
        return loss

    def validation_step(self, pairs: PreferencePairs, batch_idx: int) -> None:
        chosen, rejected = self._scores(pairs)
        labels = pairs.chosen.facts.get("label")
        margin = pairs.chosen.facts.get("margin")
        self.log(
            "val/loss",
            bradley_terry_loss(chosen, rejected, labels, margin),
            batch_size=len(pairs),
            sync_dist=True,
        )
        self._held_out.append(
            (chosen - rejected, torch.ones_like(chosen[:, 0]) if labels is None else labels)
        )

    def on_validation_epoch_end(self) -> None:
        leads, labels = (torch.cat(column).cpu() for column in zip(*self._held_out, strict=True))
        self._held_out.clear()
        self.log_dict(
            {f"val/{name}": value for name, value in held_out_figures(leads, labels).items()},
            prog_bar=True,
        )

    def _scores(self, pairs: PreferencePairs) -> tuple[Tensor, Tensor]:
        """Return the members' scores [B, M] of both halves, from one forward."""
        if self._features is None:
            return self.reward.members(_joined(pairs)).chunk(2)  # type: ignore[return-value]
        order, *halves = self._features
        rows = pairs.chosen.facts["row"].cpu()
        known = torch.cat([half[order[rows]] for half in halves])
        return self.reward.score_features(known.to(self.device)).chunk(2)


def held_out_figures(leads: Tensor, labels: Tensor) -> dict[str, Any]:
    """Return accuracy, margin, calibration error and disagreement of members' leads [B, M] on pairs
    with labels [B].

    Calibration sees each pair from both sides: the chosen half's chance to win against its label,
    and the rejected half's against what is left of 1. From one side alone every label would be 1,
    and the best forecast a certain one.

    Example:
        >>> figures = held_out_figures(torch.tensor([[2.0, 4.0], [-1.0, 1.0]]), torch.tensor([1.0, 0.5]))
        >>> {name: round(float(value), 3) for name, value in figures.items()}
        {'margin': 1.5, 'calibration_error': 0.024, 'accuracy': 1.0, 'disagreement': 1.414}
    """
    lead = leads.mean(1)
    both = torch.cat([lead, -lead]), torch.cat([labels, 1 - labels])
    figures = {
        "margin": lead.mean(),
        "calibration_error": calibration_error(*both),
        **_accuracy(lead, labels),
    }
    if leads.shape[1] > 1:
        figures["disagreement"] = leads.std(1).mean()
    return figures


def _accuracy(lead: Tensor, labels: Tensor | None) -> dict[str, Tensor]:
    """The share of decided pairs that are ordered as labelled, equal scores counting one half;
    nothing if all are ties.
    """
    sides = torch.ones_like(lead) if labels is None else (labels - 0.5).sign()
    right = (1 + lead.sign() * sides) / 2
    return {"accuracy": right[sides != 0].mean()} if (sides != 0).any() else {}


def _joined(pairs: PreferencePairs) -> Samples:
    """Both halves as one batch, the chosen first."""
    return concatenate([pairs.chosen, pairs.rejected])  # type: ignore[no-any-return]
