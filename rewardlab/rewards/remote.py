"""A reward behind a URL, and how JSON is posted to one."""

from __future__ import annotations

import json
import os
import time
from http.client import HTTPException
from typing import Any
from urllib.error import HTTPError
from urllib.parse import urlsplit
from urllib.request import HTTPRedirectHandler, OpenerDirector, ProxyHandler, Request, build_opener

import torch
from torch import Tensor

from rewardlab.errors import InputError
from rewardlab.rewards.base import Reward, checked_scores
from rewardlab.types import Samples
from rewardlab.wire import filled

_BUSY = (408, 409, 425, 429, 500, 502, 503, 504)


class RemoteReward(Reward):
    """A reward of texts behind a URL: POST /get_reward {"query": […], "prompts": […]} answers
    {"rewards": […]}, as OpenRLHF's.

    Args:
        url: of the server, such as http://127.0.0.1:5000; /get_reward is appended if it has no
            path.
        query: what is sent for a response; {prompt} and {response} are replaced. Write a chat
            model's special tokens here, since OpenRLHF's servers expect them in the query.
        batch_size: texts a request.
        timeout: seconds that a request may wait for the server.
        retries: further tries after a request that failed on the way or was refused as busy (such
            as 429 or 503).
        wait: seconds before the first of them; doubled for each further one.
        key_variable: the environment variable that holds a bearer token; the token itself is never
            kept.

    Raises:
        InputError: if the URL is not http or https.
    """

    def __init__(
        self,
        url: str,
        query: str = "{prompt}{response}",
        batch_size: int = 64,
        timeout: float = 180.0,
        retries: int = 4,
        wait: float = 0.5,
        key_variable: str | None = None,
    ) -> None:
        super().__init__()
        if batch_size < 1 or "{response}" not in query:
            raise InputError(
                f"RemoteReward needs batch_size >= 1 and a query with {{response}}; got {batch_size}, {query!r}."
            )
        self.url = checked_url(url, "/get_reward")
        self.query = query
        self.batch_size = batch_size
        self.key_variable = key_variable
        self.timeout = timeout
        self.retries = retries
        self.wait = wait

    def forward(self, samples: Samples) -> Tensor:
        """Return the server's scores, float32 [B].

        Raises:
            InputError: if the outputs are images, the server cannot be reached, or it answers
                anything but one finite number a text.
        """
        if isinstance(samples.outputs, Tensor):
            raise InputError(
                f"RemoteReward sends texts; got images {list(samples.outputs.shape)}. Is the policy an image model?"
            )
        values: list[float] = []
        for start in range(0, len(samples), self.batch_size):
            values += self._scores(samples[start : start + self.batch_size])
        device = next((column.device for column in samples.facts.values()), None)
        return checked_scores(
            torch.tensor(values, dtype=torch.float32, device=device), samples, self.url
        )

    def _scores(self, samples: Samples) -> list[float]:
        pairs = zip(samples.prompts, samples.outputs, strict=True)
        queries = [
            "".join(filled(self.query, prompt=prompt, response=response))
            for prompt, response in pairs
        ]
        body = {"query": queries, "prompts": list(samples.prompts)}
        key = bearer(self.key_variable)
        answer = post_json(
            self.url, body, key, timeout=self.timeout, retries=self.retries, wait=self.wait
        )
        rewards = answer.get("rewards") if isinstance(answer, dict) else None
        if (
            not isinstance(rewards, list)
            or len(rewards) != len(samples)
            or not all(map(_is_number, rewards))
        ):
            raise InputError(
                f'{self.url} should answer {{"rewards": […]}} with {len(samples)} numbers, one a query; '
                f"got {str(answer)[:200]}. Is it a reward server in OpenRLHF's form?"
            )
        return rewards


def post_json(
    url: str,
    body: Any,
    headers: dict[str, str] | None = None,
    *,
    timeout: float = 180.0,
    retries: int = 4,
    wait: float = 0.5,
) -> Any:
    """POST `body` as JSON and return the answer's JSON. Nothing is redirected, and loopback
    addresses use no proxy.

    Args:
        url: http or https.
        body: plain data.
        headers: further ones.
        timeout: seconds that a try may wait for the server.
        retries: further tries after an error on the way or a busy server.
        wait: seconds before the first of them; doubled for each further one.

    Raises:
        InputError: if the server refuses the request, still fails after the last try, or answers no
            JSON.
    """
    data = json.dumps(body).encode("ascii")
    request = Request(
        url, data, {"Content-Type": "application/json", **(headers or {})}, method="POST"
    )
    opener = _opener(url)
    for trial in range(retries + 1):
        if trial:
            time.sleep(wait * 2 ** (trial - 1))
        try:
            with opener.open(request, timeout=timeout) as response:
                return _json_of(response.read(), url)
        except HTTPError as error:
            with error:
                reason = f"{error.code} {error.reason}: {error.read(300).decode('utf-8', 'replace').strip()}"
            if error.code not in _BUSY:
                raise InputError(
                    f"{url} refused the request with {reason}. Are path, key and body right?"
                ) from None
        except (OSError, HTTPException) as error:
            reason = str(error) or type(error).__name__
    raise InputError(
        f"{url} failed {retries + 1} times, at last with {reason}. Is the server up, and can it keep up?"
    )


def bearer(variable: str | None) -> dict[str, str]:
    """Return the header with the token that an environment variable holds; none if no variable is
    named.

    Raises:
        InputError: if the variable is not set.
    """
    if variable is None:
        return {}
    token = os.environ.get(variable, "").strip()
    if not token:
        raise InputError(
            f"The environment variable {variable} should hold the server's key, and is not set. Export it first."
        )
    return {"Authorization": f"Bearer {token}"}


def checked_url(url: str, path: str) -> str:
    """Return the URL, with `path` if it has none.

    Example:
        >>> checked_url("http://127.0.0.1:5000/", "/get_reward")
        'http://127.0.0.1:5000/get_reward'
    """
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise InputError(f"A server's URL begins with http:// or https:// and a host; got {url!r}.")
    return url.rstrip("/") + path if parts.path in ("", "/") and not parts.query else url


class _NoRedirect(HTTPRedirectHandler):
    """A redirected POST would lose its body, and hand its key to another host."""

    def redirect_request(self, *args: Any, **kwargs: Any) -> None:
        return None


def _opener(url: str) -> OpenerDirector:
    loopback = urlsplit(url).hostname in ("127.0.0.1", "::1", "localhost")
    return build_opener(_NoRedirect, *([ProxyHandler({})] if loopback else []))


def _json_of(content: bytes, url: str) -> Any:
    try:
        return json.loads(content)
    except ValueError:
        raise InputError(
            f"{url} should answer JSON; got {content[:200]!r}. Is the path right?"
        ) from None


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
