"""Panel: two families of towers, trained at once on features that are computed once."""

import pytest
import pytorch_lightning as pl
import timm
import torch
from torch.testing import assert_close

from rewardlab import GANRM, Samples, TargetSamples, VisionReward
from rewardlab.errors import InputError
from rewardlab.rewards import Brightness, Panel, Standardized, load_reward
from rewardlab.testing import RewardConformance, tiny_tower
from rewardlab.training.trainers import SILENT

IMAGES = torch.rand(4, 3, 20, 24, generator=torch.Generator().manual_seed(0))
SAMPLES = Samples(["a cat", "a dog", "", "x"], IMAGES)


def dino():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return timm.create_model("test_vit", pretrained=False, img_size=32).eval()


def panel(**options):
    first = VisionReward(tiny_tower(), heads=2, width=8, **options)
    return Panel([first, VisionReward(dino(), heads=3, width=8)])


class TestPanel(RewardConformance):
    def make(self):
        return panel()

    def samples(self):
        return SAMPLES


@pytest.mark.parametrize("options", [{}, {"conditional": True}])
def test_its_members_are_its_rewards(options, tmp_path):
    mine = panel(**options).eval()
    expected = torch.cat([reward.members(SAMPLES) for reward in mine.rewards], 1)
    assert_close(mine.members(SAMPLES), expected)
    assert_close(mine.score_features(mine.features(SAMPLES)), expected)
    assert_close(mine(SAMPLES), expected.mean(1))
    with torch.no_grad():
        mine.fit_feature_scale(mine.features(SAMPLES))
        mine.calibrate(mine(SAMPLES))
    mine.meaning = "log density ratio"
    mine.save_pretrained(tmp_path / "panel")
    loaded = load_reward(tmp_path / "panel")
    assert_close(loaded.members(SAMPLES), mine.members(SAMPLES), atol=1e-5, rtol=1e-5)
    assert loaded.frozen_fingerprint() == mine.frozen_fingerprint()
    assert loaded.meaning == mine.meaning
    assert_close(loaded.score_std, mine.score_std)
    assert torch.isfinite(Standardized(loaded)(SAMPLES)).all()


def test_it_is_trained_on_features_that_are_cached(tmp_path, monkeypatch):
    monkeypatch.setenv("REWARDLAB_CACHE", str(tmp_path / "cache"))
    noise = 0.1 * torch.rand(20, 3, 16, 16, generator=torch.Generator().manual_seed(1))
    targets, generated = Samples([""] * 20, noise + 0.8), Samples([""] * 20, noise + 0.4)
    mine = panel()
    trainer = pl.Trainer(max_epochs=20, **SILENT)
    trainer.fit(GANRM(mine), TargetSamples(targets, generated, held_out=5))
    assert trainer.callback_metrics["val/auc"] > 0.9
    assert mine.score_std > 0
    assert (mine.eval()(targets).mean() - mine(generated).mean()) > 0


def test_a_count_that_was_edited_is_refused(tmp_path):
    panel().save_pretrained(tmp_path / "panel")
    file = tmp_path / "panel" / "config.json"
    file.write_text(file.read_text().replace('"count": 2', '"count": 1'))
    with pytest.raises(InputError, match="should hold 1 parts, as its config says; there are 2"):
        load_reward(tmp_path / "panel")


def test_other_parts_and_features_are_refused():
    with pytest.raises(InputError, match=r"VisionRewards on frozen towers.*got a Brightness"):
        Panel([Brightness()])
    with pytest.raises(InputError, match="VisionRewards on frozen towers"):
        Panel([VisionReward(tiny_tower(), width=8, unlocked_groups=1)])
    with pytest.raises(InputError, match=r"takes features \[B, 96\]; got \[2, 32\]"):
        panel().score_features(torch.ones(2, 32))
