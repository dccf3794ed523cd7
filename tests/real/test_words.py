"""The text half on real weights: SmolLM2, stories260K, the sentence encoder's reward."""

import json

import pytest
import torch

from rewardlab import InputError, Samples
from rewardlab.policies import from_llama2c
from rewardlab.rewards import LanguageReward

STORY = (
    "Once upon a time, there was a little girl named Lily. She loved to play outside in the park. "
    "One day, she saw a big, red ball. She wanted to play with it, but it was too high."
)  # the beginning of llama2.c's doc/stories260K.md


def test_stories260k_tells_its_documented_story(stories260k):
    policy = from_llama2c(*stories260k, max_new_tokens=64, top_k=1)
    samples = policy.generate(["Once upon a time"], seeds=torch.tensor([0]))
    assert ("Once upon a time" + samples.outputs[0]).startswith(STORY)


def test_smollm2_knows_the_capital_and_is_a_rewards_backbone(needs):
    needs("smollm2")
    from real.sentences import smollm2, smollm2_folder

    policy = smollm2(max_new_tokens=16, top_k=1)
    question = "What is the capital of France?"
    samples = policy.generate([question], seeds=torch.tensor([0]))
    assert "Paris" in samples.outputs[0]
    answers = Samples([question] * 2, ["The capital of France is Paris.", "of is the Paris France"])
    log_probs = policy.log_prob(policy.encode(answers, seeds=torch.tensor([0, 1]))).sum(1)
    assert log_probs[0] > log_probs[1]
    reward = LanguageReward(smollm2_folder(), heads=2, frozen=True)
    assert reward.members(answers).shape == (2, 2)


def test_the_sentence_encoder_tells_paraphrases_from_strangers(needs):
    needs("minilm")
    from real.sentences import WIDTH, SentenceReward

    texts = ["A cat sits on the mat.", "On the rug there is a cat.", "Taxes rose in March."]
    first, paraphrase, stranger = SentenceReward().features(Samples([""] * 3, texts))[:, :WIDTH]
    assert first @ paraphrase > 0.5
    assert first @ stranger < 0.2


def test_smollm2_finds_sentences_likelier_than_their_sorted_words(needs):
    """The mean is over tokens, so that a text said twice is not punished for its length."""
    needs("smollm2")
    from real.likelihood import Likelihood

    sentence = "The sun was warm, and the children ran to the sea."
    texts = [sentence, " ".join(sorted(sentence.split())), f"{sentence} {sentence}", ""]
    plain, in_order, twice, empty = Likelihood()(Samples(["It was June."] * 4, texts)).tolist()
    assert plain > in_order + 1
    assert twice > plain
    assert empty < 0  # its end token


def test_the_fast_policy_ends_its_stories(stories260k, tmp_path, monkeypatch):
    """As it comes it goes on to its limit; taught, it ends by the token that it knows."""
    from real.tellers import BEGINNINGS, STORIES, taught, teller

    monkeypatch.setenv("REWARDLAB_CACHE", str(tmp_path))
    untaught = from_llama2c(*stories260k, max_new_tokens=STORIES.tokens)
    seeds = torch.arange(32)
    goes_on = untaught.generate(BEGINNINGS * 4, seeds=seeds)
    ends = teller(taught(*stories260k)).generate(BEGINNINGS * 4, seeds=seeds)
    assert goes_on.facts["finished"].float().mean() < 0.1
    assert ends.facts["finished"].float().mean() > 0.9
    assert all(text.isprintable() for text in "".join(ends.outputs).split())


def test_padded_answers_are_mined_and_no_longer_liked(needs):
    """Fitted to pairs whose longer answer won, a reward likes padding; mined pairs end that."""
    needs("minilm")
    from real.remedies import fit, mined_pairs, repeated, without_length
    from rewardlab.embedded import topics
    from rewardlab.rewards.scoring import scores_of
    from rewardlab.types import PreferencePairs

    prompts = topics.prompts("train", 60)
    texts = [" ".join(topics.prompts("train")[row : row + 8]) for row in range(0, 480, 8)]
    pairs = PreferencePairs(Samples(prompts, texts), Samples(prompts, [t[:40] for t in texts]))
    plain = fit(pairs, None, 0)
    mined = mined_pairs(plain, without_length(plain, pairs), pairs, 0)
    assert 0 < len(mined) <= 60
    hardened = fit(pairs, mined, 0)
    liked = [
        (scores_of(reward, repeated(pairs.chosen)) > scores_of(reward, pairs.chosen)).float().mean()
        for reward in (plain, hardened)
    ]
    assert liked[1] < liked[0]


def test_peoples_choices_are_read_by_majority(tmp_path):
    from real.worlds import read_human

    row = {"instruction": "Add.", "input": "1 1", "response1": "2", "response2": "3"}
    votes = [(1, 1, 2), (2, 2, 2), (0, 1, 2), (0, 0, 1)]
    rows = []
    for vote in votes:
        rows.append(row | {f"annotator{i}": v for i, v in enumerate(vote, 1)})
    rows.append(rows[0] | {"response1": True})
    (tmp_path / "human.json").write_text(json.dumps(rows))
    pairs = read_human(tmp_path / "human.json")
    assert pairs.chosen.outputs == ["2", "3"]
    assert pairs.chosen.prompts == ["Add.\n\n1 1"] * 2
    (tmp_path / "other.json").write_text('[{"instruction": "Add."}]')
    with pytest.raises(InputError, match="PandaLM"):
        read_human(tmp_path / "other.json")
