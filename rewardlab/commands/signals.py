"""Signals that end a command in good order: with what stands kept, and a sentence."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NoReturn

from rewardlab.errors import Terminated

# What a scheduler sends before it takes the machine, and what a closed terminal sends.
SIGNALS = (signal.SIGTERM, signal.SIGHUP)


@contextmanager
def ending_signals() -> Iterator[None]:
    """Let SIGTERM and SIGHUP end the block by an exception, as Ctrl-C does.

    One that is ignored, as SIGHUP is under nohup, stays ignored; one that has a handler keeps it.
    """
    changed = []
    if threading.current_thread() is threading.main_thread():
        changed = [number for number in SIGNALS if signal.getsignal(number) is signal.SIG_DFL]
    owner = os.getpid()

    def end(number: int, frame: object) -> NoReturn:
        if os.getpid() != owner:  # a process that was forked from this one ends as it always did
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)
        raise Terminated(number)

    for number in changed:
        signal.signal(number, end)
    try:
        yield
    finally:
        for number in changed:
            signal.signal(number, signal.SIG_DFL)
