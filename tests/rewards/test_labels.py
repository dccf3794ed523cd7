"""Classifiers with several labels: the score is the log-odds of what is wanted."""

import runpy
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from transformers import BertConfig, BertForSequenceClassification, LlamaForSequenceClassification

from rewardlab.errors import InputError
from rewardlab.rewards import ClassifierReward, LanguageReward, load_reward
from rewardlab.types import Samples

TINY = SimpleNamespace(**runpy.run_path(str(Path(__file__).with_name("tiny_models.py"))))
SAMPLES = Samples(["Hi", "Hello?", "so"], [" yes", " no, never", " well"])
SENTIMENT = {0: "NEGATIVE", 1: "POSITIVE"}
EMOTIONS = {0: "joy", 1: "anger", 2: "fear", 3: "love"}


def encoder(names, **options):
    config = BertConfig(
        vocab_size=260,
        id2label=names,
        label2id={name: number for number, name in names.items()},
        pad_token_id=256,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=1,
        num_attention_heads=2,
        initializer_range=0.3,
        **options,
    )
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return BertForSequenceClassification(config).eval()


def decoder(names, **options):
    network = TINY.backbone(
        LlamaForSequenceClassification, id2label=names, initializer_range=0.3, **options
    )
    return network.eval()


@torch.no_grad()
def probabilities(network):
    """Return softmax probabilities of each pair, one at a time."""
    rows = []
    for prompt, output in zip(SAMPLES.prompts, SAMPLES.outputs, strict=True):
        if isinstance(network, BertForSequenceClassification):
            inputs = TINY.tokenizer()([prompt], [output], return_tensors="pt")
        else:
            ids = [*TINY.tokenizer()(prompt + output).input_ids, 257]
            inputs = {"input_ids": torch.tensor([ids])}
        rows.append(network(**inputs).logits[0].double().softmax(0))
    return torch.stack(rows)


def odds(probability):
    return (probability / (1 - probability)).log().float()


def saved(network, folder):
    network.save_pretrained(folder)
    TINY.tokenizer().save_pretrained(folder)
    return folder


@pytest.mark.parametrize("make", [encoder, decoder])
def test_two_labels_are_the_log_odds_of_the_second(make, tmp_path):
    network = make(SENTIMENT)
    mine = load_reward(saved(network, tmp_path / "published"))
    expected = odds(probabilities(network)[:, 1])
    assert torch.allclose(mine(SAMPLES), expected, atol=1e-4)
    mine.save_pretrained(tmp_path / "again")
    assert torch.allclose(load_reward(tmp_path / "again")(SAMPLES), expected, atol=1e-4)


@pytest.mark.parametrize("label", [0, "negative", "NEGATIVE"])
@pytest.mark.parametrize(("make", "kind"), [(encoder, ClassifierReward), (decoder, LanguageReward)])
def test_a_named_label_of_two_is_the_one(make, kind, label, tmp_path):
    network = make(SENTIMENT)
    mine = kind(saved(network, tmp_path / "published"), label=label).eval()
    expected = odds(probabilities(network)[:, 0])
    assert torch.allclose(mine(SAMPLES), expected, atol=1e-4)
    mine.save_pretrained(tmp_path / "again")
    assert torch.allclose(load_reward(tmp_path / "again")(SAMPLES), expected, atol=1e-4)


@pytest.mark.parametrize("make", [encoder, decoder])
def test_of_more_labels_the_good_ones_are_named(make, tmp_path):
    network = make(EMOTIONS)
    folder = saved(network, tmp_path / "published")
    with pytest.raises(InputError, match=r"4 labels \(0 joy, 1 anger, 2 fear, 3 love\)"):
        load_reward(folder)
    if make is decoder:
        return
    table = probabilities(network)
    one = ClassifierReward(folder, label="joy").eval()
    two = ClassifierReward(folder, label=["love", 0]).eval()
    assert torch.allclose(one(SAMPLES), odds(table[:, 0]), atol=1e-4)
    assert torch.allclose(two(SAMPLES), odds(table[:, 0] + table[:, 3]), atol=1e-4)
    two.save_pretrained(tmp_path / "again")
    again = load_reward(tmp_path / "again")
    assert torch.allclose(again(SAMPLES), odds(table[:, 0] + table[:, 3]), atol=1e-4)


@pytest.mark.parametrize("problem", ["multi_label_classification", "regression"])
def test_labels_that_are_apart_are_scores_by_themselves(problem):
    network = encoder(EMOTIONS, problem_type=problem)
    tokenizer = TINY.tokenizer()
    with pytest.raises(InputError, match="which of them is good"):
        ClassifierReward(network, tokenizer)
    mine = ClassifierReward(network, tokenizer, label="fear").eval()
    inputs = tokenizer(["Hi"], [" yes"], return_tensors="pt")
    assert torch.allclose(mine(SAMPLES)[0], network(**inputs).logits[0, 2], atol=1e-5)
    with pytest.raises(InputError, match="is a score by itself"):
        ClassifierReward(network, tokenizer, label=["fear", "love"])


@pytest.mark.parametrize("label", ["hate", 4, -1, True, ["joy", "hate"]])
def test_labels_that_are_not_there_are_named(label):
    with pytest.raises(InputError, match="has no label"):
        ClassifierReward(encoder(EMOTIONS), TINY.tokenizer(), label=label)


def test_log_odds_need_two_sides():
    everything = list(EMOTIONS.values())
    for label in (everything, []):
        with pytest.raises(InputError, match="labels for and labels against"):
            ClassifierReward(encoder(EMOTIONS), TINY.tokenizer(), label=label)
    with pytest.raises(InputError, match=r"no linear head.*ClassifierReward"):
        LanguageReward(decoder(EMOTIONS), TINY.tokenizer(), label="joy")
    with pytest.raises(InputError, match="A label is one head of a classifier"):
        LanguageReward(TINY.backbone(), TINY.tokenizer(), label="joy")


def test_an_ensembles_heads_stay_its_heads(tmp_path):
    mine = LanguageReward(TINY.backbone(), TINY.tokenizer(), heads=2).eval()
    mine.save_pretrained(tmp_path / "reward")
    loaded = load_reward(tmp_path / "reward")
    assert torch.allclose(loaded.members(SAMPLES), mine.members(SAMPLES), atol=1e-5)


def test_labels_of_one_choice_are_no_ensemble(tmp_path):
    """Their mean would be the classifier's logits averaged, good and bad alike."""
    good_or_bad = {0: "bad", 1: "good"}
    decoder(good_or_bad).save_pretrained(tmp_path)
    for model in (decoder(good_or_bad), tmp_path):
        with pytest.raises(InputError, match=r"mean over the labels.*0 bad, 1 good"):
            LanguageReward(model, TINY.tokenizer(), heads=2)
    apart = decoder(good_or_bad, problem_type="regression")
    assert LanguageReward(apart, TINY.tokenizer(), heads=2).members(SAMPLES).shape[1] == 2


@pytest.mark.parametrize("make", [encoder, decoder])
def test_the_log_says_which_of_two_labels_is_the_reward(make, caplog):
    kind = ClassifierReward if make is encoder else LanguageReward
    network = make({0: "safe", 1: "unsafe"})
    guessed = kind(network, TINY.tokenizer()).eval()
    assert "log-odds of unsafe" in caplog.text
    assert "label='safe' turns" in caplog.text
    caplog.clear()
    named = kind(network, TINY.tokenizer(), label="safe").eval()
    assert not caplog.records
    with torch.no_grad():
        torch.testing.assert_close(named(SAMPLES), -guessed(SAMPLES))
