"""A picture: a drawn figure as PNG, with the words that a reader without it needs; and how figures
are drawn.
"""

from __future__ import annotations

import io
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

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


@dataclass(frozen=True)
class Picture:
    """A figure of the page.

    Attributes:
        name: of the file, without ".png".
        png: its bytes.
        alt: what it shows, for those who cannot see it.
        caption: one sentence on how to read it.
    """

    name: str
    png: bytes
    alt: str
    caption: str


@contextmanager
def canvas(width: float, height: float) -> Iterator[Any]:
    """Give an empty matplotlib figure, in inches, in the report's style. No global state of pyplot
    is touched.
    """
    import matplotlib
    from matplotlib.figure import Figure

    with matplotlib.rc_context(STYLE):
        yield Figure(figsize=(width, height), layout="constrained")


def png_of(figure: Any) -> bytes:
    file = io.BytesIO()
    figure.savefig(
        file, format="png", metadata={"Software": None}
    )  # the same bytes whatever matplotlib's version string
    return file.getvalue()


def drawable(text: str, limit: int = 40) -> str:
    """Return `text` with a box for each character that the plots' font lacks, cut to `limit`.

    Example:
        >>> drawable("a cat 猫\\n")
        'a cat □□'
    """
    from matplotlib import font_manager

    known = font_manager.get_font(font_manager.findfont("DejaVu Sans")).get_charmap()
    shown = "".join(letter if ord(letter) in known else "□" for letter in text)
    return shown if len(shown) <= limit else shown[: limit - 1] + "…"


def slug(text: str) -> str:
    """Return a file name's part: letters and digits of `text`, the rest as hyphens.

    Example:
        >>> slug("dpo/β low, round 1")
        'dpo-low-round-1'
    """
    plain = "".join(
        letter if letter.isascii() and letter.isalnum() else " " for letter in text.lower()
    )
    return "-".join(plain.split()) or "x"
