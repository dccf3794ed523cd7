"""A table of tensors that drops what was used longest ago."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable, Mapping

from torch import Tensor


class BoundedTable:
    """Tensors by key, in the host's memory, up to a number of bytes.

    Args:
        limit: largest number of bytes; one entry that is larger is not kept.

    Attributes:
        size: bytes of the tensors that are kept.

    Example:
        >>> import torch
        >>> table = BoundedTable(limit=8)
        >>> table.put("a", {"x": torch.zeros(1)})
        >>> table.put("b", {"x": torch.zeros(2)})
        >>> table.get("a"), table.size
        (None, 8)
    """

    def __init__(self, limit: float) -> None:
        self.limit = limit
        self.size = 0
        self._entries: OrderedDict[Hashable, dict[str, Tensor]] = OrderedDict()

    def __len__(self) -> int:
        return len(self._entries)

    def get(self, key: Hashable) -> dict[str, Tensor] | None:
        """Return the tensors of a key, or None if they are not kept."""
        if key not in self._entries:
            return None
        self._entries.move_to_end(key)
        return self._entries[key]

    def put(self, key: Hashable, tensors: Mapping[str, Tensor]) -> None:
        """Keep copies of tensors, and drop the oldest until they fit."""
        self._drop(key)
        size = _size(tensors)
        if size > self.limit:
            return
        while self.size + size > self.limit:
            self._drop(next(iter(self._entries)))
        copies = {}
        for name, tensor in tensors.items():
            copies[name] = tensor.detach().cpu().clone()
        self._entries[key] = copies
        self.size += size

    def _drop(self, key: Hashable) -> None:
        dropped = self._entries.pop(key, None)
        if dropped is not None:
            self.size -= _size(dropped)


def _size(tensors: Mapping[str, Tensor]) -> int:
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors.values())
