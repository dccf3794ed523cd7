"""Samples and pairs as folders: images as PNG, videos as folders of PNG frames, text and facts as
JSON lines.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from rewardlab.errors import InputError
from rewardlab.storage.atomic import atomic_folder
from rewardlab.storage.images import find_images, read_image
from rewardlab.storage.metadata import fact_columns, read_kind, read_lines
from rewardlab.types import PreferencePairs, Samples


def save_samples(folder: str | Path, samples: Samples) -> None:
    """Write samples as a new folder, which appears whole or not at all.

    Images become `000000.png` and so on, videos a folder of frames a row, rounded to 8 bits.
    `metadata.jsonl` holds the prompts, facts and strings, in the form that Hugging Face's
    imagefolder reads; `samples.json` the facts' dtypes.

    Raises:
        InputError: if the folder exists, or images are not finite or have other than 1 or 3
            channels.

    Example:
        >>> folder = getfixture("tmp_path") / "texts"
        >>> save_samples(folder, Samples(["hi"], ["hello"], {"seed": torch.tensor([7])}))
        >>> load_samples(folder)
        Samples(prompts=['hi'], outputs=['hello'], facts={'seed': tensor([7])})
    """
    with atomic_folder(folder) as partial:
        _write(partial, samples)


def load_samples(folder: str | Path) -> Samples:
    """Read a folder that `save_samples` wrote, or one of the same form. Images and videos come as
    float32 in [0, 1].

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
    if kind.get("rows", len(rows)) != len(rows):
        raise InputError(
            f"{file} has {len(rows)} lines, but {kind['rows']} samples were saved. Copy the folder again."
        )
    missing = [
        number
        for number, row in enumerate(rows, 1)
        if "output" not in row and not isinstance(row.get("file_name"), str)
    ]
    if missing or not rows:
        what = (
            f'sample {missing[0]} has neither "output" nor "file_name"'
            if missing
            else "it has no lines"
        )
        raise InputError(f"{file} cannot be read: {what}. Was it written by save_samples?")
    prompts = [str(row.get("prompt", row.get("text", ""))) for row in rows]
    return Samples(
        prompts, _read_outputs(folder, rows, kind.get("channels", 3)), fact_columns(rows, folder)
    )


def save_pairs(folder: str | Path, pairs: PreferencePairs) -> None:
    """Write pairs as a new folder with the samples `chosen` and `rejected` in it, whole or not at
    all.

    Example:
        >>> folder = getfixture("tmp_path") / "pairs"
        >>> save_pairs(folder, PreferencePairs(Samples(["hi"], ["hello"]), Samples(["hi"], ["go away"])))
        >>> load_pairs(folder).rejected.outputs
        ['go away']
    """
    with atomic_folder(folder) as partial:
        for name, half in (("chosen", pairs.chosen), ("rejected", pairs.rejected)):
            (partial / name).mkdir()
            _write(partial / name, half)


def load_pairs(folder: str | Path) -> PreferencePairs:
    """Read a folder of pairs.

    Raises:
        InputError: if a half is missing or broken, or the halves differ in their prompts.
    """
    absent = [name for name in ("chosen", "rejected") if not (Path(folder) / name).is_dir()]
    if absent:
        if Path(folder).is_file():
            raise InputError(
                f"{folder} is a file; a folder of pairs is read here. Preferences reads pairs from JSONL files."
            )
        raise InputError(
            f"{folder} should hold the folders chosen and rejected; {' and '.join(absent)} is missing. Are these pairs? "
            "Preferences reads them from JSONL files."
        )
    chosen, rejected = (load_samples(Path(folder) / name) for name in ("chosen", "rejected"))
    try:
        return PreferencePairs(chosen, rejected)
    except InputError as error:
        raise InputError(f"{folder}: {error}") from None


def _write(folder: Path, samples: Samples) -> None:
    facts = {name: column.tolist() for name, column in samples.facts.items()}
    kind = {
        "rows": len(samples),
        "facts": {name: str(column.dtype)[6:] for name, column in samples.facts.items()},
    }
    if isinstance(samples.outputs, Tensor):
        kind["channels"] = samples.outputs.shape[-3]
        names = _write_images(folder, samples.outputs)
        outputs = [{"file_name": name} for name in names]
    else:
        outputs = [{"output": text} for text in samples.outputs]
    with (folder / "metadata.jsonl").open(
        "w", encoding="ascii", newline="\n"
    ) as file:  # escapes keep any string exact
        for i, output in enumerate(outputs):
            row = (
                output
                | {"prompt": samples.prompts[i]}
                | {name: column[i] for name, column in facts.items()}
            )
            file.write(json.dumps(row) + "\n")
    (folder / "samples.json").write_text(json.dumps(kind, indent=1) + "\n")


def _write_images(folder: Path, outputs: Tensor) -> list[str]:
    """Write images [B, C, H, W] or videos [B, F, C, H, W] and return the B names of their files or
    folders.
    """
    broken = (~outputs.isfinite()).flatten(1).any(1).nonzero().flatten().tolist()
    if broken:
        raise InputError(
            f"Sample {broken[0]} has pixels that are NaN or infinite, and {len(broken)} samples in all. Did training diverge?"
        )
    if outputs.shape[-3] not in (1, 3):
        raise InputError(
            f"PNG files hold images of 1 or 3 channels; got outputs {list(outputs.shape)}."
        )
    pixels = (outputs.detach().float().clamp(0, 1) * 255).round().to(torch.uint8).cpu()
    names = []
    for i, output in enumerate(pixels):
        if output.dim() == 3:
            names.append(f"{i:06}.png")
            _write_png(folder / names[-1], output)
            continue
        names.append(f"{i:06}")
        (folder / names[-1]).mkdir()
        for number, frame in enumerate(output):
            _write_png(folder / names[-1] / f"{number:04}.png", frame)
    return names


def _write_png(path: Path, pixels: Tensor) -> None:
    array = pixels[0] if len(pixels) == 1 else pixels.permute(1, 2, 0)
    Image.fromarray(array.contiguous().numpy()).save(path)


def _read_outputs(folder: Path, rows: list[dict[str, Any]], channels: Any) -> Tensor | list[str]:
    if all("output" in row for row in rows):
        return [str(row["output"]) for row in rows]
    unnamed = next((number for number, row in enumerate(rows, 1) if "file_name" not in row), None)
    if unnamed:
        raise InputError(
            f'{folder}/metadata.jsonl mixes text and images: sample {unnamed} has no "file_name".'
        )
    outputs = [_read_output(folder / row["file_name"], channels) for row in rows]
    odd = next((i for i, output in enumerate(outputs) if output.shape != outputs[0].shape), None)
    if odd is not None:
        a, b = (list(outputs[i].shape) for i in (0, odd))
        first = rows[0]["file_name"]
        other = rows[odd]["file_name"]
        raise InputError(
            f"{folder} holds outputs of several shapes: {first} {a}, {other} {b}. Read it as an ImageFolder with a `size`."
        )
    return torch.stack(outputs).float() / 255


def _read_output(path: Path, channels: Any) -> Tensor:
    """Return an image [C, H, W], or a folder of frames [F, C, H, W], as uint8."""
    if not path.is_dir():
        return read_image(path, channels=channels)
    frames = [read_image(frame, channels=channels) for frame in find_images(path)]
    if len({frame.shape for frame in frames}) > 1:
        raise InputError(f"{path} holds frames of several sizes; a video's frames have one.")
    return torch.stack(frames)
