"""A model's chat template: which one formats, what it writes, and what it writes around words."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from rewardlab.errors import InputError, reason_of
from rewardlab.networks.text_format import TextFormat, with_clock

USER = "rewardlab-user-words"
ASSISTANT = "rewardlab-assistant-words"


class Turns(NamedTuple):
    """What a chat template writes around the words of a user and of the assistant.

    Attributes:
        opening: before the user's words, if they are the first.
        awaiting: after them, up to where the assistant begins.
        closing: after the assistant's words.
        written: all that the template writes in two rounds.
    """

    opening: str
    awaiting: str
    closing: str
    written: str


NO_TURNS = Turns("", "", "", "")


def template_of(tokenizer: Any, form: TextFormat) -> str | None:
    """Return the template to format by, with its clock held; None for plain text.

    Raises:
        InputError: if one is asked for and there is none.
    """
    if form.chat is False:
        return None
    template = form.template
    if template is None and getattr(tokenizer, "chat_template", None):
        template = tokenizer.get_chat_template()
    if template is not None:
        return with_clock(template, form.date)
    if form.chat or form.options:
        raise InputError(
            "The tokenizer has no chat template, and the format asks for one. Put "
            "chat_template.jinja beside the tokenizer, or give chat={template: FILE}."
        )
    return None


def rendered(
    tokenizer: Any,
    template: str | None,
    messages: list[dict[str, str]],
    options: Mapping[str, Any],
    *,
    awaits: bool,
) -> str:
    """Return a conversation as a template writes it.

    Args:
        tokenizer: of transformers.
        template: Jinja; None for the tokenizer's own.
        messages: each with "role" and "content".
        options: further keywords of the template.
        awaits: whether the text goes on up to where the assistant begins.

    Raises:
        InputError: if the template fails, as some do for a system's message.
    """
    try:
        text: str = tokenizer.apply_chat_template(
            messages,
            chat_template=template,
            tokenize=False,
            add_generation_prompt=awaits,
            **options,
        )
    except Exception as error:  # a foreign template can raise anything
        roles = ", ".join(message["role"] for message in messages)
        reason = reason_of(error)
        raise InputError(
            f"The chat template refuses a conversation of the roles {roles}: {reason}. "
            "Drop or change those messages (some models take no system message), or give "
            "another template: chat={template: FILE}."
        ) from error
    return text


def turns_of(tokenizer: Any, template: str, options: Mapping[str, Any]) -> Turns:
    """Return what a template writes around words, read off conversations of known words."""
    user = {"role": "user", "content": USER}
    assistant = {"role": "assistant", "content": ASSISTANT}
    asked = rendered(tokenizer, template, [user], options, awaits=True)
    opening, _, awaiting = asked.partition(USER)
    answered = rendered(tokenizer, template, [user, assistant], options, awaits=False)
    closing = answered.rpartition(ASSISTANT)[2]
    rounds = rendered(tokenizer, template, [user, assistant, user], options, awaits=False)
    return Turns(opening, awaiting, closing, rounds)
