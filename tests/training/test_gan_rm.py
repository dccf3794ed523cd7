"""GAN-RM's loop: fits, heads that differ, figures, and losses that are not finite."""

import math
import re
import runpy
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import pytest
import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import ModelCheckpoint
from torch import nn
from torch.nn.functional import one_hot

from rewardlab import TargetSamples, VisionReward
from rewardlab.errors import InputError
from rewardlab.rewards import Calibrated, FrozenFeatures, Reward
from rewardlab.testing import tiny_tower
from rewardlab.training import GANRM
from rewardlab.training.bootstrap import POISSON, bootstrap_weights
from rewardlab.training.gan_rm import held_out_figures, meaning
from rewardlab.types import SOURCES, Labelled, Samples

STATES = SimpleNamespace(**runpy.run_path(str(Path(__file__).with_name("states.py"))))
P = STATES.P
Q = STATES.Q
counted = STATES.counted


class Table(Reward, FrozenFeatures, Calibrated):
    """M logits for each of four states, which an image's first pixel names."""

    def __init__(self, members=1):
        super().__init__()
        self.frozen = nn.Parameter(torch.ones(3), requires_grad=False)
        self.table = nn.Parameter(torch.zeros(4, members))
        self.meaning = "untrained"
        self.standardised = []

    def features(self, samples):
        return one_hot((samples.outputs[:, 0, 0, 0] * 8).long(), 4).float()

    def fit_feature_scale(self, features):
        self.standardised.append(len(features))

    def calibrate(self, scores):
        self.own = scores

    def score_features(self, features):
        return features @ self.table

    def members(self, samples):
        return self.score_features(self.features(samples))

    def forward(self, samples):
        return self.members(samples).mean(1)


def images(states):
    shades = (states / 8).view(-1, 1, 1, 1)
    return Samples([""] * len(states), shades.expand(-1, 1, 8, 8).contiguous())


def data(targets=40, generated=80, **options):
    states, labels = counted(targets, generated)
    return TargetSamples(
        images(states[labels == 1]),
        images(states[labels == 0]),
        channels=1,
        batch_size=16,
        **options,
    )


def fit(module, source=None, *callbacks, ckpt_path=None, **options):
    trainer = pl.Trainer(
        **{
            "accelerator": "cpu",
            "max_epochs": 3,
            "logger": False,
            "enable_checkpointing": False,
            "callbacks": [*callbacks],
        }
        | {"enable_progress_bar": False, "enable_model_summary": False}
        | options
    )
    trainer.fit(module, source or data(), ckpt_path=ckpt_path, weights_only=True)
    return {name: value.item() for name, value in trainer.callback_metrics.items()}


ADAM = partial(torch.optim.Adam, lr=0.1)


class TestFit:
    def test_the_loop_itself_finds_the_ratio(self):
        """A logit errs by about √(1/a + 1/b) < 0.3.

        Held-out samples are a random fifth, so the counts are not exact. The first two held-out
        batches, which Lightning's sanity check sees, are all targets.
        """
        module = GANRM(Table(), optimizer=partial(torch.optim.Adam, lr=0.1))
        figures = fit(module, data(160, 640), max_epochs=8)
        torch.testing.assert_close(
            module.reward.table.detach()[:, 0].double(), torch.log(P / Q), atol=0.6, rtol=0
        )
        assert 0.7 < figures["val/auc"] < 0.9
        assert figures["val/calibration_error"] < 0.35
        assert module.reward.meaning.startswith("log density ratio")

    def test_it_standardises_on_what_it_trains_on_and_notes_the_generators_own_scores(self):
        module = GANRM(Table(), optimizer=ADAM)
        fit(module)
        assert module.reward.standardised == [32 + 64]
        assert len(module.reward.own) == 64
        assert not module.reward.training

    def test_a_resumed_fit_keeps_the_checkpoints_standardisation(self, tmp_path):
        fit(
            GANRM(Table()),
            None,
            ModelCheckpoint(tmp_path, "last"),
            max_epochs=1,
            enable_checkpointing=True,
        )
        module = GANRM(Table())
        fit(
            module,
            None,
            ModelCheckpoint(tmp_path),
            ckpt_path=tmp_path / "last.ckpt",
            max_epochs=2,
            enable_checkpointing=True,
        )
        assert module.reward.standardised == []

    def test_the_checkpoint_holds_no_frozen_weights(self, tmp_path):
        fit(
            GANRM(Table()),
            None,
            ModelCheckpoint(tmp_path, "last"),
            max_epochs=1,
            enable_checkpointing=True,
        )
        assert set(torch.load(tmp_path / "last.ckpt", weights_only=True)["state_dict"]) == {
            "reward.table"
        }

    def test_a_vision_rewards_checkpoint_holds_no_tower(self, tmp_path):
        noise = torch.rand(2, 12, 3, 16, 16, generator=torch.Generator().manual_seed(0)) * 0.3
        source = TargetSamples(
            Samples([""] * 12, noise[0] + 0.5), Samples([""] * 12, noise[1]), held_out=4
        )
        module = GANRM(VisionReward(tiny_tower(), heads=2, width=8))
        keep = ModelCheckpoint(tmp_path, "last")
        figures = fit(module, source, keep, max_epochs=2, enable_checkpointing=True)
        found = set(torch.load(tmp_path / "last.ckpt", weights_only=True)["state_dict"])
        assert not [name for name in found if "tower" in name and "model" in name]
        assert "reward.projection.weight" in found
        assert set(figures) == {"loss"} | {
            f"val/{name}"
            for name in ("loss", "auc", "calibration_error", "disagreement", "ranking")
        }

    def test_a_reward_without_a_frozen_part_is_trained_on_samples(self):
        class Ink(Reward):
            def __init__(self):
                super().__init__()
                self.scale = nn.Parameter(torch.zeros(1))

            def forward(self, samples):
                return self.scale * samples.outputs.mean((1, 2, 3))

        module = GANRM(Ink(), optimizer=ADAM)
        fit(module)
        assert module.reward.scale < 0, "targets are in the lower states"

    def test_the_seed_fixes_the_fit_to_the_bit(self):
        tables = []
        for seed in (0, 0, 1):
            torch.manual_seed(seed)
            module = GANRM(Table(4), seed=seed, folds=2, optimizer=ADAM)
            fit(module)
            tables.append(module.reward.table.detach())
        assert torch.equal(tables[0], tables[1])
        assert not torch.equal(tables[0], tables[2])


class TestHeads:
    rows = torch.arange(4000)

    def test_each_counts_rows_poisson_distributed_and_the_same_every_time(self):
        module = GANRM(Table(3))
        weights = module.head_weights(self.rows, torch.zeros(4000), 3)
        assert torch.equal(
            weights[[7, 3]], module.head_weights(torch.tensor([7, 3]), torch.zeros(2), 3)
        )
        assert len({tuple(column) for column in weights.T.tolist()}) == 3
        for count, share in enumerate(torch.tensor([0.0, *POISSON]).diff().tolist()):
            error = 4 * (share * (1 - share) / weights.numel()) ** 0.5  # four standard errors
            assert (weights == count).float().mean().item() == pytest.approx(share, abs=error)

    def test_they_are_independent(self):
        weights = bootstrap_weights(0, self.rows, 4)
        correlation = torch.corrcoef(weights.T).fill_diagonal_(0).abs().max()
        assert correlation < 4 / len(self.rows) ** 0.5

    def test_another_seed_draws_others(self):
        assert not torch.equal(
            bootstrap_weights(0, self.rows, 2), bootstrap_weights(1, self.rows, 2)
        )

    def test_each_leaves_its_fold_of_the_targets_out_and_no_generated_sample(self):
        labels = (self.rows % 2).float()
        weights = GANRM(Table(4), bootstrap=False, folds=2).head_weights(self.rows, labels, 4)
        assert (weights[labels == 0] == 1).all()
        targets = weights[labels == 1]
        assert torch.equal(targets[:, 0], targets[:, 2])
        assert torch.equal(targets[:, 0] + targets[:, 1], torch.ones(2000))
        assert 0.4 < targets[:, 0].mean() < 0.6

    def test_a_single_head_sees_all(self):
        assert (GANRM(Table(), folds=3).head_weights(self.rows, torch.ones(4000), 1) == 1).all()

    def test_so_they_disagree_and_equal_ones_would_not(self):
        found = [
            GANRM(Table(4), bootstrap=bootstrap, optimizer=ADAM) for bootstrap in (True, False)
        ]
        figures = [fit(module) for module in found]
        assert figures[0]["val/disagreement"] > 0.05
        assert figures[1]["val/disagreement"] == 0


class TestFigures:
    labels = torch.tensor([1.0, 1.0, 0.0, 0.0, 0.0, 0.0])
    generated = torch.tensor([False, False, True, True, True, False])
    logits = torch.tensor(
        [[3.0, 1.0], [2.0, 2.0], [1.0, 1.5], [0.0, 0.5], [-1.0, -1.5], [9.0, 9.0]]
    )

    def test_the_auc_is_of_targets_against_the_generators_own(self):
        assert held_out_figures(self.logits, self.labels, self.generated)["auc"] == 1

    def test_ranking_and_disagreement_are_within_the_generators_own(self):
        figures = held_out_figures(self.logits, self.labels, self.generated)
        assert figures["ranking"] == pytest.approx(1)
        assert figures["disagreement"] == pytest.approx(0.5 / 2**0.5)
        turned = self.logits.clone()
        turned[2:5, 1] = -turned[2:5, 1]
        assert held_out_figures(turned, self.labels, self.generated)["ranking"] == pytest.approx(-1)

    def test_one_head_has_neither(self):
        assert set(held_out_figures(self.logits[:, :1], self.labels, self.generated)) == {
            "auc",
            "calibration_error",
        }


def labelled(*sources):
    column = torch.ones(len(sources))
    return Labelled(
        column, column, column, column, torch.tensor([SOURCES.index(source) for source in sources])
    )


@pytest.mark.parametrize(
    ("sources", "smoothing", "expected"),
    [
        (
            [],
            0.0,
            "log density ratio of features, target samples over the generator's own at the time of "
            "training",
        ),
        ([], 0.1, "score: labels were smoothed by 0.1"),
        (["pseudo-labelled"] * 2, 0.0, "score: 2 samples had pseudo-labels by rank"),
        (["mismatched"], 0.0, "score: 1 targets had another's prompt"),
        (
            ["mismatched", "pseudo-labelled"],
            0.05,
            "score: labels were smoothed by 0.05 and 1 targets had.* and 1 samples",
        ),
    ],
)
def test_the_meaning_says_ratio_or_score(sources, smoothing, expected):
    assert re.match(expected, meaning(labelled("target", "generated", *sources), smoothing))


@pytest.mark.parametrize("options", [{}, {"label_smoothing": 0.1}])
def test_the_reward_carries_its_meaning(options):
    module = GANRM(Table(), **options)
    fit(module, max_epochs=1)
    assert module.reward.meaning == meaning(
        labelled("target", "generated"), options.get("label_smoothing", 0.0)
    )


class TestNotFinite:
    def broken(self, step, bad=math.nan):
        """A reward whose score of the last state breaks at a training step."""

        class Broken(Table):
            steps = 0

            def score_features(self, features):
                scores = super().score_features(features)
                Broken.steps += self.training
                return scores + features[:, 3:] * (bad if Broken.steps > step else 0)

        return GANRM(Broken(), optimizer=ADAM)

    @pytest.mark.parametrize("bad", [math.nan, math.inf])
    def test_the_run_stops_and_names_the_sample(self, bad):
        message = (
            r"GANRM's loss is (nan|inf): \d+ of 16 samples score NaN or infinite, "
            r"the first is row \d+ \("
        )
        with pytest.raises(InputError, match=message):
            fit(self.broken(3, bad))

    def test_the_last_good_checkpoint_stays_and_its_weights_are_finite(self, tmp_path):
        module = self.broken(8)
        keep = ModelCheckpoint(tmp_path, "{step}", every_n_train_steps=1, save_top_k=-1)
        with pytest.raises(InputError, match="The last checkpoint stands"):
            fit(module, None, keep, enable_checkpointing=True)
        assert len(list(tmp_path.iterdir())) == 8
        for path in tmp_path.iterdir():
            state = torch.load(path, weights_only=True)["state_dict"]
            assert state["reward.table"].isfinite().all()
        assert module.reward.table.isfinite().all(), "the broken loss never reached the weights"

    def test_a_held_out_score_that_breaks_is_found_too(self):
        module = GANRM(Table())
        module.log = lambda *_, **__: None
        batch = labelled("target", "generated")
        batch = Labelled(
            torch.tensor([[0.0, 0, 0, 1], [math.nan] * 4]),
            batch.labels,
            torch.tensor([4, 6]),
            batch.weights,
            batch.sources,
        )
        module._trainer = SimpleNamespace()
        with pytest.raises(InputError, match=r"the first is row 6 \(generated\)"):
            module.validation_step(batch, 0)

    def test_finite_scores_with_a_loss_that_is_not_are_told_apart(self):
        module = GANRM(Table())
        module.log = lambda *_, **__: None
        batch = labelled("target", "generated")
        weights = torch.tensor([math.inf, 1.0])
        with pytest.raises(InputError, match="all scores are finite"):
            module.training_step(
                Labelled(torch.eye(4)[:2], batch.labels, torch.arange(2), weights, batch.sources), 0
            )
