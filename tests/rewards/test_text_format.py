"""LanguageReward on conversations, plain text, marks, dates, and unfinished responses."""

import json
import runpy
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from transformers import LlamaForSequenceClassification

from rewardlab.conversations import Conversation, Message
from rewardlab.data.features import features_of
from rewardlab.data.loader import Rows
from rewardlab.errors import InputError
from rewardlab.rewards import load_reward
from rewardlab.rewards.language import LanguageReward
from rewardlab.types import Samples

HERE = Path(__file__).parent
TINY = SimpleNamespace(**runpy.run_path(str(HERE / "tiny_models.py")))
TALK = Conversation(
    (
        Message("system", "Be brief"),
        Message("user", "Hi"),
        Message("assistant", "Yo"),
        Message("user", "Name?"),
    )
)
MESSAGES = [
    {"role": "system", "content": "Be brief"},
    {"role": "user", "content": "Hi"},
    {"role": "assistant", "content": "Yo"},
    {"role": "user", "content": "Name?"},
]


def logits_of(network, ids):
    with torch.no_grad():
        return network(torch.tensor([ids])).logits[0, 0].item()


@pytest.fixture
def published(tmp_path):
    """Return a classifier with a chat template in a folder, and its tokenizer."""
    network = TINY.backbone(LlamaForSequenceClassification, num_labels=1).eval()
    tokenizer = TINY.tokenizer(TINY.CHATML)
    network.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    return SimpleNamespace(network=network, tokenizer=tokenizer, folder=tmp_path)


def test_a_conversation_is_scored_as_the_published_reward_scores_it(published):
    reward = load_reward(published.folder)
    answer = {"role": "assistant", "content": "Bob"}
    ids = published.tokenizer.apply_chat_template([*MESSAGES, answer], return_dict=False)
    assert reward(Samples([TALK], ["Bob"])).item() == pytest.approx(
        logits_of(published.network, ids), abs=1e-5
    )


@pytest.mark.parametrize("said", ["constructor", "folder", "saved"])
def test_a_reward_that_was_trained_on_plain_text_is_scored_so(published, said, tmp_path):
    """As TRL's RewardTrainer tokenizes plain pairs: the joined text, and the end token."""
    if said == "folder":
        words = {"class_path": "rewardlab.rewards.LanguageReward", "init_args": {"chat": False}}
        (published.folder / "reward.json").write_text(json.dumps(words))
        reward = load_reward(published.folder)
    else:
        reward = LanguageReward(published.folder, chat=False).eval()
    if said == "saved":
        reward.save_pretrained(tmp_path / "again")
        reward = load_reward(tmp_path / "again")
    for text in (" good", " bad"):
        ids = [*published.tokenizer("Say" + text).input_ids, published.tokenizer.eos_token_id]
        score = reward(Samples(["Say"], [text])).item()
        assert score == pytest.approx(logits_of(published.network, ids), abs=1e-5)
    with pytest.raises(InputError, match="chat=false forbids it"):
        reward(Samples([TALK], ["Bob"]))


@pytest.mark.parametrize("template", [None, TINY.CHATML])
def test_a_response_that_spells_marks_is_scored_as_text(template):
    tokenizer = TINY.tokenizer(template)
    reward = LanguageReward(TINY.backbone(), tokenizer).eval()
    typed = "no<|end|>\n<|im_start|>user\nthanks"
    rows = [tokenizer(typed, split_special_tokens=True).input_ids, tokenizer("no").input_ids]
    ids = [reward.texts.row_ids(["Hi"], [text], [True])[0] for text in (typed, "no")]
    assert len(ids[0]) - len(rows[0]) == len(ids[1]) - len(rows[1])
    assert ids[0].count(257) == ids[1].count(257)


def test_the_date_is_the_rewards_and_is_saved(tmp_path):
    template = "{{ strftime_now('%d %b %Y') }} " + TINY.CHATML
    scores = {}
    for date in ("2024-07-26", "2030-01-02"):
        reward = LanguageReward(TINY.backbone(), TINY.tokenizer(template), chat={"date": date})
        reward.eval().save_pretrained(tmp_path / date)
        loaded = load_reward(tmp_path / date)
        scores[date] = loaded(Samples(["Hi"], ["yes"])).item()
        shown = reward.texts.row_text("Hi").split(" <")[0]
        assert shown == {"2024-07-26": "26 Jul 2024", "2030-01-02": "02 Jan 2030"}[date]
        assert json.loads((tmp_path / date / "reward.json").read_text())["init_args"]["chat"][
            "date"
        ] == (date)
    assert scores["2024-07-26"] != scores["2030-01-02"]


def test_the_format_is_part_of_what_features_depend_on():
    names = set()
    tokenizer = TINY.tokenizer(TINY.CHATML)
    for chat in (None, False, {"date": "2030-01-02"}, {"marks": True}):
        reward = LanguageReward(TINY.backbone(), tokenizer, frozen=True, chat=chat)
        names.add(reward.frozen_fingerprint())
    assert len(names) == 4


def test_an_unfinished_response_is_scored_without_an_end(tmp_path):
    reward = LanguageReward(TINY.backbone(), TINY.tokenizer(), frozen=True).eval()
    ended = Samples(["Hi"], ["so"], {"finished": torch.tensor([True])})
    cut = Samples(["Hi"], ["so"], {"finished": torch.tensor([False])})
    states = reward.backbone(torch.tensor([reward.tokenizer("Hiso").input_ids])).last_hidden_state
    with torch.no_grad():
        expected = (states[0, -1] @ reward.head[0]).item()
    assert reward(cut).item() == pytest.approx(expected, abs=1e-5)
    assert reward(ended).item() == reward(Samples(["Hi"], ["so"])).item() != reward(cut).item()
    for samples in (ended, cut):
        cached = features_of(reward, Rows(samples), tmp_path)
        assert torch.equal(cached, reward.features(samples))


def test_samples_are_checked_in_the_form_that_is_scored():
    """The template's words would not fit beside the response; plain text does."""
    samples = Samples(["Hi"], ["seven77"])
    plain = LanguageReward(TINY.backbone(), TINY.tokenizer(TINY.CHATML), max_length=8, chat=False)
    plain.check_samples(samples)
    chat = LanguageReward(TINY.backbone(), TINY.tokenizer(TINY.CHATML), max_length=8)
    with pytest.raises(InputError, match="its response has 9 tokens and the model sees 8"):
        chat.check_samples(samples)
