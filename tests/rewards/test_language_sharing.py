import pytest
import torch
from torch.testing import assert_close

from rewardlab.networks import sharing
from rewardlab.rewards.formatting import BatchRows
from rewardlab.rewards.language import LanguageReward
from rewardlab.rewards.language_states import worth_sharing
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


@pytest.mark.parametrize("pooling", ["last", "mean"])
@pytest.mark.parametrize("chat", [False, True])
def test_a_prompt_that_rows_share_is_run_once_and_nothing_else_changes(pooling, chat, monkeypatch):
    """Keys and values of a prompt depend on it alone, so all its responses may borrow them."""
    tokenizer = tiny_tokenizer(chat=chat)
    mine = LanguageReward(tiny_causal_lm(), tokenizer, heads=2, pooling=pooling)
    samples = Samples(PROMPTS, RESPONSES)
    rows = []

    def count_rows(module, args, kwargs, output):
        rows.append(len(kwargs["input_ids"]))

    mine.backbone.register_forward_hook(count_rows, with_kwargs=True)
    monkeypatch.setattr(sharing, "WORTH_SHARING", 9.0)
    whole = scores_and_gradients(mine, samples)
    monkeypatch.setattr(sharing, "WORTH_SHARING", 0.0)
    shared = scores_and_gradients(mine, samples)
    assert rows == [5, 2, 5]
    for one, other in zip(shared, whole, strict=True):
        scale = max(1.0, other.abs().max().item())
        assert_close(one, other, atol=1e-5 * scale, rtol=1e-4)


class TestDropout:
    """A backbone with dropout, whose prompts are shared and recomputed in the backward pass."""

    samples = Samples(["a cat"] * 3, ["sat.", "ran away", "x"])

    @pytest.fixture
    def mine(self, monkeypatch):
        network = tiny_causal_lm()
        for layer in network.model.layers:
            layer.self_attn.attention_dropout = 0.5
        monkeypatch.setattr(sharing, "WORTH_SHARING", 0.0)
        return LanguageReward(network, tiny_tokenizer(), lora_rank=2)

    @pytest.fixture
    def runs(self, mine):
        """Grows by one each time that layer 0 runs."""
        runs = []

        def count_run(*_):
            runs.append(1)

        mine.backbone.layers[0].register_forward_pre_hook(count_run)
        return runs

    def results(self, mine, seed=0):
        torch.manual_seed(seed)
        return scores_and_gradients(mine, self.samples)

    def test_what_the_gradient_needs_is_computed_anew_and_the_same_to_the_bit(
        self, mine, runs, monkeypatch
    ):
        """Layer 0 runs for the prompts, for the responses, and for the prompts again."""
        recomputed = self.results(mine)
        assert len(runs) == 3

        def kept(run, *arguments, **_):
            return run(*arguments)

        monkeypatch.setattr(sharing, "checkpoint", kept)
        runs.clear()
        expected = self.results(mine)
        assert len(runs) == 2
        assert len(expected) > 3
        for one, other in zip(recomputed, expected, strict=True):
            assert torch.equal(one, other)

    def test_another_seed_drops_others(self, mine):
        assert not torch.equal(self.results(mine)[0], self.results(mine, seed=1)[0])

    def test_without_gradients_nothing_runs_twice(self, mine, runs):
        with torch.no_grad():
            mine.members(self.samples)
        assert len(runs) == 2


class TestWorthSharing:
    rows = ([5, 6, 7, 1], [5, 6, 7, 2], [5, 6, 7, 3])

    def test_a_prompt_that_all_rows_have_is_worth_it(self):
        assert worth_sharing(BatchRows(self.rows, [3, 3, 3], 0), PAD)

    def test_rows_without_a_prompt_are_run_whole(self):
        assert not worth_sharing(BatchRows(self.rows, [0, 3, 3], 0), PAD)

    def test_rows_without_a_word_of_their_own_are_run_whole(self):
        rows = [*self.rows, [5, 6, 7, PAD]]
        assert not worth_sharing(BatchRows(rows, [3, 3, 3, 3], 0), PAD)

    def test_different_prompts_are_run_whole(self):
        rows = [[1, 9], [2, 9], [3, 9]]
        assert not worth_sharing(BatchRows(rows, [1, 1, 1], 0), PAD)
