"""Which files of a folder are pictures that can be read, and why others are left out."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from PIL import Image

from rewardlab.errors import InputError

SUFFIXES = {
    ".avif",
    ".bmp",
    ".gif",
    ".j2k",
    ".jfif",
    ".jp2",
    ".jpe",
    ".jpeg",
    ".jpg",
    ".pbm",
    ".pgm",
    ".png",
    ".pnm",
    ".ppm",
    ".qoi",
    ".tif",
    ".tiff",
    ".webp",
}
# Pictures that Pillow reads where another package has registered them, each with their format.
_PLUGIN_SUFFIXES = {".heic": "HEIF", ".heif": "HEIF", ".hif": "HEIF", ".jxl": "JXL"}
# Pictures that are not read here, so that they are counted instead of overlooked.
_OTHER_SUFFIXES = {
    ".3fr",
    ".arw",
    ".cr2",
    ".cr3",
    ".dds",
    ".dng",
    ".eps",
    ".exr",
    ".hdr",
    ".icns",
    ".ico",
    ".nef",
    ".orf",
    ".pcx",
    ".psd",
    ".raf",
    ".rw2",
    ".svg",
    ".tga",
    ".xcf",
}
_FORMATS = ("AVIF", "BMP", "GIF", "JPEG", "JPEG2000", "PNG", "PPM", "QOI", "TIFF", "WEBP")
_BEGINNINGS = (b"\x89PNG\r\n", b"\xff\xd8\xff", b"GIF8", b"II*\x00", b"MM\x00*")
_BRANDS = (b"ftypavif", b"ftypheic", b"ftypheix", b"ftypmif1")  # after the first four bytes


class SkippedImage(NamedTuple):
    """A file that is not used, and the reason."""

    path: Path
    reason: str


class PictureFiles(NamedTuple):
    """The pictures under a folder.

    Attributes:
        images: those that can be read by their names, sorted.
        left_out: pictures, and links to folders, that are not read.
        others: how many files are no pictures.
    """

    images: list[Path]
    left_out: list[SkippedImage]
    others: int


def formats() -> tuple[str, ...]:
    """Return the formats that are read and that Pillow knows here, by its names for them.

    Example:
        >>> "PNG" in formats()
        True
    """
    Image.init()
    names = (*_FORMATS, *dict.fromkeys(_PLUGIN_SUFFIXES.values()))
    return tuple(name for name in names if name in Image.OPEN)


def is_picture_name(path: str | Path) -> bool:
    """Tell whether a file's name ends as a picture's that can be read here.

    Example:
        >>> is_picture_name("a.JPG"), is_picture_name("a.txt")
        (True, False)
    """
    suffix = Path(path).suffix.lower()
    return suffix in SUFFIXES or _PLUGIN_SUFFIXES.get(suffix) in formats()


def picture_files(folder: str | Path) -> PictureFiles:
    """Return the pictures under a folder, at any depth; what is left out has a reason.

    Hidden files are no pictures.

    Raises:
        InputError: if the folder is missing.

    Example:
        >>> folder = getfixture("tmp_path")
        >>> for name in ("b.png", "a.jfif", "c.psd", "notes.txt"):
        ...     _ = (folder / name).write_text("")
        >>> files = picture_files(folder)
        >>> [path.name for path in files.images], [path.name for path, _ in files.left_out]
        (['a.jfif', 'b.png'], ['c.psd'])
    """
    folder = Path(folder)
    check_folder(folder, "images")
    images = []
    left_out = []
    others = 0
    for path in _visible(folder):
        reason = _reason(path, folder)
        if reason is not None:
            left_out.append(SkippedImage(path, reason))
        elif path.is_file() and is_picture_name(path):
            images.append(path)
        else:
            others += path.is_file()
    return PictureFiles(images, left_out, others)


def check_folder(folder: Path, noun: str) -> None:
    """Refuse what is no folder.

    Args:
        folder: the path.
        noun: what it should hold, in the plural.

    Raises:
        InputError: if it is a file, or missing.
    """
    if not folder.is_dir():
        state = "is a file" if folder.exists() else "does not exist"
        raise InputError(
            f"{folder} should be a folder of {noun}, but it {state}. Is the path right?"
        )


def _visible(folder: Path) -> Iterator[Path]:
    """Give what is under a folder, sorted, without hidden files."""
    for path in sorted(folder.rglob("*")):
        if not path.name.startswith("."):
            yield path


def _reason(path: Path, folder: Path) -> str | None:
    """Return why a picture is left out; None if it is read, or is no picture."""
    if path.is_dir():
        linked = path.is_symlink()
        return "it is a link to a folder. Give that folder itself" if linked else None
    suffix = path.suffix.lower()
    is_image = is_picture_name(path)
    hidden = [part for part in path.relative_to(folder).parts[:-1] if part.startswith(".")]
    if hidden:
        return f"it lies in the hidden folder {hidden[0]}" if is_image else None
    if not is_image and (suffix in _PLUGIN_SUFFIXES or suffix in _OTHER_SUFFIXES):
        return f"{suffix} files are not read here. Convert it to PNG or JPEG"
    if not is_image and _begins_as_picture(path):
        return "it holds a picture, but its name does not say so. Rename it, as to .png or .jpg"
    return None


def _begins_as_picture(path: Path) -> bool:
    """Tell whether a file's first bytes are those of a picture."""
    try:
        with path.open("rb") as file:
            first = file.read(16)
    except OSError:
        return False
    is_webp = first[:4] == b"RIFF" and first[8:12] == b"WEBP"
    return is_webp or first.startswith(_BEGINNINGS) or first[4:12] in _BRANDS
