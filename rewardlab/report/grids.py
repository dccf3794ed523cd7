"""Draw grids of images."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from rewardlab.conversations import Prompt
from rewardlab.report.figures import sig
from rewardlab.report.picture import Picture, canvas, drawable, png_of
from rewardlab.report.samples import Shown

COLUMNS = 10
TILE = 80
GAP = 5
SCORE_ROOM = 18  # below each tile, in pixels of the board
LABEL_LENGTH = 9
PIXELS_AN_INCH = 150  # of the board, the tiles in their own pixels


class Cell(NamedTuple):
    """The place of a tile in a grid."""

    line: int
    column: int


class Label(NamedTuple):
    """A text on a board, centred at x, its top or its bottom at y, in pixels."""

    x: float
    y: float
    text: str


class Board(NamedTuple):
    """The tiles of a part in one image.

    Attributes:
        pixels: uint8 [H, W, 3].
        headings: those of the columns, where each prompt has one.
        scores: the score below each tile, where they are known.
    """

    pixels: Any
    headings: list[Label]
    scores: list[Label]

    @property
    def aspect(self) -> float:
        """Return height over width."""
        height, width, _ = self.pixels.shape
        return float(height / width)


def grids(parts: Sequence[Shown], name: str, across: int, caption: str) -> Picture:
    """Draw several grids as one picture, `across` of them in a row."""
    boards = [_board(part) for part in parts]
    down = -(-len(parts) // across)
    widest = max(board.pixels.shape[1] for board in boards)
    width = min(5.0, max(2.2, widest / PIXELS_AN_INCH * 1.5))
    height = 0.5 + width * max(board.aspect for board in boards)
    with canvas(width * across, down * height) as figure:
        for axes in figure.subplots(down, across, squeeze=False).flat:
            axes.set_axis_off()
        for part, board, axes in zip(parts, boards, figure.axes, strict=False):
            _draw(axes, part, board)
        png = png_of(figure)
    return Picture(
        name,
        png,
        _alt(parts),
        " ".join(filter(None, [caption, _legend(parts)])),
        is_photo=True,
        width=round(width * across * 115),
    )


def _draw(axes: Any, part: Shown, board: Board) -> None:
    axes.imshow(
        board.pixels,
        cmap="gray",
        vmin=0,
        vmax=255,
        interpolation="antialiased",
    )
    room = 14 if board.headings else 4
    axes.set_title(drawable(part.label), color=part.colour, pad=room)
    for heading in board.headings:
        _write(axes, heading, "bottom")
    for score in board.scores:
        _write(axes, score, "top")


def _write(axes: Any, label: Label, side: str) -> None:
    axes.text(
        label.x,
        label.y,
        drawable(label.text, LABEL_LENGTH),
        ha="center",
        va=side,
        fontsize=7,
        color="#4a4f57",
    )


def _alt(parts: Sequence[Shown]) -> str:
    """Say what the grids show, with the first ten prompts."""
    labels = ", ".join(part.label for part in parts)
    prompts = [one_line(prompt) for prompt in _distinct(parts) if prompt]
    if not prompts:
        return f"Grids of samples: {labels}."
    listed = ", ".join(prompts[:10])
    if len(prompts) > 10:
        listed += ", …"
    return f"Grids of samples of {len(prompts)} prompts ({listed}): {labels}."


def _legend(parts: Sequence[Shown]) -> str:
    """Say what the numbers above columns and below pictures are."""
    sentences = []
    prompts = list(dict.fromkeys(parts[0].prompts))
    if parts[0].frames == 1 and _has_columns(prompts) and _is_numbered(prompts):
        named = []
        for number, prompt in enumerate(prompts, 1):
            named.append(f"{number}: {one_line(prompt)}")
        sentences.append(f"Columns are prompts: {'; '.join(named)}.")
    if parts[0].frames > 1:
        sentences.append("Each strip is a few frames of one video, from its first to its last.")
    if any(part.scores for part in parts):
        sentences.append("The number below a picture is its score by the reward.")
    return " ".join(sentences)


def one_line(prompt: Prompt, limit: int = 60) -> str:
    """Return a prompt on one line, cut to `limit` characters.

    Example:
        >>> one_line("a cat\\nand a dog", 10)
        'a cat and…'
    """
    text = " ".join(str(prompt).split())
    return text if len(text) <= limit else text[: limit - 1] + "…"


def _distinct(parts: Sequence[Shown]) -> list[Prompt]:
    prompts: dict[Prompt, None] = {}
    for part in parts:
        prompts |= dict.fromkeys(part.prompts)
    return list(prompts)


def _has_columns(prompts: Sequence[Prompt]) -> bool:
    """Tell whether each of these distinct prompts has a column."""
    return 1 < len(prompts) <= COLUMNS


def _is_numbered(prompts: Sequence[Prompt]) -> bool:
    """Tell whether columns have numbers, as some prompt is too long to stand above its own."""
    return any(len(one_line(prompt)) > LABEL_LENGTH for prompt in prompts)


def _board(part: Shown) -> Board:
    """Return the board of a part: a column a prompt where there are two to ten prompts.

    Strips of videos are wide: they stand in as many columns as fit, in the order of the prompts.
    """
    tiles = [_tile(output, part.frames) for output in part.outputs]  # type: ignore[arg-type]
    room = SCORE_ROOM if part.scores else 0
    height = GAP + room + max(tile.shape[1] for tile in tiles)
    width = GAP + max(tile.shape[2] for tile in tiles)
    prompts = list(dict.fromkeys(part.prompts))
    headings = []
    if part.frames > 1:
        cells = _cells_in_turn(len(tiles), max(1, COLUMNS // part.frames))
    elif _has_columns(prompts):
        cells = _cells_by_prompt(part.prompts)
        headings = _headings(prompts, width)
    else:
        cells = _cells_in_turn(len(tiles))
    scores = []
    for score, tile, cell in zip(part.scores, tiles, cells, strict=False):
        x = cell.column * width + tile.shape[2] / 2
        scores.append(Label(x, cell.line * height + tile.shape[1] + 2, sig(score)))
    pixels = _placed(tiles, cells, height, width)
    return Board(pixels.permute(1, 2, 0).numpy(), headings, scores)


def _headings(prompts: Sequence[Prompt], width: int) -> list[Label]:
    """Return the heading of each column of `width` pixels: its prompt, or a number for it."""
    headings = []
    for column, prompt in enumerate(prompts):
        middle = column * width + (width - GAP) / 2
        text = str(column + 1) if _is_numbered(prompts) else one_line(prompt)
        headings.append(Label(middle, -4, text))
    return headings


def _placed(tiles: Sequence[Tensor], cells: Sequence[Cell], height: int, width: int) -> Tensor:
    """Return white pixels [3, H, W] with each tile in its cell of `height` times `width` pixels.

    The gap after the last line and the last column is left out.
    """
    lines = 1 + max(cell.line for cell in cells)
    columns = 1 + max(cell.column for cell in cells)
    shape = (3, lines * height - GAP, columns * width - GAP)
    pixels = torch.full(shape, 255, dtype=torch.uint8)
    for tile, cell in zip(tiles, cells, strict=True):
        top = cell.line * height
        left = cell.column * width
        bottom = top + tile.shape[1]
        right = left + tile.shape[2]
        pixels[:, top:bottom, left:right] = tile
    return pixels


def _cells_in_turn(count: int, columns: int = COLUMNS) -> list[Cell]:
    """Return the cell of each row: line by line."""
    cells = []
    for row in range(count):
        line, column = divmod(row, columns)
        cells.append(Cell(line, column))
    return cells


def _cells_by_prompt(prompts: Sequence[Prompt]) -> list[Cell]:
    """Return the cell of each row: a column a prompt, downwards."""
    columns = list(dict.fromkeys(prompts))
    filled = dict.fromkeys(prompts, 0)
    cells = []
    for prompt in prompts:
        cells.append(Cell(filled[prompt], columns.index(prompt)))
        filled[prompt] += 1
    return cells


def _tile(image: Tensor, frames: int = 1) -> Tensor:
    """Return an image as uint8 [3, H, W], each of its frames near `TILE` pixels wide.

    Small images grow in whole steps, so that pixels stay square.
    """
    from torch.nn.functional import interpolate

    if len(image) == 1:
        image = image.expand(3, -1, -1)
    _, height, width = image.shape
    longer = max(height, width // frames)
    if longer <= TILE:
        times = TILE // longer
        return image.repeat_interleave(times, 1).repeat_interleave(times, 2)
    size = [
        max(1, round(height * TILE / longer)),
        max(1, round(width * TILE / longer)),
    ]
    shrunk = interpolate(image[None].float(), size=size, mode="area")
    return shrunk[0].round().to(torch.uint8)
