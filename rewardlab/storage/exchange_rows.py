"""Files of prompts with their responses, such as `rewardlab score` reads and SFT learns from."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from rewardlab.errors import InputError
from rewardlab.storage.exchanges import Exchange, UnusableError, exchange
from rewardlab.storage.pair_columns import SYSTEM_NAMES, prompt_beside
from rewardlab.storage.records import usable_rows
from rewardlab.types import Samples

# Keys of a row that may hold its response, and those that may hold a whole conversation.
RESPONSE_KEYS = ("response", "output", "completion")
CONVERSATION_KEYS = ("messages", "conversations")
SHAPE = '{"prompt": "…", "response": "…"}'


def read_good_exchanges(path: str | Path) -> Samples:
    """Return the samples of a file of rows with a prompt and a response, or with "messages".

    The response is called "response", "output" or "completion". Both may be texts or lists of
    messages. Of "messages", or "conversations" in ShareGPT's form, the assistant's last one is the
    response. Where there is no "prompt", it may be called as in pairs; see `row_exchange`. The
    forms of files are those of `read_records`.

    Raises:
        InputError: naming the row that has no response, or if a row has a "label" that is false,
            and so is a bad answer.

    Example:
        >>> path = getfixture("tmp_path") / "exchanges.jsonl"
        >>> _ = path.write_text('{"prompt": "2+2?", "response": "4"}')
        >>> read_good_exchanges(path)
        Samples(prompts=['2+2?'], outputs=['4'], facts={})
    """
    path = Path(path)
    records = usable_rows(path, SHAPE)
    bad = [record.place for record in records if record.row.get("label") is False]
    if bad:
        raise InputError(
            f"{len(bad)} rows of {path} have the label false (the first: {bad[0]}): they are bad "
            "answers, as KTO learns from, and SFT would imitate them. Leave out those rows."
        )
    prompts = []
    outputs = []
    for record in records:
        try:
            prompt, response = row_exchange(record.row)
        except UnusableError as reason:
            raise InputError(
                f"{path}, {record.place} is a row {reason}. It should be {SHAPE}."
            ) from None
        prompts.append(prompt)
        outputs.append(response)
    return Samples(prompts, outputs)


def row_exchange(row: dict[str, Any]) -> Exchange:
    """Return the prompt and the response of a row.

    Tables have every column in every row, so an empty text is the response only where no other
    column holds one. A prompt is called as in rows of pairs: "prompt", else "question",
    "instruction" (with "input"), "context", "query" or "input"; a text "system" or "system_prompt"
    is the system's message before it. A row without any of these has the empty prompt.

    Raises:
        UnusableError: if it has no response, or two columns may be the prompt.

    Example:
        >>> row_exchange({"prompt": "2+2?", "completion": "4"})
        Exchange(prompt='2+2?', response='4')
        >>> row_exchange({"question": "2+2?", "response": "", "completion": "4"})
        Exchange(prompt='2+2?', response='4')
    """
    filled = any(_is_filled(row.get(key)) for key in (*RESPONSE_KEYS, *CONVERSATION_KEYS))
    for key in RESPONSE_KEYS:
        response = row.get(key)
        if filled and response == "":
            continue
        if isinstance(response, str | list | dict):
            return _answered(prompt_beside(row, response), response)
    for key in CONVERSATION_KEYS:
        if row.get(key) is not None and not (filled and row[key] == ""):
            systems = {name: row.get(name) for name in SYSTEM_NAMES}
            return exchange(prompt_beside(systems, row[key]), row[key])
    raise UnusableError(
        'that has no text "response" (or "output", "completion", "messages"); it has '
        f"{str(sorted(map(str, row)))[:200]}"
    )


def _answered(prompt: Any, response: Any) -> Exchange:
    """Return a response to a prompt, to the empty one where a text has none."""
    if isinstance(response, str) and prompt is None:
        return Exchange("", response)
    return exchange(prompt, response)


def _is_filled(value: Any) -> bool:
    """Tell whether a cell holds a text or messages."""
    return isinstance(value, str | list | dict) and bool(value)
