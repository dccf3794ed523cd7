"""Request and response forms of an OpenAI-style chat endpoint, as plain data. Who sends them is not
said here.
"""

from __future__ import annotations

import base64
import io
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from rewardlab.errors import InputError

Part = str | Tensor


def chat_request(
    model: str, messages: Sequence[Mapping[str, Any]], **options: Any
) -> dict[str, Any]:
    """Return the body of POST /chat/completions, at temperature 0 unless `options` say otherwise.

    Example:
        >>> chat_request("judge", [message("user", ["hello"])])
        {'model': 'judge', 'messages': [{'role': 'user', 'content': 'hello'}], 'temperature': 0}
    """
    return {
        "model": model,
        "messages": [dict(each) for each in messages],
        "temperature": 0,
        **options,
    }


def message(role: str, parts: Iterable[Part]) -> dict[str, Any]:
    """Return a message of texts and pictures: one string where all are texts, else a list of parts
    in their order.

    Pictures are [C, H, W] in [0, 1], videos [F, C, H, W], of which each frame is a picture.
    """
    joined: list[Part] = [""]
    for part in parts:
        last = joined[-1]
        if isinstance(part, str) and isinstance(last, str):
            joined[-1] = last + part
        else:
            joined += part if isinstance(part, Tensor) and part.dim() == 4 else [part]
    if len(joined) == 1:
        return {"role": role, "content": joined[0]}
    return {
        "role": role,
        "content": [_part(piece) for piece in joined if isinstance(piece, Tensor) or piece.strip()],
    }


def chat_reply(response: Any) -> str:
    """Return the text of the first choice of a /chat/completions response.

    Raises:
        InputError: if the response has another form, or the choice has no text.

    Example:
        >>> chat_reply({"choices": [{"message": {"role": "assistant", "content": "Score: 7"}}]})
        'Score: 7'
    """
    try:
        text = response["choices"][0]["message"]["content"]
    except (KeyError, IndexError, TypeError):
        text = None
    if isinstance(text, str):
        return text
    raise InputError(
        'A chat endpoint should answer {"choices": [{"message": {"content": "…"}}]} with text; '
        f"got {str(response)[:200]}. Does the URL end with /chat/completions, and does the server speak OpenAI's form?"
    )


def filled(template: str, **values: Any) -> list[Any]:
    """Return the template as parts, each {name} that is given replaced by its text or picture;
    other braces stay.

    What is put in is not read again, so a response that holds "{prompt}" stays as it is.

    Example:
        >>> filled("Rate {response} of {prompt}.", prompt="{response}", response="this")
        ['Rate ', 'this', ' of ', '{response}', '.']
    """
    names = "|".join(map(re.escape, values))
    pieces = re.split(rf"\{{({names})\}}", template)
    return [values[piece] if i % 2 else piece for i, piece in enumerate(pieces) if i % 2 or piece]


def picture_uri(output: Tensor) -> str:
    """Return an image [C, H, W] in [0, 1] as a PNG's data URI; a video [F, C, H, W] as an animated
    PNG's, 8 frames a second.

    Example:
        >>> picture_uri(torch.zeros(3, 2, 2)).startswith("data:image/png;base64,iVBOR")
        True
    """
    if output.shape[-3] not in (1, 3) or not output.isfinite().all():
        raise InputError(
            f"A picture is [C, H, W] of 1 or 3 channels, all finite; got {list(output.shape)}."
        )
    from PIL import Image

    frames = output if output.dim() == 4 else output[None]
    pixels = (frames.detach().float().clamp(0, 1) * 255).round().to(torch.uint8).cpu()
    first, *rest = [
        Image.fromarray((frame[0] if len(frame) == 1 else frame.permute(1, 2, 0)).numpy())
        for frame in pixels
    ]
    animation = (
        {"save_all": True, "append_images": rest, "duration": 125, "loop": 0} if rest else {}
    )
    file = io.BytesIO()
    first.save(file, format="PNG", **animation)
    return "data:image/png;base64," + base64.b64encode(file.getvalue()).decode("ascii")


def _part(piece: Part) -> dict[str, Any]:
    if isinstance(piece, str):
        return {"type": "text", "text": piece}
    return {"type": "image_url", "image_url": {"url": picture_uri(piece)}}
