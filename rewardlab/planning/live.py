"""The bytes of tensors that are alive, counted while code runs."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterable
from typing import Any

from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


class LiveBytes(TorchDispatchMode):
    """Count the bytes of all tensors' storages that are alive inside the `with` block.

    It sees every tensor that an operation makes, in the backward pass too, and each storage once.
    What an operation uses inside itself is not seen. Fake tensors count as if they were real.

    Attributes:
        current: bytes alive now.
        peak: largest number of bytes alive at once so far.

    Example:
        >>> import torch
        >>> with LiveBytes() as live:
        ...     x = torch.zeros(100)
        ...     del x
        >>> live.current, live.peak
        (0, 400)
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.current = 0
        self.peak = 0
        self._storages: weakref.WeakKeyDictionary[Any, int] = weakref.WeakKeyDictionary()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        self.count(leaf for leaf in tree_leaves(result) if isinstance(leaf, Tensor))
        return result

    def count(self, tensors: Iterable[Tensor]) -> None:
        """Count tensors that are there already, such as weights."""
        for tensor in tensors:
            storage = tensor.untyped_storage()
            if storage in self._storages:
                continue
            size = storage.nbytes()
            self._storages[storage] = size
            weakref.finalize(storage, self._end, size)
            self.current += size
        self.peak = max(self.peak, self.current)

    def _end(self, size: int) -> None:
        self.current -= size


def peak_beside(network: nn.Module, fake_mode: FakeTensorMode, run: Callable[[], object]) -> int:
    """Return the largest number of bytes alive beside a network while `run` runs it.

    Args:
        network: with fake tensors; gradients that `run` leaves are dropped.
        fake_mode: the mode of these tensors.
        run: what is measured.
    """
    live = LiveBytes()
    live.count([*network.parameters(), *network.buffers()])
    start = live.current
    with fake_mode, live:
        run()
    for weight in network.parameters():
        weight.grad = None
    return live.peak - start


def bytes_of(network: nn.Module) -> int:
    """Return the bytes of a network's weights and buffers, each storage once.

    Example:
        >>> bytes_of(nn.Linear(2, 3))
        36
    """
    sizes = {}
    for tensor in [*network.parameters(), *network.buffers()]:
        storage = tensor.untyped_storage()
        sizes[storage._cdata] = storage.nbytes()
    return sum(sizes.values())


def elements_of(network: nn.Module) -> int:
    """Return the number of a network's weights.

    Example:
        >>> elements_of(nn.Linear(2, 3))
        9
    """
    return sum(weight.numel() for weight in network.parameters())
