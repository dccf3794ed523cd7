"""Prompts of several messages: a conversation that a model's own chat template formats."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rewardlab.errors import InputError

# The senders of ShareGPT's files, and their roles.
_SENDERS = {
    "human": "user",
    "user": "user",
    "gpt": "assistant",
    "assistant": "assistant",
    "chatgpt": "assistant",
    "bing": "assistant",
    "bard": "assistant",
    "system": "system",
}
_FORM = '{"role": "user", "content": "…"}'


@dataclass(frozen=True)
class Message:
    """One turn of a conversation.

    Attributes:
        role: who speaks: "system", "user", "assistant" or another role of the model's template.
        content: the text.
    """

    role: str
    content: str


@dataclass(frozen=True)
class Conversation:
    """Messages that await an answer; a prompt is a text or a conversation.

    It is hashable, and two conversations are equal if their messages are. `str` gives the
    messages as paragraphs "role: text" for people to read; no model is given that form.

    Attributes:
        messages: one or more turns, the last of which is not the assistant's; a list of them
            becomes a tuple.

    Raises:
        InputError: if there is no message, one is no `Message`, or the assistant's is the last.

    Example:
        >>> talk = Conversation((Message("system", "Be brief."), Message("user", "Name?")))
        >>> print(talk)
        system: Be brief.
        <BLANKLINE>
        user: Name?
    """

    messages: tuple[Message, ...]

    def __post_init__(self) -> None:
        object.__setattr__(self, "messages", tuple(self.messages))
        for message in self.messages:
            if not isinstance(message, Message):
                raise InputError(
                    "A Conversation holds Messages, such as Message('user', 'Name?'); got "
                    f"{str(message)[:60]!r}. Of mappings with role and content, "
                    "conversations.prompt_of_messages makes one."
                )
        if not self.messages:
            raise InputError("A conversation needs at least one message; got none.")
        if self.messages[-1].role == "assistant":
            raise InputError(
                "A prompt's conversation should end before the assistant answers; its last message "
                f"is the assistant's: {self.messages[-1].content[:60]!r}. "
                "Give that message as the response."
            )

    def __str__(self) -> str:
        return "\n\n".join(f"{message.role}: {message.content}" for message in self.messages)


Prompt = str | Conversation


def check_prompts(prompts: Sequence[Any]) -> None:
    """Refuse one text in place of a list of them, and messages that are no `Conversation`."""
    mend = "rewardlab.as_samples(prompts, outputs) takes one prompt for all, and lists of messages."
    if isinstance(prompts, str):
        raise InputError(
            f"Samples hold one prompt a sample in a list; got the one text {prompts[:60]!r}. {mend}"
        )
    for prompt in prompts:
        if not isinstance(prompt, str | Conversation):
            raise InputError(
                "A prompt of Samples is a string or a Conversation; got a "
                f"{type(prompt).__name__}. {mend}"
            )


def prompt_of_messages(messages: Iterable[Any]) -> Prompt:
    """Return messages as a prompt; a single message of the user's is its text.

    Args:
        messages: mappings with the keys "role" and "content", as in JSON files.

    Raises:
        InputError: if a message has other keys or no text, or the last is the assistant's.

    Example:
        >>> prompt_of_messages([{"role": "user", "content": "hi"}])
        'hi'
    """
    turns = tuple(read_message(message) for message in messages)
    if len(turns) == 1 and turns[0].role == "user":
        return turns[0].content
    return Conversation(turns)


def read_message(message: Any) -> Message:
    """Return a message of a JSON file; keys whose value is null are ignored.

    A content in parts, [{"type": "text", "text": "…"}], is the joined text. The form of ShareGPT,
    {"from": "human", "value": "…"}, is read too: "human" is the user and "gpt" the assistant.

    Raises:
        InputError: if it is no mapping with a role and a text, or has further keys with values,
            such as calls of tools.

    Example:
        >>> read_message({"role": "user", "content": [{"type": "text", "text": "hi"}]})
        Message(role='user', content='hi')
    """
    if not isinstance(message, Mapping):
        raise InputError(f"A message should be {_FORM}; got {str(message)[:60]!r}.")
    if "role" not in message and "content" not in message:
        message = _from_sharegpt(message)
    content = message.get("content")
    if isinstance(content, Sequence) and not isinstance(content, str):
        content = _joined_parts(content)
    role = message.get("role")
    if not isinstance(role, str) or not isinstance(content, str):
        raise InputError(f"A message should be {_FORM}; got {str(dict(message))[:60]!r}.")
    filled = [key for key, value in message.items() if value not in (None, [], {}, "")]
    further = [str(key)[:40] for key in filled if key not in ("role", "content")]
    if further:
        raise InputError(
            f"A message should be {_FORM}; one has further keys {further[:5]}, which are not "
            "supported. Drop them, or leave such conversations out."
        )
    return Message(role, content)


def _from_sharegpt(message: Mapping[Any, Any]) -> Mapping[Any, Any]:
    """Return a message of ShareGPT's form in the other; one of neither form as it is."""
    sender = message.get("from")
    role = _SENDERS.get(sender) if isinstance(sender, str) else None
    if role is None or "value" not in message:
        return message
    others = {key: value for key, value in message.items() if key not in ("from", "value")}
    return {"role": role, "content": message["value"], **others}


def _joined_parts(parts: Sequence[Any]) -> str | None:
    """Return the text of content parts, or None where one is no text."""
    texts = []
    for part in parts:
        if not isinstance(part, Mapping) or not isinstance(part.get("text"), str):
            return None
        texts.append(part["text"])
    return "".join(texts)


def messages_of(prompt: Prompt, response: str | None = None) -> list[dict[str, str]]:
    """Return a prompt as the messages that a chat template takes; a text is the user's.

    Args:
        prompt: a text or a conversation.
        response: the assistant's answer, None where it is awaited.

    Example:
        >>> messages_of("hi", "hello")
        [{'role': 'user', 'content': 'hi'}, {'role': 'assistant', 'content': 'hello'}]
    """
    if isinstance(prompt, Conversation):
        messages = [{"role": turn.role, "content": turn.content} for turn in prompt.messages]
    else:
        messages = [{"role": "user", "content": prompt}]
    if response is not None:
        messages.append({"role": "assistant", "content": response})
    return messages


def to_json(prompt: Prompt) -> str | list[dict[str, str]]:
    """Return a prompt as JSON files hold it: a string, or a list of messages.

    Example:
        >>> to_json("hi"), from_json([{"role": "user", "content": "hi"}])
        ('hi', 'hi')
    """
    return prompt if isinstance(prompt, str) else messages_of(prompt)


def from_json(value: Any) -> Prompt:
    """Return the prompt that a JSON file holds.

    Raises:
        InputError: if it is neither a string nor a list of messages.
    """
    if isinstance(value, str):
        return value
    if isinstance(value, Sequence) and value:
        return prompt_of_messages(value)
    raise InputError(
        f"A prompt should be a string or a list of messages {_FORM}; got {str(value)[:60]!r}."
    )


def text_prompts(prompts: Sequence[Prompt], who: str) -> list[str]:
    """Return prompts that all have to be texts; the error names the caller `who`.

    Raises:
        InputError: if one is a conversation.

    Example:
        >>> text_prompts(["a cat"], "A pipeline")
        ['a cat']
    """
    texts = []
    for prompt in prompts:
        if isinstance(prompt, Conversation):
            raise InputError(
                f"{who} takes prompts that are texts; one is a conversation of "
                f"{len(prompt.messages)} messages: {str(prompt)[:60]!r}. Conversations are for "
                "language models with a chat template; give the text that is meant."
            )
        texts.append(prompt)
    return texts
