"""Rewards in the layouts that OpenRLHF, verl and older TRL write, against a few lines of torch."""

import json
import runpy
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import save_file
from torch.testing import assert_close
from transformers import (
    AutoModel,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaForSequenceClassification,
    Qwen2Config,
    Qwen2ForCausalLM,
)

from rewardlab.conversations import Conversation, Message
from rewardlab.errors import InputError
from rewardlab.networks.silence import silent
from rewardlab.rewards import ClassifierReward, LanguageReward, Standardized, load_reward
from rewardlab.types import Samples

HERE = Path(__file__).parent
TINY = SimpleNamespace(**runpy.run_path(str(HERE / "tiny_models.py")))
CHATML = TINY.CHATML
LINES = "{% for m in messages %}{{ m['role'] }}: {{ m['content'] }}\n{% endfor %}"  # without an end
SMALL = {"vocab_size": 260, "pad_token_id": 256, "eos_token_id": 257, "bos_token_id": 257}
SAMPLES = Samples(["Say hi.", "1 + 1 = "], ["Hello there, hé 世", "2\n\n"])


def llama():
    return TINY.backbone()


def gpt2():
    config = GPT2Config(**SMALL, n_embd=32, n_head=2, n_layer=2, n_positions=128)
    return GPT2LMHeadModel(config)


def qwen2():
    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2}
    config = Qwen2Config(**SMALL, **sizes, num_attention_heads=2, num_key_value_heads=1)
    return Qwen2ForCausalLM(config)


def write(folder, network, head, architecture, template=None, bias=None, shards=1, **settings):
    """Write a causal model's folder with a head among its weights, and return the head."""
    with silent():
        network.save_pretrained(folder)
    TINY.tokenizer(template).save_pretrained(folder)
    weights = {name: weight.clone() for name, weight in network.state_dict().items()}
    weights.pop("lm_head.weight")
    generator = torch.Generator().manual_seed(1)
    weights[f"{head}.weight"] = torch.randn(1, 32, generator=generator)
    if bias is not None:
        weights[f"{head}.bias"] = torch.tensor([bias])
    save(folder, weights, shards)
    file = folder / "config.json"
    config = json.loads(file.read_text()) | {"architectures": [architecture]} | settings
    file.write_text(json.dumps(config))
    return weights[f"{head}.weight"]


def save(folder, weights, shards):
    """Save weights in one file, or in several with an index."""
    (folder / "model.safetensors").unlink()
    names = sorted(weights)
    if shards == 1:
        save_file(weights, folder / "model.safetensors", {"format": "pt"})
        return
    places = {}
    for number in range(shards):
        part = {name: weights[name] for name in names[number::shards]}
        save_file(part, folder / f"model-{number}.safetensors", {"format": "pt"})
        places.update(dict.fromkeys(part, f"model-{number}.safetensors"))
    index = {"metadata": {}, "weight_map": places}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))


def text_of_openrlhf(tokenizer, prompt, response):
    """Return the text that its data set makes: by the template, its line ends, then the end."""
    text = prompt + response
    if tokenizer.chat_template is not None:
        messages = [("user", prompt), ("assistant", response)]
        turns = [{"role": role, "content": content} for role, content in messages]
        text = tokenizer.apply_chat_template(turns, tokenize=False)
    text = text.rstrip("\n")
    end = tokenizer.eos_token
    return text if text.endswith(end) else f"{text} {end}"


def last_values(folder, texts, tokenizer, weight, bias=0.0):
    """Return a head's values at the very last token of each text, one at a time."""
    with silent():
        backbone = AutoModel.from_pretrained(folder).eval()
    values = []
    for text in texts:
        ids = tokenizer(text, add_special_tokens=False, return_tensors="pt").input_ids
        with torch.no_grad():
            state = backbone(ids).last_hidden_state[0, -1]
        values.append(weight[0] @ state + bias)
    return torch.stack(values)


@torch.no_grad()
def scores(reward):
    return reward(SAMPLES)


@pytest.mark.parametrize(
    ("head", "make", "template"),
    [
        ("score", llama, None),
        ("value_head", llama, CHATML),
        ("value_head", gpt2, LINES),
        ("score", qwen2, CHATML),
    ],
)
def test_a_reward_of_openrlhf_scores_its_texts_at_their_end(tmp_path, head, make, template):
    folder = tmp_path / "reward"
    network = make()
    weight = write(folder, network, head, "RewardModel", template, value_head_prefix=head)
    tokenizer = TINY.tokenizer(template)
    texts = []
    for prompt, response in zip(SAMPLES.prompts, SAMPLES.outputs, strict=True):
        texts.append(text_of_openrlhf(tokenizer, prompt, response))
    expected = last_values(folder, texts, tokenizer, weight)
    reward = load_reward(folder)
    assert_close(scores(reward), expected, atol=1e-5, rtol=1e-5)
    assert torch.equal(scores(ClassifierReward.from_pretrained(folder)), scores(reward))
    assert torch.equal(reward.head, weight)
    reward.save_pretrained(tmp_path / "again")
    assert_close(scores(load_reward(tmp_path / "again")), expected, atol=1e-5, rtol=1e-5)
    config = json.loads((tmp_path / "again" / "config.json").read_text())
    assert "value_head_prefix" not in config, "a trainer would look for the head by that name"


def test_the_end_token_is_read_where_it_pads_too(tmp_path):
    """OpenRLHF pads with the end token where a tokenizer has no other, and masks what pads."""
    folder = tmp_path / "reward"
    weight = write(folder, llama(), "score", "RewardModel", pad_token_id=257)
    tokenizer = TINY.tokenizer(pad_token="<|end|>")
    tokenizer.save_pretrained(folder)
    texts = ["Say hi.Hello there, hé 世 <|end|>", "1 + 1 = 2 <|end|>"]
    expected = last_values(folder, texts, tokenizer, weight)
    assert_close(scores(load_reward(folder)), expected, atol=1e-5, rtol=1e-5)


def test_plain_texts_beside_a_template(tmp_path):
    """OpenRLHF uses a template only where it was told to, and the folder does not say."""
    folder = tmp_path / "reward"
    weight = write(folder, llama(), "score", "RewardModel", CHATML, normalize_reward=False)
    texts = ["Say hi.Hello there, hé 世 <|end|>", "1 + 1 = 2 <|end|>"]
    expected = last_values(folder, texts, TINY.tokenizer(), weight)
    by_argument = LanguageReward(folder, chat=False).eval()
    later = load_reward(folder)
    later.set_chat(False)
    talk = Conversation((Message("system", "Be brief"), Message("user", "Hi")))
    for reward in (by_argument, later):
        assert_close(scores(reward), expected, atol=1e-5, rtol=1e-5)
        with pytest.raises(InputError, match="chat=false forbids"):
            reward(Samples([talk], ["Bob"]))


@pytest.mark.parametrize("normalized", [False, True])
def test_mean_and_deviation_of_openrlhfs_config(tmp_path, normalized):
    folder = tmp_path / "reward"
    settings = {"mean": 0.25, "std": 2.0, "normalize_reward": normalized}
    weight = write(folder, llama(), "score", "RewardModel", **settings)
    texts = ["Say hi.Hello there, hé 世 <|end|>", "1 + 1 = 2 <|end|>"]
    raw = last_values(folder, texts, TINY.tokenizer(), weight)
    reward = load_reward(folder)
    expected = (raw - 0.25) / 2 if normalized else raw
    assert_close(scores(reward), expected, atol=1e-5, rtol=1e-5)
    assert_close(scores(Standardized(reward)), (raw - 0.25) / 2, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(
    ("head", "architecture", "template", "shards"),
    [
        ("score", "LlamaForTokenClassification", CHATML, 1),
        ("score", "LlamaForCausalLM", LINES, 2),
        ("v_head.summary", "LlamaForCausalLM", CHATML, 1),
    ],
)
def test_a_value_head_of_verl_or_trl_scores_the_last_token(
    tmp_path, head, architecture, template, shards
):
    """The merged folder of verl says a causal model where the critic began as one."""
    folder = tmp_path / "reward"
    weight = write(folder, llama(), head, architecture, template, bias=0.75, shards=shards)
    tokenizer = TINY.tokenizer(template)
    texts = []
    for prompt, response in zip(SAMPLES.prompts, SAMPLES.outputs, strict=True):
        turns = [
            {"role": "user", "content": prompt},
            {"role": "assistant", "content": response},
        ]
        texts.append(tokenizer.apply_chat_template(turns, tokenize=False))
    expected = last_values(folder, texts, tokenizer, weight, 0.75)
    reward = load_reward(folder)
    assert_close(scores(reward), expected, atol=1e-5, rtol=1e-5)
    reward.save_pretrained(tmp_path / "again")
    assert_close(scores(load_reward(tmp_path / "again")), expected, atol=1e-5, rtol=1e-5)


def test_one_can_be_trained_on_and_keeps_its_scores_at_the_start(tmp_path):
    folder = tmp_path / "reward"
    write(folder, llama(), "value_head", "RewardModel", value_head_prefix="value_head")
    expected = scores(load_reward(folder))
    for options in ({"lora_rank": 2}, {"frozen": True}):
        reward = LanguageReward(folder, **options).eval()
        assert_close(scores(reward), expected, atol=1e-5, rtol=1e-5)


def test_a_causal_model_and_a_classifier_stay_what_they_are(tmp_path):
    with silent():
        llama().save_pretrained(tmp_path / "policy")
        classifier = TINY.backbone(LlamaForSequenceClassification, num_labels=1)
        classifier.save_pretrained(tmp_path / "classifier")
    for name in ("policy", "classifier"):
        TINY.tokenizer().save_pretrained(tmp_path / name)
    with pytest.raises(InputError, match="names no class_path"):
        load_reward(tmp_path / "policy")
    assert load_reward(tmp_path / "classifier").pad == 256


def damaged(tmp_path, what):
    """Write a folder that is no reward, for one of the reasons."""
    folder = tmp_path / "reward"
    architecture = "CriticModel" if what == "critic" else "RewardModel"
    settings = {"mean": 0.0, "std": 0.0} if what == "deviation" else {}
    write(folder, llama(), "score", architecture, normalize_reward=False, **settings)
    if what == "labels":
        weights = llama().state_dict() | {"score.weight": torch.ones(9, 32)}
        weights.pop("lm_head.weight")
        save_file(weights, folder / "model.safetensors", {"format": "pt"})
    if what == "shards":
        torch.save({}, folder / "model_world_size_2_rank_0.pt")
        (folder / "model.safetensors").unlink()
    if what == "cut":
        data = (folder / "model.safetensors").read_bytes()
        (folder / "model.safetensors").write_bytes(data[: len(data) // 2])
    return folder


@pytest.mark.parametrize(
    ("what", "message"),
    [
        ("critic", "a critic of OpenRLHF.*train_rm"),
        ("deviation", r"mean 0\.0 and std 0\.0.*positive deviation"),
        ("labels", r"shape \(9, 32\).*one number a token"),
        ("shards", "shards.*verl.model_merger merge --backend fsdp"),
        ("cut", "cannot be read.*cut off"),
    ],
)
def test_what_is_no_such_reward_is_refused(tmp_path, what, message):
    with pytest.raises(InputError, match=message):
        load_reward(damaged(tmp_path, what))


def test_the_shards_beside_the_config_of_verl_are_refused(tmp_path):
    torch.save({}, tmp_path / "model_world_size_1_rank_0.pt")
    with silent():
        llama().config.save_pretrained(tmp_path / "huggingface")
    for folder in (tmp_path, tmp_path / "huggingface"):
        with pytest.raises(InputError, match=f"{tmp_path} holds the shards"):
            load_reward(folder)


def test_an_adapter_of_openrlhf_lacks_its_head(tmp_path):
    with silent():
        llama().save_pretrained(tmp_path / "base")
    folder = tmp_path / "adapter"
    folder.mkdir()
    adapter = {"base_model_name_or_path": str(tmp_path / "base"), "task_type": None}
    (folder / "adapter_config.json").write_text(json.dumps(adapter))
    config = {"architectures": ["LlamaForCausalLM"], "normalize_reward": False}
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(InputError, match=r"no head beside it.*lost"):
        load_reward(folder)
