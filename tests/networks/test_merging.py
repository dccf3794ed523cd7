"""Adapters of every kind, merged, compute what peft computes with them in place."""

from copy import deepcopy

import pytest
import torch
from peft import (
    AutoPeftModelForCausalLM,
    IA3Config,
    LoHaConfig,
    LoraConfig,
    OFTConfig,
    TrainableTokensConfig,
    VeraConfig,
    get_peft_model,
)
from torch.testing import assert_close
from transformers import (
    AutoModelForCausalLM,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
)

from rewardlab.errors import InputError
from rewardlab.networks.silence import silent
from rewardlab.policies import CausalLMPolicy
from rewardlab.testing import tiny_causal_lm, tiny_tokenizer
from rewardlab.types import Samples

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning:peft")  # it warns of tied weights
SAMPLES = Samples(["Hi", "What is it"], [" you", " a cat"])
MARKS = {"eos_token_id": 256, "pad_token_id": 257, "bos_token_id": 258}


def tied_llama():
    config = LlamaConfig(
        vocab_size=259,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=2,
        initializer_range=0.3,
        tie_word_embeddings=True,
        **MARKS,
    )
    return LlamaForCausalLM(config)


def gpt2():
    """Return a model whose embeddings are tied by default."""
    config = GPT2Config(vocab_size=259, n_embd=32, n_layer=2, n_head=2, n_positions=64, **MARKS)
    return GPT2LMHeadModel(config)


def on(*layers, **options):
    return LoraConfig(r=4, target_modules=list(layers), task_type="CAUSAL_LM", **options)


QUERY = "q_proj"
KINDS = {
    "ranks of their own": (
        tiny_causal_lm,
        on(
            QUERY,
            "v_proj",
            rank_pattern={"layers.0.self_attn.q_proj": 8},
            alpha_pattern={"v_proj": 32},
        ),
    ),
    "of the embeddings": (tiny_causal_lm, on(QUERY, "embed_tokens")),
    "of some tokens": (tiny_causal_lm, on(QUERY, trainable_token_indices=[10, 256])),
    "with embeddings and head": (
        tiny_causal_lm,
        on(QUERY, modules_to_save=["embed_tokens", "lm_head"]),
    ),
    "repeated layers": (tiny_causal_lm, on(QUERY, layer_replication=[[0, 2], [0, 2]])),
    "from singular values": (tiny_causal_lm, on(QUERY, init_lora_weights="pissa")),
    "Hadamard": (tiny_causal_lm, LoHaConfig(r=4, target_modules=[QUERY], task_type="CAUSAL_LM")),
    "rotation": (tiny_causal_lm, OFTConfig(r=4, oft_block_size=0, target_modules=[QUERY])),
    "shared vectors": (tiny_causal_lm, VeraConfig(r=4, target_modules=[QUERY, "o_proj"])),
    "scales": (tiny_causal_lm, IA3Config(target_modules=[QUERY], feedforward_modules=[])),
    "tied, of the head": (tied_llama, on(QUERY, "lm_head")),
    "tied, of the embeddings": (tied_llama, on(QUERY, "embed_tokens")),
    "tied, of some tokens": (tied_llama, on(QUERY, trainable_token_indices=[10, 256])),
    "tied, tokens alone": (
        tied_llama,
        TrainableTokensConfig(token_indices=[1, 256], task_type="CAUSAL_LM"),
    ),
    "tied, with a head": (tied_llama, on(QUERY, modules_to_save=["lm_head"])),
    "GPT-2's embeddings": (gpt2, on("wte")),
    "GPT-2's biases": (gpt2, on("c_attn", bias="all", fan_in_fan_out=True)),
}


def shaken(model):
    """Move the trainable weights, as training would."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for weight in model.parameters():
            if weight.requires_grad:
                weight += 0.3 * torch.randn(weight.shape, generator=generator)
    return model.eval()


@torch.no_grad()
def plain_log_prob(model):
    """Return the samples' log-probabilities under any model, row by row."""
    tokenizer = tiny_tokenizer()
    sums = []
    for prompt, response in zip(SAMPLES.prompts, SAMPLES.outputs, strict=True):
        asked = tokenizer(prompt).input_ids
        answer = torch.tensor([*tokenizer(response).input_ids, 256])
        logits = model(input_ids=torch.tensor([[*asked, *answer]])).logits[0]
        steps = logits.log_softmax(-1)[len(asked) - 1 : -1]
        sums.append(steps.gather(1, answer[:, None]).sum())
    return torch.stack(sums)


def log_prob(policy):
    return policy.log_prob(policy.encode(SAMPLES, seeds=torch.arange(2))).sum(1).detach()


@pytest.mark.parametrize("kind", KINDS)
def test_a_merged_adapter_computes_what_peft_does_from_folder_and_instance(tmp_path, kind):
    make, config = KINDS[kind]
    torch.manual_seed(0)
    base = make()
    with silent():
        base.save_pretrained(tmp_path / "base")
        loaded = AutoModelForCausalLM.from_pretrained(tmp_path / "base")
        model = shaken(get_peft_model(loaded, deepcopy(config)))
        model.peft_config["default"].task_type = "CAUSAL_LM"
        model.save_pretrained(tmp_path / "adapter")
        tiny_tokenizer().save_pretrained(tmp_path / "adapter")
        from_disk = AutoPeftModelForCausalLM.from_pretrained(tmp_path / "adapter").eval()
    expected = plain_log_prob(from_disk)
    assert (expected - plain_log_prob(base)).abs().max() > 1e-2
    instance = CausalLMPolicy(model, tiny_tokenizer())
    assert_close(log_prob(instance), plain_log_prob(model), atol=1e-4, rtol=1e-4)
    policy = CausalLMPolicy(tmp_path / "adapter", lora_rank=2)
    for number, which in enumerate((policy, instance)):
        assert_close(log_prob(which), expected, atol=1e-4, rtol=1e-4)
        folder = tmp_path / f"saved{number}"
        which.save_pretrained(folder)
        with silent():
            saved = AutoModelForCausalLM.from_pretrained(folder).eval()
        assert_close(plain_log_prob(saved), expected, atol=1e-4, rtol=1e-4)


def inside():
    model = tiny_causal_lm()
    model.add_adapter(on(QUERY, "embed_tokens"), "first")
    model.add_adapter(on(QUERY, "v_proj", use_rslora=True), "second")
    model.set_adapter(["first", "second"])  # only those that are on are trained
    return shaken(model)


@pytest.mark.parametrize("active", ["first", "second", "none"])
def test_of_several_adapters_those_that_are_on_are_merged(active):
    model = inside()
    if active == "none":
        model.disable_adapters()
    else:
        model.set_adapter(active)
    policy = CausalLMPolicy(model, tiny_tokenizer(), lora_rank=2)
    assert_close(log_prob(policy), plain_log_prob(model), atol=1e-4, rtol=1e-4)
    assert log_prob(policy).allclose(plain_log_prob(tiny_causal_lm()), atol=1e-4) == (
        active == "none"
    )


def test_an_adapter_that_is_switched_off_in_peft_is_left_out():
    model = shaken(get_peft_model(tiny_causal_lm(), on(QUERY, modules_to_save=["lm_head"])))
    with model.disable_adapter():
        policy = CausalLMPolicy(model, tiny_tokenizer())
    assert_close(log_prob(policy), plain_log_prob(tiny_causal_lm()), atol=1e-4, rtol=1e-4)


def test_an_adapter_that_has_no_place_in_the_weights_is_refused_in_a_sentence():
    model = get_peft_model(tiny_causal_lm(), on(QUERY, lora_bias=True))
    with pytest.raises(InputError, match=r"cannot be merged into its weights: .*no bias"):
        CausalLMPolicy(model, tiny_tokenizer())
