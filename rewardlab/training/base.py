"""What the post-training loops share: optimisers, seeds for each row, and checkpoints without
frozen weights.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import torch
from pytorch_lightning import LightningModule
from pytorch_lightning.cli import LRSchedulerCallable, OptimizerCallable
from torch import Tensor, nn

from rewardlab.errors import InputError
from rewardlab.policies.base import Policy
from rewardlab.provenance import fingerprint
from rewardlab.rewards.abilities import frozen_features
from rewardlab.seeds import derive, row_seeds
from rewardlab.types import Samples

LearnsFrom = Literal["prompts", "samples", "pairs"]


class Trained(LightningModule):
    """A loop whose checkpoint holds what it trains: no frozen tower, reference or reward.

    Every loop derives from it, so tools find what they ask for, and None where a loop has no such
    part.

    Attributes:
        learns_from: what the rounds make for it: "prompts", "samples" (the best candidates) or
            "pairs" (the best against the worst).
        policy: what generates, if the loop has one.
        reward: what scores, if the loop has one.
        reference: the frozen policy that the loop is held to, if it is.
        generations: outputs that the loop has drawn so far, in this process.
        seed: of everything that the loop draws.
    """

    learns_from: LearnsFrom = "samples"
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

    def configure_optimizers(self) -> Any:
        optimizer = self.optimizer(
            [parameter for parameter in self.parameters() if parameter.requires_grad]
        )
        if self.schedule is None:
            return optimizer
        return {
            "optimizer": optimizer,
            "lr_scheduler": {"scheduler": self.schedule(optimizer), "interval": "step"},
        }

    def state_dict(self, *args: Any, **kwargs: Any) -> Mapping[str, Any]:
        frozen = frozen_names(self)
        state = super().state_dict(*args, **kwargs)
        return {
            name: tensor
            for name, tensor in state.items()
            if name not in frozen and not name.startswith("reference.")
        }

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        if self._mark is None:
            self._mark = frozen_mark(self)  # once: it reads all frozen weights
        checkpoint["frozen"] = self._mark

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Refuse a checkpoint of another model, which would be loaded in part, or of heads or
        adapters on another backbone.

        Raises:
            InputError: if names or shapes of what is trained differ, or the frozen part is another.
        """
        own = self.state_dict()
        given = checkpoint["state_dict"]
        wrong = sorted(
            name for name in own.keys() | given.keys() if _shape(own, name) != _shape(given, name)
        )
        if wrong:
            raise InputError(
                f"The checkpoint is of another model: {len(wrong)} of its trained tensors do not fit, such as {wrong[0]}, "
                f"which is {_shape(given, wrong[0])} there and {_shape(own, wrong[0])} here. Was it trained on another "
                "backbone, or with other heads or ranks? Give that model, or start without the checkpoint."
            )
        if checkpoint.get("frozen") is not None and checkpoint["frozen"] != frozen_mark(self):
            raise InputError(
                "The checkpoint was trained on another frozen backbone (fingerprints of weights or preprocessing differ), so "
                "its heads or adapters mean nothing on this one. Give the backbone that it was trained on."
            )

    def optimizer_step(
        self, epoch: int, batch_idx: int, optimizer: Any, *args: Any, **kwargs: Any
    ) -> None:
        """Take the step, and let the gradients go: Lightning would keep them through the next
        forward pass.
        """
        super().optimizer_step(epoch, batch_idx, optimizer, *args, **kwargs)
        optimizer.zero_grad()

    def seeds(self, samples: Samples) -> Tensor:
        """Return seeds [B] from (run seed, epoch, row), or from (run seed, step, position) where
        the data number no rows.
        """
        name = type(self).__name__
        if "row" in samples.facts:
            return row_seeds(derive(self.seed, name, self.current_epoch), samples.facts["row"])
        return row_seeds(derive(self.seed, name, "step", self.global_step), len(samples))


def frozen_mark(module: LightningModule) -> str | None:
    """Return the fingerprint of the frozen part that what is trained stands on; None where there is
    none.

    That is the frozen backbone of a reward with features, or the weights beside an adapter, of
    which 1,024 numbers each are read.
    """
    reward = frozen_features(module._modules.get("reward"))
    fingerprint_of_reward = None if reward is None else reward.frozen_fingerprint()
    if fingerprint_of_reward is not None:
        return fingerprint_of_reward
    parts = [part for name, part in module.named_children() if name != "reference"]
    trained = [part for part in parts if any(weight.requires_grad for weight in part.parameters())]
    fixed = [
        weight.detach().flatten()
        for part in trained
        for weight in part.parameters()
        if not weight.requires_grad
    ]
    return (
        fingerprint([weight[:: max(1, len(weight) // 1024)] for weight in fixed]) if fixed else None
    )


def _shape(state: Mapping[str, Any], name: str) -> str:
    return str(list(state[name].shape)) if name in state else "absent"


def frozen_names(module: nn.Module) -> set[str]:
    """Return the names of the parameters that are not trained; all names of one that has several,
    as tied weights do.
    """
    return {
        name
        for name, parameter in module.named_parameters(remove_duplicate=False)
        if not parameter.requires_grad
    }


def trained_state(module: nn.Module) -> dict[str, Tensor]:
    """Return copies, on the CPU, of all that training may change in `module`: its trained
    parameters and its buffers.
    """
    frozen = frozen_names(module)
    return {
        name: tensor.detach().cpu().clone()
        for name, tensor in module.state_dict().items()
        if name not in frozen
    }


def trainable(policy: Policy) -> Policy:
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
    """Return the given reference, or the policy's own as it is now; in evaluation mode, with
    nothing to train.
    """
    reference = policy.reference() if reference is None else reference
    return reference.eval().requires_grad_(False)


def step_total(log_prob: Tensor, mask: Tensor) -> Tensor:
    """The log-probability [B] of whole outputs: the sum over the steps that count."""
    return torch.where(mask, log_prob, 0).sum(1)
