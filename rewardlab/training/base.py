"""What training loops share: optimizers, seeds of rows, and checkpoints without frozen weights."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any, ClassVar, Literal, TypeVar

import torch
from pytorch_lightning import LightningModule
from pytorch_lightning.cli import LRSchedulerCallable, OptimizerCallable
from pytorch_lightning.strategies import ModelParallelStrategy
from torch import Tensor, nn
from torch.optim import Optimizer

from rewardlab.data.splits import SplitData
from rewardlab.errors import InputError
from rewardlab.networks.sharding import Spread, is_sharded
from rewardlab.policies.base import Policy
from rewardlab.provenance import fingerprint
from rewardlab.rewards.abilities import frozen_features
from rewardlab.rewards.unscored import is_partial
from rewardlab.seeds import derive, row_seeds
from rewardlab.training.accumulation import AccumulationWindow, parts_of
from rewardlab.training.processes import is_distributed, mean
from rewardlab.training.strategies import (
    check_all_have_gradients,
    check_strategy,
    number_among_all,
    shard_trained,
)
from rewardlab.training.tallies import keep_tallies, restore_tallies_of
from rewardlab.training.trainer_options import check_options
from rewardlab.types import Samples

LearnsFrom = Literal["prompts", "samples", "pairs"]
Kind = TypeVar("Kind")
EXCERPT = 1024  # numbers of each frozen weight that a checkpoint's fingerprint reads


class HearsRollouts(ABC):
    """A callback that is told what the policy draws: each loop that draws calls `announce`."""

    @abstractmethod
    def on_rollout(self, module: Trained, samples: Samples) -> None:
        """Hear of samples that the policy drew in this step, before it learns from them."""


class ChecksLoop(ABC):
    """A callback that not every loop suits; rounds ask it before their fits."""

    @abstractmethod
    def check_loop(self, module: LightningModule) -> None:
        """Refuse a loop that it does not suit.

        Raises:
            InputError: saying which loop does.
        """


class Trained(LightningModule):
    """A training loop whose checkpoint holds only what it trains.

    A frozen tower, a reference or a reward is not in it. Every loop derives from this class, so
    tools find the attributes below on all of them, and None where a loop has no such part.

    Attributes:
        learns_from: what rounds make for the loop: "prompts", "samples" (the best candidates) or
            "pairs" (the best against the worst).
        shards: whether the loop runs under FSDP2, Lightning's ModelParallelStrategy.
        instead_of_trainer: maps options of Lightning's Trainer that the loop cannot follow to its
            own arguments that do the same.
        policy: the policy, if the loop has one.
        reward: the reward, if the loop has one.
        reference: the frozen policy that the loop is held to, if there is one.
        generations: number of outputs that the loop has drawn so far, in this process.
        seed: seed of everything that the loop draws.
    """

    learns_from: LearnsFrom = "samples"
    shards: ClassVar[bool] = False
    instead_of_trainer: ClassVar[Mapping[str, str]] = {}
    policy: Any
    reward: Any
    reference: Any

    def __init__(
        self, optimizer: OptimizerCallable, schedule: LRSchedulerCallable | None, seed: int
    ) -> None:
        super().__init__()
        self.strict_loading = False
        self.optimizer = optimizer
        self.schedule = schedule
        self.seed = seed
        self.policy = None
        self.reward = None
        self.reference = None
        self.generations = 0
        self._mark: str | None = None
        self._spread: dict[str, Spread] = {}
        self._window = AccumulationWindow()
        self._has_stepped = False

    def configure_callbacks(self) -> Any:
        """Refuse options of the Trainer that the loop cannot follow, in the first hook there is.

        Raises:
            InputError: naming the argument to use instead.
        """
        names = (*self.instead_of_trainer, "precision")
        options = {name: getattr(self.trainer, name, None) for name in names}
        check_options(type(self).__name__, self.instead_of_trainer, options)
        check_strategy(type(self).__name__, self.trainer.strategy, self.shards)
        return super().configure_callbacks()

    def configure_model(self) -> None:
        """Spread the weights over processes where the strategy is FSDP2."""
        if self._trainer is None:  # a checkpoint is loaded by hand
            return
        strategy = self.trainer.strategy
        if isinstance(strategy, ModelParallelStrategy) and not self._spread:
            self._mark = frozen_mark(self)  # later no process has all weights
            self._spread = shard_trained(self, strategy)

    def gather_trained(self, keep: bool) -> None:
        """Bring weights that FSDP2 spread back together on the CPU, after the last step.

        All processes take part. The loop cannot be trained further.

        Args:
            keep: whether this process gets the weights.
        """
        for spread in self._spread.values():
            spread.undo(keep)
        self._spread = {}

    def configure_optimizers(self) -> Any:
        trained = [parameter for parameter in self.parameters() if parameter.requires_grad]
        optimizer = self.optimizer(trained)
        if self.schedule is None:
            return optimizer
        scheduler = {"scheduler": self.schedule(optimizer), "interval": "step"}
        return {"optimizer": optimizer, "lr_scheduler": scheduler}

    def state_dict(self, *args: Any, **kwargs: Any) -> Any:
        frozen = frozen_names(self)
        trained = {}
        for name, tensor in super().state_dict(*args, **kwargs).items():
            if name not in frozen and not name.startswith("reference."):
                trained[name] = tensor
        return trained

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        if self._mark is None:
            self._mark = frozen_mark(self)  # once: it reads all frozen weights
        checkpoint["frozen"] = self._mark
        keep_tallies(self, checkpoint)
        for state in checkpoint.get("optimizer_states", []):
            number_among_all(state, self)

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Refuse a checkpoint of another model.

        It would be loaded in part, or put heads or adapters on another backbone.

        Raises:
            InputError: if names or shapes of what is trained differ, or the frozen part is another.
        """
        if "state_dict" in checkpoint:  # FSDP2 has loaded it already
            _check_shapes(checkpoint["state_dict"], self.state_dict())
        mark = checkpoint.get("frozen")
        is_spread = self._trainer is not None and is_sharded(self.trainer)
        current = self._mark if is_spread else frozen_mark(self)
        if mark is not None and mark != current:
            raise InputError(
                "The checkpoint was trained on another frozen backbone (fingerprints of weights or "
                "preprocessing differ), so its heads or adapters mean nothing on this one. Give "
                "the backbone that it was trained on."
            )
        restore_tallies_of(self, checkpoint)

    def share_of_step(self, loss: Tensor, count: float | Tensor) -> Tensor:
        """Return a batch's mean loss as its share of an optimizer step of several batches.

        The loss is returned as it is, to the last bit, where one batch makes a step.

        Args:
            loss: the mean over what the batch counts.
            count: of what it is the mean, in this process.
        """
        parts = parts_of(self)
        if parts == 1:
            return loss
        counts = torch.as_tensor(count, device=loss.device)[None]
        return self._window.shared(loss, mean(counts), parts)

    def on_before_optimizer_step(self, optimizer: Optimizer) -> None:
        """Bring accumulated gradients to the mean over all batches, before they are clipped."""
        self.check_gradients()
        self._window.close(self.parameters())

    def check_gradients(self) -> None:
        """Refuse, in the first step, weights that no loss reaches where DDP waits for all of them.

        Raises:
            InputError: naming the strategy that looks for them.
        """
        if not self._has_stepped:
            check_all_have_gradients(self)
            self._has_stepped = True

    def announce(self, samples: Samples, scores: Tensor | None = None) -> None:
        """Tell the callbacks that hear rollouts what the policy drew, if it is scored.

        Args:
            samples: B outputs.
            scores: [B], NaN where not scored; by default all are.
        """
        if scores is not None and scores.isnan().any():
            samples = samples[~scores.isnan().cpu()]
        for callback in self.callbacks_of(HearsRollouts):  # type: ignore[type-abstract]
            callback.on_rollout(self, samples)

    def score_figures(self, scores: Tensor) -> dict[str, Tensor]:
        """Return what is logged of scores [B]: `score` and, if some may be missing, `unscored`.

        They are the mean of what is scored, and the share that is not, over all processes.
        """
        missing = scores.isnan()
        mean_score = scores.mean()
        if is_distributed() or missing.any():
            mean_score = mean(scores[~missing])
        figures = {"score": mean_score}
        if is_partial(self.reward):
            figures["unscored"] = mean(missing.float())
        return figures

    def callbacks_of(self, kind: type[Kind]) -> list[Kind]:
        """Return the trainer's callbacks of a kind; none in a step that somebody takes by hand."""
        if self._trainer is None:
            return []
        callbacks = self.trainer.callbacks  # type: ignore[attr-defined]
        return [callback for callback in callbacks if isinstance(callback, kind)]

    def optimizer_step(
        self, epoch: int, batch_idx: int, optimizer: Any, *args: Any, **kwargs: Any
    ) -> None:
        """Take the step and free the gradients.

        Lightning would keep them through the next forward pass.
        """
        super().optimizer_step(epoch, batch_idx, optimizer, *args, **kwargs)
        optimizer.zero_grad()

    def seeds(self, samples: Samples) -> Tensor:
        """Return the seeds of samples, int64 [B].

        They come from (run seed, epoch, row), or from (run seed, step, position) where the data
        number no rows.
        """
        name = type(self).__name__
        if "row" in samples.facts:
            return row_seeds(derive(self.seed, name, self.current_epoch), samples.facts["row"])
        return row_seeds(derive(self.seed, name, "step", self.global_step), len(samples))


def split_data(module: LightningModule) -> SplitData | None:
    """Return the trainer's data module, if it tells training rows from those held out."""
    data = getattr(module.trainer, "datamodule", None)
    return data if isinstance(data, SplitData) else None


def _check_shapes(saved: Mapping[str, Tensor], current: Mapping[str, Tensor]) -> None:
    """Refuse saved tensors whose names or shapes are not the current ones."""
    wrong = []
    for name in sorted(saved.keys() | current.keys()):
        if _shape(saved, name) != _shape(current, name):
            wrong.append(name)
    if wrong:
        first = wrong[0]
        raise InputError(
            f"The checkpoint is of another model: {len(wrong)} of its trained tensors do not fit, "
            f"such as {first}, which is {_shape(saved, first)} there and {_shape(current, first)} "
            "here. Was it trained on another backbone, or with other heads or ranks? Give that "
            "model, or start without the checkpoint."
        )


def _shape(state: Mapping[str, Tensor], name: str) -> str:
    return str(list(state[name].shape)) if name in state else "absent"


def frozen_mark(module: LightningModule) -> str | None:
    """Return the fingerprint of the frozen part under what is trained, or None if there is none.

    The frozen part is the frozen backbone of a reward with features, or else the frozen weights
    beside an adapter, of which about 1,024 numbers each are read.
    """
    reward = frozen_features(module._modules.get("reward"))
    mark = None if reward is None else reward.frozen_fingerprint()
    if mark is not None:
        return mark
    excerpts = []
    for weight in _frozen_weights(module):
        stride = max(1, weight.numel() // EXCERPT)
        excerpts.append(weight.detach().flatten()[::stride])
    return fingerprint(excerpts) if excerpts else None


def _frozen_weights(module: nn.Module) -> list[nn.Parameter]:
    """Return the frozen weights of those children that have trained ones, without the reference."""
    frozen: list[nn.Parameter] = []
    for name, child in module.named_children():
        weights = list(child.parameters())
        if name != "reference" and any(weight.requires_grad for weight in weights):
            frozen += [weight for weight in weights if not weight.requires_grad]
    return frozen


def frozen_names(module: nn.Module) -> set[str]:
    """Return the names of the parameters that are not trained.

    A parameter with several names, such as a tied weight, is there under all of them.
    """
    parameters = module.named_parameters(remove_duplicate=False)
    return {name for name, parameter in parameters if not parameter.requires_grad}


def trained_state(module: nn.Module) -> dict[str, Tensor]:
    """Return copies, on the CPU, of all that training may change in `module`.

    These are its trained parameters and its buffers.
    """
    frozen = frozen_names(module)
    state = {}
    for name, tensor in module.state_dict().items():
        if name not in frozen:
            state[name] = tensor.detach().cpu().clone()
    return state


def trainable(policy: object) -> Policy:
    """Return the policy, if it has the step probabilities that every loop needs.

    Raises:
        InputError: for a generator that has none, such as `BestOf` or an API.
    """
    if isinstance(policy, Policy):
        return policy
    raise InputError(
        f"A {type(policy).__name__} cannot be trained: it has no step probabilities. Give a policy "
        "that has, such as the policy inside a BestOf."
    )


def frozen_reference(policy: Policy, reference: Policy | None) -> Policy:
    """Return the given reference, or else the policy's own as it is now.

    It is in evaluation mode, with nothing to train.
    """
    reference = policy.reference() if reference is None else reference
    return reference.eval().requires_grad_(False)


def step_total(log_prob: Tensor, mask: Tensor) -> Tensor:
    """Return the log-probability [B] of whole outputs: the sum over the steps that count."""
    return torch.where(mask, log_prob, 0).sum(1)
