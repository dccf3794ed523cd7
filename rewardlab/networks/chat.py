"""Prompts and responses as the tokens of one model: its chat template, or plain text.

Rewards and policies format by this one module.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import Any, NamedTuple

from rewardlab.conversations import Conversation, Prompt, messages_of
from rewardlab.errors import InputError
from rewardlab.networks.marks import Ids, Marks
from rewardlab.networks.text_format import TextFormat, with_clock
from rewardlab.types import Samples, distinct

USER = "rewardlab-user-words"
ASSISTANT = "rewardlab-assistant-words"
CONTEXT = 16  # tokens before a response that tell whether its first space is its own


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


class Form(NamedTuple):
    """The text of a prompt.

    Attributes:
        text: with hidden marks.
        framed: whether the tokenizer puts its own tokens around it; no template did.
        closing: what ends a response to it, for the text of a whole row.
    """

    text: str
    framed: bool
    closing: str


class TextTokens:
    """Prompts and responses as the tokens of one model.

    With a chat template they are what `apply_chat_template` gives for the conversation; a text is
    the user's one message. A text that the template has formatted already is taken as it is.
    Without a template prompt and response are joined, and a conversation is refused.

    Args:
        tokenizer: of transformers.
        form: the settings.

    Attributes:
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
        self._template = _template_of(tokenizer, self.form)
        turns = None if self._template is None else self._turns()
        self.turns = turns
        self.marks = Marks(tokenizer, turns.written if turns else "")
        self.closes = bool(turns and turns.closing.strip())
        self.end = self._end_of_turn()

    def prompt_ids(self, prompts: Sequence[Prompt]) -> list[Ids]:
        """Return the tokens of prompts, up to where a response begins; equal ones are made once."""
        unique = distinct(prompts)
        forms = [self._form(prompt) for prompt in unique.values]
        rows = self._open_ids([form.text for form in forms], forms)
        return [rows[place] for place in unique.places]

    def response_ids(self, prompts: Sequence[Prompt], responses: Sequence[str]) -> list[Ids]:
        """Return the tokens of responses as they stand behind their prompts, without an end.

        Tokens of a prompt and then of its response are those of the joined text, unless one of
        these straddles both.
        """
        forms = [self._form(prompt) for prompt in prompts]
        words = [self._hidden(response) for response in responses]
        joined = [form.text + word for form, word in zip(forms, words, strict=True)]
        wholes = self._open_ids(joined, forms)
        starts = self.prompt_ids(prompts)
        rows = []
        for whole, start, word in zip(wholes, starts, words, strict=True):
            if whole[: len(start)] == start:
                rows.append(whole[len(start) :])
            else:
                rows.append(self.marks.ids_inside(word))
        return rows

    def row_ids(
        self, prompts: Sequence[Prompt], responses: Sequence[str], finished: Sequence[bool]
    ) -> list[Ids]:
        """Return the tokens of prompts with their responses, as one text each.

        Where nothing ends a finished response so far, the end token does, once. Nothing ends a
        response that is not finished.
        """
        unique = distinct(prompts)
        forms = [self._form(prompt) for prompt in unique.values]
        forms = [forms[place] for place in unique.places]
        texts = []
        for prompt, response, form, ends in zip(prompts, responses, forms, finished, strict=True):
            texts.append(self._row_text(prompt, response, form, ends))
        rows = []
        end = None if self.closes else self.tokenizer.eos_token_id
        whole_rows = self._framed_ids(texts, [form.framed for form in forms])
        for row, form, ends in zip(whole_rows, forms, finished, strict=True):
            rows.append(_ended(row, end) if ends else self._opened(row, form))
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
        return whole[len(before) :] if before and whole.startswith(before) else alone

    def _form(self, prompt: Prompt) -> Form:
        """Return the text of a prompt.

        Raises:
            InputError: if it is a conversation and there is no template, or the template fails.
        """
        if isinstance(prompt, Conversation) and self._template is None:
            raise InputError(
                f"A conversation of {len(prompt.messages)} messages needs a chat template, and "
                + ("chat=false forbids it. " if self.form.chat is False else "there is none. ")
                + "Give one: chat_template.jinja beside the tokenizer, or chat={template: FILE}."
            )
        closing = self.turns.closing if self.turns else ""
        if isinstance(prompt, str) and self._is_formatted(prompt):
            return Form(self._begun(prompt), False, closing)
        if self._template is None:
            assert isinstance(prompt, str)
            return Form(self._hidden(prompt), True, closing)
        return Form(self._rendered(prompt, None), False, closing)

    def _row_text(self, prompt: Prompt, response: str, form: Form, finished: bool) -> str:
        """Return the text of a prompt with its response; an unfinished one is left open."""
        is_plain = isinstance(prompt, str) and self._is_formatted(prompt)
        if self._template is None or is_plain:
            text = form.text + self._hidden(response) + form.closing
        else:
            text = self._rendered(prompt, response)
        return text if finished else text.removesuffix(form.closing)

    def _rendered(self, prompt: Prompt, response: str | None) -> str:
        """Return a conversation by the template; where the answer is awaited, up to it."""
        messages = messages_of(prompt, response)
        hidden = [
            {"role": message["role"], "content": self._hidden(message["content"])}
            for message in messages
        ]
        return self._render(hidden, awaits=response is None)

    def _render(self, messages: list[dict[str, str]], awaits: bool) -> str:
        """Call the template.

        Raises:
            InputError: if it fails, as some do for a system's message.
        """
        try:
            text: str = self.tokenizer.apply_chat_template(
                messages,
                chat_template=self._template,
                tokenize=False,
                add_generation_prompt=awaits,
                **self.form.options,
            )
        except Exception as error:  # a foreign template can raise anything
            roles = ", ".join(message["role"] for message in messages)
            raise InputError(
                f"The chat template refuses a conversation of the roles {roles}: {error}. Drop "
                "or change those messages (some models take no system message), or give another "
                "template: chat={template: FILE}."
            ) from error
        return text

    def _turns(self) -> Turns:
        """Return what the template writes around words."""
        user = {"role": "user", "content": USER}
        assistant = {"role": "assistant", "content": ASSISTANT}
        opening, _, awaiting = self._render([user], awaits=True).partition(USER)
        closing = self._render([user, assistant], awaits=False).rpartition(ASSISTANT)[2]
        rounds = self._render([user, assistant, user], awaits=False)
        return Turns(opening, awaiting, closing, rounds)

    def _is_formatted(self, prompt: str) -> bool:
        """Tell whether a text is what a template writes for a prompt.

        It begins as the template does and ends where the assistant begins. Without a template a
        text is that begins with a special token, other than those that end and pad.
        """
        mark = self.marks.first(prompt)
        if self.turns is None:
            begin = self.tokenizer.bos_token
            ends = (None, self.tokenizer.eos_token, self.tokenizer.pad_token)
            return mark is not None and (mark == begin or mark not in ends)
        awaiting = self.turns.awaiting.strip()
        if not awaiting or not prompt.rstrip().endswith(awaiting):
            return False
        if mark is not None:
            return mark in self.turns.written or mark == self.tokenizer.bos_token
        opening = self.turns.opening.removeprefix(self.tokenizer.bos_token or "")
        return bool(opening) and prompt.startswith(opening)

    def _begun(self, prompt: str) -> str:
        """Return a formatted prompt with one beginning of text, if the model wants one."""
        begin = self.tokenizer.bos_token
        if begin is None or prompt.startswith(begin):
            return prompt
        if self.turns is None:
            wanted = self.tokenizer.bos_token_id in self.marks.frame.before
        else:
            wanted = self.turns.opening.startswith(begin)
        return begin + prompt if wanted else prompt

    def _hidden(self, text: str) -> str:
        """Return a text whose marks stay text, unless they are to be read."""
        return text if self.form.marks else self.marks.hide(text)

    def _framed_ids(self, texts: Sequence[str], framed: Sequence[bool]) -> list[Ids]:
        """Return the tokens of texts, some of which the tokenizer frames."""
        rows: list[Ids] = [[]] * len(texts)
        for way in (False, True):
            places = [i for i, is_framed in enumerate(framed) if is_framed == way]
            ids = self.marks.ids([texts[i] for i in places], framed=way)
            for i, row in zip(places, ids, strict=True):
                rows[i] = row
        return rows

    def _open_ids(self, texts: Sequence[str], forms: Sequence[Form]) -> list[Ids]:
        """Return the tokens of texts without what the tokenizer puts behind; at least one."""
        rows = self._framed_ids(texts, [form.framed for form in forms])
        opened = [self._opened(row, form) for row, form in zip(rows, forms, strict=True)]
        begin = self.tokenizer.bos_token_id
        if begin is None:
            begin = self.tokenizer.eos_token_id
        return [row or [begin] for row in opened]

    def _opened(self, row: Ids, form: Form) -> Ids:
        """Return a row without what the tokenizer put behind it."""
        after = self.marks.frame.after if form.framed else []
        if after and row[-len(after) :] == after:
            return row[: -len(after)]
        return row

    def _end_of_turn(self) -> int | None:
        """Return the first mark's token that the template writes behind the assistant's words."""
        if self.turns is None:
            return None
        tokens = {*self.tokenizer.all_special_ids, *self.marks.tokens}
        for token in self.marks.ids([self.turns.closing])[0]:
            if token in tokens:
                return token
        return None

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


def _template_of(tokenizer: Any, form: TextFormat) -> str | None:
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


def _ended(ids: Sequence[int], end: int | None) -> Ids:
    """Return a row with the end token at its end, once; as it is if there is none."""
    row = list(ids)
    if end is not None and row[-1:] != [end]:
        row.append(end)
    return row
