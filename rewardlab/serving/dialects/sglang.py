"""SGLang: POST /v1/embeddings {"input"} -> {"data": [{"embedding": [score]}]}, never activated.

The form has no word for a row that is not scored, so that is an error of 422.
"""

from __future__ import annotations

import base64
import struct
from collections.abc import Sequence
from typing import Any

from torch import nn

from rewardlab.serving.dialects.base import Body, Dialect, openai_error, values_of
from rewardlab.serving.fields import refuse_fields, texts_of
from rewardlab.serving.limits import Limits, RefusalError
from rewardlab.serving.rows import Row, Score, whole_row


def _read(body: Body, reward: nn.Module, limits: Limits) -> list[Row]:
    refuse_fields(body, ("dimensions",), "a reward gives one number.")
    if body.get("encoding_format") not in (None, "float", "base64"):
        raise RefusalError(422, "encoding_format is float or base64.")
    return [whole_row(text) for text in texts_of(body.get("input"), "input", limits)]


def _write(body: Body, scores: Sequence[Score], model: str) -> Any:
    data = []
    for place, value in enumerate(values_of(scores, 422)):
        embedding: Any = [value]
        if body.get("encoding_format") == "base64":  # as OpenAI's client asks: float32
            embedding = base64.b64encode(struct.pack("<f", value)).decode("ascii")
        data.append({"object": "embedding", "index": place, "embedding": embedding})
    return {"object": "list", "model": model, "data": data, "usage": None}


DIALECT = Dialect("sglang", "/v1/embeddings", _read, _write, openai_error)
