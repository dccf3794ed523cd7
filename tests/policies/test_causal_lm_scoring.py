"""CausalLMPolicy's log-probabilities and losses against plain transformers forwards."""

from __future__ import annotations

import pytest
import torch
from torch.nn.functional import cross_entropy
from torch.testing import assert_close
from transformers import Gemma2Config, Gemma2ForCausalLM, GPT2Config, GPT2LMHeadModel

from rewardlab.errors import InputError
from rewardlab.kernels import linear_log_prob
from rewardlab.losses import nll_loss
from rewardlab.networks import packing
from rewardlab.policies.causal_lm import CausalLMPolicy
from rewardlab.seeds import row_seeds
from rewardlab.testing.tiny_text import tiny_causal_lm, tiny_tokenizer
from rewardlab.types import Samples

PROMPTS = ["a cat", "the dogs barked at", "z"]
RESPONSES = ["sat.", "", "ran away, very far"]
END = 256


def make(**options) -> CausalLMPolicy:
    options.setdefault("max_new_tokens", 6)
    return CausalLMPolicy(tiny_causal_lm(), tiny_tokenizer(), **options)


def seeded(model_class, config):
    """Return a model with weights from a seed, which leaves the global generator alone."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(0)
        return model_class(config).eval()


def encoded(policy: CausalLMPolicy, prompts=PROMPTS, responses=RESPONSES):
    return policy.encode(Samples(prompts, responses), seeds=row_seeds(0, len(prompts)))


def plain_logits(policy: CausalLMPolicy, prompt: str, response: str) -> torch.Tensor:
    """Return the logits of a response's bytes and its end, by a forward over the one row."""
    tokens = [*prompt.encode(), *response.encode(), END]
    logits = policy.network(torch.tensor([tokens])).logits[0]
    return logits[len(prompt.encode()) - 1 : -1].float()


def plain(
    policy: CausalLMPolicy, prompt: str, response: str, temperature: float = 1.0
) -> torch.Tensor:
    """Return the log-probabilities of a response's bytes and its end, by an unpadded forward."""
    targets = torch.tensor([*response.encode(), END])
    with torch.no_grad():
        logits = plain_logits(policy, prompt, response) / temperature
    return -cross_entropy(logits, targets, reduction="none")


def trained_weights(policy: CausalLMPolicy) -> list[torch.Tensor]:
    return [weight for weight in policy.network.parameters() if weight.requires_grad]


@pytest.mark.parametrize("temperature", [1.0, 0.6])
def test_log_prob_is_the_cross_entropy_of_a_plain_forward_whatever_the_padding(temperature):
    policy = make(temperature=temperature)
    trajectory = encoded(policy)
    log_prob = policy.log_prob(trajectory)
    assert log_prob.dtype == torch.float32
    expected = []
    for prompt, response in zip(PROMPTS, RESPONSES, strict=True):
        expected.append(plain(policy, prompt, response, temperature))
    for row in range(3):
        own = log_prob[row][trajectory.mask[row]]
        assert_close(own, expected[row], atol=1e-5, rtol=1e-5)
    assert (log_prob[~trajectory.mask] == 0).all()
    assert_close(nll_loss(log_prob, trajectory.mask), -torch.cat(expected).mean())


def test_a_model_with_absolute_positions_scores_padded_rows_as_alone():
    sizes = {"n_positions": 48, "n_embd": 16, "n_layer": 2, "n_head": 2, "initializer_range": 0.5}
    config = GPT2Config(vocab_size=259, bos_token_id=258, eos_token_id=END, **sizes)
    policy = CausalLMPolicy(seeded(GPT2LMHeadModel, config), tiny_tokenizer(), max_new_tokens=8)
    trajectory = encoded(policy)
    log_prob = policy.log_prob(trajectory)
    for row, (prompt, response) in enumerate(zip(PROMPTS, RESPONSES, strict=True)):
        own = log_prob[row][trajectory.mask[row]]
        assert_close(own, plain(policy, prompt, response), atol=1e-4, rtol=1e-4)


def test_gradients_are_those_of_the_plain_forward():
    policy = make(temperature=0.7)
    trajectory = encoded(policy, PROMPTS[:1], RESPONSES[:1])
    query = policy.network.model.layers[0].self_attn.q_proj.weight
    weights = [policy.network.lm_head.weight, query]
    ours = torch.autograd.grad(policy.log_prob(trajectory).sum(), weights)
    logits = plain_logits(policy, PROMPTS[0], RESPONSES[0]) / 0.7
    targets = torch.tensor([*RESPONSES[0].encode(), END])
    total = -cross_entropy(logits, targets, reduction="sum")
    theirs = torch.autograd.grad(total, weights)
    assert_close(ours, theirs, rtol=1e-4, atol=1e-6)


def test_log_prob_and_entropy_are_trls():
    from trl.trainer.utils import entropy_from_logits, selective_log_softmax

    policy = make(temperature=0.9)
    trajectory = encoded(policy)
    log_prob = policy.log_prob(trajectory)
    entropy = policy.entropy(trajectory)
    for row, (prompt, response) in enumerate(zip(PROMPTS, RESPONSES, strict=True)):
        logits = plain_logits(policy, prompt, response)[None] / 0.9
        targets = torch.tensor([[*response.encode(), END]])
        mask = trajectory.mask[row]
        theirs = selective_log_softmax(logits, targets)[0]
        assert_close(log_prob[row][mask], theirs, atol=1e-5, rtol=1e-5)
        assert_close(entropy[row][mask], entropy_from_logits(logits)[0], atol=1e-5, rtol=1e-5)


def test_a_sampled_trajectory_scores_as_its_encoding_does():
    policy = make().eval()
    trajectory = policy.sample(PROMPTS, seeds=row_seeds(1, 3))
    log_prob = policy.log_prob(trajectory)
    for row in range(3):
        prompt = list(PROMPTS[row].encode())
        response = trajectory.tensors["response"][row]
        tokens = torch.tensor([[*prompt, *response.tolist()]])
        logits = policy.network(tokens).logits[0, len(prompt) - 1 : -1]
        expected = logits.log_softmax(1).gather(1, response[:, None])[:, 0]
        mask = trajectory.mask[row]
        assert_close(log_prob[row][mask], expected[mask], atol=1e-5, rtol=1e-5)


def test_before_an_update_every_ratio_is_one():
    """In training mode with gradients, as in evaluation mode without, and in another batch."""
    policy = make(temperature=0.7)
    trajectory = policy.sample(PROMPTS, seeds=row_seeds(0, 3))
    with torch.no_grad():
        old = policy.eval().log_prob(trajectory)
    ratio = (policy.train().log_prob(trajectory) - old).exp()
    assert torch.equal(ratio, torch.ones_like(old))
    rows = [policy.log_prob(trajectory[[row]]) for row in range(3)]
    assert_close(torch.cat(rows), old, atol=1e-5, rtol=0)


def test_only_the_responses_reach_the_head(monkeypatch):
    policy = make()
    trajectory = encoded(policy)
    counts = []

    def counted(hidden, weight, targets, **options):
        counts.append(int(options["mask"].sum()))
        return linear_log_prob(hidden, weight, targets, **options)

    def refused(*_):
        pytest.fail("the head was run on all tokens")

    monkeypatch.setattr("rewardlab.policies.scoring.linear_log_prob", counted)
    monkeypatch.setattr(policy.network.lm_head, "forward", refused)
    policy.log_prob(trajectory)
    assert counts == [sum(len(text) + 1 for text in RESPONSES)]


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
def test_rows_that_share_a_prompt_are_packed_and_nothing_else_changes(options, monkeypatch):
    """A response sees its prompt and itself, so several stand behind one prompt in one line."""
    policy = make(**options)
    trajectory = encoded(policy, *SHARED)
    shapes = []

    def note(module, args, kwargs, output):
        shapes.append(tuple(kwargs["input_ids"].shape))

    policy.network.base_model.register_forward_hook(note, with_kwargs=True)
    results = []
    for most in (0, 2**27):
        monkeypatch.setattr(packing, "MOST_MASK", most)
        log_prob = policy.log_prob(trajectory)
        trained = trained_weights(policy)
        results.append([log_prob, *torch.autograd.grad(log_prob.square().sum(), trained)])
    width = trajectory.tensors["prompt"].shape[1]
    steps = trajectory.mask.shape[1]
    whole, packed = shapes
    assert whole == (6, width + steps - 1)
    assert packed[0] * packed[1] < whole[0] * whole[1]
    whole, shared = results
    assert_close(shared[0], whole[0], atol=1e-5, rtol=1e-5)
    for own, other in zip(shared[1:], whole[1:], strict=True):
        assert_close(own, other, atol=1e-5 * other.abs().max().item(), rtol=1e-4)


def test_a_policy_with_a_window_is_run_whole():
    """A window forgets tokens, and a packed line is longer than a row."""
    config = Gemma2Config(
        vocab_size=260,
        hidden_size=32,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        head_dim=16,
        sliding_window=4,
        final_logit_softcapping=None,
    )
    windowed = CausalLMPolicy(Gemma2ForCausalLM(config), tiny_tokenizer(), max_new_tokens=4)
    assert not windowed._backbone.packs
    assert make(gradient_checkpointing=True).train()._backbone.packs


def test_responses_of_one_token_are_packed(monkeypatch):
    """Nothing of them is run: what they are drawn from is the prompt's last state."""
    policy = make()
    trajectory = encoded(policy, ["a cat"] * 3, ["", "", ""])
    packed = policy.log_prob(trajectory)
    monkeypatch.setattr(packing, "MOST_MASK", 0)
    assert_close(packed, policy.log_prob(trajectory), atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("value", [False, True])
def test_apply_leaves_out_the_rows_that_a_loss_does_not_need(value):
    """One pass through the network, the loss of the rows that count, and their gradients alone."""
    policy = make(value_head=True)
    trajectory = encoded(policy)
    shape = trajectory.mask.shape
    needed = trajectory.mask & (torch.arange(shape[1]) % 2 == 0)
    weights = torch.rand(shape, generator=torch.Generator().manual_seed(1))
    naive = policy.log_prob(trajectory) - 0.1 * policy.entropy(trajectory)
    if value:
        naive = naive + policy.value(trajectory)
    plain_loss = (weights * naive).where(needed, 0).sum()
    counts = []
    passes = []

    def loss(steps, at):
        counts.append(len(steps.log_prob))
        extra = steps.value if value else 0
        return (at(weights) * (steps.log_prob - 0.1 * steps.entropy + extra)).sum()

    policy.network.base_model.register_forward_hook(lambda *_: passes.append(1))
    applied = policy.apply_loss(trajectory, loss, rows=needed, entropy=True, value=value)
    assert sum(counts) == needed.sum()
    assert len(passes) == 1
    assert_close(applied, plain_loss)
    trained = trained_weights(policy)
    ours = torch.autograd.grad(applied, trained)
    assert_close(ours, torch.autograd.grad(plain_loss, trained), atol=1e-5, rtol=1e-4)


def test_entropy_is_that_of_the_tempered_distribution():
    policy = make(temperature=0.5)
    trajectory = encoded(policy, PROMPTS[:1], RESPONSES[:1])
    logits = plain_logits(policy, PROMPTS[0], RESPONSES[0]) / 0.5
    expected = torch.distributions.Categorical(logits=logits).entropy()
    assert_close(policy.entropy(trajectory)[0], expected, atol=1e-5, rtol=1e-5)


def test_the_value_is_a_number_a_step_and_is_learned(tmp_path):
    policy = make(value_head=True)
    trajectory = encoded(policy)
    assert policy.value(trajectory).tolist() == torch.zeros(trajectory.mask.shape).tolist()
    optimizer = torch.optim.Adam(policy.parameters(), lr=0.05)
    for _ in range(15):
        optimizer.zero_grad()
        loss = (policy.value(trajectory) - 1).where(trajectory.mask, 0).square().sum()
        loss.backward()
        optimizer.step()
    value = policy.value(trajectory)
    assert loss < 0.2 * trajectory.mask.sum()
    assert value.dtype == torch.float32
    assert (value[~trajectory.mask] == 0).all()
    policy.save_pretrained(tmp_path)
    assert_close(CausalLMPolicy.from_pretrained(tmp_path).value(trajectory), value)
    with pytest.raises(InputError, match="value_head=True"):
        make().value(trajectory)


def check_the_last_row(policy: CausalLMPolicy) -> None:
    trajectory = encoded(policy)
    own = policy.log_prob(trajectory)[2][trajectory.mask[2]]
    assert_close(own, plain(policy, PROMPTS[2], RESPONSES[2]), atol=1e-5, rtol=1e-5)


def test_a_final_softcap_is_scored():
    config = Gemma2Config(
        vocab_size=259,
        hidden_size=16,
        intermediate_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=1,
        head_dim=8,
        final_logit_softcapping=0.5,
        initializer_range=0.5,
        eos_token_id=END,
        pad_token_id=257,
        bos_token_id=258,
    )
    check_the_last_row(CausalLMPolicy(seeded(Gemma2ForCausalLM, config), tiny_tokenizer()))


def test_a_head_bias_is_scored():
    biased = tiny_causal_lm()
    biased.lm_head.bias = torch.nn.Parameter(torch.linspace(-2, 2, 259))
    check_the_last_row(CausalLMPolicy(biased, tiny_tokenizer()))
