"""A folder of pictures or videos as a data set: what both kinds share."""

from __future__ import annotations

import logging
from abc import abstractmethod
from pathlib import Path
from typing import Any, ClassVar, Literal, NamedTuple

import torch
from torch import Tensor
from torch.utils.data import Dataset

from rewardlab.conversations import Prompt
from rewardlab.errors import InputError
from rewardlab.storage.metadata import fact_columns, prompt_of
from rewardlab.storage.picture_files import SkippedImage
from rewardlab.storage.sidecars import picture_rows
from rewardlab.types import Samples

_log = logging.getLogger("rewardlab")


class FoundFiles(NamedTuple):
    """What lies in a folder, by its names.

    Attributes:
        paths: what is to be read.
        left_out: what is not read, each with the reason.
    """

    paths: list[Path]
    left_out: list[SkippedImage]


class MediaFolder(Dataset[Samples]):
    """A folder of files as a data set of one-row Samples; `ImageFolder` and `VideoFolder` are such.

    Attributes:
        noun, files, mend: for messages: what is read, and what it is read from.
        paths: the N files that are used, sorted.
        prompts: N prompts.
        skipped: the files that are not used, each with the reason.
    """

    noun: ClassVar[str]
    files: ClassVar[str]
    mend: ClassVar[str]

    def __init__(
        self,
        folder: str | Path,
        size: int | None = None,
        channels: Literal[1, 3] = 3,
        strict: bool = False,
        checked: bool = True,
    ) -> None:
        self.checked = checked
        self.folder = Path(folder)
        self.size = size
        self.channels = channels
        self.skipped: list[SkippedImage] = []
        found = self._found()
        self.paths = self._usable_paths(found.paths, strict)
        self._leave_out(found.left_out, strict)
        rows = self._metadata_rows(strict)
        self.prompts = self._read_prompts(rows)
        self._facts = {"row": torch.arange(len(rows)), **fact_columns(rows, self.folder)}
        self._report()

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> Samples:
        pixels = self._read(self.paths[index], self.size, self.channels)
        facts = {name: column[index].unsqueeze(0) for name, column in self._facts.items()}
        return Samples([self.prompts[index]], pixels[None].float() / 255, facts)

    @abstractmethod
    def _found(self) -> FoundFiles:
        """Return what lies in the folder.

        Raises:
            InputError: if there is nothing to be read.
        """

    @abstractmethod
    def _read(self, path: Path, size: int | None, channels: Literal[1, 3]) -> Tensor:
        """Return one file as uint8.

        Raises:
            InputError: if it cannot be used.
        """

    @abstractmethod
    def _described(self, shape: tuple[int, ...]) -> str:
        """Return a shape without its channels as messages name it."""

    def _usable_paths(self, paths: list[Path], strict: bool) -> list[Path]:
        """Decode every file once, and return those that can be used; note the others."""
        if not self.checked:
            return paths
        shapes: dict[Path, tuple[int, ...]] = {}
        for path in _progress(paths, self.noun):
            try:
                shapes[path] = _without_channels(self._read(path, None, 1))
            except InputError as error:
                if strict:
                    raise
                reason = str(error).removeprefix(f"{path} cannot be used: ")
                self.skipped.append(SkippedImage(path, reason))
        if not shapes:
            raise InputError(
                f"{self.folder} holds {len(paths)} {self.files} and none can be used; "
                f"the first: {self.skipped[0].reason}"
            )
        self._check_shapes(shapes)
        return list(shapes)

    def _check_shapes(self, shapes: dict[Path, tuple[int, ...]]) -> None:
        """Refuse files of several sizes, but for height and width where these are made equal."""
        compared = None if self.size is None else -2
        first = next(iter(shapes))
        for path, shape in shapes.items():
            if shape[:compared] != shapes[first][:compared]:
                raise InputError(
                    f"{self.folder} holds {self.noun} of several sizes "
                    f"({first.name} is {self._described(shapes[first])}, "
                    f"{path.name} {self._described(shape)}). {self.mend}"
                )

    def _leave_out(self, left_out: list[SkippedImage], strict: bool) -> None:
        """Note what lies in the folder and is not read by its name."""
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
                    "Remove the line, or copy the file again."
                )
            reason = f"it is listed in {name}, but is not there."
            self.skipped.append(SkippedImage(path, reason))
        if 0 < said.uncaptioned < len(self.paths):
            _log.warning(
                "%d of %d %s in %s have no prompt; theirs is the empty text",
                said.uncaptioned,
                len(self.paths),
                self.noun,
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
            "Skipped %d of %d %s in %s (%s)",
            count,
            len(self.paths) + count,
            self.noun,
            self.folder,
            "; ".join(examples),
        )


def _without_channels(pixels: Tensor) -> tuple[int, ...]:
    """Return the shape of an image [C, H, W] or a video [F, C, H, W] without C."""
    return (*pixels.shape[:-3], *pixels.shape[-2:])


def _progress(paths: list[Path], noun: str) -> Any:
    """Show a bar on the error stream while many files are checked."""
    if len(paths) <= 500:
        return paths
    from rich.console import Console
    from rich.progress import track

    return track(paths, description=f"Checking {noun}", console=Console(stderr=True))
