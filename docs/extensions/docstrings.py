"""Docstrings in the form that the site's builder reads: two habits of the code are put plainly."""

import re
from typing import Any

import griffe

ENTRY = re.compile(r"^    (\w+(?:, \w+)+): (.*)$")


class Docstrings(griffe.Extension):
    """Rewrites each docstring before it is parsed; nothing else is changed."""

    def on_object(self, *, obj: griffe.Object, **kwargs: Any) -> None:
        """Rewrite the docstring of a module, class, function or attribute, if it has one."""
        if obj.docstring:
            obj.docstring.value = plain(obj.docstring.value)


def plain(text: str) -> str:
    """Return a docstring whose example is a section, and whose arguments each have an entry.

    Two habits of the code are unknown to the parser: the heading of a single example, and one entry
    for arguments that share a sentence ("chosen, rejected: scores [B].").
    """
    text = re.sub(r"^Example:$", "Examples:", text, flags=re.MULTILINE)
    blocks: list[list[str]] = []
    for line in text.split("\n"):
        if blocks and line.startswith("        "):
            blocks[-1].append(line)
        else:
            blocks.append([line])
    lines: list[str] = []
    for block in blocks:
        lines += one_entry_a_name(block)
    return "\n".join(lines)


def one_entry_a_name(block: list[str]) -> list[str]:
    """Return an entry's lines once for each of the names that it describes."""
    entry = ENTRY.match(block[0])
    if entry is None:
        return block
    lines = []
    for name in entry[1].split(", "):
        lines += [f"    {name}: {entry[2]}", *block[1:]]
    return lines
