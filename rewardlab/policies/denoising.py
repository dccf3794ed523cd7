"""A denoiser's inputs beside x_t and the time, with and without the prompt, and its output."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from rewardlab.conversations import Prompt
from rewardlab.policies.families.base import Family, Inputs
from rewardlab.seeds import uniform

# prefixes of the inputs' names in a trajectory's tensors
COND = "cond."
UNCOND = "uncond."


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


def after_dropout(
    prompts: Sequence[Prompt], share: float, row_generators: list[torch.Generator]
) -> list[Prompt]:
    """Return the prompts, a share of which is forgotten.

    Example:
        >>> after_dropout(["a", "b"], 1.0, [torch.Generator(), torch.Generator()])
        ['', '']
    """
    dropped = uniform((), row_generators) < share
    rows = zip(prompts, dropped.tolist(), strict=True)
    return ["" if is_dropped else prompt for prompt, is_dropped in rows]


def guided_output(
    family: Family,
    denoiser: nn.Module,
    x: Tensor,
    time: Tensor,
    conditions: Conditions,
    guidance: float | Tensor,
) -> Tensor:
    """Return the network's output for x [N, *shape] in float32, guided where that is asked for.

    Further channels, which hold a learned variance, stay as they are with the prompt.
    """
    if not conditions.uncond:
        return family.call(denoiser, x, time, conditions.cond).float()
    x_twice = torch.cat([x, x])
    time_twice = torch.cat([time, time])
    outputs = family.call(denoiser, x_twice, time_twice, conditions.stacked()).float()
    uncond, cond = outputs.chunk(2)
    channels = x.shape[1]
    guided = family.guided(cond[:, :channels], uncond[:, :channels], guidance)
    return torch.cat([guided, cond[:, channels:]], 1)


def _repeated(inputs: Inputs, count: int) -> Inputs:
    return {name: tensor.repeat_interleave(count, 0) for name, tensor in inputs.items()}


def _without_prefix(tensors: Inputs, prefix: str) -> Inputs:
    """Return the tensors whose names begin with `prefix`, by the rest of their names."""
    selected = {}
    for name, tensor in tensors.items():
        if name.startswith(prefix):
            selected[name.removeprefix(prefix)] = tensor
    return selected
