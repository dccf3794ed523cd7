"""What damaged files make their loaders raise, as one sentence that names them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from rewardlab.errors import InputError


@contextmanager
def loading(path: str | Path) -> Iterator[None]:
    """Refuse in a sentence whatever a file or a folder makes its loader raise.

    What is cut off, edited or of another version can make a loader raise anything. The exception
    that it raised is the sentence's cause.

    Raises:
        InputError: naming the path; one that is raised inside comes out as it was.

    Example:
        >>> with loading("runs/reward"):
        ...     {}["weights"]
        Traceback (most recent call last):
        rewardlab.errors.InputError: runs/reward cannot be loaded (KeyError: 'weights'). ...
    """
    try:
        yield
    except InputError:
        raise
    except Exception as error:  # a foreign file can make a library raise anything
        lines = str(error).splitlines() or [""]
        raise InputError(
            f"{path} cannot be loaded ({type(error).__name__}: {lines[0][:200]}). Is it, or a file "
            "in it, cut off, edited or of another version? Save or copy it again."
        ) from error
