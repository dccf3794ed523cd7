"""Images from files: one path of reading, resizing and cropping for targets and generated samples
alike.
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from PIL import Image, ImageOps, UnidentifiedImageError
from torch import Tensor
from torch.utils.data import Dataset

from rewardlab.errors import InputError
from rewardlab.storage.metadata import fact_columns, read_metadata
from rewardlab.types import Samples

SUFFIXES = (".bmp", ".gif", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp")
_FORMATS = ("BMP", "GIF", "JPEG", "PNG", "TIFF", "WEBP")
_MODES = ("1", "L", "LA", "P", "PA", "RGB", "RGBA")
_MOST_SIDE = 20_000
_MOST_PIXELS = 178_000_000
_log = logging.getLogger("rewardlab")


def find_images(folder: str | Path) -> list[Path]:
    """Return the image files under `folder`, at any depth, sorted: .png, .jpg, .webp, .bmp, .tiff
    and .gif.

    Raises:
        InputError: if the folder is missing or holds none.
    """
    folder = Path(folder)
    if not folder.is_dir():
        state = "is a file" if folder.exists() else "does not exist"
        raise InputError(
            f"{folder} should be a folder of images, but it {state}. Is the path right?"
        )
    files = [path for path in folder.rglob("*") if path.is_file() and not path.name.startswith(".")]
    images = sorted(path for path in files if path.suffix.lower() in SUFFIXES)
    if not images:
        raise InputError(
            f"{folder} holds no images, only {len(files)} other files. Give a folder of PNG, JPEG or WebP files."
        )
    return images


def read_image(path: str | Path, size: int | None = None, channels: Literal[1, 3] = 3) -> Tensor:
    """Return one image as uint8 [C, H, W], turned upright as its EXIF data say, with transparency
    on white.

    Args:
        path: the file.
        size: H = W = size: the shorter side is resized to it (bicubic, antialiased), the longer one
            cropped about the centre. Left as it is if None.
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
    with _opened(Path(path)) as image:
        upright = ImageOps.exif_transpose(image)
        if "A" in upright.getbands() or "transparency" in upright.info:
            upright = upright.convert("RGBA")
            upright = Image.alpha_composite(Image.new("RGBA", upright.size, "white"), upright)
        pixels = upright.convert("RGB" if channels == 3 else "L")
        array = np.array(_resized(pixels, size) if size else pixels)
    return torch.from_numpy(array).reshape(*array.shape[:2], channels).permute(2, 0, 1).contiguous()


def _resized(image: Image.Image, size: int) -> Image.Image:
    scale = size / min(image.size)
    width, height = (max(size, round(side * scale)) for side in image.size)
    left = (width - size) // 2
    top = (height - size) // 2
    return image.resize((width, height), Image.Resampling.BICUBIC).crop(
        (left, top, left + size, top + size)
    )


@contextmanager
def _opened(path: Path) -> Iterator[Image.Image]:
    """Open and decode `path`; whatever is wrong with it becomes an InputError."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter(
                "ignore"
            )  # Pillow warns of odd EXIF data and of sizes that are judged below
            with Image.open(path, formats=_FORMATS) as image:
                reason = _unusable(image)
                if reason is None:
                    image.load()
                    yield image
                    return
    except InputError:
        raise
    except FileNotFoundError:
        reason = "it does not exist. Is the path right?"
    except Image.DecompressionBombError:
        reason = "it claims to hold more than 178 million pixels. Scale it down, or remove it if it is broken"
    except Exception as error:  # a broken file makes Pillow's decoders raise nearly anything
        reason = f"it is {_state(path, error)}. Copy it again or remove it"
    raise InputError(f"{path} cannot be used: {reason.rstrip('.')}.")


def _unusable(image: Image.Image) -> str | None:
    """Return why an opened, not yet decoded image cannot be used, and the mend; None if it can."""
    width, height = image.size
    if max(width, height) > _MOST_SIDE or width * height > _MOST_PIXELS:
        return f"it claims {width}×{height} pixels, the most is 20,000 a side. Scale it down, or remove it if it is broken"
    if (
        image.format != "MPO" and getattr(image, "n_frames", 1) > 1
    ):  # MPO: a photograph with a preview behind it
        return f"it is animated or has pages ({image.n_frames} frames). Extract the frame that is meant"
    sixteen = image.format in ("PNG", "TIFF") and ";16" in str(
        image.tile
    )  # Pillow calls 16-bit RGB "RGB" and drops bits
    if sixteen or image.mode.startswith(("I", "F")):
        return f"it has 16 or more bits a channel (mode {image.mode}). Convert it to 8 bits"
    if image.mode not in _MODES:
        return f"its colours are {image.mode}. Convert it to RGB"
    return None


def _state(path: Path, error: Exception) -> str:
    if path.is_file() and path.stat().st_size == 0:
        return "empty"
    if isinstance(error, UnidentifiedImageError):
        return "no image of a known kind"
    return f"corrupt or truncated ({(str(error).splitlines() or [type(error).__name__])[0][:80]})"


class ImageFolder(Dataset[Samples]):
    """A folder of images, each item one row of Samples: float32 [1, C, H, W] in [0, 1], with its
    prompt and row number.

    Every file is decoded once at the start, so that none fails in the middle of training. Prompts
    come from `metadata.jsonl` in the folder, if there is one (lines with "file_name" and "prompt"
    or "text"); its other numeric keys become facts. Without it prompts are empty.

    Args:
        folder: where the images lie, at any depth.
        size: resize and crop to size × size pixels; see `read_image`. None needs files of one size.
        channels: 3 for RGB, 1 for grey.
        strict: refuse the first file that cannot be used, instead of skipping it with a warning.

    Attributes:
        paths: the N files that are used, sorted.
        prompts: N strings.
        skipped: the files that are not used, each with the reason.

    Raises:
        InputError: if nothing usable is there, or sizes differ and none was given.

    Example:
        >>> folder = getfixture("tmp_path")
        >>> Image.new("RGB", (12, 8), "white").save(folder / "a.png")
        >>> images = ImageFolder(folder, size=8)
        >>> len(images), images[0].outputs.shape, images[0].facts["row"]
        (1, torch.Size([1, 3, 8, 8]), tensor([0]))
    """

    def __init__(
        self,
        folder: str | Path,
        size: int | None = None,
        channels: Literal[1, 3] = 3,
        strict: bool = False,
    ) -> None:
        self.folder = Path(folder)
        self.size = size
        self.channels = channels
        self.skipped: list[tuple[Path, str]] = []
        self.paths = self._usable(find_images(folder), strict)
        self.prompts, self._facts = self._describe(strict)
        self._report()

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> Samples:
        image = read_image(self.paths[index], self.size, self.channels)
        facts = {name: column[index].unsqueeze(0) for name, column in self._facts.items()}
        return Samples([self.prompts[index]], image[None].float() / 255, facts)

    def _usable(self, paths: list[Path], strict: bool) -> list[Path]:
        shapes: dict[Path, tuple[int, int]] = {}
        for path in _progress(paths):
            try:
                shapes[path] = tuple(read_image(path, channels=1).shape[1:])
            except InputError as error:
                if strict:
                    raise
                self.skipped.append((path, str(error).removeprefix(f"{path} cannot be used: ")))
        if not shapes:
            raise InputError(
                f"{self.folder} holds {len(paths)} image files and none can be used; the first: {self.skipped[0][1]}"
            )
        first = paths[[path in shapes for path in paths].index(True)]
        other = next((path for path in shapes if shapes[path] != shapes[first]), None)
        if other and self.size is None:
            (h, w), (h2, w2) = shapes[first], shapes[other]
            raise InputError(
                f"{self.folder} holds images of several sizes ({first.name} is {w}×{h}, {other.name} {w2}×{h2}). Give `size`."
            )
        return list(shapes)

    def _describe(self, strict: bool) -> tuple[list[str], dict[str, Tensor]]:
        file = self.folder / "metadata.jsonl"
        lines = read_metadata(file) if file.is_file() else {}
        broken = {path for path, _ in self.skipped}
        for name in lines:
            if (self.folder / name) not in broken and not (self.folder / name).is_file():
                if strict:
                    raise InputError(
                        f"{file} lists {name}, which is not there. Remove the line, or copy the image again."
                    )
                self.skipped.append(
                    (self.folder / name, "it is listed in metadata.jsonl, but is not there.")
                )
        rows = [lines.get(path.relative_to(self.folder).as_posix(), {}) for path in self.paths]
        facts = {"row": torch.arange(len(rows)), **fact_columns(rows, self.folder)}
        return [str(row.get("prompt", row.get("text", ""))) for row in rows], facts

    def _report(self) -> None:
        if self.skipped:
            total = len(self.paths) + len(self.skipped)
            named = "; ".join(
                f"{path.name}: {reason.rstrip('.')}" for path, reason in self.skipped[:3]
            )
            _log.warning(
                "Skipped %d of %d images in %s (%s)", len(self.skipped), total, self.folder, named
            )


def _progress(paths: list[Path]) -> Any:
    """Show a bar on the error stream while many files are checked."""
    if len(paths) <= 500:
        return paths
    from rich.console import Console
    from rich.progress import track

    return track(paths, description="Checking images", console=Console(stderr=True))
