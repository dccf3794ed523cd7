"""A reward's scorer as ONNX in a folder, beside what makes its inputs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from inspect import signature
from pathlib import Path

import torch
from torch import Tensor, nn

from rewardlab.exporting.comparison import Comparison, coarsest, compared
from rewardlab.exporting.image_folder import image_model, probe_pictures, write_processor
from rewardlab.exporting.image_scorer import ImageScorer
from rewardlab.exporting.onnx_graph import (
    PairGraph,
    PixelGraph,
    TextGraph,
    graph_scores,
    write_graph,
)
from rewardlab.exporting.remote.image_processing_image_reward import ImageRewardProcessor
from rewardlab.exporting.text_folder import TextForm, in_dtype
from rewardlab.networks.silence import silent
from rewardlab.rewards import ClassifierReward, Reward
from rewardlab.rewards.scoring import scores_of
from rewardlab.types import Samples

Tables = Mapping[str, Tensor]


def write_text_graph(folder: Path, form: TextForm, reward: Reward) -> Comparison:
    """Write a reward of texts as a graph from token tables to scores, and compare.

    The graph is run on all probes at once and on each alone, so that it is seen to take any batch
    and any length.

    Args:
        folder: empty.
        form: of the reward.
        reward: the original.

    Raises:
        InputError: if torch cannot express it, or onnxruntime scores otherwise.
    """
    names = table_names(form)
    batch = _tables(form, form.samples, names)
    write_graph(folder, _text_module(form, names), batch, ("batch", "length"))
    with silent():
        form.recipe.tokenizer.save_pretrained(folder)
    scores = [graph_scores(folder, batch)]
    for index in range(len(form.samples)):
        alone = _tables(form, form.samples[index : index + 1], names)
        scores.append(graph_scores(folder, alone))
    expected = scores_of(reward, form.samples).repeat(2)
    return compared(torch.cat(scores), expected, coarsest("float32", reward), "The ONNX graph")


def write_image_graph(folder: Path, scorer: ImageScorer, reward: Reward) -> Comparison:
    """Write a reward of images as a graph from pixels to scores, and compare.

    Args:
        folder: empty.
        scorer: of the reward.
        reward: the original.

    Raises:
        InputError: as `write_text_graph`.
    """
    write_processor(folder, scorer.reader)
    processor = ImageRewardProcessor.from_pretrained(folder)
    pictures = probe_pictures(scorer.reader)
    pixels = [processor(part)["pixel_values"] for part in pictures]
    module = PixelGraph(image_model(scorer))
    write_graph(folder, module, {"pixel_values": pixels[0]}, ("batch",))
    scores = [graph_scores(folder, {"pixel_values": torch.cat(pixels)})]
    expected = []
    for part, table in zip(pictures, pixels, strict=True):
        scores.append(graph_scores(folder, {"pixel_values": table}))
        expected.append(scores_of(reward, Samples([""] * len(part), part)))
    expected_scores = torch.cat(expected).repeat(2)
    return compared(
        torch.cat(scores), expected_scores, coarsest("float32", reward), "The ONNX graph"
    )


def table_names(form: TextForm) -> list[str]:
    """Return the names of the token tables that a graph takes, in order."""
    if not isinstance(form.scorer.reader, ClassifierReward):
        return ["input_ids", "attention_mask"]
    takes = signature(form.scorer.network.forward).parameters
    return [name for name in form.recipe.tables(form.samples) if name in takes]


def _tables(form: TextForm, samples: Samples, names: Sequence[str]) -> Tables:
    tables = form.recipe.tables(samples)
    return {name: tables[name] for name in names}


def _text_module(form: TextForm, names: Sequence[str]) -> nn.Module:
    scorer = form.scorer
    network = in_dtype(scorer.network, torch.float32)
    if isinstance(scorer.reader, ClassifierReward):
        return PairGraph(network, scorer.offset, names)
    return TextGraph(network, scorer.offset, form.recipe.tokenizer.pad_token_id)
