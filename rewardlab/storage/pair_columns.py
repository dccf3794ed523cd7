"""Which columns of a row hold prompt, chosen and rejected, where they are called otherwise."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from rewardlab.storage.cells import listed_in
from rewardlab.storage.exchanges import UnusableError
from rewardlab.storage.records import Record
from rewardlab.storage.turns import asks_for_answer, shared_prompt

Row = Mapping[str, Any]
# Names of a prompt's column where there is no "prompt"; two of them in one row are refused.
PROMPT_NAMES = ("question", "instruction", "context", "query", "input")
ANSWER_NAMES = {
    "chosen": ("chosen_response", "text_chosen", "response_chosen"),
    "rejected": ("rejected_response", "text_rejected", "response_rejected"),
}
SYSTEM_NAMES = ("system", "system_prompt")
# Columns that may hold messages, or completions, as a list, or as its text.
LISTED = (
    "prompt",
    "conversations",
    "context",
    "completions",
    "conversation_a",
    "conversation_b",
    "chosen",
    "rejected",
    *ANSWER_NAMES["chosen"],
    *ANSWER_NAMES["rejected"],
)


class PairColumns(NamedTuple):
    """The columns of a pair.

    Attributes:
        prompt: names of what is the prompt: one name, or "instruction" and "input", or none where
            the answers hold it or nothing does.
        system: name of a text that is the system's message before the prompt, or None.
    """

    prompt: tuple[str, ...]
    system: str | None

    def renamed(self, row: Row) -> dict[str, Any]:
        """Return a row with the prompt under "prompt", and the system's message in it."""
        pair = dict(row)
        if self.prompt:
            values = [row[name] for name in self.prompt]
            pair["prompt"] = values[0] if len(values) == 1 else "\n\n".join(values)
        if self.system is not None:
            system = {"role": "system", "content": str(row[self.system])}
            pair["prompt"] = _begun(pair.get("prompt"), pair.get("chosen"), system)
        return pair


def pair_columns(row: Row) -> PairColumns:
    """Return which columns of a row with chosen and rejected hold what else there is.

    Raises:
        UnusableError: if two columns may be the prompt.

    Example:
        >>> pair_columns({"system": "", "question": "2+2?", "chosen": "4", "rejected": "5"})
        PairColumns(prompt=('question',), system=None)
    """
    names = [name for name in SYSTEM_NAMES if _is_text(row.get(name))]
    return PairColumns(_prompt_names(row), names[0] if names else None)


def prompt_beside(row: Row, response: Any) -> Any:
    """Return the prompt of a row with one response, as a row of a pair has it.

    None is returned where the response's messages hold it, or nothing does.

    Raises:
        UnusableError: as `pair_columns`.

    Example:
        >>> prompt_beside({"instruction": "Add.", "input": "2+2", "output": "4"}, "4")
        'Add.\\n\\n2+2'
    """
    pair = {**with_answers(row), "chosen": response, "rejected": None}
    return pair_columns(pair).renamed(pair).get("prompt")


def with_answers(row: Row) -> dict[str, Any]:
    """Return a row with small names of columns, and its answers under chosen and rejected.

    Example:
        >>> with_answers({"Prompt": "hi", "chosen_response": "a", "rejected_response": "b"})
        {'prompt': 'hi', 'chosen': 'a', 'rejected': 'b'}
    """
    renamed = {}
    for name, value in row.items():
        small = str(name).lower()
        renamed[name if small in row else small] = value
    for name, others in ANSWER_NAMES.items():
        for other in others:
            if other in renamed and renamed.get(name) is None:
                renamed[name] = renamed.pop(other)
    return renamed


def with_messages(records: Sequence[Record]) -> list[Record]:
    """Return rows whose columns of messages are lists of them.

    A column of texts is one of messages if every text of it is such a list; see `listed_in`. So an
    answer that happens to be a list stays a text.
    """
    rows = [dict(record.row) for record in records]
    for name in LISTED:
        _parse_column(rows, name)
    return [record._replace(row=row) for record, row in zip(records, rows, strict=True)]


def _parse_column(rows: Sequence[dict[str, Any]], name: str) -> None:
    """Put the lists that a column's texts hold into the rows, if all hold some."""
    lists = []
    for row in rows:
        value = row.get(name)
        if isinstance(value, str) and value.strip():
            parsed = listed_in(value)
            if parsed is None:
                return
            lists.append(parsed)
    remaining = iter(lists)
    for row in rows:
        value = row.get(name)
        if isinstance(value, str) and value.strip():
            row[name] = next(remaining)


def _prompt_names(row: Row) -> tuple[str, ...]:
    """Return the names of the columns that are the prompt."""
    if row.get("prompt") is not None:
        return ("prompt",)
    if isinstance(row.get("conversations"), list):
        return ("conversations",)
    if _holds_prompt(row.get("chosen"), row.get("rejected")):
        return ()
    names = [name for name in PROMPT_NAMES if row.get(name) and _is_prompt(row[name])]
    if names == ["instruction", "input"] and all(isinstance(row[name], str) for name in names):
        return tuple(names)
    if len(names) > 1:
        listed = " and ".join(f'"{name}"' for name in names)
        raise UnusableError(f'without "prompt", which {listed} may be; call one of them so')
    return tuple(names)


def _holds_prompt(chosen: Any, rejected: Any) -> bool:
    """Tell whether the answers of a row begin with its prompt."""
    if isinstance(chosen, list):
        first = chosen[0] if chosen else None
        speaker = first.get("role", first.get("from")) if isinstance(first, Mapping) else None
        return len(chosen) > 1 and speaker not in (None, "assistant", "gpt")
    if isinstance(chosen, str) and isinstance(rejected, str):
        return shared_prompt(chosen, rejected) is not None
    return False


def _begun(prompt: Any, chosen: Any, system: dict[str, str]) -> Any:
    """Return a prompt that begins with a system's message, unless messages have one already."""
    if isinstance(prompt, str) and not asks_for_answer(prompt):
        return [system, {"role": "user", "content": prompt}] if prompt else [system]
    messages = chosen if prompt is None else prompt
    if not isinstance(messages, list):
        raise UnusableError('with a "system" text beside a dialogue in one text')
    speakers = [
        item.get("role", item.get("from")) for item in messages if isinstance(item, Mapping)
    ]
    if "system" in speakers:
        return prompt
    return [system, *(prompt or [])]


def _is_text(value: Any) -> bool:
    return isinstance(value, str) and bool(value.strip())


def _is_prompt(value: Any) -> bool:
    return isinstance(value, str | list)
