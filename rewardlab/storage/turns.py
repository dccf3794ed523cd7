"""Turns inside plain texts: where a dialogue that is written as one text asks for an answer."""

from __future__ import annotations

import re
from typing import NamedTuple

from rewardlab.conversations import Message


class _Style(NamedTuple):
    """How a dialogue marks its turns.

    Attributes:
        asks: the mark of the user's turn, which stands before the assistant's.
        answers: the mark of the assistant's turn, at whose end the answer begins.
        end: the mark that ends a turn, None where a style has none.
    """

    asks: re.Pattern[str]
    answers: re.Pattern[str]
    end: str | None = None


def _labels(asks: str, answers: str) -> _Style:
    """Return the style of labels such as "Human:", each at the beginning of a line."""
    start = r"(?:^|(?<=\n))[ \t]*(?:#+[ \t]*|\*\*)?"
    end = r"(?:\*\*)?:(?:\*\*)?\n*"
    return _Style(
        re.compile(f"{start}(?:{asks}){end}", re.IGNORECASE),
        re.compile(f"{start}(?:{answers}){end}", re.IGNORECASE),
    )


def _marks(asks: str, answers: str, end: str | None = None) -> _Style:
    """Return the style of special tokens, which stand anywhere."""
    return _Style(re.compile(asks), re.compile(answers), end)


# The first style that a text has counts. Marks that no text of people's holds come first.
_STYLES = (
    _marks(r"<\|im_start\|>user\n", r"<\|im_start\|>assistant\n", "<|im_end|>"),
    _marks(
        r"<\|start_header_id\|>user<\|end_header_id\|>\n\n",
        r"<\|start_header_id\|>assistant<\|end_header_id\|>\n\n",
        "<|eot_id|>",
    ),
    _marks(r"<start_of_turn>user\n", r"<start_of_turn>model\n", "<end_of_turn>"),
    _marks(
        r"<\|start_of_role\|>user<\|end_of_role\|>",
        r"<\|start_of_role\|>assistant<\|end_of_role\|>",
        "<|end_of_text|>",
    ),
    _marks(r"<\|user\|>", r"<\|assistant\|>\n*", "</s>"),
    _marks(r"<｜User｜>", r"<｜Assistant｜>", "<｜end▁of▁sentence｜>"),
    _marks(r"<\|prompter\|>", r"<\|assistant\|>", "<|endoftext|>"),
    _marks(r"\[INST\]", r"\[/INST\]", "</s>"),
    _marks(r"\bUSER:", r"\bASSISTANT:", "</s>"),
    _marks(r"GPT4 Correct User:", r"GPT4 Correct Assistant:", "<|end_of_turn|>"),
    _labels("human", "assistant|ai|gpt|bot|chatbot"),
    _labels("user", "assistant|ai|gpt|bot|chatbot|model|system"),
    _labels("instruction|input", "response|output"),
    _labels("question", "answer"),
    _labels("q", "a"),
    _labels("post|article|document|text", r"tl;dr|summary"),
)


class _Mark(NamedTuple):
    """Where a turn's mark stands, and whose turn begins behind it."""

    start: int
    end: int
    role: str


class SharedPrompt(NamedTuple):
    """What two texts share up to where the assistant's last turn begins.

    Attributes:
        prompt: the shared beginning, with the assistant's mark.
        first: the rest of the first text.
        second: the rest of the second.
    """

    prompt: str
    first: str
    second: str


def shared_prompt(first: str, second: str) -> SharedPrompt | None:
    r"""Return two dialogues parted where both of them begin the assistant's last turn.

    Prompt and rests joined are the texts, to the letter. Texts are parted at the mark of a turn
    only, never inside a turn, however far they are equal. None is returned where no turn is marked
    in what they share, or where a further turn follows in one of them.

    Example:
        >>> shared_prompt("\n\nHuman: hi\n\nAssistant: hey", "\n\nHuman: hi\n\nAssistant: hello")
        SharedPrompt(prompt='\n\nHuman: hi\n\nAssistant:', first=' hey', second=' hello')
        >>> shared_prompt("good ", "bad")
    """
    common = _common_start(first, second)
    style = _style_of(common)
    if style is None:
        return None
    end = _last_end(style.answers, common)
    rests = (first[end:], second[end:])
    if any(style.asks.search(rest) or style.answers.search(rest) for rest in rests):
        return None
    return SharedPrompt(common[:end], *rests)


def dialogue_turns(text: str) -> list[Message] | None:
    r"""Return the turns of a dialogue that is written as one text, without their marks.

    None is returned where no turns are marked, or something stands before the first mark.

    Example:
        >>> dialogue_turns("\n\nHuman: hi\n\nAssistant: hey\n\nHuman: bye\n\nAssistant:")[1:]
        [Message(role='assistant', content='hey'), Message(role='user', content='bye')]
    """
    style = _style_of(text)
    if style is None:
        return None
    marks = [_Mark(match.start(), match.end(), "user") for match in style.asks.finditer(text)]
    marks += [
        _Mark(match.start(), match.end(), "assistant") for match in style.answers.finditer(text)
    ]
    marks.sort()
    if text[: marks[0].start].strip():
        return None
    ends = [mark.start for mark in marks[1:]] + [len(text)]
    turns = []
    for mark, end in zip(marks, ends, strict=True):
        turns.append(Message(mark.role, text[mark.end : end].strip()))
    if turns[-1] == Message("assistant", ""):
        turns.pop()
    return turns


def asks_for_answer(text: str) -> bool:
    r"""Tell whether a text is a dialogue that ends where the assistant's turn begins.

    Example:
        >>> asks_for_answer("\n\nHuman: hi\n\nAssistant:"), asks_for_answer("2+2?")
        (True, False)
    """
    style = _style_of(text)
    return style is not None and not text[_last_end(style.answers, text) :].strip()


def without_end(prompt: str, response: str) -> str:
    r"""Return a response without the mark that ends a turn in the style of its prompt.

    Models and templates write that mark by themselves.

    Example:
        >>> asked = "<|im_start|>user\nhi<|im_end|>\n<|im_start|>assistant\n"
        >>> without_end(asked, "hello<|im_end|>\n"), without_end("hi", "</s>")
        ('hello', '</s>')
    """
    style = _style_of(prompt)
    if style is None or style.end is None or not asks_for_answer(prompt):
        return response
    rest = response.rstrip()
    return rest.removesuffix(style.end) if rest.endswith(style.end) else response


def _common_start(first: str, second: str) -> str:
    """Return the longest text that both begin with."""
    low = 0
    high = min(len(first), len(second))
    while low < high:
        middle = (low + high + 1) // 2
        if first[:middle] == second[:middle]:
            low = middle
        else:
            high = middle - 1
    return first[:low]


def _style_of(text: str) -> _Style | None:
    """Return the first style by which a text has the user's turn and then the assistant's."""
    for style in _STYLES:
        asked = style.asks.search(text)
        if asked is not None and style.answers.search(text, asked.end()):
            return style
    return None


def _last_end(pattern: re.Pattern[str], text: str) -> int:
    """Return where the last match of a pattern ends, 0 if there is none."""
    end = 0
    for match in pattern.finditer(text):
        end = match.end()
    return end


def continues(text: str, prompt: str) -> bool:
    """Tell whether a text begins with a prompt and goes on after it at a new word.

    Example:
        >>> continues("2+2? 4", "2+2?"), continues("Paris", "Par"), continues("hi", "hi there")
        (True, False, False)
    """
    if not prompt.strip() or not text.startswith(prompt):
        return False
    rest = text[len(prompt) :]
    return not rest or rest[0].isspace() or prompt[-1].isspace() or asks_for_answer(prompt)
