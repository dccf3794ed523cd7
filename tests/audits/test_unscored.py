"""Attacks and curves with rewards that leave samples out."""

import json
import runpy
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from rewardlab.attackers import BestOfN
from rewardlab.attackers.base import highest, scored_only, with_scores
from rewardlab.attackers.pgd import PGDAttacker
from rewardlab.attackers.rollout_buffer import RolloutBuffer
from rewardlab.audits import AttackAudit, CurveAudit
from rewardlab.audits.left_out import only_scored
from rewardlab.audits.scores import AttackScores, ScoredSamples
from rewardlab.errors import InputError
from rewardlab.policies import CallableGenerator
from rewardlab.rewards import Attack, Brightness, Function, Judged, Length, Reward, Tolerant
from rewardlab.rewards.abilities import Partial
from rewardlab.rewards.unscored import partial_scores
from rewardlab.runs.folder import RunFolder
from rewardlab.training.collecting import score_rollout
from rewardlab.types import Samples

HERE = Path(__file__).parent
REFUSING = SimpleNamespace(**runpy.run_path(str(HERE.with_name("refusing.py"))))
Refusing = REFUSING.Refusing
WORDS = ["good", "of", "very", "well", "refuse", "stop"]


def speak(prompts, seeds):
    """Random words; some of them are refused."""
    texts = []
    for seed in seeds.tolist():
        generator = torch.Generator().manual_seed(seed % 2**31)
        count = int(torch.randint(1, 9, (), generator=generator))
        words = torch.randint(len(WORDS), (count,), generator=generator).tolist()
        texts.append(" ".join(WORDS[word] for word in words))
    return texts


def speaker():
    return CallableGenerator(speak)


def stops(samples):
    return torch.tensor([float(text.count("stop")) for text in samples.outputs])


class TestAttackers:
    def test_what_is_not_scored_comes_last_and_is_left_out(self):
        scores = torch.tensor([1.0, torch.nan, 3.0, torch.nan])
        samples = Samples(["a"] * 4, list("bcde"), {"attack": scores})
        assert highest(samples, k=2, keep=1).outputs == ["b", "d"]
        assert scored_only(samples).outputs == ["b", "d"]
        with pytest.raises(InputError, match="None of 2 outputs of the attack is scored"):
            scored_only(samples[[1, 3]])

    def test_the_parts_of_an_attack_are_facts_that_may_be_missing(self):
        attack = Attack(Refusing(), Length(), threshold=0.0)
        scored = with_scores(attack, REFUSING.texts("one two", "refuse"))
        assert scored.facts["target"].isnan().tolist() == [False, True]
        assert scored.facts["attack"].isnan().tolist() == [False, True]
        assert scored.facts["witness"].tolist() == [2.0, 1.0]

    def test_the_best_of_n_are_scored(self):
        found = BestOfN(n=4, keep=4)(speaker(), Refusing(), ["a"] * 8, 0)
        assert len(found) < 32
        assert not any("refuse" in text for text in found.outputs)

    def test_a_gradient_attack_leaves_images_that_are_not_scored_where_they_are(self):
        class Dim(Reward, Partial):
            most_unscored = 1.0

            def judge(self, samples):
                means = samples.outputs.flatten(1).mean(1)
                return Judged(means, ["too bright" if mean > 0.6 else "" for mean in means])

            def forward(self, samples):
                return partial_scores(self, samples)

        images = torch.full((2, 1, 4, 4), 0.5)
        images[1] = 0.9
        moved = PGDAttacker(epsilon=0.2, steps=5, random_start=False)
        climbed = moved.climb(Dim(), Samples(["", ""], images), seed=0).outputs
        assert climbed[0].mean() > 0.55
        assert climbed[0].mean() <= 0.6
        assert torch.equal(climbed[1], images[1])
        assert Brightness()(Samples([""], climbed[:1])).item() <= 0.6


def table(scores, prompts):
    columns = {"reward": scores, "witness": torch.zeros(len(scores)).tolist()}
    samples = Samples(prompts, [str(row) for row in range(len(scores))])
    return ScoredSamples.of(samples, columns, columns)


def test_of_fresh_samples_each_prompt_keeps_as_many():
    nan = float("nan")
    fresh = table([1.0, nan, 2.0, 3.0, 4.0, 5.0], ["a"] * 3 + ["b"] * 3)
    attack = table([nan, 1.0], ["a", "b"])
    references = table([1.0, 2.0] * 2, ["a", "b"] * 2)
    whole = only_scored(AttackScores(attack, references, fresh))
    assert whole.scores.fresh.samples.outputs == ["0", "2", "3", "4"]
    assert whole.scores.n == 2
    assert whole.rows == [1]
    assert whole.unscored == {"attack": 1, "fresh": 1}
    few = only_scored(AttackScores(attack, table([1.0, 2.0, nan, 3.0], ["a", "b"] * 2), fresh))
    assert few.scores.fresh.samples.outputs == ["3", "4", "5"]
    assert few.unscored == {"attack": 1, "references": 1, "fresh": 1, "prompts": 1}
    nothing = AttackScores(table([nan], ["a"]), table([1.0] * 2, ["a"] * 2), table([1.0], ["a"]))
    with pytest.raises(InputError, match="Of the 1 attack samples too few are scored"):
        only_scored(nothing)


def test_an_audit_counts_what_a_judge_refuses(tmp_path):
    prompts = [f"prompt {number}" for number in range(6)]
    audit = AttackAudit(
        speaker(), Length(), Function(stops), prompts, judge=Refusing(), references=6, n=6
    )
    result = audit.run(RunFolder.open(tmp_path / "run", {}))
    assert result.figures["unscored"]["fresh"] > 0
    for row in result.exploits:
        assert result.samples["attack"].outputs[row["row"]] == row["output"]
        assert "refuse" not in row["output"]
    assert "NaN" not in json.dumps(result.figures)


def test_a_curve_is_of_what_proxy_and_gold_score(tmp_path):
    audit = CurveAudit(speaker(), Length(), Refusing(), ["a", "b"], n_max=4, samples=32)
    figures = audit.run(RunFolder.open(tmp_path / "run", {})).figures
    assert figures["unscored"] > 0
    assert figures["samples"] < 32
    assert "NaN" not in json.dumps(figures)
    short = CurveAudit(speaker(), Length(), Refusing(), ["a", "b"], n_max=32, samples=32)
    with pytest.raises(InputError, match="n_max=32 needs as many"):
        short.run(RunFolder.open(tmp_path / "other", {}))


def test_an_adversarys_loop_keeps_what_is_missing_in_its_buffer_as_nan():
    """The loop asks the buffer, which asks the attack, whose target leaves samples out."""
    buffer = RolloutBuffer(Attack(Refusing(), Length(), threshold=0.0))
    samples = REFUSING.texts("one two", "refuse", "one")
    scores = score_rollout(buffer, samples, torch.device("cpu"))
    assert scores.isnan().tolist() == [False, True, False]
    assert scored_only(buffer.samples()).outputs == ["one two", "one"]
    broken = RolloutBuffer(Attack(Tolerant(Length()), Broken(), threshold=0.0))
    with pytest.raises(InputError, match="Attack gave a score of"):
        score_rollout(broken, samples, torch.device("cpu"))


class Broken(Reward):
    def forward(self, samples):
        return torch.full((len(samples),), torch.nan)
