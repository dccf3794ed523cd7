"""Other values that stand in for a network's weights for a while."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from torch import Tensor, nn

from rewardlab.networks.shards import is_spread, spread_as


@contextmanager
def standing_in(weights: Sequence[nn.Parameter], values: Sequence[Tensor]) -> Iterator[None]:
    """Run a network with other values of its weights inside the `with` block.

    The weights are the same objects, so optimizers and adapters keep theirs.

    Args:
        weights: of the network.
        values: a tensor for each weight, of its shape; on any device.

    Example:
        >>> import torch
        >>> layer = nn.Linear(1, 1, bias=False)
        >>> with standing_in([layer.weight], [torch.tensor([[5.0]])]):
        ...     layer(torch.ones(1)).item()
        5.0
    """
    originals = [_put(weight, value) for weight, value in zip(weights, values, strict=True)]
    try:
        yield
    finally:
        for weight, original in zip(weights, originals, strict=True):
            _put(weight, original)


def _put(weight: nn.Parameter, value: Tensor) -> Tensor:
    """Give a weight another value, and return the one that it had."""
    original = weight.data
    if not is_spread(weight):
        weight.data = value.to(weight.device)
        return original
    original = original.clone()
    weight.data.copy_(spread_as(value, weight))  # FSDP2 gathers from this memory alone
    return original
