"""Samples from what people have: texts, Pillow's images, files, a folder, tensors."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from rewardlab.conversations import Conversation, Message, Prompt, from_json
from rewardlab.errors import InputError
from rewardlab.storage.images import image_files, read_image, read_pil
from rewardlab.storage.video_files import GIF, is_medium_name, is_video_name
from rewardlab.storage.video_folder import VideoFolder
from rewardlab.storage.videos import Clip, read_video
from rewardlab.types import Samples

_log = logging.getLogger("rewardlab")


def as_samples(
    prompts: Any, outputs: Any, size: int | None = None, clip: Clip | None = None
) -> Samples:
    """Return samples of prompts and outputs, whatever form the outputs have.

    Args:
        prompts: one a sample, or one for all; "" where there is no prompt. A prompt is a string, a
            `Conversation`, or a list of messages {"role", "content"}.
        outputs: texts; Pillow's images; files of pictures or of videos, by path; a folder of
            pictures, or of videos where `clip` is given, taken in the order of their names; or a
            tensor [B, C, H, W] or [B, F, C, H, W], or an array of numpy with the channels last,
            floats in [0, 1] or uint8.
        size: height and width of pictures and frames, which are resized and cropped; None keeps
            their size, which then must be one for all.
        clip: which frames are taken of videos; all by default. With it, GIFs and folders of frames
            are videos too.

    Raises:
        InputError: if a picture cannot be used, their sizes differ, or the numbers of prompts and
            outputs do.

    Example:
        >>> from PIL import Image
        >>> picture = Image.new("RGB", (8, 8), "white")
        >>> as_samples(["a cat"], [picture]).outputs.shape
        torch.Size([1, 3, 8, 8])
        >>> as_samples("2+2?", ["4", "5"])
        Samples(prompts=['2+2?', '2+2?'], outputs=['4', '5'], facts={})
    """
    columns = _outputs(outputs, size, clip)
    if _is_one(prompts):
        return Samples([_prompt(prompts)] * len(columns), columns)
    return Samples([_prompt(prompt) for prompt in prompts], columns)


def _is_one(prompts: Any) -> bool:
    """Tell whether a prompt is given for all, instead of one a sample."""
    if isinstance(prompts, str | Conversation):
        return True
    first = next(iter(prompts), None) if isinstance(prompts, Sequence) else None
    return isinstance(first, Mapping | Message)


def _prompt(prompt: Any) -> Prompt:
    """Return a prompt in any form as Samples hold it."""
    if isinstance(prompt, str | Conversation):
        return prompt
    if isinstance(prompt, Sequence):
        prompt = [vars(item) if isinstance(item, Message) else item for item in prompt]
    return from_json(prompt)


def _outputs(outputs: Any, size: int | None, clip: Clip | None) -> Tensor | list[str]:
    """Return outputs as Samples hold them."""
    if isinstance(outputs, np.ndarray) and outputs.dtype.kind not in "OUS":
        outputs = _of_array(outputs[None] if outputs.ndim == 3 else outputs)
    if isinstance(outputs, Tensor):
        return outputs / 255 if outputs.dtype == torch.uint8 else outputs
    if isinstance(outputs, str | Path):
        outputs = _found(Path(outputs), clip) if Path(outputs).is_dir() else [outputs]
    elif isinstance(outputs, Image.Image):
        outputs = [outputs]
    items = list(outputs)
    if not items:
        raise InputError("as_samples got no outputs. Is the list or the folder the one you mean?")
    if all(isinstance(item, str) and not _is_picture(item) for item in items):
        return items
    return _stacked([_pixels(item, size, clip) for item in items])


def _found(folder: Path, clip: Clip | None) -> list[Path]:
    """Return the pictures of a folder, or its videos, and log what is left out."""
    if clip is not None:
        return VideoFolder(folder, clip).paths
    files = image_files(folder)
    if files.left_out:
        path, reason = files.left_out[0]
        _log.warning(
            "Left out %d of %d images in %s (%s: %s)",
            len(files.left_out),
            len(files.left_out) + len(files.images),
            folder,
            path.name,
            reason,
        )
    return files.images


def _is_picture(text: str) -> bool:
    """Tell whether a text is the path of a picture or of a video that exists."""
    return len(text) < 4096 and is_medium_name(text) and Path(text).is_file()


def _pixels(item: Any, size: int | None, clip: Clip | None) -> Tensor:
    """Return one picture as float32 [C, H, W] in [0, 1], or one video [F, C, H, W]."""
    if isinstance(item, np.ndarray):
        item = _of_array(item)
    if isinstance(item, Tensor):
        return item / 255 if item.dtype == torch.uint8 else item.float()
    if isinstance(item, Image.Image):
        return read_pil(item, size).float() / 255
    if isinstance(item, Path) or (isinstance(item, str) and _is_picture(item)):
        if is_video_name(item) or (clip is not None and _may_be_video(Path(item))):
            return read_video(item, clip or Clip(), size).float() / 255
        return read_image(item, size).float() / 255
    raise InputError(
        f"An output is a {type(item).__name__} ({item!r:.60}) beside others of another kind. Give "
        "texts alone, or pictures alone: Pillow's images, paths of files, a folder, or tensors."
    )


def _of_array(array: np.ndarray) -> Tensor:
    """Return a picture, or a video or batch of them, with the channels before height and width.

    Pillow's and diffusers' arrays have them last.

    Raises:
        InputError: if the numbers or the shape are no picture's.
    """
    is_number = array.dtype == np.uint8 or np.issubdtype(array.dtype, np.floating)
    if not is_number or array.ndim < 3 or not {array.shape[-1], array.shape[-3]} & {1, 3}:
        raise InputError(
            f"An array of pictures is [height, width, channels], floats in [0, 1] or uint8, with "
            f"1 or 3 channels; got {array.dtype} {list(array.shape)}. Drop an alpha channel, or "
            "give Pillow's images."
        )
    pixels = torch.from_numpy(np.ascontiguousarray(array))
    if pixels.dtype != torch.uint8:
        pixels = pixels.float()
    return pixels.movedim(-1, -3) if array.shape[-1] in (1, 3) else pixels


def _may_be_video(path: Path) -> bool:
    """Tell whether a path is a video's where videos are asked for: a GIF, or a folder of frames."""
    return path.suffix.lower() == GIF or path.is_dir()


def _stacked(pictures: list[Tensor]) -> Tensor:
    shapes = {tuple(picture.shape) for picture in pictures}
    if len(shapes) > 1:
        named = ", ".join(str(list(shape)) for shape in sorted(shapes)[:4])
        raise InputError(
            f"The pictures have several shapes ({named}); one batch holds one. Give `size`, to "
            "which they are resized and cropped, and of videos `clip`, the number of frames (of a "
            "command: --size N, --frames N)."
        )
    return torch.stack(pictures)
