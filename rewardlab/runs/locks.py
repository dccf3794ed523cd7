"""Locks between processes, which the system releases when a process ends."""

from __future__ import annotations

import fcntl
import os
import weakref
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path


def lock_file(path: Path, *, wait: bool) -> int | None:
    """Lock a file, and write this process's id into it.

    Args:
        path: made if it is missing.
        wait: whether to wait for another process that has the lock.

    Returns:
        A handle that holds the lock until it is closed or the process ends; None if another process
        has it.
    """
    handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
    if not lock_handle(handle, wait=wait):
        os.close(handle)
        return None
    os.truncate(handle, 0)
    os.write(handle, str(os.getpid()).encode())
    return handle


def lock_handle(handle: int, *, wait: bool) -> bool:
    """Lock an open file until it is closed, and tell whether no other process has the lock."""
    at_once = 0 if wait else fcntl.LOCK_NB
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | at_once)
    except BlockingIOError:
        return False
    return True


@contextmanager
def locked(path: Path, *, wait: bool) -> Iterator[bool]:
    """Hold a file's lock inside a block; the block is told whether it has it."""
    handle = lock_file(path, wait=wait)
    try:
        yield handle is not None
    finally:
        if handle is not None:
            os.close(handle)


class HeldLock:
    """A lock that this process has for as long as somebody keeps this object.

    Args:
        handle: of the locked file.
    """

    def __init__(self, handle: int) -> None:
        self.handle = handle
        weakref.finalize(self, os.close, handle)

    def is_of(self, path: Path) -> bool:
        """Tell whether a path is still the file that is locked."""
        with suppress(FileNotFoundError):
            return os.path.samestat(os.fstat(self.handle), path.stat())
        return False


_HELD: weakref.WeakValueDictionary[tuple[int, Path], HeldLock] = weakref.WeakValueDictionary()


def held_lock(path: Path) -> HeldLock | None:
    """Lock a file against other processes; all who ask in this one share the lock.

    Args:
        path: made if it is missing.

    Returns:
        What holds the lock; None if another process has it.

    Example:
        >>> path = getfixture("tmp_path") / "a.lock"
        >>> first = held_lock(path)
        >>> held_lock(path) is first, lock_file(path, wait=False)
        (True, None)
    """
    key = (os.getpid(), path.resolve())  # a process that was forked off has none of its parent's
    lock = _HELD.get(key)
    if lock is not None and lock.is_of(path):
        return lock
    handle = lock_file(path, wait=False)
    if handle is None:
        return None
    lock = HeldLock(handle)
    _HELD[key] = lock
    return lock
