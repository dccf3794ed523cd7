"""A reward behind a URL, and how JSON is posted to one."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from rewardlab.endpoints.client import bearer, checked_url, post_json
from rewardlab.endpoints.wire import filled
from rewardlab.errors import InputError
from rewardlab.rewards.base import Reward, checked_scores
from rewardlab.types import Samples


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


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
