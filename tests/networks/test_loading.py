from pathlib import Path

import pytest
import torch

from rewardlab.errors import InputError
from rewardlab.networks.loading import (
    checkpoint_activations,
    from_pretrained,
    is_name,
    load_network,
    load_tokenizer,
    takes_positions,
)
from rewardlab.networks.sharing import recomputes
from rewardlab.testing import tiny_causal_lm, tiny_tokenizer


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
    assert not recomputes(network)
    checkpoint_activations(network)
    assert recomputes(network)


def test_a_decoder_takes_positions():
    assert takes_positions(tiny_causal_lm().base_model)
    assert not takes_positions(torch.nn.Linear(2, 1))
