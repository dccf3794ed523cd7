"""TEI: POST /predict {"inputs", "raw_scores", "truncate"} -> [{"score", "label"}], or a list.

Two strings are a pair: a prompt and its response. A batch is a list of lists of one or two strings.
The form has no word for a row that is not scored, so that is an error of 424.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import nn

from rewardlab.serving.dialects.base import Body, Dialect, sigmoid, values_of
from rewardlab.serving.fields import flag_of, list_of, text_of
from rewardlab.serving.limits import Limits, RefusalError
from rewardlab.serving.rows import Row, Score, whole_row

TYPES = {413: "validation", 422: "validation", 424: "backend", 429: "overloaded"}


def _read(body: Body, reward: nn.Module, limits: Limits) -> list[Row]:
    truncates = flag_of(body, "truncate", False)
    flag_of(body, "raw_scores", False)
    if truncates and body.get("truncation_direction") not in (None, "Left", "left"):
        raise RefusalError(
            422, "truncation_direction is Left here: a response keeps its end, which is scored."
        )
    inputs = body.get("inputs")
    if _is_single(inputs):
        sequence = [inputs] if isinstance(inputs, str) else inputs
        return [_row(sequence, "inputs", truncates)]
    rows = []
    for place, sequence in enumerate(list_of(inputs, "inputs", limits)):
        rows.append(_row(sequence, f"inputs[{place}]", truncates))
    return rows


def _is_single(inputs: Any) -> bool:
    """Tell whether the inputs are one text or one pair, by TEI's rule: by the first item."""
    return isinstance(inputs, str) or (
        isinstance(inputs, list) and bool(inputs) and isinstance(inputs[0], str)
    )


def _row(sequence: Any, where: str, truncates: bool) -> Row:
    if not isinstance(sequence, list) or len(sequence) not in (1, 2):
        raise RefusalError(
            422,
            f"{where} should be a text, a pair [prompt, response], or a batch "
            "[[text], [prompt, response], …].",
        )
    texts = [text_of(text, where) for text in sequence]
    if len(texts) == 2:
        return Row(texts[0], texts[1])
    return whole_row(texts[0], truncates)


def _write(body: Body, scores: Sequence[Score], model: str) -> Any:
    values = values_of(scores, 424)
    if not flag_of(body, "raw_scores", False):
        values = [sigmoid(value) for value in values]
    batch = [[{"score": value, "label": "LABEL_0"}] for value in values]
    return batch[0] if _is_single(body["inputs"]) else batch


def _refuse(status: int, sentence: str) -> Any:
    return {"error": sentence, "error_type": TYPES.get(status, "backend")}


DIALECT = Dialect("tei", "/predict", _read, _write, _refuse)
