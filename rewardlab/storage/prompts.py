"""Prompts from a file."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any, NamedTuple

from rewardlab.conversations import Prompt, from_json, read_message
from rewardlab.errors import InputError
from rewardlab.storage.contents import decoded, is_arrow, is_parquet, plain_suffix, read_content
from rewardlab.storage.exchange_rows import CONVERSATION_KEYS
from rewardlab.storage.exchanges import UnusableError
from rewardlab.storage.metadata import read_text
from rewardlab.storage.pair_columns import SYSTEM_NAMES, prompt_beside
from rewardlab.storage.records import Record, is_json, parsed, read_records

_log = logging.getLogger("rewardlab")
_ROW_SUFFIXES = (".jsonl", ".json", ".ndjson", ".csv", ".tsv", ".parquet", ".arrow")


class PlacedPrompt(NamedTuple):
    """A prompt of a file.

    Attributes:
        place: where it is, such as "line 3".
        prompt: a text, which may be blank, or a conversation.
    """

    place: str
    prompt: Prompt


def read_prompts(path: str | Path, strict: bool = False) -> list[Prompt]:
    r"""Return the prompts of a file: one a line of text, or one a row of JSON, CSV or parquet.

    A row has the key "prompt", with a text or a list of messages {"role", "content"}, which may be
    called as in rows of pairs (`rewardlab.storage.exchange_rows.row_exchange`); or the key
    "messages", or "conversations" in ShareGPT's form, of which the assistant's last message is left
    out, if it is the end. A byte order mark and Windows' line ends are removed. A prompt that holds
    line breaks needs JSON or CSV. See `read_records` for the forms.

    Args:
        path: the file, or a folder that `save_to_disk` of `datasets` wrote.
        strict: refuse blank lines, instead of skipping them with a warning.

    Raises:
        InputError: if the file is missing, empty or not UTF-8, or a row has no prompt.

    Example:
        >>> path = getfixture("tmp_path") / "prompts.txt"
        >>> _ = path.write_bytes(b"a cat\r\na dog\r\n")
        >>> read_prompts(path)
        ['a cat', 'a dog']
    """
    path = Path(path)
    prompts = placed_prompts(path)
    blank = [prompt.place for prompt in prompts if not str(prompt.prompt).strip()]
    if len(blank) == len(prompts):
        raise InputError(f"{path} holds no prompts. Write one a line.")
    if blank:
        _report_blank(path, blank, len(prompts), strict)
    return [prompt.prompt for prompt in prompts if str(prompt.prompt).strip()]


def placed_prompts(path: str | Path) -> list[PlacedPrompt]:
    """Return the prompts of a file with their places; blank ones are among them.

    Raises:
        InputError: as `read_prompts`.

    Example:
        >>> path = getfixture("tmp_path") / "prompts.txt"
        >>> _ = path.write_text("a cat")
        >>> placed_prompts(path)
        [PlacedPrompt(place='line 1', prompt='a cat')]
    """
    path = Path(path)
    if holds_rows(path):
        texts = _texts_of(path)
        return _from_records(path, read_records(path)) if texts is None else texts
    return _from_lines(read_text(path))


def holds_rows(path: str | Path) -> bool:
    """Tell whether a file holds rows, JSON or a table, instead of a text on each line.

    Its name or its content says so. A folder is one of `datasets`.

    Example:
        >>> path = getfixture("tmp_path") / "prompts.txt"
        >>> _ = path.write_text('{"prompt": "a cat"}')
        >>> holds_rows(path)
        True
    """
    path = Path(path)
    if path.is_dir() or plain_suffix(path) in _ROW_SUFFIXES:
        return True
    content = read_content(path)
    return is_parquet(content) or is_arrow(content) or is_json(decoded(path, content))


def _report_blank(path: Path, blank: list[str], total: int, strict: bool) -> None:
    """Log how many lines are blank, or refuse them if `strict`."""
    count = len(blank)
    if strict:
        raise InputError(
            f"{path}, {blank[0]} is blank, and {count} lines in all. "
            'Remove them; an empty prompt is written as {"prompt": ""} in a .jsonl file.'
        )
    _log.warning("Skipped %d blank lines of %d in %s (the first: %s)", count, total, path, blank[0])


def text_lines(text: str) -> list[str]:
    r"""Return the lines of a text; only line feeds end one, and the last one may.

    Example:
        >>> text_lines("a\r\nb\n")
        ['a', 'b']
    """
    return text.replace("\r\n", "\n").removesuffix("\n").split("\n")


def _from_lines(text: str) -> list[PlacedPrompt]:
    lines = text_lines(text)
    return [PlacedPrompt(f"line {number}", line) for number, line in enumerate(lines, 1)]


def _texts_of(path: Path) -> list[PlacedPrompt] | None:
    """Return the prompts of a JSON array of texts; None if it is something else."""
    content = b"" if path.is_dir() else read_content(path)
    is_array = content.lstrip(b"\xef\xbb\xbf \t\r\n").startswith(b"[")
    values = parsed(decoded(path, content)) if is_array else None
    if not isinstance(values, list) or not values:
        return None
    if not all(isinstance(value, str) for value in values):
        return None
    return [PlacedPrompt(f"text {number}", value) for number, value in enumerate(values, 1)]


def _from_records(path: Path, records: list[Record]) -> list[PlacedPrompt]:
    prompts = []
    answered = 0
    for record in records:
        if record.problem is not None:
            raise InputError(
                f"{path}, {record.place} is {record.problem}; it should be an object such as "
                '{"prompt": "a cat"}. Mend or remove it.'
            )
        try:
            prompts.append(PlacedPrompt(record.place, _prompt_in(record.row)))
        except InputError as error:
            raise InputError(f"{path}, {record.place} {error}") from None
        answered += _is_answered(record.row)
    if answered:
        _log.info("%d conversations in %s end with an answer, which is left out", answered, path)
    return prompts


def _prompt_in(row: dict[str, Any]) -> Prompt:
    """Return the prompt of a row, begun by its system's text if it has one."""
    value = row.get("prompt")
    messages = _messages(row)
    if messages and value in (None, []):
        turns = messages[:-1] if _is_answered(row) else messages
        systems = {name: row.get(name) for name in SYSTEM_NAMES}
        return _checked([*(_called(systems, turns) or []), *turns])
    value = _called({name: row[name] for name in row if name not in CONVERSATION_KEYS}, None)
    if isinstance(value, str | list) and value != []:
        return _checked(value)
    keys = str(sorted(map(str, row)))[:200]
    raise InputError(
        f'has no string "prompt"; it has {keys}. Rename its key, or write a list of messages as '
        "the prompt."
    )


def _called(row: dict[str, Any], turns: list[Any] | None) -> Any:
    """Return the prompt of a row, whatever it is called; None where it has none, or turns do.

    Raises:
        InputError: if that cannot be told.
    """
    try:
        return prompt_beside(row, turns)
    except UnusableError as reason:
        raise InputError(f"is a row {reason}.") from None


def _checked(value: str | list[Any]) -> Prompt:
    try:
        return from_json(value)
    except InputError as error:
        raise InputError(f"has a prompt that cannot be used. {error}") from None


def _is_answered(row: dict[str, Any]) -> bool:
    """Tell whether a row's prompt are its "messages", and they end with the assistant's."""
    messages = _messages(row)
    if row.get("prompt") not in (None, []) or not messages:
        return False
    try:
        return read_message(messages[-1]).role == "assistant"
    except InputError:  # which is said where the messages are read
        return False


def _messages(row: dict[str, Any]) -> list[Any]:
    """Return the list of messages that a row has beside "prompt", none where it has no such."""
    for key in CONVERSATION_KEYS:
        if isinstance(row.get(key), list):
            return list(row[key])
    return []
