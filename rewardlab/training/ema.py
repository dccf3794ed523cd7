"""Exponential moving average of the trained weights."""

from __future__ import annotations

from typing import Any

import torch
from pytorch_lightning import Callback, LightningModule, Trainer
from torch import Tensor, nn
from torch.optim.swa_utils import get_ema_multi_avg_fn

from rewardlab.networks.shards import spread_as, whole


class EMA(Callback):
    """Average the trained weights over optimizer steps, and keep the average when training ends.

    Only what is trained is copied: an adapter, not the network under it. Validation sees the
    average too.

    There is no warm-up: after n steps decay^n of the average is what training started from. So a
    decay of 0.999 is for runs of several thousand steps. The `EMAModel` of diffusers keeps less at
    first, (1 + n) / (10 + n), whatever its `use_ema_warmup` says, and its decays do not carry over.

    Args:
        decay: share of the average that is kept at each step.
    """

    def __init__(self, decay: float = 0.999) -> None:
        self.decay = decay
        self._average: list[Tensor] = []
        self._steps = 0

    def on_train_start(self, trainer: Trainer, module: LightningModule) -> None:
        weights = _trained(module)
        if not self._average:
            self._average = [weight.detach().clone() for weight in weights]
        pairs = zip(self._average, weights, strict=True)
        self._average = [spread_as(average, weight) for average, weight in pairs]
        self._steps = trainer.global_step

    @torch.no_grad()
    def on_train_batch_end(self, trainer: Trainer, module: LightningModule, *args: Any) -> None:
        if trainer.global_step <= self._steps:  # gradients were accumulated
            return
        current = [parameter.detach() for parameter in _trained(module)]
        update = get_ema_multi_avg_fn(self.decay)  # type: ignore[no-untyped-call]
        update(self._average, current, None)
        self._steps = trainer.global_step

    def on_validation_start(self, trainer: Trainer, module: LightningModule) -> None:
        self._swap(module)

    def on_validation_end(self, trainer: Trainer, module: LightningModule) -> None:
        self._swap(module)

    def on_train_end(self, trainer: Trainer, module: LightningModule) -> None:
        self._swap(module)
        self._average = []

    def on_fit_end(self, trainer: Trainer, module: LightningModule) -> None:
        """Do the same for a run that was killed after its last step.

        Resumed, it has nothing to train, and Lightning calls no `on_train_end`.
        """
        self.on_train_end(trainer, module)

    def state_dict(self) -> dict[str, Any]:
        return {"average": [whole(average) for average in self._average]}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self._average = state_dict["average"]

    @torch.no_grad()
    def _swap(self, module: LightningModule) -> None:
        """Exchange the trained weights and their average, if there is one."""
        for average, parameter in zip(self._average, _trained(module), strict=False):
            weights = parameter.detach().clone()
            parameter.copy_(average)
            average.copy_(weights)


def _trained(module: nn.Module) -> list[nn.Parameter]:
    return [parameter for parameter in module.parameters() if parameter.requires_grad]
