"""Prompts and responses as the tokens of one model: its chat template, or plain text.

Rewards and policies format by this one module.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import Any, NamedTuple

from rewardlab.conversations import Conversation, Prompt, messages_of
from rewardlab.errors import InputError
from rewardlab.networks.chat_template import NO_TURNS, rendered, template_of, turns_of
from rewardlab.networks.marks import Ids, Marks
from rewardlab.networks.text_format import TextFormat, with_spaced_end
from rewardlab.types import Samples, distinct

NEVER = "\0"  # what no template begins with
CONTEXT = 16  # tokens before a response that tell whether its first space is its own


class Form(NamedTuple):
    """The text of a prompt.

    Attributes:
        text: with hidden marks.
        framed: whether the tokenizer puts its own tokens around it, since no template did.
        formatted: whether it was what a template writes before we had it.
    """

    text: str
    framed: bool = False
    formatted: bool = False


class Pairs(NamedTuple):
    """The tokens of B prompts, and of the responses behind them."""

    prompts: list[Ids]
    responses: list[Ids]


class TextTokens:
    """Prompts and responses as the tokens of one model.

    With a chat template they are what `apply_chat_template` gives for the conversation; a text is
    the user's one message. A text that the template has formatted already is taken as it is.
    Without a template prompt and response are joined, and a conversation is refused.

    Args:
        tokenizer: of transformers.
        form: the settings.

    Attributes:
        template: by which texts are written, with its clock held; None for plain text.
        chats: whether a chat template formats.
        ends_rows: whether the template ends a finished response, so that no end token is put there.
        closes: whether the template writes something of its own behind the assistant's words.
        end: the token that ends the assistant's turn, None where no template writes one.

    Raises:
        InputError: if a template is asked for and there is none, or it fails.

    Example:
        >>> from rewardlab.testing.tiny_text import tiny_tokenizer
        >>> tokens = TextTokens(tiny_tokenizer(chat=True))
        >>> bytes(tokens.prompt_ids(["hi"])[0]).decode()
        'user: hi\\nassistant: '
    """

    def __init__(self, tokenizer: Any, form: TextFormat | None = None) -> None:
        self.tokenizer = tokenizer
        self.form = form or TextFormat()
        self.template = template_of(tokenizer, self.form)
        self.chats = self.template is not None
        if self.form.ending == "spaced":
            self.template = with_spaced_end(self.template)
        self.turns = NO_TURNS
        if self.template is not None:
            self.turns = turns_of(tokenizer, self.template, self.form.options)
        self.marks = Marks(tokenizer, self.turns.written)
        self.closes = bool(self.turns.closing.strip())
        self.end = self._end_of_turn()
        self.ends_rows = self.closes or (self.chats and self.form.ending == "template")

    def prompt_ids(self, prompts: Sequence[Prompt]) -> list[Ids]:
        """Return the tokens of prompts, up to where a response begins; equal ones are made once."""
        return self._starts(prompts)[1]

    def response_ids(self, prompts: Sequence[Prompt], responses: Sequence[str]) -> list[Ids]:
        """Return the tokens of responses as they stand behind their prompts, without an end."""
        return self.pair_ids(prompts, responses).responses

    def pair_ids(self, prompts: Sequence[Prompt], responses: Sequence[str]) -> Pairs:
        """Return the tokens of prompts, and those of responses behind them, without an end.

        Tokens of a prompt and then of its response are those of the joined text, unless one of
        these straddles both.
        """
        forms, starts = self._starts(prompts)
        words = [self._hidden(response) for response in responses]
        joined = [form.text + word for form, word in zip(forms, words, strict=True)]
        wholes = self._open_ids(joined, forms)
        rows = []
        for whole, start, word in zip(wholes, starts, words, strict=True):
            if whole[: len(start)] == start:
                rows.append(whole[len(start) :])
            else:
                rows.append(self.marks.ids_inside(word))
        return Pairs(starts, rows)

    def row_ids(
        self, prompts: Sequence[Prompt], responses: Sequence[str], finished: Sequence[bool]
    ) -> list[Ids]:
        """Return the tokens of prompts with their responses, as one text each.

        Where nothing ends a finished response so far, the end token does, once. Nothing ends a
        response that is not finished.
        """
        forms = self._forms(prompts)
        texts = []
        for prompt, response, form, ends in zip(prompts, responses, forms, finished, strict=True):
            texts.append(self._row_text(prompt, response, form, ends))
        end = None if self.ends_rows else self.tokenizer.eos_token_id
        rows = []
        whole_rows = self._framed_ids(texts, [form.framed for form in forms])
        for row, form, ends in zip(whole_rows, forms, finished, strict=True):
            if ends:
                rows.append(_ended(row, end))
            else:
                rows.append(self._opened(row, form))
        return rows

    def row_text(self, prompt: Prompt, response: str | None = None, finished: bool = True) -> str:
        """Return a prompt with its response as one text, or a prompt up to where one begins.

        Args:
            prompt: a text or a conversation.
            response: a text, None where it is awaited.
            finished: whether the response ended by itself; otherwise nothing is put behind it.

        Raises:
            InputError: as for a prompt's tokens.
        """
        form = self._form(prompt)
        if response is None:
            return self.marks.show(form.text)
        return self.marks.show(self._row_text(prompt, response, form, finished))

    def response_text(self, prompt: Ids, response: Ids) -> str:
        """Return the text of a response's tokens behind its prompt's, without special tokens.

        Decoders of Llama's kind drop the space at the beginning of a text, which in a response is
        its own.
        """
        alone = decoded(self.tokenizer, response)
        if not self._drops_space:
            return alone
        context = self._context(prompt)
        before = decoded(self.tokenizer, context)
        whole = decoded(self.tokenizer, [*context, *response])
        if before and whole.startswith(before):
            return whole[len(before) :]
        return alone

    def _starts(self, prompts: Sequence[Prompt]) -> tuple[list[Form], list[Ids]]:
        """Return the texts and the tokens of prompts; equal ones are made once."""
        unique = distinct(prompts)
        forms = [self._form(prompt) for prompt in unique.values]
        rows = self._open_ids([form.text for form in forms], forms)
        places = unique.places
        return [forms[place] for place in places], [list(rows[place]) for place in places]

    def _forms(self, prompts: Sequence[Prompt]) -> list[Form]:
        """Return the texts of prompts; equal ones are made once."""
        unique = distinct(prompts)
        forms = [self._form(prompt) for prompt in unique.values]
        return [forms[place] for place in unique.places]

    def _form(self, prompt: Prompt) -> Form:
        """Return the text of a prompt.

        Raises:
            InputError: if it is a conversation and there is no template, or the template fails.
        """
        if isinstance(prompt, Conversation) and not self.chats:
            reason = "chat=false forbids it" if self.form.chat is False else "there is none"
            raise InputError(
                f"A conversation of {len(prompt.messages)} messages needs a chat template, and "
                f"{reason}. Give one: chat_template.jinja beside the tokenizer, or "
                "chat={template: FILE}."
            )
        if isinstance(prompt, str) and self.is_formatted(prompt):
            return Form(self._whole(prompt), formatted=True)
        if isinstance(prompt, str) and self.template is None:
            return Form(self._hidden(prompt), framed=True)
        return Form(self._rendered(prompt, None))

    def _row_text(self, prompt: Prompt, response: str, form: Form, finished: bool) -> str:
        """Return the text of a prompt with its response; an unfinished one is left open."""
        closing = self.turns.closing
        if form.framed or form.formatted:
            text = form.text + self._hidden(response) + closing
        else:
            text = self._rendered(prompt, response)
        return text if finished else text.removesuffix(closing)

    def _rendered(self, prompt: Prompt, response: str | None) -> str:
        """Return a conversation by the template; where the answer is awaited, up to it."""
        messages = messages_of(prompt, response)
        for message in messages:
            message["content"] = self._hidden(message["content"])
        return rendered(
            self.tokenizer, self.template, messages, self.form.options, awaits=response is None
        )

    def is_formatted(self, prompt: str) -> bool:
        """Tell whether a text is what a template writes for a prompt.

        It begins as the template does and ends where the assistant begins. Without a template a
        text is that begins with a special token, other than those that end and pad.
        """
        mark = self.marks.first(prompt)
        begin = self.tokenizer.bos_token
        if self.template is None:
            others = (None, self.tokenizer.eos_token, self.tokenizer.pad_token)
            if mark == begin:
                return mark is not None
            return mark not in others
        awaiting = self.turns.awaiting.rstrip()
        if not awaiting or not prompt.rstrip().endswith(awaiting):
            return False
        if mark is not None:
            return mark == begin or mark in self.turns.written
        opening = self.turns.opening.removeprefix(begin or "")
        return bool(opening) and prompt.startswith(opening)

    def _whole(self, prompt: str) -> str:
        """Return a formatted prompt with what files like to strip: beginning and last space."""
        if self.template is None:
            begins = self.tokenizer.bos_token_id in self.marks.frame.before
        else:
            awaiting = self.turns.awaiting
            prompt = prompt.rstrip().removesuffix(awaiting.rstrip()) + awaiting
            begins = self.turns.opening.startswith(self.tokenizer.bos_token or NEVER)
        begin = self.tokenizer.bos_token or ""
        return begin + prompt.removeprefix(begin) if begins else prompt

    def _hidden(self, text: str) -> str:
        """Return a text whose marks stay text, unless they are to be read."""
        return text if self.form.marks else self.marks.hide(text)

    def _framed_ids(self, texts: Sequence[str], framed: Sequence[bool]) -> list[Ids]:
        """Return the tokens of texts, some of which the tokenizer frames."""
        rows = dict[int, Ids]()
        for way in (False, True):
            places = [place for place, is_framed in enumerate(framed) if is_framed == way]
            ids = self.marks.ids([texts[place] for place in places], framed=way)
            rows.update(zip(places, ids, strict=True))
        return [rows[place] for place in range(len(texts))]

    def _open_ids(self, texts: Sequence[str], forms: Sequence[Form]) -> list[Ids]:
        """Return the tokens of texts without what the tokenizer puts behind; at least one."""
        begin = self.tokenizer.bos_token_id
        if begin is None:
            begin = self.tokenizer.eos_token_id
        framed_rows = self._framed_ids(texts, [form.framed for form in forms])
        rows = []
        for row, form in zip(framed_rows, forms, strict=True):
            rows.append(self._opened(row, form) or [begin])
        return rows

    def _opened(self, row: Ids, form: Form) -> Ids:
        """Return a row without what the tokenizer put behind it."""
        after = self.marks.frame.after if form.framed else []
        if after and row[-len(after) :] == after:
            return row[: -len(after)]
        return row

    def _end_of_turn(self) -> int | None:
        """Return the first mark's token that the template writes behind the assistant's words."""
        tokens = self.marks.ids([self.turns.closing])[0]
        return next((token for token in tokens if token in self.marks.tokens), None)

    def _context(self, prompt: Ids) -> Ids:
        """Return tokens of a prompt that stand before its response, none where it begins anew."""
        special = self.marks.tokens
        if self._begins_behind_marks and prompt and prompt[-1] in special:
            return []
        return [token for token in prompt if token not in special][-CONTEXT:]

    @cached_property
    def _drops_space(self) -> bool:
        """Whether decoding drops a space at the beginning of a text."""
        return decoded(self.tokenizer, self.marks.ids_inside(" x")) != " x"

    @cached_property
    def _begins_behind_marks(self) -> bool:
        """Whether the tokenizer puts a space before the text behind a mark too."""
        mark = self.tokenizer.eos_token
        if mark is None:
            return False
        return self.marks.ids([mark + "x"])[0][1:] != self.marks.ids_inside("x")


def finished_of(samples: Samples) -> list[bool]:
    """Return which outputs ended by themselves, by the fact "finished"; all did where it lacks."""
    if "finished" not in samples.facts:
        return [True] * len(samples)
    ended: list[bool] = samples.facts["finished"].bool().tolist()
    return ended


def decoded(tokenizer: Any, tokens: Sequence[int]) -> str:
    """Return the text of tokens, without special ones, exactly as the tokenizer spells it."""
    text: str = tokenizer.decode(
        list(tokens), skip_special_tokens=True, clean_up_tokenization_spaces=False
    )
    return text


def _ended(ids: Sequence[int], end: int | None) -> Ids:
    """Return a row with the end token at its end, once; as it is if there is none."""
    row = list(ids)
    if end is not None and row[-1:] != [end]:
        row.append(end)
    return row
