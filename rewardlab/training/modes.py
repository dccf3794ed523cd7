"""Context managers that change the modes of modules for a while."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.dropout import _DropoutNd

from rewardlab.networks.stillness import random_rates, recomputing_parts


@contextmanager
def evaluating(parts: Iterable[nn.Module]) -> Iterator[None]:
    """Put modules into evaluation mode for a while, without their children.

    Each module gets its own mode back.

    Example:
        >>> outer = nn.Sequential(nn.Dropout())
        >>> with evaluating([outer]):
        ...     outer.training, outer[0].training
        (False, True)
        >>> outer.training
        True
    """
    parts = list(parts)
    modes = [part.training for part in parts]
    try:
        for part in parts:
            part.training = False
        yield
    finally:
        for part, mode in zip(parts, modes, strict=True):
            part.training = mode


def random_parts(policy: nn.Module) -> list[nn.Module]:
    """Return the parts of a policy that draw at random or by the batch in training mode.

    They are dropouts, batch norms, and layers with a rate of dropout of their own. They would make
    what samples differ from what is scored. The other parts keep their mode, since gradient
    checkpointing may depend on it; so do layers that recompute their activations.
    """
    kinds = (_DropoutNd, _BatchNorm)
    recomputing = set(recomputing_parts(policy))
    parts = []
    for part in policy.modules():
        draws = isinstance(part, kinds) or bool(random_rates(part))
        if draws and part not in recomputing:
            parts.append(part)
    return parts


def steady_parts(module: nn.Module) -> list[nn.Module]:
    """Return the parts that may go into evaluation mode for a forward pass alone.

    They are all but those that recompute their activations and draw nothing: transformers' layers
    recompute in training mode only, and whatever is inside of them is in evaluation mode already.
    """
    kept = set()
    for part in recomputing_parts(module):
        inner = list(part.modules())[1:]
        if not random_rates(part) and not any(child.training for child in inner):
            kept.add(part)
    return [part for part in module.modules() if part not in kept]
