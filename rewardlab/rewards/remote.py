"""RemoteReward: a reward behind a URL."""

from __future__ import annotations

import logging
import math
import re
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import torch
from torch import Tensor

from rewardlab.endpoints.client import ServerError, bearer, checked_url, post_json
from rewardlab.endpoints.reward_answers import Answer, are_values, joined, read_answer
from rewardlab.endpoints.reward_forms import FORMS, FormName
from rewardlab.errors import InputError, reason_of
from rewardlab.output_checks import check_range
from rewardlab.rewards.abilities import Partial, Saved
from rewardlab.rewards.base import Reward, checked_scores
from rewardlab.rewards.folders import CONFIG, check_trusted, class_path_of, read_config
from rewardlab.rewards.folders import read_settings as read_folder_settings
from rewardlab.rewards.remote_queries import GLUED, Queries, check_query
from rewardlab.rewards.unscored import Judged, partial_scores
from rewardlab.storage.atomic import new_folder, write_json
from rewardlab.types import Samples

SETTINGS = ("url", "query", "batch_size", "timeout", "retries", "wait", "key_variable")
LATER = {"dialect": "openrlhf", "total_timeout": None, "concurrency": 1, "most_unscored": 0.0}
TEMPLATE = "tokenizer"  # the folder inside a saved reward, if it has one
FAILED = 500
ITS_OWN = (400, 413, 422, 424, FAILED)  # statuses that one text of several may have brought about
NAMED = re.compile(r"reward=[\w.-]+")  # a query string that names one of a server's rewards
JITTER = 0.25
_log = logging.getLogger("rewardlab")


class RemoteReward(Reward, Partial, Saved):
    """A reward behind a URL, in the form of OpenRLHF's servers or another's.

    By default POST /get_reward {"query": […], "prompts": […]} answers {"rewards": […]}. The other
    forms are vLLM's /classify, whose activation is switched off, SGLang's /v1/embeddings and TEI's
    /predict with raw scores, all of texts; and Flow-Factory's /compute, of images and videos, which
    are sent as PNG files and so rounded to 8 bits. docs/guide/serve.md has them all.

    It is saved as its URL and settings, never with a token. Whoever loads such a folder sends texts
    to its server, so that needs `load_reward(path, trust=True)`.

    Args:
        url: of the server, such as http://127.0.0.1:5000; the form's path, such as /get_reward, is
            appended if it has none. /get_reward?reward=NAME names one of several rewards of
            `rewardlab serve`.
        query: what is sent for a response; {prompt} and {response} are replaced. None, without a
            template either, sends one after the other, and says so.
        batch_size: texts a request.
        timeout: seconds that a request may wait for the server.
        retries: further tries after a request that failed on the way or was refused as busy (such
            as 429 or 503).
        wait: seconds before the first of them, give or take a quarter; doubled for each further
            one.
        key_variable: the environment variable that holds a bearer token; the token itself is never
            kept.
        template: a tokenizer, or its folder, whose chat template makes the query in place of
            `query`: the prompt's messages and the assistant's response, special tokens included, as
            OpenRLHF's servers expect a chat model's. Conversations need it.
        dialect: the server's form: openrlhf, vllm, sglang, tei or flow-factory.
        total_timeout: seconds for all tries of a request together; None for as many as they take.
        concurrency: requests under way at once; scores keep the samples' order.
        most_unscored: share of samples that may go unscored. Above 0, a request that times out, is
            refused or fails after the last try leaves its samples unscored, with the reason; one of
            several texts that is refused is found by sending each alone. At 0 it ends the run.

    Raises:
        InputError: if the URL is not http or https, both a query and a template are given, the
            tokenizer has no chat template, or a setting is out of range.
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
        dialect: FormName = "openrlhf",
        total_timeout: float | None = None,
        concurrency: int = 1,
        most_unscored: float = 0.0,
    ) -> None:
        super().__init__()
        check_query(query)
        _check_counts(batch_size=batch_size, concurrency=concurrency, retries=retries)
        _check_seconds(timeout, wait)
        _check_later(dialect, total_timeout, most_unscored)
        self.queries = Queries(query, template)
        self.texts = self.queries.chat  # a server of this reward formats by it
        self.form = FORMS[dialect]
        self.url = checked_url(url, self.form.path)
        self.query = query
        self.batch_size = batch_size
        self.key_variable = key_variable
        self.timeout = timeout
        self.retries = retries
        self.wait = wait
        self.dialect = dialect
        self.total_timeout = total_timeout
        self.concurrency = concurrency
        self.most_unscored = most_unscored
        self._said = False

    def forward(self, samples: Samples) -> Tensor:
        """Return the server's scores, float32 [B].

        Raises:
            InputError: if the outputs are not what the form takes, the server cannot be reached, or
                it answers anything but one finite number an output.
        """
        return partial_scores(self, samples)

    def judge(self, samples: Samples) -> Judged:
        """Return the server's scores, and why a sample has none.

        Raises:
            InputError: as `forward`; with `most_unscored` above 0, not for what one request brings
                about.
        """
        self._check_kind(samples)
        if self.queries.are_glued and not self.form.pictures and any(samples.prompts):
            self._say_glued()
        starts = range(0, len(samples), self.batch_size)
        batches = [samples[start : start + self.batch_size] for start in starts]
        if self.concurrency == 1 or len(batches) == 1:
            answers = [self._answer(batch) for batch in batches]
        else:
            with ThreadPoolExecutor(self.concurrency) as pool:
                answers = list(pool.map(self._answer, batches))
        values: list[float] = []
        reasons: list[str] = []
        for answer in answers:
            values += answer.values
            reasons += answer.reasons
        device = next((column.device for column in samples.facts.values()), None)
        scores = torch.tensor(values, dtype=torch.float32, device=device)
        if not any(reasons):
            checked_scores(scores, samples, self.url)
        return Judged(scores, reasons)

    def check_savable(self) -> None:
        """Refuse a URL that may hold a token, since it would be written into a file.

        Raises:
            InputError: if the URL has a user, a password or a query string.
        """
        parts = urlsplit(self.url)
        is_open = NAMED.fullmatch(parts.query) is not None
        if "@" in parts.netloc or (parts.query and not is_open):
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
        settings = {name: getattr(self, name) for name in (*SETTINGS, *LATER)}
        with new_folder(folder) as fresh:
            if self.queries.tokenizer is not None:
                self.queries.tokenizer.save_pretrained(fresh / TEMPLATE)
            write_json(fresh / CONFIG, {"class_path": class_path_of(type(self)), **settings})

    @classmethod
    def from_pretrained(cls, folder: str | Path, trust: bool = False) -> RemoteReward:
        """Load what `save_pretrained` wrote, in eval mode. The server is not asked yet.

        Raises:
            InputError: without trust.
        """
        settings = read_folder_settings(folder, *SETTINGS)
        config = read_config(folder)
        for name, default in LATER.items():  # folders of before have none
            settings[name] = config.get(name, default)
        danger = f"the server {settings['url']}; scoring would send it texts"
        if settings["key_variable"] is not None:
            danger += f", and the token in {settings['key_variable']}"
        check_trusted(folder, danger, trust=trust)
        tokenizer = Path(folder) / TEMPLATE
        template = str(tokenizer) if tokenizer.is_dir() else None
        return cls(**settings, template=template).eval()

    def _check_kind(self, samples: Samples) -> None:
        """Refuse images for a form of texts, texts for one of images, and pixels out of range."""
        outputs = samples.outputs
        is_picture = isinstance(outputs, Tensor)
        if isinstance(outputs, Tensor) and not self.form.pictures:
            raise InputError(
                f"RemoteReward sends texts; got images {list(outputs.shape)}. Is the policy an "
                "image model? Images want dialect='flow-factory'."
            )
        if not is_picture and self.form.pictures:
            raise InputError(
                f"RemoteReward in the form {self.dialect} sends images or videos; got "
                f"{len(samples)} texts. Is the policy a language model?"
            )
        if isinstance(outputs, Tensor):
            check_range(outputs, "RemoteReward")

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

    def _answer(self, samples: Samples, retries: int | None = None) -> Answer:
        """Ask for the scores of one request.

        Args:
            samples: of the request.
            retries: further tries, those of the settings by default.

        Raises:
            InputError: if it fails, and no sample may go unscored or it is not a sample's fault.
        """
        body = self.form.body(self._outputs(samples), self.queries.prompts(samples))
        headers = bearer(self.key_variable)
        try:
            answer = self._post(body, headers, self.retries if retries is None else retries)
        except ServerError as error:
            if self.most_unscored == 0 or error.status in (401, 403, 404):
                raise
            if error.status in ITS_OWN and len(samples) > 1:
                again = 0 if error.status == FAILED else retries  # it was asked again already
                rows = range(len(samples))
                return joined([self._answer(samples[[row]], again) for row in rows])
            return Answer([math.nan] * len(samples), [reason_of(error)] * len(samples))
        values = self._values(answer, len(samples))
        return read_answer(values, answer, is_strict=self.most_unscored == 0)

    def _post(self, body: dict[str, Any], headers: dict[str, str], retries: int) -> Any:
        return post_json(
            self.url,
            body,
            headers,
            timeout=self.timeout,
            retries=retries,
            wait=self.wait,
            total=self.total_timeout,
            jitter=JITTER,
        )

    def _values(self, answer: Any, count: int) -> list[Any]:
        """Return what an answer holds for each output: numbers, or None."""
        try:
            values = self.form.scores(answer)
        except (LookupError, TypeError):
            values = []
        if not are_values(values, count):
            raise InputError(
                f"{self.url} should answer {self.form.answer} with {count} numbers, one an "
                f"output; got {str(answer)[:200]}. Is it a reward server in {_title(self.dialect)} "
                "form?"
            )
        return values

    def _outputs(self, samples: Samples) -> Sequence[Any]:
        """Return what is sent of each sample: a text that holds its prompt, or its pixels."""
        if isinstance(samples.outputs, Tensor):
            return list(samples.outputs)
        return self.queries.texts(samples)


def _check_counts(**counts: int) -> None:
    """Refuse numbers that are not whole, or too small; retries may be 0, the others not."""
    for name, count in counts.items():
        least = 0 if name == "retries" else 1
        if type(count) is not int or count < least:
            raise InputError(f"RemoteReward needs a whole {name} >= {least}; got {count!r:.60}.")


def _check_seconds(timeout: float, wait: float) -> None:
    """Refuse times that a clock does not know."""
    are_numbers = isinstance(timeout, int | float) and isinstance(wait, int | float)
    if not are_numbers or not (0 < timeout < math.inf and 0 <= wait < math.inf):
        raise InputError(
            "RemoteReward needs a timeout above 0 and a wait of 0 or more, in seconds; got "
            f"{timeout!r:.60} and {wait!r:.60}."
        )


def _check_later(dialect: str, total_timeout: float | None, most_unscored: float) -> None:
    """Refuse settings that are out of range."""
    if not isinstance(dialect, str) or dialect not in FORMS:
        raise InputError(f"RemoteReward speaks {', '.join(FORMS)}; got dialect={dialect!r:.60}.")
    if not 0 <= most_unscored <= 1:
        raise InputError(f"RemoteReward needs most_unscored in [0, 1]; got {most_unscored}.")
    if total_timeout is not None and not total_timeout > 0:
        raise InputError(f"RemoteReward's total_timeout is above 0 or None; got {total_timeout}.")


def _title(dialect: str) -> str:
    """Return how a message names a form."""
    names = {"openrlhf": "OpenRLHF's", "vllm": "vLLM's", "sglang": "SGLang's", "tei": "TEI's"}
    return names.get(dialect, "Flow-Factory's")
