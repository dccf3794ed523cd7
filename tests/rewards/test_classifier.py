import runpy
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from transformers import LlamaForSequenceClassification

from rewardlab.conversations import Conversation, Message
from rewardlab.errors import InputError
from rewardlab.rewards import load_reward
from rewardlab.rewards.classifier import ClassifierReward
from rewardlab.rewards.language import LanguageReward
from rewardlab.testing import RewardConformance
from rewardlab.types import Samples

TINY = SimpleNamespace(**runpy.run_path(str(Path(__file__).with_name("tiny_models.py"))))


class TestClassifierReward(RewardConformance):
    def make(self):
        return ClassifierReward(TINY.encoder(), TINY.tokenizer())

    def samples(self):
        return Samples(["Say hi.", "Be short!", ""], ["Hello, hello there", "no", "hé 世"])


@pytest.fixture
def published(tmp_path):
    """A folder with an encoder and its tokenizer, as transformers writes it."""
    TINY.encoder().save_pretrained(tmp_path / "published")
    TINY.tokenizer().save_pretrained(tmp_path / "published")
    return tmp_path / "published"


def test_a_published_encoder_is_a_reward(published, tmp_path):
    mine = load_reward(published)
    assert type(mine) is ClassifierReward
    pair = TINY.tokenizer()(["Say hi."], ["Hello"], return_tensors="pt")
    samples = Samples(["Say hi.", "hm"], ["Hello", "a longer one"])
    with torch.no_grad():
        expected = TINY.encoder()(**pair).logits[:, 0]
        assert torch.allclose(mine(samples)[:1], expected, atol=1e-6)
        mine.save_pretrained(tmp_path / "again")
        assert torch.allclose(load_reward(tmp_path / "again")(samples), mine(samples))


def test_a_response_alone_that_does_not_fit_is_refused(published):
    with pytest.raises(InputError, match="response alone"):
        load_reward(published)(Samples(["a"], ["b" * 600]))


def test_its_limit_comes_back_from_a_folder(tmp_path):
    mine = ClassifierReward(TINY.encoder(), TINY.tokenizer(), max_length=20).eval()
    mine.save_pretrained(tmp_path / "reward")
    loaded = load_reward(tmp_path / "reward")
    long = Samples(["a" * 70], ["b" * 10])
    assert loaded.max_length == 20
    assert torch.equal(loaded(long), mine(long))


def test_a_decoder_that_was_saved_as_a_classifier_reward_comes_back_as_one(tmp_path):
    network = TINY.backbone(LlamaForSequenceClassification, num_labels=1).eval()
    mine = ClassifierReward(network, TINY.tokenizer())
    mine.save_pretrained(tmp_path / "reward")
    loaded = load_reward(tmp_path / "reward")
    assert type(loaded) is ClassifierReward
    assert torch.allclose(loaded(TINY.SAMPLES), mine(TINY.SAMPLES), atol=1e-6)


def test_an_encoder_is_no_language_reward():
    with pytest.raises(InputError, match="Is it an encoder"):
        LanguageReward(TINY.encoder(), TINY.tokenizer())


def test_what_cannot_work_is_refused():
    with pytest.raises(InputError, match=r"ClassifierReward got a BertFor.* and no tokenizer"):
        ClassifierReward(TINY.encoder())
    with pytest.raises(InputError, match=r"takes a sequence classifier; got a LlamaForCausalLM"):
        ClassifierReward(TINY.backbone(), TINY.tokenizer())
    with pytest.raises(InputError, match=r"cut is one of prompt, pair, nothing; got 'all'"):
        ClassifierReward(TINY.encoder(), TINY.tokenizer(), cut="all")
    with pytest.raises(InputError, match=r"cannot take pairs of 1 tokens"):
        ClassifierReward(TINY.encoder(), TINY.tokenizer(), max_length=1)


def test_a_short_context_is_a_folders_and_a_short_pair_is_whole(tmp_path):
    mine = ClassifierReward(TINY.encoder(), TINY.tokenizer(), max_length=20, cut="pair").eval()
    mine.save_pretrained(tmp_path / "reward")
    loaded = load_reward(tmp_path / "reward")
    long = Samples(["a" * 70], ["b" * 60])
    assert (loaded.max_length, loaded.cut) == (20, "pair")
    assert torch.equal(loaded(long), mine(long))


def test_a_conversation_is_refused_or_is_its_last_message_of_the_user(published, tmp_path):
    turns = ["Be brief.", "hi", "hello", "2+2?"]
    roles = ["system", "user", "assistant", "user"]
    talk = Conversation(tuple(map(Message, roles, turns)))
    samples = Samples([talk, "2+2?"], ["4", "4"])
    with pytest.raises(InputError, match="conversation of 4 messages"):
        ClassifierReward(published)(samples)
    with pytest.raises(InputError, match="conversations='last_user'"):
        ClassifierReward(published).check_samples(samples)
    reward = ClassifierReward(published, conversations="last_user").eval()
    one, other = reward(samples).tolist()
    assert one == pytest.approx(other, abs=1e-6)
    reward.save_pretrained(tmp_path / "saved")
    assert ClassifierReward.from_pretrained(tmp_path / "saved")(samples).tolist() == [one, other]
    silent = Samples([Conversation((Message("system", "Go."),))], ["4"])
    with pytest.raises(InputError, match="conversation of 1 messages"):
        reward(silent)
    with pytest.raises(InputError, match="conversations is one of refuse, last_user"):
        ClassifierReward(published, conversations="all")
