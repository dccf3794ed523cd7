"""Adapters that peft saved are what peft computes, merged."""

import runpy
from copy import deepcopy
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from peft import IA3Config, LoraConfig, PrefixTuningConfig, TaskType, get_peft_model
from safetensors.torch import load_file, save_file
from torch.testing import assert_close
from transformers import LlamaForSequenceClassification

from rewardlab.errors import InputError
from rewardlab.networks import lora
from rewardlab.networks.silence import silent
from rewardlab.policies import CausalLMPolicy, load_policy
from rewardlab.rewards import ClassifierReward, LanguageReward, load_reward
from rewardlab.testing import tiny_causal_lm, tiny_tokenizer
from rewardlab.types import Samples

POLICIES = Path(__file__).parents[1] / "policies"
SMALL = SimpleNamespace(**runpy.run_path(str(POLICIES / "architectures.py")))
CLASSES = {config.__name__: config for config in SMALL.CAUSAL}
SAMPLES = Samples(["Hi", "What is it"], [" you", " a cat"])
KINDS = {
    "lora": LoraConfig(r=4, target_modules=["q_proj", "v_proj"], init_lora_weights=False),
    "dropout": LoraConfig(
        r=4, target_modules=["q_proj"], init_lora_weights=False, lora_dropout=0.5
    ),
    "dora": LoraConfig(r=4, target_modules="all-linear", init_lora_weights=False, use_dora=True),
    "with a head": LoraConfig(
        r=4, target_modules=["q_proj"], modules_to_save=["lm_head"], init_lora_weights=False
    ),
    "rescaled": IA3Config(
        target_modules=["k_proj", "v_proj", "down_proj"],
        feedforward_modules=["down_proj"],
        init_ia3_weights=False,
    ),
}


def shaken(model):
    """Move the trainable weights, as training would."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for weight in model.parameters():
            if weight.requires_grad:
                weight += 0.05 * torch.randn(weight.shape, generator=generator)
    return model.eval()


def adapted(base, config):
    torch.manual_seed(3)
    model = get_peft_model(base, deepcopy(config))
    return shaken(model)


def save(model, tmp_path, base, tokenizer=True):
    """Save a base and an adapter beside it; return the adapter's folder."""
    folder = tmp_path / "adapter"
    with silent():
        base.save_pretrained(tmp_path / "base")
        model.peft_config["default"].base_model_name_or_path = str(tmp_path / "base")
        model.save_pretrained(folder)
    tiny_tokenizer().save_pretrained(folder if tokenizer else tmp_path / "base")
    return folder


def encoded(policy):
    return policy.encode(SAMPLES, seeds=torch.arange(2))


@torch.no_grad()
def plain_log_prob(model, trajectory):
    """Return each row's log-probability under any model of transformers or peft, row by row."""
    tensors = trajectory.tensors
    sums = []
    for number in range(len(trajectory)):
        prompt = tensors["prompt"][number][tensors["prompt_mask"][number]]
        response = tensors["response"][number][tensors["response_mask"][number]]
        logits = model(input_ids=torch.cat([prompt, response])[None]).logits[0]
        steps = logits.log_softmax(-1)[len(prompt) - 1 : -1]
        sums.append(steps.gather(1, response[:, None]).sum())
    return torch.stack(sums)


@pytest.mark.parametrize("rank", [None, 2])
@pytest.mark.parametrize("kind", KINDS)
def test_an_adapter_as_policy_is_what_peft_computes_and_its_own_reference(tmp_path, kind, rank):
    model = adapted(tiny_causal_lm(), KINDS[kind])
    folder = save(model, tmp_path, tiny_causal_lm())
    policy = CausalLMPolicy(folder, lora_rank=rank)
    trajectory = encoded(policy)
    expected = plain_log_prob(model, trajectory)
    base = plain_log_prob(tiny_causal_lm(), trajectory)
    assert (expected - base).abs().max() > 1e-3
    scores = policy.log_prob(trajectory).sum(1)
    assert_close(scores.detach(), expected, atol=1e-4, rtol=1e-4)
    reference = policy.reference()
    assert_close(reference.log_prob(trajectory).sum(1), scores.detach(), atol=1e-4, rtol=1e-4)
    torch.autograd.backward(-scores.sum())
    trained = [weight for weight in policy.parameters() if weight.requires_grad]
    assert trained
    torch.optim.SGD(trained, lr=1e-2).step()
    assert_close(reference.log_prob(trajectory).sum(1), expected, atol=1e-4, rtol=1e-4)
    moved = policy.log_prob(trajectory).detach()
    policy.save_pretrained(tmp_path / "saved")
    assert not (tmp_path / "saved" / "adapter_config.json").exists()
    assert_close(load_policy(tmp_path / "saved").log_prob(trajectory), moved, atol=1e-4, rtol=1e-4)


def test_a_peft_model_or_one_with_an_adapter_inside_is_used_as_it_computes(tmp_path):
    peft_model = adapted(tiny_causal_lm(), KINDS["with a head"])
    inside = tiny_causal_lm()
    inside.add_adapter(deepcopy(KINDS["lora"]))
    for number, model in enumerate((peft_model, shaken(inside))):
        policy = CausalLMPolicy(model, tiny_tokenizer(), lora_rank=2)
        trajectory = encoded(policy)
        expected = plain_log_prob(model, trajectory)
        assert_close(policy.log_prob(trajectory).sum(1).detach(), expected, atol=1e-4, rtol=1e-4)
        policy.save_pretrained(tmp_path / str(number))
        loaded = load_policy(tmp_path / str(number))
        assert_close(loaded.log_prob(trajectory).sum(1), expected, atol=1e-4, rtol=1e-4)
        after = plain_log_prob(model, trajectory)
        assert torch.equal(after, expected), "the model that was given is left as it was"


def test_load_policy_takes_an_adapter_and_finds_the_tokenizer_beside_its_base(tmp_path):
    model = adapted(tiny_causal_lm(), KINDS["lora"])
    folder = save(model, tmp_path, tiny_causal_lm(), tokenizer=False)
    policy = load_policy(folder)
    trajectory = encoded(policy)
    assert_close(policy.log_prob(trajectory).sum(1), plain_log_prob(model, trajectory))


def rename(folder, change):
    file = folder / "adapter_model.safetensors"
    weights = load_file(file)
    save_file(change(weights), file, metadata={"format": "pt"})


def test_a_compiled_adapter_fits_without_the_marks(tmp_path):
    model = adapted(tiny_causal_lm(), KINDS["lora"])
    folder = save(model, tmp_path, tiny_causal_lm())
    rename(
        folder,
        lambda weights: {
            name.replace("base_model.model.", "base_model.model._orig_mod."): weight
            for name, weight in weights.items()
        },
    )
    policy = CausalLMPolicy(folder)
    trajectory = encoded(policy)
    assert_close(policy.log_prob(trajectory).sum(1), plain_log_prob(model, trajectory))


def without_one(weights):
    weights.pop(sorted(weights)[0])
    return weights


def with_one_more(weights):
    weights["base_model.model.model.layers.9.self_attn.q_proj.lora_A.weight"] = torch.ones(4, 32)
    return weights


@pytest.mark.parametrize(
    ("change", "message"),
    [(without_one, "lacks 1 weights"), (with_one_more, "no place for 1 weights.*layers.9")],
)
def test_an_adapter_that_does_not_fit_is_refused(tmp_path, change, message):
    folder = save(adapted(tiny_causal_lm(), KINDS["lora"]), tmp_path, tiny_causal_lm())
    rename(folder, change)
    with pytest.raises(InputError, match=message):
        CausalLMPolicy(folder)


def test_adapters_that_cannot_be_merged_or_have_no_base_are_refused(tmp_path):
    prefix = get_peft_model(
        tiny_causal_lm(), PrefixTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=4)
    )
    folder = save(prefix, tmp_path, tiny_causal_lm())
    for model in (folder, prefix):
        with pytest.raises(InputError, match="PREFIX_TUNING"):
            CausalLMPolicy(model, tiny_tokenizer())
    lora_folder = save(adapted(tiny_causal_lm(), KINDS["lora"]), tmp_path / "b", tiny_causal_lm())
    (tmp_path / "b" / "base").rename(tmp_path / "b" / "moved")
    with pytest.raises(InputError, match="which is not there"):
        CausalLMPolicy(lora_folder)


def classifier(labels=1):
    config = tiny_causal_lm().config
    config.num_labels = labels
    torch.manual_seed(0)
    return LlamaForSequenceClassification(config).eval()


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_reward_adapter_has_the_head_that_was_trained(tmp_path, dtype):
    """TRL trains a classifier's adapter on a causal model, whose head is new and in the adapter."""
    base = classifier()
    model = adapted(base, LoraConfig(task_type=TaskType.SEQ_CLS, r=4, init_lora_weights=False))
    folder = save(model, tmp_path, tiny_causal_lm())
    with silent():  # the base that is on the disk is the causal model of the same backbone
        tiny = tiny_causal_lm()
        tiny.model.load_state_dict(classifier().model.state_dict())
        tiny.save_pretrained(tmp_path / "base")
    tokenizer = tiny_tokenizer()
    expected = []
    for prompt, output in zip(SAMPLES.prompts, SAMPLES.outputs, strict=True):
        ids = [*tokenizer(prompt + output).input_ids, 256]
        with torch.no_grad():
            expected.append(model(input_ids=torch.tensor([ids])).logits[0, 0])
    expected = torch.stack(expected)
    if dtype == "float32":
        rewards = [
            load_reward(folder),
            LanguageReward(model, tokenizer).eval(),
            LanguageReward(folder, lora_rank=2).eval(),
        ]
        for number, reward in enumerate(rewards):
            with torch.no_grad():
                assert_close(reward(SAMPLES), expected, atol=1e-4, rtol=1e-4)
            reward.save_pretrained(tmp_path / str(number))
            with torch.no_grad():
                loaded = load_reward(tmp_path / str(number))
                assert_close(loaded(SAMPLES), expected, atol=1e-4, rtol=1e-4)
        return
    reward = LanguageReward(folder, dtype=dtype, frozen=True).eval()
    head = model.base_model.model.score.modules_to_save["default"].weight
    assert torch.equal(reward.head, head), "the head keeps all of its digits"


def test_a_language_reward_stands_on_a_text_adapter(tmp_path):
    model = adapted(
        tiny_causal_lm(),
        LoraConfig(
            task_type="CAUSAL_LM", r=4, target_modules="all-linear", init_lora_weights=False
        ),
    )
    folder = save(model, tmp_path, tiny_causal_lm())
    reward = LanguageReward(folder, seed=1).eval()
    merged = LanguageReward(model, tiny_tokenizer(), seed=1).eval()
    plain = LanguageReward(tiny_causal_lm(), tiny_tokenizer(), seed=1).eval()
    with torch.no_grad():
        assert_close(reward(SAMPLES), merged(SAMPLES), atol=1e-4, rtol=1e-4)
        assert (plain(SAMPLES) - merged(SAMPLES)).abs().max() > 1e-3


def test_adapters_of_the_other_kind_are_refused(tmp_path):
    text = save(adapted(tiny_causal_lm(), KINDS["lora"]), tmp_path / "a", tiny_causal_lm())
    with pytest.raises(InputError, match="SEQ_CLS"):
        load_reward(text)
    model = adapted(classifier(), LoraConfig(task_type=TaskType.SEQ_CLS, r=4))
    scores = save(model, tmp_path / "b", classifier())
    with pytest.raises(InputError, match="writes no text"):
        load_policy(scores)


def test_a_classifier_of_peft_is_merged_too():
    model = adapted(classifier(), LoraConfig(task_type=TaskType.SEQ_CLS, r=4))
    reward = ClassifierReward(model, tiny_tokenizer())
    assert type(reward.network).__name__ == "LlamaForSequenceClassification"


@pytest.mark.parametrize(
    "name", ["MixtralConfig", "Qwen3MoeConfig", "GptOssConfig", "JetMoeConfig"]
)
def test_experts_in_one_table_get_adapters_that_train_switch_off_and_merge(tmp_path, name):
    network = SMALL.small_causal_lm(CLASSES[name])
    experts = lora.expert_weights(network)
    policy = CausalLMPolicy(network, tiny_tokenizer(), lora_rank=2)
    trajectory = encoded(policy)
    before = policy.log_prob(trajectory)
    names = [name for name, weight in policy.network.named_parameters() if weight.requires_grad]
    assert sum("experts" in name or "linear" in name for name in names) >= 2 * len(experts) > 0
    shaken(policy)
    after = policy.log_prob(trajectory)
    assert (after - before).abs().max() > 1e-4
    assert torch.equal(policy.reference().log_prob(trajectory), before)
    policy.save_pretrained(tmp_path)
    loaded = CausalLMPolicy(tmp_path).network
    expected = plain_log_prob(loaded, trajectory)
    assert_close(after.sum(1).detach(), expected, atol=1e-4, rtol=1e-4)
    assert loaded.state_dict().keys() == SMALL.small_causal_lm(CLASSES[name]).state_dict().keys()
