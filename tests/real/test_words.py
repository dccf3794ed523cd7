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


def test_peoples_choices_are_read_by_majority(tmp_path):
    from real.words import read_human

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
