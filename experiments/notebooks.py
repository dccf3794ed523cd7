"""Notebooks from scripts: each cell is executed, and what it prints and draws is written.

    python experiments/notebooks.py docs/notebooks/gan_rm.py docs/notebooks/adv_rm.py

A script is plain Python in the percent format: `# %% [markdown]` begins a text, whose lines are
comments, and `# %%` begins code. NAME.ipynb (format 4.5) is written beside NAME.py, and NAME.md with
its pictures in NAME_files/, which is the page of the site. Nothing in them is typed by hand.
"""

from __future__ import annotations

import base64
import io
import json
import sys
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any, NamedTuple

import matplotlib

from rewardlab.storage.atomic import write_atomically

DOTS = 60  # dots an inch of a picture, so that a notebook stays small
PROGRESS = "━"  # lines with it are progress bars
MARK = "# %%"


class Cell(NamedTuple):
    """A part of a script: `kind` is "markdown" or "code"."""

    kind: str
    source: str


class Result(NamedTuple):
    """What a code cell printed, and its pictures as PNG files."""

    text: str
    pictures: list[bytes]


def read_cells(script: Path) -> list[Cell]:
    """Return the cells of a script in the percent format."""
    cells = []
    for part in script.read_text(encoding="utf-8").split(MARK)[1:]:
        heading, _, body = part.partition("\n")
        lines = body.strip("\n").split("\n")
        if heading.strip() == "[markdown]":
            texts = [line.removeprefix("#").removeprefix(" ") for line in lines]
            cells.append(Cell("markdown", "\n".join(texts)))
        else:
            cells.append(Cell("code", "\n".join(lines)))
    return cells


def execute(cells: list[Cell], name: str) -> list[Result]:
    """Run code cells in one namespace, and return what each printed and drew."""
    matplotlib.use("agg")
    namespace: dict[str, Any] = {"__name__": "__main__"}
    results = []
    for number, cell in enumerate(cells):
        printed = io.StringIO()
        if cell.kind == "code":
            code = compile(cell.source, f"{name}, cell {number}", "exec")
            with redirect_stdout(printed):
                exec(code, namespace)
        lines = printed.getvalue().splitlines(keepends=True)
        text = "".join(line for line in lines if PROGRESS not in line)
        results.append(Result(text, _pictures()))
    return results


def _pictures() -> list[bytes]:
    """Return the figures that stand open as PNG files, and close them."""
    from matplotlib import pyplot

    files = []
    for number in pyplot.get_fignums():
        file = io.BytesIO()
        pyplot.figure(number).savefig(file, format="png", dpi=DOTS, metadata={"Software": None})
        files.append(file.getvalue())
    pyplot.close("all")
    return files


def notebook(cells: list[Cell], results: list[Result]) -> str:
    """Return a notebook of format 4.5 as JSON."""
    written = []
    count = 0
    for number, (cell, result) in enumerate(zip(cells, results, strict=True)):
        entry: dict[str, Any] = {"cell_type": cell.kind, "id": f"cell-{number}", "metadata": {}}
        entry["source"] = cell.source.splitlines(keepends=True)
        if cell.kind == "code":
            count += 1
            entry |= {"execution_count": count, "outputs": _outputs(result)}
        written.append(entry)
    kernel = {"display_name": "Python 3", "language": "python", "name": "python3"}
    metadata = {"kernelspec": kernel, "language_info": {"name": "python"}}
    table = {"cells": written, "metadata": metadata, "nbformat": 4, "nbformat_minor": 5}
    return json.dumps(table, indent=1, ensure_ascii=False) + "\n"


def _outputs(result: Result) -> list[dict[str, Any]]:
    outputs: list[dict[str, Any]] = []
    if result.text:
        lines = result.text.splitlines(keepends=True)
        outputs.append({"name": "stdout", "output_type": "stream", "text": lines})
    for picture in result.pictures:
        data = {"image/png": base64.b64encode(picture).decode("ascii")}
        outputs.append({"data": data, "metadata": {}, "output_type": "display_data"})
    return outputs


def read_result(entry: dict[str, Any]) -> Result:
    """Return what a cell of a notebook holds as its output."""
    text = ""
    pictures = []
    for output in entry.get("outputs", []):
        if output["output_type"] == "stream":
            text += "".join(output["text"])
        else:
            pictures.append(base64.b64decode(output["data"]["image/png"]))
    return Result(text, pictures)


def page(cells: list[Cell], results: list[Result], stem: str) -> tuple[str, dict[str, bytes]]:
    """Return the same as a page of Markdown, and its pictures by their paths beside it."""
    title, *rest = cells[0].source.split("\n")
    links = f"[the notebook]({stem}.ipynb), [the script]({stem}.py)"
    parts = [title, f"What a run of the script printed and drew: {links}.", "\n".join(rest)]
    pictures: dict[str, bytes] = {}
    for cell, result in zip(cells[1:], results[1:], strict=True):
        parts.append(cell.source if cell.kind == "markdown" else f"```py\n{cell.source}\n```")
        if result.text:
            parts.append(f"```text\n{result.text.rstrip()}\n```")
        for picture in result.pictures:
            path = f"{stem}_files/{len(pictures)}.png"
            pictures[path] = picture
            parts.append(f"![what the cell above drew]({path})")
    return "\n\n".join(parts) + "\n", pictures


def make(script: Path) -> Path:
    """Execute a script, and write its notebook and its page; return the notebook's path."""
    cells = read_cells(script)
    results = execute(cells, script.name)
    text, pictures = page(cells, results, script.stem)
    for path, data in pictures.items():
        (script.parent / path).parent.mkdir(exist_ok=True)
        write_atomically(script.parent / path, data)
    write_atomically(script.with_suffix(".md"), text)
    path = script.with_suffix(".ipynb")
    write_atomically(path, notebook(cells, results))
    return path


def main(scripts: list[str]) -> None:
    for script in scripts:
        path = make(Path(script))
        print(f"{path}: {path.stat().st_size // 1024} KiB")


if __name__ == "__main__":
    main(sys.argv[1:])
