"""Networks as parts of a plan."""

from __future__ import annotations

from torch import nn

from rewardlab.planning.live import bytes_of, elements_of
from rewardlab.planning.memory_plan import Part


def part_of(name: str, network: nn.Module, *, on_device: bool = True) -> Part:
    """Return a network as a part of a plan; its precision is that of most of its weights.

    Example:
        >>> part_of("head", nn.Linear(9, 1))
        Part(name='head', dtype='float32', weights=10, size=40, on_device=True)
    """
    counts: dict[str, int] = {}
    for weight in network.parameters():
        dtype = str(weight.dtype).removeprefix("torch.")
        counts[dtype] = counts.get(dtype, 0) + weight.numel()
    dtype = max(counts, key=lambda dtype: counts[dtype], default="float32")
    return Part(name, dtype, elements_of(network), bytes_of(network), on_device)
