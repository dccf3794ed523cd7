"""What a reward server is sent for texts: each response with its prompt, in one of three forms."""

from __future__ import annotations

from typing import Any

from rewardlab.conversations import Conversation, to_json
from rewardlab.endpoints.wire import filled
from rewardlab.errors import InputError
from rewardlab.networks.chat import TextTokens, finished_of
from rewardlab.networks.loading import load_tokenizer
from rewardlab.types import Samples

GLUED = "{prompt}{response}"  # the query where nothing is said


class Queries:
    """Responses with their prompts as texts: by a chat template, by a query, or glued together.

    Args:
        query: {prompt} and {response} are replaced in it; None glues the two together.
        template: a tokenizer, or its folder, whose chat template writes them in place of a query.

    Attributes:
        tokenizer: of the template; None without one.
        chat: what writes by the template; None without one.
        are_glued: whether neither a query nor a template was given.

    Raises:
        InputError: if both are given, or the tokenizer has no chat template.

    Example:
        >>> Queries("Q: {prompt} A: {response}", None).texts(Samples(["1 + 1?"], ["2"]))
        ['Q: 1 + 1? A: 2']
    """

    def __init__(self, query: str | None, template: Any | None) -> None:
        self.are_glued = query is None and template is None
        self.tokenizer = None if template is None else _with_template(template, query)
        self._query = GLUED if query is None else query
        self.chat = None if template is None else TextTokens(self.tokenizer)

    def texts(self, samples: Samples) -> list[str]:
        """Return what is sent for each response; a text that holds its prompt is sent as it is.

        Raises:
            InputError: if a prompt is a conversation and a query is to hold it.
        """
        texts = self._filled(samples) if self.chat is None else _rendered(self.chat, samples)
        for row in _whole_rows(samples):
            texts[row] = str(samples.outputs[row])
        return texts

    def prompts(self, samples: Samples) -> list[Any]:
        """Return the prompts that are sent beside the texts; servers may read them or not."""
        if self.chat is None:
            return [to_json(prompt) for prompt in samples.prompts]
        prompts = [self.chat.row_text(prompt) for prompt in samples.prompts]
        for row in _whole_rows(samples):
            prompts[row] = ""
        return prompts

    def _filled(self, samples: Samples) -> list[str]:
        """Return prompts with their responses by the query."""
        texts = []
        for prompt, response in zip(samples.prompts, samples.outputs, strict=True):
            if isinstance(prompt, Conversation) and "{prompt}" in self._query:
                raise InputError(
                    "RemoteReward got a prompt of "
                    f"{len(prompt.messages)} messages, and a query by text, {self._query!r}, has "
                    "no form for turns. Give the tokenizer whose chat template has one: "
                    "--query-template TOKENIZER (template=)."
                )
            pieces = filled(self._query, prompt=prompt, response=response)
            texts.append("".join(pieces))
        return texts


def check_query(query: str | None) -> None:
    """Refuse a query that has no place for the response."""
    if query is not None and "{response}" not in query:
        raise InputError(f"RemoteReward needs a query with {{response}}; got {query!r:.200}.")


def _rendered(chat: TextTokens, samples: Samples) -> list[str]:
    """Return prompts with their responses as the chat template writes them."""
    rows = zip(samples.prompts, samples.outputs, finished_of(samples), strict=True)
    texts = []
    for prompt, response, finished in rows:
        texts.append(chat.row_text(prompt, response, finished))
    return texts


def _whole_rows(samples: Samples) -> list[int]:
    """Return which outputs hold their prompts, by the fact "whole" that servers give."""
    if "whole" not in samples.facts:
        return []
    rows: list[int] = samples.facts["whole"].nonzero().flatten().tolist()
    return rows


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
