"""Mining with a reward that leaves candidates out: they are counted and nothing is made of them."""

import logging
import runpy
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from rewardlab.errors import InputError
from rewardlab.mining import (
    BestOf,
    RankBootstrap,
    adversarial_pairs,
    best_and_worst,
    extremes,
)
from rewardlab.policies import CallableGenerator
from rewardlab.types import Samples

REFUSING = SimpleNamespace(**runpy.run_path(str(Path(__file__).with_name("refusing.py"))))
Refusing = REFUSING.Refusing
NAN = torch.nan


def counted(prompts, seeds):
    """One to four words by the seed; every third output is refused, and all of the prompt "no"."""
    texts = []
    for prompt, seed in zip(prompts, seeds.tolist(), strict=True):
        refused = prompt == "no" or seed % 3 == 0
        texts.append(" ".join(["word"] * (1 + seed % 4)) + " refuse" * refused)
    return texts


def test_a_pair_is_of_scored_candidates_and_a_prompt_without_two_is_left_out(caplog):
    with caplog.at_level(logging.WARNING, "rewardlab"):
        pairs = best_and_worst(
            CallableGenerator(counted), Refusing(), ["a", "no", "b", "c"], k=8, seed=1
        )
    assert len(pairs) == 3
    assert "no" not in pairs.chosen.prompts
    for text in (*pairs.chosen.outputs, *pairs.rejected.outputs):
        assert "refuse" not in text
    assert "of 32 candidates are not scored and are left out" in caplog.text
    assert "it says refuse" in caplog.text


def test_nothing_left_is_a_sentence():
    with pytest.raises(InputError, match="None of 8 candidates is scored, so nothing is left"):
        best_and_worst(CallableGenerator(counted), Refusing(), ["no"], k=8, seed=0)


def test_extremes_are_those_of_the_group_without_what_is_missing():
    samples = Samples(["a"] * 4 + ["b"] * 4 + ["c"] * 4, list("abcdefghijkl"))
    scores = torch.tensor([NAN, 1.0, 3.0, 2.0, NAN, NAN, NAN, 5.0, NAN, NAN, NAN, NAN])
    pairs = extremes(samples, scores, 4)
    assert pairs.chosen.outputs == ["c"]
    assert pairs.rejected.outputs == ["b"]


def test_the_best_of_n_is_a_scored_one_and_else_the_first_candidate():
    best = BestOf(CallableGenerator(counted), Refusing(), 8)
    outputs = best.generate(["a", "no", "b"], seeds=torch.arange(3)).outputs
    assert "refuse" not in outputs[0]
    assert "refuse" in outputs[1]
    assert "refuse" not in outputs[2]


def test_the_bootstrap_ranks_what_is_scored(caplog):
    pool = Samples([""] * 6, list("abcdef"), {"seed": torch.arange(6)})
    negatives = Samples([""], ["x"], {"seed": torch.tensor([99])})
    scores = torch.tensor([NAN, 4.0, 1.0, NAN, 3.0, 2.0])
    bootstrap = RankBootstrap(pool=6, count=2)
    with caplog.at_level(logging.WARNING, "rewardlab"):
        samples, _ = bootstrap(pool, scores, negatives)
    assert samples.outputs == ["b", "e", "c", "f"]
    assert "2 of 6 samples of the pool" in caplog.text
    with pytest.raises(InputError, match="labels 2 samples at each end, and 3 of 6 are scored"):
        bootstrap(pool, torch.tensor([NAN, 4.0, 1.0, NAN, NAN, 2.0]), negatives)


def mined(attacks, target, witness, reference_target, **options):
    references = Samples(["hi"] * 5, ["hello", "good day", "hey", "welcome", "oh"])
    reference_witness = torch.tensor([0.0, 1.0, 1.0, 0.0, 7.0])
    return adversarial_pairs(
        attacks, target, witness, references, reference_target, reference_witness, **options
    )


def test_adversarial_pairs_are_those_without_attacks_and_references_that_are_not_scored():
    attacks = Samples(["hi"] * 4, ["of of of", "goodbye", "hello there", "what"])
    target = torch.tensor([6.0, NAN, 1.0, 5.0])
    witness = torch.tensor([-4.0, -9.0, 1.0, NAN])
    reference_target = torch.tensor([0.0, 1.0, 0.0, 1.0, NAN])
    judge = (torch.tensor([0.0, 0.5, 2.0, NAN]), torch.tensor([1.0, 1.0, 1.0, 1.0, NAN]))
    pairs, funnel = mined(attacks, target, witness, reference_target, judge_scores=judge)
    assert pairs.rejected.outputs == ["of of of"]
    assert funnel.counts["generated"] == 4
    assert funnel.unscored == 2
    assert funnel.as_dict()["unscored"] == 2
    assert "not scored      2" in str(funnel)
    assert funnel.precision["generated"] == pytest.approx((1 + 1 + 0) / 3)
    present = [0, 2]
    again, clean = mined(attacks[present], target[present], witness[present], reference_target)
    assert again.rejected.outputs == pairs.rejected.outputs
    assert torch.equal(again.rejected.facts["disagreement"], pairs.rejected.facts["disagreement"])
    assert clean.unscored == 0
    assert "unscored" not in clean.as_dict()
