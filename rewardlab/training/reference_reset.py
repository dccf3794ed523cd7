"""Reference resets: a callback that lets the reference of a loop follow the policy."""

from __future__ import annotations

import logging
from typing import Any

from pytorch_lightning import Callback, LightningModule, Trainer
from torch import Tensor

from rewardlab.errors import InputError
from rewardlab.networks.shards import whole
from rewardlab.policies import Policy
from rewardlab.policies.reference import Snapshot, snapshot_of
from rewardlab.training.base import ChecksLoop
from rewardlab.training.ppo import PPO

log = logging.getLogger(__name__)
MIB = 2**20


class ReferenceReset(Callback, ChecksLoop):
    """Put the policy as it is now in the place of the reference, every few steps or nats.

    arXiv 2602.18037, and GARDO, arXiv 2512.24138. What a loop is held to then moves in steps, so
    the policy may go far, and only fast moves are dear. Only the trained weights are copied: of a
    policy with an adapter that is a second adapter. Without one it is the whole network, beside the
    policy and the copy that `Readings` measures the KL to; a warning says how much that is.

    The logged `kl` is that of the penalty, to the reference as it is now. `Readings` goes on to
    measure the KL to the first one. Also logged: `reference_step`, the step of the last reset.

    Args:
        every_n_steps: optimizer steps after which the reference is reset at the latest; by default
            there is no such limit.
        kl: nats an output, the step's mean, above which it is reset at once; by default at no KL.
            The loop logs its KL as `kl`, as PPO does. With neither nothing ever changes.

    Attributes:
        step: optimizer step of the last reset; 0 before the first.

    Raises:
        InputError: if a number is out of range, or (at the start) the loop has no reference, gives
            the KL to it no weight or its policy has nothing to train, or (on use) the loop logs no
            KL.

    Example:
        >>> import pytorch_lightning as pl
        >>> from rewardlab import DiffusionPolicy
        >>> from rewardlab.data import Prompts
        >>> from rewardlab.policies.samplers import Sampler
        >>> from rewardlab.rewards import Brightness
        >>> from rewardlab.testing import tiny_diffusion
        >>> from rewardlab.training import PPO
        >>> from rewardlab.training.trainers import SILENT
        >>> policy = DiffusionPolicy(tiny_diffusion(classes=0), sampler=Sampler(steps=3))
        >>> reset = ReferenceReset(every_n_steps=2)
        >>> trainer = pl.Trainer(max_epochs=3, callbacks=[reset], **SILENT)
        >>> trainer.fit(PPO(policy, Brightness()), Prompts([""] * 2, batch_size=2))
        >>> trainer.global_step, reset.step
        (3, 2)
    """

    def __init__(self, every_n_steps: int | None = None, kl: float | None = None) -> None:
        for name, value in {"every_n_steps": every_n_steps, "kl": kl}.items():
            if value is not None and not value > 0:
                raise InputError(
                    f"ReferenceReset needs {name} above 0; got {value:g}. Leave it out for no "
                    "such limit."
                )
        self.every_n_steps = every_n_steps
        self.kl = kl
        self.step = 0
        self._values: list[Tensor] | None = None

    def check_loop(self, module: LightningModule) -> None:
        """Refuse a loop that nothing holds to its reference."""
        if isinstance(module, PPO) and module.kl_weight == 0:
            raise InputError(
                "ReferenceReset moves what the policy is held to, and kl_weight=0 holds it to "
                "nothing, so a reset would change nothing. Give PPO a kl_weight above 0, such as "
                "0.1 for texts, or leave ReferenceReset out."
            )

    def on_train_start(self, trainer: Trainer, module: LightningModule) -> None:
        """Put the reference of a checkpoint in its place, if one is resumed from."""
        self.check_loop(module)
        if trainer.global_step == 0:  # another fit than the last
            self.step = 0
            self._values = None
        snapshot = self._snapshot(module)
        if self._values is not None:
            module.reference = snapshot
        if self.every_n_steps is not None or self.kl is not None:
            _warn_of_copies(snapshot)

    def on_train_batch_end(self, trainer: Trainer, module: LightningModule, *args: Any) -> None:
        """Reset the reference if it is due."""
        if self._is_due(trainer, module):
            self._values = None
            snapshot = self._snapshot(module)
            module.reference = snapshot
            self._values = snapshot.values
            self.step = trainer.global_step
        module.log("reference_step", float(self.step))

    def state_dict(self) -> dict[str, Any]:
        """Return the step of the last reset, and the weights that the reference has since."""
        values = None if self._values is None else [whole(value) for value in self._values]
        return {"step": self.step, "values": values}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take what `state_dict` returned."""
        self.step = state_dict["step"]
        self._values = state_dict["values"]

    def _is_due(self, trainer: Trainer, module: LightningModule) -> bool:
        """Tell whether the step's KL or the number of steps is past its limit."""
        steps = trainer.global_step - self.step
        if self.every_n_steps is not None and steps >= self.every_n_steps:
            return True
        if self.kl is None or steps == 0:
            return False
        if "kl" not in trainer.callback_metrics:
            raise InputError(
                f"ReferenceReset(kl={self.kl:g}) reads the KL that a loop logs, and "
                f"{type(module).__name__} logs none. Give every_n_steps instead."
            )
        return trainer.callback_metrics["kl"].item() > self.kl

    def _snapshot(self, module: LightningModule) -> Snapshot:
        """Return the policy as the reset says that it was, or as it is now."""
        first = getattr(module, "reference", None)
        if not isinstance(first, Policy):
            raise InputError(
                f"ReferenceReset moves the reference that a loop is held to, and "
                f"{type(module).__name__} has none. Leave it out, or train by a loop with one, "
                "such as PPO or DPO."
            )
        assert isinstance(module.policy, Policy)
        return snapshot_of(module.policy, first, self._values)


def _warn_of_copies(snapshot: Snapshot) -> None:
    """Say what a reset costs where most of the policy's weights are trained, as by no adapter."""
    weights = sum(weight.numel() for weight in snapshot.policy.parameters())
    if 2 * sum(value.numel() for value in snapshot.values) < weights:
        return
    size = sum(value.numel() * value.element_size() for value in snapshot.values)
    log.warning(
        "ReferenceReset copies what is trained, and this %s trains no adapter, so a reset keeps "
        "%.1f MiB more beside the policy and its first reference: a third copy of the network, and "
        "as much in each checkpoint. If that is too much, give the policy an adapter, "
        "lora_rank=8.",
        type(snapshot.policy).__name__,
        size / MIB,
    )
