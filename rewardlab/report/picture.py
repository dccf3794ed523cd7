"""Draw figures in the report's style, and keep them as PNG with a text for each."""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

Points = list[tuple[float, float]]

STYLE: dict[Any, Any] = {
    "font.family": "DejaVu Sans",
    "font.size": 9,
    "axes.titlesize": 10,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": "#b8bcc2",
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#eceef1",
    "xtick.color": "#4a4f57",
    "ytick.color": "#4a4f57",
    "legend.frameon": False,
    "text.parse_math": False,  # names and prompts may hold dollar signs
    "figure.constrained_layout.h_pad": 0.07,
    "figure.constrained_layout.w_pad": 0.07,
    "figure.facecolor": "white",
    "savefig.dpi": 150,
}


WEBP_QUALITY = 80


class Embedded(NamedTuple):
    """A picture as a page holds it.

    Attributes:
        format: "png" or "webp".
        content: the file's bytes.
    """

    format: str
    content: bytes


@dataclass(frozen=True)
class Picture:
    """A figure of the page.

    Attributes:
        name: of the file, without ".png".
        png: its bytes.
        alt: what it shows, for those who cannot see it.
        caption: one sentence on how to read it.
        is_photo: whether it holds photographs, which a page keeps as WebP.
        width: the largest width on the page, in CSS pixels; 0 for that of the column.
        is_left_out: whether a page links to its file, as the page would be too large with it.
    """

    name: str
    png: bytes
    alt: str
    caption: str
    is_photo: bool = False
    width: int = 0
    is_left_out: bool = False

    @cached_property
    def embedded(self) -> Embedded:
        """The picture as a page holds it: photographs as WebP where that is smaller."""
        if not self.is_photo:
            return Embedded("png", self.png)
        webp = _webp(self.png)
        if len(webp) < len(self.png):
            return Embedded("webp", webp)
        return Embedded("png", self.png)


def _webp(png: bytes) -> bytes:
    """Return a PNG file as WebP."""
    from PIL import Image

    file = io.BytesIO()
    with Image.open(io.BytesIO(png)) as image:
        image.convert("RGB").save(file, format="WEBP", quality=WEBP_QUALITY, method=4)
    return file.getvalue()


@contextmanager
def canvas(width: float, height: float) -> Iterator[Any]:
    """Yield an empty matplotlib figure in the report's style.

    No global state of pyplot is touched.

    Args:
        width: in inches.
        height: in inches.
    """
    import matplotlib
    from matplotlib.figure import Figure

    with matplotlib.rc_context(STYLE):
        yield Figure(figsize=(width, height), layout="constrained")


def png_of(figure: Any) -> bytes:
    """Return a drawn figure as PNG."""
    file = io.BytesIO()
    no_version = {"Software": None}  # the same bytes whatever matplotlib's version string
    figure.savefig(file, format="png", metadata=no_version)
    return file.getvalue()


def legend_below(figure: Any, *handles_and_labels: Any) -> None:
    """Draw a legend below all axes, of all of the figure's labels or of those given."""
    figure.legend(*handles_and_labels, loc="outside lower center", ncols=3, fontsize=8)


def split_points(points: Sequence[tuple[float, float]]) -> tuple[list[float], list[float]]:
    """Return the x values and the y values of points.

    Example:
        >>> split_points([(0.0, 1.5), (50.0, 2.5)])
        ([0.0, 50.0], [1.5, 2.5])
    """
    across = [x for x, _ in points]
    up = [y for _, y in points]
    return across, up


def drawable(text: str, limit: int = 40) -> str:
    """Return `text` with a box for each character that the plots' font lacks, cut to `limit`.

    Example:
        >>> drawable("a cat 猫\\n")
        'a cat □□'
    """
    from matplotlib import font_manager

    font = font_manager.get_font(font_manager.findfont("DejaVu Sans"))
    character_map = font.get_charmap()
    letters = ""
    for letter in text:
        letters += letter if ord(letter) in character_map else "□"
    if len(letters) <= limit:
        return letters
    return letters[: limit - 1] + "…"


def slug(text: str) -> str:
    """Return a file name's part: letters and digits of `text`, the rest as hyphens.

    Example:
        >>> slug("dpo/β low, round 1")
        'dpo-low-round-1'
    """
    plain = ""
    for letter in text.lower():
        plain += letter if letter.isascii() and letter.isalnum() else " "
    return "-".join(plain.split()) or "x"
