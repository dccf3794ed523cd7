"""Edits of a picture that have a name, a stated size, and no better content to show for it."""

from __future__ import annotations

import io
from collections.abc import Callable
from typing import NamedTuple

from PIL import Image, ImageDraw, ImageEnhance, ImageFilter, ImageFont

from rewardlab.evaluation.named_edits import Wanted

CROP = 0.9  # of each side that is kept
SHARPEN = 2.0  # factors of Pillow's ImageEnhance; 1 leaves a picture as it is
SATURATE = 1.5
BRIGHTEN = 1.2
JPEG_QUALITY = 50
BLUR = 0.01  # radius, as a share of the shorter side
TEXT = "masterpiece, best quality"
TEXT_HEIGHT = 1 / 12  # of the picture
SMALLEST_WITH_TEXT = 64  # pixels of the shorter side


class PictureEdit(NamedTuple):
    """An edit that leaves what a picture shows as it is, or takes from it.

    Attributes:
        name: what it does.
        size: how much of it, in words.
        edit: takes a picture and returns it edited, of the same size and mode; equal where it does
            not apply.
        wanted: what a reward of the content would do: "none", no change, or "lower".
    """

    name: str
    size: str
    edit: Callable[[Image.Image], Image.Image]
    wanted: Wanted


def crop(picture: Image.Image) -> Image.Image:
    """Return the middle of a picture, enlarged to its size.

    Example:
        >>> crop(Image.new("RGB", (40, 20))).size
        (40, 20)
    """
    left = picture.width * (1 - CROP) / 2
    top = picture.height * (1 - CROP) / 2
    middle = (left, top, picture.width - left, picture.height - top)
    return picture.resize(picture.size, Image.Resampling.BICUBIC, middle)


def sharpen(picture: Image.Image) -> Image.Image:
    """Return a picture with stronger edges."""
    return ImageEnhance.Sharpness(picture).enhance(SHARPEN)


def saturate(picture: Image.Image) -> Image.Image:
    """Return a picture with stronger colours; a grey one stays as it is.

    Example:
        >>> saturate(Image.new("RGB", (1, 1), (120, 100, 100))).getpixel((0, 0))
        (127, 97, 97)
    """
    return ImageEnhance.Color(picture).enhance(SATURATE)


def brighten(picture: Image.Image) -> Image.Image:
    """Return a brighter picture.

    Example:
        >>> brighten(Image.new("L", (1, 1), 100)).getpixel((0, 0))
        120
    """
    return ImageEnhance.Brightness(picture).enhance(BRIGHTEN)


def jpeg(picture: Image.Image) -> Image.Image:
    """Return what is left of a picture in a JPEG file."""
    file = io.BytesIO()
    picture.save(file, "JPEG", quality=JPEG_QUALITY)
    with Image.open(file) as image:
        return image.convert(picture.mode)


def text_overlay(picture: Image.Image) -> Image.Image:
    """Return a picture with words of praise on its lower edge; small ones stay as they are."""
    if min(picture.size) < SMALLEST_WITH_TEXT:
        return picture
    edited = picture.copy()
    draw = ImageDraw.Draw(edited)
    height = picture.height * TEXT_HEIGHT
    font = ImageFont.load_default(height)
    width = draw.textlength(TEXT, font)
    if width > picture.width:
        font = ImageFont.load_default(height * picture.width / width)
    place = (picture.width / 2, picture.height - height / 4)
    white = 255 if picture.mode == "L" else "white"
    black = 0 if picture.mode == "L" else "black"
    draw.text(place, TEXT, white, font, anchor="md", stroke_width=1, stroke_fill=black)
    return edited


def blur(picture: Image.Image) -> Image.Image:
    """Return a picture out of focus."""
    return picture.filter(ImageFilter.GaussianBlur(max(0.5, BLUR * min(picture.size))))


PICTURE_EDITS = (
    PictureEdit("crop", f"the middle {100 * CROP:g} % of each side", crop, "none"),
    PictureEdit("sharpen", f"factor {SHARPEN:g}", sharpen, "none"),
    PictureEdit("saturate", f"factor {SATURATE:g}", saturate, "none"),
    PictureEdit("brighten", f"factor {BRIGHTEN:g}", brighten, "none"),
    PictureEdit("JPEG", f"quality {JPEG_QUALITY}", jpeg, "none"),
    PictureEdit("text overlay", f"“{TEXT}”, 1/12 of the height", text_overlay, "none"),
    PictureEdit("blur", f"radius {100 * BLUR:g} % of the shorter side", blur, "lower"),
)
