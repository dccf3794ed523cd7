"""Low-rank adapters on any network, through peft."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from copy import deepcopy
from typing import Any

import torch
from torch import nn

from rewardlab.errors import InputError
from rewardlab.seeds import derive


def add(
    network: nn.Module, rank: int, layers: list[str] | str, dtype: torch.dtype, seed: int = 0
) -> None:
    """Freeze `network` in `dtype` and add a trainable float32 low-rank adapter to `layers`.

    LoRA, arXiv 2106.09685, with alpha = rank. The adapter starts as the identity; its random half
    comes from `seed`.

    Raises:
        InputError: if no layer of the network has such a name.
    """
    for parameter in network.parameters():
        parameter.requires_grad_(False)
        parameter.data = parameter.data.to(dtype)
    _inject(network, rank, layers, seed)
    for parameter in network.parameters():
        if parameter.requires_grad:
            parameter.data = parameter.data.float()


def _inject(network: nn.Module, rank: int, layers: list[str] | str, seed: int) -> None:
    """Put an adapter on each of the layers, with weights drawn from `seed`."""
    from peft import LoraConfig, inject_adapter_in_model

    config = LoraConfig(
        r=rank, lora_alpha=rank, init_lora_weights="gaussian", target_modules=layers
    )
    with torch.random.fork_rng():
        torch.manual_seed(derive(seed, "lora"))
        try:
            inject_adapter_in_model(config, network)
        except ValueError as error:
            raise InputError(
                f"lora_rank={rank} needs layers called {layers}; "
                f"{type(network).__name__} has none. Train it whole: lora_rank=null."
            ) from error


@contextmanager
def off(network: nn.Module) -> Iterator[None]:
    """Run `network` without its adapter inside the `with` block."""
    layers = _adapted_layers(network)
    for layer in layers:
        layer.enable_adapters(enabled=False)
    try:
        yield
    finally:
        for layer in layers:
            layer.enable_adapters(enabled=True)


def merged(network: nn.Module) -> nn.Module:
    """Return a copy whose weights contain the adapter, or `network` itself if it has none."""
    if not _adapted_layers(network):
        return network
    copy = deepcopy(network)
    adapted = set(_adapted_layers(copy))
    for name, module in list(copy.named_modules()):
        if module in adapted:
            module.merge()
            copy.set_submodule(name, module.get_base_layer())
    return copy


def _adapted_layers(network: nn.Module) -> list[Any]:
    from peft.tuners.tuners_utils import BaseTunerLayer

    return [module for module in network.modules() if isinstance(module, BaseTunerLayer)]
