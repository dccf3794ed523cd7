import runpy
from pathlib import Path

import pytest
import pytorch_lightning as pl
import torch

from rewardlab.data import PairsData
from rewardlab.data.preferences import Preferences
from rewardlab.errors import InputError
from rewardlab.losses.ranking import bradley_terry_loss, centering_loss
from rewardlab.rewards import (
    Brightness,
    Ensemble,
    Standardized,
    VisionReward,
    load_reward,
)
from rewardlab.rewards.language import LanguageReward
from rewardlab.testing import tiny_tower
from rewardlab.testing.tiny_text import tiny_causal_lm, tiny_tokenizer
from rewardlab.training.adv_rm import MEANING, AdvRM, held_out_figures
from rewardlab.training.bootstrap import bootstrap_weights
from rewardlab.training.trainers import SILENT
from rewardlab.types import PreferencePairs, Samples

Refusing = runpy.run_path(str(Path(__file__).parent.with_name("refusing.py")))["Refusing"]
WORDS = ("sea", "tree", "of", "stone", "rain", "of of")


def ruled_pairs(count, seed=0):
    """Pairs of short texts; the rule prefers the one with fewer "of", and there always is one."""
    draw = torch.Generator().manual_seed(seed)
    texts = []
    for _ in range(8 * count):
        words = torch.randint(6, (4,), generator=draw).tolist()
        texts.append(" ".join(WORDS[i] for i in words))
    chosen = []
    rejected = []
    for pair in zip(texts[::2], texts[1::2], strict=True):
        better, worse = sorted(pair, key=lambda text: text.count("of"))
        if better.count("of") < worse.count("of"):
            chosen.append(better)
            rejected.append(worse)
    prompts = [f"{i}:" for i in range(count)]
    return PreferencePairs(Samples(prompts, chosen[:count]), Samples(prompts, rejected[:count]))


def language(seed=0, **options):
    return LanguageReward(tiny_causal_lm(scale=0.1), tiny_tokenizer(), seed=seed, **options)


def fit(reward, data, epochs=2, lr=3e-3, **options):
    module = AdvRM(reward, optimizer=lambda weights: torch.optim.AdamW(weights, lr=lr), **options)
    trainer = pl.Trainer(max_epochs=epochs, accelerator="cpu", num_sanity_val_steps=0, **SILENT)
    trainer.fit(module, data)
    return {name: float(value) for name, value in trainer.callback_metrics.items()}


def image_pairs(count):
    noise = 0.3 * torch.rand(2, count, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    return PreferencePairs(
        Samples([""] * count, noise[0] + 0.6), Samples([""] * count, noise[1] + 0.2)
    )


def test_it_learns_a_rule_from_text_and_says_what_it_knows(tmp_path):
    reward = language(heads=2, pooling="mean")
    figures = fit(reward, Preferences(ruled_pairs(330), held_out=90, batch_size=24), epochs=3)
    assert figures["val/accuracy"] >= 0.9
    assert figures["val/margin"] > 1
    assert figures["val/loss"] < 0.4
    assert 0 < figures["val/calibration_error"] < 0.25
    assert figures["val/disagreement"] > 0
    assert {"loss", "accuracy", "margin"} <= figures.keys()
    assert reward.meaning == MEANING
    reward.save_pretrained(tmp_path / "reward")
    again = load_reward(tmp_path / "reward")
    assert again.score_std > 0
    fresh = ruled_pairs(60, seed=1)
    with torch.no_grad():
        assert (again(fresh.chosen) > again(fresh.rejected)).float().mean() > 0.9
        assert Standardized(again)(fresh.chosen).mean().abs() < 3


def trained_weights(reward):
    return torch.cat([parameter.detach().flatten() for parameter in reward.parameters()])


def test_equal_seeds_give_equal_weights():
    def trained(seed, data_seed=0, bootstrap=True):
        reward = language(heads=2, pooling="mean")
        fit(
            reward,
            Preferences(ruled_pairs(40), batch_size=16, seed=data_seed),
            epochs=1,
            seed=seed,
            bootstrap=bootstrap,
        )
        return trained_weights(reward)

    first = trained(0)
    torch.rand(7)
    assert torch.equal(first, trained(0))
    assert not torch.equal(first, trained(1)), "the seed names the bootstrap"
    assert not torch.equal(first, trained(0, data_seed=1)), "the data's seed names the order"
    assert torch.equal(trained(0, bootstrap=False), trained(1, bootstrap=False))


def test_members_differ_and_each_is_standardised():
    members = [language(seed=seed, pooling="mean") for seed in (1, 2)]
    ensemble = Ensemble(members)
    data = Preferences(ruled_pairs(80), held_out=20, batch_size=16)
    figures = fit(ensemble, data, epochs=1)
    assert figures["val/disagreement"] > 0
    assert [member.meaning for member in members] == [MEANING] * 2
    assert members[0].score_std != members[1].score_std


def test_the_bootstrap_alone_makes_members_differ():
    twins = Ensemble([language(pooling="mean"), language(pooling="mean")])
    data = Preferences(ruled_pairs(40), held_out=10, batch_size=15)
    assert fit(twins, data, epochs=1, bootstrap=False)["val/disagreement"] == pytest.approx(
        0, abs=1e-5
    )
    assert fit(twins, data, epochs=1)["val/disagreement"] > 1e-3


def test_images_are_learned_by_the_same_loop():
    reward = VisionReward(tiny_tower(), heads=4, width=16)
    figures = fit(
        reward, Preferences(image_pairs(60), extra=image_pairs(6), held_out=12), epochs=10
    )
    assert figures["val/accuracy"] >= 0.9
    assert reward.meaning == MEANING
    assert reward.score_std > 0
    assert reward.projection.std.ne(1).any()


def test_a_frozen_backbone_is_asked_once(monkeypatch):
    reward = language(frozen=True, heads=3, pooling="mean")
    asked = []
    states = LanguageReward.head_inputs
    monkeypatch.setattr(
        LanguageReward,
        "head_inputs",
        lambda self, samples: asked.append(len(samples)) or states(self, samples),
    )
    pairs = ruled_pairs(120)
    before = reward.backbone.embed_tokens.weight.clone()
    module = AdvRM(reward, bootstrap=False)
    data = Preferences(pairs, held_out=30, batch_size=30)
    pl.Trainer(max_epochs=30, accelerator="cpu", **SILENT).fit(module, data)
    assert sum(asked) == 2 * 120 + 2 * 90, (
        "each text once, and the training texts once more for the scores' deviation"
    )
    assert torch.equal(reward.backbone.embed_tokens.weight, before)
    held_out = data.split("held_out")
    with torch.no_grad():
        leads = reward.members(held_out.chosen) - reward.members(held_out.rejected)
    assert held_out_figures(leads, torch.ones(30))["margin"] > 0.1


def test_cached_features_belong_to_their_rows():
    reward = language(frozen=True)
    data = Preferences(ruled_pairs(30), extra=ruled_pairs(5, seed=2), held_out=8, batch_size=7)
    module = AdvRM(reward)
    module._trainer = pl.Trainer(logger=False, accelerator="cpu")
    module._trainer.strategy.connect(module)
    data.trainer, module._trainer.datamodule = module._trainer, data
    with torch.no_grad():
        module.on_fit_start()
        for batch in [*data.train_dataloader(), *data.val_dataloader()]:
            cached = module._scores(batch)
            for half, samples in zip(cached, (batch.chosen, batch.rejected), strict=True):
                assert torch.allclose(half, reward.members(samples), atol=1e-5)


def test_the_loss_is_the_published_one_with_margins_labels_and_centering():
    reward = language(heads=2).eval()
    facts = {"margin": torch.tensor([0.0, 1.0, 0.5]), "label": torch.tensor([1.0, 0.5, 0.9])}
    pairs = ruled_pairs(3)
    pairs = PreferencePairs(
        pairs.chosen.with_facts(row=torch.tensor([4, 5, 6]), **facts), pairs.rejected
    )
    module = AdvRM(reward, centering=0.1, seed=3)
    module.log_dict = lambda *args, **kwargs: None
    loss = module.training_step(pairs, 0)
    halves = reward.members(pairs.chosen), reward.members(pairs.rejected)
    weights = bootstrap_weights(3, [4, 5, 6], 2)
    expected = bradley_terry_loss(
        *halves, facts["label"], facts["margin"], weights
    ) + 0.1 * centering_loss(*halves, weights)
    assert torch.allclose(loss, expected, atol=1e-6)
    assert weights.unique().numel() > 1


def test_figures_of_held_out_pairs():
    leads = torch.tensor([[1.0, 3.0], [-2.0, -2.0], [0.0, 0.0], [5.0, 5.0]])
    figures = held_out_figures(leads, torch.tensor([1.0, 1.0, 1.0, 0.5]))
    assert figures["accuracy"].item() == pytest.approx(1.5 / 3)
    assert figures["margin"].item() == pytest.approx(5 / 4)
    assert figures["disagreement"].item() == pytest.approx(2**0.5 / 4)
    assert "accuracy" not in held_out_figures(leads, torch.full((4,), 0.5))
    assert "disagreement" not in held_out_figures(leads[:, :1], torch.ones(4))


def test_a_perfect_forecast_is_calibrated_and_a_boastful_one_is_not():
    draw = torch.Generator().manual_seed(0)
    leads = 2 * torch.randn(4000, 1, generator=draw)
    won = torch.rand(4000, generator=draw) < leads[:, 0].sigmoid()
    labels = won.float()
    assert held_out_figures(leads, labels)["calibration_error"] < 0.04
    assert held_out_figures(5 * leads, labels)["calibration_error"] > 0.1


def test_it_trains_without_held_out_pairs_or_row_numbers():
    with pytest.warns(UserWarning, match="is zero"):
        figures = fit(language(), Preferences(ruled_pairs(12), held_out=0), epochs=1)
    assert "val/loss" not in figures
    with pytest.warns(UserWarning, match="no `val_dataloader`"):
        assert fit(language(heads=2), PairsData(ruled_pairs(6)), epochs=1)["loss"] > 0


def test_a_reward_with_nothing_to_train_is_refused():
    with pytest.raises(InputError, match="none of this Brightness's"):
        AdvRM(Brightness())


@pytest.mark.parametrize(
    ("other", "words"),
    [
        ({"seed": 9}, "another frozen backbone"),
        ({"heads": 3}, r"of another model: .* is \[1, 32\] there and \[3, 32\] here"),
    ],
    ids=["backbone", "heads"],
)
@pytest.mark.parametrize("trained", [{"frozen": True}, {"lora_rank": 2}], ids=["head", "adapter"])
def test_a_checkpoint_of_another_backbone_is_refused(tmp_path, trained, other, words):
    """Its heads and adapters have the same shape, so nothing else would notice."""

    def loop(seed=0, heads=1):
        backbone = tiny_causal_lm(seed)
        options = {"pooling": "mean", "heads": heads, **trained}
        return AdvRM(LanguageReward(backbone, tiny_tokenizer(), **options))

    def fit_further(module):
        trainer = pl.Trainer(max_epochs=2, **options)
        trainer.fit(module, datamodule=data, ckpt_path=path, weights_only=True)

    path = tmp_path / "last.ckpt"
    yes = Samples(["say"] * 8, ["yes"] * 8)
    no = Samples(["say"] * 8, ["no"] * 8)
    data = Preferences(PreferencePairs(yes, no), held_out=0)
    options = {"accelerator": "cpu", "limit_val_batches": 0, **SILENT}
    trainer = pl.Trainer(max_epochs=1, **options)
    trainer.fit(loop(), datamodule=data)
    trainer.save_checkpoint(path)
    fit_further(loop())
    with pytest.raises(InputError, match=words):
        fit_further(loop(**other))


def test_a_fit_of_a_reward_that_leaves_rows_out_says_what_to_do():
    parts = Ensemble([language(), Refusing()])
    pairs = ruled_pairs(4)
    outputs = [*pairs.rejected.outputs[:3], "refuse"]
    pairs = PreferencePairs(pairs.chosen, Samples(pairs.rejected.prompts, outputs))
    with pytest.raises(InputError, match=r"a fit of a reward \(AdvRM, GANRM\) learns from every"):
        fit(parts, PairsData(pairs, batch_size=4))
