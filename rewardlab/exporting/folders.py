"""Exports: a reward as a folder that other libraries load, with its model card."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Literal, NamedTuple

import torch

from rewardlab.exchange import flow_factory, openrlhf, verl
from rewardlab.exporting.card import Subject, model_card
from rewardlab.exporting.combination import Outputs, combination_of, outputs_of
from rewardlab.exporting.comparison import Comparison
from rewardlab.exporting.evidence import Evidence
from rewardlab.exporting.graph_folder import (
    write_image_graph,
    write_pair_graph,
    write_pooled_graph,
)
from rewardlab.exporting.image_folder import write_images
from rewardlab.exporting.image_scorer import image_scorer, is_of_images
from rewardlab.exporting.onnx_graph import check_installed
from rewardlab.exporting.pooled_folder import write_pooled
from rewardlab.exporting.pooled_scorer import pooled_form
from rewardlab.exporting.text_folder import text_form, write_text
from rewardlab.exporting.text_scorer import is_classifier, reader_of
from rewardlab.exporting.usage import (
    GRAPH_LIMITS,
    TOLERANT_LIMIT,
    Context,
    image_graph_usage,
    image_limits,
    image_usage,
    pair_context,
    pooled_limits,
    pooled_usage,
    prompt_context,
    text_context,
    text_graph_usage,
    text_limits,
    text_usage,
)
from rewardlab.provenance import fingerprint
from rewardlab.rewards import ClassifierReward, Reward, Tolerant
from rewardlab.storage.atomic import atomic_folder

_log = logging.getLogger("rewardlab")

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
    context: Context | None


def export_transformers(
    reward: Reward, out: str | Path, origin: Origin, dtype: Dtype = "float32"
) -> Comparison:
    """Write a reward as a folder that transformers loads without rewardlab, whole or not at all.

    A reward of texts becomes an `AutoModelForSequenceClassification` with one label and its
    tokenizer: of transformers' own where it is one network that scores its last token, otherwise by
    code in the folder. A reward of images becomes an `AutoModel` and an `AutoImageProcessor`, whose
    code stands in the folder. What was written is loaded and has to score as the reward does. Its
    README.md is the model card.

    Args:
        reward: a network, or a weighted sum of networks of one kind; see `combination_of`.
        out: a new folder.
        origin: where the reward comes from.
        dtype: of the weights.

    Returns:
        How far the scores of what was written lie from the reward's.

    Raises:
        InputError: if `out` exists, no such form scores as the reward does, or what was written
            scores otherwise.
    """
    outputs = outputs_of(reward.cpu().eval())
    kind = getattr(torch, dtype)
    with atomic_folder(out) as folder:
        if is_of_images(outputs.terms[0].reward):
            written = _images(folder, outputs, reward, kind)
        else:
            written = _texts(folder, outputs, reward, kind)
        _write_card(folder, reward, "transformers", dtype, written, origin)
    return written.comparison


def export_onnx(reward: Reward, out: str | Path, origin: Origin) -> Comparison:
    """Write a reward's scorer as an ONNX graph in float32, whole or not at all.

    Batch and length may have any size. The graph gives "score" and, of a reward with several
    members, "members", a column each; members on different networks stand in one graph. Beside
    `model.onnx` stand the tokenizer, or the image processor with its code, and a README.md, the
    model card.

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
    outputs = outputs_of(reward.cpu().eval())
    first = outputs.terms[0].reward
    with atomic_folder(out) as folder:
        if is_of_images(first):
            written = _image_graph(folder, outputs, reward)
        elif isinstance(first, ClassifierReward):
            written = _pair_graph(folder, reward)
        else:
            written = _text_graph(folder, outputs, reward)
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


def _texts(folder: Path, outputs: Outputs, reward: Reward, dtype: torch.dtype) -> _Written:
    combination = combination_of(reward)
    if not is_classifier(combination):
        return _pooled_texts(folder, outputs, reward, dtype)
    text = write_text(folder, text_form(combination), reward, dtype)
    usage = text_usage(text.kind, text.offset)
    limits = text_limits(text.kind, text.offset)
    context = _context_of(combination.terms[0].reward, "transformers")
    return _Written("text", text.comparison, usage, limits, context)


def _pooled_texts(folder: Path, outputs: Outputs, reward: Reward, dtype: torch.dtype) -> _Written:
    form, comparison = write_pooled(folder, outputs, reward, dtype)
    usage = pooled_usage(members=len(outputs.offsets) > 1)
    context = text_context(form.reader.limit, cuts_itself=True, form="transformers")
    return _Written("text", comparison, usage, pooled_limits(), context)


def _text_graph(folder: Path, outputs: Outputs, reward: Reward) -> _Written:
    form = pooled_form(outputs)
    kind = form.recipe.kind
    comparison = write_pooled_graph(folder, form, reward)
    usage = text_graph_usage(kind, form.averages, members=len(outputs.offsets) > 1)
    context = text_context(form.reader.limit, cuts_itself=form.averages, form="onnx")
    return _Written("text", comparison, usage, text_limits(kind, 0.0), context)


def _pair_graph(folder: Path, reward: Reward) -> _Written:
    combination = combination_of(reward)
    comparison = write_pair_graph(folder, text_form(combination), reward)
    context = _context_of(combination.terms[0].reward, "onnx")
    return _Written("text", comparison, text_graph_usage("pair"), text_limits("pair", 0.0), context)


def _context_of(reward: Reward, form: str) -> Context:
    """Return how much a network sees whose tables transformers' tokenizer alone makes."""
    if isinstance(reward, ClassifierReward):
        return pair_context(reward.max_length, reward.cut, form)
    return text_context(reader_of(reward).limit, cuts_itself=False, form=form)


def _images(folder: Path, outputs: Outputs, reward: Reward, dtype: torch.dtype) -> _Written:
    scorer = image_scorer(outputs)
    comparison = write_images(folder, scorer, reward, dtype)
    libraries = {tower.description["library"] for tower in scorer.towers}
    limits = image_limits(libraries, scorer.look.resizes)
    usage = image_usage(scorer.prompts, members=scorer.outputs > 1)
    return _Written("image", comparison, usage, limits, prompt_context(scorer.prompts))


def _image_graph(folder: Path, outputs: Outputs, reward: Reward) -> _Written:
    scorer = image_scorer(outputs)
    comparison = write_image_graph(folder, scorer, reward)
    libraries = set[str]()
    if scorer.prompts is not None:
        libraries.add(scorer.prompts.library)
    limits = image_limits(libraries, scorer.look.resizes)
    usage = image_graph_usage(scorer.prompts, members=scorer.outputs > 1)
    return _Written("image", comparison, usage, limits, prompt_context(scorer.prompts))


def _write_card(
    folder: Path, reward: Reward, form: str, dtype: str, written: _Written, origin: Origin
) -> None:
    limits = list(written.limits)
    if any(isinstance(part, Tolerant) for part in reward.modules()):
        limits.append(TOLERANT_LIMIT)
        _log.warning("%s", TOLERANT_LIMIT)
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
        limits=limits,
        command=origin.command,
        context=written.context,
    )
    (folder / CARD).write_text(model_card(subject, origin.evidence), encoding="utf-8")
