"""A table of tensors up to a number of bytes, of use also where an epoch has more rows than fit."""

from __future__ import annotations

import logging
from collections import OrderedDict
from collections.abc import Hashable, Mapping
from dataclasses import dataclass

from torch import Tensor

log = logging.getLogger("rewardlab")
STALE = 4  # times as many uses of a full table as it has entries: then an entry gives way
_MOST_NOTED = 2**16  # keys of entries that found no room


@dataclass
class _Entry:
    """What is kept of a key, and the number of its last use."""

    tensors: dict[str, Tensor]
    used: int


class BoundedTable:
    """Tensors by key, in the host's memory, up to a number of bytes.

    A full table keeps what it has, so an epoch over twice as many rows finds half of them. A table
    that drops what was used longest ago would find none. An entry gives way when
    it was not in use during the last `STALE` times as many uses as there are entries. When
    something comes again that found no room, the log says so once.

    Args:
        limit: largest number of bytes; one entry that is larger is not kept.
        what: name of the entries in the log, and of the setting that has the limit.

    Attributes:
        size: bytes of the tensors that are kept.

    Example:
        >>> import torch
        >>> table = BoundedTable(limit=8)
        >>> table.put("a", {"x": torch.zeros(2)})
        >>> table.put("b", {"x": torch.zeros(1)})
        >>> table.get("a"), table.get("b"), table.size
        ({'x': tensor([0., 0.])}, None, 8)
    """

    def __init__(self, limit: float, what: str = "entries") -> None:
        self.limit = limit
        self.what = what
        self.size = 0
        self._uses = 0
        self._entries: OrderedDict[Hashable, _Entry] = OrderedDict()
        self._without_room: set[int] = set()
        self._is_said = False

    def __len__(self) -> int:
        return len(self._entries)

    def get(self, key: Hashable) -> dict[str, Tensor] | None:
        """Return the tensors of a key, or None if they are not kept."""
        self._uses += 1
        entry = self._entries.get(key)
        if entry is None:
            self._say(key)
            return None
        entry.used = self._uses
        self._entries.move_to_end(key)
        return entry.tensors

    def put(self, key: Hashable, tensors: Mapping[str, Tensor]) -> None:
        """Keep copies of tensors, if there is room or an entry gives way."""
        self._drop(key)
        size = _size(tensors)
        while self._entries and self.size + size > self.limit and self._is_stale():
            self._drop(next(iter(self._entries)))
        if self.size + size > self.limit:
            self._note(key)
            return
        copies = {}
        for name, tensor in tensors.items():
            copies[name] = tensor.detach().cpu().clone()
        self._entries[key] = _Entry(copies, self._uses)
        self.size += size

    def _is_stale(self) -> bool:
        """Tell whether the entry that was used longest ago gives way."""
        oldest = next(iter(self._entries.values()))
        return self._uses - oldest.used > STALE * len(self._entries)

    def _drop(self, key: Hashable) -> None:
        dropped = self._entries.pop(key, None)
        if dropped is not None:
            self.size -= _size(dropped.tensors)

    def _note(self, key: Hashable) -> None:
        if self.limit and not self._is_said and len(self._without_room) < _MOST_NOTED:
            self._without_room.add(hash(key))

    def _say(self, key: Hashable) -> None:
        """Say once that what found no room has come again."""
        if self._is_said or hash(key) not in self._without_room:
            return
        log.warning(
            "%.3g GiB hold %d of the encoded %s; more came again, and are encoded each time. "
            "Raise resources.%s of the policy, if the host has the memory.",
            self.limit / 2**30,
            len(self),
            self.what,
            self.what,
        )
        self._is_said = True
        self._without_room.clear()


def _size(tensors: Mapping[str, Tensor]) -> int:
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors.values())
