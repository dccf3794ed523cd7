"""The fields of a request, each checked and refused in one sentence."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rewardlab.conversations import Prompt, from_json, prompt_of_messages
from rewardlab.errors import InputError
from rewardlab.serving.limits import Limits, RefusalError
from rewardlab.serving.rows import Row


def text_of(value: Any, where: str) -> str:
    """Return a text that a tokenizer can read.

    Raises:
        RefusalError: 422 if it is none, or holds half of a surrogate pair.

    Example:
        >>> text_of("hi", "input")
        'hi'
    """
    if not isinstance(value, str):
        raise RefusalError(422, f"{where} should be a text; got {type(value).__name__}.")
    try:
        value.encode("utf-8")
    except UnicodeEncodeError:
        raise RefusalError(
            422, f"{where} holds half of a surrogate pair, which is no text. Send whole characters."
        ) from None
    return value


def texts_of(value: Any, where: str, limits: Limits) -> list[str]:
    """Return a list of texts; one text is a list of one.

    Raises:
        RefusalError: 422 if it is neither or empty, 413 if there are too many.
    """
    if isinstance(value, str):
        return [text_of(value, where)]
    values = list_of(value, where, limits)
    return [text_of(item, f"{where}[{place}]") for place, item in enumerate(values)]


def list_of(
    value: Any, where: str, limits: Limits, what: str = "a text or a list of texts"
) -> list[Any]:
    """Return a list that is not empty.

    Raises:
        RefusalError: 422 if it is none, 413 if it is too long.
    """
    if not isinstance(value, list) or not value:
        shown = "an empty list" if value == [] else type(value).__name__
        raise RefusalError(422, f"{where} should be {what}; got {shown}.")
    if len(value) > limits.rows:
        raise RefusalError(
            413, f"{where} holds {len(value)} items; this server takes {limits.rows} a request."
        )
    return value


def prompt_of(value: Any, where: str) -> Prompt:
    """Return a text, or a list of messages, as a prompt; null is none.

    Raises:
        RefusalError: 422 if it is neither.
    """
    if value is None:
        return ""
    if isinstance(value, str):
        return text_of(value, where)
    try:
        return from_json(value)
    except InputError as error:
        raise RefusalError(422, f"{where}: {error}") from None


def row_of_messages(messages: Any, where: str) -> Row:
    """Return messages whose last is the assistant's as a row.

    Raises:
        RefusalError: 422 if they are no messages with texts, or end otherwise.

    Example:
        >>> talk = [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "hello"}]
        >>> row_of_messages(talk, "messages")[:2]
        ('hi', 'hello')
    """
    if not isinstance(messages, list) or not messages:
        raise RefusalError(422, f'{where} should be a list of {{"role": "…", "content": "…"}}.')
    *before, last = messages
    if not isinstance(last, Mapping) or last.get("role") != "assistant":
        raise RefusalError(
            422, f"{where} should end with the assistant's message, which is scored."
        )
    try:
        response = prompt_of_messages([{"role": "user", "content": last.get("content")}])
        prompt = prompt_of_messages(before) if before else ""
    except InputError as error:
        raise RefusalError(422, f"{where}: {error}") from None
    text_of(str(prompt), where)
    return Row(prompt, text_of(response, where))


def flag_of(body: Mapping[str, Any], name: str, default: bool) -> bool:
    """Return a field that is true or false; null is the default.

    Raises:
        RefusalError: 422 if it is another value.
    """
    value = body.get(name)
    if value is None:
        return default
    if not isinstance(value, bool):
        raise RefusalError(422, f"{name} should be true or false; got {type(value).__name__}.")
    return value


def refuse_fields(body: Mapping[str, Any], names: Sequence[str], why: str) -> None:
    """Refuse fields that would change the scores and that this server does not honour.

    Raises:
        RefusalError: 422 naming the first that is set.
    """
    for name in names:
        if body.get(name) not in (None, False, [], {}):
            raise RefusalError(422, f"{name} is not supported: {why}")
