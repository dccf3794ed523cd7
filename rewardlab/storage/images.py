"""Images from files, read, resized and cropped by one path for targets and generated samples."""

from __future__ import annotations

import io
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from PIL import Image, ImageOps, UnidentifiedImageError
from torch import Tensor

from rewardlab.errors import InputError
from rewardlab.storage.picture_files import PictureFiles, formats, picture_files
from rewardlab.storage.pillow_silence import PillowSilence

_MODES = ("1", "L", "LA", "P", "PA", "RGB", "RGBA")
_MOST_SIDE = 20_000
_MOST_PIXELS = 178_000_000
_SILENCE = PillowSilence()


def find_images(folder: str | Path) -> list[Path]:
    """Return the image files under `folder`, at any depth, sorted.

    They end as PNG, JPEG, WebP, AVIF, BMP, TIFF, GIF, JPEG 2000, PPM or QOI files do, or as HEIC
    and JPEG XL do where a package taught Pillow to read them. `image_files` also says what is left
    out.

    Raises:
        InputError: if the folder is missing or holds none.
    """
    return image_files(folder).images


def image_files(folder: str | Path) -> PictureFiles:
    """Return the image files under `folder` and what is left out, as `picture_files` does.

    Raises:
        InputError: if the folder is missing or holds no images.
    """
    files = picture_files(folder)
    if not files.images:
        count = files.others + len(files.left_out)
        example = ""
        if files.left_out:
            example = f" ({files.left_out[0].path.name}: {files.left_out[0].reason})"
        raise InputError(
            f"{folder} holds no images, only {count} other files{example}. "
            "Give a folder of PNG, JPEG or WebP files."
        )
    return files


def read_image(path: str | Path, size: int | None = None, channels: Literal[1, 3] = 3) -> Tensor:
    """Return one image as uint8 [C, H, W], upright by its EXIF data, with transparency on white.

    Args:
        path: the file.
        size: H = W = size: the shorter side is resized to it (bicubic, antialiased), the longer one
            cropped about the centre. None keeps the image's size.
        channels: 3 for RGB, 1 for grey.

    Raises:
        InputError: if the file is missing, no image, broken, CMYK, of 16 bits, animated, or larger
            than 20,000 pixels a side or 178 million in all. The header is checked before any pixel
            is decoded.

    Example:
        >>> path = getfixture("tmp_path") / "grey.png"
        >>> Image.new("L", (30, 20), 128).save(path)
        >>> read_image(path, size=8).shape, read_image(path, channels=1).shape
        (torch.Size([3, 8, 8]), torch.Size([1, 20, 30]))
    """
    with _opened(Path(path), str(path)) as image:
        return _pixels(image, size, channels)


def read_pil(image: Image.Image, size: int | None = None, channels: Literal[1, 3] = 3) -> Tensor:
    """Return an image of Pillow's as `read_image` returns one from a file.

    Raises:
        InputError: if it is CMYK, of 16 bits, animated, or too large.

    Example:
        >>> read_pil(Image.new("RGBA", (6, 4)))[:, 0, 0].tolist()
        [255, 255, 255]
    """
    reason = _unusable(image)
    if reason is not None:
        raise InputError(f"A picture cannot be used: {reason}.")
    return _pixels(image, size, channels)


def read_picture(
    content: bytes, name: str, size: int | None = None, channels: Literal[1, 3] = 3
) -> Tensor:
    """Return an image from the bytes of its file, as `read_image` returns one.

    Args:
        content: PNG, JPEG, WebP or another kind that `read_image` reads.
        name: of the picture, for messages.
        size: H = W = size; None keeps the image's size.
        channels: 3 for RGB, 1 for grey.

    Raises:
        InputError: as `read_image`.

    Example:
        >>> file = io.BytesIO()
        >>> Image.new("L", (6, 4), 128).save(file, "PNG")
        >>> read_picture(file.getvalue(), "grey").shape
        torch.Size([3, 4, 6])
    """
    with _opened(io.BytesIO(content), name) as image:
        return _pixels(image, size, channels)


def _pixels(image: Image.Image, size: int | None, channels: Literal[1, 3]) -> Tensor:
    """Return a usable image as uint8 [C, H, W]."""
    opaque = _on_white(ImageOps.exif_transpose(image))
    picture = opaque.convert("RGB" if channels == 3 else "L")
    if size:
        picture = _resized(picture, size)
    array = np.array(picture)
    height, width = array.shape[:2]
    pixels = torch.from_numpy(array).reshape(height, width, channels)
    return pixels.permute(2, 0, 1).contiguous()


def to_uint8(outputs: Tensor) -> Tensor:
    """Return images in [0, 1] as levels from 0 to 255, uint8 on the CPU; outliers are clamped.

    Example:
        >>> to_uint8(torch.tensor([0.0, 0.5, 2.0])).tolist()
        [0, 128, 255]
    """
    levels = outputs.detach().float().clamp(0, 1) * 255
    return levels.round().to(torch.uint8).cpu()


def pil_image(pixels: Tensor) -> Image.Image:
    """Return uint8 pixels [C, H, W] of 1 or 3 channels as Pillow's image.

    Example:
        >>> pil_image(torch.zeros(1, 4, 6, dtype=torch.uint8)).size
        (6, 4)
    """
    array = pixels[0] if len(pixels) == 1 else pixels.permute(1, 2, 0)
    return Image.fromarray(array.contiguous().numpy())


def _on_white(image: Image.Image) -> Image.Image:
    """Return the image, a transparent one laid over white."""
    if "A" not in image.getbands() and "transparency" not in image.info:
        return image
    transparent = image.convert("RGBA")
    white = Image.new("RGBA", transparent.size, "white")
    return Image.alpha_composite(white, transparent)


def _resized(image: Image.Image, size: int) -> Image.Image:
    """Return the image with its shorter side resized to `size`, and the middle of the longer."""
    scale = size / min(image.size)
    width = max(size, round(image.width * scale))
    height = max(size, round(image.height * scale))
    left = (width - size) // 2
    top = (height - size) // 2
    resized = image.resize((width, height), Image.Resampling.BICUBIC)
    return resized.crop((left, top, left + size, top + size))


@contextmanager
def _opened(file: Path | io.BytesIO, name: str) -> Iterator[Image.Image]:
    """Open and decode a file; whatever is wrong with it becomes an InputError."""
    try:
        # Pillow warns of odd EXIF data, and of sizes that `_unusable` judges.
        with _SILENCE, Image.open(file, formats=formats()) as image:
            reason = _unusable(image)
            if reason is None:
                image.load()
                yield image
                return
    except InputError:
        raise
    except Exception as error:  # a broken file makes Pillow's decoders raise nearly anything
        reason = _failure(file, error)
    raise InputError(f"{name} cannot be used: {reason.rstrip('.')}.")


def _unusable(image: Image.Image) -> str | None:
    """Return why an opened, not yet decoded image cannot be used, and the mend; None if it can."""
    width, height = image.size
    if max(width, height) > _MOST_SIDE or width * height > _MOST_PIXELS:
        return (
            f"it claims {width}×{height} pixels, the most is 20,000 a side. "
            "Scale it down, or remove it if it is broken"
        )
    frames = getattr(image, "n_frames", 1)
    if frames > 1 and image.format != "MPO":  # MPO: a photograph with a preview behind it
        return f"it is animated or has pages ({frames} frames). Extract the frame that is meant"
    if _is_deep(image):
        return f"it has 16 or more bits a channel (mode {image.mode}). Convert it to 8 bits"
    if image.mode not in _MODES:
        return f"its colours are {image.mode}. Convert it to RGB"
    return None


def _is_deep(image: Image.Image) -> bool:
    """Tell whether an image has more than 8 bits a channel."""
    # Pillow calls 16-bit RGB "RGB" and drops bits; only the name of the decoder tells.
    is_sixteen = image.format in ("PNG", "TIFF") and ";16" in str(getattr(image, "tile", ""))
    return is_sixteen or image.mode.startswith(("I", "F"))


def _failure(file: Path | io.BytesIO, error: Exception) -> str:
    """Return why opening or decoding failed, and the mend."""
    if isinstance(error, FileNotFoundError):
        return "it does not exist. Is the path right?"
    if isinstance(error, Image.DecompressionBombError):
        return (
            "it claims to hold more than 178 million pixels. "
            "Scale it down, or remove it if it is broken"
        )
    return f"it is {_damage(file, error)}. Copy it again or remove it"


def _damage(file: Path | io.BytesIO, error: Exception) -> str:
    if _is_empty(file):
        return "empty"
    if isinstance(error, UnidentifiedImageError):
        return "no image of a known kind"
    lines = str(error).splitlines() or [type(error).__name__]
    return f"corrupt or truncated ({lines[0][:80]})"


def _is_empty(file: Path | io.BytesIO) -> bool:
    if isinstance(file, io.BytesIO):
        return not file.getbuffer().nbytes
    return file.is_file() and file.stat().st_size == 0
