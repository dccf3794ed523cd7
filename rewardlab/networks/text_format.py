"""How prompts and responses become a model's text: the settings, which folders keep."""

from __future__ import annotations

import datetime
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, get_args

from rewardlab.errors import InputError

if TYPE_CHECKING:
    from rewardlab.types import Samples


class TokenCounts(NamedTuple):
    """How many tokens B prompts have, and how many they have with their responses."""

    prompts: list[int]
    rows: list[int]


class FormatsTexts(ABC):
    """A policy or a reward that makes tokens of texts, in a format that can be set.

    Attributes:
        limit: most tokens of a prompt with its response; None where nothing limits them.
    """

    limit: int | None

    @abstractmethod
    def set_chat(self, chat: bool | TextFormat | None) -> None:
        """Format texts in another way, as the argument `chat` says; the weights stay.

        Raises:
            InputError: if it asks for a template and there is none.
        """

    @abstractmethod
    def token_counts(self, samples: Samples) -> TokenCounts:
        """Return how many tokens each prompt has, alone and with its response and what ends it."""


Ending = Literal["once", "template", "spaced"]

DATE = "2024-07-26"  # the day that Llama 3's template names where it has no clock
DIRECTIVES = "aAbBcdeHIjmMpSuUwWxXyYZf"
JOINED = "{% for message in messages %}{{ message['content'] }}{% endfor %}"
UNPADDED = ("-d", "-m", "-H", "-I", "-M", "-S", "-j")


@dataclass(frozen=True)
class TextFormat:
    """How prompts and responses become a model's text.

    Args:
        chat: format by the chat template; by default where the tokenizer has one. A model that was
            trained on plain text beside a tokenizer with a template wants false.
        template: a chat template (Jinja), or a file that holds one, in place of the tokenizer's.
        date: the day that the template's clock shows, as year-month-day. The clock stands, so that
            a text has the same tokens on every day.
        options: further keywords of the template, such as {"enable_thinking": false}.
        marks: read special tokens that a prompt or a response spells as such. By default they are
            ordinary text, so that nobody can write a turn of somebody else's.
        ending: what ends texts. "once" is what the template writes, or else the end token, once;
            "template" what the template writes and no more, as verl has it. "spaced" is OpenRLHF's
            way, with a template and without: line ends at the end are dropped, then a space and the
            end token come unless the end token is there, and the tokenizer puts nothing around.
            Folders of these trainers' rewards set it.

    Raises:
        InputError: if the date is none, or the ending another.

    Example:
        >>> TextFormat.of(False).chat, TextFormat.of({"date": "2026-01-02"}).date
        (False, '2026-01-02')
    """

    chat: bool | None = None
    template: str | None = None
    date: str = DATE
    options: dict[str, Any] = field(default_factory=dict)
    marks: bool = False
    ending: Ending = "once"

    def __post_init__(self) -> None:
        _day(self.date)
        if self.ending not in get_args(Ending):
            raise InputError(
                f"ending is one of {', '.join(get_args(Ending))}; got {self.ending!r}."
            )

    @classmethod
    def of(cls, chat: bool | TextFormat | Mapping[str, Any] | None) -> TextFormat:
        """Return the format that an argument `chat` means: true or false is its first setting.

        A template's file is read.

        Raises:
            InputError: if a setting has another name, or the file cannot be read.
        """
        if isinstance(chat, TextFormat):
            return chat._with_template_read()
        if chat is None or isinstance(chat, bool):
            return cls(chat)
        names = [setting.name for setting in fields(cls)]
        wrong = [name for name in chat if name not in names]
        if wrong:
            raise InputError(f"A text format has the settings {names}; got {wrong}.")
        return cls(**chat)._with_template_read()

    def settings(self) -> dict[str, Any]:
        """Return the settings as JSON files hold them."""
        return asdict(self)

    def _with_template_read(self) -> TextFormat:
        """Return the format with its template's text in place of the name of a file."""
        if self.template is None or "{" in self.template:
            return self
        try:
            text = Path(self.template).read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise InputError(
                f"A chat template should be Jinja text, or a file that holds it; "
                f"{self.template!r} cannot be read: {error}."
            ) from error
        return replace(self, template=text)


def replaced(form: TextFormat, chat: bool | TextFormat | None) -> TextFormat:
    """Return a format whose first setting is another, or another format.

    Example:
        >>> replaced(TextFormat(date="2026-01-02"), False).date
        '2026-01-02'
    """
    return (
        replace(form, chat=chat) if chat is None or isinstance(chat, bool) else TextFormat.of(chat)
    )


def with_clock(template: str, date: str) -> str:
    """Return a chat template whose `strftime_now` shows the first minute of a day.

    A template that asks for no date is returned as it is.

    Example:
        >>> clocked = with_clock("{{ strftime_now('%d %b %Y') }}", "2026-01-02")
        >>> import jinja2
        >>> jinja2.Template(clocked).render()
        '02 Jan 2026'
    """
    if "strftime_now" not in template:
        return template
    day = _day(date)
    steps = "format|replace('%%', '\x00')"
    for directive in (*UNPADDED, *DIRECTIVES):
        shown = day.strftime(f"%{directive}").replace("'", "")
        steps += f"|replace('%{directive}', '{shown}')"
    steps += "|replace('\x00', '%')"
    head = "{% macro strftime_now(format) %}{{ " + steps + " }}{% endmacro %}"
    return head + "{{ '' }}" + template  # the empty text keeps a line's end that may follow


def with_spaced_end(template: str | None) -> str:
    """Return a chat template that ends texts as OpenRLHF does; without one, messages are joined.

    Example:
        >>> import jinja2
        >>> messages = [{"content": "1+1="}, {"content": "2\\n"}]
        >>> jinja2.Template(with_spaced_end(None)).render(messages=messages, eos_token="</s>")
        '1+1=2 </s>'
    """
    head = "{% set text %}{{ '' }}" + (template or JOINED) + "{% endset %}"
    ended = "{% set text = text if add_generation_prompt else text.rstrip('\n') %}"
    is_whole = "add_generation_prompt or text.endswith(eos_token)"
    return head + ended + "{{ text if " + is_whole + " else text + ' ' + eos_token }}"


def _day(date: str) -> datetime.datetime:
    try:
        return datetime.datetime.strptime(str(date), "%Y-%m-%d")
    except ValueError as error:
        raise InputError(
            f'A date should be year-month-day, such as "{DATE}"; got {date!r}.'
        ) from error
