"""The hardening study's own arithmetic; its runs take an hour and are not tests."""

import importlib.util
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from rewardlab.evaluation.stability import stability
from rewardlab.rewards import Calibrated
from rewardlab.rewards.rules import Length, Repetition
from rewardlab.types import Samples

FILE = Path(__file__).parents[2] / "experiments" / "studies" / "hardening.py"


@pytest.fixture(scope="module")
def study():
    spec = importlib.util.spec_from_file_location("hardening_study", FILE)
    module = importlib.util.module_from_spec(spec)
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(
            __import__("sys").modules, "hardening_study", module
        )  # where dataclasses look themselves up
        spec.loader.exec_module(module)
        yield module


class Measured(Length, Calibrated):
    """A reward that knows its constants, as a trained member does."""

    score_mean, score_std = torch.tensor(3.0), torch.tensor(2.0)

    def calibrate(self, scores):
        raise NotImplementedError


def test_variety_is_the_share_of_different_word_pairs_over_all_responses(study):
    assert study.variety(["a b c", "a b", "b"]) == pytest.approx(2 / 3)
    assert study.variety(["a b a b"] * 2) == pytest.approx(2 / 6)
    assert study.variety(["", "word"]) == 0


def test_rloo_maximises_the_member_and_the_familiarity_in_deviations(study, monkeypatch):
    monkeypatch.setattr(study, "novelty", lambda: Repetition(n=1))
    samples, member = Samples(["", ""], ["of of", "a b c d e"]), Measured()
    assert study.optimised(member, study.Recipe()) is member
    both = study.optimised(member, study.Recipe(familiarity=2.0))
    torch.testing.assert_close(both(samples), torch.tensor([-0.5 + 2 * -0.5, 1.0]))
    alone = study.optimised(member, study.Recipe(familiarity=1.0, member=0.0))
    torch.testing.assert_close(alone(samples), torch.tensor([-0.5, 0.0]))


def test_arms_that_are_compared_share_one_rloo(study):
    compared = {name: recipe for name, recipe in study.ARMS.items() if name != "kl"}
    assert {recipe.kl for recipe in compared.values()} == {0.0}
    assert replace(study.ARMS["both"], familiarity=0.0) == study.ARMS["pairs"]
    assert replace(study.ARMS["both"], rounds=0) == study.ARMS["familiar"]


def test_curves_of_other_weights_are_other_curves(study, monkeypatch, tmp_path):
    """A fingerprint of a reward knows its tensors only, and the weights of a sum are none."""
    asked = []
    (tmp_path / "rows.json").write_text("[]")
    monkeypatch.setattr(study, "novelty", lambda: Repetition(n=1))
    monkeypatch.setattr(
        study, "cached", lambda name, settings, packages, make: asked.append(settings) or tmp_path
    )
    for recipe in (
        study.ARMS["familiar"],
        study.ARMS["distance"],
        study.ARMS["none"],
        study.ARMS["kl"],
    ):
        assert study.curve(Measured(), recipe, steps=1, rate=1.0, seed=0) == []
    assert len({str(settings) for settings in asked}) == len(asked) == 4


def test_the_table_has_means_deviations_and_the_ratio_to_none(study):
    def run(arm, seed, gold):
        steps = list(range(0, 10 * len(gold), 10))
        found = stability(steps, torch.tensor(gold), torch.zeros(len(gold)), at_kl=[1.0], start=0.0)
        row = {
            "arm": arm,
            "seed": seed,
            "accuracy": 0.6,
            "peak_gold": found.peak_gold,
            "peak_step": found.peak_step,
        }
        row |= {
            "step": found.step,
            "censored": found.censored,
            "end_gold": gold[-1],
            "end_kl": 1.0,
            "end_variety": 0.5,
        }
        return {"row": row, "stability": found}

    runs = [run("none", seed, [0.0, 1.0, -1.0]) for seed in (0, 1)]
    runs += [run("familiar", seed, [0.0, 1.0, 1.0 + seed, 2.0, 2.0]) for seed in (0, 1)]
    none, familiar = study.table(runs).splitlines()[2:]
    assert none.endswith("| 0 | 1.00 [1.00, 1.00] |")
    assert familiar.endswith("| 2 | at least 2.00 [2.00, inf] |")
    assert "| 2.00 ± 0.00 |" in familiar
