"""Make what a report says of runs that have rounds."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from rewardlab.report.gallery import gallery
from rewardlab.report.grids import grids
from rewardlab.report.judge_plots import judge_pictures
from rewardlab.report.markup import Block, Section, box, tag
from rewardlab.report.origins import origins
from rewardlab.report.picture import Picture, slug
from rewardlab.report.round_tables import attack_table, reward_table, stability_table
from rewardlab.report.rows import Row
from rewardlab.report.samples import Shown, shown_exploits, shown_pairs
from rewardlab.report.score_plots import histogram
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
from rewardlab.report.summary_table import summary_table
from rewardlab.report.training_plots import guard_curves, reading_curves
from rewardlab.runs.read import Run, Step

ABOUT_SCORES = (
    "A score is the number that the run's own reward gives an output: higher is what it likes "
    "better. It has no unit, and scores of two rewards cannot be compared."
)
ABOUT_INTERVALS = (
    "“Beyond the intervals” means that two 95 % intervals do not meet. A judge gets worse when it "
    "moves away from its value on the real targets; the distance when it grows. Judges are read "
    "afterwards only; no training sees them."
)
ABOUT_HISTOGRAMS = (
    "Scores by each round's reward. The more the outputs' hill lies on the targets', the less the "
    "reward tells them apart (AUC 0.5: not at all). Beyond the targets' it scores them above real "
    "ones."
)
ABOUT_PAIRS = (
    "What the reward picked of each prompt's candidates, and what it rejected: these are the "
    "pairs that train."
)
ABOUT_EXPLOITS = (
    "The reward that was attacked scores the exploit above the mean of the prompt's references."
)
BOXES = {"over-optimised": "bad", "worse": "bad", "better": "good"}


def rounds_head(runs: Sequence[Run]) -> Iterator[str]:
    """Yield what happened, in words: all runs in a paragraph, then a box a run."""
    yield tag("p", summary(runs), "lead")
    for run in runs:
        yield _run_box(run)
    yield tag("p", ABOUT_SCORES, "soft")
    if any(run.base or run.targets for run in runs):
        yield tag("p", ABOUT_INTERVALS, "soft")


def _run_box(run: Run) -> str:
    verdict = overall(run)
    first = f"{title(run)}. {verdict.sentence}"
    lines = [tag("p", first, "verdict")]
    course = run_course(run)
    if course:
        end = "end" if len(run.trained) > 1 else run.name
        lines.append(tag("p", f"Base → {end}: {course}."))
    if len(run.steps) > 1:
        for step in run.steps:
            text = f"Round {step.number}: {_round(step)}"
            lines.append(tag("p", text, "soft"))
    return box(BOXES.get(verdict.outcome, "flat"), *lines)


def _round(step: Step) -> str:
    """Say what a round came to, of several."""
    if not step.changed_policy:
        return attack_sentence(step)
    if len(step.run.trained) == 1:
        return f"{step_course(step)}."
    return f"{step_verdict(step).sentence} {step_course(step)}."


def rounds_sections(
    runs: Sequence[Run], rows: Sequence[Row], samples: Sequence[Shown]
) -> Iterator[Section]:
    """Yield the sections after the head, in order."""
    steps = [row for row in rows if row.kind == "step"]
    yield Section("Figures", _tables(runs, rows, steps))
    readings = _one(reading_curves(steps))
    yield Section("Judges during training", [readings, stability_table(steps)])
    yield Section("Exploits found", _exploits(rows))
    yield Section("Samples", [*gallery(samples, "samples"), *_candidates(rows)])
    yield Section("How the reward sees them", _histograms(steps))
    ladders, planes = judge_pictures(rows)
    yield Section("What the judges say", [ladders])
    yield Section("Reward against judge", [planes])
    yield Section("During training", [_one(guard_curves(steps))])
    yield Section("Where it comes from", [origins(run) for run in runs])


def _one(picture: Picture | None) -> list[Picture]:
    return [picture] if picture else []


def _tables(runs: Sequence[Run], rows: Sequence[Row], steps: Sequence[Row]) -> list[Block]:
    judged = [row for row in rows if row.step is None or row.step.changed_policy]
    return [
        summary_table(judged) if steps or runs[0].base else "",
        reward_table(steps),
        attack_table(steps),
    ]


def _histograms(steps: Sequence[Row]) -> list[Block]:
    pictures = []
    for row in steps:
        pictures += _one(histogram(row))
    about = tag("p", ABOUT_HISTOGRAMS, "soft") if pictures else ""
    return [about, pictures]


def _exploits(rows: Sequence[Row]) -> list[Block]:
    """Return what the adversary of each round found, beside the answer it was paired with."""
    blocks: list[Block] = []
    for sides in shown_exploits(rows):
        blocks.append(tag("h3", f"Adversarial pairs: {listed(sides.owners)}"))
        blocks.append(tag("p", ABOUT_EXPLOITS, "soft"))
        first = slug(sides.owners[0])
        blocks += gallery(sides.parts, f"exploits-{first}")
    return blocks


def _candidates(rows: Sequence[Row]) -> list[Block]:
    """Return each round's best and worst candidates."""
    blocks: list[Block] = []
    for sides in shown_pairs(rows):
        blocks.append(tag("h3", f"Best and worst candidates: {listed(sides.owners)}"))
        blocks.append(tag("p", ABOUT_PAIRS, "soft"))
        first = slug(sides.owners[0])
        blocks += gallery(sides.parts, f"pairs-{first}")
    return blocks


def overview(samples: Sequence[Shown]) -> list[Picture]:
    """Return the grids of images as one picture, for a README.

    At most four are in a row, the rows are alike. Without images there is no picture.
    """
    images = [part for part in samples if not part.is_text]
    if not images:
        return []
    lines = -(-len(images) // 4)
    across = -(-len(images) // lines)
    return [grids(images, "overview", across, "")]
