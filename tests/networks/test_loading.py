import logging
import runpy
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file
from transformers import LlamaForSequenceClassification

from rewardlab.errors import InputError
from rewardlab.networks.loading import (
    checkpoint_activations,
    from_pretrained,
    is_name,
    load_network,
    load_tokenizer,
    takes_positions,
)
from rewardlab.networks.silence import silent
from rewardlab.networks.stillness import recomputing_parts
from rewardlab.policies import CausalLMPolicy, load_policy
from rewardlab.rewards import LanguageReward, load_reward
from rewardlab.testing import tiny_causal_lm, tiny_tokenizer

POLICIES = Path(__file__).parents[1] / "policies"
SMALL = SimpleNamespace(**runpy.run_path(str(POLICIES / "architectures.py")))
CLASSES = {config.__name__: config for config in SMALL.CAUSAL}


@pytest.fixture
def folder(tmp_path):
    """A folder with a language model and its tokenizer."""
    tiny_causal_lm().save_pretrained(tmp_path)
    tiny_tokenizer().save_pretrained(tmp_path)
    return tmp_path


def test_folders_and_hub_ids_are_names(folder):
    assert is_name("an/id")
    assert is_name(Path("a/folder"))
    assert not is_name(tiny_causal_lm())


def test_a_network_is_loaded_whole_and_leaves_global_randomness_alone(folder):
    state = torch.get_rng_state()
    network = load_network("AutoModelForCausalLM", str(folder), torch.bfloat16)
    assert network.dtype == torch.bfloat16
    expected = tiny_causal_lm().lm_head.weight.bfloat16()
    assert torch.equal(network.lm_head.weight, expected)
    assert torch.equal(torch.get_rng_state(), state)


def test_a_network_that_lacks_weights_is_refused(folder):
    with pytest.raises(InputError, match=r"lacks 1 weights of a LlamaForSeq.*score\.weight"):
        load_network("AutoModelForSequenceClassification", str(folder), torch.float32)


def test_what_is_not_there_is_named():
    with pytest.raises(InputError, match=r"cannot load no/such \(AutoTokenizer\)"):
        from_pretrained("AutoTokenizer", "no/such")


def test_the_tokenizer_is_the_one_given_or_named_or_beside_the_model(folder):
    given = tiny_tokenizer()
    assert load_tokenizer(given, tiny_causal_lm(), "A") is given
    named = load_tokenizer(str(folder), tiny_causal_lm(), "A")
    beside = load_tokenizer(None, folder, "A")
    assert named.get_vocab() == beside.get_vocab() == given.get_vocab()


def test_an_instance_without_a_tokenizer_is_refused():
    with pytest.raises(InputError, match="A got a LlamaForCausalLM and no tokenizer"):
        load_tokenizer(None, tiny_causal_lm(), "A")


def test_activations_are_recomputed_once_asked_for():
    network = tiny_causal_lm()
    assert not recomputing_parts(network)
    checkpoint_activations(network)
    assert recomputing_parts(network)


def test_a_decoder_takes_positions():
    assert takes_positions(tiny_causal_lm().base_model)
    assert not takes_positions(torch.nn.Linear(2, 1))


def nested(name):
    """Name a weight as FSDP does whose wrapper stands around the model and around each block."""
    parts = name.split(".")
    for number, part in enumerate(parts[:-1]):
        if part.isdigit():
            parts[number] = f"{part}._fsdp_wrapped_module._checkpoint_wrapped_module"
    return "_fsdp_wrapped_module." + ".".join(parts)


MARKS = {
    "compile": lambda name: f"_orig_mod.{name}",
    "DDP": lambda name: f"module.{name}",
    "DDP of compile": lambda name: f"module._orig_mod.{name}",
    "an attribute": lambda name: f"model.{name}",
    "compiled blocks": lambda name: name.replace(".1.", ".1._orig_mod."),
    "FSDP": nested,
}


def rewrite(folder, change):
    """Change the names of a folder's weights, or the weights."""
    file = Path(folder) / "model.safetensors"
    save_file(change(load_file(file)), file, metadata={"format": "pt"})


def renamed(rename):
    return lambda weights: {rename(name): weight for name, weight in weights.items()}


@pytest.mark.parametrize("mark", MARKS)
@pytest.mark.parametrize("name", ["LlamaConfig", "GPT2Config", "MixtralConfig"])
def test_marks_of_wrappers_are_read_where_all_weights_fit_without_them(tmp_path, name, mark):
    network = SMALL.small_causal_lm(CLASSES[name])
    with silent():
        network.save_pretrained(tmp_path)
    rewrite(tmp_path, renamed(MARKS[mark]))
    for kind, expected in (("AutoModelForCausalLM", network), ("AutoModel", network.base_model)):
        loaded = load_network(kind, str(tmp_path), torch.float32).state_dict()
        assert loaded.keys() == expected.state_dict().keys()
        for key, weight in expected.state_dict().items():
            assert torch.equal(loaded[key], weight), key


def test_marks_of_wrappers_are_told_of(folder, caplog):
    rewrite(folder, renamed(MARKS["compile"]))
    with caplog.at_level(logging.WARNING, "rewardlab"):
        policy = load_policy(folder)
    assert "marks of a wrapper" in caplog.text
    assert torch.equal(policy.network.lm_head.weight, tiny_causal_lm().lm_head.weight)


def strange(weights):
    return {f"strange.{name}": weight for name, weight in weights.items()}


def lacking(weights):
    weights.pop("model.layers.1.mlp.up_proj.weight")
    return weights


def deeper(weights):
    """A network of three layers beside a config of two."""
    copies = {}
    for name, weight in weights.items():
        if ".layers.1." in name:
            copies[name.replace(".layers.1.", ".layers.2.")] = weight.clone()
    return weights | copies


def biased(weights):
    return weights | {"model.layers.0.self_attn.q_proj.bias": torch.ones(32)}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (strange, "lacks 21 weights"),
        (lacking, r"lacks 1 weights .* such as model\.layers\.1\.mlp\.up_proj\.weight"),
        (deeper, r"has 9 weights .* such as model\.layers\.2\."),
        (biased, r"has 1 weights .* such as model\.layers\.0\.self_attn\.q_proj\.bias"),
    ],
)
def test_a_checkpoint_that_does_not_fit_is_refused_by_policies_and_rewards(folder, change, message):
    rewrite(folder, change)
    with pytest.raises(InputError, match=message):
        load_policy(folder)
    with pytest.raises(InputError, match=r"(lacks|has) \d+ weights"):
        LanguageReward(folder)


def test_another_head_beside_the_model_is_left_out_and_told(folder, caplog):
    rewrite(folder, lambda weights: weights | {"v_head.summary.weight": torch.ones(1, 32)})
    with caplog.at_level(logging.INFO, "rewardlab"):
        policy = load_policy(folder)
    assert "left out: v_head.summary.weight" in caplog.text
    assert torch.equal(policy.network.lm_head.weight, tiny_causal_lm().lm_head.weight)


def test_a_classifier_with_marks_keeps_its_head(tmp_path):
    config = tiny_causal_lm().config
    config.num_labels = 1
    network = LlamaForSequenceClassification(config)
    with silent():
        network.save_pretrained(tmp_path)
    tiny_tokenizer().save_pretrained(tmp_path)
    expected = load_reward(tmp_path)
    rewrite(tmp_path, renamed(MARKS["DDP"]))
    assert torch.equal(load_reward(tmp_path).head, expected.head)
    assert torch.equal(expected.head, network.score.weight)


@pytest.mark.parametrize("kind", ["GPT2", "GPTNeoX", "Qwen2", "Gemma", "Bert", "Roberta"])
def test_a_folder_without_a_vocabulary_is_refused(tmp_path, kind):
    """Of it transformers makes a tokenizer of marks alone, to which all texts are one."""
    config = getattr(transformers, f"{kind}Config")(num_labels=1)
    config.save_pretrained(tmp_path)
    with pytest.raises(InputError, match="without a vocabulary"):
        load_tokenizer(None, tmp_path, "CausalLMPolicy")


def test_an_instance_without_numbers_is_refused():
    with torch.device("meta"):
        network = type(tiny_causal_lm())(tiny_causal_lm().config)
    with pytest.raises(InputError, match=r"leaves 21 weights .*on the meta device"):
        CausalLMPolicy(network, tiny_tokenizer())
    with pytest.raises(InputError, match="on the meta device"):
        LanguageReward(network, tiny_tokenizer())
