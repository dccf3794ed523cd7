"""Prompts that several rows share, run once: which rows they are, and what is kept of them."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from rewardlab.networks.stillness import recomputing_parts

# share of a pass's tokens that must be saved by running prompts once; below it two passes cost more
WORTH_SHARING = 0.2


def keeps_only_keys_and_values(network: Any) -> bool:
    """Return whether a network's cache holds only the keys and values of every token.

    Then it has no window and no recurrent state.
    """
    from transformers.cache_utils import DynamicCache, DynamicLayer

    try:
        layers = DynamicCache(config=network.config).layers
    except (AttributeError, KeyError, TypeError, ValueError):  # a config that says too little
        return False
    return bool(layers) and all(type(layer) is DynamicLayer for layer in layers)


def recomputes(network: Any) -> bool:
    """Return whether a layer forgets its activations and recomputes them in the backward pass.

    Such a layer keeps no cache.
    """
    return bool(recomputing_parts(network))


def saves_enough(spared: int, whole: int) -> bool:
    """Tell whether sparing some of a pass's tokens is worth a second pass.

    Args:
        spared: tokens that are not run if each prompt is run once.
        whole: tokens that are run if every row is run whole.

    Example:
        >>> saves_enough(30, 100), saves_enough(10, 100)
        (True, False)
    """
    return spared >= WORTH_SHARING * whole


def prompt_cache(backbone: Any, ids: Tensor, mask: Tensor, positions: Tensor) -> Any:
    """Return the keys and values of prompts, a `DynamicCache` of transformers.

    Activations that the gradient needs are recomputed in the backward pass: less memory for a
    little time.

    Args:
        backbone: without its head; see `keeps_only_keys_and_values`.
        ids: int64 [P, T].
        mask: int64 [P, T], 1 where an id is no padding.
        positions: int64 [P, T].
    """
    if not torch.is_grad_enabled():
        return _cache(backbone, ids, mask, positions)
    from transformers.cache_utils import DynamicCache

    tensors = checkpoint(_keys_and_values, backbone, ids, mask, positions, use_reentrant=False)
    cache = DynamicCache(config=backbone.config)
    for layer in range(len(tensors) // 2):
        cache.update(tensors[2 * layer], tensors[2 * layer + 1], layer)
    return cache


def _cache(backbone: Any, ids: Tensor, mask: Tensor, positions: Tensor) -> Any:
    output = backbone(input_ids=ids, attention_mask=mask, position_ids=positions, use_cache=True)
    return output.past_key_values


def _keys_and_values(backbone: Any, ids: Tensor, mask: Tensor, positions: Tensor) -> list[Tensor]:
    """Return the keys and the values of each layer in turn."""
    tensors = []
    for layer in _cache(backbone, ids, mask, positions).layers:
        tensors.append(layer.keys)
        tensors.append(layer.values)
    return tensors
