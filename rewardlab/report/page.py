"""Write one self-contained page, and its pictures, from run folders alone."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from rewardlab.errors import InputError
from rewardlab.report.markup import Section, contents, document, section, section_of, tag
from rewardlab.report.picture import Picture
from rewardlab.report.rounds_part import overview, rounds_head, rounds_sections
from rewardlab.report.rows import rows_of
from rewardlab.report.samples import shown_samples
from rewardlab.report.single import fit_head, fit_sections, pointer
from rewardlab.runs.layout import REPORT_PAGE
from rewardlab.runs.read import Run, at, common_parent, read_runs
from rewardlab.storage.atomic import write_atomically


@dataclass
class Part:
    """The part of a page that is about comparable runs.

    Attributes:
        title: the runs' names.
        blocks: its HTML.
        pictures: what becomes files beside the page.
    """

    title: str
    blocks: list[str] = field(default_factory=list)
    pictures: list[Picture] = field(default_factory=list)


def write_report(runs: Sequence[Path], out: Path | None = None) -> Path:
    """Write one page about run folders, with its pictures as PNG files in `figures/` beside it.

    What a folder lacks is named on the page and left out.

    Args:
        runs: folders that `rewardlab rounds` or `rewardlab fit` wrote; one of an attack or a curve
            is pointed to its own page.
        out: the page; by default report.html in the run's folder, or in the folder that holds all
            of the runs.

    Returns:
        The page's path.

    Raises:
        InputError: if a folder is no run folder, a file of it is broken, or `out` is a folder.

    Example:
        >>> run = getfixture("tmp_path") / "sft"
        >>> run.mkdir()
        >>> _ = (run / "results.json").write_text('{"targets": {"ink": {"mean": 0.335}}}')
        >>> write_report([run]).name
        'report.html'
    """
    loaded = read_runs(runs)
    page = _page_path(loaded, out)
    parts = []
    for comparable in _comparable(loaded):
        parts.append(_part(comparable, page.parent))
    _write_pictures(parts, page.parent / "figures")
    title = f"rewardlab report: {_names(loaded)}"
    write_atomically(page, document(title, _body(parts)))
    return page


def _page_path(runs: Sequence[Run], out: Path | None) -> Path:
    """Return the page's path: `out`, or by default report.html in the folder of all runs.

    Raises:
        InputError: if it is a folder.
    """
    if not out:
        out = common_parent([run.path for run in runs]) / REPORT_PAGE
    page = Path(out)
    if page.is_dir():
        raise InputError(
            f"The report is one file; {page} is a folder. "
            f"Give --out a name such as {page / 'report.html'}."
        )
    return page


def _body(parts: Sequence[Part]) -> list[str]:
    """Return all of the page: links to the parts, and the parts."""
    titles = [part.title for part in parts]
    body = [tag("p", "rewardlab report", "soft"), *contents(titles)]
    for number, part in enumerate(parts):
        body.append(f'<div class="part" id="part-{number}">')
        body += part.blocks
        body.append("</div>")
    return body


def _comparable(runs: Sequence[Run]) -> list[list[Run]]:
    """Return the runs in groups of one command that began with one policy.

    What began differently cannot be compared.
    """
    groups: dict[Any, list[Run]] = {}
    for run in runs:
        policy = at(run.facts, "fingerprints", "policy")
        origin = (run.kind, str(policy))
        groups.setdefault(origin, []).append(run)
    return list(groups.values())


def _part(runs: list[Run], folder: Path) -> Part:
    """Return the part about comparable runs, for a page in `folder`."""
    title = _names(runs)
    part = Part(title, [tag("h1", title)])
    kind = runs[0].kind
    if kind in ("attack", "curve"):
        part.blocks.extend(pointer(runs, kind, folder))
    elif kind == "fit":
        part.blocks.extend(fit_head(runs))
        _add_sections(part, fit_sections(runs), runs)
    else:
        rows = rows_of(runs)
        samples = shown_samples(rows, runs)
        part.blocks.extend(rounds_head(runs))
        _add_sections(part, rounds_sections(runs, rows, samples), runs)
        part.pictures.extend(overview(samples))
    return part


def _add_sections(part: Part, sections: Iterable[Section], runs: Sequence[Run]) -> None:
    """Add sections, then what the folders lack, which is known once all sections are made."""
    for content in sections:
        part.blocks.append(section_of(content))
        for block in content.blocks:
            if not isinstance(block, str):
                part.pictures.extend(block)
    part.blocks.append(_missing(runs))


def _missing(runs: Sequence[Run]) -> str:
    """Name what the folders lack."""
    items = ""
    for run in runs:
        for note in dict.fromkeys(run.notes):
            items += tag("li", f"{run.name}: {note}")
    if not items:
        return ""
    return section("What is missing", f'<ul class="soft">{items}</ul>')


def _write_pictures(parts: Sequence[Part], folder: Path) -> None:
    """Write the pictures of all parts as PNG files."""
    folder.mkdir(parents=True, exist_ok=True)
    pictures = []
    for part in parts:
        pictures += part.pictures
    for picture in _named_apart(pictures):
        write_atomically(folder / f"{picture.name}.png", picture.png)


def _named_apart(pictures: Sequence[Picture]) -> Iterator[Picture]:
    """Number the pictures whose names come twice."""
    counts: dict[str, int] = {}
    for picture in pictures:
        name = picture.name
        counts[name] = counts.get(name, 0) + 1
        if counts[name] == 1:
            yield picture
        else:
            yield replace(picture, name=f"{name}-{counts[name]}")


def _names(runs: Sequence[Run]) -> str:
    names = [run.name for run in runs]
    if len(names) <= 4:
        return ", ".join(names)
    first = ", ".join(names[:3])
    return f"{first} and {len(names) - 3} more runs"
