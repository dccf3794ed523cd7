"""Build HTML from plain data, with everything escaped."""

from __future__ import annotations

import base64
import re
from collections.abc import Iterable, Sequence
from html import escape
from typing import NamedTuple

from rewardlab.report.picture import Picture
from rewardlab.report.style import STYLE

Block = str | list[Picture]
COLUMN = 576  # CSS pixels of a figure's column
CODE = re.compile(r"`([^`\n]+)`")
PROSE = ("p", "li", "h1", "h2", "h3", "caption", "figcaption", "summary")  # have code in backticks


class Html(NamedTuple):
    """The content of a table's cell that is HTML already, with everything in it escaped."""

    text: str


Cell = str | Html


class Section(NamedTuple):
    """A titled part of a page.

    Attributes:
        title: the heading.
        blocks: HTML, and pictures that stand side by side.
    """

    title: str
    blocks: list[Block]


def document(title: str, body: Iterable[str]) -> str:
    """Return a whole page that loads nothing from anywhere."""
    lines = [
        "<!DOCTYPE html>",
        '<html lang="en">',
        "<head>",
        '<meta charset="utf-8">',
        '<meta name="viewport" content="width=device-width, initial-scale=1">',
        f"<title>{escape(title.replace('`', ''))}</title>",
        f"<style>{STYLE}</style>",
        "</head>",
        "<body>",
        *body,
        "</body>",
        "</html>",
    ]
    return "\n".join(lines) + "\n"


def contents(names: Sequence[str]) -> list[str]:
    """Return links to the parts of a page, nothing if there is one part only.

    Example:
        >>> contents(["digits", "text"])[0]
        '<ol><li><a href="#part-0">digits</a></li><li><a href="#part-1">text</a></li></ol>'
    """
    if len(names) <= 1:
        return []
    items = ""
    for number, name in enumerate(names):
        items += f'<li><a href="#part-{number}">{escape(name)}</a></li>'
    return [f"<ol>{items}</ol>"]


def section(title: str, *parts: str) -> str:
    """Return a titled section, or nothing if all of its parts are empty."""
    filled = list(filter(None, parts))
    if not filled:
        return ""
    return "\n".join(["<section>", tag("h2", title), *filled, "</section>"])


def section_of(content: Section) -> str:
    """Return a section as HTML, with its pictures inside the page."""
    parts = []
    for block in content.blocks:
        if isinstance(block, str):
            parts.append(block)
        else:
            parts.append(figures(block))
    return section(content.title, *parts)


def tag(name: str, text: str, kind: str = "") -> str:
    """Return an element with escaped text; prose has what stands in backticks as code.

    Example:
        >>> tag("p", "a < b", "soft")
        '<p class="soft">a &lt; b</p>'
        >>> tag("p", "`rewardlab fit`"), tag("td", "`as it is`")
        ('<p><code>rewardlab fit</code></p>', '<td>`as it is`</td>')
    """
    content = escape(text)
    if name in PROSE:
        content = CODE.sub(r"<code>\1</code>", content)
    if kind:
        return f'<{name} class="{kind}">{content}</{name}>'
    return f"<{name}>{content}</{name}>"


def box(kind: str, *lines: str) -> str:
    """Return the box of one run, which holds elements.

    Args:
        kind: its colour: "good", "bad", "flat" or "".
        lines: elements, as `tag` makes them.

    Example:
        >>> box("good", tag("p", "It held."))
        '<div class="run good"><p>It held.</p></div>'
    """
    return f'<div class="run {kind}">{"".join(lines)}</div>'


def table(
    head: Sequence[str], rows: Iterable[Sequence[Cell]], caption: str = "", kind: str = ""
) -> str:
    """Return a table of escaped cells, or nothing if it has no rows.

    The first cell of a row heads it. A cell's second line is set small.

    Args:
        head: the heading of each column.
        rows: the cells of each row.
        caption: a text below the table.
        kind: the class of the table; with one, cells keep all of their lines. Those of "text" wrap
            long ones, and on narrow screens stand below each other, each after its heading.
    """
    body = ""
    for row in rows:
        body += _row(row, head, kind)
    if not body:
        return ""
    below = tag("caption", caption) if caption else ""
    heads = ""
    for cell in head:
        heads += f'<th scope="col">{escape(cell)}</th>'
    content = f"{below}<thead><tr>{heads}</tr></thead><tbody>{body}</tbody>"
    of_kind = f' class="{kind}"' if kind else ""
    return f'<div class="scroll"><table{of_kind}>{content}</table></div>'


def _row(row: Sequence[Cell], head: Sequence[str], kind: str) -> str:
    cells = ""
    for place, (cell, column) in enumerate(zip(row, head, strict=True)):
        element = "td" if place else "th"
        attributes = "" if place else ' scope="row"'
        if kind:
            attributes += f' data-column="{escape(column)}"'
        cells += f"<{element}{attributes}>{_content(cell, kind)}</{element}>"
    return f"<tr>{cells}</tr>"


def _content(cell: Cell, kind: str) -> str:
    if isinstance(cell, Html):
        return cell.text
    if kind:
        return escape(cell)
    first, _, rest = cell.partition("\n")
    return escape(first) + (tag("small", rest) if rest else "")


def figures(pictures: Sequence[Picture]) -> str:
    """Return pictures side by side where there is room, each inside the page itself."""
    if not pictures:
        return ""
    inside = "\n".join(map(_figure, pictures))
    return f'<div class="figures">{inside}</div>'


def _figure(picture: Picture) -> str:
    caption = tag("figcaption", picture.caption) if picture.caption else ""
    if picture.is_left_out:
        link = f'<a href="figures/{escape(picture.name)}.png">{escape(picture.alt)}</a>'
        return f"<figure>{link}{caption}</figure>"
    embedded = picture.embedded
    data = base64.b64encode(embedded.content).decode("ascii")
    address = f"data:image/{embedded.format};base64,{data}"
    width = f' style="max-width: {picture.width}px"' if picture.width else ""
    image = f'<img src="{address}" alt="{escape(picture.alt)}"{width}>'
    wide = ' class="wide"' if picture.width > COLUMN else ""
    return f"<figure{wide}>{image}{caption}</figure>"


def details(title: str, *parts: str) -> str:
    """Return parts that are folded away until asked for, or nothing if all are empty."""
    inside = "".join(parts)
    if not inside:
        return ""
    return f"<details>{tag('summary', title)}{inside}</details>"
