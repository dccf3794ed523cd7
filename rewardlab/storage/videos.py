"""Videos from files and folders of frames, by the same path as pictures; and into files."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice, pairwise
from pathlib import Path
from typing import Any, Literal, NamedTuple

import torch
from PIL import Image, ImageSequence
from torch import Tensor

from rewardlab.errors import InputError
from rewardlab.storage.images import pil_image, read_image, read_pil, to_uint8
from rewardlab.storage.video_files import GIF, frame_files

MOST_FRAMES = 2000
RATE = 8  # frames a second of files that are written
SHORTEST = 0.75  # share of the file's duration, sound included, that its pictures have at least
MISSING = 0.01  # share of their own duration that may be missing, or half a frame


@dataclass(frozen=True)
class Clip:
    """Which frames of a video file are taken: the first, and every `stride`-th after it.

    Attributes:
        frames: how many; None takes all.
        stride: 1 takes each frame, 2 every other.

    Raises:
        InputError: if a number is below 1.
    """

    frames: int | None = None
    stride: int = 1

    def __post_init__(self) -> None:
        if (self.frames is not None and self.frames < 1) or self.stride < 1:
            raise InputError(
                "A clip has one frame at least and a stride of at least 1; got "
                f"frames={self.frames} and stride={self.stride}."
            )

    @property
    def last(self) -> int | None:
        """The number of frames of the file that are read; None for all."""
        return None if self.frames is None else (self.frames - 1) * self.stride + 1


class _Codec(NamedTuple):
    """How a kind of file is written.

    Attributes:
        name: of FFmpeg's encoder.
        pixels: the form of its pixels.
        options: of the encoder.
    """

    name: str
    pixels: str
    options: dict[str, str]


_CODECS = {
    ".mp4": _Codec("libx264", "yuv420p", {"crf": "12"}),
    ".webm": _Codec("libvpx-vp9", "yuv420p", {"crf": "12", "b": "0"}),
    ".mkv": _Codec("ffv1", "bgr0", {}),
}


def read_video(
    path: str | Path,
    clip: Clip = Clip(),
    size: int | None = None,
    channels: Literal[1, 3] = 3,
) -> Tensor:
    """Return one video as uint8 [F, C, H, W], upright as its file says.

    Args:
        path: a file (mp4, webm, mov, mkv, avi and others, by PyAV: `rewardlab[video]`), a GIF, or a
            folder of frames as pictures.
        clip: which frames are taken.
        size: H = W = size: each frame is resized and cropped as `read_image` does.
        channels: 3 for RGB, 1 for grey.

    Raises:
        InputError: if the file is missing, broken, cut off, without pictures or shorter than the
            clip; if it has more than 2,000 frames and the clip takes all; or PyAV is missing.

    Example:
        >>> path = getfixture("tmp_path") / "grey.gif"
        >>> write_video(path, torch.rand(5, 1, 12, 16))
        >>> read_video(path, Clip(frames=2, stride=3), size=8).shape
        torch.Size([2, 3, 8, 8])
    """
    path = Path(path)
    if path.is_dir():
        frames = _folder_frames(path, clip, size, channels)
    else:
        decoded = _gif_frames(path) if path.suffix.lower() == GIF else _decoded_frames(path)
        frames = []
        with _named(path):
            for image in islice(decoded, 0, clip.last, clip.stride):
                frames.append(read_pil(image, size, channels))
                _check_room(len(frames), clip)
    _check_frames(path, frames, clip)
    return torch.stack(frames)


def write_video(path: str | Path, video: Tensor, rate: int = RATE) -> None:
    """Write one video as the file that the name's ending says, or as a folder of PNG frames.

    .mp4 (H.264), .webm (VP9) and .gif lose a little; .mkv (FFV1) and frames lose nothing but what
    rounding to 8 bits does.

    Args:
        path: must not exist; a name without an ending is a folder.
        video: [F, C, H, W] of 1 or 3 channels, floats in [0, 1] or uint8.
        rate: frames a second.

    Raises:
        InputError: if the name ends otherwise, the tensor is of another form, or PyAV is missing.

    Example:
        >>> folder = getfixture("tmp_path") / "frames"
        >>> write_video(folder, torch.rand(2, 3, 8, 8))
        >>> sorted(path.name for path in folder.iterdir())
        ['0000.png', '0001.png']
    """
    path = Path(path)
    suffix = path.suffix.lower()
    if suffix not in ("", GIF, *_CODECS):
        raise InputError(
            "Videos are written as .mp4, .webm, .mkv or .gif, or as a folder of frames; "
            f"got {path}."
        )
    if video.dim() != 4 or video.shape[1] not in (1, 3) or len(video) == 0:
        raise InputError(
            f"A video is written from [F, C, H, W] of 1 or 3 channels; got {list(video.shape)}."
        )
    levels = video if video.dtype == torch.uint8 else to_uint8(video)
    images = [pil_image(frame) for frame in levels]
    if suffix == "":
        _write_frames(path, images)
    elif suffix == GIF:
        duration = round(1000 / rate)
        first = images[0].convert("RGB")
        rest = [image.convert("RGB") for image in images[1:]]
        first.save(path, save_all=True, append_images=rest, duration=duration, loop=0)
    else:
        _encode(path, images, _CODECS[suffix], rate)


def _write_frames(folder: Path, images: list[Image.Image]) -> None:
    folder.mkdir()
    for number, image in enumerate(images):
        image.save(folder / f"{number:04}.png")


def _encode(path: Path, images: list[Image.Image], codec: _Codec, rate: int) -> None:
    av = _library(path)
    width, height = images[0].size
    is_odd = width % 2 == 1 or height % 2 == 1
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec.name, rate=rate, options=codec.options)
        stream.width = width
        stream.height = height
        stream.pix_fmt = "yuv444p" if is_odd and codec.pixels == "yuv420p" else codec.pixels
        for image in images:
            frame = av.VideoFrame.from_image(image.convert("RGB"))
            container.mux(stream.encode(frame))
        container.mux(stream.encode())


def _library(path: Path) -> Any:
    """Return PyAV.

    Raises:
        InputError: if it is not installed.
    """
    try:
        import av
    except ImportError:
        raise InputError(
            f"{path} needs PyAV, which is not installed: pip install 'rewardlab[video]'. GIFs and "
            "folders of frames need nothing."
        ) from None
    return av


def _folder_frames(
    folder: Path, clip: Clip, size: int | None, channels: Literal[1, 3]
) -> list[Tensor]:
    """Return the clip's frames of a folder of pictures."""
    paths = frame_files(folder)[: clip.last : clip.stride]
    with _named(folder):
        _check_room(len(paths), clip)
    return [read_image(path, size, channels) for path in paths]


def _gif_frames(path: Path) -> Iterator[Image.Image]:
    """Yield the frames of a GIF."""
    if not path.is_file():
        raise InputError(f"{path} cannot be used: it does not exist. Is the path right?")
    with Image.open(path, formats=["GIF"]) as animation:
        for frame in ImageSequence.Iterator(animation):
            yield frame.convert("RGBA")


def _decoded_frames(path: Path) -> Iterator[Image.Image]:
    """Yield the frames of a file by PyAV, upright."""
    if not path.is_file():
        raise InputError(f"{path} cannot be used: it does not exist. Is the path right?")
    av = _library(path)
    times = [0.0]
    with av.open(str(path)) as container:
        if not container.streams.video:
            raise InputError(f"{path} cannot be used: it holds no pictures, only sound.")
        for frame in container.decode(video=0):
            times.append(float(frame.time or 0))
            if frame.is_corrupt:
                raise InputError(f"it is damaged at {times[-1]:.3g} seconds. Copy it again")
            image = frame.to_image()
            yield image.rotate(frame.rotation, expand=True) if frame.rotation else image
        stream = container.streams.video[0]
        stated = _stated_duration(stream)
        duration = stated or float(container.duration or 0) / av.time_base
        step = _longest_step(times, stream)
    end = times[-1] + step
    slack = max(step / 2, MISSING * duration) if stated else (1 - SHORTEST) * duration
    if end < duration - slack:
        raise InputError(
            f"{path} cannot be used: it is cut off, at {end:.3g} of {duration:.3g} seconds. "
            "Copy it again or remove it."
        )


def _stated_duration(stream: Any) -> float | None:
    """Return the seconds that a file's header gives its pictures; None if it says nothing.

    mp4 has a number; mkv and webm have a text, as in "00:01:30.500000000".
    """
    if stream.duration:
        return float(stream.duration * stream.time_base)
    text = str(stream.metadata.get("DURATION", ""))
    seconds = 0.0
    for number in text.split(":"):
        if not number.replace(".", "", 1).isdecimal():
            return None
        seconds = 60 * seconds + float(number)
    return seconds


def _longest_step(times: list[float], stream: Any) -> float:
    """Return how long the last frame may last: as long as the longest of them."""
    step = 1 / float(stream.guessed_rate) if stream.guessed_rate else 0.0
    for before, after in pairwise(times):
        step = max(step, after - before)
    return step


def _check_room(count: int, clip: Clip) -> None:
    """Refuse more frames than fit a sample, where all are wanted."""
    if clip.frames is None and count > MOST_FRAMES:
        raise InputError(
            f"it has more than {MOST_FRAMES} frames. Say how many are wanted, by the frames of clip"
        )


def _check_frames(path: Path, frames: list[Tensor], clip: Clip) -> None:
    """Refuse a video that is shorter than the clip, or whose frames differ in size."""
    if not frames or (clip.frames is not None and len(frames) < clip.frames):
        wanted = "one at least is" if clip.frames is None else f"{clip.frames} are"
        stride = f" at a stride of {clip.stride}" if clip.stride > 1 else ""
        raise InputError(
            f"{path} cannot be used: it has {len(frames)} frames{stride}, and {wanted} wanted. "
            "Ask for fewer frames or a smaller stride, or remove it."
        )
    if len({frame.shape for frame in frames}) > 1:
        raise InputError(
            f"{path} cannot be used: it holds frames of several sizes; a video's frames have one."
        )


@contextmanager
def _named(path: Path) -> Iterator[None]:
    """Turn what reading a file raises into one sentence that names it."""
    try:
        yield
        return
    except InputError as error:
        if str(error).startswith(str(path)):
            raise
        reason = str(error).rstrip(".")
    except Exception as error:  # FFmpeg's errors are of many kinds
        damage = f"no video, corrupt or truncated ({_first_line(error)})"
        if path.is_file() and path.stat().st_size == 0:
            damage = "empty"
        reason = f"it is {damage}. Copy it again or remove it"
    raise InputError(f"{path} cannot be used: {reason}.")


def _first_line(error: Exception) -> str:
    """Return what an error says, without the path that FFmpeg and Pillow add."""
    text = str(error).partition(" '")[0].removesuffix(":")
    lines = text.splitlines() or [type(error).__name__]
    return lines[0][:80]
