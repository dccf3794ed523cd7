"""CausalLMPolicy: the conformance class, texts as tokens, folders, precision, and errors."""

from __future__ import annotations

import pytest
import torch
from torch.nn.functional import cross_entropy
from torch.testing import assert_close
from transformers import AutoModelForCausalLM

from rewardlab.errors import InputError
from rewardlab.policies.causal_lm import CausalLMPolicy
from rewardlab.policies.reference import AdapterOff
from rewardlab.seeds import row_seeds
from rewardlab.testing import PolicyConformance
from rewardlab.testing.tiny_text import tiny_causal_lm, tiny_tokenizer
from rewardlab.types import Samples

PROMPTS = ["a cat", "the dogs barked at", "z"]
RESPONSES = ["sat.", "", "ran away, very far"]


def make(chat: bool = False, **options) -> CausalLMPolicy:
    options.setdefault("max_new_tokens", 6)
    return CausalLMPolicy(tiny_causal_lm(), tiny_tokenizer(chat=chat), **options)


def encoded(policy: CausalLMPolicy, prompts=PROMPTS, responses=RESPONSES):
    return policy.encode(Samples(prompts, responses), seeds=row_seeds(0, len(prompts)))


class TestPlain(PolicyConformance):
    def make(self):
        return make(value_head=True)


class TestAdapter(PolicyConformance):
    def make(self):
        return make(lora_rank=2)


class TestChatTemplate(PolicyConformance):
    def make(self):
        return make(chat=True, temperature=0.8, stop=["qq"])


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
    gradients = [parameter.grad for parameter in trained if parameter.grad is not None]
    assert any(gradient.abs().sum() > 0 for gradient in gradients)
    exact = make().log_prob(trajectory)
    assert_close(log_prob, exact, atol=0.2, rtol=0)
    assert not torch.equal(log_prob, exact)


def test_dropout_is_off_in_training_mode():
    model = tiny_causal_lm()
    for layer in model.model.layers:
        layer.self_attn.attention_dropout = 0.5
    policy = CausalLMPolicy(model, tiny_tokenizer()).train()
    trajectory = encoded(policy)
    assert torch.equal(policy.log_prob(trajectory), policy.log_prob(trajectory))


def test_the_adapters_reference_is_the_network_before_it():
    policy = make(lora_rank=2)
    trajectory = encoded(policy)
    adapter = dict(policy.named_parameters())
    adapter = {name: weight for name, weight in adapter.items() if "lora" in name}
    for weight in adapter.values():
        assert weight.requires_grad
        weight.data.add_(0.05)
    before = make().log_prob(trajectory).detach()
    assert (policy.log_prob(trajectory) - before).abs().max() > 1e-3
    assert_close(policy.reference().log_prob(trajectory), before, atol=1e-5, rtol=1e-5)


def test_saving_merges_the_adapter(tmp_path):
    policy = make(lora_rank=2)
    for name, weight in policy.named_parameters():
        if "lora" in name:
            weight.data.add_(0.05)
    policy.save_pretrained(tmp_path)
    with torch.no_grad():
        theirs = AutoModelForCausalLM.from_pretrained(tmp_path)
        logits = theirs(torch.tensor([[97, 98, 99]])).logits[0, :-1]
        expected = -cross_entropy(logits, torch.tensor([98, 99]), reduction="none")
        ours = policy.log_prob(encoded(policy, ["a"], ["bc"]))[0, :2]
    assert_close(ours, expected, atol=1e-5, rtol=1e-5)


def test_the_adapters_reference_needs_a_policy_that_has_one():
    without = make(lora_rank=2).reference()
    with pytest.raises(InputError, match="does not derive from Adapted"):
        AdapterOff(without)


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
        (
            tiny_causal_lm,
            {"tokenizer": None},
            "CausalLMPolicy got a LlamaForCausalLM and no tokenizer",
        ),
        (no_marks, {"tokenizer": without_end()}, "no end token"),
        (lambda: tiny_causal_lm(vocabulary=100), {}, "embeds 100"),
        (scaled, {}, "alters its logits"),
        (lambda: "no/such folder", {}, r"cannot load no/such folder"),
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
    with pytest.raises(InputError, match=r"cannot load .*\(AutoTokenizer\)"):
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
    padded = make()
    log_prob = padded.log_prob(encoded(padded))
    assert_close(bare.log_prob(encoded(bare)), log_prob, atol=0, rtol=0)
    seeds = row_seeds(0, 3)
    expected = padded.generate(PROMPTS, seeds=seeds).outputs
    assert bare.generate(PROMPTS, seeds=seeds).outputs == expected
