"""The hardening study's own arithmetic and arms; its runs take an hour and are not tests."""

import importlib.util
import sys
from pathlib import Path

import pytest
import torch

from rewardlab.commands.rounds import build
from rewardlab.evaluation.stability import stability

FILE = Path(__file__).parents[2] / "experiments" / "studies" / "hardening.py"


@pytest.fixture(scope="module")
def study():
    spec = importlib.util.spec_from_file_location("hardening_study", FILE)
    module = importlib.util.module_from_spec(spec)
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, "hardening_study", module)  # where dataclasses look
        spec.loader.exec_module(module)
        yield module


def test_variety_is_the_share_of_different_word_pairs_over_all_responses(study):
    assert study.variety(["a b c", "a b", "b"]) == pytest.approx(2 / 3)
    assert study.variety(["a b a b"] * 2) == pytest.approx(2 / 6)
    assert study.variety(["", "word"]) == 0


def configs(study, folder):
    """Return the resolved config of each arm's rounds."""
    built = {}
    for arm in study.ARMS:
        words = study.command(arm, 3, folder)[1:]
        words = [word for word in words if word != "--resume"]
        built[arm] = build(words).config["rounds"]["init_args"]
    return built


def test_arms_that_are_compared_share_one_rloo_and_differ_in_what_they_name(study, tmp_path):
    arms = configs(study, tmp_path)
    loops = {arm: config["post_train"] for arm, config in arms.items() if arm != "kl"}
    assert all(loop == loops["none"] for loop in loops.values())
    assert arms["kl"]["post_train"]["loop"]["init_args"]["kl_weight"] == 0.25
    assert loops["none"]["trainer"]["init_args"]["max_steps"] == 520
    assert [arms[arm]["rounds"] for arm in ("none", "familiar", "paper", "both")] == [0, 0, 2, 2]
    assert arms["both"]["attack"] == arms["pairs"]["attack"] != arms["paper"]["attack"]
    assert arms["both"]["tether"] == arms["familiar"]["tether"]
    assert arms["none"]["tether"] is None
    weights = [arms[arm]["tether"]["reward_weight"] for arm in ("familiar", "distance")]
    assert weights == [1.0, 0.0]
    assert {config["seed"] for config in arms.values()} == {3}


def test_the_table_has_means_deviations_and_the_ratio_to_none(study):
    def result(arm, seed, gold):
        steps = list(range(0, 10 * len(gold), 10))
        figures = stability(
            steps, torch.tensor(gold), torch.zeros(len(gold)), at_kl=[1.0], start=0.0
        )
        row = {"arm": arm, "seed": seed, "peak_gold": figures.peak_gold}
        row |= {"peak_step": figures.peak_step, "step": figures.step}
        row |= {"censored": figures.censored, "end_gold": gold[-1], "end_kl": 1.0}
        return study.Result(row | {"end_variety": 0.5}, figures, steps, gold, gold)

    results = [result("none", seed, [0.0, 1.0, -1.0]) for seed in (0, 1)]
    results += [result("familiar", seed, [0.0, 1.0, 1.0 + seed, 2.0, 2.0]) for seed in (0, 1)]
    none, familiar = study.table(results).splitlines()[2:]
    assert none.endswith("| 0 | 1.00 [1.00, 1.00] |")
    assert familiar.endswith("| 2 | at least 2.00 [2.00, inf] |")
    assert "| 2.00 ± 0.00 |" in familiar
    assert none.count("|") == study.table(results).splitlines()[0].count("|")


@pytest.mark.nightly
def test_a_short_arm_runs_and_is_measured(study, tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["hardening", "--arms", "none", "--seeds", "1"])
    steps = "--rounds.init_args.post_train.trainer.init_args.max_steps=30"
    assert study.rewardlab(study.command("none", 0, tmp_path, [steps])) == 0
    result = study.measure("none", 0, tmp_path / "none-0")
    assert len(result.steps) == len(result.gold) == 4
    study.write(tmp_path, [result])
    assert (tmp_path / "curves.png").stat().st_size > 1000
