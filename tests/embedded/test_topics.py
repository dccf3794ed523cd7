"""The world of Python's help topics: gold against its definition, determinism, and its parts."""

import time
from collections import Counter
from itertools import pairwise

import numpy as np
import pytest
import torch

from rewardlab.embedded import topics
from rewardlab.embedded.gold import WittenBell
from rewardlab.embedded.topic_corpus import corpus_tokens
from rewardlab.errors import InputError
from rewardlab.provenance import fingerprint
from rewardlab.types import Samples

STEPS = 3  # of the base policy here: 700 take 15 seconds


@pytest.fixture(autouse=True, scope="module")
def own_cache(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("REWARDLAB_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


def defined_probability(text, context, token, vocabulary):
    """Return Witten and Bell's probability from its recursive definition, counting afresh."""
    shorter = 1 / vocabulary
    if context:
        shorter = defined_probability(text, context[1:], token, vocabulary)
    length = len(context)
    after = Counter()
    for start in range(len(text) - length):
        if tuple(text[start : start + length]) == context:
            after[text[start + length]] += 1
    total = after.total()
    kinds = len(after)
    if not total:
        return shorter
    return (after[token] + kinds * shorter) / (total + kinds)


# 4 is never seen, 5 stands before the start.
CONTEXTS = [(0, 1), (3, 3), (4, 4), (4, 2), (5, 5), (5, 1)]


@pytest.mark.parametrize("context", CONTEXTS)
def test_the_ngram_model_is_its_definition_and_sums_to_one(context):
    text = np.random.default_rng(0).integers(0, 4, 60)
    model = WittenBell(text, vocabulary=5, order=3)
    grams = np.array([[*context, token] for token in range(5)])
    probabilities = np.exp(model.log_prob(grams))
    expected = [defined_probability(text.tolist(), context, token, 5) for token in range(5)]
    assert probabilities == pytest.approx(expected, rel=1e-12)
    assert probabilities.sum() == pytest.approx(1)


def repeated_share(items):
    return 1 - len(set(items)) / len(items)


def test_gold_is_its_formula():
    gold = topics.Gold()
    bpe = topics.tokenizer()
    prompt = "The value of"
    response = " the the the value"
    tokens = bpe(response).input_ids
    row = [*bpe(prompt).input_ids[-3:], *tokens]
    log_probs = []
    for start in range(len(tokens)):
        gram = np.array([row[start : start + 4]])
        log_probs.append(max(-7, gold.model.log_prob(gram)[0]))
    repeats = 4 * repeated_share(list(pairwise(tokens))) + 2 * repeated_share(tokens)
    assert repeats > 0
    expected = sum(log_probs) / len(log_probs) - repeats + 2 * 0.7
    assert gold(Samples([prompt], [response])).item() == pytest.approx(expected, rel=1e-5)


def test_gold_of_odd_responses_is_finite_and_of_a_row_alone_the_same():
    samples = Samples(["The", "", "x"] * 2, ["", " is", "\ufffd\ufffd", "é☃", "\n", " a statement"])
    scores = topics.Gold()(samples)
    assert scores[0] == -7
    assert torch.isfinite(scores).all()
    alone = torch.cat([topics.Gold()(samples[[row]]) for row in range(6)])
    torch.testing.assert_close(alone, scores, rtol=0, atol=0)


def test_gold_prefers_the_corpus_to_its_shuffled_words_and_takes_5_ms():
    bpe = topics.tokenizer()
    gold = topics.Gold()
    tokens = corpus_tokens()
    chunks = [tokens[start : start + 24] for start in range(0, 24 * 64 * 20, 24 * 20)]
    order = np.random.default_rng(0).permutation(16)
    prompts = bpe.batch_decode([chunk[:8].tolist() for chunk in chunks])
    responses = bpe.batch_decode([chunk[8:].tolist() for chunk in chunks])
    mixed_responses = bpe.batch_decode([chunk[8:][order].tolist() for chunk in chunks])
    real = Samples(prompts, responses)
    shuffled = Samples(prompts, mixed_responses)
    assert (gold(real) > gold(shuffled)).float().mean() > 0.95
    seconds = []
    for _ in range(5):
        start = time.process_time()
        gold(real)
        seconds.append(time.process_time() - start)
    assert min(seconds) < 0.02  # 5 ms where nothing else runs


def test_prompts_are_8_tokens_as_cut_and_parts_share_none():
    train = topics.prompts("train")
    held_out = topics.prompts("held_out")
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
    assert len(list(tmp_path.glob("[!.]*"))) == 4  # all were made anew


def test_members_start_alike_but_for_their_heads_and_learn_what_gold_prefers():
    one = topics.member(0, train_steps=STEPS)
    other = topics.member(1, train_steps=STEPS)
    assert fingerprint(one.backbone) == fingerprint(other.backbone)
    assert not torch.equal(one.head, other.head)
    pairs = topics.preferences(200, train_steps=STEPS)
    gold = topics.Gold()
    assert (gold(pairs.chosen) >= gold(pairs.rejected)).all()
    reward = topics.member_reward(0, pairs, epochs=3, train_steps=STEPS)
    assert (reward(pairs.chosen) > reward(pairs.rejected)).float().mean() > 0.7
    assert not reward.training
    assert reward.score_std > 0


def test_another_family_is_another_network_of_the_same_world():
    """It is kept apart from the Llama, whose cache keeps its name, and learns from the same text."""
    llama, gpt2 = topics.base_policy(STEPS), topics.base_policy(STEPS, family="gpt2")
    kinds = [type(policy.network).__name__ for policy in (llama, gpt2)]
    assert kinds == ["LlamaForCausalLM", "GPT2LMHeadModel"]
    untrained = topics.base_policy(1, family="gpt2")
    chunks = torch.from_numpy(corpus_tokens()[:2400]).view(100, 24)
    with torch.no_grad():
        losses = []
        for policy in (untrained, gpt2):
            losses.append(policy.network(input_ids=chunks, labels=chunks).loss.item())
    assert losses[1] < losses[0] - 0.1
    members = [topics.member(seed, train_steps=STEPS, family="gpt2") for seed in (1, 2)]
    assert type(members[0].backbone).__name__ == "GPT2Model"
    weights = [next(member.backbone.parameters()) for member in members]
    assert torch.equal(*weights)
    assert not torch.equal(members[0].head, members[1].head)
    samples = Samples(topics.prompts("train", 2), [" statement", " of of of"])
    assert members[0](samples).isfinite().all()
    with pytest.raises(InputError, match="got 'bert'"):
        topics.base_policy(STEPS, family="bert")


def test_a_frozen_member_trains_its_head_alone():
    pairs = topics.preferences(200, train_steps=STEPS)
    reward = topics.member_reward(
        0, pairs, frozen=True, epochs=5, learning_rate=1e-2, train_steps=STEPS
    )
    backbone = reward.backbone.state_dict()
    base = topics.base_policy(STEPS).network.base_model.state_dict()
    assert all(torch.equal(backbone[name], base[name]) for name in base)
    assert (reward(pairs.chosen) > reward(pairs.rejected)).float().mean() > 0.55


def test_frozen_members_stand_on_one_backbone_and_others_on_their_own():
    def weights(seed, frozen):
        reward = topics.member(seed, frozen=frozen, train_steps=STEPS)
        return list(reward.backbone.parameters())

    frozen_pair = zip(weights(1, frozen=True), weights(2, frozen=True), strict=True)
    assert all(one is other for one, other in frozen_pair)
    free_pair = zip(weights(1, frozen=False), weights(2, frozen=False), strict=True)
    assert not any(one is other for one, other in free_pair)
