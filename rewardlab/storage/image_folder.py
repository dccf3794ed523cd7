"""A folder of images as a data set, with what its metadata says of each."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar, Literal

from torch import Tensor

from rewardlab.storage.images import image_files, read_image
from rewardlab.storage.media_folder import FoundFiles, MediaFolder


class ImageFolder(MediaFolder):
    """A folder of images as a data set of one-row Samples.

    An item is float32 [1, C, H, W] in [0, 1], with its prompt and row number. Every file is decoded
    once at the start, so that none fails in the middle of training. Prompts come from
    `metadata.jsonl`, `metadata.csv` or `metadata.parquet` in the folder or in one inside it (rows
    with "file_name" and "prompt", "text" or "caption"); their other numeric keys become facts. A
    picture without a prompt there has that of the text file of its name, a.txt or a.caption beside
    a.png. Else its prompt is empty. How many have none is logged, if others have one.

    Args:
        folder: path of the folder; images may lie at any depth.
        size: resize and crop to size × size pixels; see `read_image`. None needs files of one size.
        channels: 3 for RGB, 1 for grey.
        strict: refuse the first file that cannot be used, instead of skipping it with a warning.
        checked: decode every file at the start; without it, one that cannot be used is an error
            when it is read.

    Attributes:
        paths: the N files that are used, sorted.
        prompts: N prompts.
        skipped: the files that are not used, each with the reason.

    Raises:
        InputError: if nothing usable is there, or sizes differ and none was given.

    Example:
        >>> from PIL import Image
        >>> folder = getfixture("tmp_path")
        >>> Image.new("RGB", (12, 8), "white").save(folder / "a.png")
        >>> images = ImageFolder(folder, size=8)
        >>> len(images), images[0].outputs.shape, images[0].facts["row"]
        (1, torch.Size([1, 3, 8, 8]), tensor([0]))
    """

    noun: ClassVar[str] = "images"
    files: ClassVar[str] = "image files"
    mend: ClassVar[str] = "Give `size` (--size N of a command)."

    def _found(self) -> FoundFiles:
        files = image_files(self.folder)
        return FoundFiles(files.images, files.left_out)

    def _read(self, path: Path, size: int | None, channels: Literal[1, 3]) -> Tensor:
        return read_image(path, size, channels)

    def _described(self, shape: tuple[int, ...]) -> str:
        height, width = shape
        return f"{width}×{height}"
