"""A running average of the trained weights that can stand in for them for a while."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from rewardlab.networks.shards import spread_as, whole
from rewardlab.networks.stand_ins import standing_in


class WeightAverage:
    """An exponential average of a module's trained weights; only those are copied.

    Args:
        module: whose weights are averaged; the average starts as they are.
        decay: share of the average that each update keeps.

    Example:
        >>> layer = nn.Linear(1, 1)
        >>> average = WeightAverage(layer, decay=0.5)
        >>> _ = layer.weight.data.add_(2.0)
        >>> average.update()
        >>> with average.in_place():
        ...     half = layer.weight.item()
        >>> round(layer.weight.item() - half, 4)
        1.0
    """

    def __init__(self, module: nn.Module, decay: float) -> None:
        self._module = module
        self.decay = decay
        self.tensors = [parameter.detach().clone() for parameter in self.parameters]

    @property
    def parameters(self) -> list[nn.Parameter]:
        """The module's trained weights, which are other objects once they are spread."""
        return [one for one in self._module.parameters() if one.requires_grad]

    @torch.no_grad()
    def update(self) -> None:
        """Move the average towards the weights by the share 1 - decay."""
        for index, parameter in enumerate(self.parameters):
            average = spread_as(self.tensors[index], parameter)
            self.tensors[index] = average.lerp(parameter.detach(), 1 - self.decay)

    @contextmanager
    def in_place(self) -> Iterator[None]:
        """Run the module with the average in place of its weights inside the `with` block."""
        with standing_in(self.parameters, self.tensors):
            yield

    def state(self) -> list[Tensor]:
        """Return the whole average, for a checkpoint; all processes take part."""
        return [whole(tensor) for tensor in self.tensors]

    def load(self, tensors: list[Tensor]) -> None:
        """Take up an average that `state` of another run returned."""
        self.tensors = [tensor.clone() for tensor in tensors]
