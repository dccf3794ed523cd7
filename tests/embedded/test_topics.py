"""The world of Python's help topics: gold against its definition, determinism, and that its parts
fit together.
"""

import time
from collections import Counter
from itertools import pairwise

import numpy as np
import pytest
import torch

from rewardlab.embedded import topics
from rewardlab.embedded.gold import WittenBell
from rewardlab.errors import InputError
from rewardlab.provenance import fingerprint
from rewardlab.types import Samples

STEPS = 3  # of the base policy here: 700 take 15 seconds


@pytest.fixture(autouse=True, scope="module")
def own_cache(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("REWARDLAB_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


def spelt_out(text, context, token, vocabulary):
    """Witten and Bell's probability from its recursive definition, counting afresh."""
    shorter = spelt_out(text, context[1:], token, vocabulary) if context else 1 / vocabulary
    length = len(context)
    after = Counter(
        text[i + length]
        for i in range(len(text) - length)
        if tuple(text[i : i + length]) == context
    )
    total, kinds = sum(after.values()), len(after)
    return (after[token] + kinds * shorter) / (total + kinds) if total else shorter


def test_the_ngram_model_is_its_definition_and_sums_to_one():
    text = np.random.default_rng(0).integers(0, 4, 60)
    model = WittenBell(text, vocabulary=5, order=3)
    for context in (
        (0, 1),
        (3, 3),
        (4, 4),
        (4, 2),
        (5, 5),
        (5, 1),
    ):  # 4 is never seen, 5 stands before the start
        found = np.exp(model.log_prob(np.array([[*context, token] for token in range(5)])))
        expected = [spelt_out(text.tolist(), context, token, 5) for token in range(5)]
        assert found == pytest.approx(expected, rel=1e-12)
        assert found.sum() == pytest.approx(1)


def test_gold_is_its_formula():
    gold, known = topics.Gold(), topics.tokenizer()
    prompt, response = "The value of", " the the the value"
    before, tokens = known(prompt).input_ids, known(response).input_ids
    row = [*before[-3:], *tokens]
    likely = [
        max(-7, gold.model.log_prob(np.array([row[i : i + 4]]))[0]) for i in range(len(tokens))
    ]
    pairs = list(pairwise(tokens))
    repeats = 4 * (1 - len(set(pairs)) / len(pairs)) + 2 * (1 - len(set(tokens)) / len(tokens))
    assert repeats > 0
    expected = sum(likely) / len(likely) - repeats + 2 * 0.7
    assert gold(Samples([prompt], [response])).item() == pytest.approx(expected, rel=1e-5)


def test_gold_of_odd_responses_is_finite_and_of_a_row_alone_the_same():
    samples = Samples(["The", "", "x"] * 2, ["", " is", "\ufffd\ufffd", "é☃", "\n", " a statement"])
    scores = topics.Gold()(samples)
    assert scores[0] == -7
    assert torch.isfinite(scores).all()
    alone = torch.cat([topics.Gold()(samples[[row]]) for row in range(6)])
    torch.testing.assert_close(alone, scores, rtol=0, atol=0)


def test_gold_prefers_the_corpus_to_its_shuffled_words_and_takes_5_ms():
    known, tokens, gold = topics.tokenizer(), topics._tokens(), topics.Gold()
    starts = range(0, 24 * 64 * 20, 24 * 20)
    prompts = known.batch_decode([tokens[start : start + 8].tolist() for start in starts])
    order = np.random.default_rng(0).permutation(16)
    real, shuffled = (
        Samples(
            prompts,
            known.batch_decode([tokens[start + 8 : start + 24][rows].tolist() for start in starts]),
        )
        for rows in (np.arange(16), order)
    )
    assert (gold(real) > gold(shuffled)).float().mean() > 0.95
    taken = []
    for _ in range(5):
        start = time.process_time()
        gold(real)
        taken.append(time.process_time() - start)
    assert min(taken) < 0.02  # 5 ms where nothing else runs


def test_prompts_are_8_tokens_as_cut_and_parts_share_none():
    train, held_out = topics.prompts("train"), topics.prompts("held_out")
    assert min(len(train) / 4, len(held_out)) > 1000
    assert len({*train, *held_out}) == len(train) + len(held_out)
    assert {len(ids) for ids in topics.tokenizer()(train + held_out).input_ids} == {8}
    assert topics.prompts("train", 5) == train[:5]
    with pytest.raises(InputError, match=r"n=99999\. Take fewer"):
        topics.prompts("held_out", 99999)


def test_the_same_seed_gives_the_same_world_anew(monkeypatch, tmp_path):
    def world():
        pairs = topics.preferences(40, seed=1, train_steps=STEPS)
        reward = topics.member_reward(2, pairs, extra=pairs[:4], epochs=1, train_steps=STEPS)
        return [topics.tokenizer().get_vocab(), topics.base_policy(STEPS), pairs, reward]

    first = [fingerprint(part) for part in world()]
    monkeypatch.setenv("REWARDLAB_CACHE", str(tmp_path))
    assert [fingerprint(part) for part in world()] == first
    assert len(list(tmp_path.iterdir())) == 4  # all were made anew


def test_members_start_alike_but_for_their_heads_and_learn_what_gold_prefers():
    one, other = (topics.member(seed, train_steps=STEPS) for seed in (0, 1))
    assert fingerprint(one.backbone) == fingerprint(other.backbone)
    assert not torch.equal(one.head, other.head)
    pairs = topics.preferences(200, train_steps=STEPS)
    gold = topics.Gold()
    assert (gold(pairs.chosen) >= gold(pairs.rejected)).all()
    reward = topics.member_reward(0, pairs, epochs=3, train_steps=STEPS)
    assert (reward(pairs.chosen) > reward(pairs.rejected)).float().mean() > 0.7
    assert not reward.training
    assert reward.score_std > 0


def test_a_frozen_member_trains_its_head_alone():
    pairs = topics.preferences(200, train_steps=STEPS)
    reward = topics.member_reward(
        0, pairs, frozen=True, epochs=5, learning_rate=1e-2, train_steps=STEPS
    )
    own, base = (
        module.state_dict()
        for module in (reward.backbone, topics.base_policy(STEPS).network.base_model)
    )
    assert all(torch.equal(own[name], base[name]) for name in base)
    assert (reward(pairs.chosen) > reward(pairs.rejected)).float().mean() > 0.55


def test_frozen_members_stand_on_one_backbone_and_others_on_their_own():
    one, other = (topics.member(seed, frozen=True, train_steps=STEPS) for seed in (1, 2))
    assert all(
        own is its
        for own, its in zip(one.backbone.parameters(), other.backbone.parameters(), strict=True)
    )
    free, another = (topics.member(seed, train_steps=STEPS) for seed in (1, 2))
    assert not any(
        own is its
        for own, its in zip(free.backbone.parameters(), another.backbone.parameters(), strict=True)
    )
