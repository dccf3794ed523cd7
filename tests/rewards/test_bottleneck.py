"""The information bottleneck: its KL, its limits, what is drawn and what is not, and its folder."""

import pytest
import pytorch_lightning as pl
import torch
from torch.distributions import Normal, kl_divergence

from rewardlab import TargetSamples
from rewardlab.data.preferences import Preferences
from rewardlab.errors import InputError
from rewardlab.rewards import (
    Bottleneck,
    Certainty,
    Ensemble,
    LanguageReward,
    Length,
    Novelty,
    VisionReward,
    load_reward,
)
from rewardlab.rewards.bottleneck import Latent, standard_kl
from rewardlab.seeds import row_seeds
from rewardlab.testing import tiny_causal_lm, tiny_tokenizer, tiny_tower
from rewardlab.training import GANRM, AdvRM
from rewardlab.training.trainers import SILENT
from rewardlab.types import PreferencePairs, Samples


def pictures(count, lift, seed=0):
    noise = torch.rand(count, 3, 16, 16, generator=torch.Generator().manual_seed(seed))
    return Samples([""] * count, 0.5 * noise + lift)


def vision():
    return VisionReward(tiny_tower(), width=8)


def texts():
    return Samples(["a", "b", ""], ["one two", "of of of", "word"])


def language(**options):
    return LanguageReward(tiny_causal_lm(), tiny_tokenizer(), pooling="mean", **options)


def fitted(reward, data, epochs=60):
    module = AdvRM(reward, optimizer=lambda weights: torch.optim.Adam(weights, lr=0.03))
    trainer = pl.Trainer(max_epochs=epochs, limit_val_batches=0, **SILENT)
    trainer.fit(module, data)
    return reward.eval()


def test_the_kl_is_the_gaussians_dimension_by_dimension():
    draw = torch.Generator().manual_seed(0)
    mean, log_variance = torch.randn(2, 5, 7, generator=draw)
    wide = Normal(mean, (log_variance / 2).exp())
    expected = kl_divergence(wide, Normal(0.0, 1.0)).mean(1)
    assert torch.allclose(standard_kl(Latent(mean, log_variance)), expected, atol=1e-6)


@pytest.mark.parametrize("make", [vision, language, lambda: language(frozen=True)])
def test_scoring_draws_nothing_and_training_draws_by_rows_seeds(make):
    samples = texts() if make is not vision else pictures(3, 0.1)
    reward = Bottleneck(make(), width=6, heads=2, kl_weight=0.5).train()
    torch.manual_seed(0)
    with torch.no_grad():
        scores = reward.members(samples)
        torch.rand(1)
        assert torch.equal(reward.members(samples), scores)
        assert torch.equal(reward.eval()(samples), scores.mean(1))
        seeds = row_seeds(1, 3)
        drawn, penalties = reward.drawn_members(samples, seeds)
        again, _ = reward.drawn_members(samples[[2]], seeds[[2]])
        other, _ = reward.drawn_members(samples, row_seeds(2, 3))
        assert torch.allclose(drawn[[2]], again, atol=1e-5)
        assert not torch.allclose(drawn, other, atol=0.05)
        assert torch.allclose(penalties, 0.5 * standard_kl(reward.latent(samples)))
        many = reward.drawn_members(samples[[0] * 400], row_seeds(3, 400))[0]
        assert torch.allclose(many.mean(0), scores[0], atol=0.2)
    if reward.has_features:
        features = reward.features(samples)
        assert torch.allclose(reward.score_features(features), scores, atol=1e-5)
        assert torch.allclose(reward.drawn_members(features, seeds)[0], drawn, atol=1e-5)


def test_gradients_reach_a_backbone_that_is_trained_and_no_unused_head():
    reward = Bottleneck(language(), width=6)
    scores, penalties = reward.drawn_members(texts(), row_seeds(0, 3))
    (scores.sum() + penalties.sum()).backward()
    trained = {name for name, weight in reward.named_parameters() if weight.grad is not None}
    assert "reward.head" not in trained
    assert {"to_mean", "log_variance", "head", "reward.backbone.norm.weight"} <= trained


def test_heads_compute_in_float32_under_autocast_too():
    reward = Bottleneck(vision(), width=6, heads=2)
    features = reward.features(pictures(3, 0.1))
    seeds = row_seeds(0, 3)
    expected = reward.score_features(features), reward.drawn_members(features, seeds)[0]
    with torch.autocast("cpu", torch.bfloat16):
        found = reward.score_features(features), reward.drawn_members(features, seeds)[0]
    assert torch.equal(found[0], expected[0])
    assert torch.equal(found[1], expected[1])


def correlation(first, second):
    return torch.corrcoef(torch.stack([first, second]))[0, 1].item()


def test_without_a_price_the_plain_head_comes_back_and_a_high_price_passes_nothing():
    """Linear probes of one backbone: the margins on fresh pairs are the plain head's as κ → 0."""
    data = Preferences(text_pairs(), held_out=0, batch_size=80)
    plain = fitted(language(frozen=True), data)
    free = fitted(Bottleneck(language(frozen=True), width=16, kl_weight=1e-4), data)
    dear = fitted(Bottleneck(language(frozen=True), width=16, kl_weight=30.0), data)
    fresh = text_pairs(200, seed=5)
    with torch.no_grad():
        found = [r(fresh.chosen) - r(fresh.rejected) for r in (plain, free, dear)]
        kl = [standard_kl(r.latent(fresh.chosen)).mean().item() for r in (free, dear)]
    assert correlation(found[0], found[1]) > 0.9
    assert kl[1] < 0.02 < kl[0]
    assert found[2].std() < 0.2 * found[1].std()


def text_pairs(count=80, seed=0):
    """Letters; more of "a" is better."""
    draw = torch.Generator().manual_seed(seed)
    letters = torch.randint(0, 3, (2 * count, 6), generator=draw)
    words = ["".join("abc"[i] for i in row) for row in letters.tolist()]
    chosen, rejected = [], []
    for pair in zip(words[:count], words[count:], strict=True):
        worse, better = sorted(pair, key=lambda word: word.count("a"))
        chosen.append(better)
        rejected.append(worse)
    return PreferencePairs(Samples([""] * count, chosen), Samples([""] * count, rejected))


def test_target_samples_train_it_too():
    reward = Bottleneck(vision(), width=8, kl_weight=0.01)
    trainer = pl.Trainer(max_epochs=30, **SILENT)
    module = GANRM(reward, optimizer=lambda weights: torch.optim.AdamW(weights, lr=0.01))
    trainer.fit(module, TargetSamples(pictures(20, 0.4), pictures(20, 0.0), held_out=5))
    assert trainer.callback_metrics["val/auc"].item() == 1.0
    assert reward.score_std > 0


def test_its_folder_and_its_doubts(tmp_path):
    reward = Bottleneck(vision(), width=6, kl_weight=0.2, heads=2, seed=3).eval()
    with torch.no_grad():
        reward.to_log_variance.normal_(std=0.05)
        reward.calibrate(torch.tensor([0.0, 2.0]))
    reward.meaning = "a score"
    samples = pictures(40, 0.1)
    certainty = Certainty(reward)
    with torch.no_grad():
        expected = -reward.latent(samples).log_variance.sum(1)
        assert torch.equal(certainty(samples), expected)
        novelty = Novelty(certainty, samples)
        odd = Samples([""], torch.ones(1, 3, 16, 16))
        assert novelty(odd) < novelty(samples).min()
        certainty.save_pretrained(tmp_path / "certainty")
        novelty.save_pretrained(tmp_path / "novelty")
        again = load_reward(tmp_path / "certainty")
        assert torch.equal(again(samples), expected)
        assert torch.equal(again.reward.members(samples), reward.members(samples))
        assert torch.allclose(load_reward(tmp_path / "novelty")(odd), novelty(odd))
    inner = again.reward
    assert (inner.kl_weight, inner.meaning, inner.score_std.item()) == (0.2, "a score", 1.0)
    other = Bottleneck(vision(), width=5)
    other.save_pretrained(tmp_path / "other")
    file = "reward/bottleneck.safetensors"
    (tmp_path / "certainty" / file).write_bytes(
        (tmp_path / "other/bottleneck.safetensors").read_bytes()
    )
    with pytest.raises(InputError, match="does not fit"):
        load_reward(tmp_path / "certainty")


def test_bad_input_is_refused():
    with pytest.raises(InputError, match="Length does not say"):
        Bottleneck(Length())
    with pytest.raises(InputError, match="width=0"):
        Bottleneck(vision(), width=0)
    with pytest.raises(InputError, match="A reward needs at least one head"):
        Bottleneck(vision(), heads=0)
    with pytest.raises(InputError, match="kl_weight=-1"):
        Bottleneck(vision(), kl_weight=-1.0)
    with pytest.raises(InputError, match="got a VisionReward"):
        Certainty(vision())
    both = Ensemble([Bottleneck(vision(), width=4), vision()])
    for loop in (AdvRM, GANRM):
        with pytest.raises(InputError, match="inside a Ensemble"):
            loop(both)
