"""RemoteReward: a reward behind a URL."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import torch
from torch import Tensor

from rewardlab.conversations import Conversation, to_json
from rewardlab.endpoints.client import bearer, checked_url, post_json
from rewardlab.endpoints.wire import filled
from rewardlab.errors import InputError
from rewardlab.networks.chat import TextTokens, finished_of
from rewardlab.networks.loading import load_tokenizer
from rewardlab.rewards.abilities import Saved
from rewardlab.rewards.base import Reward, checked_scores
from rewardlab.rewards.folders import CONFIG, check_trusted, class_path_of, read_settings
from rewardlab.storage.atomic import new_folder, write_json
from rewardlab.types import Samples

SETTINGS = ("url", "query", "batch_size", "timeout", "retries", "wait", "key_variable")
GLUED = "{prompt}{response}"  # the query where nothing is said
TEMPLATE = "tokenizer"  # the folder inside a saved reward, if it has one
_log = logging.getLogger("rewardlab")


class RemoteReward(Reward, Saved):
    """A reward of texts behind a URL, in the form of OpenRLHF's servers.

    POST /get_reward {"query": […], "prompts": […]} answers {"rewards": […]}.

    It is saved as its URL and settings, never with a token. Whoever loads such a folder sends texts
    to its server, so that needs `load_reward(path, trust=True)`.

    Args:
        url: of the server, such as http://127.0.0.1:5000; /get_reward is appended if it has no
            path.
        query: what is sent for a response; {prompt} and {response} are replaced. None, without a
            template either, sends one after the other, and says so.
        batch_size: texts a request.
        timeout: seconds that a request may wait for the server.
        retries: further tries after a request that failed on the way or was refused as busy (such
            as 429 or 503).
        wait: seconds before the first of them; doubled for each further one.
        key_variable: the environment variable that holds a bearer token; the token itself is never
            kept.
        template: a tokenizer, or its folder, whose chat template makes the query in place of
            `query`: the prompt's messages and the assistant's response, special tokens included, as
            OpenRLHF's servers expect a chat model's. Conversations need it.

    Raises:
        InputError: if the URL is not http or https, both a query and a template are given, or the
            tokenizer has no chat template.
    """

    takes_trust = True

    def __init__(
        self,
        url: str,
        query: str | None = None,
        batch_size: int = 64,
        timeout: float = 180.0,
        retries: int = 4,
        wait: float = 0.5,
        key_variable: str | None = None,
        template: Any | None = None,
    ) -> None:
        super().__init__()
        if batch_size < 1 or (query is not None and "{response}" not in query):
            raise InputError(
                "RemoteReward needs batch_size >= 1 and a query with {response}; got "
                f"{batch_size}, {query!r:.200}."
            )
        self.tokenizer = None if template is None else _with_template(template, query)
        self.texts = None if template is None else TextTokens(self.tokenizer)
        self.url = checked_url(url, "/get_reward")
        self.query = query
        self.batch_size = batch_size
        self.key_variable = key_variable
        self.timeout = timeout
        self.retries = retries
        self.wait = wait
        self._said = False

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
        if self.query is None and self.tokenizer is None and any(samples.prompts):
            self._say_glued()
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
        self.check_savable()
        settings = {name: getattr(self, name) for name in SETTINGS}
        with new_folder(folder) as fresh:
            if self.tokenizer is not None:
                self.tokenizer.save_pretrained(fresh / TEMPLATE)
            write_json(fresh / CONFIG, {"class_path": class_path_of(type(self)), **settings})

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
        tokenizer = Path(folder) / TEMPLATE
        template = str(tokenizer) if tokenizer.is_dir() else None
        return cls(**settings, template=template).eval()

    def _say_glued(self) -> None:
        """Log once that prompt and response are sent one after the other."""
        if not self._said:
            _log.warning(
                "%s is sent each prompt with its response right behind it, and no chat template. "
                "If it scores for a chat model, give --query-template TOKENIZER (template=); if "
                "this is meant, say so by --query '%s' (query=).",
                self.url,
                GLUED,
            )
        self._said = True

    def _scores(self, samples: Samples) -> list[float]:
        answer = post_json(
            self.url,
            {"query": self._queries(samples), "prompts": self._prompts(samples)},
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
        """Return what is sent for each response."""
        if self.texts is not None:
            return _rendered(self.texts, samples)
        query = GLUED if self.query is None else self.query
        queries = []
        for prompt, response in zip(samples.prompts, samples.outputs, strict=True):
            if isinstance(prompt, Conversation) and "{prompt}" in query:
                raise InputError(
                    "RemoteReward got a prompt of "
                    f"{len(prompt.messages)} messages, and a query by text, {query!r}, has no form "
                    "for turns. Give the tokenizer whose chat template has one: "
                    "--query-template TOKENIZER (template=)."
                )
            pieces = filled(query, prompt=prompt, response=response)
            queries.append("".join(pieces))
        return queries

    def _prompts(self, samples: Samples) -> list[Any]:
        """Return the prompts beside the queries; servers may read them or not."""
        if self.texts is not None:
            return [self.texts.row_text(prompt) for prompt in samples.prompts]
        return [to_json(prompt) for prompt in samples.prompts]


def _with_template(template: Any, query: str | None) -> Any:
    """Return the tokenizer of a chat template, which is loaded if its folder is given."""
    if query is not None:
        raise InputError(
            f"RemoteReward takes a query or a template, not both; got {query!r} and a template. "
            "Leave one out."
        )
    tokenizer = load_tokenizer(template, template, "RemoteReward")
    if not getattr(tokenizer, "chat_template", None):
        raise InputError(
            f"The tokenizer {str(template)[:100]} has no chat template, so it cannot make queries. "
            "Give the reward model's own, or write the form as --query (query=)."
        )
    return tokenizer


def _rendered(texts: TextTokens, samples: Samples) -> list[str]:
    """Return prompts with their responses as the chat template writes them."""
    rows = zip(samples.prompts, samples.outputs, finished_of(samples), strict=True)
    queries = []
    for prompt, response, finished in rows:
        queries.append(texts.row_text(prompt, response, finished))
    return queries


def _are_numbers(values: Any, count: int) -> bool:
    """Tell whether the values are a list of that many numbers; booleans are none."""
    if not isinstance(values, list) or len(values) != count:
        return False
    return all(_is_number(value) for value in values)


def _is_number(value: Any) -> bool:
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return is_number and not (isinstance(value, int) and abs(value) >= 2**127)  # float32 ends there
