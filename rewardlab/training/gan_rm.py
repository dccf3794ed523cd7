"""GAN-RM: a reward from target samples against the generator's own."""

from __future__ import annotations

import torch
from pytorch_lightning.cli import LRSchedulerCallable, OptimizerCallable
from torch import Tensor
from torch.optim import AdamW

from rewardlab.errors import InputError
from rewardlab.losses import discrimination_loss
from rewardlab.metrics import auc, calibration_error, rank_correlation
from rewardlab.rewards import Reward
from rewardlab.seeds import derive, row_seeds
from rewardlab.training.base import Trained
from rewardlab.training.bootstrap import bootstrap_weights
from rewardlab.types import SOURCES, Labelled, Samples


class GANRM(Trained):
    """Train a reward to tell target samples from generated ones (GAN-RM, arXiv 2506.13846, sections
    3.1 and 3.2).

    Batches are `Labelled`, of Samples or of the reward's cached features. Heads of an ensemble see
    different data: each counts a sample Poisson(1) times (the bootstrap), and leaves out its own
    fold of the targets. Logged on held-out data: `val/auc` of targets against generated samples,
    `val/calibration_error`, `val/disagreement` (standard deviation between heads) and
    `val/ranking`, the rank correlation between two halves of the heads on the generator's own
    samples: near 0, the reward separates the classes but its ranking of candidates is noise.

    Args:
        reward: what is trained: all of its parameters that require gradients.
        label_smoothing: moves labels from {0, 1} to {s/2, 1 - s/2}; the logit then is a score, no
            density ratio.
        bootstrap: whether each head draws its own bootstrap sample. Without effect on a single
            head.
        folds: how many folds the heads of an ensemble leave out in turn; 0 leaves out nothing.
        optimizer: makes the optimiser; weight decay keeps separable classes from driving logits to
            infinity.
        schedule: makes a learning-rate schedule, stepped once an optimiser step.
        seed: of the bootstrap and the folds.

    Example:
        >>> import pytorch_lightning as pl, torch
        >>> from rewardlab import Samples, TargetSamples, VisionReward
        >>> from rewardlab.testing import tiny_tower
        >>> noise = 0.1 * torch.rand(20, 3, 16, 16)
        >>> white, grey = (Samples([""] * 20, noise + level) for level in (0.8, 0.4))
        >>> module = GANRM(VisionReward(tiny_tower(), width=16))
        >>> quiet = dict.fromkeys(["logger", "enable_checkpointing", "enable_progress_bar", "enable_model_summary"], False)
        >>> trainer = pl.Trainer(max_epochs=20, **quiet)
        >>> trainer.fit(module, TargetSamples(white, grey, held_out=5))
        >>> trainer.callback_metrics["val/auc"].item()
        1.0
    """

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
        self.reward = reward
        self.label_smoothing = label_smoothing
        self.bootstrap = bootstrap
        self.folds = folds
        self._held_out: list[tuple[Tensor, Tensor, Tensor]] = []

    def on_fit_start(self) -> None:
        """Set the reward's standardisation of features, unless a checkpoint has brought it."""
        data = self._features("train")
        if data is not None and self.trainer.ckpt_path is None:
            self.reward.fit_feature_scale(data.inputs.to(self.device))

    @torch.no_grad()
    def on_fit_end(self) -> None:
        """Note what the scores mean, and their mean and deviation on the generator's own samples."""
        data = self._features("train")
        if data is None:
            return
        own = data.inputs[data.of("generated")].to(self.device)
        self.reward.eval().calibrate(self.reward.score_features(own).mean(1))
        self.reward.meaning = meaning(data, self.label_smoothing)

    def _features(self, part: str) -> Labelled | None:
        """The data as features, where the reward has such and the data module keeps them."""
        split = getattr(self.trainer.datamodule, "split", None)
        return split(part) if split is not None and isinstance(split(part).inputs, Tensor) else None

    def training_step(self, batch: Labelled, batch_idx: int) -> Tensor:
        logits = members(self.reward, batch.inputs)
        weights = (
            self.head_weights(batch.rows, batch.labels, logits.shape[1]).to(logits)
            * batch.weights[:, None]
        )
        loss = discrimination_loss(
            logits, batch.labels, weights, label_smoothing=self.label_smoothing
        )
        check_finite(loss, logits, batch)
        self.log("loss", loss, prog_bar=True, batch_size=len(batch))
        return loss

    def validation_step(self, batch: Labelled, batch_idx: int) -> None:
        logits = members(self.reward, batch.inputs)
        loss = discrimination_loss(logits, batch.labels, batch.weights[:, None].expand_as(logits))
        check_finite(loss, logits, batch)
        self.log("val/loss", loss, batch_size=len(batch), sync_dist=True)
        self._held_out.append((logits, batch.labels, batch.of("generated")))

    def on_validation_epoch_end(self) -> None:
        columns = [torch.cat(column).cpu() for column in zip(*self._held_out, strict=True)]
        self._held_out.clear()
        if not self.trainer.sanity_checking:  # which sees the first batches only, targets perhaps
            self.log_dict(
                {f"val/{name}": value for name, value in held_out_figures(*columns).items()},
                prog_bar=True,
            )

    def head_weights(self, rows: Tensor, labels: Tensor, heads: int) -> Tensor:
        """Return how often each head [M] counts each row [B]: float32 [B, M], the same in every
        epoch and process.
        """
        if heads == 1:
            return torch.ones(len(rows), 1)
        weights = torch.ones(len(rows), heads)
        if self.bootstrap:
            weights = bootstrap_weights(self.seed, rows, heads)
        if self.folds:
            fold = row_seeds(derive(self.seed, "folds"), rows) % self.folds
            left_out = fold[:, None] == torch.arange(heads) % self.folds
            weights = weights.masked_fill(left_out & (labels.cpu() == 1)[:, None], 0)
        return weights


def members(reward: Reward, inputs: Samples | Tensor) -> Tensor:
    """Return members' scores [B, M] of samples, or of the features that the reward's frozen part
    made of them.
    """
    return reward.score_features(inputs) if isinstance(inputs, Tensor) else reward.members(inputs)


def check_finite(loss: Tensor, logits: Tensor, batch: Labelled) -> None:
    """Stop at a loss that is NaN or infinite, before it reaches the weights.

    Raises:
        InputError: naming the first sample whose scores are not finite, if that is the reason.
    """
    if loss.isfinite():
        return
    bad = (~logits.isfinite().all(1)).nonzero().flatten().tolist()
    first = f"row {int(batch.rows[bad[0]])} ({SOURCES[int(batch.sources[bad[0]])]})" if bad else ""
    what = (
        f"{len(bad)} of {len(batch)} samples score NaN or infinite, the first is {first}"
        if bad
        else "all scores are finite"
    )
    raise InputError(
        f"GANRM's loss is {loss.item()}: {what}. Lower the learning rate, raise the weight decay, or look for features that "
        "are not finite (a tower in half precision overflows). The last checkpoint stands."
    )


def meaning(data: Labelled, label_smoothing: float) -> str:
    """Say what the logits estimate: a density ratio only if unsmoothed, of targets and generated
    samples alone.

    Example:
        >>> ones = torch.ones(2)
        >>> meaning(Labelled(ones, ones, ones, ones, torch.tensor([0, 1])), label_smoothing=0.1)
        'score: labels were smoothed by 0.1'
    """
    reasons = [f"labels were smoothed by {label_smoothing:g}"] * bool(label_smoothing)
    notes = {
        "mismatched": "targets had another's prompt",
        "pseudo-labelled": "samples had pseudo-labels by rank",
    }
    counts = {source: int(data.of(source).sum()) for source in notes}
    reasons += [f"{count} {notes[source]}" for source, count in counts.items() if count]
    if reasons:
        return "score: " + " and ".join(reasons)
    return "log density ratio of features, target samples over the generator's own at the time of training"


def held_out_figures(logits: Tensor, labels: Tensor, generated: Tensor) -> dict[str, float]:
    """Return AUC, calibration error, disagreement and ranking of members' logits [B, M] on held-out
    labels [B].

    `generated` [B] is true for the generator's own samples; the AUC is of the targets against
    those.
    """
    mean = logits.mean(1)
    targets = labels == 1
    figures = {"calibration_error": calibration_error(mean, labels)}
    figures["auc"] = auc(mean[targets | generated], targets[targets | generated])
    own = logits[generated]
    if logits.shape[1] > 1 and len(own) > 2:
        figures["disagreement"] = own.std(1).mean().item()
        figures["ranking"] = rank_correlation(own[:, 0::2].mean(1), own[:, 1::2].mean(1))
    return figures
