"""Which of Lightning's strategies for several processes a loop runs under."""

from __future__ import annotations

import os
from typing import Any, NamedTuple

from lightning_fabric.plugins.environments.slurm import SLURMEnvironment
from lightning_fabric.plugins.environments.torchelastic import TorchElasticEnvironment
from pytorch_lightning import LightningModule, Trainer
from pytorch_lightning.strategies import (
    DDPStrategy,
    DeepSpeedStrategy,
    FSDPStrategy,
    ModelParallelStrategy,
)
from torch import nn

from rewardlab.errors import InputError
from rewardlab.networks.sharding import RUN, Spread, shard
from rewardlab.policies.abilities import Denoises, LengthLimited

DRAWS = ("sample", "generate", "extend")
OF_TOKENS = {"encode", "decode"}  # which a language model does without its network
UNKNOWN = {FSDPStrategy: "fsdp (FSDP1)", DeepSpeedStrategy: "deepspeed"}


def check_strategy(loop: str, strategy: Any, shards: bool = False) -> None:
    """Refuse a strategy that spreads weights over processes in a way the loop cannot follow.

    Args:
        loop: the loop's name.
        strategy: the Trainer's.
        shards: whether the loop runs under FSDP2.

    Raises:
        InputError: naming what to use instead.

    Example:
        >>> check_strategy("PPO", FSDPStrategy())
        Traceback (most recent call last):
        rewardlab.errors.InputError: PPO does not run under fsdp (FSDP1): it ...
    """
    refused = dict(UNKNOWN)
    if not shards:
        refused[ModelParallelStrategy] = "ModelParallelStrategy (FSDP2)"
    instead = " or FSDP2 (configs/trainer/fsdp2.yaml)" if shards else ""
    for kind, name in refused.items():
        if isinstance(strategy, kind):
            raise InputError(
                f"{loop} does not run under {name}: it reads whole weights, which are spread over "
                f"processes there. Use ddp{instead}; to save memory take lora_rank, dtype: "
                "bfloat16, gradient_checkpointing or micro_batch."
            )


def shard_trained(module: LightningModule, strategy: ModelParallelStrategy) -> dict[str, Spread]:
    """Spread the weights of a loop's trained parts over all processes.

    Texts that are drawn end at different tokens, so the weights of a policy that is no denoiser
    are whole while it draws. Everything else passes through the network equally often in all
    processes, which have equally many rows.

    Returns:
        The spread parts by their names.

    Raises:
        InputError: if the strategy would not give every process data of its own.
    """
    mesh = strategy.device_mesh["data_parallel"]
    processes = strategy.world_size
    if mesh.size() != processes:
        raise InputError(
            f"FSDP2 of {processes} processes needs the strategy's data_parallel_size={processes} "
            f"and tensor_parallel_size=1; got {mesh.size()} and {processes // mesh.size()}. "
            "configs/trainer/fsdp2.yaml has them."
        )
    spread = {}
    for name, part in module.named_children():
        if _is_trained(part):
            spread[name] = _spread(part, mesh)
    return spread


def _spread(part: nn.Module, mesh: Any) -> Spread:
    """Spread a part's weights; those of a policy that is no denoiser are whole while it draws."""
    run = set(RUN)
    if isinstance(part, LengthLimited):
        run -= OF_TOKENS
    gathered = () if isinstance(part, Denoises) else DRAWS
    return shard(part, mesh, sorted(run), gathered)


def number_among_all(state: dict[str, Any], module: LightningModule) -> None:
    """Number an optimizer's parameters among all of a module's, in place, as FSDP2 reads them.

    An optimizer numbers those that it was given, and goes by their order when it loads. Lightning
    2.6 loads a checkpoint under FSDP2 by numbers among all parameters, frozen ones too. A state of
    several groups, or one that is numbered so already, stays as it is.
    """
    places = [place for place, one in enumerate(module.parameters()) if one.requires_grad]
    groups = state.get("param_groups", [])
    if len(groups) != 1 or list(groups[0]["params"]) != list(range(len(places))):
        return
    groups[0]["params"] = places
    state["state"] = {places[number]: value for number, value in state["state"].items()}


def _is_trained(part: nn.Module) -> bool:
    return any(parameter.requires_grad for parameter in part.parameters())


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
