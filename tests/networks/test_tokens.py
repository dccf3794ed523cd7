from types import SimpleNamespace

import pytest
import torch

from rewardlab.errors import InputError
from rewardlab.networks.tokens import (
    check_padding,
    check_vocabulary,
    context_length,
    pad_token,
    padded,
    positions_of,
    token_limit,
)
from rewardlab.testing import tiny_causal_lm, tiny_tokenizer

ENDLESS = 10**30  # what transformers says of a tokenizer without a limit


def tokenizer(pad=None, end=None, limit=ENDLESS):
    return SimpleNamespace(pad_token_id=pad, eos_token_id=end, model_max_length=limit)


@pytest.mark.parametrize("left", [False, True])
def test_rows_are_filled_up_to_the_longest(left):
    ids, mask = padded([[5, 6, 7], [8], []], token=9, left=left)
    assert ids[1].tolist() == ([9, 9, 8] if left else [8, 9, 9])
    assert mask.sum(1).tolist() == [3, 1, 0]
    assert ids[mask].tolist() == [5, 6, 7, 8]
    assert ids.dtype == torch.int64
    assert mask.dtype == torch.bool


def test_no_rows_give_an_empty_table():
    ids, mask = padded([])
    assert ids.shape == mask.shape == (0, 0)
    assert ids.dtype == torch.int64


@pytest.mark.parametrize("left", [False, True])
def test_positions_count_tokens_and_not_padding(left):
    _, mask = padded([[5, 6, 7], [8, 9]], left=left)
    positions = positions_of(mask)
    assert positions[0].tolist() == [0, 1, 2]
    assert positions[1][mask[1]].tolist() == [0, 1]


def test_the_models_own_padding_token_goes_before_the_tokenizers_and_its_end():
    assert pad_token(tokenizer(pad=1, end=2), model_pad=0) == 0
    assert pad_token(tokenizer(pad=1, end=2)) == 1
    assert pad_token(tokenizer(end=2)) == 2
    with pytest.raises(InputError, match="neither a padding nor an end token"):
        check_padding(tokenizer())


def test_the_least_of_three_limits_counts():
    network = tiny_causal_lm(context=64)
    assert context_length(network) == 64
    assert token_limit(None, network, tokenizer()) == 64
    assert token_limit(10, network, tokenizer()) == 10
    assert token_limit(100, network, tokenizer(limit=50)) == 50


def test_a_tokenizer_with_more_tokens_than_the_network_embeds_is_refused():
    network = tiny_causal_lm(vocabulary=258)
    with pytest.raises(InputError, match="has 259 tokens, but the backbone embeds 258"):
        check_vocabulary(tiny_tokenizer(), network)
    check_vocabulary(tiny_tokenizer(), network, needed=258)
