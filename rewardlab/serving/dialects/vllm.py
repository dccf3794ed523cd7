"""vLLM: POST /classify {"input" | "messages", "use_activation"} -> {"data": [{"probs": […]}]}.

A reward has one class, whose activation is the sigmoid; without it the score itself comes. The form
has no word for a row that is not scored, so that is an error of 422.
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Sequence
from typing import Any

from torch import nn

from rewardlab.serving.dialects.base import Body, Dialect, openai_error, sigmoid, values_of
from rewardlab.serving.fields import flag_of, refuse_fields, row_of_messages, texts_of
from rewardlab.serving.limits import Limits, RefusalError
from rewardlab.serving.rows import Row, Score, whole_row

OWN_TEMPLATE = "the reward's own chat template formats messages."
OLD = "it is gone from vLLM, too. Send use_activation."


def _read(body: Body, reward: nn.Module, limits: Limits) -> list[Row]:
    flag_of(body, "use_activation", True)
    for name in ("softmax", "activation"):
        if name in body:
            raise RefusalError(422, f"{name} is not supported: {OLD}")
    may_be_cut = _truncates(body.get("truncate_prompt_tokens"))
    if body.get("messages") is not None:
        names = ("chat_template", "chat_template_kwargs", "add_generation_prompt")
        refuse_fields(body, (*names, "continue_final_message"), OWN_TEMPLATE)
        refuse_fields(body, ("input",), "messages are scored, and a request holds one of the two.")
        return [row_of_messages(body["messages"], "messages")]
    texts = texts_of(body.get("input"), "input", limits)
    return [whole_row(text, may_be_cut) for text in texts]


def _truncates(value: Any) -> bool:
    """Tell whether a text may be cut to the model's context: -1 says so."""
    if value not in (None, -1):
        raise RefusalError(
            422, "truncate_prompt_tokens is -1 here, the reward's own context, or left out."
        )
    return value is not None


def _write(body: Body, scores: Sequence[Score], model: str) -> Any:
    values = values_of(scores, 422)
    if flag_of(body, "use_activation", True):
        values = [sigmoid(value) for value in values]
    data = []
    for place, value in enumerate(values):
        data.append({"index": place, "label": "LABEL_0", "probs": [value], "num_classes": 1})
    return {
        "id": f"classify-{uuid.uuid4().hex}",
        "object": "list",
        "created": int(time.time()),
        "model": model,
        "data": data,
        "usage": None,
    }


DIALECT = Dialect("vllm", "/classify", _read, _write, openai_error)
