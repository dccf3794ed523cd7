"""Gated: what fails is last among its prompt's outputs."""

import pytest
import torch

from rewardlab.errors import InputError
from rewardlab.rewards import Function, Gated, Length, Reward, load_reward
from rewardlab.types import Samples


class Unscored(Reward):
    """A gate that may give NaN."""

    def forward(self, samples):
        return samples.facts["gate"]


def given(name):
    return Function(lambda samples: samples.facts[name].float())


def rows(prompts, scores, gates):
    facts = {"score": torch.tensor(scores), "gate": torch.tensor(gates)}
    return Samples(list(prompts), [""] * len(scores), facts)


def test_what_fails_gets_its_prompts_minimum_whatever_the_offset():
    gated = Gated(given("score"), gate=given("gate"))
    for offset in (0.0, 100.0):
        samples = rows("aabab", [3.0, 5.0, offset, 4.0, offset + 2], [1.0, 0.0, 1.0, 1.0, 0.0])
        assert gated(samples).tolist() == [3.0, 3.0, offset, 4.0, offset]


def test_where_all_hold_nothing_changes_and_where_all_fail_they_tie():
    gated = Gated(given("score"), gate=given("gate"))
    assert gated(rows("aab", [3.0, 5.0, 1.0], [1.0] * 3)).tolist() == [3.0, 5.0, 1.0]
    assert gated(rows("aab", [3.0, 5.0, 1.0], [0.0] * 3)).tolist() == [3.0, 3.0, 1.0]


def test_an_output_that_is_alone_falls_to_the_references_lowest():
    references = rows("xyz", [2.0, -7.0, 9.0], [1.0] * 3)
    gated = Gated(given("score"), references, given("gate"))
    assert gated(rows("abb", [5.0, 6.0, 8.0], [0.0, 0.0, 1.0])).tolist() == [-7.0, 6.0, 8.0]


def test_what_the_gate_does_not_score_is_not_scored():
    gated = Gated(given("score"), gate=Unscored())
    scores = gated(rows("aa", [3.0, 5.0], [float("nan"), 1.0]))
    assert scores.isnan().tolist() == [True, False]


def test_it_is_saved_with_its_gate_and_needs_one(tmp_path):
    gated = Gated(Length(), 1.0, Length(), threshold=2.0)
    gated.save_pretrained(tmp_path / "reward")
    samples = Samples(["a", "a", "b"], ["one two", "one", "one two three"])
    assert load_reward(tmp_path / "reward")(samples).tolist() == gated(samples).tolist()
    with pytest.raises(InputError, match="Gated needs gate="):
        Gated(Length())
