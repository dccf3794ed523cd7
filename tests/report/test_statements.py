"""What the report states follows from figures and their intervals alone."""

from __future__ import annotations

import runpy
from pathlib import Path
from types import SimpleNamespace

import pytest

from rewardlab.report.statements import (
    Verdict,
    overall,
    run_course,
    step_course,
    step_verdict,
    verdict,
)
from rewardlab.runs.read import read_runs

FOLDERS = SimpleNamespace(**runpy.run_path(str(Path(__file__).with_name("run_folders.py"))))
figure = FOLDERS.figure
figures = FOLDERS.figures


def test_rounds_are_judged_one_by_one_and_as_a_whole(tmp_path):
    folder = FOLDERS.make_run(tmp_path / "two", FOLDERS.CLEAN, FOLDERS.SPOILT)
    (run,) = read_runs([folder])
    assert [step_verdict(step).outcome for step in run.steps] == ["better", "over-optimised"]
    assert overall(run).sentence.startswith("Over-optimised in round 2. From base to end:")
    assert "reward score" not in run_course(run)  # each round has a reward of its own
    assert "reward score" in step_course(run.steps[0])


@pytest.mark.parametrize(
    ("after", "reward", "outcome"),
    [
        ({"accuracy": 0.62}, 0.0, "worse"),
        ({"accuracy": 0.62}, 3.0, "over-optimised"),
        ({"accuracy": 0.935}, 3.0, "reward only"),
        ({"accuracy": 0.935}, 0.0, "unchanged"),
        ({"accuracy": 0.96}, 0.0, "better"),
        ({"accuracy": 0.985}, 0.0, "better"),  # past the targets' value, but within its interval
        ({"accuracy": 0.96, "ink": 0.2}, 0.0, "mixed"),
        ({"accuracy": 0.96, "ink": 0.2}, 3.0, "over-optimised"),
        ({"ink": 0.37}, 3.0, "mixed"),  # the other side of the targets, no farther than before
        ({"ink": 0.45}, 3.0, "over-optimised"),
        ({"distance": 0.3}, 3.0, "over-optimised"),
        ({"distance": 0.0}, -3.0, "better"),
        ({}, 3.0, "no judge"),
    ],
)
def test_statements_follow_from_the_intervals(after, reward, outcome):
    before = {name: figure(FOLDERS.BASE[name]) for name in after}
    scores = {"score_before": figure(0.0), "score_after": figure(reward)}
    stated = verdict(before, figures(after), figures(FOLDERS.TARGETS), scores)
    assert stated.outcome == outcome
    over_optimised = "Over-optimised: the reward rose while" in stated.sentence
    assert over_optimised == (outcome == "over-optimised")


def test_figures_without_intervals_or_finite_values_make_no_statement():
    before = {"ink": figure(0.3), "accuracy": figure(0.93)}
    after = {"ink": figure(float("nan")), "accuracy": {"mean": 0.5}, "other": figure(1.0)}
    stated = verdict(before, after, {}, {})
    assert stated == Verdict("unknown", "No intervals to compare in accuracy, ink and other.")


def test_a_move_is_neither_good_nor_bad_where_the_targets_value_is_not_known():
    stated = verdict({"ink": figure(0.3)}, {"ink": figure(0.4)}, {}, {})
    assert stated == Verdict("mixed", "Ink changed; the targets' own value is not known.")


def test_a_move_within_the_targets_own_interval_is_neither_better_nor_worse():
    before = {"accuracy": figure(0.988, 0.008)}
    after = {"accuracy": figure(1.0, 0.0)}
    targets = {"accuracy": figure(0.98, 0.03)}
    scores = {"score_before": figure(0.0), "score_after": figure(2.0)}
    stated = verdict(before, after, targets, scores)
    assert stated.outcome == "reward only"
    assert stated.sentence == ("The reward rose. Accuracy moved within the targets' own interval.")
