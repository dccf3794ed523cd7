"""A denoiser's inputs beside x_t and the time, with and without the prompt, and its output."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

Inputs = Mapping[str, Tensor]
# prefixes of the inputs' names in a trajectory's tensors
COND = "cond."
UNCOND = "uncond."
# SDXL's inputs, which its UNet takes in a dictionary of their own
ADDED = ("text_embeds", "time_ids")


@dataclass(frozen=True)
class Conditions:
    """Named inputs of a denoiser for B rows.

    Attributes:
        cond: inputs that say the prompt, each [B, ...].
        uncond: inputs of the same names that say the negative prompt; empty without guidance.
    """

    cond: Inputs
    uncond: Inputs = field(default_factory=dict)

    def tensors(self) -> dict[str, Tensor]:
        """Return the inputs as a trajectory stores them, under the prefixes."""
        tensors = {COND + name: tensor for name, tensor in self.cond.items()}
        for name, tensor in self.uncond.items():
            tensors[UNCOND + name] = tensor
        return tensors

    def repeated(self, count: int) -> Conditions:
        """Return the inputs with each row `count` times in succession."""
        cond = _repeated(self.cond, count)
        uncond = _repeated(self.uncond, count)
        return Conditions(cond, uncond)

    def stacked(self) -> Inputs:
        """Return the inputs of 2·B rows: the unconditional ones, then the conditional ones."""
        stacked = {}
        for name, tensor in self.cond.items():
            stacked[name] = torch.cat([self.uncond[name], tensor])
        return stacked


def stored_conditions(tensors: Inputs) -> Conditions:
    """Return the conditions that a trajectory's tensors hold.

    Example:
        >>> conditions = Conditions({"class_labels": torch.tensor([3])})
        >>> stored_conditions(conditions.tensors()) == conditions
        True
    """
    cond = _without_prefix(tensors, COND)
    uncond = _without_prefix(tensors, UNCOND)
    return Conditions(cond, uncond)


def guided_output(
    denoiser: nn.Module, x: Tensor, time: Tensor, conditions: Conditions, guidance: float
) -> Tensor:
    """Return the network's output [N, *shape] in float32.

    It is guided (classifier-free guidance, arXiv 2207.12598) where there are unconditional inputs.
    """
    if not conditions.uncond:
        return plain_output(denoiser, x, time, conditions.cond)
    x_twice = torch.cat([x, x])
    time_twice = torch.cat([time, time])
    outputs = plain_output(denoiser, x_twice, time_twice, conditions.stacked())
    uncond, cond = outputs.chunk(2)
    return uncond + guidance * (cond - uncond)


def plain_output(denoiser: nn.Module, x: Tensor, time: Tensor, inputs: Inputs) -> Tensor:
    """Return the network's output [N, *shape] in float32 for one set of inputs.

    Further channels, which hold a learned variance, are cut off.
    """
    arguments: dict[str, Any] = {}
    added = {}
    for name, tensor in inputs.items():
        if name in ADDED:
            added[name] = tensor
        else:
            arguments[name] = tensor
    if added:
        arguments["added_cond_kwargs"] = added
    output: Tensor = denoiser(x, timestep=time, **arguments, return_dict=False)[0]
    return output[:, : x.shape[1]].float()


def _repeated(inputs: Inputs, count: int) -> Inputs:
    return {name: tensor.repeat_interleave(count, 0) for name, tensor in inputs.items()}


def _without_prefix(tensors: Inputs, prefix: str) -> Inputs:
    """Return the tensors whose names begin with `prefix`, by the rest of their names."""
    selected = {}
    for name, tensor in tensors.items():
        if name.startswith(prefix):
            selected[name.removeprefix(prefix)] = tensor
    return selected
