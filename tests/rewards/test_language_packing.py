"""A LanguageReward runs rows packed, where that is cheaper, and nothing else changes."""

import pytest
import torch
from torch.testing import assert_close

from rewardlab.networks import packing
from rewardlab.rewards.formatting import BatchRows
from rewardlab.rewards.language import LanguageReward
from rewardlab.rewards.language_states import last_states, packed_states
from rewardlab.testing.tiny_text import tiny_causal_lm, tiny_tokenizer
from rewardlab.types import Samples

PAD = 257  # of `tiny_tokenizer`
PROMPTS = ["a cat"] * 3 + ["the dogs barked at"] * 2
RESPONSES = ["sat.", "ran away, very far", "x", "them all night", "it"]


def trained(reward):
    return [weight for weight in reward.parameters() if weight.requires_grad]


def scores_and_gradients(reward, samples):
    """Return the members' scores, and the gradients of their squares that there are."""
    scores = reward.members(samples)
    loss = scores.square().sum()
    gradients = torch.autograd.grad(loss, trained(reward), allow_unused=True)
    return [scores, *(gradient for gradient in gradients if gradient is not None)]


@pytest.fixture
def shapes():
    return []


def noting(reward, shapes):
    """Note the shape of each pass through the backbone."""

    def note(module, args, kwargs, output):
        shapes.append(tuple(kwargs["input_ids"].shape))

    reward.backbone.register_forward_hook(note, with_kwargs=True)
    return reward


@pytest.mark.parametrize("pooling", ["last", "mean"])
@pytest.mark.parametrize("chat", [False, True])
def test_scores_and_gradients_are_those_of_whole_rows(pooling, chat, monkeypatch, shapes):
    tokenizer = tiny_tokenizer(chat=chat)
    mine = LanguageReward(tiny_causal_lm(), tokenizer, heads=2, pooling=pooling)
    noting(mine, shapes)
    samples = Samples(PROMPTS, RESPONSES)
    packed = scores_and_gradients(mine, samples)
    monkeypatch.setattr(packing, "MOST_MASK", 0)
    whole = scores_and_gradients(mine, samples)
    (lines, width), (rows, longest) = shapes
    assert rows == 5
    assert lines * width < rows * longest
    for one, other in zip(packed, whole, strict=True):
        scale = max(1.0, other.abs().max().item())
        assert_close(one, other, atol=1e-5 * scale, rtol=1e-4)


def test_one_pass_with_the_gradient_and_nothing_computed_anew(shapes):
    mine = noting(LanguageReward(tiny_causal_lm(), tiny_tokenizer()), shapes)
    scores_and_gradients(mine, Samples(["a cat"] * 3, ["sat.", "ran away", "x"]))
    assert len(shapes) == 1


def test_the_gradient_of_embeddings_is_of_whole_rows(shapes):
    """An attack by token gradients reads the embeddings row by row."""
    mine = noting(LanguageReward(tiny_causal_lm(), tiny_tokenizer()), shapes)
    with mine.embedded():
        mine(Samples(PROMPTS, RESPONSES))
    assert shapes[0][0] == 5


def test_a_response_of_padding_alone_is_scored_at_its_prompt():
    """Its last token that does not pad stands in the prompt, so rows are run whole."""
    backbone = tiny_causal_lm().base_model
    rows = BatchRows([[5, 6, 7, 1], [5, 6, 7, PAD]], [3, 3], 0)
    states = last_states(packed_states(backbone, rows, PAD), PAD)
    alone = backbone(input_ids=torch.tensor([[5, 6, 7]])).last_hidden_state[0, -1]
    assert_close(states[1], alone, atol=1e-5, rtol=1e-4)
