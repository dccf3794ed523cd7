"""HTTP endpoints: the forms of requests, and the client that sends them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rewardlab.lazy import lazy_names

if TYPE_CHECKING:
    from rewardlab.endpoints.client import bearer, checked_url, post_json
    from rewardlab.endpoints.wire import chat_reply, chat_request

_HOMES = {
    "bearer": "rewardlab.endpoints.client",
    "chat_reply": "rewardlab.endpoints.wire",
    "chat_request": "rewardlab.endpoints.wire",
    "checked_url": "rewardlab.endpoints.client",
    "post_json": "rewardlab.endpoints.client",
}
__all__ = [
    "bearer",
    "chat_reply",
    "chat_request",
    "checked_url",
    "post_json",
]

__getattr__, __dir__ = lazy_names(__name__, _HOMES)
