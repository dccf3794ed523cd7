"""Scorers as ONNX graphs in onnxruntime: equal to the rewards, at any batch and length."""

import json
import runpy
from pathlib import Path
from types import SimpleNamespace

import onnxruntime
import pytest
import torch
from torch import nn
from transformers import AutoTokenizer

from rewardlab import VisionReward
from rewardlab.errors import InputError
from rewardlab.exporting import Origin, export_onnx
from rewardlab.exporting.combination import outputs_of
from rewardlab.exporting.onnx_graph import ScoreGraph, write_graph
from rewardlab.exporting.pooled_folder import pooled_model
from rewardlab.exporting.pooled_scorer import pooled_form
from rewardlab.exporting.remote.image_processing_image_reward import ImageRewardProcessor
from rewardlab.exporting.remote.tables_text_reward import tables as tables_of
from rewardlab.rewards import ClassifierReward, Ensemble, LanguageReward, Standardized
from rewardlab.rewards.scoring import member_scores, scores_of
from rewardlab.testing import tiny_tower
from rewardlab.types import Samples

from .alone import card_code, run_alone

TINY = SimpleNamespace(**runpy.run_path(str(Path(__file__).parents[1] / "rewards/tiny_models.py")))
LONG = Samples(["Say hi. " * 4] * 3, ["Hello there, hé 世 " * 3, "no", ""])


def graph_scores(folder, tables, name="score"):
    """Return what onnxruntime computes of token tables or pixels."""
    session = onnxruntime.InferenceSession(str(folder / "model.onnx"))
    feeds = {put.name: tables[put.name].numpy() for put in session.get_inputs()}
    return torch.from_numpy(session.run([name], feeds)[0])


@pytest.mark.nightly
def test_a_graph_of_texts_holds_the_constant_too(tmp_path):
    reward = LanguageReward(TINY.backbone(), TINY.tokenizer(TINY.CHATML), heads=2)
    reward = Standardized(reward, mean=0.5, std=0.25).eval()
    comparison = export_onnx(reward, tmp_path / "out", Origin(str(tmp_path)))
    assert comparison.samples == 12
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "out")
    tables = tokenizer.apply_chat_template(
        TINY.conversations(LONG), padding=True, return_tensors="pt", return_dict=True
    )
    expected = scores_of(reward, LONG)
    torch.testing.assert_close(graph_scores(tmp_path / "out", tables), expected, atol=1e-4, rtol=0)
    printed = run_alone(card_code(tmp_path / "out"), tmp_path / "out", tmp_path / "cache")
    expected = scores_of(reward, Samples(["12"], ["3"]))
    torch.testing.assert_close(torch.tensor(json.loads(printed)), expected, atol=1e-4, rtol=0)
    names = {path.name for path in (tmp_path / "out").iterdir()}
    assert {"model.onnx", "tokenizer.json", "README.md"} <= names


def averaging_members():
    """Return an ensemble on two networks that score the mean over a response."""
    members = []
    for seed in (1, 2):
        backbone = TINY.backbone(seed=seed)
        members.append(LanguageReward(backbone, TINY.tokenizer(), pooling="mean", seed=seed))
    return Ensemble([members[0], Standardized(members[1], mean=0.5, std=0.25)]).eval()


@torch.no_grad()
def test_what_becomes_a_graph_gives_score_and_members_of_two_networks():
    reward = averaging_members()
    form = pooled_form(outputs_of(reward))
    tables = tables_of(form.recipe.tokenizer, TINY.conversations(LONG))
    graph = ScoreGraph(pooled_model(form), list(tables))
    assert graph.outputs == ["score", "members"]
    scores, members = graph(*tables.values())
    torch.testing.assert_close(scores, scores_of(reward, LONG), atol=1e-5, rtol=0)
    torch.testing.assert_close(members, member_scores(reward, LONG), atol=1e-5, rtol=0)


@pytest.mark.nightly
def test_one_graph_holds_members_on_two_networks_that_average(tmp_path):
    reward = averaging_members()
    export_onnx(reward, tmp_path / "out", Origin(str(tmp_path)))
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "out")
    tables = tables_of(tokenizer, TINY.conversations(LONG))
    scores = graph_scores(tmp_path / "out", tables)
    torch.testing.assert_close(scores, scores_of(reward, LONG), atol=1e-4, rtol=0)
    columns = graph_scores(tmp_path / "out", tables, "members")
    torch.testing.assert_close(columns, member_scores(reward, LONG), atol=1e-4, rtol=0)
    card = (tmp_path / "out" / "README.md").read_text(encoding="utf-8")
    assert "It sees 128 tokens" in card


@pytest.mark.nightly
def test_the_cards_code_scores_a_mean_in_onnxruntime(tmp_path):
    reward = LanguageReward(TINY.backbone(), TINY.tokenizer(), pooling="mean", heads=2).eval()
    export_onnx(reward, tmp_path / "out", Origin(str(tmp_path)))
    printed = run_alone(card_code(tmp_path / "out"), tmp_path / "out", tmp_path / "cache")
    expected = scores_of(reward, Samples(["12"], ["3"]))
    torch.testing.assert_close(torch.tensor(json.loads(printed)), expected, atol=1e-4, rtol=0)


@pytest.mark.nightly
def test_a_graph_of_an_encoder_takes_pairs(tmp_path):
    reward = ClassifierReward(TINY.encoder(), TINY.tokenizer()).eval()
    export_onnx(reward, tmp_path / "out", Origin(str(tmp_path)))
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "out")
    tables = tokenizer(LONG.prompts, list(LONG.outputs), padding=True, return_tensors="pt")
    tables["token_type_ids"] = tables.get("token_type_ids", torch.zeros_like(tables["input_ids"]))
    expected = scores_of(reward, LONG)
    torch.testing.assert_close(graph_scores(tmp_path / "out", tables), expected, atol=1e-4, rtol=0)


def test_a_graph_of_pixels_takes_any_batch(tmp_path):
    reward = VisionReward(tiny_tower(), heads=2, width=8).eval()
    export_onnx(reward, tmp_path / "out", Origin(str(tmp_path)))
    processor = ImageRewardProcessor.from_pretrained(tmp_path / "out")
    pictures = torch.rand(5, 3, 40, 24, generator=torch.Generator().manual_seed(0))
    scores = graph_scores(tmp_path / "out", processor(pictures))
    expected = scores_of(reward, Samples([""] * 5, pictures))
    torch.testing.assert_close(scores, expected, atol=1e-4, rtol=0)


@pytest.mark.nightly
def test_the_cards_code_scores_a_picture_in_onnxruntime(tmp_path):
    reward = VisionReward(tiny_tower(), heads=2, width=8).eval()
    export_onnx(reward, tmp_path / "out", Origin(str(tmp_path)))
    printed = run_alone(card_code(tmp_path / "out"), tmp_path / "out", tmp_path / "cache")
    gray = torch.full((1, 3, 48, 64), 128 / 255)
    expected = scores_of(reward, Samples([""], gray))
    torch.testing.assert_close(torch.tensor(json.loads(printed)), expected, atol=1e-4, rtol=0)


@pytest.mark.nightly
def test_a_graph_of_pictures_takes_prompts_beside_pixels(tmp_path):
    tower = tiny_tower()
    seeing = VisionReward(tower, heads=2, width=8, conditional=True)
    reward = Ensemble([seeing, VisionReward(tower, width=8)]).eval()
    export_onnx(reward, tmp_path / "out", Origin(str(tmp_path)))
    processor = ImageRewardProcessor.from_pretrained(tmp_path / "out")
    samples = Samples(["a cat", "", "two dogs"], torch.rand(3, 3, 40, 24))
    tables = dict(processor(samples.outputs))
    tables["input_ids"] = seeing.tower.tokenizer(samples.prompts)
    scores = graph_scores(tmp_path / "out", tables)
    torch.testing.assert_close(scores, scores_of(reward, samples), atol=1e-4, rtol=0)
    columns = graph_scores(tmp_path / "out", tables, "members")
    torch.testing.assert_close(columns, member_scores(reward, samples), atol=1e-4, rtol=0)
    printed = run_alone(card_code(tmp_path / "out"), tmp_path / "out", tmp_path / "cache")
    gray = torch.full((1, 3, 48, 64), 128 / 255)
    expected = scores_of(reward, Samples(["a cat"], gray))
    torch.testing.assert_close(torch.tensor(json.loads(printed)), expected, atol=1e-4, rtol=0)


class Branching(nn.Module):
    """A model whose logits depend on its numbers in a way that no graph holds."""

    config = SimpleNamespace(outputs=1)

    def forward(self, pixel_values):
        positive = bool(pixel_values.sum() > 0)
        scores = pixel_values.sum(1) if positive else pixel_values.prod(1)
        return SimpleNamespace(logits=scores[:, None])


def test_what_torch_cannot_express_is_refused(tmp_path):
    graph = ScoreGraph(Branching(), ["pixel_values"])
    with pytest.raises(InputError, match="torch cannot write this Branching as ONNX"):
        write_graph(tmp_path, graph, {"pixel_values": torch.ones(2, 3)}, ("batch",))
