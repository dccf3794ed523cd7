"""Write one self-contained page, and its pictures, from run folders alone.

The page's own copies of the pictures are bounded in size.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from rewardlab.errors import InputError
from rewardlab.report.markup import Section, contents, document, section, section_of, tag
from rewardlab.report.picture import Picture
from rewardlab.report.pooled import comparison
from rewardlab.report.rounds_part import overview, rounds_head, rounds_sections
from rewardlab.report.rows import rows_of
from rewardlab.report.samples import shown_samples
from rewardlab.report.single import fit_head, fit_sections, pointer
from rewardlab.report.state import about_run, config_names, state_boxes
from rewardlab.runs.layout import REPORT_PAGE
from rewardlab.runs.read import Run, at, common_parent, read_runs
from rewardlab.storage.atomic import write_atomically

PICTURE_BYTES = 6_000_000  # of all pictures inside a page; base64 adds a third


@dataclass
class Part:
    """The part of a page that is about comparable runs.

    Attributes:
        title: the runs' names.
        head: HTML before the sections.
        sections: its sections, in order.
        tail: HTML after the sections.
        others: pictures that become files beside the page and are not on it.
    """

    title: str
    head: list[str] = field(default_factory=list)
    sections: list[Section] = field(default_factory=list)
    tail: list[str] = field(default_factory=list)
    others: list[Picture] = field(default_factory=list)

    def galleries(self) -> list[list[Picture]]:
        """Return the lists of pictures that stand side by side."""
        galleries = []
        for content in self.sections:
            galleries += [block for block in content.blocks if not isinstance(block, str)]
        return galleries


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
    parts = _comparisons(loaded)
    for comparable in _comparable(loaded):
        parts.append(_part(comparable, page.parent))
    _write_pictures(_pictures(parts), page.parent / "figures")
    title = f"{_names(loaded)}: rewardlab report"
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
        body += part.head
        body += map(section_of, part.sections)
        body += part.tail
        body.append("</div>")
    return body


def _comparisons(runs: Sequence[Run]) -> list[Part]:
    """Return a part on what the runs of each command differ in, where there are several.

    Runs of other bases are among them, as another seed may give another base.
    """
    by_kind: dict[str, list[Run]] = {}
    for run in runs:
        by_kind.setdefault(run.kind, []).append(run)
    parts = []
    for kind in ("rounds", "fit"):
        sections = comparison(by_kind.get(kind, []))
        if sections:
            parts.append(Part("What the runs differ in", sections=sections))
    return parts


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
    part = Part(title, [tag("h1", _heading(runs)), *_made_by(runs), *state_boxes(runs)])
    kind = runs[0].kind
    if kind in ("attack", "curve"):
        part.head += pointer(runs, kind, folder)
    elif kind == "fit":
        part.head += fit_head(runs)
        part.sections += fit_sections(runs)
    else:
        rows = rows_of(runs)
        samples = shown_samples(rows, runs)
        part.head += rounds_head(runs)
        part.sections += rounds_sections(runs, rows, samples)
        part.others += overview(samples)
    if kind not in ("attack", "curve"):
        part.tail.append(_missing(runs))  # known once all sections are made
    return part


def _heading(runs: Sequence[Run]) -> str:
    """Return the runs' names; beside that of a single one, its config files."""
    configs = config_names(runs[0]) if len(runs) == 1 else ""
    return f"{_names(runs)} ({configs})" if configs else _names(runs)


def _made_by(runs: Sequence[Run]) -> list[str]:
    """Return by which command a run was made and when; of several runs the origins tell it."""
    said = about_run(runs[0]) if len(runs) == 1 else ""
    return [tag("p", said, "soft")] if said else []


def _missing(runs: Sequence[Run]) -> str:
    """Name what the folders lack."""
    items = ""
    for run in runs:
        for note in dict.fromkeys(run.notes):
            items += tag("li", f"{run.name}: {note}")
    if not items:
        return ""
    return section("What is missing", f'<ul class="soft">{items}</ul>')


def _pictures(parts: Sequence[Part]) -> list[Picture]:
    """Name all pictures apart, leave out of the page what is too much for it, and return all."""
    counts: dict[str, int] = {}
    pictures = []
    room = PICTURE_BYTES
    for part in parts:
        for gallery in part.galleries():
            gallery[:] = [_named_apart(picture, counts) for picture in gallery]
            for place, picture in enumerate(gallery):
                size = len(picture.embedded.content)
                if size > room:
                    gallery[place] = replace(picture, is_left_out=True)
                else:
                    room -= size
            pictures += gallery
        pictures += [_named_apart(picture, counts) for picture in part.others]
    return pictures


def _named_apart(picture: Picture, counts: dict[str, int]) -> Picture:
    """Return a picture with a number in its name if the name came before.

    Args:
        picture: the picture.
        counts: how often each name came, which is counted on.
    """
    count = counts.get(picture.name, 0) + 1
    counts[picture.name] = count
    if count == 1:
        return picture
    return replace(picture, name=f"{picture.name}-{count}")


def _write_pictures(pictures: Iterable[Picture], folder: Path) -> None:
    """Write pictures as PNG files."""
    folder.mkdir(parents=True, exist_ok=True)
    for picture in pictures:
        write_atomically(folder / f"{picture.name}.png", picture.png)


def _names(runs: Sequence[Run]) -> str:
    names = [run.name for run in runs]
    if len(names) <= 4:
        return ", ".join(names)
    first = ", ".join(names[:3])
    return f"{first} and {len(names) - 3} more runs"
