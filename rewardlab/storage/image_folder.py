"""A folder of images as a data set, with what its metadata says of each."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any, Literal

import torch
from torch.utils.data import Dataset

from rewardlab.conversations import Prompt
from rewardlab.errors import InputError
from rewardlab.storage.images import find_images, read_image
from rewardlab.storage.metadata import fact_columns, prompt_of
from rewardlab.storage.picture_files import SkippedImage, picture_files
from rewardlab.storage.sidecars import picture_rows
from rewardlab.types import Samples

_log = logging.getLogger("rewardlab")


class ImageFolder(Dataset[Samples]):
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
        self.skipped: list[SkippedImage] = []
        self.paths = self._usable_paths(find_images(folder), strict)
        self._leave_out(strict)
        rows = self._metadata_rows(strict)
        self.prompts = self._read_prompts(rows)
        self._facts = {"row": torch.arange(len(rows)), **fact_columns(rows, self.folder)}
        self._report()

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> Samples:
        image = read_image(self.paths[index], self.size, self.channels)
        facts = {name: column[index].unsqueeze(0) for name, column in self._facts.items()}
        return Samples([self.prompts[index]], image[None].float() / 255, facts)

    def _usable_paths(self, paths: list[Path], strict: bool) -> list[Path]:
        """Decode every file once, and return those that can be used; note the others."""
        shapes: dict[Path, tuple[int, ...]] = {}
        for path in _progress(paths):
            try:
                shapes[path] = tuple(read_image(path, channels=1).shape[1:])
            except InputError as error:
                if strict:
                    raise
                reason = str(error).removeprefix(f"{path} cannot be used: ")
                self.skipped.append(SkippedImage(path, reason))
        if not shapes:
            raise InputError(
                f"{self.folder} holds {len(paths)} image files and none can be used; "
                f"the first: {self.skipped[0].reason}"
            )
        if self.size is None:
            self._check_shapes(shapes)
        return list(shapes)

    def _check_shapes(self, shapes: dict[Path, tuple[int, ...]]) -> None:
        first = next(iter(shapes))
        for path, shape in shapes.items():
            if shape != shapes[first]:
                raise InputError(
                    f"{self.folder} holds images of several sizes "
                    f"({first.name} is {_width_by_height(shapes[first])}, "
                    f"{path.name} {_width_by_height(shape)}). Give `size`."
                )

    def _leave_out(self, strict: bool) -> None:
        """Note the pictures of the folder that are not read by their names."""
        left_out = picture_files(self.folder).left_out
        if strict and left_out:
            path, reason = left_out[0]
            raise InputError(f"{path} cannot be used: {reason}.")
        self.skipped += left_out

    def _metadata_rows(self, strict: bool) -> list[dict[str, Any]]:
        """Return what files say of each path, an empty row where there is nothing."""
        said = picture_rows(self.folder, self.paths, [skipped.path for skipped in self.skipped])
        for path, name in said.absent.items():
            if strict:
                raise InputError(
                    f"{self.folder}: {name} lists {path.name}, which is not there. "
                    "Remove the line, or copy the image again."
                )
            reason = f"it is listed in {name}, but is not there."
            self.skipped.append(SkippedImage(path, reason))
        if 0 < said.uncaptioned < len(self.paths):
            _log.warning(
                "%d of %d images in %s have no prompt; theirs is the empty text",
                said.uncaptioned,
                len(self.paths),
                self.folder,
            )
        return said.rows

    def _read_prompts(self, rows: list[dict[str, Any]]) -> list[Prompt]:
        prompts = []
        for path, row in zip(self.paths, rows, strict=True):
            try:
                prompts.append(prompt_of(row))
            except InputError as error:
                raise InputError(f"{path} has no usable prompt. {error}") from None
        return prompts

    def _report(self) -> None:
        """Log how many files were skipped, and the reasons of the first three."""
        if not self.skipped:
            return
        count = len(self.skipped)
        examples = [f"{path.name}: {reason.rstrip('.')}" for path, reason in self.skipped[:3]]
        _log.warning(
            "Skipped %d of %d images in %s (%s)",
            count,
            len(self.paths) + count,
            self.folder,
            "; ".join(examples),
        )


def _width_by_height(shape: tuple[int, ...]) -> str:
    height, width = shape
    return f"{width}×{height}"


def _progress(paths: list[Path]) -> Any:
    """Show a bar on the error stream while many files are checked."""
    if len(paths) <= 500:
        return paths
    from rich.console import Console
    from rich.progress import track

    return track(paths, description="Checking images", console=Console(stderr=True))
