"""Weights that are spread over processes between two steps (FSDP2), and their way back."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import wraps
from typing import Any, NamedTuple

from pytorch_lightning import Trainer
from pytorch_lightning.strategies import ModelParallelStrategy
from torch import nn

from rewardlab.errors import InputError
from rewardlab.networks.shards import whole

# Methods of policies and rewards that run a network, whose weights have to be whole then.
RUN = (
    "sample",
    "generate",
    "extend",
    "encode",
    "decode",
    "log_prob",
    "apply_loss",
    "apply_row_loss",
    "entropy",
    "value",
    "denoisings",
    "predict_x0",
    "members",
    "forward",
    "judge",
    "drawn_members",
    "members_and_likelihoods",
    "features",
    "score_features",
)


class PlainModule(NamedTuple):
    """A module as it was before its weights were spread."""

    module: nn.Module
    kind: type[nn.Module]
    attributes: set[str]
    hooks: dict[str, Any]


@dataclass(frozen=True)
class Spread:
    """A part whose weights are spread, and what it takes to bring them back.

    Attributes:
        part: the policy or the reward.
        blocks: number of blocks that are gathered one by one.
        plain: its modules as they were.
        added: names of the attributes that each of them got.
    """

    part: nn.Module
    blocks: int
    plain: list[PlainModule]
    added: list[set[str]]

    def undo(self, keep: bool) -> None:
        """Make the part what it was, with whole weights on the CPU; all processes take part.

        Args:
            keep: whether this process gets the weights. Elsewhere the part can be used no more.
        """
        for module, added in zip(self.plain, self.added, strict=True):
            _restore(module, added)
        gathered: dict[int, nn.Parameter] = {}  # a tied weight stays one
        for module in self.part.modules():
            for name, weight in module._parameters.items():
                if weight is None:
                    continue
                if id(weight) not in gathered:
                    gathered[id(weight)] = _plain_weight(weight, keep)
                module._parameters[name] = gathered[id(weight)]
        if keep:
            self.part.cpu()


def shard(
    part: nn.Module, mesh: Any, run: Collection[str] = RUN, gathered: Collection[str] = ()
) -> Spread:
    """Spread a policy's or a reward's weights over the processes of a mesh, in place.

    Weights, gradients and optimizer states are spread. While a method of `run` and its backward
    pass run, each block of the network (see `blocks_of`) is whole on each process only while it
    computes, and the weights outside of blocks are whole throughout. So the processes have to pass
    through the network equally often. In the methods of `gathered` all weights are whole, and the
    passes need not be equally many: texts that are drawn end at different tokens.

    Args:
        part: a module whose weights are all on one device.
        mesh: one dimension of a DeviceMesh.
        run: names of the methods that need the weights; those that the part lacks are left out.
        gathered: names of those whose number of passes may differ between processes.
    """
    from torch.distributed.fsdp import fully_shard

    plain = [_plain(module) for module in part.modules()]
    scalars = {parameter for parameter in part.parameters() if parameter.dim() == 0}
    blocks = blocks_of(part)
    for block in blocks:
        fully_shard(block, mesh=mesh, ignored_params=scalars)
    fully_shard(part, mesh=mesh, reshard_after_forward=True, ignored_params=scalars)
    is_running: list[str] = []
    for name in run:
        if hasattr(part, name):
            _make_whole_in(part, name, is_running, blocks if name in gathered else [])
    added = [set(module.module.__dict__) - module.attributes for module in plain]
    return Spread(part, len(blocks), plain, added)


def blocks_of(part: nn.Module) -> list[nn.Module]:
    """Return the blocks of a part's networks that are gathered one by one, the outermost ones.

    They are those that a model of transformers or diffusers says must not be split
    (`_no_split_modules`), or else the layers of its lists. A block without trained weights is left
    out: what is frozen may be run once for several rows, and so not equally often everywhere.

    Example:
        >>> from rewardlab.testing import tiny_causal_lm
        >>> [type(block).__name__ for block in blocks_of(tiny_causal_lm())]
        ['LlamaDecoderLayer', 'LlamaDecoderLayer']
    """
    names: set[str] = set()
    is_declared = False
    for module in part.modules():
        is_declared = is_declared or hasattr(module, "_no_split_modules")
        names.update(getattr(module, "_no_split_modules", None) or ())
    listed = set()
    if is_declared and not names:
        lists = [module for module in part.modules() if isinstance(module, nn.ModuleList)]
        listed = {id(layer) for layers in lists for layer in layers}
    blocks: list[nn.Module] = []
    inner: set[int] = set()
    for module in part.modules():
        is_block = type(module).__name__ in names or id(module) in listed
        if is_block and id(module) not in inner and _is_trained(module):
            blocks.append(module)
            inner.update(id(one) for one in module.modules())
    return blocks


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


def _is_trained(part: nn.Module) -> bool:
    return any(parameter.requires_grad for parameter in part.parameters())


def _make_whole_in(
    part: nn.Module, name: str, is_running: list[str], gathered: list[nn.Module]
) -> None:
    """Let a method have whole weights, unless another one that has them has called it."""
    from torch.distributed.fsdp import register_fsdp_forward_method

    method = getattr(part, name)
    if gathered:
        setattr(part, name, _gathering(method, gathered))
    register_fsdp_forward_method(part, name)
    outermost = getattr(part, name)

    @wraps(method)
    def run(*args: Any, **kwargs: Any) -> Any:
        if is_running:
            return method(*args, **kwargs)
        is_running.append(name)
        try:
            return outermost(*args, **kwargs)
        finally:
            is_running.pop()

    run.gathers_for = part  # type: ignore[attr-defined]
    setattr(part, name, run)


def _gathering(method: Callable[..., Any], blocks: list[nn.Module]) -> Callable[..., Any]:
    """Return a method that runs while all blocks are whole."""

    def gathering(*args: Any, **kwargs: Any) -> Any:
        with _whole_blocks(blocks):
            return method(*args, **kwargs)

    return gathering


@contextmanager
def _whole_blocks(blocks: list[Any]) -> Iterator[None]:
    """Keep all blocks whole inside the `with` block, however often they run."""
    for block in blocks:
        block.set_reshard_after_forward(False, recurse=False)
        block.unshard()
    try:
        yield
    finally:
        for block in blocks:
            block.set_reshard_after_forward(True, recurse=False)
            block.reshard()


def _plain(module: nn.Module) -> PlainModule:
    hooks = {}
    for name, value in module.__dict__.items():
        if "hooks" in name and isinstance(value, dict):
            hooks[name] = value.copy()
    return PlainModule(module, type(module), set(module.__dict__), hooks)


def _restore(plain: PlainModule, added: set[str]) -> None:
    """Give a module its class and its hooks back, and take what it got."""
    module = plain.module
    for name in added:
        module.__dict__.pop(name, None)
    module.__dict__.update(plain.hooks)
    module.__class__ = plain.kind


def _plain_weight(weight: nn.Parameter, keep: bool) -> nn.Parameter:
    """Return a weight, or what a process keeps of it, as a parameter that no process shares."""
    values = whole(weight.detach())
    kept = values.cpu() if keep else values.new_empty(0)
    return nn.Parameter(kept, requires_grad=weight.requires_grad)
