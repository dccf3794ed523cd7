"""Lists of messages in the forms that tables keep them: JSON, Python's, numpy's and columns."""

from __future__ import annotations

import ast
import io
import json
import re
import tokenize
from collections.abc import Mapping
from typing import Any

_LIST = re.compile(r"\s*\[\s*\{\s*[\"']")
_MESSAGES = re.compile(r"\s*\[\s*\{\s*[\"'](role|content|from|value)[\"']\s*:")
# What the first mapping of a list has that is read from a text.
_KEYS = (
    {"role", "content"},
    {"from", "value"},
    {"rank", "completion"},
    {"response", "annotations"},
)


def listed_in(text: str) -> list[dict[str, Any]] | None:
    r"""Return the messages or completions that a text holds as a list, None if it holds none.

    It is JSON, or what Python or numpy print: pandas writes columns of messages to CSV in numpy's
    form, which has no commas between the messages.

    Example:
        >>> listed_in("[{'role': 'user', 'content': 'hi'}\n {'role': 'assistant', 'content': 'a'}]")
        [{'role': 'user', 'content': 'hi'}, {'role': 'assistant', 'content': 'a'}]
        >>> listed_in("[1, 2]")
    """
    if not _LIST.match(text):
        return None
    for parse in (json.loads, ast.literal_eval, _of_numpy):
        try:
            value = parse(text)
        except (ValueError, SyntaxError, RecursionError, MemoryError, tokenize.TokenError):
            continue
        return value if _is_known(value) else None
    return None


def is_broken_list(text: str) -> bool:
    """Tell whether a text begins as a list of messages and is none, such as one that was cut.

    Example:
        >>> is_broken_list('[{"role": "user", "content": "h'), is_broken_list("[{")
        (True, False)
    """
    return _MESSAGES.match(text) is not None and listed_in(text) is None


def messages_in(value: Any) -> Any:
    """Return a value of a table, in which columns of messages are a list of messages.

    Older `datasets` keep a list of mappings as a mapping of lists.

    Example:
        >>> messages_in({"role": ["user"], "content": ["hi"]})
        [{'role': 'user', 'content': 'hi'}]
    """
    if not isinstance(value, Mapping) or not any(keys <= value.keys() for keys in _KEYS):
        return value
    columns = list(value.values())
    if not all(isinstance(column, list) for column in columns):
        return value
    if len(set(map(len, columns))) > 1:
        return value
    return [dict(zip(value, cells, strict=True)) for cells in zip(*columns, strict=True)]


def _is_known(value: Any) -> bool:
    if not isinstance(value, list) or not all(isinstance(item, dict) for item in value):
        return False
    return bool(value) and any(keys <= value[0].keys() for keys in _KEYS)


def _of_numpy(text: str) -> Any:
    """Return what numpy printed of an array of mappings, in which commas are missing."""
    words = []
    last = ""
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if token.string == "{" and last == "}":
            words.append((tokenize.OP, ","))
        if token.type not in (tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT):
            words.append((token.type, token.string))
        last = token.string if token.string.strip() else last
    return ast.literal_eval(tokenize.untokenize(words).strip())
