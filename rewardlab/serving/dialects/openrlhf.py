"""OpenRLHF: POST /get_reward {"query", "prompts"} -> {"rewards": […], "scores": […]}.

A row that is not scored is null. `labels` are not read.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import nn

from rewardlab.serving.dialects.base import Body, Dialect
from rewardlab.serving.fields import list_of, prompt_of, texts_of
from rewardlab.serving.limits import Limits, RefusalError
from rewardlab.serving.rows import Row, Score, glued_row


def _read(body: Body, reward: nn.Module, limits: Limits) -> list[Row]:
    queries = texts_of(body.get("query"), "query", limits)
    prompts: list[Any] = [None] * len(queries)
    if body.get("prompts") not in (None, "", []):
        given = body["prompts"]
        prompts = [given] if isinstance(given, str) else list_of(given, "prompts", limits)
    if len(prompts) != len(queries):
        raise RefusalError(
            422, f"prompts has {len(prompts)} items and query {len(queries)}; one each is wanted."
        )
    rows = []
    for place, (query, prompt) in enumerate(zip(queries, prompts, strict=True)):
        rows.append(glued_row(reward, query, prompt_of(prompt, f"prompts[{place}]")))
    return rows


def _write(body: Body, scores: Sequence[Score], model: str) -> Any:
    values = [score.value for score in scores]
    reasons = [score.reason for score in scores]
    answer: dict[str, Any] = {"rewards": values, "scores": values, "extra_logs": {}}
    return answer | ({"reasons": reasons} if any(reasons) else {})


def _refuse(status: int, sentence: str) -> Any:
    return {"error": sentence}


DIALECT = Dialect("openrlhf", "/get_reward", _read, _write, _refuse)
