"""GAN-RM: a reward from target samples against the generator's own."""

from __future__ import annotations

from typing import NamedTuple

import torch
from pytorch_lightning.cli import LRSchedulerCallable, OptimizerCallable
from torch import Tensor
from torch.optim import AdamW

from rewardlab.errors import InputError
from rewardlab.losses import discrimination_loss
from rewardlab.metrics import auc, calibration_error, rank_correlation
from rewardlab.rewards import Reward
from rewardlab.rewards.abilities import Calibrated
from rewardlab.seeds import derive, row_seeds
from rewardlab.training.base import Trained, split_data
from rewardlab.training.bootstrap import bootstrap_weights
from rewardlab.training.processes import joint_rows, relative_share
from rewardlab.training.training_scores import check_drawn, members, training_scores, with_features
from rewardlab.types import SOURCES, LabeledSamples

DENSITY_RATIO = (
    "log density ratio of features, target samples over the generator's own at the time of training"
)
BIASES = {  # kinds of samples by which the logits estimate something else
    "mismatched": "targets had another's prompt",
    "pseudo-labelled": "samples had pseudo-labels by rank",
}


class HeldOut(NamedTuple):
    """What validation keeps of a batch.

    Attributes:
        logits: [B, M], the members'.
        labels: [B].
        generated: bool [B], true for the generator's own samples.
    """

    logits: Tensor
    labels: Tensor
    generated: Tensor


class GANRM(Trained):
    """Train a reward to tell target samples from generated ones.

    GAN-RM, arXiv 2506.13846, sections 3.1 and 3.2. Batches are `LabeledSamples`, of Samples or the
    reward's cached features. Heads of an ensemble see different data: each counts a sample
    Poisson(1) times (the bootstrap), and leaves out its own fold of the targets.

    Logged on held-out data: `val/auc` of targets against generated samples,
    `val/calibration_error`, `val/disagreement` (standard deviation between heads) and
    `val/ranking`, the rank correlation between two halves of the heads on the generator's own
    samples. Near 0, the reward separates the classes but its ranking of candidates is noise.

    Args:
        reward: the reward; all of its parameters that require gradients are trained.
        label_smoothing: moves labels from {0, 1} to {s/2, 1 - s/2}; the logit then is a score, no
            density ratio.
        bootstrap: whether each head draws its own bootstrap sample. It has no effect on a single
            head.
        folds: number of folds that the heads of an ensemble leave out in turn; 0 leaves out
            nothing.
        optimizer: makes the optimizer; weight decay keeps separable classes from driving logits to
            infinity.
        schedule: makes a learning-rate schedule, stepped once an optimizer step.
        seed: seed of the bootstrap and the folds.

    Example:
        >>> import pytorch_lightning as pl, torch
        >>> from rewardlab import Samples, TargetSamples, VisionReward
        >>> from rewardlab.testing import tiny_tower
        >>> from rewardlab.training.trainers import SILENT
        >>> noise = 0.1 * torch.rand(20, 3, 16, 16)
        >>> white = Samples([""] * 20, noise + 0.8)
        >>> grey = Samples([""] * 20, noise + 0.4)
        >>> module = GANRM(VisionReward(tiny_tower(), width=16))
        >>> trainer = pl.Trainer(max_epochs=20, **SILENT)
        >>> trainer.fit(module, TargetSamples(white, grey, held_out=5))
        >>> trainer.callback_metrics["val/auc"].item()
        1.0
    """

    learns_from = "samples"
    shards = True
    reward: Reward

    def __init__(
        self,
        reward: Reward,
        label_smoothing: float = 0.0,
        bootstrap: bool = True,
        folds: int = 0,
        optimizer: OptimizerCallable = AdamW,
        schedule: LRSchedulerCallable | None = None,
        seed: int = 0,
    ) -> None:
        super().__init__(optimizer, schedule, seed)
        check_drawn(reward, "GANRM")
        self.reward = reward
        self.label_smoothing = label_smoothing
        self.bootstrap = bootstrap
        self.folds = folds
        self._held_out: list[HeldOut] = []
        self._held_out_rows: list[Tensor | None] = []

    def on_fit_start(self) -> None:
        """Fit the scale of the reward's features, unless a checkpoint has brought it."""
        data = self._training_data()
        if data is None or not isinstance(data.inputs, Tensor):
            return
        if self.trainer.ckpt_path is None:
            with_features(self.reward).fit_feature_scale(data.inputs.to(self.device))

    @torch.no_grad()
    def on_fit_end(self) -> None:
        """Note what the scores mean, and calibrate them on the generator's own samples.

        Without features the reward keeps its earlier meaning.
        """
        data = self._training_data()
        if data is None or not isinstance(data.inputs, Tensor):
            return
        self.reward.eval()
        features = data.inputs[data.of("generated")].to(self.device)
        scores = with_features(self.reward).score_features(features).mean(1)
        if isinstance(self.reward, Calibrated):
            self.reward.calibrate(scores)
        self.reward.meaning = meaning(data, self.label_smoothing)

    def _training_data(self) -> LabeledSamples | None:
        """Return what is trained on, if the data module tells it from what is held out."""
        data = split_data(self)
        return None if data is None else data.split("train")

    def training_step(self, batch: LabeledSamples, batch_idx: int) -> Tensor:
        seeds = row_seeds(derive(self.seed, "GANRM", self.current_epoch), batch.rows)
        logits, penalty = training_scores(self.reward, batch.inputs, seeds)
        counts = self.head_weights(batch.rows, batch.labels, logits.shape[1])
        weights = counts.to(logits) * batch.weights[:, None]
        loss = discrimination_loss(
            logits, batch.labels, weights, label_smoothing=self.label_smoothing
        )
        loss = loss * relative_share(weights.sum())
        if penalty is not None:
            loss = loss + penalty
        check_finite(loss, logits, batch)
        self.log("loss", loss, prog_bar=True, batch_size=len(batch), sync_dist=True)
        return self.share_of_step(loss, weights.sum())

    def validation_step(self, batch: LabeledSamples, batch_idx: int) -> None:
        logits = members(self.reward, batch.inputs)
        loss = discrimination_loss(logits, batch.labels, batch.weights[:, None].expand_as(logits))
        check_finite(loss, logits, batch)
        self.log("val/loss", loss, batch_size=len(batch), sync_dist=True)
        self._held_out.append(HeldOut(logits, batch.labels, batch.of("generated")))
        self._held_out_rows.append(batch.rows)

    def on_validation_epoch_end(self) -> None:
        held_out = joint_rows(self._held_out, self._held_out_rows)
        self._held_out.clear()
        self._held_out_rows.clear()
        if self.trainer.sanity_checking:  # it sees the first batches only, perhaps targets alone
            return
        figures = held_out_figures(*held_out)
        named = {f"val/{name}": value for name, value in figures.items()}
        self.log_dict(named, prog_bar=True, sync_dist=True)

    def head_weights(self, rows: Tensor, labels: Tensor, heads: int) -> Tensor:
        """Return how often each head counts each row, float32 [B, M].

        The weights are the same in every epoch and process.
        """
        if heads == 1:
            return torch.ones(len(rows), 1)
        weights = torch.ones(len(rows), heads)
        if self.bootstrap:
            weights = bootstrap_weights(self.seed, rows, heads)
        if self.folds:
            fold = row_seeds(derive(self.seed, "folds"), rows) % self.folds
            left_out = fold[:, None] == torch.arange(heads) % self.folds
            is_target = labels.cpu() == 1
            weights = weights.masked_fill(left_out & is_target[:, None], 0)
        return weights


def check_finite(loss: Tensor, logits: Tensor, batch: LabeledSamples) -> None:
    """Stop at a loss that is NaN or infinite, before it reaches the weights.

    Raises:
        InputError: naming the first sample whose scores are not finite, if that is the reason.
    """
    if loss.isfinite():
        return
    bad_rows = (~logits.isfinite().all(1)).nonzero().flatten().tolist()
    cause = "all scores are finite"
    if bad_rows:
        row = int(batch.rows[bad_rows[0]])
        source = SOURCES[int(batch.sources[bad_rows[0]])]
        cause = (
            f"{len(bad_rows)} of {len(batch)} samples score NaN or infinite, "
            f"the first is row {row} ({source})"
        )
    raise InputError(
        f"GANRM's loss is {loss.item()}: {cause}. Lower the learning rate, raise the weight decay, "
        "or look for features that are not finite (a tower in half precision overflows). The last "
        "checkpoint stands."
    )


def meaning(data: LabeledSamples, label_smoothing: float) -> str:
    """Return what the logits estimate, in words.

    It is a density ratio only without smoothing, of targets and generated samples alone.

    Example:
        >>> ones = torch.ones(2)
        >>> data = LabeledSamples(ones, ones, ones, ones, torch.tensor([0, 1]))
        >>> meaning(data, label_smoothing=0.1)
        'score: labels were smoothed by 0.1'
    """
    reasons = []
    if label_smoothing:
        reasons.append(f"labels were smoothed by {label_smoothing:g}")
    for source, reason in BIASES.items():
        count = int(data.of(source).sum())
        if count:
            reasons.append(f"{count} {reason}")
    if reasons:
        return "score: " + " and ".join(reasons)
    return DENSITY_RATIO


def held_out_figures(logits: Tensor, labels: Tensor, generated: Tensor) -> dict[str, float]:
    """Return AUC, calibration error, disagreement and ranking of logits on held-out samples.

    The AUC is of the targets against the generator's own samples.

    Args:
        logits: [B, M], the members'.
        labels: [B].
        generated: bool [B], true for the generator's own samples.
    """
    mean_logits = logits.mean(1)
    targets = labels == 1
    either = targets | generated
    figures = {"calibration_error": calibration_error(mean_logits, labels)}
    figures["auc"] = auc(mean_logits[either], targets[either])
    own_logits = logits[generated]
    if logits.shape[1] > 1 and len(own_logits) > 2:
        figures["disagreement"] = own_logits.std(1).mean().item()
        even_heads = own_logits[:, 0::2].mean(1)
        odd_heads = own_logits[:, 1::2].mean(1)
        figures["ranking"] = rank_correlation(even_heads, odd_heads)
    return figures
