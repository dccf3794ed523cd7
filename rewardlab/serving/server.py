"""The process: a socket, uvicorn, and a stop that finishes what was accepted."""

from __future__ import annotations

import errno
import ipaddress
import logging
import socket
import time
from collections.abc import Callable
from types import FrameType
from typing import Any

import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

from rewardlab.errors import InputError
from rewardlab.serving.app import RewardApp

KEEP_ALIVE = 75  # seconds that a connection may rest between two requests
CONNECTIONS = 1000
GRACE = 5  # seconds for answers that are being sent when the server ends


def bound_socket(host: str, port: int) -> socket.socket:
    """Return a socket that is bound to an address and does not listen yet.

    Args:
        host: a name or an address.
        port: 0 for a free one.

    Raises:
        InputError: if the port is taken, or the address is none of this machine's.
    """
    if not 0 <= port < 2**16:  # getaddrinfo would take its last 16 bits
        raise InputError(f"A port is a number from 0 to 65535; got {port}.")
    try:
        kind, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        bound = socket.socket(kind, socket.SOCK_STREAM)
    except OSError as error:
        raise InputError(f"{host} is no address to listen on: {error}.") from None
    bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        bound.bind(address)
    except OSError as error:
        bound.close()
        if error.errno == errno.EADDRINUSE:
            raise InputError(
                f"Port {port} of {host} is in use. Give another --port, or 0 for a free one."
            ) from None
        raise InputError(f"Cannot listen on {host}, port {port}: {error}.") from None
    return bound


def is_loopback(host: str) -> bool:
    """Tell whether only this machine reaches an address.

    Example:
        >>> is_loopback("localhost"), is_loopback("127.0.0.2"), is_loopback("0.0.0.0")
        (True, True, False)
    """
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


class RewardServer(uvicorn.Server):
    """uvicorn, with a stop that first finishes the requests that it accepted.

    SIGTERM and SIGINT let it refuse new requests with 503, finish the others, and end. A second
    signal ends it at once. `handle_exit` does the same from another thread.

    Args:
        app: what answers.
        bound: the socket, from `bound_socket`.
        on_ready: called with the URL when requests are answered.

    Attributes:
        url: where it answers.
    """

    def __init__(
        self,
        app: RewardApp,
        bound: socket.socket,
        on_ready: Callable[[str], None] = lambda url: None,
    ) -> None:
        self.app = app
        self.bound = bound
        host, port = bound.getsockname()[:2]
        self.url = f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
        self._on_ready = on_ready
        self._drain_until: float | None = None
        config = uvicorn.Config(
            app.asgi,
            http=_timed_protocol(app.limits.read_seconds),
            ws="none",
            lifespan="off",
            log_config=None,
            log_level=logging.WARNING,
            access_log=False,
            server_header=False,
            proxy_headers=False,
            limit_concurrency=CONNECTIONS,
            timeout_keep_alive=KEEP_ALIVE,
            timeout_graceful_shutdown=GRACE,
        )
        super().__init__(config)

    def serve_rewards(self) -> None:
        """Answer requests until a signal, then end the scorers.

        Raises:
            Exception: as `on_ready` raises it; then nothing is served.
        """
        try:
            self.run(sockets=[self.bound])
        finally:
            self.bound.close()
            for scorer in self.app.scorers.values():
                scorer.close()

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Listen, and say so."""
        await super().startup(sockets=sockets)
        if self.started:
            self._on_ready(self.url)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Begin to stop; at the second call, stop at once."""
        if self.app.draining:
            self.force_exit = True
            self.should_exit = True
        self.app.draining = True

    async def on_tick(self, counter: int) -> bool:
        """Tell whether to end: when the requests that were accepted are answered, or time is up."""
        if self.app.draining:
            if self._drain_until is None:
                self._drain_until = time.monotonic() + self.app.limits.drain_seconds
            is_late = time.monotonic() > self._drain_until
            self.should_exit = self.should_exit or self.app.idle or is_late
        return await super().on_tick(counter)


def _timed_protocol(seconds: float) -> Any:
    """Return uvicorn's protocol with a time limit on a request's head.

    A connection whose head is not there in time is closed. uvicorn itself waits for a first
    request, and for the rest of a head, as long as it takes.
    """

    class Timed(H11Protocol):
        _head_timer: Any = None

        def connection_made(self, transport: Any) -> None:
            super().connection_made(transport)
            self._start_timer()

        def data_received(self, data: bytes) -> None:
            super().data_received(data)
            if self._is_answering():
                self._stop_timer()
            elif self._head_timer is None:
                self._start_timer()

        def connection_lost(self, exc: Exception | None) -> None:
            self._stop_timer()
            super().connection_lost(exc)

        def _is_answering(self) -> bool:
            return self.cycle is not None and not self.cycle.response_complete

        def _start_timer(self) -> None:
            self._head_timer = self.loop.call_later(seconds, self._expire)

        def _stop_timer(self) -> None:
            if self._head_timer is not None:
                self._head_timer.cancel()
                self._head_timer = None

        def _expire(self) -> None:
            self._head_timer = None
            if not self._is_answering():
                self.transport.close()

    return Timed
