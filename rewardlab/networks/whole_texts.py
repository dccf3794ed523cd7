"""Texts that hold a prompt with its response, as clients of reward servers send them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from rewardlab.conversations import Prompt
from rewardlab.networks.chat import TextTokens
from rewardlab.networks.chat_template import NO_TURNS
from rewardlab.networks.marks import Ids

WHOLE = 1  # the fact "whole" of a text that holds its prompt
MAY_BE_CUT = 2  # the same of a text that may be cut from the left


class Parts(NamedTuple):
    """A prompt and its response.

    Attributes:
        prompt: a text or a conversation.
        response: without what a template or an end token puts behind it.
        finished: whether the response ended by itself.
    """

    prompt: Prompt
    response: str
    finished: bool


def whole_ids(texts: TextTokens, words: Sequence[str]) -> list[Ids]:
    """Return the tokens of texts that their sender formatted, as rows that a reward scores.

    Special tokens in a text are read as such, since the sender's template wrote them. The token
    that begins a model's texts stands once, whether the sender wrote it, as OpenRLHF does, or
    dropped it, as verl does. The end token is put behind where the reward puts it behind its own
    texts and the sender did not.

    Args:
        texts: how the reward reads texts.
        words: B texts.

    Example:
        >>> from rewardlab.testing.tiny_text import tiny_tokenizer
        >>> texts = TextTokens(tiny_tokenizer())
        >>> whole_ids(texts, ["ab", "ab<|end|>"])
        [[97, 98, 256], [97, 98, 256]]
        >>> whole_ids(texts, ["ab"]) == texts.row_ids(["a"], ["b"], [True])
        True
    """
    begin = texts.tokenizer.bos_token or ""
    framed = texts.turns is NO_TURNS
    bare = [text.removeprefix(begin) for text in words]
    if not framed:
        lead = begin if begin and texts.turns.opening.startswith(begin) else ""
        formatted = [lead + text for text in bare] if lead else list(words)
        rows = texts.marks.ids(formatted)
    elif texts.tokenizer.bos_token_id in texts.marks.frame.before:
        rows = texts.marks.ids(bare, framed=True)
    else:
        rows = texts.marks.ids(words, framed=True)
    end = None if texts.ends_rows else texts.tokenizer.eos_token_id
    ended: list[Ids] = []
    for row in rows:
        if end is not None and row[-1:] != [end]:
            ended.append([*row, int(end)])
        else:
            ended.append(row)
    return ended


def parts_of(texts: TextTokens, text: str, prompt: Prompt) -> Parts | None:
    """Return a text's prompt and response, where it begins with a prompt that is known.

    What the template or an end token puts behind a response is dropped, so that the reward puts it
    there itself, and special tokens in the response stay text.

    Args:
        texts: how the reward reads texts.
        text: a prompt with its response.
        prompt: as it stands in the text: as somebody typed it, or as a template wrote it. Only
            special tokens may stand before it.

    Returns:
        None if the text does not begin with the prompt.

    Example:
        >>> from rewardlab.testing.tiny_text import tiny_tokenizer
        >>> texts = TextTokens(tiny_tokenizer(chat=True))
        >>> parts_of(texts, "user: hi\\nassistant: hello\\n", "user: hi\\nassistant: ")
        Parts(prompt='user: hi\\nassistant: ', response='hello', finished=True)
        >>> parts_of(texts, "hihello", "hi")
        Parts(prompt='hi', response='hello', finished=True)
    """
    shown = prompt if isinstance(prompt, str) else texts.row_text(prompt)
    start = _start(texts, text, shown)
    if start is None:
        return None
    response = text[start + len(shown) :]
    bare = _without_end(texts, response)
    is_open = bare == response and bool(texts.turns.closing) and texts.is_formatted(shown)
    return Parts(prompt, bare, not is_open)


def _start(texts: TextTokens, text: str, prompt: str) -> int | None:
    """Return where a text's prompt begins, behind special tokens alone; None if nowhere."""
    rest = text
    while not rest.startswith(prompt):
        mark = texts.marks.first(rest)
        if mark is None:
            return None
        rest = rest[len(mark) :]
    return len(text) - len(rest)


def _without_end(texts: TextTokens, response: str) -> str:
    """Return a response without the end of a turn that stands behind it, if one does."""
    closing = texts.turns.closing
    end = texts.tokenizer.eos_token or ""
    for tail in (closing, closing.rstrip(), end):
        if tail.strip(" ") and response.endswith(tail):
            return response.removesuffix(tail)
    return response
