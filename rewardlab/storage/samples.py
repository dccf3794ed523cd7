"""Samples and pairs as folders.

Images are PNG files, videos are folders of PNG frames or files, text and facts are JSON lines.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor

from rewardlab.conversations import Prompt, to_json
from rewardlab.errors import InputError
from rewardlab.storage.atomic import atomic_folder
from rewardlab.storage.images import pil_image, read_image, to_uint8
from rewardlab.storage.metadata import fact_columns, prompt_of, read_kind, read_lines
from rewardlab.storage.video_files import is_video_name
from rewardlab.storage.videos import RATE, read_video, write_video
from rewardlab.types import PreferencePairs, Samples

VideoForm = Literal["frames", "mp4", "webm", "mkv", "gif"]

_HALVES = ("chosen", "rejected")


class _VideoForm(NamedTuple):
    """How videos are written.

    Attributes:
        kind: of file, or "frames".
        rate: frames a second.
    """

    kind: VideoForm
    rate: int

    @property
    def suffix(self) -> str:
        return "" if self.kind == "frames" else f".{self.kind}"


def save_samples(
    folder: str | Path, samples: Samples, video: VideoForm = "frames", rate: int = RATE
) -> None:
    """Write samples as a new folder, which appears whole or not at all.

    Images become `000000.png` and so on, videos a folder of frames a row, rounded to 8 bits.
    `metadata.jsonl` holds the prompts, facts and strings, in the form that Hugging Face's
    imagefolder reads; a conversation is its list of messages. `samples.json` holds the facts'
    dtypes, and the number of videos' frames.

    Args:
        folder: must not exist.
        samples: of any kind.
        video: what videos become: "frames", folders of pictures; or files: "mkv" keeps 8 bits,
            "mp4", "webm" and "gif" lose a little, so that other scores may come out. Files but GIFs
            need PyAV.
        rate: frames a second of video files.

    Raises:
        InputError: if the folder exists, or images are not finite or have other than 1 or 3
            channels.

    Example:
        >>> folder = getfixture("tmp_path") / "texts"
        >>> save_samples(folder, Samples(["hi"], ["hello"], {"seed": torch.tensor([7])}))
        >>> load_samples(folder)
        Samples(prompts=['hi'], outputs=['hello'], facts={'seed': tensor([7])})
    """
    form = _VideoForm(video, rate)
    with atomic_folder(folder) as partial:
        _write(partial, samples, form)


def load_samples(folder: str | Path) -> Samples:
    """Return the samples of a folder that `save_samples` wrote, or of one of the same form.

    Images and videos come as float32 in [0, 1].

    Raises:
        InputError: if the folder or a file of it is missing or broken; file and line are named.
    """
    folder = Path(folder)
    file = folder / "metadata.jsonl"
    if not file.is_file():
        raise InputError(
            f"{folder} is no folder of samples: it has no metadata.jsonl. Is the path right?"
        )
    rows = read_lines(file)
    kind = read_kind(folder)
    _check_rows(file, rows, kind)
    prompts = _prompts(file, rows)
    outputs = _read_outputs(folder, rows, kind)
    return Samples(prompts, outputs, fact_columns(rows, folder))


def _prompts(file: Path, rows: list[dict[str, Any]]) -> list[Prompt]:
    """Return the prompts of the lines; the line of one that cannot be used is named."""
    prompts = []
    for number, row in enumerate(rows, 1):
        try:
            prompts.append(prompt_of(row))
        except InputError as error:
            raise InputError(f"{file}, sample {number} has no usable prompt. {error}") from None
    return prompts


def save_pairs(folder: str | Path, pairs: PreferencePairs) -> None:
    """Write pairs as a new folder with the samples `chosen` and `rejected`, whole or not at all.

    Example:
        >>> pairs = PreferencePairs(Samples(["hi"], ["hello"]), Samples(["hi"], ["go away"]))
        >>> folder = getfixture("tmp_path") / "pairs"
        >>> save_pairs(folder, pairs)
        >>> load_pairs(folder).rejected.outputs
        ['go away']
    """
    with atomic_folder(folder) as partial:
        for name in _HALVES:
            (partial / name).mkdir()
            _write(partial / name, getattr(pairs, name), _VideoForm("frames", RATE))


def load_pairs(folder: str | Path) -> PreferencePairs:
    """Return the pairs of a folder that `save_pairs` wrote.

    Raises:
        InputError: if a half is missing or broken, or the halves differ in their prompts.
    """
    folder = Path(folder)
    _check_halves(folder)
    chosen = load_samples(folder / "chosen")
    rejected = load_samples(folder / "rejected")
    try:
        return PreferencePairs(chosen, rejected)
    except InputError as error:
        raise InputError(f"{folder}: {error}") from None


def _check_rows(file: Path, rows: list[dict[str, Any]], kind: dict[str, Any]) -> None:
    """Refuse lines that are fewer or more than were saved, or that name no output."""
    if kind.get("rows", len(rows)) != len(rows):
        raise InputError(
            f"{file} has {len(rows)} lines, but {str(kind['rows'])[:20]} samples were saved. "
            "Copy the folder again."
        )
    problem = None if rows else "it has no lines"
    for number, row in enumerate(rows, 1):
        if "output" not in row and not isinstance(row.get("file_name"), str):
            problem = f'sample {number} has neither "output" nor "file_name"'
            break
    if problem:
        raise InputError(f"{file} cannot be read: {problem}. Was it written by save_samples?")


def _check_halves(folder: Path) -> None:
    """Refuse a file, and a folder without the folders chosen and rejected."""
    absent = [name for name in _HALVES if not (folder / name).is_dir()]
    if absent and folder.is_file():
        raise InputError(
            f"{folder} is a file; a folder of pairs is read here. "
            "Preferences reads pairs from JSONL files."
        )
    if absent:
        raise InputError(
            f"{folder} should hold the folders chosen and rejected; "
            f"{' and '.join(absent)} is missing. Are these pairs? "
            "Preferences reads them from JSONL files."
        )


def _write(folder: Path, samples: Samples, form: _VideoForm) -> None:
    """Write the outputs, metadata.jsonl and samples.json into an empty folder."""
    dtypes = {name: str(column.dtype)[6:] for name, column in samples.facts.items()}
    kind: dict[str, Any] = {"rows": len(samples), "facts": dtypes}
    metadata = folder / "metadata.jsonl"
    if isinstance(samples.outputs, Tensor):
        kind["channels"] = samples.outputs.shape[-3]
        if samples.outputs.dim() == 5:
            kind["frames"] = samples.outputs.shape[1]
        names = _write_images(folder, samples.outputs, form)
        _write_metadata(metadata, samples, "file_name", names)
    else:
        _write_metadata(metadata, samples, "output", samples.outputs)
    (folder / "samples.json").write_text(json.dumps(kind, indent=1) + "\n")


def _write_metadata(path: Path, samples: Samples, key: str, outputs: Sequence[str]) -> None:
    """Write a line for each sample: its output under `key`, its prompt and its facts."""
    facts = {name: column.tolist() for name, column in samples.facts.items()}
    # JSON's escapes keep any string exact in ASCII.
    with path.open("w", encoding="ascii", newline="\n") as file:
        for i, output in enumerate(outputs):
            row = {key: output, "prompt": to_json(samples.prompts[i])}
            for name, values in facts.items():
                row[name] = values[i]
            file.write(json.dumps(row) + "\n")


def _write_images(folder: Path, outputs: Tensor, form: _VideoForm) -> list[str]:
    """Write images [B, C, H, W] or videos [B, F, C, H, W], and return their B names.

    The name is that of an image's file, or of a video's folder or file.
    """
    _check_pixels(outputs)
    names = []
    for i, pixels in enumerate(to_uint8(outputs)):
        if pixels.dim() == 3:
            name = f"{i:06}.png"
            pil_image(pixels).save(folder / name)
        else:
            name = f"{i:06}{form.suffix}"
            write_video(folder / name, pixels, form.rate)
        names.append(name)
    return names


def _check_pixels(outputs: Tensor) -> None:
    broken = (~outputs.isfinite()).flatten(1).any(1).nonzero().flatten().tolist()
    if broken:
        raise InputError(
            f"Sample {broken[0]} has pixels that are NaN or infinite, "
            f"and {len(broken)} samples in all. Did training diverge?"
        )
    if outputs.shape[-3] not in (1, 3):
        raise InputError(
            f"PNG files hold images of 1 or 3 channels; got outputs {list(outputs.shape)}."
        )


def _read_outputs(
    folder: Path, rows: list[dict[str, Any]], kind: dict[str, Any]
) -> Tensor | list[str]:
    """Return the texts of the lines, or the images or videos that they name, stacked."""
    if all("output" in row for row in rows):
        return [str(row["output"]) for row in rows]
    for number, row in enumerate(rows, 1):
        if "file_name" not in row:
            raise InputError(
                f"{folder}/metadata.jsonl mixes text and images: "
                f'sample {number} has no "file_name".'
            )
    names = [row["file_name"] for row in rows]
    _check_inside(folder, names)
    outputs = [read_output(folder / name, kind) for name in names]
    _check_shapes(folder, names, outputs)
    return torch.stack(outputs).float() / 255


def _check_inside(folder: Path, names: list[str]) -> None:
    """Refuse names that lead out of the folder, which would be read from elsewhere."""
    for name in names:
        if Path(name).is_absolute() or ".." in Path(name).parts or "\0" in name:
            raise InputError(
                f"{folder}/metadata.jsonl names {name[:100]!r}, which is not in that folder. "
                "Copy the file into it, and name it there."
            )


def _check_shapes(folder: Path, names: list[str], outputs: list[Tensor]) -> None:
    first = list(outputs[0].shape)
    for name, output in zip(names, outputs, strict=True):
        other = list(output.shape)
        if other != first:
            raise InputError(
                f"{folder} holds outputs of several shapes: {names[0]} {first}, {name} {other}. "
                "Read it as an ImageFolder with a `size` (--size N of a command), or as a "
                "VideoFolder with a `clip` too (--frames N)."
            )


def read_output(path: Path, kind: dict[str, Any]) -> Tensor:
    """Return an image [C, H, W], or a video's file or folder of frames [F, C, H, W], as uint8.

    Args:
        path: what a line of metadata.jsonl names.
        kind: of the folder's samples, from `read_kind`.
    """
    channels = kind.get("channels", 3)
    if is_saved_video(path, kind):
        return read_video(path, channels=channels)
    return read_image(path, channels=channels)


def is_saved_video(path: Path, kind: dict[str, Any]) -> bool:
    """Tell whether a sample is a video; the arguments are those of `read_output`."""
    return "frames" in kind or path.is_dir() or is_video_name(path)
