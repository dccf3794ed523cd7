"""Which of Lightning's strategies for several processes a loop runs under."""

from __future__ import annotations

from typing import Any

from pytorch_lightning import LightningModule
from pytorch_lightning.strategies import (
    DDPStrategy,
    DeepSpeedStrategy,
    FSDPStrategy,
    ModelParallelStrategy,
)

from rewardlab.errors import InputError

SHARDED = {
    FSDPStrategy: "fsdp (FSDP1)",
    ModelParallelStrategy: "ModelParallelStrategy (FSDP2)",
    DeepSpeedStrategy: "deepspeed",
}


def check_strategy(loop: str, strategy: Any) -> None:
    """Refuse a strategy that spreads weights over processes in a way the loop cannot follow.

    Args:
        loop: the loop's name.
        strategy: the Trainer's.

    Raises:
        InputError: naming what to use instead.

    Example:
        >>> check_strategy("PPO", FSDPStrategy())
        Traceback (most recent call last):
        rewardlab.errors.InputError: PPO does not run under fsdp (FSDP1): it ...
    """
    for kind, name in SHARDED.items():
        if isinstance(strategy, kind):
            raise InputError(
                f"{loop} does not run under {name}: it reads whole weights, which are spread over "
                "processes there. Use ddp; to save memory take lora_rank, dtype: bfloat16, "
                "gradient_checkpointing or micro_batch."
            )


def check_all_have_gradients(module: LightningModule) -> None:
    """Refuse trained weights without a gradient under a DDP that waits for all gradients.

    Raises:
        InputError: naming the first such weight, and the strategy that looks for them.
    """
    trainer = module._trainer
    if trainer is None or not isinstance(trainer.strategy, DDPStrategy):
        return
    if trainer.strategy._ddp_kwargs.get("find_unused_parameters"):
        return
    unused = []
    for name, parameter in module.named_parameters():
        if parameter.requires_grad and parameter.grad is None:
            unused.append(name)
    if unused:
        raise InputError(
            f"{len(unused)} trained weights of {type(module).__name__} got no gradient, such as "
            f"{unused[0]}; ddp waits for the gradients of all. Is it a head that the loss does not "
            "use? Build the model without it, or take strategy: ddp_find_unused_parameters_true."
        )
