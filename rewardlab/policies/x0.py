"""What a diffusion model expects an image to become, seen from a step on the way, with the gradient
of that one step.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from rewardlab.policies.samplers import Noising
from rewardlab.types import Samples, Trajectory


def predict_x0(policy: Any, trajectory: Trajectory, steps: Tensor) -> Samples:
    """Return the images that a DiffusionPolicy expects at the end of each trajectory, as it sees it
    at one of its steps.

    From x_t = s·x0 + n·ε and the network's output f, which stands for a·x0 + b·ε, follows x0 =
    (b·x_t - n·f)/(b·s - n·a): DDPM's equation 15 (arXiv 2006.11239) where f is ε. x_t, which
    earlier steps made, is a constant.

    Args:
        policy: a DiffusionPolicy.
        trajectory: what `policy.sample` returned, B rows.
        steps: int64 [B], which of a row's kept steps is looked from.

    Returns:
        Images [B, C, H, W] in [0, 1], differentiable by the policy's weights.

    Example:
        >>> from rewardlab import DiffusionPolicy
        >>> from rewardlab.policies.samplers import Sampler
        >>> from rewardlab.testing import tiny_diffusion
        >>> policy = DiffusionPolicy(tiny_diffusion(classes=0), sampler=Sampler(steps=3))
        >>> predict_x0(policy, policy.sample([""], seeds=torch.tensor([1])), torch.tensor([2])).outputs.requires_grad
        True
    """
    rows = torch.arange(len(steps), device=steps.device)
    x, time = (trajectory.tensors[name][rows, steps] for name in ("x", "time"))
    conditions = {
        name: tensor
        for name, tensor in trajectory.tensors.items()
        if name.startswith(("told.", "untold."))
    }
    output = policy._predict(x, time, conditions)
    table = Noising(*(getattr(policy, f"noising_{name}") for name in Noising.__dataclass_fields__))
    signal, noise, of_signal, of_noise = (
        column[:, None, None, None] for column in _at_time(table, time)
    )
    x0 = (of_noise * x - noise * output) / (of_noise * signal - noise * of_signal)
    outputs: Samples = policy.decode(
        replace(trajectory, tensors={**trajectory.tensors, "final": x0})
    )
    return outputs


def _at_time(table: Noising, time: Tensor) -> list[Tensor]:
    """Signal, noise, of_signal and of_noise [B] at each time, between the table's times along a
    line.
    """
    after = torch.searchsorted(table.time, time).clamp(1, len(table.time) - 1)
    share = (time - table.time[after - 1]) / (table.time[after] - table.time[after - 1])
    columns = (table.signal, table.noise, table.of_signal, table.of_noise)
    return [column[after - 1].lerp(column[after], share) for column in columns]
