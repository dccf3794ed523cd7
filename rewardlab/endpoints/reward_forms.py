"""Requests and answers of reward servers, as plain data: what a client sends and reads."""

from __future__ import annotations

from collections.abc import Callable, Sequence
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
    return [_only(item["probs"]) for item in _in_order(answer["data"])]


def _sglang_body(outputs: Sequence[Any], prompts: Sequence[Any]) -> dict[str, Any]:
    return {"input": list(outputs)}


def _sglang_scores(answer: Any) -> list[Any]:
    return [_only(item["embedding"]) for item in _in_order(answer["data"])]


def _tei_body(outputs: Sequence[Any], prompts: Sequence[Any]) -> dict[str, Any]:
    """Return a batch of single texts: two texts in one list would be a pair."""
    return {"inputs": [[text] for text in outputs], "raw_scores": True, "truncate": False}


def _tei_scores(answer: Any) -> list[Any]:
    if not isinstance(answer, list):
        raise TypeError("the answer is no list")
    return [_only(predictions)["score"] for predictions in answer]


def _flow_factory_body(outputs: Sequence[Any], prompts: Sequence[Any]) -> dict[str, Any]:
    """Return images [C, H, W], or videos [F, C, H, W], as base64 of PNG files."""
    if outputs[0].dim() == 4:
        videos = [[_base64(frame) for frame in video] for video in outputs]
        return {"prompt": list(prompts), "video": videos}
    return {"prompt": list(prompts), "image": [_base64(image) for image in outputs]}


def _base64(image: Tensor) -> str:
    return picture_uri(image).removeprefix(PNG)


def _in_order(items: Any) -> list[Any]:
    """Return the items of an answer by their "index"."""
    return sorted(items, key=lambda item: item["index"])


def _only(values: Any) -> Any:
    """Return the one item of a list; several are the classes of a classifier, or an embedding."""
    if not isinstance(values, list) or len(values) != 1:
        raise TypeError("there is not one number an output")
    return values[0]


FORMS: dict[str, RewardForm] = {
    "openrlhf": RewardForm("/get_reward", _openrlhf_body, _rewards, '{"rewards": […]}'),
    "vllm": RewardForm("/classify", _vllm_body, _vllm_scores, '{"data": [{"probs": [number]}]}'),
    "sglang": RewardForm(
        "/v1/embeddings", _sglang_body, _sglang_scores, '{"data": [{"embedding": [number]}]}'
    ),
    "tei": RewardForm("/predict", _tei_body, _tei_scores, '[[{"score": number}]]'),
    "flow-factory": RewardForm(
        "/compute", _flow_factory_body, _rewards, '{"rewards": […]}', pictures=True
    ),
}
