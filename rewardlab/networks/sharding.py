"""Weights that are spread over processes between two steps (FSDP2), and what cannot follow them."""

from __future__ import annotations

from typing import Any

from pytorch_lightning import Trainer
from pytorch_lightning.strategies import ModelParallelStrategy
from torch import Tensor, nn

from rewardlab.errors import InputError

# Methods of policies and rewards that run their network, whose weights have to be whole then.
RUN = (
    "sample",
    "generate",
    "encode",
    "log_prob",
    "apply_loss",
    "apply_row_loss",
    "entropy",
    "value",
    "members",
    "forward",
    "drawn_members",
    "members_and_likelihoods",
    "features",
    "score_features",
)


def shard(part: nn.Module, mesh: Any) -> None:
    """Spread a policy's or a reward's weights over the processes of a mesh, in place.

    Weights, gradients and optimizer states are spread. While a method of `RUN` and its backward
    pass run, each process has the whole weights, as one group. The processes' passes through the
    network need not be equally many then: texts that are drawn end at different tokens.

    Args:
        part: a module whose weights are all on one device.
        mesh: one dimension of a DeviceMesh.
    """
    from torch.distributed.fsdp import fully_shard, register_fsdp_forward_method

    scalars = {parameter for parameter in part.parameters() if parameter.dim() == 0}
    fully_shard(part, mesh=mesh, ignored_params=scalars)
    for name in RUN:
        if hasattr(part, name):
            register_fsdp_forward_method(part, name)


def whole(tensor: Tensor) -> Tensor:
    """Return a tensor that is spread over processes as a whole one on each; others as they are.

    Example:
        >>> import torch
        >>> whole(torch.tensor([1.0])).item()
        1.0
    """
    from torch.distributed.tensor import DTensor

    if isinstance(tensor, DTensor):
        gathered: Tensor = tensor.full_tensor()
        return gathered
    return tensor


def is_sharded(trainer: Trainer) -> bool:
    """Tell whether a trainer's strategy spreads weights over processes."""
    return isinstance(trainer.strategy, ModelParallelStrategy)


def refuse_sharded(trainer: Trainer, name: str) -> None:
    """Refuse a trainer whose strategy spreads weights, for what reads and writes whole ones.

    Args:
        trainer: the trainer.
        name: what cannot follow, for the message.

    Raises:
        InputError: naming the strategy to take instead.
    """
    if is_sharded(trainer):
        raise InputError(
            f"{name} does not run under ModelParallelStrategy (FSDP2): it reads and writes whole "
            f"weights, which are spread over processes there. Use ddp, or leave {name} out."
        )
