"""A reward's scorer as ONNX in a folder, beside what makes its inputs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from inspect import signature
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from rewardlab.exporting.code_folder import copy_code
from rewardlab.exporting.comparison import (
    Comparison,
    coarsest,
    compared,
    expected_outputs,
)
from rewardlab.exporting.image_folder import (
    image_model,
    image_probes,
    write_processor,
)
from rewardlab.exporting.image_scorer import ImageScorer
from rewardlab.exporting.onnx_graph import ScoreGraph, graph_outputs, write_graph
from rewardlab.exporting.pooled_folder import TABLES, pooled_model
from rewardlab.exporting.pooled_scorer import PooledForm
from rewardlab.exporting.recipes import as_conversations
from rewardlab.exporting.remote.tables_text_reward import tables
from rewardlab.exporting.text_folder import TextForm, in_dtype
from rewardlab.networks.silence import silent
from rewardlab.rewards import Reward
from rewardlab.types import Samples

Tables = Mapping[str, Tensor]
TEXT = ("batch", "length")  # dimensions of any size


def write_pooled_graph(folder: Path, form: PooledForm, reward: Reward) -> Comparison:
    """Write language models with their heads as a graph from token tables to scores, and compare.

    The graph is run on all probes at once and on each alone, so that it is seen to take any batch
    and any length.

    Args:
        folder: empty.
        form: of the reward.
        reward: the original.

    Raises:
        InputError: if torch cannot express it, or onnxruntime scores otherwise.
    """
    names = ["input_ids", "attention_mask"]
    if form.averages:
        names.append("response_mask")
        copy_code(folder, TABLES)
    batches = []
    for samples in _all_and_each(form.samples):
        made = tables(form.recipe.tokenizer, as_conversations(samples))
        batches.append({name: made[name] for name in names})
    graph = ScoreGraph(pooled_model(form), names)
    expected = expected_outputs(reward, form.samples, len(form.constants))
    return _write_text_graph(folder, graph, batches, form.recipe.tokenizer, expected, reward)


def write_pair_graph(folder: Path, form: TextForm, reward: Reward) -> Comparison:
    """Write a published classifier as a graph from token tables to scores, and compare.

    Args:
        folder: empty.
        form: of the reward.
        reward: the original.

    Raises:
        InputError: as `write_pooled_graph`.
    """
    names = table_names(form)
    batches = []
    for samples in _all_and_each(form.samples):
        made = form.recipe.tables(samples)
        batches.append({name: made[name] for name in names})
    network = in_dtype(form.scorer.network, torch.float32)
    graph = ScoreGraph(network, names, form.scorer.offset)
    expected = expected_outputs(reward, form.samples, 1)
    return _write_text_graph(folder, graph, batches, form.recipe.tokenizer, expected, reward)


def write_image_graph(folder: Path, scorer: ImageScorer, reward: Reward) -> Comparison:
    """Write a reward of images as a graph from pixels, and prompts, to scores, and compare.

    Args:
        folder: empty.
        scorer: of the reward.
        reward: the original.

    Raises:
        InputError: as `write_pooled_graph`.
    """
    write_processor(folder, scorer)
    probes = image_probes(folder, scorer)
    batches = [dict(probe.tables) for probe in probes]
    names = list(batches[0])
    write_graph(folder, ScoreGraph(image_model(scorer), names), batches[0], ("batch",))
    expected = []
    for probe in probes:
        expected.append(expected_outputs(reward, probe.samples, scorer.outputs))
    together = {}
    for name in names:
        together[name] = torch.cat([batch[name] for batch in batches])
    twice = torch.cat(expected).repeat(2, 1)
    return _compared(folder, [together, *batches], twice, reward)


def table_names(form: TextForm) -> list[str]:
    """Return the names of the token tables that a published classifier takes, in order."""
    takes = signature(form.scorer.network.forward).parameters
    return [name for name in form.recipe.tables(form.samples) if name in takes]


def _write_text_graph(
    folder: Path,
    graph: ScoreGraph,
    batches: Sequence[Tables],
    tokenizer: Any,
    expected: Tensor,
    reward: Reward,
) -> Comparison:
    """Write a graph of texts with its tokenizer, and compare.

    Args:
        folder: empty.
        graph: from token tables to scores.
        batches: the tables of all probes together, then of each alone.
        tokenizer: of transformers.
        expected: [B, O], what the reward gives for the probes.
        reward: the original.
    """
    write_graph(folder, graph, batches[0], TEXT)
    with silent():
        tokenizer.save_pretrained(folder)
    return _compared(folder, batches, expected.repeat(2, 1), reward)


def _all_and_each(samples: Samples) -> list[Samples]:
    """Return samples together, and each of them alone."""
    return [samples, *(samples[row : row + 1] for row in range(len(samples)))]


def _compared(
    folder: Path, batches: Sequence[Tables], expected: Tensor, reward: Reward
) -> Comparison:
    """Compare what a graph gives for batches with what is expected of them, [B, O]."""
    outputs = torch.cat([graph_outputs(folder, batch) for batch in batches])
    return compared(outputs, expected, coarsest("float32", reward), "The ONNX graph")
