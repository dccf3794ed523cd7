"""Weights that are spread over processes between two steps (FSDP2), and their way back."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from functools import wraps
from typing import Any, NamedTuple

import torch
from pytorch_lightning import Trainer
from pytorch_lightning.strategies import ModelParallelStrategy
from torch import nn

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
    "prepared",
    "denoisings",
    "predict_x0",
    "members",
    "forward",
    "judge",
    "drawn_members",
    "members_and_likelihoods",
    "features",
    "score_features",
    "fit_feature_scale",
)

# Methods whose outputs have a gradient wherever they are called, so that FSDP2 has to expect it.
WITH_GRADIENT = {"prepared"}
# FSDP2 warns of outputs that are views, which would lose their hook if they were changed in place;
# no loop changes what a policy or a reward returns.
OF_VIEWS = "FSDP2-wrapped module .* returned a view tensor"


class ModuleForm(NamedTuple):
    """The class of a module, and those of its attributes that FSDP2 changes or adds."""

    kind: type[nn.Module]
    attributes: dict[str, Any]


class Spread:
    """A policy or a reward whose weights are spread, and what it takes to bring them back.

    Attributes:
        part: the policy or the reward.
        blocks: the modules that are gathered one by one.
        plain: the form that each module had before.
        added: names of the attributes that each module got.
    """

    def __init__(self, part: nn.Module, blocks: list[Any]) -> None:
        self.part = part
        self.blocks = blocks
        self.modules = list(part.modules())
        self.plain = [_plain_form(module) for module in self.modules]
        self.added = [set(module.__dict__) for module in self.modules]

    def note_added(self) -> None:
        """Note which attributes the modules have got since this object was made."""
        for number, module in enumerate(self.modules):
            self.added[number] = module.__dict__.keys() - self.added[number]

    @contextmanager
    def gathered(self) -> Iterator[None]:
        """Let the part be what it was before, in the `with` block of one of its methods.

        Its own weights are whole there already; those of the blocks are brought together too.
        """
        for block in self.blocks:
            block.unshard()
        forms = self._take_off()
        try:
            yield
        finally:
            for module, form in zip(self.modules, forms, strict=True):
                _give(module, form)
            for block in self.blocks:
                block.reshard()

    def undo(self, keep: bool) -> None:
        """Make the part what it was, with whole weights on the CPU; all processes take part.

        Args:
            keep: whether this process gets the weights. Elsewhere the part can be used no more.
        """
        self._take_off()
        gathered: dict[int, nn.Parameter] = {}  # a tied weight stays one
        for module in self.modules:
            for name, weight in module._parameters.items():
                if weight is None:
                    continue
                if id(weight) not in gathered:
                    gathered[id(weight)] = _plain_weight(weight, keep)
                module._parameters[name] = gathered[id(weight)]
        if keep:
            self.part.cpu()

    def _take_off(self) -> list[ModuleForm]:
        """Give each module its plain form, and return those that they had."""
        forms = []
        for module, plain, added in zip(self.modules, self.plain, self.added, strict=True):
            names = plain.attributes.keys() | added
            present = {name: module.__dict__[name] for name in names if name in module.__dict__}
            forms.append(ModuleForm(type(module), present))
            for name in added:
                module.__dict__.pop(name, None)
            _give(module, plain)
        return forms


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

    spread = Spread(part, blocks_of(part))
    scalars = {parameter for parameter in part.parameters() if parameter.dim() == 0}
    for block in spread.blocks:
        fully_shard(block, mesh=mesh, ignored_params=scalars)
    fully_shard(part, mesh=mesh, reshard_after_forward=True, ignored_params=scalars)
    is_running: list[str] = []
    for name in run:
        if hasattr(part, name):
            _make_whole_in(spread, name, is_running, name in gathered)
    spread.note_added()
    return spread


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
    blocks: list[nn.Module] = []
    inner: set[int] = set()
    for module in _candidates(part):
        if id(module) not in inner and _is_trained(module):
            blocks.append(module)
            inner.update(id(one) for one in module.modules())
    return blocks


def _candidates(part: nn.Module) -> list[nn.Module]:
    """Return what may be a block, an outer module before those in it."""
    modules = list(part.modules())
    models = [module for module in modules if hasattr(module, "_no_split_modules")]
    names: set[str] = set()
    for model in models:
        declared: Any = model._no_split_modules
        names.update(declared or ())
    if names:
        return [module for module in modules if type(module).__name__ in names]
    layers: list[nn.Module] = []
    for module in modules:
        if models and isinstance(module, nn.ModuleList):
            layers.extend(module)
    return layers


def is_sharded(trainer: Trainer) -> bool:
    """Tell whether a trainer's strategy spreads weights over processes."""
    return isinstance(trainer.strategy, ModelParallelStrategy)


def _is_trained(part: nn.Module) -> bool:
    return any(parameter.requires_grad for parameter in part.parameters())


def _make_whole_in(spread: Spread, name: str, is_running: list[str], gathered: bool) -> None:
    """Let a method have whole weights, unless another one that has them has called it."""
    from torch.distributed.fsdp import register_fsdp_forward_method

    part = spread.part
    method = getattr(part, name)
    if gathered:
        setattr(part, name, _gathering(method, spread))
    register_fsdp_forward_method(part, name)
    outermost = getattr(part, name)

    @wraps(method)
    def run(*args: Any, **kwargs: Any) -> Any:
        if is_running:
            return method(*args, **kwargs)
        is_running.append(name)
        try:
            has_gradient = torch.is_grad_enabled() or name in WITH_GRADIENT
            with warnings.catch_warnings(), torch.set_grad_enabled(has_gradient):
                warnings.filterwarnings("ignore", message=OF_VIEWS)
                return outermost(*args, **kwargs)
        finally:
            is_running.pop()

    run.gathers_for = part  # type: ignore[attr-defined]
    setattr(part, name, run)


def _gathering(method: Callable[..., Any], spread: Spread) -> Callable[..., Any]:
    """Return a method that runs while all of a part's weights are whole."""

    def gathering(*args: Any, **kwargs: Any) -> Any:
        with spread.gathered():
            return method(*args, **kwargs)

    return gathering


def _plain_form(module: nn.Module) -> ModuleForm:
    """Return the class of a module, with copies of its hooks."""
    hooks = {}
    for name, value in module.__dict__.items():
        if "hooks" in name and isinstance(value, dict):
            hooks[name] = value.copy()
    return ModuleForm(type(module), hooks)


def _give(module: nn.Module, form: ModuleForm) -> None:
    module.__dict__.update(form.attributes)
    module.__class__ = form.kind


def _plain_weight(weight: nn.Parameter, keep: bool) -> nn.Parameter:
    """Return a weight, or what a process keeps of it, as a parameter that no process shares."""
    values = whole(weight.detach())
    kept = values.cpu() if keep else values.new_empty(0)
    return nn.Parameter(kept, requires_grad=weight.requires_grad)
