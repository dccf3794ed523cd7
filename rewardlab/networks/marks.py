"""Special tokens told apart from the same words in a text that somebody wrote."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Sequence
from functools import cached_property
from typing import Any, NamedTuple

Ids = list[int]
Encode = Callable[[str], Ids]

PRIVATE = range(0xF0000, 0xFFFFE)  # characters that Unicode leaves to private use
HIDDEN = re.compile(f"[{chr(PRIVATE[0])}-{chr(PRIVATE[-1])}]")
LEADS = ("\n", "a", ".", "1")  # what may stand before a text that is not the first


class Frame(NamedTuple):
    """The tokens that a tokenizer puts around every text.

    Attributes:
        before: such as the begin-of-text token.
        after: such as an end token.
    """

    before: Ids
    after: Ids


class Marks:
    """A tokenizer's marks: special tokens, and other added tokens that a template writes.

    A text that somebody wrote is hidden first: each mark in it becomes one private character. A
    template may then join hidden texts with its own marks. `ids` gives a mark's token for the
    template's marks alone, and ordinary tokens for the words that were hidden.

    Args:
        tokenizer: of transformers.
        written: a text that the template wrote; added tokens in it are marks too.

    Attributes:
        tokens: the numbers of the marks.

    Example:
        >>> from rewardlab.testing.tiny_text import tiny_tokenizer
        >>> marks = Marks(tiny_tokenizer())
        >>> marks.ids(["a<|end|>", marks.hide("<|end|>")])
        [[97, 256], [60, 124, 101, 110, 100, 124, 62]]
    """

    def __init__(self, tokenizer: Any, written: str = "") -> None:
        self.tokenizer = tokenizer
        added = getattr(tokenizer, "added_tokens_decoder", {})
        self._added = list(added.values())
        self._marks = []
        self.tokens = set()
        for number, token in added.items():
            in_template = token.content in written and not token.content.isspace()
            if token.special or in_template:
                self._marks.append(token.content)
                self.tokens.add(number)
        self._hidden: dict[str, str] = {}
        self._shown: dict[str, str] = {}
        self._mark = _any_of(self._marks)
        self._to_hide = re.compile(f"{self._mark.pattern}|{HIDDEN.pattern}")
        self._boundary = _any_of(token.content for token in self._added)

    def hide(self, text: str) -> str:
        """Return a text in which each mark, and each private character, is one private character.

        Texts without any are returned as they are.
        """
        return self._to_hide.sub(lambda match: self._private(match.group()), text)

    def show(self, text: str) -> str:
        """Return a text with the words that `hide` hid."""
        return HIDDEN.sub(lambda match: self._shown.get(match.group(), match.group()), text)

    def first(self, text: str) -> str | None:
        """Return the mark that a text begins with, None if it begins with none."""
        match = self._mark.match(text)
        return match.group() if match else None

    def ids(self, texts: Sequence[str], framed: bool = False) -> list[Ids]:
        """Return the tokens of texts; what is hidden in them gives no mark.

        Args:
            texts: B texts.
            framed: put the tokenizer's own tokens around each.
        """
        plain = [text for text in texts if not HIDDEN.search(text)]
        plain_rows = iter(self._plain_ids(plain, framed))
        rows = []
        for text in texts:
            if HIDDEN.search(text):
                rows.append(self._mixed_ids(text, framed))
            else:
                rows.append(next(plain_rows))
        return rows

    def ids_inside(self, text: str) -> Ids:
        """Return the tokens of a text as they are behind other text, not at a beginning.

        Tokenizers of Llama's kind put a space before what begins.
        """
        if HIDDEN.search(text):
            return self._words(text, begins=False)
        return ids_behind(self._bare_ids, text)

    @cached_property
    def frame(self) -> Frame:
        """The tokens that the tokenizer puts around every text."""
        framed = self._plain_ids(["x"], framed=True)[0]
        bare = self._plain_ids(["x"], framed=False)[0]
        for start in range(len(framed) - len(bare) + 1):
            end = start + len(bare)
            if framed[start:end] == bare:
                return Frame(framed[:start], framed[end:])
        return Frame([], [])

    def _private(self, word: str) -> str:
        """Return the private character that stands for a word."""
        if word not in self._hidden:
            character = chr(PRIVATE[len(self._hidden)])
            self._hidden[word] = character
            self._shown[character] = word
        return self._hidden[word]

    def _plain_ids(self, texts: Sequence[str], framed: bool) -> list[Ids]:
        if not texts:
            return []
        if framed:
            rows = self.tokenizer(list(texts))["input_ids"]
        else:
            rows = self.tokenizer(list(texts), add_special_tokens=False)["input_ids"]
        return [list(row) for row in rows]

    def _mixed_ids(self, text: str, framed: bool) -> Ids:
        """Return the tokens of a text with hidden words."""
        ids: Ids = []
        passed = ""  # text without hidden words that is not tokenized yet
        before = ""
        parts = self._boundary.split(text)  # text, added token, text, added token, ..., text
        for number, part in enumerate(parts):
            if HIDDEN.search(part):
                ids += self._bare_ids(passed)
                after = "".join(parts[number + 1 : number + 2])
                words = self._trimmed(part, before, after)
                ids += self._words(words, begins=number == 0)
                passed = ""
            else:
                passed += part
            before = part
        ids += self._bare_ids(passed)
        if framed:
            return [*self.frame.before, *ids, *self.frame.after]
        return ids

    def _bare_ids(self, text: str) -> Ids:
        """Return the tokens of a text without hidden words; none of the empty text."""
        return self._plain_ids([text], framed=False)[0] if text else []

    def _trimmed(self, part: str, before: str, after: str) -> str:
        """Return a part without the spaces that the added tokens beside it take."""
        for token in self._added:
            if token.rstrip and token.content == before:
                part = part.lstrip()
            if token.lstrip and token.content == after:
                part = part.rstrip()
        return part

    def _words(self, text: str, begins: bool) -> Ids:
        """Return the ordinary tokens of a text with hidden words."""
        words = self.show(text)
        if begins:
            return self._encode_words(words)
        return ids_behind(self._encode_words, words)

    def _encode_words(self, words: str) -> Ids:
        if self._word_tokenizer is None:
            options = {"add_special_tokens": False, "split_special_tokens": True}
            return list(self.tokenizer(words, **options)["input_ids"])
        encoding = self._word_tokenizer.encode(words, add_special_tokens=False)
        return list(encoding.ids)

    @cached_property
    def _word_tokenizer(self) -> Any:
        """A copy of the fast tokenizer that knows no mark, or None for a slow one.

        A fast tokenizer asked to split special tokens still takes added tokens that are not called
        special, such as the turns of some templates, so the copy calls them so.
        """
        backend = getattr(self.tokenizer, "backend_tokenizer", None)
        if backend is None or not hasattr(backend, "to_str"):
            return None
        from tokenizers import Tokenizer

        settings = json.loads(backend.to_str())
        for token in settings["added_tokens"]:
            token["special"] = token["special"] or token["content"] in self._marks
        copy = Tokenizer.from_str(json.dumps(settings))
        copy.encode_special_tokens = True
        copy.no_truncation()
        copy.no_padding()
        return copy


def ids_behind(encode: Encode, text: str) -> Ids:
    """Return the tokens of a text behind another one with which it shares no token.

    Example:
        >>> def with_a_space(text):  # as tokenizers of Llama's kind do
        ...     return [ord(letter) for letter in " " + text]
        >>> ids_behind(with_a_space, "b")
        [98]
    """
    for lead in LEADS:
        before = encode(lead)
        whole = encode(lead + text)
        if before and whole[: len(before)] == before:
            return whole[len(before) :]
    return encode(text)


def _any_of(words: Iterable[str]) -> re.Pattern[str]:
    """Return a pattern, with a group, of any of some words; longer words go first."""
    escaped = [re.escape(word) for word in sorted(set(words), key=len, reverse=True) if word]
    return re.compile(f"({'|'.join(escaped)})" if escaped else "((?!))")
