"""A folder of videos as a data set, with what its metadata says of each."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar, Literal

from torch import Tensor

from rewardlab.errors import InputError
from rewardlab.storage.media_folder import FoundFiles, MediaFolder
from rewardlab.storage.video_files import video_files
from rewardlab.storage.videos import Clip, read_video


class VideoFolder(MediaFolder):
    """A folder of videos as a data set of one-row Samples, read when they are asked for.

    An item is float32 [1, F, C, H, W] in [0, 1], with its prompt and row number. Videos are files
    (see `read_video`), and folders of frames that lie below `folder`. Every one is decoded once at
    the start, so that none fails in the middle of training. Prompts and facts come from the files
    that `ImageFolder` reads, with "file_name" of a video, or of a folder of frames.

    Args:
        folder: path of the folder; videos may lie at any depth.
        clip: which frames are taken of each; all by default, which needs equal numbers.
        size: resize and crop frames to size × size pixels; None needs files of one size.
        channels: 3 for RGB, 1 for grey.
        strict: refuse the first video that cannot be used, instead of skipping it with a warning.
        checked: decode every video at the start; without it, one that cannot be used is an error
            when it is read.

    Raises:
        InputError: if nothing usable is there, or sizes or numbers of frames differ.

    Example:
        >>> import torch
        >>> from rewardlab.storage.videos import write_video
        >>> folder = getfixture("tmp_path")
        >>> write_video(folder / "walk", torch.rand(6, 3, 8, 12))
        >>> videos = VideoFolder(folder, Clip(frames=3, stride=2), size=8)
        >>> len(videos), videos[0].outputs.shape
        (1, torch.Size([1, 3, 3, 8, 8]))
    """

    noun: ClassVar[str] = "videos"
    files: ClassVar[str] = "videos"
    mend: ClassVar[str] = (
        "Give `size`, and a `clip` with a number of frames (--size N --frames N of a command)."
    )

    def __init__(
        self,
        folder: str | Path,
        clip: Clip | None = None,
        size: int | None = None,
        channels: Literal[1, 3] = 3,
        strict: bool = False,
        checked: bool = True,
    ) -> None:
        self.clip = clip or Clip()
        super().__init__(folder, size, channels, strict, checked)

    def _found(self) -> FoundFiles:
        files = video_files(self.folder)
        if not files.videos:
            what = f"only {files.others} other files"
            if files.left_out:
                what = f"only {len(files.left_out)} pictures"
            raise InputError(
                f"{self.folder} holds no videos, {what}. Give a folder of files such as mp4, or of "
                "folders that hold one video's frames each."
            )
        return FoundFiles(files.videos, files.left_out)

    def _read(self, path: Path, size: int | None, channels: Literal[1, 3]) -> Tensor:
        return read_video(path, self.clip, size, channels)

    def _described(self, shape: tuple[int, ...]) -> str:
        frames, height, width = shape
        return f"{frames} frames of {width}×{height}"
