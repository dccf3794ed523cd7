"""The web application: routes, what is refused, and the way of a request through a scorer."""

from __future__ import annotations

import asyncio
import hmac
import json
import logging
import math
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, NoReturn

from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.requests import ClientDisconnect, Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

from rewardlab.serving.dialects.base import Dialect
from rewardlab.serving.dialects.table import DIALECTS
from rewardlab.serving.limits import Limits, RefusalError
from rewardlab.serving.metrics import CONTENT_TYPE, Metrics
from rewardlab.serving.rows import Row, Score
from rewardlab.serving.scorer import Job, Scorer

_log = logging.getLogger("rewardlab")
SMALL = 2**15  # bytes of a body that is read without leaving the event loop
LOCAL = ("127.0.0.1", "localhost", "[::1]", "::1")
GONE = 499  # for the metrics: the client went away before the answer


class RewardApp:
    """Six dialects over scorers, as an ASGI application.

    Args:
        scorers: one a reward, of different names; the first is the default.
        limits: what is accepted.
        token: that requests have to bring as a bearer, None for none.
        aliases: further names of rewards, such as the folders that they were loaded from.
        local: whether the server listens on loopback; without a token, requests then have to name
            a loopback host, so that no web page reaches it by another name.

    Attributes:
        asgi: the application.
        draining: whether new requests are refused, since the server stops.
        in_flight: how many requests are being answered.
    """

    def __init__(
        self,
        scorers: Sequence[Scorer],
        limits: Limits | None = None,
        token: str | None = None,
        aliases: Mapping[str, str] | None = None,
        local: bool = True,
    ) -> None:
        self.scorers = {scorer.name: scorer for scorer in scorers}
        self.aliases = dict(aliases or {})
        self.default = scorers[0]
        self.metrics = Metrics()
        for scorer in scorers:
            scorer.metrics = self.metrics
        self.limits = limits or Limits()
        self.draining = False
        self.in_flight = 0
        self._token = None if token is None else token.encode()
        self._local = local
        routes = [
            Route("/health", self._health, methods=["GET"]),
            Route("/metrics", self._show_metrics, methods=["GET"]),
        ]
        for dialect in DIALECTS:
            routes.append(Route(dialect.path, self._endpoint(dialect), methods=["POST"]))
        self.asgi = Starlette(routes=routes)

    @property
    def idle(self) -> bool:
        """Tell whether nothing is being answered."""
        return not self.in_flight

    async def _health(self, request: Request) -> Response:
        if self.draining:
            return _json({"status": "stopping"}, 503)
        return _json({"status": "ok"})

    async def _show_metrics(self, request: Request) -> Response:
        try:
            self._check_caller(request)
        except RefusalError as refusal:
            return _json({"error": refusal.sentence}, refusal.status, refusal.headers)
        queues = {name: len(scorer) for name, scorer in self.scorers.items()}
        return PlainTextResponse(self.metrics.text(queues), media_type=CONTENT_TYPE)

    def _endpoint(self, dialect: Dialect) -> Callable[[Request], Awaitable[Response]]:
        """Return the endpoint of a dialect, which counts each request."""

        async def answer(request: Request) -> Response:
            started = time.monotonic()
            self.in_flight += 1
            try:
                response = await self._answer(dialect, request)
            except RefusalError as refusal:
                content = dialect.refuse(refusal.status, refusal.sentence)
                response = _json(content, refusal.status, refusal.headers)
            finally:
                self.in_flight -= 1
            seconds = time.monotonic() - started
            self.metrics.count_request(dialect.name, response.status_code, seconds)
            return response

        return answer

    async def _answer(self, dialect: Dialect, request: Request) -> Response:
        """Read a request, score its rows and write the answer.

        Raises:
            RefusalError: if it is not answered with scores.
        """
        if self.draining:
            raise RefusalError(
                503, "The server is stopping. Ask another one.", {"Connection": "close"}
            )
        self._check_caller(request)
        content = await self._content(request)
        if len(content) > SMALL:
            body = await run_in_threadpool(_parsed, content)
        else:
            body = _parsed(content)
        scorer = self._scorer(request, body)
        rows = await self._rows(dialect, body, scorer, len(content))
        scores = await _scores(scorer.submit(rows), request)
        return _json(dialect.write(body, scores, scorer.name))

    async def _rows(
        self, dialect: Dialect, body: Mapping[str, Any], scorer: Scorer, size: int
    ) -> list[Row]:
        """Return a body's rows; large bodies, such as of pictures, are read in another thread."""
        if size > SMALL:
            rows = await run_in_threadpool(dialect.read, body, scorer.reward, self.limits)
        else:
            rows = dialect.read(body, scorer.reward, self.limits)
        self._tell_notes(scorer, [row.note for row in rows if row.note])
        return rows

    def _tell_notes(self, scorer: Scorer, notes: Sequence[str]) -> None:
        """Count rows that are read otherwise than their sender may think, and log the first."""
        if notes and self.metrics.count_unparted(scorer.name, len(notes)) == len(notes):
            _log.warning(
                "%s: %s, so it is scored whole, as its sender formatted it; "
                "rewardlab_unparted_total of /metrics counts further ones. Does the trainer send "
                "prompts and queries in one form, special tokens included?",
                scorer.name,
                notes[0],
            )

    def _check_caller(self, request: Request) -> None:
        """Refuse a request without the token, or by a host name that is not this machine's.

        Raises:
            RefusalError: 401 or 421.
        """
        if self._token is not None:
            given = request.headers.get("authorization", "")
            scheme, _, token = given.partition(" ")
            is_right = hmac.compare_digest(token.strip().encode(), self._token)
            if scheme.lower() != "bearer" or not is_right:
                raise RefusalError(
                    401,
                    "This server wants its token: Authorization: Bearer TOKEN.",
                    {"WWW-Authenticate": "Bearer"},
                )
        elif self._local and request.url.hostname not in LOCAL:
            raise RefusalError(421, "This server answers to 127.0.0.1 and localhost alone.")

    async def _content(self, request: Request) -> bytes:
        """Return the body of a request.

        Raises:
            RefusalError: 415 if it is not said to be JSON, 413 if it is too large, 408 if it is
                slow.
        """
        kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
        if kind != "application/json":
            raise RefusalError(415, "A request's Content-Type should be application/json.")
        length = request.headers.get("content-length", "")
        if length.isdigit() and int(length) > self.limits.body_bytes:
            raise self._too_large()
        try:
            return await asyncio.wait_for(self._read(request), self.limits.read_seconds)
        except TimeoutError:
            raise RefusalError(
                408,
                f"The request had not arrived after {self.limits.read_seconds:g} s.",
                {"Connection": "close"},
            ) from None
        except ClientDisconnect:
            raise RefusalError(GONE, "The client went away.") from None

    async def _read(self, request: Request) -> bytes:
        content = bytearray()
        async for piece in request.stream():
            content += piece
            if len(content) > self.limits.body_bytes:
                raise self._too_large()
        return bytes(content)

    def _too_large(self) -> RefusalError:
        return RefusalError(
            413,
            f"A request may have {self.limits.body_bytes} bytes; this one has more. Send fewer "
            "texts or pictures at once.",
            {"Connection": "close"},
        )

    def _scorer(self, request: Request, body: Mapping[str, Any]) -> Scorer:
        """Return the scorer that a request names by `?reward=` or "model"; the first by default.

        Raises:
            RefusalError: 404 if there is none of that name.
        """
        name = request.query_params.get("reward") or body.get("model")
        if name is None or name == "":
            return self.default
        known = self.aliases.get(name, name) if isinstance(name, str) else name
        if not isinstance(known, str) or known not in self.scorers:
            raise RefusalError(
                404,
                f"There is no reward {str(name)[:60]!r} here, only {', '.join(self.scorers)}.",
            )
        return self.scorers[known]


def _parsed(content: bytes) -> Mapping[str, Any]:
    """Return the object that a body holds.

    Raises:
        RefusalError: 400 if it is no JSON, 422 if it is no object.
    """
    try:
        body = json.loads(content, parse_constant=_refuse_constant, parse_float=_finite)
    except (ValueError, RecursionError) as error:
        raise RefusalError(400, f"A request's body should be JSON; {str(error)[:100]}.") from None
    if not isinstance(body, dict):
        raise RefusalError(422, f"A request should be a JSON object; got {type(body).__name__}.")
    return body


def _refuse_constant(word: str) -> NoReturn:
    raise ValueError(f"{word} is no JSON")


def _finite(word: str) -> float:
    value = float(word)
    if math.isinf(value):  # NeMo Gym's form sends a body back, and JSON has no word for it
        raise ValueError(f"{word[:40]} is beyond every number of JSON's readers")
    return value


async def _scores(job: Job, request: Request) -> list[Score]:
    """Wait for the scores of a request; drop its rows if the client goes away.

    Raises:
        RefusalError: as the scorer says, or 499.
    """
    scored = asyncio.wrap_future(job.future)
    gone = asyncio.ensure_future(request.receive())
    either: set[asyncio.Future[Any]] = {scored, gone}
    try:
        await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
        if not scored.done():
            scored.cancel()
            raise RefusalError(GONE, "The client went away.")
        return scored.result()
    finally:
        gone.cancel()


def _json(content: Any, status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    """Return plain data as JSON; it holds no NaN."""
    text = json.dumps(content, allow_nan=False, separators=(",", ":"))
    return Response(text, status, headers, "application/json")
