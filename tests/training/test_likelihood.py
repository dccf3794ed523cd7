"""GRM's regularizer against a plain language model, and BSR against its sum."""

import pytest
import torch
from transformers import GPT2Config, GPT2LMHeadModel

from rewardlab import VisionReward
from rewardlab.errors import InputError
from rewardlab.losses import batch_sum_loss, bradley_terry_loss
from rewardlab.rewards import LanguageReward
from rewardlab.rewards.formatting import token_ids
from rewardlab.testing import tiny_causal_lm, tiny_tokenizer, tiny_tower
from rewardlab.training import AdvRM
from rewardlab.types import PreferencePairs, Samples

PROMPTS = ["a b", "is it", "", "say"]
PAIRS = PreferencePairs(
    Samples(PROMPTS, ["yes, it is", "a", "so it is", "of"]),
    Samples(PROMPTS, ["no", "b", "c", "d d d"]),
)


def gpt2(tied):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        sizes = {"n_embd": 16, "n_layer": 1, "n_head": 2, "n_positions": 64}
        return GPT2LMHeadModel(GPT2Config(vocab_size=300, tie_word_embeddings=tied, **sizes)).eval()


def networks():
    return {"llama": tiny_causal_lm(), "tied": gpt2(True), "untied": gpt2(False)}


def plain_likelihoods(network, samples):
    """Mean log p a token of each response, row by row, from the model's whole logits."""
    rows = token_ids(tiny_tokenizer(), samples.prompts, list(samples.outputs))
    means = []
    for ids, start in zip(rows.ids, rows.starts, strict=True):
        logits = network(torch.tensor([ids])).logits[0, :-1].log_softmax(-1)
        log_probs = logits.gather(1, torch.tensor(ids[1:])[:, None])[:, 0]
        means.append(log_probs[max(start - 1, 0) :].mean())
    return torch.stack(means)


def loss_of(module, pairs=PAIRS):
    module.log_dict = lambda figures, **_: setattr(module, "logged", figures)
    return module.training_step(pairs, 0)


@pytest.mark.filterwarnings("ignore:fan_in_fan_out")  # peft's, on GPT-2's layers
@pytest.mark.parametrize("name", networks())
@pytest.mark.parametrize("source", ["instance", "folder", "adapter"])
def test_the_loss_is_grms(name, source, tmp_path):
    """(1 - α) of Bradley and Terry's and α of the chosen texts' mean -log p, with its gradient."""
    network = networks()[name]
    plain = networks()[name]
    model = network
    if source == "folder":
        network.save_pretrained(tmp_path)
        model = tmp_path
    rank = 2 if source == "adapter" else None
    reward = LanguageReward(model, tiny_tokenizer(), heads=2, pooling="mean", lora_rank=rank).eval()
    module = AdvRM(reward, likelihood_weight=0.25)
    loss = loss_of(module)
    expected = plain_likelihoods(plain, PAIRS.chosen)
    halves = [reward.members(PAIRS.chosen), reward.members(PAIRS.rejected)]
    whole = 0.75 * bradley_terry_loss(*halves) - 0.25 * expected.mean()
    assert module.logged["likelihood"].item() == pytest.approx(expected.mean().item(), rel=1e-4)
    assert loss.item() == pytest.approx(whole.item(), rel=1e-4)
    weight = next(w for n, w in reward.backbone.named_parameters() if w.requires_grad)
    both = torch.autograd.grad(loss, weight, retain_graph=True)[0]
    alone = torch.autograd.grad(loss_of(AdvRM(reward)), weight)[0]
    assert rank or not torch.allclose(both, 0.75 * alone, rtol=0.05)


def test_a_tied_head_is_trained_and_another_stays():
    for tied in (True, False):
        reward = LanguageReward(gpt2(tied), tiny_tokenizer())
        module = AdvRM(reward, likelihood_weight=0.5)
        loss_of(module).backward()
        row = reward.backbone.get_input_embeddings().weight.grad[299]  # a token of no text
        assert (row.abs().max() > 0) == tied
        assert not [name for name in reward.state_dict() if "language" in name]


def test_it_keeps_the_texts_likely():
    """Fitted at equal steps, the chosen texts are likelier with the regularizer than without."""
    likelihoods = []
    for weight in (0.0, 0.5):
        reward = LanguageReward(tiny_causal_lm(scale=0.1), tiny_tokenizer(), pooling="mean")
        module = AdvRM(reward, likelihood_weight=weight)
        optimizer = torch.optim.AdamW(reward.parameters(), 3e-3)
        for _ in range(30):
            loss = loss_of(module)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        reward.keep_language_head()
        likelihoods.append(reward.members_and_likelihoods(PAIRS.chosen, 4)[1].mean().item())
    assert likelihoods[1] > likelihoods[0] + 0.5


def test_bsr_holds_the_batchs_sum_alone():
    draw = torch.Generator().manual_seed(0)
    chosen, rejected = torch.randn(2, 5, 3, generator=draw)
    sums = torch.stack([chosen, rejected]).sum((0, 1))
    assert batch_sum_loss(chosen, rejected).item() == pytest.approx((sums**2 / 5).mean().item())
    pushed = torch.tensor([3.0, -3.0, 0, 0, 0])[:, None]
    moved = batch_sum_loss(chosen + pushed, rejected)
    assert moved.item() == pytest.approx(batch_sum_loss(chosen, rejected).item(), rel=1e-4)
    reward = LanguageReward(tiny_causal_lm(), tiny_tokenizer(), heads=2).eval()
    halves = [reward.members(PAIRS.chosen), reward.members(PAIRS.rejected)]
    whole = bradley_terry_loss(*halves) + 0.3 * batch_sum_loss(*halves)
    loss = loss_of(AdvRM(reward, batch_sum_weight=0.3))
    assert loss.item() == pytest.approx(whole.item(), rel=1e-5)


def test_bad_input_is_refused():
    with pytest.raises(InputError, match="a frozen backbone's never change"):
        AdvRM(
            LanguageReward(tiny_causal_lm(), tiny_tokenizer(), frozen=True), likelihood_weight=0.1
        )
    with pytest.raises(InputError, match="VisionReward has none"):
        AdvRM(VisionReward(tiny_tower(), width=8), likelihood_weight=0.1)
    reward = LanguageReward(tiny_causal_lm(), tiny_tokenizer())
    with pytest.raises(InputError, match="got 1"):
        AdvRM(reward, likelihood_weight=1.0)
    headless = LanguageReward(tiny_causal_lm().base_model, tiny_tokenizer())
    with pytest.raises(InputError, match="has none"):
        AdvRM(headless, likelihood_weight=0.1)


def test_a_saved_reward_has_no_language_head(tmp_path):
    reward = LanguageReward(tiny_causal_lm(), tiny_tokenizer())
    AdvRM(reward, likelihood_weight=0.1)
    reward.save_pretrained(tmp_path / "reward")
    again = LanguageReward.from_pretrained(tmp_path / "reward")
    with pytest.raises(InputError, match="has none"):
        again.keep_language_head()
