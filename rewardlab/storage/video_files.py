"""Which files and folders are videos that can be read, and why others are left out."""

from __future__ import annotations

import re
from pathlib import Path
from typing import NamedTuple

from rewardlab.storage.picture_files import SkippedImage, check_folder, is_picture_name

# Containers that PyAV reads; GIF is read by Pillow.
CONTAINERS = {
    ".avi",
    ".flv",
    ".m4v",
    ".mkv",
    ".mov",
    ".mp4",
    ".mpeg",
    ".mpg",
    ".ogv",
    ".webm",
    ".wmv",
}
GIF = ".gif"


class VideoFiles(NamedTuple):
    """The videos under a folder.

    Attributes:
        videos: files, and folders that hold a video's frames as pictures, sorted.
        left_out: pictures that are no frames, and links to folders.
        others: how many files are neither.
    """

    videos: list[Path]
    left_out: list[SkippedImage]
    others: int


def is_video_name(path: str | Path) -> bool:
    """Tell whether a file's name ends as a video's that can be read; a GIF may be a picture.

    Example:
        >>> is_video_name("a.MP4"), is_video_name("a.gif"), is_video_name("a.png")
        (True, False, False)
    """
    return Path(path).suffix.lower() in CONTAINERS


def is_medium_name(path: str | Path) -> bool:
    """Tell whether a file's name ends as a picture's or a video's that can be read.

    Example:
        >>> is_medium_name("a.mp4"), is_medium_name("a.gif"), is_medium_name("a.txt")
        (True, True, False)
    """
    return is_picture_name(path) or is_video_name(path)


def video_files(folder: str | Path) -> VideoFiles:
    """Return the videos under a folder, at any depth: files, and folders of frames.

    A folder of frames lies below `folder` and holds pictures and no videos. Hidden files and
    folders are passed over.

    Raises:
        InputError: if the folder is missing.

    Example:
        >>> folder = getfixture("tmp_path")
        >>> (folder / "walk").mkdir()
        >>> for name in ("b.mp4", "walk/1.png", "walk/2.png", "cover.png"):
        ...     _ = (folder / name).write_text("")
        >>> files = video_files(folder)
        >>> [path.name for path in files.videos], [path.name for path, _ in files.left_out]
        (['b.mp4', 'walk'], ['cover.png'])
    """
    folder = Path(folder)
    check_folder(folder, "videos")
    videos: list[Path] = []
    left_out: list[SkippedImage] = []
    others = 0
    for place in [folder, *_folders_in(folder)]:
        if place.is_symlink() and place != folder:
            left_out.append(SkippedImage(place, "it is a link to a folder. Give that itself"))
            continue
        content = _content(place)
        videos += content.videos
        others += content.others
        if content.pictures and not content.videos and place != folder:
            videos.append(place)
        else:
            reason = "it is a picture in a folder of videos. Frames lie in a folder a video"
            left_out += [SkippedImage(path, reason) for path in content.pictures]
    return VideoFiles(sorted(videos), left_out, others)


def frame_files(folder: str | Path) -> list[Path]:
    """Return the pictures in a folder of frames, frame 2 before frame 10.

    Example:
        >>> folder = getfixture("tmp_path")
        >>> for name in ("f10.png", "f2.png", "notes.txt"):
        ...     _ = (folder / name).write_text("")
        >>> [path.name for path in frame_files(folder)]
        ['f2.png', 'f10.png']
    """
    return sorted(_content(Path(folder)).pictures, key=_in_order_of_numbers)


class _Content(NamedTuple):
    """What lies directly in one folder."""

    videos: list[Path]
    pictures: list[Path]
    others: int


def _content(folder: Path) -> _Content:
    videos = []
    pictures = []
    others = 0
    for path in sorted(folder.iterdir()):
        if path.name.startswith(".") or not path.is_file():
            continue
        if is_video_name(path) or path.suffix.lower() == GIF:
            videos.append(path)
        elif is_picture_name(path):
            pictures.append(path)
        else:
            others += 1
    return _Content(videos, pictures, others)


def _folders_in(folder: Path) -> list[Path]:
    """Return the folders below a folder that are not hidden, nor inside of hidden ones."""
    folders = []
    for path in sorted(folder.rglob("*")):
        inside = path.relative_to(folder).parts
        if path.is_dir() and not any(part.startswith(".") for part in inside):
            folders.append(path)
    return folders


def _in_order_of_numbers(path: Path) -> list[tuple[int, str]]:
    """Return a key by which names are sorted with their numbers as numbers."""
    parts = re.split(r"(\d+)", path.name)
    return [(int(part), "") if part.isdecimal() else (-1, part) for part in parts]
