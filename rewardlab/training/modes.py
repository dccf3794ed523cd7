"""Context managers that change the modes of modules for a while."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.dropout import _DropoutNd


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
    """Return the dropouts and batch norms of a policy.

    In training mode they would make what samples differ from what is scored. The other parts keep
    their mode, since gradient checkpointing may depend on it.
    """
    kinds = (_DropoutNd, _BatchNorm)
    return [part for part in policy.modules() if isinstance(part, kinds)]


@contextmanager
def frozen(module: nn.Module) -> Iterator[None]:
    """Switch off the gradients of a module's parameters for a while."""
    trained = [parameter for parameter in module.parameters() if parameter.requires_grad]
    for parameter in trained:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in trained:
            parameter.requires_grad_(True)
