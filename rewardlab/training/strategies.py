"""Which of Lightning's strategies for several processes a loop runs under."""

from __future__ import annotations

import os
from typing import Any, NamedTuple

from lightning_fabric.plugins.environments import SLURMEnvironment, TorchElasticEnvironment
from pytorch_lightning import LightningModule, Trainer
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


class Started(NamedTuple):
    """Who started this process, as one of how many."""

    by: str
    processes: int


def started_processes() -> Started | None:
    """Return what torchrun or srun says of this process; None where neither started it."""
    if TorchElasticEnvironment.detect():
        return Started("torchrun", int(os.environ["WORLD_SIZE"]))
    if SLURMEnvironment.detect():
        return Started("SLURM", int(os.environ["SLURM_NTASKS"]))
    return None


def check_processes(trainer: Trainer) -> None:
    """Refuse a trainer for another number of processes than were started.

    Each of two processes that believe to be alone would train by itself and write the same files.

    Raises:
        InputError: naming both numbers, and the flags that set them.
    """
    started = started_processes()
    processes = trainer.num_devices * trainer.num_nodes
    if started is None or started.processes == processes:
        return
    count = started.processes
    flag = "--nproc-per-node and --nnodes"
    if started.by == "SLURM":
        flag = "srun's --ntasks-per-node and --nodes"
    raise InputError(
        f"{started.by} started {count} processes, and the trainer is set to {processes} "
        f"({trainer.num_devices} devices a node on {trainer.num_nodes} nodes). Give "
        f"--trainer.devices and --trainer.num_nodes whose product is {count} with --trainer."
        f"strategy ddp, or another {flag}."
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
