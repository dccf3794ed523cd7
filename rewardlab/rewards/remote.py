"""RemoteReward: a reward behind a URL."""

from __future__ import annotations

from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import torch
from torch import Tensor

from rewardlab.endpoints.client import bearer, checked_url, post_json
from rewardlab.endpoints.wire import filled
from rewardlab.errors import InputError
from rewardlab.rewards.abilities import Saved
from rewardlab.rewards.base import Reward, checked_scores
from rewardlab.rewards.folders import check_trusted, read_settings, write_reward
from rewardlab.types import Samples

SETTINGS = ("url", "query", "batch_size", "timeout", "retries", "wait", "key_variable")


class RemoteReward(Reward, Saved):
    """A reward of texts behind a URL, in the form of OpenRLHF's servers.

    POST /get_reward {"query": […], "prompts": […]} answers {"rewards": […]}.

    It is saved as its URL and settings, never with a token. Whoever loads such a folder sends texts
    to its server, so that needs `load_reward(path, trust=True)`.

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

    takes_trust = True

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
                "RemoteReward needs batch_size >= 1 and a query with {response}; got "
                f"{batch_size}, {query!r}."
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
                f"RemoteReward sends texts; got images {list(samples.outputs.shape)}. "
                "Is the policy an image model?"
            )
        values: list[float] = []
        for start in range(0, len(samples), self.batch_size):
            values += self._scores(samples[start : start + self.batch_size])
        device = next((column.device for column in samples.facts.values()), None)
        scores = torch.tensor(values, dtype=torch.float32, device=device)
        return checked_scores(scores, samples, self.url)

    def check_savable(self) -> None:
        """Refuse a URL that may hold a token, since it would be written into a file.

        Raises:
            InputError: if the URL has a user, a password or a query string.
        """
        parts = urlsplit(self.url)
        if "@" in parts.netloc or parts.query:
            raise InputError(
                "RemoteReward cannot be saved with a user, a password or a query string in its "
                "URL, which may be secret. Name an environment variable with key_variable instead."
            )

    def save_pretrained(self, folder: str | Path) -> None:
        """Write the URL and the settings. Of a token only its variable's name is written.

        Raises:
            InputError: as `check_savable`, or if `folder` holds something else.
        """
        write_reward(folder, self, {name: getattr(self, name) for name in SETTINGS})

    @classmethod
    def from_pretrained(cls, folder: str | Path, trust: bool = False) -> RemoteReward:
        """Load what `save_pretrained` wrote, in eval mode. The server is not asked yet.

        Raises:
            InputError: without trust.
        """
        settings = read_settings(folder, *SETTINGS)
        danger = f"the server {settings['url']}; scoring would send it texts"
        if settings["key_variable"] is not None:
            danger += f", and the token in {settings['key_variable']}"
        check_trusted(folder, danger, trust=trust)
        return cls(**settings).eval()

    def _scores(self, samples: Samples) -> list[float]:
        answer = post_json(
            self.url,
            {"query": self._queries(samples), "prompts": list(samples.prompts)},
            bearer(self.key_variable),
            timeout=self.timeout,
            retries=self.retries,
            wait=self.wait,
        )
        rewards: Any = answer.get("rewards") if isinstance(answer, dict) else None
        if not _are_numbers(rewards, len(samples)):
            raise InputError(
                f'{self.url} should answer {{"rewards": […]}} with {len(samples)} numbers, one a '
                f"query; got {str(answer)[:200]}. Is it a reward server in OpenRLHF's form?"
            )
        return list(rewards)

    def _queries(self, samples: Samples) -> list[str]:
        queries = []
        for prompt, response in zip(samples.prompts, samples.outputs, strict=True):
            pieces = filled(self.query, prompt=prompt, response=response)
            queries.append("".join(pieces))
        return queries


def _are_numbers(values: Any, count: int) -> bool:
    """Tell whether the values are a list of that many numbers; booleans are none."""
    if not isinstance(values, list) or len(values) != count:
        return False
    return all(_is_number(value) for value in values)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
