"""Exports: a reward as a folder that other libraries load, with its model card."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Literal, NamedTuple

import torch

from rewardlab.exchange import flow_factory, openrlhf, verl
from rewardlab.exporting.card import Subject, model_card
from rewardlab.exporting.combination import Combination, combination_of
from rewardlab.exporting.comparison import Comparison
from rewardlab.exporting.evidence import Evidence
from rewardlab.exporting.graph_folder import write_image_graph, write_text_graph
from rewardlab.exporting.image_folder import write_images
from rewardlab.exporting.image_scorer import image_scorer
from rewardlab.exporting.onnx_graph import check_installed
from rewardlab.exporting.recipes import limit_of
from rewardlab.exporting.text_folder import text_form, write_text
from rewardlab.exporting.usage import (
    GRAPH_LIMITS,
    image_graph_usage,
    image_limits,
    image_usage,
    text_graph_usage,
    text_limits,
    text_usage,
)
from rewardlab.provenance import fingerprint
from rewardlab.rewards import Bottleneck, Reward, VisionReward
from rewardlab.storage.atomic import atomic_folder

Dtype = Literal["float32", "bfloat16", "float16"]
CARD = "README.md"
FUNCTION_FILE = "reward.py"
WRITERS = {
    "openrlhf": openrlhf.write_function,
    "verl": verl.write_function,
    "flow-factory": flow_factory.write_function,
}


class Origin(NamedTuple):
    """Where an exported reward comes from, for its card.

    Attributes:
        source: its folder, as it was named.
        command: words of the command that exports it; empty in a program.
        evidence: what is known of it.
    """

    source: str
    command: Sequence[str] = ()
    evidence: Evidence = Evidence()


class _Written(NamedTuple):
    """What a folder holds, for its card."""

    modality: str
    comparison: Comparison
    usage: str
    limits: list[str]


def export_transformers(
    reward: Reward, out: str | Path, origin: Origin, dtype: Dtype = "float32"
) -> Comparison:
    """Write a reward as a folder that transformers loads without rewardlab, whole or not at all.

    A reward of texts becomes an `AutoModelForSequenceClassification` with one label and its
    tokenizer. A reward of images becomes an `AutoModel` and an `AutoImageProcessor`, whose code
    stands in the folder. What was written is loaded and has to score as the reward does. Its
    README.md is the model card.

    Args:
        reward: a network, or a weighted sum of networks that is one; see `combination_of`.
        out: a new folder.
        origin: where the reward comes from.
        dtype: of the weights.

    Returns:
        How far the scores of what was written lie from the reward's.

    Raises:
        InputError: if `out` exists, no such form scores as the reward does, or what was written
            scores otherwise.
    """
    combination = _combination(reward)
    kind = getattr(torch, dtype)
    with atomic_folder(out) as folder:
        if _is_of_images(combination):
            written = _images(folder, combination, reward, kind)
        else:
            written = _texts(folder, combination, reward, kind)
        _write_card(folder, reward, "transformers", dtype, written, origin)
    return written.comparison


def export_onnx(reward: Reward, out: str | Path, origin: Origin) -> Comparison:
    """Write a reward's scorer as an ONNX graph in float32, whole or not at all.

    Batch and length may have any size. Beside `model.onnx` stand the tokenizer, or the image
    processor with its code, and a README.md, the model card.

    Args:
        reward: as of `export_transformers`.
        out: a new folder.
        origin: where the reward comes from.

    Returns:
        How far the scores that onnxruntime computes lie from the reward's.

    Raises:
        InputError: if ONNX is not installed, `out` exists, torch cannot express the network, or
            onnxruntime scores otherwise.
    """
    check_installed()
    combination = _combination(reward)
    with atomic_folder(out) as folder:
        if _is_of_images(combination):
            scorer = image_scorer(combination)
            comparison = write_image_graph(folder, scorer, reward)
            limits = image_limits("transformers", scorer.reader.resize)
            written = _Written("image", comparison, image_graph_usage(), limits)
        else:
            form = text_form(combination)
            comparison = write_text_graph(folder, form, reward)
            limits = text_limits(form.recipe.kind, 0.0, limit_of(form.scorer.reader))
            written = _Written("text", comparison, text_graph_usage(form.recipe.kind), limits)
        written = written._replace(limits=[*written.limits, *GRAPH_LIMITS])
        _write_card(folder, reward, "onnx", "float32", written, origin)
    return written.comparison


def export_function(
    reward_folder: str | Path, out: str | Path, trainer: str, trust: bool = False
) -> Path:
    """Write a trainer's reward function, a file that loads the reward by rewardlab.

    Args:
        reward_folder: of the reward.
        out: a new folder.
        trainer: "openrlhf", "verl" or "flow-factory".
        trust: as of `load_reward`; the file says so too.

    Returns:
        The path of the file.

    Raises:
        InputError: if `out` exists, or the trainer takes no such reward.
    """
    with atomic_folder(out) as folder:
        WRITERS[trainer](Path(reward_folder).absolute(), folder / FUNCTION_FILE, trust=trust)
    return Path(out) / FUNCTION_FILE


def _combination(reward: Reward) -> Combination:
    """Return what a reward is made of, in eval mode on the CPU."""
    return combination_of(reward.cpu().eval())


def _is_of_images(combination: Combination) -> bool:
    first = combination.terms[0].reward
    inner = first.reward if isinstance(first, Bottleneck) else first
    return isinstance(inner, VisionReward)


def _texts(folder: Path, combination: Combination, reward: Reward, dtype: torch.dtype) -> _Written:
    text = write_text(folder, text_form(combination), reward, dtype)
    usage = text_usage(text.kind, text.offset)
    limits = text_limits(text.kind, text.offset, text.limit)
    return _Written("text", text.comparison, usage, limits)


def _images(folder: Path, combination: Combination, reward: Reward, dtype: torch.dtype) -> _Written:
    scorer = image_scorer(combination)
    comparison = write_images(folder, scorer, reward, dtype)
    limits = image_limits(scorer.tower.description["library"], scorer.reader.resize)
    return _Written("image", comparison, image_usage(), limits)


def _write_card(
    folder: Path, reward: Reward, form: str, dtype: str, written: _Written, origin: Origin
) -> None:
    subject = Subject(
        name=type(reward).__name__,
        meaning=reward.meaning,
        source=origin.source,
        fingerprint=fingerprint(Path(origin.source)),
        form=form,
        modality=written.modality,
        dtype=dtype,
        comparison=written.comparison,
        usage=written.usage,
        limits=written.limits,
        command=origin.command,
    )
    (folder / CARD).write_text(model_card(subject, origin.evidence), encoding="utf-8")
