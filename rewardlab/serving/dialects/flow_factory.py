"""Flow-Factory: POST /compute {"prompt", "image" | "video"} -> {"rewards": […]}.

An image is base64 of a file, a video a list of those. A row that is not scored is null. The plural
names, which its example server reads, are taken too.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import nn

from rewardlab.serving.dialects.base import Body, Dialect
from rewardlab.serving.fields import list_of, prompt_of, refuse_fields
from rewardlab.serving.limits import Limits, RefusalError
from rewardlab.serving.pictures import PictureReader
from rewardlab.serving.rows import Row, Score

CONDITIONS = ("condition_images", "condition_videos")


def _read(body: Body, reward: nn.Module, limits: Limits) -> list[Row]:
    refuse_fields(body, CONDITIONS, "the reward sees prompts and outputs alone.")
    images = body.get("image") or body.get("images")
    videos = body.get("video") or body.get("videos")
    if bool(images) == bool(videos):
        raise RefusalError(422, "A request holds either image or video, a list with one a prompt.")
    name = "image" if images else "video"
    media = list_of(images or videos, name, limits, f"a list of {name}s, one a prompt")
    prompts = body.get("prompt", body.get("prompts"))
    if prompts is None:
        prompts = [None] * len(media)
    if not isinstance(prompts, list) or len(prompts) != len(media):
        raise RefusalError(422, f"prompt should be a list of {len(media)} texts, one an output.")
    reader = PictureReader(limits)
    rows = []
    for place, (prompt, medium) in enumerate(zip(prompts, media, strict=True)):
        if images:
            output = reader.image(medium, f"image[{place}]")
        else:
            output = reader.video(medium, f"video[{place}]")
        rows.append(Row(prompt_of(prompt, f"prompt[{place}]"), output))
    return rows


def _write(body: Body, scores: Sequence[Score], model: str) -> Any:
    reasons = [score.reason for score in scores]
    answer: dict[str, Any] = {"rewards": [score.value for score in scores]}
    return answer | ({"reasons": reasons} if any(reasons) else {})


def _refuse(status: int, sentence: str) -> Any:
    return {"error": sentence, "detail": sentence}


DIALECT = Dialect("flow-factory", "/compute", _read, _write, _refuse)
