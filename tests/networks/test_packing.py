"""Packed rows: every architecture that packs gives each token what it gives it in a row alone."""

import random

import pytest
import torch
import transformers
from torch.testing import assert_close

from rewardlab.networks import packable, packing
from rewardlab.networks.loading import checkpoint_activations

SIZES = {
    "vocab_size": 60,
    "hidden_size": 32,
    "intermediate_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "max_position_embeddings": 64,
    "pad_token_id": 0,
}
GROUPED = {**SIZES, "num_key_value_heads": 1}
EXPERTS = {"num_experts_per_tok": 2, "decoder_sparse_step": 1, "moe_intermediate_size": 16}
ARCHITECTURES = {
    "Llama": GROUPED,
    "Mistral": {**GROUPED, "sliding_window": None},
    "Qwen2": GROUPED,
    "Qwen3": {**GROUPED, "head_dim": 16},
    "Qwen3Moe": {**GROUPED, "head_dim": 16, "num_experts": 4, **EXPERTS},
    "Gemma": {**GROUPED, "head_dim": 16},
    "GPT2": {"vocab_size": 60, "n_embd": 32, "n_layer": 2, "n_head": 2, "n_positions": 64},
    "GPTNeoX": SIZES,
    "Phi3": GROUPED,
    "Olmo2": GROUPED,
    "Granite": GROUPED,
    "StableLm": GROUPED,
    "SmolLM3": GROUPED,
    "Cohere": GROUPED,
    "OPT": {**SIZES, "ffn_dim": 32, "word_embed_proj_dim": 32},
    "Falcon": SIZES,
    "Bert": {**SIZES, "is_decoder": True},
}
NEVER = {
    "Gemma2": {**GROUPED, "head_dim": 16, "sliding_window": 4},  # a window
    "Bloom": {"vocab_size": 60, "hidden_size": 32, "n_layer": 2, "n_head": 2},  # no positions
    "Mamba": {"vocab_size": 60, "hidden_size": 32, "num_hidden_layers": 2, "state_size": 4},
}
OWN_SIGHT = {
    "GPTNeo": {  # a window that its config calls no sliding one
        "vocab_size": 60,
        "hidden_size": 32,
        "num_layers": 2,
        "num_heads": 2,
        "attention_types": [[["global", "local"], 1]],
        "window_size": 4,
        "max_position_embeddings": 64,
    },
    "Falcon": {**SIZES, "alibi": True},
    "Bert": SIZES,
    "Roberta": {**SIZES, "is_decoder": True},
    "OpenAIGPT": {"vocab_size": 60, "n_embd": 32, "n_layer": 2, "n_head": 2, "n_positions": 64},
}
REASONS = {
    "GPTNeo": "a window of columns",
    "Falcon": "those of columns",
    "Bert": "see those behind them",
    "Roberta": "behind the padding token's number",
    "OpenAIGPT": "a mask of padding alone",
}
KEEPS_MORE = "its layers keep a window, a recurrent state or no cache"


def network_of(name, settings, attention="sdpa"):
    config = getattr(transformers, f"{name}Config")(**settings)
    config._attn_implementation = attention
    torch.manual_seed(0)
    network = getattr(transformers, f"{name}Model")(config).eval()
    return network if name == "Qwen3Moe" else network.double()  # its experts multiply no float64


def made(seed=0, prompts=4, responses=3, longest=9):
    """Return rows of random ids and where their responses start; the last prompt is empty."""
    draw = random.Random(seed)
    rows = []
    starts = []
    for number in range(prompts):
        prompt = [draw.randrange(1, 60) for _ in range(number and draw.randint(1, longest))]
        for _ in range(responses):
            rows.append([*prompt, *(draw.randrange(1, 60) for _ in range(draw.randint(1, 7)))])
            starts.append(len(prompt))
    return rows, starts


def states_of(network, rows, starts, lines):
    """Return each row's response states from one packed pass."""
    table = packing.packed(rows, starts, lines)
    states = table.responses(packing.run_packed(network, table))
    responses = zip(states, table.lengths.tolist(), strict=True)
    return [of_row[:length] for of_row, length in responses]


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("name", ARCHITECTURES)
def test_each_token_is_what_it_is_in_a_row_of_its_own(name, attention):
    network = network_of(name, ARCHITECTURES[name], attention)
    assert packable.packs(network)
    rows, starts = made()
    lines = packing.layout(rows, starts, hidden=32)
    assert sum(map(len, lines.lines)) > len(lines.lines)  # several prompts a line
    packed = states_of(network, rows, starts, lines)
    # eager attention's softmax is float32 whatever the states are
    is_exact = attention == "sdpa" and network.dtype == torch.float64
    error = 1e-10 if is_exact else 2e-5
    for row, start, states in zip(rows, starts, packed, strict=True):
        alone = network(input_ids=torch.tensor([row])).last_hidden_state[0, start:]
        assert_close(states, alone, atol=error, rtol=error)


@pytest.mark.parametrize("name", NEVER)
def test_what_keeps_more_or_less_than_keys_and_values_is_not_packed(name):
    network = network_of(name, NEVER[name], "eager")
    assert not packable.packs(network)
    assert packable.hindrance(network) in ("it counts positions by itself", KEEPS_MORE)


@pytest.mark.parametrize("name", OWN_SIGHT)
def test_what_sees_by_the_place_in_the_table_is_not_packed(name):
    network = network_of(name, OWN_SIGHT[name], "eager")
    assert packable.keeps_only_keys_and_values(network)
    assert REASONS[name] in packable.hindrance(network)


def test_an_attention_that_takes_no_mask_is_not_packed():
    network = network_of("Llama", GROUPED)
    network.config._attn_implementation = "flash_attention_2"
    assert "flash_attention_2" in packable.hindrance(network)


@pytest.mark.parametrize("checkpointed", [False, True])
def test_gradients_are_those_of_rows_alone(checkpointed):
    network = network_of("Llama", GROUPED).train()
    if checkpointed:
        checkpoint_activations(network)
    weights = [weight for weight in network.parameters() if weight.requires_grad]
    rows, starts = made(seed=1)
    lines = packing.layout(rows, starts, hidden=32)
    packed = torch.cat(states_of(network, rows, starts, lines)).square().sum()
    alone = 0
    for row, start in zip(rows, starts, strict=True):
        alone += network(input_ids=torch.tensor([row])).last_hidden_state[0, start:].square().sum()
    ours = torch.autograd.grad(packed, weights)
    for one, other in zip(ours, torch.autograd.grad(alone, weights), strict=True):
        scale = other.abs().max().item()
        assert_close(one, other, atol=1e-6 * scale, rtol=1e-5)  # norms are float32 inside


def test_the_prompts_last_state_is_what_the_first_token_is_drawn_from():
    network = network_of("Llama", GROUPED)
    rows, starts = [[5, 6, 7, 8], [5, 6, 9], [4, 3]], [2, 2, 1]
    table = packing.packed(rows, starts, packing.layout(rows, starts, hidden=32))
    before = table.before_responses(packing.run_packed(network, table))[:, 0]
    for row, start, state in zip(rows, starts, before, strict=True):
        alone = network(input_ids=torch.tensor([row[:start]])).last_hidden_state[0, -1]
        assert_close(state, alone, atol=1e-10, rtol=1e-10)


class TestLayout:
    @pytest.mark.parametrize("seed", range(5))
    def test_every_row_stands_once_in_a_line_that_holds_it(self, seed):
        rows, starts = made(seed, prompts=6, responses=5)
        lines = packing.layout(rows, starts, hidden=16)
        standing = []
        for line in lines.lines:
            length = 0
            for block in line:
                standing += block.rows
                length += block.length
                prompts = {tuple(rows[row][: starts[row]]) for row in block.rows}
                assert len(prompts) == 1
            assert length <= lines.width
        assert sorted(standing) == list(range(len(rows)))

    def test_a_prompt_with_more_responses_than_a_line_holds_begins_several(self):
        rows = [[1, 2, 3, *[4] * 20, 5]] * 64
        lines = packing.layout(rows, [3] * 64, hidden=8)  # a narrow network: attention is dear
        assert len(lines.lines) > 1
        assert all(len({block.prompt for block in line}) == 1 for line in lines.lines)

    def test_rows_of_one_length_without_a_common_prompt_are_run_whole(self):
        rows = [[number, 9, 9] for number in range(8)]
        assert packing.cheaper(rows, [1] * 8, hidden=64) is None

    def test_a_shared_prompt_or_a_long_tail_is_packed(self):
        shared = [[1, 2, 3, number] for number in range(8)]
        assert packing.cheaper(shared, [3] * 8, hidden=64) is not None
        tailed = [[number] * 4 for number in range(8)] + [[7] * 64]
        assert packing.cheaper(tailed, [1] * 9, hidden=64) is not None

    def test_a_mask_beyond_the_limit_is_not_made(self, monkeypatch):
        monkeypatch.setattr(packing, "MOST_MASK", 10)
        assert packing.cheaper([[1, 2, 3, 4], [1, 2, 3, 5]], [3, 3], hidden=64) is None
