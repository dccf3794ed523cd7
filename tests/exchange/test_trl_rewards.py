"""Rewards that the installed TRL trains: loaded here, they score as they were trained."""

import runpy
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch.testing import assert_close

from rewardlab.exchange.trl import preference_dataset, read_preferences, write_chat
from rewardlab.rewards import LanguageReward, load_reward, scores_of
from rewardlab.types import PreferencePairs, Samples

TRL = SimpleNamespace(**runpy.run_path(str(Path(__file__).parent / "tiny_trl.py")))
PROMPTS = ["Say hi.", "2+2=", "Bye", "One?"]
CHOSEN = Samples(PROMPTS, ["Hello", "4", "See you", "1"], {"margin": torch.tensor([0.0, 1, 2, 0])})
PAIRS = PreferencePairs(CHOSEN, Samples(PROMPTS, ["Go", "five", "", "11"]))


def compare(reward, trainer):
    """Hold a reward to the scores of the network on the tokens that it was trained on."""
    chosen, rejected = TRL.seen_scores(trainer)
    assert (chosen - rejected).abs().min() > 1e-3, "equal scores would prove nothing"
    assert_close(scores_of(reward, PAIRS.chosen), chosen, atol=1e-5, rtol=1e-5)
    assert_close(scores_of(reward, PAIRS.rejected), rejected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("framed", [pytest.param(False, marks=pytest.mark.nightly), True])
def test_one_of_plain_texts(tmp_path, framed):
    """TRL trains it with the beginning and the end of a text, and so is it scored here."""
    tokenizer = TRL.framed_tokenizer() if framed else TRL.tiny_tokenizer()
    trainer = TRL.trained_reward(tmp_path, preference_dataset(PAIRS), tokenizer)
    first = trainer.train_dataset[0]["chosen_ids"]
    assert (first[0] == 258) == framed
    assert first[-1] == 256
    compare(load_reward(tmp_path / "reward"), trainer)


@pytest.mark.parametrize("template", [TRL.TURNS, TRL.TURNS.replace("<|end|>", "<|end|>\n")])
def test_one_of_conversations(tmp_path, template):
    dataset = preference_dataset(PAIRS, conversational=True)
    tokenizer = TRL.framed_tokenizer()
    tokenizer.chat_template = template
    trainer = TRL.trained_reward(tmp_path, dataset, tokenizer)
    compare(load_reward(tmp_path / "reward"), trainer)


def test_one_of_conversations_that_nothing_ends(tmp_path):
    """TRL adds no end token to what a template writes; here one comes where nothing else ends."""
    dataset = preference_dataset(PAIRS, conversational=True)
    trainer = TRL.trained_reward(tmp_path, dataset, TRL.framed_tokenizer(chat=True))
    chosen, _ = TRL.seen_scores(trainer)
    folder = tmp_path / "reward"
    assert (scores_of(load_reward(folder), PAIRS.chosen) - chosen).abs().max() > 1e-3
    write_chat(folder, {"ending": "template"})
    compare(load_reward(folder), trainer)


def test_one_of_plain_texts_beside_a_chat_template(tmp_path):
    """The folder does not say that the template was not used: that is written into it, once."""
    tokenizer = TRL.framed_tokenizer(chat=True)
    trainer = TRL.trained_reward(tmp_path, preference_dataset(PAIRS), tokenizer)
    folder = tmp_path / "reward"
    chosen, _ = TRL.seen_scores(trainer)
    assert (scores_of(load_reward(folder), PAIRS.chosen) - chosen).abs().max() > 1e-3
    write_chat(folder, False)
    compare(load_reward(folder), trainer)
    compare(LanguageReward(folder).eval(), trainer)
    load_reward(folder).save_pretrained(tmp_path / "again")
    compare(load_reward(tmp_path / "again"), trainer)


def test_pairs_come_back_from_their_data_set():
    for conversational in (False, True):
        pairs = read_preferences(preference_dataset(PAIRS, conversational))
        assert pairs.chosen.prompts == PROMPTS
        assert pairs.chosen.outputs == CHOSEN.outputs
        assert pairs.rejected.outputs == PAIRS.rejected.outputs
        assert pairs.chosen.facts["margin"].tolist() == [0, 1, 2, 0]
