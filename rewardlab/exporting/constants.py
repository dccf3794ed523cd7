"""A score's constant, put into the bias of a network's last norm where there is one."""

from __future__ import annotations

from copy import deepcopy
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn


class Settled(NamedTuple):
    """A network, and what of a constant it does not hold.

    Attributes:
        network: a sequence classifier.
        offset: 0 where its logit holds all.
    """

    network: Any
    offset: float


@torch.no_grad()
def with_constant(network: Any, offset: float) -> Settled:
    """Return a classifier whose logit is higher by a constant, where its last norm has a bias.

    A `score` head has no bias. But where its states come from a LayerNorm with a bias (GPT-2,
    GPT-NeoX, Phi), they may be moved along the head's weight w by offset · w/|w|², which adds the
    offset to every logit and nothing else. The norms of Llama's and Qwen's kind have no bias.

    Args:
        network: a sequence classifier of one label with a `score` head; it stays as it is.
        offset: the constant.
    """
    name = _last_norm(network.base_model)
    weight = network.score.weight[0].double()
    if offset == 0 or name is None or not weight.norm() > 0:
        return Settled(network, offset)
    shared = {id(parameter): parameter for parameter in network.parameters()}
    moved = deepcopy(network, shared)
    norm: Any = moved.base_model.get_submodule(name)
    step = (offset / weight.square().sum()) * weight
    norm.bias = nn.Parameter((norm.bias.double() + step).to(norm.bias.dtype), requires_grad=False)
    difference = _logit(moved) - _logit(network)
    if (difference - offset).abs() > 1e-5 * max(1.0, abs(offset)):
        return Settled(network, offset)  # states are not the norm's
    return Settled(moved, 0.0)


def _last_norm(base: nn.Module) -> str | None:
    """Return the name of a base model's own last LayerNorm with a bias, None without one."""
    name = None
    for child_name, child in base.named_children():
        if isinstance(child, nn.LayerNorm) and child.bias is not None:
            name = child_name
    return name


def _logit(network: Any) -> Tensor:
    """Return the logit of one token."""
    token = torch.zeros(1, 1, dtype=torch.long)
    logits: Tensor = network(input_ids=token, use_cache=False).logits
    return logits[0, 0].double()
