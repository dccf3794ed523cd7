"""One self-contained page, and its pictures, from run folders alone."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from rewardlab.errors import InputError
from rewardlab.report.markup import contents, details, document, figures, section, tag
from rewardlab.report.picture import Picture, slug
from rewardlab.report.plots import guard_curves, histogram, judge_pictures, reading_curves
from rewardlab.report.rows import Row, rows_of
from rewardlab.report.samples import Shown, grids, shown_exploits, shown_pairs, shown_samples
from rewardlab.report.single import fit_head, fit_sections, pointer
from rewardlab.report.statements import (
    attack_sentence,
    listed,
    overall,
    run_course,
    step_course,
    step_verdict,
    summary,
    title,
)
from rewardlab.report.tables import (
    attack_table,
    differences_table,
    provenance_table,
    reward_table,
    stability_table,
    summary_table,
    text_table,
    time_table,
)
from rewardlab.runs.read import Run, Step, at, common_parent, read_runs, yaml_text
from rewardlab.storage.atomic import write_atomically

Block = str | list[Picture]
HISTOGRAMS = (
    "Scores by each round's reward. The more the outputs' hill lies on the targets', the less the reward tells them apart "
    "(AUC 0.5: not at all). Beyond the targets' it scores them above real ones."
)


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
    found = read_runs(runs)
    out = Path(out) if out else common_parent([run.path for run in found]) / "report.html"
    if out.is_dir():
        raise InputError(
            f"The report is one file; {out} is a folder. Give --out a name such as {out / 'report.html'}."
        )
    groups = _groups(found)
    parts = [_part(group, out.parent) for group in groups]
    (out.parent / "figures").mkdir(parents=True, exist_ok=True)
    for picture in _named_apart([picture for _, pictures in parts for picture in pictures]):
        write_atomically(out.parent / "figures" / f"{picture.name}.png", picture.png)
    body = [tag("p", "rewardlab report", "soft"), *contents([_names(group) for group in groups])]
    for number, (blocks, _) in enumerate(parts):
        body += [f'<div class="part" id="part-{number}">', *blocks, "</div>"]
    write_atomically(out, document(f"rewardlab report: {_names(found)}", body))
    return out


def _groups(runs: Sequence[Run]) -> list[list[Run]]:
    """Return the runs of one command that began with one policy together: what began differently
    cannot be compared.
    """
    groups: dict[tuple[str, str], list[Run]] = {}
    for run in runs:
        groups.setdefault((run.kind, str(at(run.facts, "fingerprints", "policy"))), []).append(run)
    return list(groups.values())


def _part(runs: list[Run], beside: Path) -> tuple[list[str], list[Picture]]:
    """Return the blocks of comparable runs, and their pictures."""
    kind = runs[0].kind
    if kind in ("attack", "curve"):
        return [tag("h1", _names(runs)), *pointer(runs, kind, beside)], []
    if kind == "fit":
        differ = details("What the runs differ in", differences_table(runs))
        origins: list[Block] = [_origins(run) for run in runs]
        sections = [*fit_sections(runs), ("Settings", [differ]), ("Where it comes from", origins)]
        return _blocks([tag("h1", _names(runs)), *fit_head(runs)], sections, runs)
    rows = rows_of(runs)
    samples = shown_samples(rows, runs)
    blocks, drawn = _blocks(_head(runs), _sections(runs, rows, samples), runs)
    return blocks, [*drawn, *_overview(samples)]


def _blocks(
    head: Iterable[str], sections: Iterable[tuple[str, list[Block]]], runs: list[Run]
) -> tuple[list[str], list[Picture]]:
    found = list(sections)
    drawn = [
        picture
        for _, blocks in found
        for block in blocks
        if isinstance(block, list)
        for picture in block
    ]
    return [
        *head,
        *(section(name, *map(_html, blocks)) for name, blocks in found),
        _missing(runs),
    ], drawn


def _sections(
    runs: list[Run], rows: list[Row], samples: list[Shown]
) -> Iterator[tuple[str, list[Block]]]:
    """Yield the page's parts after its head, in order."""
    steps = [row for row in rows if row.kind == "step"]
    yield (
        "Figures",
        [
            summary_table([row for row in rows if row.judged or row.kind != "step"])
            if steps or runs[0].base
            else "",
            details("What the runs differ in", differences_table(runs)),
            reward_table(steps),
            attack_table(steps),
        ],
    )
    curve = reading_curves(steps)
    yield "Judges during training", [[curve] if curve else [], stability_table(steps)]
    yield "Exploits found", [block for part in _exploits(rows) for block in part]
    yield "Samples", [block for part in _samples(rows, samples) for block in part]
    histograms = [picture for picture in map(histogram, steps) if picture]
    yield (
        "How the reward sees them",
        [tag("p", HISTOGRAMS, "soft") if histograms else "", histograms],
    )
    ladders, planes = judge_pictures(rows)
    yield "What the judges say", [ladders]
    yield "Reward against judge", [planes]
    curves = guard_curves(steps)
    yield "During training", [[curves] if curves else []]
    yield "Where it comes from", [_origins(run) for run in runs]


def _html(block: Block) -> str:
    return block if isinstance(block, str) else figures(block)


def _samples(rows: list[Row], samples: list[Shown]) -> Iterator[list[Block]]:
    """Yield targets, base and rounds, then each round's best and worst candidates."""
    yield _shown(samples, "samples")
    for owners, pair in shown_pairs(rows):
        note = "What the reward picked of each prompt's candidates, and what it rejected: these are the pairs that train."
        yield [tag("h3", f"Best and worst candidates: {listed(owners)}"), tag("p", note, "soft")]
        yield _shown(pair, f"pairs-{slug(owners[0])}")


def _exploits(rows: list[Row]) -> Iterator[list[Block]]:
    """Yield what the adversary of each round found, beside the answer it was paired with."""
    for owners, pair in shown_exploits(rows):
        note = "The reward that was attacked scores the exploit above the mean of the prompt's references."
        yield [tag("h3", f"Adversarial pairs: {listed(owners)}"), tag("p", note, "soft")]
        yield _shown(pair, f"exploits-{slug(owners[0])}")


def _shown(parts: list[Shown], name: str) -> list[Block]:
    """Return text as one table, images as a grid each."""
    texts, images = ([part for part in parts if part.is_text is text] for text in (True, False))
    return [
        text_table(texts),
        [grids([part], f"{name}-{slug(part.label)}", 1, part.about) for part in images],
    ]


def _overview(samples: list[Shown]) -> list[Picture]:
    """The grids of images as one picture, for a README: at most four in a row, the rows alike."""
    images = [part for part in samples if not part.is_text]
    lines = -(-len(images) // 4)
    return [grids(images, "overview", -(-len(images) // lines), "")] if images else []


def _origins(run: Run) -> str:
    """Return times, versions, seeds, fingerprints, config and raw figures of one run, folded away."""
    config = yaml_text(run.config)
    return "".join(
        [
            tag("h3", run.name),
            details("Where the time went", time_table(run)),
            details("Versions, device, seeds, fingerprints", provenance_table(run)),
            details("Config", tag("pre", config) if config else ""),
            details(
                "All figures",
                tag("pre", json.dumps(run.results, indent=1, ensure_ascii=False))
                if run.results
                else "",
            ),
        ]
    )


def _missing(runs: Sequence[Run]) -> str:
    """Name what the folders lack."""
    notes = [f"{run.name}: {note}" for run in runs for note in dict.fromkeys(run.notes)]
    items = "".join(tag("li", note) for note in notes)
    return section("What is missing", f'<ul class="soft">{items}</ul>' if notes else "")


def _named_apart(pictures: Sequence[Picture]) -> Iterator[Picture]:
    """Number the pictures whose names come twice."""
    counts: dict[str, int] = {}
    for picture in pictures:
        counts[picture.name] = counts.get(picture.name, 0) + 1
        number = counts[picture.name]
        yield picture if number == 1 else replace(picture, name=f"{picture.name}-{number}")


def _head(runs: list[Run]) -> Iterator[str]:
    """Yield the title and what happened, in words."""
    yield tag("h1", _names(runs))
    yield tag("p", summary(runs), "lead")
    kinds = {"over-optimised": "bad", "worse": "bad", "better": "good"}
    for run in runs:
        said = overall(run)
        lines = [tag("p", f"{title(run)}. {said.sentence}", "verdict")]
        if run_course(run):
            lines.append(
                tag(
                    "p", f"Base → {'end' if len(run.trained) > 1 else run.name}: {run_course(run)}."
                )
            )
        if len(run.steps) > 1:
            lines += [
                tag("p", f"Round {step.number}: {_round(step)}", "soft") for step in run.steps
            ]
        yield f'<div class="run {kinds.get(said.outcome, "flat")}">' + "".join(lines) + "</div>"
    yield tag(
        "p",
        "“Beyond the intervals” means that two 95 % intervals do not meet. A judge gets worse when it moves away from its "
        "value on the real targets; the distance when it grows. Judges are read afterwards only; no training sees them.",
        "soft",
    )


def _round(step: Step) -> str:
    """Return what a round came to, of several."""
    if not step.judged:
        return attack_sentence(step)
    return (
        f"{step_course(step)}."
        if len(step.run.trained) == 1
        else f"{step_verdict(step).sentence} {step_course(step)}."
    )


def _names(runs: Sequence[Run]) -> str:
    names = [run.name for run in runs]
    return (
        ", ".join(names)
        if len(names) <= 4
        else f"{', '.join(names[:3])} and {len(names) - 3} more runs"
    )
