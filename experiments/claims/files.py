"""A claim's files: a row a point, the page with the verdict, and the table of all claims."""

from __future__ import annotations

import csv
import io
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt

from claims.claim import Claim, Row, Verdict
from rewardlab.storage.atomic import write_atomically

FIRST = ("size", "setting", "seed")
LAST = ("seconds", "command")
INDEX = "index.md"


def read_rows(file: Path) -> list[dict[str, Any]]:
    """Return the rows that stand, with numbers as numbers; none if there is no file."""
    if not file.exists():
        return []
    with file.open(encoding="utf-8", newline="") as stream:
        return [_typed(row) for row in csv.DictReader(stream)]


def write_rows(file: Path, rows: Sequence[Row]) -> None:
    """Write all rows, whole or not at all."""
    figures = [name for name in _names(rows) if name not in (*FIRST, *LAST)]
    stream = io.StringIO()
    writer = csv.DictWriter(stream, [*FIRST, *figures, *LAST], lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    write_atomically(file, stream.getvalue())


def write_page(folder: Path, claim: Claim, rows: Sequence[Row]) -> Verdict:
    """Write a claim's picture and page, and return the verdict."""
    verdict = claim.judge(rows)
    figure, axes = plt.subplots(figsize=(6.4, 3.8))
    claim.draw(rows, axes)
    figure.tight_layout()
    figure.savefig(folder / f"{claim.name}.png", dpi=110, metadata={"Software": None})
    plt.close(figure)
    write_atomically(folder / f"{claim.name}.md", page(claim, rows, verdict))
    return verdict


def page(claim: Claim, rows: Sequence[Row], verdict: Verdict) -> str:
    """Return a claim's page as Markdown."""
    seeds = len({row["seed"] for row in rows})
    seconds = sum(row["seconds"] for row in rows)
    lines = [
        f"# {claim.name}: {claim.title}",
        f"**{verdict.word.capitalize()} here: {verdict.figure}.** {' '.join(verdict.sentences)}",
        f"![{claim.title}]({claim.name}.png)",
        f"Source of the claim: {claim.source}.",
        "## How it is measured",
        claim.how,
        table(rows),
        f"Mean ± standard deviation over {seeds} seeds; a row a point is in "
        f"[{claim.name}.csv]({claim.name}.csv). All points took {seconds / 60:.1f} minutes by "
        "the clock, on one thread.",
        f"```bash\nmake study NAME={claim.name}\n```",
    ]
    return "\n\n".join(lines) + "\n"


def table(rows: Sequence[Row]) -> str:
    """Return a line a setting, a column a figure, as Markdown."""
    figures = [name for name in _names(rows) if name not in (*FIRST, *LAST)]
    lines = ["| setting | " + " | ".join(name.replace("_", " ") for name in figures) + " |"]
    lines.append("|---" * (len(figures) + 1) + "|")
    for setting in dict.fromkeys(row["setting"] for row in rows):
        chosen = [row for row in rows if row["setting"] == setting]
        cells = [_spread([row.get(name) for row in chosen]) for name in figures]
        lines.append("| " + " | ".join([setting, *cells]) + " |")
    return "\n".join(lines)


def write_index(folder: Path, claims: Sequence[Claim], out: Path) -> None:
    """Write the table of all claims that were measured into `out`, from their rows in `folder`."""
    lines = []
    for claim, verdict in verdicts(folder, claims):
        cells = [link(claim), claim.title, f"**{verdict.word}**", verdict.figure]
        lines.append("| " + " | ".join(cells) + " |")
    write_atomically(out / INDEX, "\n".join([*_HEAD, *lines, *_FOOT]) + "\n")


def summary(folder: Path, claims: Sequence[Claim]) -> list[str]:
    """Return the lines of the README's table: claim and verdict, without figures."""
    lines = []
    for claim, verdict in verdicts(folder, claims):
        lines.append(f"| {link(claim, 'docs/results/')} | {claim.title} | {verdict.word} |")
    return lines


def verdicts(folder: Path, claims: Sequence[Claim]) -> list[tuple[Claim, Verdict]]:
    """Return the claims that were measured whole, with their verdicts."""
    found = []
    for claim in claims:
        rows = read_rows(folder / f"{claim.name}.csv")
        if is_whole(claim, rows):
            found.append((claim, claim.judge(rows)))
    return found


def link(claim: Claim, prefix: str = "") -> str:
    """Return a link to a claim's page."""
    return f"[{claim.name}]({prefix}{claim.name}.md)"


def is_whole(claim: Claim, rows: Sequence[Row]) -> bool:
    """Tell whether each setting was measured, all with the same seeds, two or more of them."""
    seeds = {row["seed"] for row in rows}
    points = {(row["setting"], row["seed"]) for row in rows}
    settings = claim.settings
    if rows and rows[0]["size"] == "small":
        settings = claim.small_settings or settings
    return len(seeds) > 1 and points == {(setting, seed) for setting in settings for seed in seeds}


def _typed(row: dict[str, str]) -> dict[str, Any]:
    typed: dict[str, Any] = dict(row)
    for name, text in row.items():
        if name not in ("size", "setting", "command"):
            typed[name] = float(text) if text else None
    typed["seed"] = int(row["seed"])
    return typed


def _names(rows: Sequence[Row]) -> list[str]:
    names: dict[str, None] = {}
    for row in rows:
        names.update(dict.fromkeys(row))
    return list(names)


def _spread(values: Sequence[float | None]) -> str:
    known = [value for value in values if value is not None]
    if not known:
        return "not reached"
    deviation = statistics.stdev(known) if len(known) > 1 else 0.0
    missing = "" if len(known) == len(values) else f" ({len(known)} of {len(values)})"
    return f"{statistics.mean(known):.3g} ± {deviation:.2g}{missing}"


_HEAD = (
    "# The papers' claims, tried",
    "",
    "Each claim that can be tried on a small world, with the verdict of a stated rule, the figure",
    "that decides and its 95 % interval over seeds. They say what happens in these worlds, which",
    "are small; neither paper's own models or data are used.",
    "",
    "| claim | what it says | here | figure |",
    "|---|---|---|---|",
)
_FOOT = (
    "",
    "`make studies` measures what is missing, on one thread in a few hours, and goes on where it",
    "was stopped; `make study NAME=G6` measures one. The pages and this table are made from the",
    "rows (`NAME.csv`) by the same command, and a test holds them to the rows.",
)
