"""Request and response forms of an OpenAI-style chat endpoint, as plain data.

The HTTP client is in `endpoints/client.py`.
"""

from __future__ import annotations

import base64
import io
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from torch import Tensor

from rewardlab.errors import InputError

Part = str | Tensor
PNG = "data:image/png;base64,"  # what the data URI of a PNG begins with
FRAME_MILLISECONDS = 125  # of an animation's frame


def chat_request(
    model: str, messages: Sequence[Mapping[str, Any]], **options: Any
) -> dict[str, Any]:
    """Return the body of POST /chat/completions, at temperature 0 unless `options` say otherwise.

    Example:
        >>> chat_request("judge", [message("user", ["hello"])])
        {'model': 'judge', 'messages': [{'role': 'user', 'content': 'hello'}], 'temperature': 0}
    """
    content = [dict(message) for message in messages]
    return {"model": model, "messages": content, "temperature": 0, **options}


def message(role: str, parts: Iterable[Part]) -> dict[str, Any]:
    """Return a message of texts and pictures: one string if all are texts, else a list of parts.

    Args:
        role: "user", "system" or "assistant".
        parts: texts, pictures [C, H, W] in [0, 1], and videos [F, C, H, W], of which each frame is
            a picture; they keep their order.

    Example:
        >>> message("user", ["hello", " there"])
        {'role': 'user', 'content': 'hello there'}
    """
    joined = _join_texts(parts)
    if len(joined) == 1:
        return {"role": role, "content": joined[0]}
    content = []
    for part in joined:
        if isinstance(part, Tensor):
            content.append({"type": "image_url", "image_url": {"url": picture_uri(part)}})
        elif part.strip():
            content.append({"type": "text", "text": part})
    return {"role": role, "content": content}


def _join_texts(parts: Iterable[Part]) -> list[Part]:
    """Return the parts with neighbouring texts joined and videos as their frames; text is first."""
    joined: list[Part] = [""]
    for part in parts:
        last = joined[-1]
        if isinstance(part, str) and isinstance(last, str):
            joined[-1] = last + part
        elif isinstance(part, Tensor) and part.dim() == 4:
            joined.extend(part)
        else:
            joined.append(part)
    return joined


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
        f"got {str(response)[:200]}. "
        "Does the URL end with /chat/completions, and does the server speak OpenAI's form?"
    )


def filled(template: str, **values: Any) -> list[Any]:
    """Return the template as parts, with each {name} in `values` replaced by its text or picture.

    Other braces stay. What is put in is not read again, so a response that holds "{prompt}" stays
    as it is.

    Example:
        >>> filled("Rate {response} of {prompt}.", prompt="{response}", response="this")
        ['Rate ', 'this', ' of ', '{response}', '.']
    """
    names = "|".join(map(re.escape, values))
    pieces = re.split(rf"\{{({names})\}}", template)
    parts: list[Any] = []
    for i, piece in enumerate(pieces):
        if i % 2:  # the split puts the names at odd positions
            parts.append(values[piece])
        elif piece:
            parts.append(piece)
    return parts


def picture_uri(output: Tensor) -> str:
    """Return an image or a video in [0, 1] as the data URI of a PNG.

    Args:
        output: an image [C, H, W]; or a video [F, C, H, W], which becomes an animated PNG of 8
            frames a second.

    Raises:
        InputError: if it has other than 1 or 3 channels, or is not finite.

    Example:
        >>> from torch import zeros
        >>> picture_uri(zeros(3, 2, 2)).startswith("data:image/png;base64,iVBOR")
        True
    """
    from rewardlab.storage.images import pil_image, to_uint8

    if output.shape[-3] not in (1, 3) or not output.isfinite().all():
        raise InputError(
            f"A picture is [C, H, W] of 1 or 3 channels, all finite; got {list(output.shape)}."
        )
    frames = output if output.dim() == 4 else output[None]
    first, *rest = [pil_image(pixels) for pixels in to_uint8(frames)]
    animation: dict[str, Any] = {}
    if rest:
        animation["save_all"] = True
        animation["append_images"] = rest
        animation["duration"] = FRAME_MILLISECONDS
        animation["loop"] = 0
    file = io.BytesIO()
    first.save(file, format="PNG", **animation)
    return PNG + base64.b64encode(file.getvalue()).decode("ascii")
