"""The HTTP client of remote rewards and judges, with retries, time limits and no redirects."""

from __future__ import annotations

import json
import math
import os
import random
import time
from http.client import HTTPException, HTTPResponse, IncompleteRead
from typing import Any, NamedTuple
from urllib.error import HTTPError
from urllib.parse import urlsplit, urlunsplit
from urllib.request import HTTPRedirectHandler, OpenerDirector, ProxyHandler, Request, build_opener

from rewardlab.errors import InputError, reason_of

MOST_BYTES = 2**26  # of an answer: 64 MiB hold a million scores, and any judge's text
_BUSY = (408, 409, 425, 429, 500, 502, 503, 504)
_RANDOM = random.SystemRandom()  # waits depend on no seed, and no result on waits


class ServerError(InputError):
    """A request that a server refused or did not answer.

    Attributes:
        status: the HTTP status of the refusal, or of the last try's; None where the server did not
            answer in time, or at all.
    """

    def __init__(self, sentence: str, status: int | None = None) -> None:
        super().__init__(sentence)
        self.status = status


class Patience(NamedTuple):
    """How long a client waits for a server, and how often it asks again.

    Attributes:
        timeout: seconds that a try may wait for the server.
        retries: further tries after an error on the way or a busy server.
        wait: seconds before the first of them; doubled for each further one.
        total: seconds for all tries and waits together; None for as many as they take.
        jitter: share by which a wait is longer or shorter at random, so that clients that were
            refused together do not come back together.
    """

    timeout: float = 180.0
    retries: int = 4
    wait: float = 0.5
    total: float | None = None
    jitter: float = 0.0


def post_json(
    url: str,
    body: Any,
    headers: dict[str, str] | None = None,
    *,
    timeout: float = 180.0,
    retries: int = 4,
    wait: float = 0.5,
    total: float | None = None,
    jitter: float = 0.0,
) -> Any:
    """POST `body` as JSON and return the answer's JSON.

    Redirects are refused, and loopback addresses use no proxy. An answer is bounded: by
    MOST_BYTES, and by `timeout` from its first byte to its last. A busy server's Retry-After is
    waited for, where there is time.

    Args:
        url: http or https.
        body: plain data.
        headers: further headers.
        timeout: seconds that a try may wait for the server.
        retries: further tries after an error on the way or a busy server.
        wait: seconds before the first of them; doubled for each further one.
        total: seconds for all tries and waits together; None for as many as they take.
        jitter: share by which a wait is longer or shorter at random.

    Raises:
        ServerError: if the server refuses the request or still fails after the last try.
        InputError: if it answers no JSON, or more than MOST_BYTES.
    """
    patience = Patience(timeout, retries, wait, total, jitter)
    deadline = math.inf if total is None else time.monotonic() + total
    request = _json_request(url, body, headers or {})
    opener = _opener(url)
    failure = _Failure("")
    tries = 0
    while tries <= retries and (tries == 0 or _waited(patience, tries, failure.after, deadline)):
        tries += 1
        left = max(min(timeout, deadline - time.monotonic()), 0.001)
        try:
            with opener.open(request, timeout=left) as response:
                return _parse_json(_read_answer(response, url, left), url)
        except HTTPError as error:
            failure = _failure_of(error)
            if error.code not in _BUSY:
                raise ServerError(
                    f"{url} refused the request with {failure.reason}. "
                    "Are path, key and body right?",
                    error.code,
                ) from None
        except (OSError, HTTPException) as error:
            failure = _Failure(reason_of(error))
    raise ServerError(
        f"{url} failed {tries} times, at last with {failure.reason}. "
        "Is the server up, and can it keep up?",
        failure.status,
    )


class _Failure(NamedTuple):
    """Why a try failed.

    Attributes:
        reason: for people.
        after: seconds after which the server wants to be asked again.
        status: of a refusal.
    """

    reason: str
    after: float = 0.0
    status: int | None = None


def _failure_of(error: HTTPError) -> _Failure:
    """Return why a server refused a try; a Retry-After that is a date is not read."""
    after = error.headers.get("Retry-After", "") if error.headers else ""
    seconds = float(after) if after.isdecimal() else 0.0
    return _Failure(_read_reason(error), seconds, error.code)


def _waited(patience: Patience, tries: int, after: float, deadline: float) -> bool:
    """Wait before a further try, and tell whether there is time for it.

    Args:
        patience: how long.
        tries: how many there were.
        after: seconds that the server asks for.
        deadline: by the monotonic clock.
    """
    seconds = patience.wait * 2 ** (tries - 1)
    if patience.jitter:
        seconds *= _RANDOM.uniform(1 - patience.jitter, 1 + patience.jitter)
    seconds = max(seconds, min(after, patience.timeout))
    if time.monotonic() + seconds >= deadline:
        return False
    time.sleep(seconds)
    return True


def bearer(variable: str | None) -> dict[str, str]:
    """Return the header with the token in an environment variable; no header without a variable.

    Raises:
        InputError: if the variable is not set, or holds what HTTP cannot carry.

    Example:
        >>> bearer(None)
        {}
    """
    if variable is None:
        return {}
    token = os.environ.get(variable, "").strip()
    if not token:
        raise InputError(
            f"The environment variable {variable} should hold the server's key, and is not set. "
            "Export it first."
        )
    if not is_header_text(token):
        raise InputError(
            f"The environment variable {variable} should hold a key of ASCII letters, digits and "
            "marks, without spaces. Is it the right one?"
        )
    return {"Authorization": f"Bearer {token}"}


def is_header_text(text: str) -> bool:
    """Tell whether HTTP can carry a text in a URL or a key: visible ASCII, without spaces.

    Example:
        >>> is_header_text("key-1"), is_header_text("key 1"), is_header_text("clé")
        (True, False, False)
    """
    return text.isascii() and text.isprintable() and " " not in text


def checked_url(url: str, path: str) -> str:
    """Return the URL, with `path` if it has none; "/" before a query string is one.

    Raises:
        InputError: if it is no http or https URL with a host.

    Example:
        >>> checked_url("http://127.0.0.1:5000/", "/get_reward")
        'http://127.0.0.1:5000/get_reward'
        >>> checked_url("http://127.0.0.1:5000?reward=eye", "/get_reward")
        'http://127.0.0.1:5000/get_reward?reward=eye'
    """
    try:
        parts = urlsplit(url)
        is_right = parts.scheme in ("http", "https") and bool(parts.hostname)
        is_right = is_right and parts.port != 0 and is_header_text(url)
    except ValueError:  # brackets that do not match, or a port that is none
        is_right = False
    if not is_right:
        raise InputError(
            "A server's URL begins with http:// or https:// and a host; a port is a number up to "
            f"65535, and other than ASCII is percent-encoded; got {url!r:.200}."
        )
    if parts.path == "" or (parts.path == "/" and not parts.query):
        return urlunsplit(parts._replace(path=path))
    return url


class _NoRedirect(HTTPRedirectHandler):
    """A handler that follows no redirect.

    A redirected POST would lose its body, and hand its key to another host.
    """

    def redirect_request(self, *args: Any, **kwargs: Any) -> None:
        return None


def _opener(url: str) -> OpenerDirector:
    if urlsplit(url).hostname in ("127.0.0.1", "::1", "localhost"):
        return build_opener(_NoRedirect, ProxyHandler({}))
    return build_opener(_NoRedirect)


def _json_request(url: str, body: Any, headers: dict[str, str]) -> Request:
    data = json.dumps(body).encode("ascii")
    return Request(url, data, {"Content-Type": "application/json", **headers}, method="POST")


def _read_answer(response: HTTPResponse, url: str, timeout: float) -> bytes:
    """Return the whole body of an answer.

    Raises:
        InputError: if it is larger than MOST_BYTES.
        TimeoutError or IncompleteRead: if it takes longer than `timeout`, or ends before its end.
    """
    deadline = time.monotonic() + timeout
    content = bytearray()
    while piece := response.read1(65536):
        content += piece
        if len(content) > MOST_BYTES:
            raise InputError(
                f"{url} answers more than {MOST_BYTES // 2**20} MiB, which no score or text needs. "
                "Is the path right?"
            )
        if time.monotonic() > deadline:
            raise TimeoutError(f"an answer that had not ended after {timeout:g} s")
    if response.length:
        raise IncompleteRead(bytes(content[:100]), response.length)
    return bytes(content)


def _parse_json(content: bytes, url: str) -> Any:
    try:
        return json.loads(content)
    except (ValueError, RecursionError):
        raise InputError(
            f"{url} should answer JSON; got {content[:200]!r}. Is the path right?"
        ) from None


def _read_reason(error: HTTPError) -> str:
    """Return the status of a failed request with the start of the server's explanation."""
    with error:
        explanation = error.read(300).decode("utf-8", "replace")
    words = f"{error.code} {str(error.reason)[:100]}: {explanation}".split()
    return " ".join(words)
