"""Draw grids of images."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from rewardlab.report.picture import Picture, canvas, drawable, png_of
from rewardlab.report.samples import Shown

COLUMNS = 10
TILE = 80
GAP = 5


class Cell(NamedTuple):
    """The place of a tile in a grid."""

    line: int
    column: int


class Heading(NamedTuple):
    """The prompt above a column, and the x of its middle in pixels."""

    x: float
    prompt: str


class Board(NamedTuple):
    """The tiles of a part in one image.

    Attributes:
        pixels: uint8 [H, W, 3].
        headings: those of the columns, where each prompt has one.
    """

    pixels: Any
    headings: list[Heading]

    @property
    def aspect(self) -> float:
        """Return height over width."""
        height, width, _ = self.pixels.shape
        return float(height / width)


def grids(parts: Sequence[Shown], name: str, across: int, caption: str) -> Picture:
    """Draw several grids as one picture, `across` of them in a row."""
    boards = [_board(part) for part in parts]
    down = -(-len(parts) // across)
    height = 0.5 + 5 * max(board.aspect for board in boards)
    with canvas(5 * across, down * height) as figure:
        for axes in figure.subplots(down, across, squeeze=False).flat:
            axes.set_axis_off()
        for part, board, axes in zip(parts, boards, figure.axes, strict=False):
            _draw(axes, part, board)
        png = png_of(figure)
    return Picture(name, png, _alt(parts), caption)


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
        axes.text(
            heading.x,
            -4,
            drawable(heading.prompt, 9),
            ha="center",
            va="bottom",
            fontsize=7,
            color="#4a4f57",
        )


def _alt(parts: Sequence[Shown]) -> str:
    """Say what the grids show, with the first ten prompts."""
    labels = ", ".join(part.label for part in parts)
    prompts: dict[str, None] = {}
    for part in parts:
        prompts |= dict.fromkeys(part.prompts)
    prompts.pop("", None)
    if not prompts:
        return f"Grids of samples: {labels}."
    listed = ", ".join(list(prompts)[:10])
    if len(prompts) > 10:
        listed += ", …"
    return f"Grids of samples of {len(prompts)} prompts ({listed}): {labels}."


def _board(part: Shown) -> Board:
    """Return the board of a part: a column a prompt where there are two to ten prompts."""
    tiles = [_tile(output) for output in part.outputs]  # type: ignore[arg-type]
    height = GAP + max(tile.shape[1] for tile in tiles)
    width = GAP + max(tile.shape[2] for tile in tiles)
    prompts = list(dict.fromkeys(part.prompts))
    headings = []
    if 1 < len(prompts) <= COLUMNS:
        cells = _cells_by_prompt(part.prompts)
        for column, prompt in enumerate(prompts):
            middle = column * width + (width - GAP) / 2
            headings.append(Heading(middle, prompt))
    else:
        cells = _cells_in_turn(len(tiles))
    pixels = _placed(tiles, cells, height, width)
    return Board(pixels.permute(1, 2, 0).numpy(), headings)


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


def _cells_in_turn(count: int) -> list[Cell]:
    """Return the cell of each row: line by line."""
    cells = []
    for row in range(count):
        line, column = divmod(row, COLUMNS)
        cells.append(Cell(line, column))
    return cells


def _cells_by_prompt(prompts: Sequence[str]) -> list[Cell]:
    """Return the cell of each row: a column a prompt, downwards."""
    columns = list(dict.fromkeys(prompts))
    filled = dict.fromkeys(prompts, 0)
    cells = []
    for prompt in prompts:
        cells.append(Cell(filled[prompt], columns.index(prompt)))
        filled[prompt] += 1
    return cells


def _tile(image: Tensor) -> Tensor:
    """Return an image as uint8 [3, H, W], near `TILE` pixels wide.

    Small images grow in whole steps, so that pixels stay square.
    """
    from torch.nn.functional import interpolate

    if len(image) == 1:
        image = image.expand(3, -1, -1)
    _, height, width = image.shape
    longer = max(height, width)
    if longer <= TILE:
        times = TILE // longer
        return image.repeat_interleave(times, 1).repeat_interleave(times, 2)
    size = [
        max(1, round(height * TILE / longer)),
        max(1, round(width * TILE / longer)),
    ]
    shrunk = interpolate(image[None].float(), size=size, mode="area")
    return shrunk[0].round().to(torch.uint8)
