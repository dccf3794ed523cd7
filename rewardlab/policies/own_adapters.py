"""Adapters that a pipeline brings along: they stay a part of what it computes."""

from __future__ import annotations

from copy import deepcopy
from typing import Any

import torch
from torch import nn


def without_adapters(network: nn.Module, dtype: torch.dtype | None = None) -> Any:
    """Return a network that computes the same with plain layers; itself if it has no adapter.

    Adapters that are active are merged into the weights of a copy, with their scales. Those that
    are switched off are left out.

    Args:
        network: a network, with or without adapters of peft.
        dtype: precision of the copy, before the adapters are merged; by default the network's.

    Example:
        >>> layer = nn.Linear(2, 2)
        >>> without_adapters(layer) is layer
        True
    """
    if not adapted_layers(network):
        return network
    plain: Any = deepcopy(network)
    if dtype is not None:
        plain = plain.to(dtype)
    for name, layer in adapted_layers(plain).items():
        if not layer.disable_adapters:
            layer.merge()
        plain.set_submodule(name, layer.get_base_layer())
    if getattr(plain, "_hf_peft_config_loaded", False):  # of transformers and diffusers
        plain._hf_peft_config_loaded = False
    if hasattr(plain, "peft_config"):
        del plain.peft_config
    return plain


def adapted_layers(network: nn.Module) -> dict[str, Any]:
    """Return the layers that have an adapter, by their names."""
    from peft.tuners.tuners_utils import BaseTunerLayer

    layers = {}
    for name, module in network.named_modules():
        if isinstance(module, BaseTunerLayer):
            layers[name] = module
    return layers
