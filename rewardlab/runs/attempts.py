"""When a run was worked on, by which command, and how that ended: part of run.json."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from rewardlab.errors import is_interruption

RUNNING = "running"
FINISHED = "finished"
INTERRUPTED = "interrupted"
FAILED = "failed"
_KEYS = ("command", "start", "end", "status")
_USER_OF_URL = re.compile(r"(://)[^/@\s]+@")


def typed_words(command: Sequence[str]) -> list[str]:
    """Return the words of a command without the users in URLs, who have passwords.

    Example:
        >>> typed_words(["score", "https://me:secret@host/reward"])
        ['score', 'https://host/reward']
    """
    return [_USER_OF_URL.sub(r"\1", word) for word in command]


def beginning(command: Sequence[str], facts: Mapping[str, Any]) -> dict[str, Any]:
    """Return the facts of an attempt that begins now.

    The attempt before goes into the list "earlier". One that a kill ended still says that it runs,
    and counts as interrupted.

    Args:
        command: the words that were typed; the user in a URL is left out.
        facts: run.json as it is.

    Example:
        >>> facts = beginning(["rewardlab", "fit"], {})
        >>> facts["command"], facts["status"], facts["end"], "earlier" in facts
        (['rewardlab', 'fit'], 'running', None, False)
        >>> again = beginning(["rewardlab", "fit", "--resume"], facts)
        >>> again["earlier"][0]["status"]
        'interrupted'
    """
    words = typed_words(command)
    attempt: dict[str, Any] = {
        "command": words,
        "start": _now(),
        "end": None,
        "status": RUNNING,
    }
    if "status" in facts:
        before = {key: facts.get(key) for key in _KEYS}
        if before["status"] == RUNNING:
            before["status"] = INTERRUPTED
        earlier = facts.get("earlier", [])
        attempt["earlier"] = [*earlier, before]
    return attempt


def ending(error: BaseException | None) -> dict[str, Any]:
    """Return the facts of an attempt that ends now, by an exception if there is one.

    Example:
        >>> ending(None)["status"], ending(KeyboardInterrupt())["status"]
        ('finished', 'interrupted')
    """
    status = FINISHED
    if error is not None:
        status = INTERRUPTED if is_interruption(error) else FAILED
    return {"end": _now(), "status": status}


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
