"""CausalLMPolicy against plain transformers forwards, enumerated distributions and the conformance
class.
"""

from __future__ import annotations

from itertools import product

import pytest
import torch
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from torch.nn.functional import cross_entropy
from torch.testing import assert_close
from transformers import (
    AutoModelForCausalLM,
    Gemma2Config,
    Gemma2ForCausalLM,
    GPT2Config,
    GPT2LMHeadModel,
    PreTrainedTokenizerFast,
)

from rewardlab.errors import InputError
from rewardlab.losses import nll_loss
from rewardlab.networks import sharing
from rewardlab.policies.causal_lm import CausalLMPolicy
from rewardlab.policies.decoding import completes, pick, uniform
from rewardlab.seeds import row_seeds
from rewardlab.testing import PolicyConformance
from rewardlab.testing.tiny_text import tiny_causal_lm, tiny_tokenizer
from rewardlab.types import Samples

PROMPTS = ["a cat", "the dogs barked at", "z"]
RESPONSES = ["sat.", "", "ran away, very far"]


def make(chat: bool = False, seed: int = 0, scale: float = 0.3, **options) -> CausalLMPolicy:
    options.setdefault("max_new_tokens", 6)
    return CausalLMPolicy(tiny_causal_lm(seed, scale=scale), tiny_tokenizer(chat=chat), **options)


def encoded(policy: CausalLMPolicy, prompts=PROMPTS, responses=RESPONSES):
    return policy.encode(
        Samples(prompts, responses), seeds=torch.zeros(len(prompts), dtype=torch.long)
    )


def plain(
    policy: CausalLMPolicy, prompt: str, response: str, temperature: float = 1.0
) -> torch.Tensor:
    """Log-probabilities of a response's bytes and its end, by a forward of transformers over the
    one row, unpadded.
    """
    before, after = list(prompt.encode()), [*response.encode(), 256]
    with torch.no_grad():
        logits = (
            policy.network(torch.tensor([before + after])).logits[0, len(before) - 1 : -1].float()
            / temperature
        )
    return -cross_entropy(logits, torch.tensor(after), reduction="none")


class TestPlain(PolicyConformance):
    def make(self):
        return make(value_head=True)


class TestAdapter(PolicyConformance):
    def make(self):
        return make(lora_rank=2)


class TestChatTemplate(PolicyConformance):
    def make(self):
        return make(chat=True, temperature=0.8, stop=["qq"])


@pytest.mark.parametrize("temperature", [1.0, 0.6])
def test_log_prob_is_the_cross_entropy_of_a_plain_forward_whatever_the_padding(temperature):
    policy = make(temperature=temperature)
    trajectory = encoded(policy)
    log_prob = policy.log_prob(trajectory)
    assert log_prob.dtype == torch.float32
    for row, (prompt, response) in enumerate(zip(PROMPTS, RESPONSES, strict=True)):
        assert_close(
            log_prob[row][trajectory.mask[row]],
            plain(policy, prompt, response, temperature),
            atol=1e-5,
            rtol=1e-5,
        )
    assert (log_prob[~trajectory.mask] == 0).all()
    mean = torch.cat(
        [plain(policy, *row, temperature) for row in zip(PROMPTS, RESPONSES, strict=True)]
    ).mean()
    assert_close(nll_loss(log_prob, trajectory.mask), -mean)


def test_positions_start_at_the_prompts_first_token_and_move_on_in_drawing():
    """A model with absolute positions scores padded rows as alone, and draws greedily what plain
    forwards draw.
    """
    sizes = {"n_positions": 48, "n_embd": 16, "n_layer": 2, "n_head": 2, "initializer_range": 0.5}
    config = GPT2Config(vocab_size=259, bos_token_id=258, eos_token_id=256, **sizes)
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(0)
        model = GPT2LMHeadModel(config)
    policy = CausalLMPolicy(model, tiny_tokenizer(), max_new_tokens=8)
    trajectory = encoded(policy)
    log_prob = policy.log_prob(trajectory)
    for row, (prompt, response) in enumerate(zip(PROMPTS, RESPONSES, strict=True)):
        assert_close(
            log_prob[row][trajectory.mask[row]],
            plain(policy, prompt, response),
            atol=1e-4,
            rtol=1e-4,
        )
    drawn = policy._drawn(PROMPTS, row_seeds(0, 3), top_k=1)
    for row, prompt in enumerate(PROMPTS):
        tokens = list(prompt.encode())
        for token in drawn.tensors["response"][row][drawn.mask[row]].tolist():
            assert model(torch.tensor([tokens])).logits[0, -1].argmax() == token
            tokens.append(token)


def test_gradients_are_those_of_the_plain_forward():
    policy = make(temperature=0.7)
    trajectory = encoded(policy, PROMPTS[:1], RESPONSES[:1])
    weights = [
        policy.network.lm_head.weight,
        policy.network.model.layers[0].self_attn.q_proj.weight,
    ]
    ours = torch.autograd.grad(policy.log_prob(trajectory).sum(), weights)
    before, after = list(PROMPTS[0].encode()), [*RESPONSES[0].encode(), 256]
    logits = policy.network(torch.tensor([before + after])).logits[0, len(before) - 1 : -1] / 0.7
    theirs = torch.autograd.grad(
        -cross_entropy(logits, torch.tensor(after), reduction="sum"), weights
    )
    assert_close(ours, theirs, rtol=1e-4, atol=1e-6)


def test_log_prob_and_entropy_are_trls():
    from trl.trainer.utils import entropy_from_logits, selective_log_softmax

    policy = make(temperature=0.9)
    trajectory = encoded(policy)
    log_prob, entropy = policy.log_prob(trajectory), policy.entropy(trajectory)
    for row, (prompt, response) in enumerate(zip(PROMPTS, RESPONSES, strict=True)):
        tokens = torch.tensor([[*prompt.encode(), *response.encode(), 256]])
        logits = policy.network(tokens).logits[:, len(prompt) - 1 : -1] / 0.9
        theirs = selective_log_softmax(logits, tokens[:, len(prompt) :])[0]
        assert_close(log_prob[row][trajectory.mask[row]], theirs, atol=1e-5, rtol=1e-5)
        assert_close(
            entropy[row][trajectory.mask[row]], entropy_from_logits(logits)[0], atol=1e-5, rtol=1e-5
        )


def test_a_sampled_trajectory_scores_as_its_encoding_does():
    policy = make().eval()
    trajectory = policy.sample(PROMPTS, seeds=row_seeds(1, 3))
    log_prob = policy.log_prob(trajectory)
    for row in range(3):
        tokens = [*PROMPTS[row].encode(), *trajectory.tensors["response"][row].tolist()]
        logits = policy.network(torch.tensor([tokens])).logits[0, len(PROMPTS[row]) - 1 : -1]
        expected = logits.log_softmax(1).gather(1, trajectory.tensors["response"][row][:, None])[
            :, 0
        ]
        assert_close(
            log_prob[row][trajectory.mask[row]],
            expected[trajectory.mask[row]],
            atol=1e-5,
            rtol=1e-5,
        )


WORDS = ["a", "b", "c", "d", "e"]


def few_words(**options) -> CausalLMPolicy:
    """A policy over five words and an end token."""
    inner = Tokenizer(
        WordLevel({word: i for i, word in enumerate([*WORDS, "<end>"])}, unk_token="a")
    )
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=inner, eos_token="<end>")
    return CausalLMPolicy(
        tiny_causal_lm(vocabulary=6, width=16, layers=1, scale=0.2),
        tokenizer,
        max_new_tokens=2,
        **options,
    )


@pytest.mark.parametrize("temperature", [1.0, 0.5])
def test_samples_have_the_distribution_that_is_scored(temperature):
    """Chi-square of 4,000 responses of up to two tokens against exp(log_prob) of the 31 possible
    ones.

    With 30 degrees of freedom 70 is passed by chance once in 20,000 times.
    """
    policy, count = few_words(temperature=temperature), 4000
    trajectory = policy.sample(["b"] * count, seeds=row_seeds(0, count))
    drawn = [
        tuple(row[: sum(mask)])
        for row, mask in zip(
            trajectory.tensors["response"].tolist(), trajectory.mask.tolist(), strict=True
        )
    ]
    outcomes = [(5,), *product(range(5), range(6))]
    assert set(drawn) <= set(outcomes)
    rows = [
        next((i for i, row in enumerate(drawn) if row == outcome), None) for outcome in outcomes
    ]
    seen = [row for row in rows if row is not None]
    log_prob = policy.log_prob(trajectory[seen]).detach().sum(1)
    expected = torch.zeros(len(outcomes))
    expected[[i for i, row in enumerate(rows) if row is not None]] = count * log_prob.exp()
    observed = torch.tensor([drawn.count(outcome) for outcome in outcomes], dtype=torch.float32)
    often = expected >= 5
    pooled = torch.cat([expected[often], (count - expected[often].sum()).clamp_min(1)[None]])
    chi_square = (
        (torch.cat([observed[often], observed[~often].sum()[None]]) - pooled).square() / pooled
    ).sum()
    assert often.sum() > 12
    assert chi_square < 70


def test_a_rows_numbers_are_the_same_bits_in_any_batch_and_however_many_are_drawn():
    seeds = row_seeds(0, 4)
    assert torch.equal(uniform(seeds, 7)[2:3], uniform(seeds[[2]], 7))
    assert torch.equal(uniform(seeds, 7)[:, :3], uniform(seeds, 3))


def test_every_token_is_picked_as_often_as_the_softmax_says_and_a_forbidden_one_never():
    """Numbers on a grid of 10,000 leave each count within 1 of its share; the ends are the first
    and last that may be.
    """
    logits = torch.randn(1, 50, generator=torch.Generator().manual_seed(0))
    logits[0, [0, 20, 49]] = -torch.inf
    grid = torch.arange(10_000, dtype=torch.float64) / 10_000
    counts = torch.bincount(pick(logits.expand(10_000, -1), grid), minlength=50)
    assert ((counts - 10_000 * logits[0].double().softmax(0)).abs() <= 1).all()
    assert pick(
        logits.expand(2, -1), torch.tensor([0.0, 1 - 2**-53], dtype=torch.float64)
    ).tolist() == [1, 48]


def test_logits_that_are_not_finite_are_refused_before_the_next_token_is_looked_up():
    policy = make()
    with torch.no_grad():
        policy.network.get_output_embeddings().weight[3, 0] = torch.nan
    with pytest.raises(InputError, match="logits are not finite"):
        policy.generate(["a"], seeds=row_seeds(0, 1))


def test_deterministic_algorithms_draw_the_same_tokens():
    policy, seeds = make(), row_seeds(0, 3)
    plain = policy.generate(PROMPTS, seeds=seeds).outputs
    torch.use_deterministic_algorithms(True)
    try:
        assert policy.generate(PROMPTS, seeds=seeds).outputs == plain
    finally:
        torch.use_deterministic_algorithms(False)


def test_a_row_is_the_same_beside_longer_prompts_and_in_micro_batches():
    policy, seeds = make(), row_seeds(2, 3)
    whole = policy.generate(PROMPTS, seeds=seeds)
    for row in range(3):
        assert (
            policy.generate(PROMPTS[row : row + 1], seeds=seeds[row : row + 1]).outputs
            == whole.outputs[row : row + 1]
        )
    policy.micro_batch = 2
    assert policy.generate(PROMPTS, seeds=seeds).outputs == whole.outputs


def test_samples_of_one_prompt_differ_by_their_seeds():
    policy = make()
    samples = policy.generate(["a cat"] * 6, seeds=row_seeds(0, 6))
    assert len(set(samples.outputs)) == 6
    twin = policy.generate(["a cat"] * 2, seeds=row_seeds(0, 6)[[4, 4]])
    assert twin.outputs == [samples.outputs[4]] * 2


def test_an_end_token_is_a_step_and_finishes_a_row():
    policy = few_words()
    trajectory = policy.sample(["b"] * 50, seeds=row_seeds(0, 50))
    lengths, finished = trajectory.facts["length"], trajectory.facts["finished"]
    assert torch.equal(lengths, trajectory.mask.sum(1))
    last = trajectory.tensors["response"].gather(1, lengths[:, None] - 1)[:, 0]
    assert torch.equal(finished, last == 5)
    assert 0 < finished.sum() < 50
    assert (lengths == 1).any(), "no row ended at once"
    assert torch.equal(trajectory.facts["seed"], row_seeds(0, 50))


def test_a_stop_string_ends_a_row_and_is_cut_off():
    free = make(max_new_tokens=12).generate(["a"] * 8, seeds=row_seeds(0, 8))
    stop = next(
        text[3]
        for text in free.outputs
        if len(text) > 4 and text[3].isascii() and text[3] not in text[:3]
    )
    policy = make(max_new_tokens=12, stop=["never this", stop])
    trajectory = policy.sample(["a"] * 8, seeds=row_seeds(0, 8))
    samples = policy.decode(trajectory)
    assert samples.outputs == [text.split(stop)[0] for text in free.outputs]
    for text, whole, length in zip(
        samples.outputs, free.outputs, samples.facts["length"].tolist(), strict=True
    ):
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


@pytest.mark.parametrize("chat", [False, True])
def test_encoding_then_decoding_gives_the_text_back(chat):
    policy = make(chat=chat)
    texts = ["plain", "", "  two  spaces \n", "Grüße, 你好 🙂", "a,b . c"]
    trajectory = encoded(policy, ["p"] * 5, texts)
    assert policy.decode(trajectory).outputs == texts
    assert trajectory.mask.sum(1).tolist() == [len(text.encode()) + 1 for text in texts]
    assert trajectory.tensors["response"][1, 0] == 256


def test_a_chat_template_wraps_the_prompt_as_the_users_message():
    trajectory = encoded(make(chat=True), ["hi"], ["yes"])
    assert bytes(trajectory.tensors["prompt"][0].tolist()).decode() == "user: hi\nassistant: "
    assert encoded(make(), [""], ["yes"]).tensors["prompt"].tolist() == [[258]]


def test_only_the_responses_reach_the_head(monkeypatch):
    policy, seen = make(), []
    trajectory = encoded(policy)

    def counted(hidden, weight, targets, **options):
        from rewardlab.kernels import linear_log_prob

        seen.append(int(options["mask"].sum()))
        return linear_log_prob(hidden, weight, targets, **options)

    monkeypatch.setattr("rewardlab.policies.causal_lm.linear_log_prob", counted)
    monkeypatch.setattr(
        policy.network.lm_head, "forward", lambda *_: pytest.fail("the head was run on all tokens")
    )
    policy.log_prob(trajectory)
    assert seen == [sum(len(text) + 1 for text in RESPONSES)]


def test_steps_that_a_loop_masks_are_still_context():
    policy = make()
    trajectory = encoded(policy)
    whole = policy.log_prob(trajectory)
    fewer = trajectory.mask.clone()
    fewer[:, 1] = False
    part = policy.log_prob(type(trajectory)(trajectory.prompts, trajectory.tensors, fewer))
    assert_close(part, whole.where(fewer, 0))


SHARED = (
    ["a cat"] * 3 + ["the dogs barked at"] * 3,
    ["sat.", "", "ran away", "it", "them all night", "x"],
)


@pytest.mark.parametrize("options", [{}, {"temperature": 0.7}, {"lora_rank": 2}], ids=str)
def test_a_prompt_that_rows_share_is_run_once_and_nothing_else_changes(options, monkeypatch):
    """Keys and values of a prompt depend on the prompt alone, so each row may borrow them: values
    and gradients are equal.
    """
    policy, found, rows = make(**options), [], []
    trajectory = encoded(policy, *SHARED)
    policy.network.base_model.register_forward_hook(
        lambda module, args, kwargs, output: rows.append(tuple(kwargs["input_ids"].shape)),
        with_kwargs=True,
    )
    for worth in (9.0, 0.0):
        monkeypatch.setattr(sharing, "WORTH_SHARING", worth)
        log_prob = policy.log_prob(trajectory)
        trained = [weight for weight in policy.parameters() if weight.requires_grad]
        gradients = torch.autograd.grad(log_prob.square().sum(), trained, allow_unused=True)
        found.append((log_prob, [gradient for gradient in gradients if gradient is not None]))
    width, steps = trajectory.tensors["prompt"].shape[1], trajectory.mask.shape[1]
    assert rows == [(6, width + steps - 1), (2, width), (6, steps - 1)]
    assert_close(found[1][0], found[0][0], atol=1e-5, rtol=1e-5)
    for own, other in zip(found[1][1], found[0][1], strict=True):
        assert_close(own, other, atol=1e-5 * other.abs().max().item(), rtol=1e-4)


def test_samples_of_a_shared_prompt_are_those_of_each_prompt_alone():
    policy, seeds = make(), row_seeds(0, 6)
    together = policy.generate(SHARED[0], seeds=seeds).outputs
    assert together == [
        policy.generate([prompt], seeds=seeds[[i]]).outputs[0] for i, prompt in enumerate(SHARED[0])
    ]


def test_prompts_are_shared_only_where_keys_and_values_are_all_that_is_kept():
    """A window forgets tokens and a checkpointed layer keeps no cache; such networks run every row
    whole.
    """
    config = Gemma2Config(
        vocab_size=260, hidden_size=32, intermediate_size=32, num_hidden_layers=2, num_attention_heads=2,
        num_key_value_heads=1, head_dim=16, sliding_window=4, final_logit_softcapping=None,
    )  # fmt: skip
    windowed = CausalLMPolicy(Gemma2ForCausalLM(config), tiny_tokenizer(), max_new_tokens=4)
    assert not windowed._shares_prompts
    policy = make(gradient_checkpointing=True)
    assert not policy.train()._shares_prompts
    assert policy.eval()._shares_prompts
    assert make()._shares_prompts


@pytest.mark.parametrize("value", [False, True])
def test_apply_leaves_out_the_rows_that_a_loss_does_not_need(value, monkeypatch):
    """With or without a critic: one pass through the network, the loss of the rows that count, and
    their gradients alone.
    """
    policy = make(value_head=True)
    trajectory = encoded(policy)
    needed = trajectory.mask & (torch.arange(trajectory.mask.shape[1]) % 2 == 0)
    weights = torch.rand(trajectory.mask.shape, generator=torch.Generator().manual_seed(1))
    plain = (
        (weights * (policy.log_prob(trajectory) - 0.1 * policy.entropy(trajectory)))
        .where(needed, 0)
        .sum()
    )
    plain = plain + (policy.value(trajectory) * weights).where(needed, 0).sum() * value
    seen = []

    def loss(steps, at):
        seen.append(len(steps.log_prob))
        extra = steps.value if value else 0
        return (at(weights) * (steps.log_prob - 0.1 * steps.entropy + extra)).sum()

    passes = []
    monkeypatch.setattr(
        policy,
        "_run",
        lambda *args, run=policy._run, **kwargs: passes.append(1) or run(*args, **kwargs),
    )
    applied = policy.apply_loss(trajectory, loss, rows=needed, entropy=True, value=value)
    assert (sum(seen), len(passes)) == (needed.sum(), 1)
    assert_close(applied, plain)
    trained = [weight for weight in policy.network.parameters() if weight.requires_grad]
    for own, other in zip(
        torch.autograd.grad(applied, trained), torch.autograd.grad(plain, trained), strict=True
    ):
        assert_close(own, other, atol=1e-5, rtol=1e-4)


def test_entropy_is_that_of_the_tempered_distribution():
    policy = make(temperature=0.5)
    trajectory = encoded(policy, PROMPTS[:1], RESPONSES[:1])
    tokens = [*PROMPTS[0].encode(), *RESPONSES[0].encode(), 256]
    logits = policy.network(torch.tensor([tokens])).logits[0, len(PROMPTS[0]) - 1 : -1] / 0.5
    assert_close(
        policy.entropy(trajectory)[0],
        torch.distributions.Categorical(logits=logits).entropy(),
        atol=1e-5,
        rtol=1e-5,
    )


def test_the_value_is_a_number_a_step_and_is_learned(tmp_path):
    policy = make(value_head=True)
    trajectory = encoded(policy)
    assert policy.value(trajectory).tolist() == torch.zeros(trajectory.mask.shape).tolist()
    optimiser = torch.optim.Adam(policy.parameters(), lr=0.05)
    for _ in range(15):
        optimiser.zero_grad()
        loss = (policy.value(trajectory) - 1).where(trajectory.mask, 0).square().sum()
        loss.backward()
        optimiser.step()
    value = policy.value(trajectory)
    assert loss < 0.2 * trajectory.mask.sum()
    assert value.dtype == torch.float32
    assert (value[~trajectory.mask] == 0).all()
    policy.save_pretrained(tmp_path)
    assert_close(CausalLMPolicy.from_pretrained(tmp_path).value(trajectory), value)
    with pytest.raises(InputError, match="value_head=True"):
        make().value(trajectory)


def test_a_final_softcap_and_a_head_bias_are_scored():
    marks = {"eos_token_id": 256, "pad_token_id": 257, "bos_token_id": 258}
    sizes = {
        "hidden_size": 16,
        "intermediate_size": 16,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
    }
    config = Gemma2Config(
        vocab_size=259,
        head_dim=8,
        final_logit_softcapping=0.5,
        initializer_range=0.5,
        **sizes,
        **marks,
    )
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(0)
        model = Gemma2ForCausalLM(config)
    policy = CausalLMPolicy(model.eval(), tiny_tokenizer())
    trajectory = encoded(policy)
    assert_close(
        policy.log_prob(trajectory)[2][trajectory.mask[2]],
        plain(policy, PROMPTS[2], RESPONSES[2]),
        atol=1e-5,
        rtol=1e-5,
    )
    biased = tiny_causal_lm()
    biased.lm_head.bias = torch.nn.Parameter(torch.linspace(-2, 2, 259))
    policy = CausalLMPolicy(biased, tiny_tokenizer())
    trajectory = encoded(policy)
    assert_close(
        policy.log_prob(trajectory)[2][trajectory.mask[2]],
        plain(policy, PROMPTS[2], RESPONSES[2]),
        atol=1e-5,
        rtol=1e-5,
    )


@pytest.mark.parametrize(
    "options",
    [{"dtype": "bfloat16"}, {"dtype": "bfloat16", "lora_rank": 2}],
    ids=["whole", "adapter"],
)
def test_half_precision_arithmetic_keeps_trained_weights_and_results_in_float32(options):
    policy = make(**options)
    trained = [parameter for parameter in policy.parameters() if parameter.requires_grad]
    assert {parameter.dtype for parameter in trained} == {torch.float32}
    trajectory = policy.sample(PROMPTS, seeds=row_seeds(0, 3))
    log_prob = policy.log_prob(trajectory)
    assert log_prob.dtype == torch.float32
    log_prob.sum().backward()
    assert any(
        parameter.grad.abs().sum() > 0 for parameter in trained if parameter.grad is not None
    )
    exact = make().log_prob(trajectory)
    assert_close(log_prob, exact, atol=0.2, rtol=0)
    assert not torch.equal(log_prob, exact)


def test_gradient_checkpointing_changes_no_gradient_and_sampling_still_uses_the_cache():
    gradients = []
    for checkpointing in (False, True):
        policy = make(gradient_checkpointing=checkpointing)
        assert policy.network.training
        outputs = policy.generate(PROMPTS, seeds=row_seeds(0, 3)).outputs
        assert policy.network.training
        policy.log_prob(encoded(policy)).sum().backward()
        gradients.append((outputs, policy.network.model.layers[0].self_attn.q_proj.weight.grad))
    assert gradients[0][0] == gradients[1][0]
    assert_close(gradients[0][1], gradients[1][1])


def test_dropout_is_off_in_training_mode():
    model = tiny_causal_lm()
    for layer in model.model.layers:
        layer.self_attn.attention_dropout = 0.5
    policy = CausalLMPolicy(model, tiny_tokenizer()).train()
    trajectory = encoded(policy)
    assert torch.equal(policy.log_prob(trajectory), policy.log_prob(trajectory))


def test_the_adapters_reference_is_the_network_before_it_and_saving_merges_it(tmp_path):
    policy, plain_policy = make(lora_rank=2), make()
    trajectory = encoded(policy)
    for name, parameter in policy.named_parameters():
        if "lora" in name:
            parameter.data.add_(0.05)
    assert_close(
        policy.reference().log_prob(trajectory),
        plain_policy.log_prob(trajectory).detach(),
        atol=1e-5,
        rtol=1e-5,
    )
    assert not any(
        "lora" in name
        for name, parameter in policy.named_parameters()
        if not parameter.requires_grad
    )
    policy.save_pretrained(tmp_path)
    with torch.no_grad():
        theirs = AutoModelForCausalLM.from_pretrained(tmp_path)
        expected = -cross_entropy(
            theirs(torch.tensor([[97, 98, 99]])).logits[0, :-1],
            torch.tensor([98, 99]),
            reduction="none",
        )
        ours = policy.log_prob(encoded(policy, ["a"], ["bc"]))[0, :2]
    assert_close(ours, expected, atol=1e-5, rtol=1e-5)


def test_rollouts_refuse_truncation_and_generation_truncates():
    policy = make(top_k=1)
    with pytest.raises(InputError, match="top_k=1"):
        policy.sample(PROMPTS, seeds=row_seeds(0, 3))
    greedy = policy.generate(["a cat"] * 4, seeds=row_seeds(0, 4))
    assert len(set(greedy.outputs)) == 1
    nucleus = make(top_p=1e-6).generate(["a cat"] * 4, seeds=row_seeds(0, 4))
    assert nucleus.outputs == greedy.outputs


def test_before_an_update_every_ratio_is_one():
    """In training mode with gradients, as in evaluation mode without, and with the padding of
    another batch.
    """
    policy = make(temperature=0.7)
    trajectory = policy.sample(PROMPTS, seeds=row_seeds(0, 3))
    with torch.no_grad():
        old = policy.eval().log_prob(trajectory)
    assert torch.equal((policy.train().log_prob(trajectory) - old).exp(), torch.ones_like(old))
    parts = torch.cat([policy.log_prob(trajectory[[row]]) for row in range(3)])
    assert_close(parts, old, atol=1e-5, rtol=0)


def without_end():
    tokenizer = tiny_tokenizer()
    tokenizer.eos_token = None
    return tokenizer


def no_marks():
    return tiny_causal_lm(vocabulary=258)


def scaled():
    model = tiny_causal_lm()
    model.lm_head.register_forward_hook(lambda module, given, logits: logits / 8)
    return model


@pytest.mark.parametrize(
    ("model", "options", "message"),
    [
        (tiny_causal_lm, {"tokenizer": None}, "without a tokenizer"),
        (no_marks, {"tokenizer": without_end()}, "no end token"),
        (lambda: tiny_causal_lm(vocabulary=100), {}, "model knows 100"),
        (scaled, {}, "alters its logits"),
        (lambda: "no/such folder", {}, "no folder, nor a hub id"),
        (tiny_causal_lm, {"temperature": 0.0}, "temperature > 0"),
        (tiny_causal_lm, {"top_p": 0.0}, "top_p"),
        (tiny_causal_lm, {"stop": [""]}, "empty"),
    ],
)
def test_what_cannot_be_made_says_why(model, options, message):
    with pytest.raises(InputError, match=message):
        CausalLMPolicy(model(), **({"tokenizer": tiny_tokenizer()} | options))


def test_a_folder_without_a_model_or_a_tokenizer_says_so(tmp_path):
    with pytest.raises(InputError, match=r"config\.json"):
        CausalLMPolicy(tmp_path, tiny_tokenizer())
    with pytest.raises(InputError, match="No tokenizer can be loaded"):
        CausalLMPolicy(tiny_causal_lm(), tmp_path)


def test_what_does_not_fit_the_context_is_refused_and_named():
    policy = CausalLMPolicy(tiny_causal_lm(context=16), tiny_tokenizer(), max_new_tokens=4)
    with pytest.raises(InputError, match=r"Row 1, 'bb.* 20 tokens of prompt"):
        policy.sample(["a", "b" * 20], seeds=row_seeds(0, 2))
    with pytest.raises(InputError, match=r"Row 2, 'far too long.*context is 16"):
        encoded(policy, ["a"] * 3, ["ok", "fine", "far too long for it"])
    with pytest.raises(InputError, match="encodes strings"):
        policy.encode(Samples(["a"], torch.zeros(1, 3, 8, 8)), seeds=row_seeds(0, 1))
    longer = encoded(policy, ["a"], ["longer than 4"])
    assert longer.mask.sum() == 14


def test_a_tokenizer_without_a_padding_token_pads_all_the_same():
    bare = CausalLMPolicy(tiny_causal_lm(), tiny_tokenizer(pad=False), max_new_tokens=6)
    assert bare.tokenizer.pad_token is None
    assert_close(bare.log_prob(encoded(bare)), make().log_prob(encoded(make())), atol=0, rtol=0)
    assert (
        bare.generate(PROMPTS, seeds=row_seeds(0, 3)).outputs
        == make().generate(PROMPTS, seeds=row_seeds(0, 3)).outputs
    )


def test_no_prompt_gives_no_sample():
    assert len(make().generate([], seeds=row_seeds(0, 0))) == 0
