"""Pictures of a request: base64 of a file, decoded within bounds."""

from __future__ import annotations

import base64
import binascii
import io
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from rewardlab.errors import InputError
from rewardlab.serving.limits import Limits, RefusalError
from rewardlab.storage.images import read_pil
from rewardlab.storage.picture_files import formats

GREY = ("1", "L")  # modes of Pillow that become one channel


class PictureReader:
    """Reads the pictures of one request, and counts their pixels before any is decoded.

    Args:
        limits: of the server.

    Example:
        >>> from rewardlab.endpoints.wire import picture_uri
        >>> PictureReader(Limits()).image(picture_uri(torch.ones(1, 2, 3)), "image[0]").shape
        torch.Size([1, 2, 3])
    """

    def __init__(self, limits: Limits) -> None:
        self.most = limits.pixels
        self._pixels = 0

    def image(self, value: Any, where: str) -> Tensor:
        """Return a picture in base64, or its data URI, as float32 [C, H, W] in [0, 1].

        A grey picture has one channel, any other three.

        Raises:
            RefusalError: 422 if it is no picture, 413 if the request has too many pixels.
        """
        content = _decoded(value, where)
        try:
            with Image.open(io.BytesIO(content), formats=formats()) as image:
                self._count(image.width * image.height)
                levels = read_pil(image, channels=1 if image.mode in GREY else 3)
        except RefusalError:
            raise
        except InputError as error:
            raise RefusalError(422, f"{where}: {error}") from None
        except Exception:  # a broken file makes Pillow's decoders raise nearly anything
            raise RefusalError(
                422, f"{where} should be base64 of a PNG, JPEG or WebP file, and cannot be read."
            ) from None
        return levels.float() / 255

    def video(self, value: Any, where: str) -> Tensor:
        """Return a list of frames as float32 [F, C, H, W] in [0, 1].

        Raises:
            RefusalError: 422 if it is empty, or the frames differ in size; as `image`.
        """
        if not isinstance(value, list) or not value:
            raise RefusalError(
                422, f"{where} should be a list of frames, each base64 of a picture."
            )
        frames = []
        for number, frame in enumerate(value):
            frames.append(self.image(frame, f"{where}[{number}]"))
        if len({frame.shape for frame in frames}) > 1:
            raise RefusalError(422, f"{where} has frames of different sizes.")
        return torch.stack(frames)

    def _count(self, pixels: int) -> None:
        self._pixels += pixels
        if self._pixels > self.most:
            raise RefusalError(
                413,
                f"The pictures have more than {self.most} pixels in all; this server takes no "
                "more a request. Send fewer or smaller ones.",
            )


def _decoded(value: Any, where: str) -> bytes:
    """Return what base64 stands for, with or without the head of a data URI."""
    if not isinstance(value, str):
        raise RefusalError(
            422, f"{where} should be base64 of a picture; got {type(value).__name__}."
        )
    if value.startswith("data:"):
        value = value.partition(",")[2]
    try:
        return base64.b64decode(value, validate=True)
    except (binascii.Error, ValueError):
        raise RefusalError(422, f"{where} is not base64.") from None
