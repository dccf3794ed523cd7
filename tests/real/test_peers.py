"""Reward folders that the writers of OpenRLHF and verl make, scored by their networks and by ours.

`$REWARDLAB_OPENRLHF` and `$REWARDLAB_VERL` name folders with the unpacked package (its wheel's
`openrlhf` or `verl` folder inside). What their modules import beside torch, transformers and peft is
for GPUs and clusters; stand-ins take its place, since the writers do not call it.
"""

import importlib
import json
import os
from pathlib import Path

import pytest
import torch
from torch.testing import assert_close
from transformers import AutoConfig, AutoModelForTokenClassification, AutoTokenizer

from rewardlab import InputError, Samples, load_reward
from rewardlab.networks.silence import silent
from rewardlab.testing.tiny_text import tiny_causal_lm, tiny_tokenizer

SAMPLES = Samples(["ab", "hello"], ["c", "what\n"])
END = 256  # the end token of the tiny tokenizer, whose other tokens are bytes
DTYPES = {"bf16": torch.bfloat16, "fp32": torch.float32}


@pytest.fixture
def base(tmp_path):
    with silent():
        tiny_causal_lm().save_pretrained(tmp_path / "base")
    tiny_tokenizer().save_pretrained(tmp_path / "base")
    return tmp_path / "base"


def openrlhf_reward(unpacked, base, lora_rank):
    """Return the reward network that OpenRLHF's train_rm makes before its first step."""
    unpacked(
        "REWARDLAB_OPENRLHF",
        "openrlhf",
        ["openrlhf", "openrlhf.models", "openrlhf.utils"],
        {
            "deepspeed": {},
            "openrlhf.models.ring_attn_utils": {
                "gather_and_pad_tensor": None,
                "unpad_and_slice_tensor": None,
            },
            "openrlhf.models.utils": {"set_z3_leaf_modules": lambda *_, **__: None},
            "openrlhf.utils.utils": {"convert_to_torch_dtype": DTYPES.get},
        },
    )
    model = importlib.import_module("openrlhf.models.model")
    with silent():
        network = model.get_llm_for_sequence_regression(
            str(base),
            "reward",
            param_dtype="fp32",
            attn_implementation="eager",
            init_value_head=True,
            lora_rank=lora_rank,
            target_modules="all-linear",
        )
    return network.eval()


def save_as_train_rm(network, folder):
    """Do what its `save_model` does on one process, the config last."""
    network.config.value_head_prefix = "score"
    network.config.mean, network.config.std = 0.25, 2.0
    with silent():
        network.save_pretrained(folder)
    network.config.to_json_file(folder / "config.json")
    tiny_tokenizer().save_pretrained(folder)


@pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing. is deprecated:FutureWarning")
def test_a_folder_of_openrlhf_scores_as_its_network_does(unpacked, base, tmp_path):
    network = openrlhf_reward(unpacked, base, lora_rank=0)
    save_as_train_rm(network, tmp_path / "reward")
    rows = [[*b"abc ", END], [*b"hellowhat ", END]]
    width = max(map(len, rows))
    ids = torch.tensor([[0] * (width - len(row)) + row for row in rows])
    with torch.no_grad():
        expected = network(ids, attention_mask=(ids != 0).long())
        scores = load_reward(tmp_path / "reward")(SAMPLES)
    assert_close(scores, expected, atol=1e-5, rtol=1e-5)


@pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing. is deprecated:FutureWarning")
def test_an_adapter_of_openrlhf_has_no_head(unpacked, base, tmp_path):
    network = openrlhf_reward(unpacked, base, lora_rank=2)
    save_as_train_rm(network, tmp_path / "reward")
    with pytest.raises(InputError, match="no head beside it"):
        load_reward(tmp_path / "reward")


def test_a_value_model_that_verl_merged_scores_as_a_token_classifier(unpacked, base, tmp_path):
    unpacked(
        "REWARDLAB_VERL",
        "verl",
        ["verl", "verl.model_merger"],
        {
            "verl.utils": {
                "__path__": [str(Path(os.environ.get("REWARDLAB_VERL", ".")) / "verl" / "utils")],
                "hf_tokenizer": lambda path, **_: AutoTokenizer.from_pretrained(path),
                "hf_processor": lambda *_, **__: None,
            }
        },
    )
    merger = importlib.import_module("verl.model_merger.fsdp_model_merger")
    settings = importlib.import_module("verl.model_merger.base_model_merger").ModelMergerConfig
    shards = tmp_path / "critic"
    with silent():
        config = AutoConfig.from_pretrained(base, num_labels=1, classifier_dropout=0.0)
        network = AutoModelForTokenClassification.from_pretrained(base, config=config).eval()
        network.score.bias.data.fill_(0.3)
        network.config.save_pretrained(shards / "huggingface")
        tiny_tokenizer(chat=True).save_pretrained(shards / "huggingface")
        torch.save(network.state_dict(), shards / "model_world_size_1_rank_0.pt")
        (shards / "fsdp_config.json").write_text(json.dumps({"world_size": 1}))
        with pytest.raises(InputError, match="model_merger merge"):
            load_reward(shards)
        options = {"operation": "merge", "backend": "fsdp", "trust_remote_code": False}
        places = {"local_dir": str(shards), "hf_model_config_path": str(shards / "huggingface")}
        target = str(tmp_path / "merged")
        merger.FSDPModelMerger(settings(**options, **places, target_dir=target)).merge_and_save()
    tokenizer = tiny_tokenizer(chat=True)
    reward = load_reward(target)
    for parameter in network.parameters():  # the merger writes bfloat16
        parameter.data = parameter.data.bfloat16().float()
    expected = []
    for prompt, response in zip(SAMPLES.prompts, SAMPLES.outputs, strict=True):
        turns = [
            {"role": "user", "content": prompt},
            {"role": "assistant", "content": response},
        ]
        ids = tokenizer.apply_chat_template(turns, return_tensors="pt", return_dict=False)
        with torch.no_grad():
            expected.append(network(ids).logits[0, -1, 0])
    with torch.no_grad():
        assert_close(reward(SAMPLES), torch.stack(expected), atol=1e-4, rtol=1e-4)
