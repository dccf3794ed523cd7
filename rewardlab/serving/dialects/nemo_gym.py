"""NeMo Gym: POST /verify {"responses_create_params", "response"} -> the request with its reward.

A row that is not scored is masked: `mask_sample` is true, with `failure_kind` and `failure_reason`.
The form demands a number as `reward`, which is then 0 and, by its own word, no measurement.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import nn

from rewardlab.serving.dialects.base import Body, Dialect
from rewardlab.serving.fields import row_of_messages, text_of
from rewardlab.serving.limits import Limits, RefusalError
from rewardlab.serving.rows import Row, Score

FAILURE = "verifier_error"  # of NeMo Gym's own list
ROLES = {"developer": "system"}


def _read(body: Body, reward: nn.Module, limits: Limits) -> list[Row]:
    params = body.get("responses_create_params")
    response = body.get("response")
    if not isinstance(params, Mapping) or not isinstance(response, Mapping):
        raise RefusalError(
            422, "A request holds responses_create_params and response, two objects."
        )
    messages = []
    if params.get("instructions"):
        messages.append({"role": "system", "content": params["instructions"]})
    given = params.get("input")
    turns = [{"role": "user", "content": given}] if isinstance(given, str) else given
    if not isinstance(turns, list):
        raise RefusalError(
            422, "responses_create_params.input should be a text or a list of messages."
        )
    messages += [_message(turn) for turn in turns]
    messages.append({"role": "assistant", "content": _response_text(response)})
    return [row_of_messages(messages, "responses_create_params.input")]


def _message(turn: Any) -> dict[str, Any]:
    """Return an item of the input as a message."""
    if not isinstance(turn, Mapping) or "role" not in turn:
        raise RefusalError(
            422, "responses_create_params.input holds an item that is no message, such as a call."
        )
    role = turn["role"]
    name = ROLES.get(role, role) if isinstance(role, str) else role
    return {"role": name, "content": turn.get("content")}


def _response_text(response: Mapping[str, Any]) -> str:
    """Return the text of a response's messages; reasoning is left out.

    Raises:
        RefusalError: 422 if there is none, or the response calls tools, which no reward sees.
    """
    texts = []
    output = response.get("output")
    for item in output if isinstance(output, list) else []:
        kind = item.get("type", "message") if isinstance(item, Mapping) else None
        if kind not in ("message", "reasoning"):
            raise RefusalError(
                422, f"response.output holds {str(kind)[:40]!r}; texts are scored alone."
            )
        if kind == "message":
            parts = item.get("content")
            for part in parts if isinstance(parts, list) else [{"text": parts}]:
                texts.append(part.get("text") if isinstance(part, Mapping) else None)
    if not texts:
        raise RefusalError(422, "response.output should hold the assistant's message.")
    return "".join(text_of(text, "response.output") for text in texts)


def _write(body: Body, scores: Sequence[Score], model: str) -> Any:
    (score,) = scores
    is_masked = score.value is None
    return {
        **body,
        "reward": 0.0 if score.value is None else score.value,
        "mask_sample": is_masked,
        "failure_kind": FAILURE if is_masked else None,
        "failure_reason": score.reason or None,
    }


def _refuse(status: int, sentence: str) -> Any:
    return {"detail": sentence}


DIALECT = Dialect("nemo-gym", "/verify", _read, _write, _refuse)
