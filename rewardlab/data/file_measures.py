"""Sizes and codecs of image files, which may tell two classes of images apart."""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Sequence
from math import log
from pathlib import Path
from typing import NamedTuple

from PIL import Image, UnidentifiedImageError

LOSSLESS = {"PNG", "BMP", "PPM", "TIFF"}


class Original(NamedTuple):
    """What is known of an image from before any resize.

    Attributes:
        kind: file type, or "lossless".
        width: pixels.
        height: pixels.
        quantization: mean of the JPEG's quantization table; 0 without one.
    """

    kind: str
    width: int
    height: int
    quantization: float


def read_header(file: str | Path) -> Original | None:
    """Return what a file's header says; None if the file is no image. No pixel is decoded.

    Example:
        >>> path = getfixture("tmp_path") / "white.png"
        >>> Image.new("L", (6, 4)).save(path)
        >>> read_header(path)
        Original(kind='lossless', width=6, height=4, quantization=0.0)
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)
        try:
            with Image.open(file) as image:
                kind = "lossless" if image.format in LOSSLESS else str(image.format)
                return Original(kind, image.width, image.height, _quantization(image))
        except (UnidentifiedImageError, Image.DecompressionBombError):
            return None


def _quantization(image: Image.Image) -> float:
    tables = getattr(image, "quantization", None) or {0: [0]}
    return float(sum(tables[0]) / len(tables[0]))


def sizes(originals: Sequence[Original], usual: tuple[int, int]) -> list[list[float]]:
    """Return area, logarithm of the aspect, and whether the size is the usual one, of each image.

    Args:
        originals: N images.
        usual: width and height.
    """
    rows = []
    for original in originals:
        width = original.width
        height = original.height
        rows.append([width * height, log(width / height), float((width, height) == usual)])
    return rows


def usual_size(originals: Sequence[Original]) -> tuple[int, int]:
    """Return the most frequent width and height."""
    counts = Counter((original.width, original.height) for original in originals)
    return counts.most_common(1)[0][0]


def file_types(originals: Sequence[Original], kinds: Sequence[str]) -> list[list[float]]:
    """Return the quantization, and one number for each file type, of each image."""
    rows = []
    for original in originals:
        is_kind = [float(original.kind == kind) for kind in kinds]
        rows.append([original.quantization, *is_kind])
    return rows
