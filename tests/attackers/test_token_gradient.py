"""The gradient attack on text: its gradient, its one step, its gate, and what it leaves alone."""

from contextlib import contextmanager

import pytest
import torch
from torch import nn
from torch.testing import assert_close

from rewardlab import InputError, Samples
from rewardlab.attackers import TokenGradient
from rewardlab.attackers.token_swaps import swap_gains
from rewardlab.audits import make_attacker
from rewardlab.mining import candidates
from rewardlab.networks import packing
from rewardlab.networks.tokens import padded
from rewardlab.policies import CallableGenerator, CausalLMPolicy
from rewardlab.provenance import fingerprint
from rewardlab.rewards import (
    Attack,
    EmbedsTokens,
    LanguageReward,
    Length,
    Relative,
    Reward,
)
from rewardlab.rewards.formatting import TokenRows, token_ids
from rewardlab.testing import tiny_causal_lm, tiny_tokenizer

SAMPLES = Samples(["say it", "go", "say it"], ["hello", "abc abc", "what?"])


class Counts(Reward, EmbedsTokens):
    """How many bytes of a response are one of these, as a linear function of embeddings."""

    def __init__(self, letters, tokenizer=None):
        super().__init__()
        self.tokenizer = tokenizer or tiny_tokenizer()
        self.embed = nn.Embedding(259, 2)
        nn.init.zeros_(self.embed.weight)
        with torch.no_grad():
            self.embed.weight[list(map(ord, letters)), 0] = 1.0
        self.kept = None

    def forward(self, samples):
        rows = self.token_rows(samples)
        embeddings = self.embed(padded(rows.ids, 257).ids)
        if self.kept is not None:
            embeddings = embeddings.detach().requires_grad_()
            self.kept.append(embeddings)
        columns = torch.arange(embeddings.shape[1])
        is_response = columns >= torch.tensor(rows.starts)[:, None]
        return embeddings[:, :, 0].where(is_response, 0).sum(1)

    def token_rows(self, samples):
        rows = token_ids(self.tokenizer, samples.prompts, list(samples.outputs))
        return TokenRows(rows.ids, rows.starts)

    @contextmanager
    def embedded(self):
        self.kept = []
        yield self.kept
        self.kept = None

    def token_embeddings(self):
        return self.embed.weight.detach()


def policy(**options):
    return CausalLMPolicy(tiny_causal_lm(), tiny_tokenizer(), max_new_tokens=6, **options)


def language(seed=1, **options):
    return LanguageReward(tiny_causal_lm(seed=seed), tiny_tokenizer(), seed=seed, **options).eval()


@pytest.mark.parametrize("swaps", [1, 16])
def test_it_finds_the_token_that_a_reward_counts_in_one_step(swaps):
    attacker = TokenGradient(steps=1, top=4, swaps=swaps)
    found = attacker.climb(policy(), Counts("z"), SAMPLES, seed=0)
    assert [text.count("z") for text in found.outputs] == [1, 1, 1]
    assert [len(text) for text in found.outputs] == [5, 7, 5]
    for text, before in zip(found.outputs, SAMPLES.outputs, strict=True):
        assert sum(a != b for a, b in zip(text, before, strict=True)) == 1


def test_steps_add_up_and_end_at_the_best():
    found = TokenGradient(steps=7, top=1, swaps=4).climb(policy(), Counts("z"), SAMPLES, seed=0)
    assert found.outputs == ["zzzzz", "zzzzzzz", "zzzzz"]


def test_a_suffix_leaves_the_text_before_it_alone():
    attacker = TokenGradient(steps=3, top=4, swaps=8, suffix=2)
    found = attacker.climb(policy(), Counts("z"), SAMPLES, seed=0)
    for text, before in zip(found.outputs, SAMPLES.outputs, strict=True):
        assert text.startswith(before)
        assert text[len(before) :].count("z") == 3
        assert len(text) == len(before) + 4  # " !" is two bytes


def one_hot_gradient(reward, samples):
    """The gradient of each score by the one-hot of each token, by the transformer's own input."""
    network, head = reward.backbone, reward.head
    tables = []
    rows = reward.token_rows(samples)
    for ids, start in zip(rows.ids, rows.starts, strict=True):
        one_hot = torch.eye(259)[ids].requires_grad_()
        embeddings = one_hot @ network.get_input_embeddings().weight.detach()
        states = network(inputs_embeds=embeddings[None]).last_hidden_state[0]
        state = states[-1] if reward.pooling == "last" else states[start:].mean(0)
        score = (state @ head.T).mean()
        (gradient,) = torch.autograd.grad(score, one_hot)
        tables.append(gradient - gradient.gather(1, torch.tensor(ids)[:, None]))
    return tables


@pytest.mark.parametrize(
    "options",
    [{"frozen": True}, {"lora_rank": 2}, {"heads": 2}, {"frozen": True, "pooling": "mean"}],
)
def test_gains_are_the_gradient_by_the_one_hot(options):
    reward = language(**options)
    expected = one_hot_gradient(reward, SAMPLES)
    for gains, table in zip(swap_gains(reward, SAMPLES), expected, strict=True):
        assert table.abs().max() > 0
        assert_close(gains.table, table, atol=1e-5, rtol=1e-4)
    with torch.no_grad():
        assert not reward(SAMPLES).requires_grad
    assert not reward._embeds


def test_an_attack_is_climbed_as_a_whole_and_its_gate_closes_the_witness():
    references = candidates(policy(), ["say it", "go"], 4, seed=0)
    target, witness = language(seed=1, frozen=True), language(seed=2, frozen=True)
    first, second = Relative(target, references), Relative(witness, references)
    attack = Attack(first, second, weight=0.7)
    own = attack.parts(SAMPLES)[:, 0].detach()
    middle = float(own.median())
    gated = Attack(first, second, weight=0.7, threshold=middle - 1e-4)
    of_target, of_witness = one_hot_gradient(target, SAMPLES), one_hot_gradient(witness, SAMPLES)
    is_open = own > gated.threshold
    assert is_open.any()
    assert not is_open.all()
    for i, gains in enumerate(swap_gains(gated, SAMPLES)):
        expected = of_target[i] / first.deviations
        if is_open[i]:
            expected = expected - 0.7 * of_witness[i] / second.deviations
        assert_close(gains.table, expected, atol=1e-4, rtol=1e-3)


def test_no_score_falls_and_nothing_else_changes():
    references = candidates(policy(), ["say it", "go"], 4, seed=0)
    rewards = [language(seed=seed, frozen=True).train() for seed in (1, 2)]
    attack = Attack(*[Relative(reward, references) for reward in rewards])
    generator = policy()
    attacker = TokenGradient(steps=3, top=16, swaps=16, n=2, keep=1)
    prints = [fingerprint(part) for part in (generator, attack)]
    state = torch.get_rng_state()
    found = attacker(generator, attack, ["say it", "go"], 3)
    assert torch.equal(torch.get_rng_state(), state)
    assert [fingerprint(part) for part in (generator, attack)] == prints
    assert rewards[0].training
    drawn = candidates(generator, ["say it", "go"], 2, 3)
    climbed = attacker.climb(generator, attack, drawn, 3)
    assert (attack.eval()(climbed) >= attack(drawn)).all()
    assert (attack(climbed) > attack(drawn) + 1).any()
    assert_close(found.facts["attack"], attack(climbed).view(2, 2).amax(1))
    assert_close(found.facts["target"], attack.target(found))
    assert attacker(generator, attack, ["say it", "go"], 3).outputs == found.outputs
    lengths = generator.encode(climbed, seeds=torch.zeros(4, dtype=torch.long)).mask.sum(1)
    for i, text in enumerate(climbed.outputs):
        expected = drawn.facts["length"][i] if text == drawn.outputs[i] else lengths[i]
        assert climbed.facts["length"][i] == expected


def test_fluency_counts_the_log_probability_under_the_policy():
    generator = policy()

    def log_prob(texts):
        trajectory = generator.encode(texts, seeds=torch.zeros(3, dtype=torch.long))
        return generator.log_prob(trajectory).where(trajectory.mask, 0).sum(1).detach()

    wild = TokenGradient(steps=3, swaps=32).climb(generator, Counts("z"), SAMPLES, 0)
    tame = TokenGradient(steps=3, swaps=32, fluency=1e3).climb(generator, Counts("z"), SAMPLES, 0)
    assert (log_prob(wild) < log_prob(SAMPLES)).any()
    assert (log_prob(tame) >= log_prob(SAMPLES)).all()


def test_the_prompt_of_a_text_s_swaps_is_run_once(monkeypatch):
    responses = []
    pack = packing.packed

    def counted(rows, *arguments):
        table = pack(rows, *arguments)
        responses.append(len(rows) / len(table.ids))
        return table

    monkeypatch.setattr(packing, "packed", counted)
    samples = Samples(["a long prompt, which all of the swaps share"], ["hello"])
    TokenGradient(steps=1, top=8, swaps=8).climb(policy(), language(frozen=True), samples, 0)
    assert max(responses) > 1


def test_other_vocabularies_count_in_scores_alone():
    references = Samples(["go"] * 2, ["zz", "z"])
    other = tiny_tokenizer()
    other.add_tokens(["<|more|>"])
    both = Attack(
        Relative(Counts("z"), references), Relative(Counts("z", other), references), weight=2.0
    )
    alone = Relative(Counts("z"), references)
    samples = Samples(["go"], ["zzz"])
    [gains] = swap_gains(both, samples)
    [expected] = swap_gains(alone, samples)
    assert torch.equal(gains.table, expected.table)


def test_bad_input_is_refused_in_a_sentence():
    with pytest.raises(InputError, match="at least 1"):
        TokenGradient(top=0)
    with pytest.raises(InputError, match="Take RandomEdits"):
        TokenGradient()(policy(), Length(), ["go"], 0)
    pictures = Samples([""], torch.rand(1, 3, 4, 4))
    with pytest.raises(InputError, match="TokenGradient"):
        TokenGradient().climb(policy(), Counts("z"), pictures, 0)
    generator = CallableGenerator(lambda prompts, seeds: ["hello"] * len(prompts))
    with pytest.raises(InputError, match="asks the policy for log-probabilities"):
        TokenGradient(fluency=1.0)(generator, Counts("z"), ["go"], 0)
    assert TokenGradient(steps=1)(generator, Counts("z"), ["go"], 0).outputs[0].count("z") == 1

    class Blind(Counts):
        def forward(self, samples):
            return super().forward(samples).detach()

    with pytest.raises(InputError, match="no gradient to token embeddings"):
        TokenGradient()(generator, Blind("z"), ["go"], 0)
    assert make_attacker("token_gradient", policy(), n=3) == TokenGradient(n=3)
