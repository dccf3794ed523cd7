"""Requests and answers of reward servers, as plain data: what a client sends and reads."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from operator import itemgetter
from typing import Any, Literal, NamedTuple

from torch import Tensor

from rewardlab.endpoints.wire import PNG, picture_uri

FormName = Literal["openrlhf", "vllm", "sglang", "tei", "flow-factory"]


class RewardForm(NamedTuple):
    """The form that a reward server speaks.

    Attributes:
        path: of its POST.
        body: gives the request, from the outputs (texts that hold their prompts, or pictures) and
            the prompts apart.
        scores: gives what an answer holds for each output: a number, or None where the server did
            not score it. It raises LookupError or TypeError for an answer of another form.
        answer: the form of the answer, for messages.
        pictures: whether the outputs are images and videos, not texts.
    """

    path: str
    body: Callable[[Sequence[Any], Sequence[Any]], dict[str, Any]]
    scores: Callable[[Any], list[Any]]
    answer: str
    pictures: bool = False


def _openrlhf_body(outputs: Sequence[Any], prompts: Sequence[Any]) -> dict[str, Any]:
    return {"query": list(outputs), "prompts": list(prompts)}


def _rewards(answer: Any) -> list[Any]:
    rewards = answer["rewards"]
    if not isinstance(rewards, list):
        raise TypeError("rewards is no list")
    return rewards


def _vllm_body(outputs: Sequence[Any], prompts: Sequence[Any]) -> dict[str, Any]:
    return {"input": list(outputs), "use_activation": False}


def _vllm_scores(answer: Any) -> list[Any]:
    return _data(answer, "probs")


def _sglang_body(outputs: Sequence[Any], prompts: Sequence[Any]) -> dict[str, Any]:
    return {"input": list(outputs)}


def _sglang_scores(answer: Any) -> list[Any]:
    return _data(answer, "embedding")


def _data(answer: Any, name: str) -> list[Any]:
    """Return the one number in each item of "data", in the order of their "index"."""
    items = sorted(answer["data"], key=itemgetter("index"))
    numbers = []
    for item in items:
        numbers.append(_only(item[name]))
    return numbers


def _tei_body(outputs: Sequence[Any], prompts: Sequence[Any]) -> dict[str, Any]:
    """Return a batch of single texts: two texts in one list would be a pair."""
    body: dict[str, Any] = {"raw_scores": True, "truncate": False}
    body["inputs"] = [[text] for text in outputs]
    return body


def _tei_scores(answer: Any) -> list[Any]:
    if not isinstance(answer, list):
        raise TypeError("the answer is no list")
    numbers = []
    for predictions in answer:
        prediction = _only(predictions)
        numbers.append(prediction["score"])
    return numbers


def _flow_factory_body(outputs: Sequence[Any], prompts: Sequence[Any]) -> dict[str, Any]:
    """Return images [C, H, W], or videos [F, C, H, W], as base64 of PNG files."""
    body: dict[str, Any] = {"prompt": list(prompts)}
    if outputs[0].dim() == 4:
        body["video"] = [_frames(video) for video in outputs]
    else:
        body["image"] = _frames(outputs)
    return body


def _frames(images: Iterable[Tensor]) -> list[str]:
    """Return images as base64 of PNG files."""
    files = []
    for image in images:
        uri = picture_uri(image)
        files.append(uri.removeprefix(PNG))
    return files


def _only(values: Any) -> Any:
    """Return the one item of a list; several are the classes of a classifier, or an embedding."""
    if not isinstance(values, list) or len(values) != 1:
        raise TypeError("there is not one number an output")
    return values[0]


REWARDS = '{"rewards": […]}'
PROBS = '{"data": [{"probs": [number]}]}'
EMBEDDING = '{"data": [{"embedding": [number]}]}'
PREDICTIONS = '[[{"score": number}]]'
FORMS: dict[str, RewardForm] = {
    "openrlhf": RewardForm("/get_reward", _openrlhf_body, _rewards, REWARDS),
    "vllm": RewardForm("/classify", _vllm_body, _vllm_scores, PROBS),
    "sglang": RewardForm("/v1/embeddings", _sglang_body, _sglang_scores, EMBEDDING),
    "tei": RewardForm("/predict", _tei_body, _tei_scores, PREDICTIONS),
    "flow-factory": RewardForm("/compute", _flow_factory_body, _rewards, REWARDS, pictures=True),
}
