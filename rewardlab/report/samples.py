"""Read samples to look at: a few rows of a stage's folder, as images or as text."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from rewardlab.conversations import Prompt, from_json
from rewardlab.errors import InputError
from rewardlab.report.figures import sig
from rewardlab.report.rows import BASE, TARGETS, Row
from rewardlab.runs import layout
from rewardlab.runs.layout import stage_name
from rewardlab.runs.read import Run, Step, at
from rewardlab.storage.metadata import read_kind, read_lines
from rewardlab.storage.samples import is_saved_video, read_output

LIMIT = 40
STRIPS = 12  # samples of videos
FRAMES = 6  # of a strip


@dataclass(frozen=True)
class Shown:
    """A few samples of one kind, ordered by prompt.

    Attributes:
        label: what they are.
        colour: of whatever they belong to.
        prompts: their prompts.
        outputs: uint8 images [C, H, W], or strings.
        about: what the caption adds.
        scores: the reward's scores, one an output; empty where they are not known.
        frames: how many frames stand side by side in each image: 1, or those of a video's strip.
    """

    label: str
    colour: str
    prompts: list[Prompt]
    outputs: list[Tensor] | list[str]
    about: str = ""
    scores: list[float] = field(default_factory=list)
    frames: int = 1

    @property
    def is_text(self) -> bool:
        """Return whether the samples are text; else they are images."""
        return isinstance(self.outputs[0], str)


class Sides(NamedTuple):
    """Both sides of the pairs of a round, or of several rounds that share them.

    Attributes:
        owners: the labels of these rounds.
        parts: samples of one side, then of the other.
    """

    owners: list[str]
    parts: list[Shown]


class Source(NamedTuple):
    """Where samples of one kind are, and how they are presented.

    Attributes:
        stage: the stage's name.
        inside: the folder of samples in the stage's folder.
        label: what the samples are.
        colour: of whatever they belong to.
        about: what the caption adds.
        side: the scores of the round's reward that are theirs, in the order of the samples.
    """

    stage: str
    inside: str
    label: str
    colour: str
    about: str
    side: str = ""


OF_TARGETS = Source(
    stage=stage_name(0, layout.TARGETS),
    inside=layout.SAMPLES_FOLDER,
    label="targets (real)",
    colour=TARGETS,
    about="Held-out real targets: what is wanted.",
    side="targets",
)
OF_BASE = Source(
    stage=stage_name(0, layout.SAMPLES),
    inside=layout.SAMPLES_FOLDER,
    label="base",
    colour=BASE,
    about="The generator before any training with the reward.",
    side="before",
)


def shown_samples(rows: Sequence[Row], runs: Sequence[Run]) -> list[Shown]:
    """Return samples of the targets, of the base and of each round, as far as folders hold any."""
    steps = [row.step for row in rows if row.step]
    one = steps[0] if len(steps) == 1 else None  # of several, rewards have different scales
    parts = [_read_shared(runs, OF_TARGETS, one), _read_shared(runs, OF_BASE, one)]
    for row in rows:
        if row.step and row.step in row.step.run.trained:
            source = _of_round(row, row.step)
            parts.append(_read(row.step.run, source, row.step))
    return _in_one_order(parts)


def _of_round(row: Row, step: Step) -> Source:
    """Return the source of what the policy makes after a round."""
    about = "The same prompts and noise as the base."
    if not at(step.figures, "post_train"):  # filtering draws other noise
        about = "The same prompts as the base."
    return Source(
        stage=stage_name(step.number, layout.SAMPLES),
        inside=layout.SAMPLES_FOLDER,
        label=row.label,
        colour=row.colour,
        about=about,
        side="after",
    )


def shown_extremes(run: Run) -> list[Shown]:
    """Return the held-out samples that a fit's reward scores highest and lowest, if it kept any."""
    parts = []
    ends = {layout.HIGHEST_FOLDER: TARGETS, layout.LOWEST_FOLDER: BASE}
    for name, colour in ends.items():
        folder = run.path / layout.HELD_OUT_FOLDER / name
        if folder.is_dir():
            source = Source("", "", f"{name} scores", colour, "Of held-out samples.")
            part = _load(folder, source, [])
            if part and part.scores:
                parts.append(_by_score(part, highest_first=name == layout.HIGHEST_FOLDER))
    return parts


def _by_score(part: Shown, highest_first: bool) -> Shown:
    """Return a part with its rows in the order of their scores."""
    rows = sorted(range(len(part.scores)), key=part.scores.__getitem__, reverse=highest_first)
    return _rows_of(part, rows)


def shown_pairs(rows: Sequence[Row]) -> list[Sides]:
    """Return the best and the worst candidates of each round that mined pairs.

    Rounds of several runs may share them.
    """
    return _shown_sides(rows, _of_candidates)


def shown_exploits(rows: Sequence[Row]) -> list[Sides]:
    """Return what each round's adversary found, and the better references.

    Rounds of several runs may share them.
    """
    return _shown_sides(rows, _of_exploits)


def _shown_sides(
    rows: Sequence[Row],
    sources_of: Callable[[Step, str], list[Source]],
) -> list[Sides]:
    """Return both sides of a stage's pairs, once for all the rounds that share the stage."""
    by_folder: dict[str, Sides] = {}
    for row in rows:
        if row.step is None:
            continue
        run = row.step.run
        sources = sources_of(row.step, row.colour)
        folder = run.stage(sources[0].stage)
        if folder is None:
            continue
        if folder.name not in by_folder:
            parts = [_read(run, source) for source in sources]
            by_folder[folder.name] = Sides([], _in_one_order(parts))
        by_folder[folder.name].owners.append(row.label)
    return [sides for sides in by_folder.values() if sides.parts]


def _of_candidates(step: Step, colour: str) -> list[Source]:
    """Return the sources of what a round's reward liked most and least."""
    stage = stage_name(step.number, layout.PAIRS)
    candidates = at(step.figures, "candidates")
    best = sig(at(candidates, "best"))
    worst = sig(at(candidates, "worst"))
    liked_most = Source(
        stage=stage,
        inside=layout.CHOSEN_FOLDER,
        label="best candidates",
        colour=colour,
        about=f"The highest-scored of each prompt's candidates; mean score {best}.",
    )
    liked_least = Source(
        stage=stage,
        inside=layout.REJECTED_FOLDER,
        label="worst candidates",
        colour=BASE,
        about=f"The lowest-scored of each prompt's candidates; mean score {worst}.",
    )
    return [liked_most, liked_least]


def _of_exploits(step: Step, colour: str) -> list[Source]:
    """Return the sources of a round's adversarial pairs."""
    stage = stage_name(step.number, layout.ADVERSARIAL)
    exploits = Source(
        stage=stage,
        inside=layout.REJECTED_FOLDER,
        label="exploit",
        colour=colour,
        about="What the adversary found.",
    )
    references = Source(
        stage=stage,
        inside=layout.CHOSEN_FOLDER,
        label="reference",
        colour=BASE,
        about="The better answer.",
    )
    return [exploits, references]


def _read_shared(runs: Sequence[Run], source: Source, step: Step | None) -> Shown | None:
    """Read from the first run that has the stage; targets and base are what the runs share."""
    for run in runs:
        if run.stage(source.stage):
            return _read(run, source, step)
    return _read(runs[0], source, step)


def _read(run: Run, source: Source, step: Step | None = None) -> Shown | None:
    """Read a few samples; note on the run what cannot be shown.

    Args:
        run: the run.
        source: where they are.
        step: the round whose reward scored them, if there is one.
    """
    what = f"samples of {source.label}"
    folder = run.file(source.stage, source.inside, what)
    if folder is None:
        return None
    scores = _scores_of_side(step, source.side) if step and source.side else []
    try:
        return _load(folder, source, scores)
    except InputError as error:
        run.notes.append(f"{what}: {error}")
        return None


def _scores_of_side(step: Step, side: str) -> list[float]:
    """Return a round's scores of "targets", "before" or "after"; none where it has none."""
    if step.run.stage(stage_name(step.number, layout.SCORES)) is None:
        return []
    scores = step.scores()
    return scores[side].tolist() if side in scores else []


def _load(folder: Path, source: Source, scores: Sequence[float]) -> Shown | None:
    """Load a few samples of a folder, or return None if it has none or mixes text and images.

    Args:
        folder: the folder of samples.
        source: how they are presented.
        scores: one a row of the folder; otherwise the fact "score" of the rows counts.
    """
    rows = read_lines(folder / "metadata.jsonl")
    prompts = [_prompt(row) for row in rows]
    kind = read_kind(folder)
    videos = any(_is_video(folder, row, kind) for row in rows[:1])
    chosen = spread(prompts, STRIPS if videos else LIMIT)
    outputs: list[Any] = [_output(folder, rows[i], kind) for i in chosen]
    types = {isinstance(output, str) for output in outputs}
    if len(types) != 1:
        return None
    frames = 1
    if videos:
        frames = len(outputs[0])
        outputs = [strip(video) for video in outputs]
    if len(scores) != len(rows):
        scores = [row["score"] for row in rows if isinstance(row.get("score"), float)]
    shown_scores = [scores[i] for i in chosen] if len(scores) == len(rows) else []
    return Shown(
        source.label,
        source.colour,
        [prompts[i] for i in chosen],
        outputs,
        source.about,
        shown_scores,
        frames,
    )


def _prompt(row: dict[str, Any]) -> Prompt:
    """Return the prompt of a line of metadata.jsonl: a text or a conversation."""
    value = row.get("prompt", row.get("text", ""))
    if isinstance(value, list):
        return from_json(value)
    return str(value)


def _is_video(folder: Path, row: dict[str, Any], kind: dict[str, Any]) -> bool:
    """Tell whether a line names a video."""
    return "output" not in row and is_saved_video(folder / str(row.get("file_name")), kind)


def _output(folder: Path, row: dict[str, Any], kind: dict[str, Any]) -> str | Tensor:
    """Return one sample: its text, its image [C, H, W], or a few frames of its video."""
    if "output" in row:
        return str(row["output"])
    output = read_output(folder / str(row.get("file_name")), kind)
    if output.dim() == 3:
        return output
    return output[few_frames(len(output))]


def few_frames(count: int) -> list[int]:
    """Return the numbers of a strip's frames, the first and the last among them.

    Example:
        >>> few_frames(3), few_frames(16)
        ([0, 1, 2], [0, 3, 6, 9, 12, 15])
    """
    if count <= FRAMES:
        return list(range(count))
    return [part * (count - 1) // (FRAMES - 1) for part in range(FRAMES)]


def strip(video: Tensor) -> Tensor:
    """Return the frames [F, C, H, W] of a video side by side, [C, H, F·W]."""
    return torch.cat(list(video), dim=2)


def spread(prompts: Sequence[Prompt], limit: int) -> list[int]:
    """Return at most `limit` row numbers, as many of each prompt.

    A prompt's rows are together, in the prompts' order.

    Example:
        >>> spread(["b", "a", "b", "a", "b"], 4)
        [0, 2, 1, 3]
    """
    groups: dict[Prompt, list[int]] = {}
    for row, prompt in enumerate(prompts):
        groups.setdefault(prompt, []).append(row)
    share = max(1, limit // max(1, len(groups)))
    rows: list[int] = []
    for group in groups.values():
        rows += group[:share]
    return rows[:limit]


def _in_one_order(parts: Sequence[Shown | None]) -> list[Shown]:
    """Return the parts that could be read, each in the order of the last one's prompts.

    So grids can be compared.
    """
    shown = [part for part in parts if part]
    if not shown:
        return []
    order = list(dict.fromkeys(shown[-1].prompts))
    return [_sorted(part, order) for part in shown]


def _sorted(part: Shown, order: Sequence[Prompt]) -> Shown:
    """Return a part with its rows in the order of their prompts; other prompts come last."""
    ranks = {prompt: rank for rank, prompt in enumerate(order)}

    def rank(row: int) -> int:
        return ranks.get(part.prompts[row], len(ranks))

    return _rows_of(part, sorted(range(len(part.prompts)), key=rank))


def _rows_of(part: Shown, rows: Sequence[int]) -> Shown:
    """Return a part with these rows."""
    outputs: list[Any] = [part.outputs[row] for row in rows]
    return replace(
        part,
        prompts=[part.prompts[row] for row in rows],
        outputs=outputs,
        scores=[part.scores[row] for row in rows] if part.scores else [],
    )
