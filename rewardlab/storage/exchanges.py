"""A prompt and its response, from the strings and lists of messages that files hold."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from rewardlab.conversations import Message, Prompt, prompt_of_messages, read_message
from rewardlab.errors import InputError

Turns = list[Message]


class Exchange(NamedTuple):
    """A prompt, and a response to it."""

    prompt: Prompt
    response: str


class UnusableError(Exception):
    """The reason why a row is not used, in words that are counted."""


def exchange(prompt: Any, response: Any) -> Exchange:
    """Return a prompt and its response, from strings or lists of messages.

    Of messages the assistant's last one is the response and all before it are the prompt. Messages
    of the response that begin with the prompt, as text or as messages, hold it once, not twice.

    Args:
        prompt: a string, a list of messages, or None where the response's messages hold it.
        response: a string, a message, or a list of messages.

    Raises:
        UnusableError: if they are of another form.

    Example:
        >>> ask, answer = [{"role": "user", "content": "hi"}], {"role": "assistant", "content": "a"}
        >>> exchange("hi", [*ask, answer]) == exchange(ask, "a") == ("hi", "a")
        True
    """
    if isinstance(response, str) and isinstance(prompt, str):
        return Exchange(prompt, response)
    if isinstance(response, str) and isinstance(prompt, list):
        return _from_turns([*_turns(prompt), Message("assistant", response)])
    if isinstance(response, Mapping):
        response = [response]
    if not isinstance(response, list) or not isinstance(prompt, str | list | None):
        raise UnusableError(
            "whose prompt, chosen or rejected is neither a string nor a list of messages"
        )
    answer = _turns(response)
    _check_answered(answer)
    return _from_turns(_joined(prompt, answer))


def _from_turns(turns: Turns) -> Exchange:
    """Return turns, the last of which is the assistant's, as prompt and response."""
    before = turns[:-1]
    if not before:
        return Exchange("", turns[-1].content)
    if before[-1].role == "assistant":
        raise UnusableError("whose messages end with two of the assistant's")
    prompt = prompt_of_messages([vars(turn) for turn in before])
    return Exchange(prompt, turns[-1].content)


def _check_answered(turns: Turns) -> None:
    if not turns or turns[-1].role != "assistant":
        raise UnusableError("whose messages do not end with the assistant's")


def _joined(prompt: str | list[Any] | None, answer: Turns) -> Turns:
    """Return all turns, those that the prompt and the answer share only once."""
    if prompt is None or prompt in ("", []):
        return answer
    asked = [Message("user", prompt)] if isinstance(prompt, str) else _turns(prompt)
    if answer[0].role == "assistant" or asked[-1].role != "user":
        shared = _overlap(asked, answer)
        return [*asked[: len(asked) - shared], *answer]
    if _holds(answer[:-1], asked):
        return answer
    shared = _overlap(asked, answer)
    if not shared:
        raise UnusableError("whose chosen or rejected begins with another question than its prompt")
    return [*asked[: len(asked) - shared], *answer]


def _overlap(asked: Turns, answer: Turns) -> int:
    """Return how many last turns of the prompt are the first ones of the answer."""
    for count in range(min(len(asked), len(answer)), 0, -1):
        if _equal(asked[-count:], answer[:count]):
            return count
    return 0


def _holds(turns: Turns, inner: Turns) -> bool:
    """Tell whether turns hold others in a row."""
    starts = range(len(turns) - len(inner) + 1)
    return any(_equal(turns[start : start + len(inner)], inner) for start in starts)


def _equal(turns: Turns, others: Turns) -> bool:
    """Tell whether turns say the same, but for spaces around their texts."""
    return [_said(turn) for turn in turns] == [_said(turn) for turn in others]


def _said(turn: Message) -> Message:
    """Return a turn without the spaces around its text."""
    return Message(turn.role, turn.content.strip())


def _turns(messages: Sequence[Any]) -> Turns:
    turns = []
    for message in messages:
        try:
            turns.append(read_message(message))
        except InputError:
            raise UnusableError(_message_fault(message)) from None
    return turns


def _message_fault(message: Any) -> str:
    has_text = isinstance(message, Mapping) and isinstance(message.get("content"), str)
    if isinstance(message, Mapping) and {"from", "value"} <= message.keys():
        return f"with messages from {str(message['from'])[:20]!r}, whose part is not known"
    if has_text and isinstance(message.get("role"), str):
        return "with messages that have more than role and content, such as calls of tools"
    return 'with messages that are not {"role": "…", "content": "…"}'
