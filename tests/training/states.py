"""Two distributions over four states, for tests of the density ratio."""

from typing import NamedTuple

import torch
from torch import Tensor

P = torch.tensor([0.5, 0.25, 0.125, 0.125], dtype=torch.float64)
Q = torch.tensor([0.125, 0.125, 0.25, 0.5], dtype=torch.float64)


class Counted(NamedTuple):
    """States, and their labels: 1 for a target, 0 for a generated one."""

    states: Tensor
    labels: Tensor


def counted(targets, generated):
    """States drawn exactly as often as P and Q say."""
    states = torch.arange(4)
    of_targets = states.repeat_interleave((targets * P).long())
    of_generated = states.repeat_interleave((generated * Q).long())
    labels = torch.cat([torch.ones(len(of_targets)), torch.zeros(len(of_generated))])
    return Counted(torch.cat([of_targets, of_generated]), labels)
