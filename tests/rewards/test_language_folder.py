import json
import runpy
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from transformers import (
    AutoModelForSequenceClassification,
    GPT2Config,
    GPT2Model,
    LlamaForSequenceClassification,
)

from rewardlab.errors import InputError
from rewardlab.rewards import load_reward
from rewardlab.rewards.formatting import token_ids
from rewardlab.rewards.language import LanguageReward
from rewardlab.types import Samples

TINY = SimpleNamespace(**runpy.run_path(str(Path(__file__).with_name("tiny_models.py"))))
SAMPLES = TINY.SAMPLES


def logits_of(network, reward, side="right"):
    """Return what transformers' classifier gives the samples, padded on one side."""
    rows = token_ids(reward.tokenizer, SAMPLES.prompts, SAMPLES.outputs)
    reward.tokenizer.padding_side = side
    batch = reward.tokenizer.pad({"input_ids": rows.ids}, return_tensors="pt")
    with torch.no_grad():
        return network(**batch).logits


@pytest.mark.parametrize("heads", [1, 3])
@pytest.mark.parametrize("template", [None, TINY.CHATML])
def test_transformers_loads_the_folder_and_gives_equal_scores(template, heads, tmp_path):
    mine = TINY.moved(TINY.reward(template, heads=heads))
    mine.save_pretrained(tmp_path)
    network = AutoModelForSequenceClassification.from_pretrained(tmp_path, num_labels=heads)
    with torch.no_grad():
        members = mine.members(SAMPLES)
    for side in ("left", "right"):
        assert torch.allclose(logits_of(network.eval(), mine, side), members, atol=1e-5)
    assert load_reward(tmp_path).tokenizer.chat_template == template
    config = json.loads((tmp_path / "config.json").read_text())
    assert config["architectures"] == ["LlamaForSequenceClassification"]


def test_transformers_scores_of_standardised_features_differ_by_a_constant(tmp_path):
    mine = TINY.reward(frozen=True)
    mine.fit_feature_scale(mine.features(SAMPLES))
    mine.save_pretrained(tmp_path / "reward")
    network = AutoModelForSequenceClassification.from_pretrained(tmp_path / "reward").eval()
    with torch.no_grad():
        gaps = logits_of(network, mine)[:, 0] - mine(SAMPLES)
    assert gaps.abs().min() > 1e-3
    assert torch.allclose(gaps, gaps[:1].expand(3), atol=1e-4)


def test_a_reward_that_trains_on_from_a_folder_formats_texts_as_it_was_saved(tmp_path, caplog):
    saved = TINY.reward(TINY.CHATML, pooling="mean", chat=False)
    saved.save_pretrained(tmp_path)
    again = LanguageReward(str(tmp_path), lora_rank=2, pooling="mean")
    assert again.texts.form == saved.texts.form
    assert not caplog.messages
    assert torch.allclose(again(SAMPLES), saved(SAMPLES), atol=1e-5)
    other = LanguageReward(str(tmp_path), lora_rank=2, chat=True)
    assert other.texts.form != saved.texts.form
    assert "was saved with pooling='mean'" in caplog.text


def test_what_is_saved_comes_back(tmp_path):
    mine = TINY.reward(TINY.CHATML, heads=2, max_length=90, seed=5)
    mine.calibrate(torch.tensor([1.0, 3.0]))
    mine.meaning = "a test"
    mine.save_pretrained(tmp_path / "reward")
    loaded = load_reward(tmp_path / "reward")
    assert loaded.meaning == "a test"
    assert (loaded.score_mean, loaded.score_std) == (2.0, 1.0)
    assert loaded.limit == 90
    assert not loaded.training
    loaded.save_pretrained(tmp_path / "reward")


def test_heads_stay_exact_beside_a_rounded_backbone(tmp_path):
    mine = TINY.moved(TINY.reward(frozen=True, dtype="bfloat16"))
    assert mine.backbone.dtype == torch.bfloat16
    mine.save_pretrained(tmp_path / "reward")
    loaded = LanguageReward.from_pretrained(tmp_path / "reward")
    assert torch.equal(loaded.head, mine.head)
    assert torch.equal(loaded(SAMPLES), mine(SAMPLES))
    assert loaded(SAMPLES).dtype == torch.float32


@pytest.mark.parametrize("source", ["folder", "instance"])
def test_a_published_classifier_is_a_reward(tmp_path, source):
    network = TINY.backbone(LlamaForSequenceClassification, num_labels=1).eval()
    tokenizer = TINY.tokenizer(TINY.CHATML)
    network.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    mine = (
        load_reward(tmp_path) if source == "folder" else LanguageReward(network, tokenizer).eval()
    )
    for prompt, text in (("Say hi.", "Hello"), ("Why?", "")):
        chat = [{"role": "user", "content": prompt}, {"role": "assistant", "content": text}]
        ids = tokenizer.apply_chat_template(chat, return_tensors="pt", return_dict=True)
        with torch.no_grad():
            score = mine(Samples([prompt], [text]))
            assert torch.allclose(score, network(**ids).logits[:, 0], atol=1e-6)


def test_a_tokenizer_that_pads_with_its_end_token_says_so_in_the_folder(tmp_path):
    mine = LanguageReward(TINY.backbone(), TINY.tokenizer(pad_token=None)).eval()
    mine.save_pretrained(tmp_path / "reward")
    network = AutoModelForSequenceClassification.from_pretrained(tmp_path / "reward")
    assert network.config.pad_token_id == 257


def test_other_decoders_work_too(tmp_path):
    config = GPT2Config(vocab_size=260, n_embd=32, n_layer=1, n_head=2, n_positions=128)
    mine = LanguageReward(GPT2Model(config), TINY.tokenizer()).eval()
    mine.save_pretrained(tmp_path / "reward")
    loaded = load_reward(tmp_path / "reward")
    assert torch.allclose(loaded(SAMPLES), mine(SAMPLES), atol=1e-6)


def with_config(folder, **changes):
    file = folder / "config.json"
    config = json.loads(file.read_text())
    file.write_text(json.dumps(config | changes))


def with_another_shape(folder):
    with_config(folder, hidden_size=64, head_dim=32)


def with_another_layer(folder):
    with_config(folder, num_hidden_layers=3)


def with_cut_weights(folder):
    (folder / "model.safetensors").write_bytes(b"short")


def without_settings(folder):
    config = '{"class_path": "rewardlab.rewards.language.LanguageReward"}'
    (folder / "reward.json").write_text(config)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (with_another_shape, "cannot load .* of one backbone"),
        (with_another_layer, "lacks 9 weights"),
        (with_cut_weights, "cannot load"),
        (without_settings, "not what save_pretrained wrote"),
    ],
)
def test_a_folder_of_parts_that_do_not_fit_is_refused(tmp_path, damage, message):
    folder = tmp_path / "reward"
    TINY.reward().save_pretrained(folder)
    damage(folder)
    with pytest.raises(InputError, match=message):
        load_reward(folder)
