"""CausalLMPolicy's draws against enumerated distributions and plain transformers forwards."""

from __future__ import annotations

from itertools import product

import pytest
import torch
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from torch.testing import assert_close
from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerFast

from rewardlab.errors import InputError
from rewardlab.policies.causal_lm import CausalLMPolicy
from rewardlab.policies.decoding import pick
from rewardlab.policies.text import completes
from rewardlab.seeds import generators, row_seeds, uniform
from rewardlab.testing.tiny_text import tiny_causal_lm, tiny_tokenizer
from rewardlab.types import Samples

PROMPTS = ["a cat", "the dogs barked at", "z"]


def make(**options) -> CausalLMPolicy:
    options.setdefault("max_new_tokens", 6)
    return CausalLMPolicy(tiny_causal_lm(), tiny_tokenizer(), **options)


def drawn_tokens(trajectory) -> list[list[int]]:
    """Return each response's tokens, without padding."""
    lengths = trajectory.mask.sum(1).tolist()
    rows = trajectory.tensors["response"].tolist()
    return [row[:length] for row, length in zip(rows, lengths, strict=True)]


def absolute_positions() -> GPT2LMHeadModel:
    """Return a model whose states depend on a token's absolute position."""
    sizes = {"n_positions": 48, "n_embd": 16, "n_layer": 2, "n_head": 2, "initializer_range": 0.5}
    config = GPT2Config(vocab_size=259, bos_token_id=258, eos_token_id=256, **sizes)
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(0)
        return GPT2LMHeadModel(config)


def test_positions_start_at_the_prompts_first_token_and_move_on_in_drawing():
    """A model with absolute positions draws, beside longer rows, what it predicts alone."""
    model = absolute_positions()
    policy = CausalLMPolicy(model, tiny_tokenizer(), max_new_tokens=8, top_k=1)
    samples = policy.generate(PROMPTS, seeds=row_seeds(0, 3))
    responses = drawn_tokens(policy._rollout(PROMPTS, row_seeds(0, 3), top_k=1))
    assert samples.facts["length"].tolist() == [len(response) for response in responses]
    for prompt, response in zip(PROMPTS, responses, strict=True):
        tokens = list(prompt.encode())
        for token in response:
            logits = model(torch.tensor([tokens])).logits
            assert logits[0, -1].argmax() == token
            tokens.append(token)


WORDS = ["a", "b", "c", "d", "e"]
END = len(WORDS)


def few_words(**options) -> CausalLMPolicy:
    """Return a policy over five words and an end token."""
    vocabulary = {word: number for number, word in enumerate([*WORDS, "<end>"])}
    inner = Tokenizer(WordLevel(vocabulary, unk_token="a"))
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=inner, eos_token="<end>")
    model = tiny_causal_lm(vocabulary=6, width=16, layers=1, scale=0.2)
    return CausalLMPolicy(model, tokenizer, max_new_tokens=2, **options)


@pytest.mark.parametrize("temperature", [1.0, 0.5])
def test_samples_have_the_distribution_that_is_scored(temperature):
    """Chi-square of 4,000 responses against exp(log_prob) of the 31 that are possible.

    A response has up to two tokens. With 30 degrees of freedom 70 is passed by chance once in
    20,000 times.
    """
    count = 4000
    policy = few_words(temperature=temperature)
    trajectory = policy.sample(["b"] * count, seeds=row_seeds(0, count))
    outcomes = [(END,), *product(range(END), range(END + 1))]
    responses = [tuple(tokens) for tokens in drawn_tokens(trajectory)]
    assert set(responses) <= set(outcomes)
    observed = torch.zeros(len(outcomes))
    expected = torch.zeros(len(outcomes))
    for number, outcome in enumerate(outcomes):
        observed[number] = responses.count(outcome)
        if outcome in responses:
            row = responses.index(outcome)
            log_prob = policy.log_prob(trajectory[[row]]).detach().sum()
            expected[number] = count * log_prob.exp()
    often = expected >= 5
    rest_expected = (count - expected[often].sum()).clamp_min(1)
    pooled_expected = torch.cat([expected[often], rest_expected[None]])
    pooled_observed = torch.cat([observed[often], observed[~often].sum()[None]])
    chi_square = ((pooled_observed - pooled_expected).square() / pooled_expected).sum()
    assert often.sum() > 12
    assert chi_square < 70


def test_a_rows_numbers_are_the_same_bits_in_any_batch_and_however_many_are_drawn():
    seeds = row_seeds(0, 4)
    numbers = uniform((7,), generators(seeds), dtype=torch.float64)
    alone = uniform((7,), generators(seeds[[2]]), dtype=torch.float64)
    fewer = uniform((3,), generators(seeds), dtype=torch.float64)
    assert numbers.dtype == torch.float64
    assert torch.equal(numbers[2:3], alone)
    assert torch.equal(numbers[:, :3], fewer)


def test_every_token_is_picked_as_often_as_the_softmax_says_and_a_forbidden_one_never():
    """Numbers on a grid of 10,000 leave each count within 1 of its share.

    The ends of the grid pick the first and the last token that are allowed.
    """
    logits = torch.randn(1, 50, generator=torch.Generator().manual_seed(0))
    logits[0, [0, 20, 49]] = -torch.inf
    grid = torch.arange(10_000, dtype=torch.float64) / 10_000
    counts = torch.bincount(pick(logits.expand(10_000, -1), grid), minlength=50)
    shares = logits[0].double().softmax(0)
    assert ((counts - 10_000 * shares).abs() <= 1).all()
    ends = torch.tensor([0.0, 1 - 2**-53], dtype=torch.float64)
    assert pick(logits.expand(2, -1), ends).tolist() == [1, 48]


@pytest.mark.parametrize("vocabulary", [1, 50, 64, 65, 1000])
def test_a_token_is_the_one_at_which_the_sum_over_all_tokens_passes_the_number(vocabulary):
    """Blocks of tokens are a way to the same sum; whole blocks may be forbidden."""
    generator = torch.Generator().manual_seed(vocabulary)
    logits = 3 * torch.randn(2000, vocabulary, generator=generator)
    logits[:, 70:200] = -torch.inf
    numbers = torch.rand(2000, generator=generator, dtype=torch.float64)
    sums = logits.double().softmax(1).cumsum(1)
    tokens = pick(logits, numbers)
    assert (sums.gather(1, tokens[:, None])[:, 0] > numbers - 1e-6).all()
    before = sums.gather(1, (tokens - 1).clamp(min=0)[:, None])[:, 0].where(tokens > 0, 0)
    assert (before < numbers + 1e-6).all()
    assert logits.gather(1, tokens[:, None]).isfinite().all()


@pytest.mark.parametrize("position", [0, 99])
def test_a_number_that_is_no_number_picks_no_token(position):
    logits = torch.zeros(2, 100)
    logits[0, position] = torch.nan
    assert pick(logits, torch.tensor([0.5, 0.5], dtype=torch.float64))[0] >= 100


def test_logits_that_are_not_finite_are_refused_before_the_next_token_is_looked_up():
    policy = make()
    with torch.no_grad():
        policy.network.get_output_embeddings().weight[3, 0] = torch.nan
    with pytest.raises(InputError, match="logits are not finite"):
        policy.generate(["a"], seeds=row_seeds(0, 1))


def test_deterministic_algorithms_draw_the_same_tokens():
    policy = make()
    seeds = row_seeds(0, 3)
    plain = policy.generate(PROMPTS, seeds=seeds).outputs
    torch.use_deterministic_algorithms(True)
    try:
        assert policy.generate(PROMPTS, seeds=seeds).outputs == plain
    finally:
        torch.use_deterministic_algorithms(False)


def test_a_row_is_the_same_beside_longer_prompts_and_in_micro_batches():
    policy = make()
    seeds = row_seeds(2, 3)
    whole = policy.generate(PROMPTS, seeds=seeds)
    for row in range(3):
        alone = policy.generate([PROMPTS[row]], seeds=seeds[[row]])
        assert alone.outputs == [whole.outputs[row]]
    policy.micro_batch = 2
    assert policy.generate(PROMPTS, seeds=seeds).outputs == whole.outputs


def test_samples_of_one_prompt_differ_by_their_seeds():
    policy = make()
    seeds = row_seeds(0, 6)
    samples = policy.generate(["a cat"] * 6, seeds=seeds)
    assert len(set(samples.outputs)) == 6
    twice = policy.generate(["a cat"] * 2, seeds=seeds[[4, 4]])
    assert twice.outputs == [samples.outputs[4]] * 2


def test_samples_of_a_shared_prompt_are_those_of_each_prompt_alone():
    policy = make()
    seeds = row_seeds(0, 6)
    prompts = ["a cat"] * 3 + ["the dogs barked at"] * 3
    together = policy.generate(prompts, seeds=seeds).outputs
    for row, prompt in enumerate(prompts):
        assert policy.generate([prompt], seeds=seeds[[row]]).outputs == [together[row]]


def test_rows_that_ended_leave_the_batch_and_the_others_draw_on_as_alone():
    policy = few_words()
    policy.max_new_tokens = 12
    prompts = ["a b", "c", "a b d"] * 8
    seeds = row_seeds(3, len(prompts))
    sizes = []
    record = policy.network.base_model.register_forward_pre_hook(
        lambda network, arguments, options: sizes.append(len(options["input_ids"])),
        with_kwargs=True,
    )
    together = drawn_tokens(policy._rollout(prompts, seeds))
    record.remove()
    assert sizes[1:] == sorted(sizes[1:], reverse=True)  # the first is of distinct prompts
    assert sizes[-1] <= sizes[1] / 4
    for row, prompt in enumerate(prompts):
        [alone] = drawn_tokens(policy._rollout([prompt], seeds[row : row + 1]))
        assert together[row] == alone


def test_an_end_token_is_a_step_and_finishes_a_row():
    trajectory = few_words().sample(["b"] * 50, seeds=row_seeds(0, 50))
    lengths = trajectory.facts["length"]
    finished = trajectory.facts["finished"]
    assert torch.equal(lengths, trajectory.mask.sum(1))
    last = trajectory.tensors["response"].gather(1, lengths[:, None] - 1)[:, 0]
    assert torch.equal(finished, last == END)
    assert 0 < finished.sum() < 50
    assert (lengths == 1).any(), "no row ended at once"
    assert torch.equal(trajectory.facts["seed"], row_seeds(0, 50))


def usable_stop(texts) -> str:
    """Return an ASCII character that some text has first at its fourth place."""
    for text in texts:
        if len(text) > 4 and text[3].isascii() and text[3] not in text[:3]:
            return text[3]
    raise AssertionError("no text has one; take other seeds")


def test_a_stop_string_ends_a_row_and_is_cut_off():
    seeds = row_seeds(0, 8)
    free = make(max_new_tokens=12).generate(["a"] * 8, seeds=seeds)
    stop = usable_stop(free.outputs)
    policy = make(max_new_tokens=12, stop=["never this", stop])
    samples = policy.decode(policy.sample(["a"] * 8, seeds=seeds))
    assert samples.outputs == [text.split(stop)[0] for text in free.outputs]
    lengths = samples.facts["length"].tolist()
    for text, whole, length in zip(samples.outputs, free.outputs, lengths, strict=True):
        if stop in whole and "\ufffd" not in text:
            assert length >= len(text.encode()) + 1
    assert samples.facts["finished"].any()


def test_a_stop_string_is_found_across_tokens_and_inside_none_other():
    tokenizer = tiny_tokenizer()
    tokens = tokenizer("so long\n\nUser").input_ids
    assert completes(tokenizer, tokens, ["\n\nUser"])
    assert not completes(tokenizer, tokens[:-1], ["\n\nUser", "xyz"])
    assert not completes(tokenizer, tokens, [])


def test_a_row_stops_at_the_end_of_the_context():
    policy = CausalLMPolicy(tiny_causal_lm(context=8), tiny_tokenizer(), max_new_tokens=6)
    samples = policy.generate(["abcdef", "a"], seeds=row_seeds(0, 2))
    assert samples.facts["length"].tolist() == [2, 6]
    alone = policy.generate(["a"], seeds=row_seeds(0, 2)[1:])
    assert alone.outputs == samples.outputs[1:]


def test_extending_stops_at_the_end_of_the_context():
    """Outputs that fill the context, or are longer, come back as they are."""
    policy = CausalLMPolicy(tiny_causal_lm(context=8), tiny_tokenizer(), max_new_tokens=6)
    full = Samples(["abcdef", "abcdef"], ["gh", "ghi"])
    extended = policy.extend(full, 3, seeds=row_seeds(0, 2))
    assert extended.outputs == full.outputs
    assert extended.facts["length"].tolist() == [2, 3]
    assert not extended.facts["finished"].any()


def test_rollouts_refuse_truncation_and_generation_truncates():
    policy = make(top_k=1)
    with pytest.raises(InputError, match="top_k=1"):
        policy.sample(PROMPTS, seeds=row_seeds(0, 3))
    greedy = policy.generate(["a cat"] * 4, seeds=row_seeds(0, 4))
    assert len(set(greedy.outputs)) == 1
    nucleus = make(top_p=1e-6).generate(["a cat"] * 4, seeds=row_seeds(0, 4))
    assert nucleus.outputs == greedy.outputs


def test_gradient_checkpointing_changes_no_gradient_and_drawing_still_uses_the_cache():
    outputs = []
    gradients = []
    samples = Samples(PROMPTS, ["sat.", "", "ran away, very far"])
    for checkpointing in (False, True):
        policy = make(gradient_checkpointing=checkpointing)
        modes = [part.training for part in policy.modules()]
        assert any(part.training for part in policy.network.modules()) == checkpointing
        outputs.append(policy.generate(PROMPTS, seeds=row_seeds(0, 3)).outputs)
        outputs.append(policy.extend(samples, 2, seeds=row_seeds(0, 3)).outputs)
        assert [part.training for part in policy.modules()] == modes
        policy.log_prob(policy.encode(samples, seeds=row_seeds(0, 3))).sum().backward()
        gradients.append(policy.network.model.layers[0].self_attn.q_proj.weight.grad)
    assert outputs[:2] == outputs[2:]
    assert_close(gradients[0], gradients[1])


def test_no_prompt_gives_no_sample():
    assert len(make().generate([], seeds=row_seeds(0, 0))) == 0
