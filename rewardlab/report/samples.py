"""Samples to look at: a few rows of a stage's folder, as a grid of images or as text."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from rewardlab.errors import InputError
from rewardlab.report.figures import mean, sig
from rewardlab.report.picture import Picture, canvas, drawable, png_of
from rewardlab.report.rows import BASE, TARGETS, Row
from rewardlab.runs.read import Run, Step, at
from rewardlab.storage.images import find_images, read_image
from rewardlab.storage.metadata import read_kind, read_lines

LIMIT = 40
COLUMNS = 10
TILE = 80


@dataclass(frozen=True)
class Shown:
    """A few samples of one kind, ordered by prompt.

    Attributes:
        label: what they are.
        colour: of whatever they belong to.
        prompts: their prompts.
        outputs: uint8 images [C, H, W], or strings.
        about: what the caption adds.
    """

    label: str
    colour: str
    prompts: list[str]
    outputs: list[Tensor] | list[str]
    about: str = ""

    @property
    def is_text(self) -> bool:
        return isinstance(self.outputs[0], str)


def shown_samples(rows: Sequence[Row], runs: Sequence[Run]) -> list[Shown]:
    """Return samples of the targets, the base, each round, and the best and worst candidates; those
    that stand.
    """
    parts: list[Shown | None] = [
        _first(
            runs,
            "0-targets",
            "samples",
            "targets (real)",
            TARGETS,
            "Held-out real targets: what is wanted.",
        ),
        _first(
            runs,
            "0-samples",
            "samples",
            "base",
            BASE,
            "The generator before any training with the reward.",
        ),
    ]
    for row in rows:
        if row.step:
            trained = at(row.step.figures, "post_train")  # filtering draws others
            about = (
                "The same prompts and noise as the base."
                if trained
                else "The same prompts as the base."
            )
            parts.append(
                _read(
                    row.step.run,
                    f"{row.step.number}-samples",
                    "samples",
                    row.label,
                    row.colour,
                    about,
                )
            )
    return _in_one_order([part for part in parts if part])


def shown_pairs(rows: Sequence[Row]) -> list[tuple[list[str], list[Shown]]]:
    """Return the best and worst candidates of each round that mined pairs, and whose they are: runs
    may share them.
    """
    return _shown_sides(rows, "pairs", _pair)


def shown_exploits(rows: Sequence[Row]) -> list[tuple[list[str], list[Shown]]]:
    """Return what each round's adversary found, beside the reference that is better, and whose they
    are.
    """
    return _shown_sides(rows, "adversarial", _exploits)


def _shown_sides(
    rows: Sequence[Row], stage: str, read: Callable[[Step, str], list[Shown]]
) -> list[tuple[list[str], list[Shown]]]:
    """Return both sides of a stage's pairs, once for all the rounds that share it."""
    found: dict[str, tuple[list[str], list[Shown]]] = {}
    for row in rows:
        folder = row.step.run.stage(f"{row.step.number}-{stage}") if row.step else None
        if row.step is None or folder is None:
            continue
        if folder.name not in found:
            found[folder.name] = [], read(row.step, row.colour)
        found[folder.name][0].append(row.label)
    return [(owners, parts) for owners, parts in found.values() if parts]


def _pair(step: Step, colour: str) -> list[Shown]:
    """Read what a round's reward liked most and least."""
    parts = []
    for side, inside, most, shade in (
        ("best", "chosen", "highest", colour),
        ("worst", "rejected", "lowest", BASE),
    ):
        score = sig(mean(at(step.figures, "candidates", side)))
        about = f"The {most}-scored of each prompt's candidates; mean score {score}."
        parts.append(
            _read(
                step.run,
                f"{step.number}-pairs",
                f"pairs/{inside}",
                f"{side} candidates",
                shade,
                about,
            )
        )
    return _in_one_order([part for part in parts if part])


def _exploits(step: Step, colour: str) -> list[Shown]:
    """Read a round's adversarial pairs."""
    sides = (
        ("rejected", "exploit", colour, "What the adversary found."),
        ("chosen", "reference", BASE, "The better answer."),
    )
    read = [
        _read(step.run, f"{step.number}-adversarial", f"pairs/{inside}", label, shade, about)
        for inside, label, shade, about in sides
    ]
    return _in_one_order([part for part in read if part])


def _first(
    runs: Sequence[Run], stage: str, inside: str, label: str, colour: str, about: str
) -> Shown | None:
    """Read from the first run that has it: targets and base are what the runs share."""
    holder = next((run for run in runs if run.stage(stage)), runs[0])
    return _read(holder, stage, inside, label, colour, about)


def _read(run: Run, stage: str, inside: str, label: str, colour: str, about: str) -> Shown | None:
    """Read a few samples; note on the run what cannot be shown."""
    folder = run.file(stage, inside, f"samples of {label}")
    try:
        if folder is None:
            return None
        rows = read_lines(folder / "metadata.jsonl")
        chosen = spread([str(row.get("prompt", row.get("text", ""))) for row in rows], LIMIT)
        channels = read_kind(folder).get("channels", 3)
        outputs: list[Any] = [_output(folder, rows[i], channels) for i in chosen]
    except InputError as error:
        run.notes.append(f"samples of {label}: {error}")
        return None
    if not outputs or len({isinstance(output, str) for output in outputs}) > 1:
        return None
    return Shown(label, colour, [str(rows[i].get("prompt", "")) for i in chosen], outputs, about)


def _output(folder: Path, row: dict[str, Any], channels: Any) -> str | Tensor:
    """Return one sample: its text, its image, or its video's middle frame."""
    if "output" in row:
        return str(row["output"])
    path = folder / str(row.get("file_name"))
    if path.is_dir():
        frames = find_images(path)
        path = frames[len(frames) // 2]
    return read_image(path, channels=channels)


def spread(prompts: Sequence[str], limit: int) -> list[int]:
    """Return at most `limit` row numbers, as many of each prompt, a prompt's rows together, in the
    prompts' order.

    Example:
        >>> spread(["b", "a", "b", "a", "b"], 4)
        [0, 2, 1, 3]
    """
    groups: dict[str, list[int]] = {}
    for row, prompt in enumerate(prompts):
        groups.setdefault(prompt, []).append(row)
    each = max(1, limit // max(1, len(groups)))
    return [row for group in groups.values() for row in group[:each]][:limit]


def _in_one_order(parts: list[Shown]) -> list[Shown]:
    """Put every part in the order in which the last one has its prompts, so that grids can be
    compared.
    """
    order = (
        {prompt: place for place, prompt in enumerate(dict.fromkeys(parts[-1].prompts))}
        if parts
        else {}
    )
    return [_sorted(part, order) for part in parts]


def _sorted(part: Shown, order: dict[str, int]) -> Shown:
    rows = sorted(
        range(len(part.prompts)), key=lambda row: order.get(part.prompts[row], len(order))
    )
    prompts = [part.prompts[row] for row in rows]
    outputs = [part.outputs[row] for row in rows]
    return Shown(part.label, part.colour, prompts, outputs, part.about)  # type: ignore[arg-type]


def grids(parts: Sequence[Shown], name: str, across: int, caption: str) -> Picture:
    """Draw several grids as one picture, `across` of them in a row."""
    boards = [_board(part) for part in parts]
    down = -(-len(parts) // across)
    tall = max(board.shape[0] / board.shape[1] for board, _ in boards)
    with canvas(5 * across, down * (5 * tall + 0.5)) as figure:
        for axes in figure.subplots(down, across, squeeze=False).flat:
            axes.set_axis_off()
        for part, (board, headings), axes in zip(parts, boards, figure.axes, strict=False):
            axes.imshow(board, cmap="gray", vmin=0, vmax=255, interpolation="antialiased")
            axes.set_title(drawable(part.label), color=part.colour, pad=14 if headings else 4)
            for place, heading in headings:
                axes.text(
                    place,
                    -4,
                    drawable(heading, 9),
                    ha="center",
                    va="bottom",
                    fontsize=7,
                    color="#4a4f57",
                )
        png = png_of(figure)
    prompts = list(dict.fromkeys(prompt for part in parts for prompt in part.prompts if prompt))
    of = (
        f" of {len(prompts)} prompts ({', '.join(prompts[:10])}{', …' if len(prompts) > 10 else ''})"
        if prompts
        else ""
    )
    return Picture(
        name, png, f"Grids of samples{of}: {', '.join(part.label for part in parts)}.", caption
    )


def _board(part: Shown) -> tuple[Any, list[tuple[float, str]]]:
    """Return one array of all tiles, and column headings with their places where each prompt has a
    column.
    """
    tiles = [_tile(output) for output in part.outputs]  # type: ignore[arg-type]
    height, width = (max(tile.shape[axis] for tile in tiles) for axis in (1, 2))
    counts = [part.prompts.count(prompt) for prompt in dict.fromkeys(part.prompts)]
    by_column = 1 < len(counts) <= COLUMNS
    columns = len(counts) if by_column else min(COLUMNS, len(tiles))
    lines = max(counts) if by_column else -(-len(tiles) // columns)
    gap = 5
    board = torch.full(
        (3, lines * (height + gap) - gap, columns * (width + gap) - gap), 255, dtype=torch.uint8
    )
    places = _places(part.prompts) if by_column else [divmod(i, columns) for i in range(len(tiles))]
    for tile, (line, column) in zip(tiles, places, strict=True):
        top = line * (height + gap)
        left = column * (width + gap)
        board[:, top : top + tile.shape[1], left : left + tile.shape[2]] = tile
    headings = [
        (i * (width + gap) + width / 2, prompt)
        for i, prompt in enumerate(dict.fromkeys(part.prompts))
    ]
    return board.permute(1, 2, 0).numpy(), headings if by_column else []


def _places(prompts: Sequence[str]) -> list[tuple[int, int]]:
    """Return (line, column) of each row: a column a prompt, downwards."""
    columns = {prompt: column for column, prompt in enumerate(dict.fromkeys(prompts))}
    return [(prompts[:row].count(prompt), columns[prompt]) for row, prompt in enumerate(prompts)]


def _tile(image: Tensor) -> Tensor:
    """Return an image as uint8 [3, H, W] near `TILE` pixels wide: small ones in whole steps, so
    that pixels stay square.
    """
    from torch.nn.functional import interpolate

    image = image.expand(3, -1, -1) if len(image) == 1 else image
    longer = max(image.shape[1:])
    if longer <= TILE:
        times = TILE // longer
        return image.repeat_interleave(times, 1).repeat_interleave(times, 2)
    size = [max(1, round(side * TILE / longer)) for side in image.shape[1:]]
    return interpolate(image[None].float(), size=size, mode="area")[0].round().to(torch.uint8)
