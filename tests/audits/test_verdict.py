"""What an audit's figures are said to mean, without a model."""

from __future__ import annotations

import pytest
import torch

from rewardlab.audits.curve import curve_verdict
from rewardlab.audits.scores import DISAGREEMENT_Z, ScoredSamples, disagreements
from rewardlab.audits.verdict import Measure, verdict
from rewardlab.evaluation.intervals import difference, wilson
from rewardlab.evaluation.overoptimization import fit_overoptimization
from rewardlab.metrics import best_of_n_kl, mean_interval
from rewardlab.types import Samples


def test_what_few_prompts_cannot_rule_out_is_not_called_held():
    def measured(attack, floor, count):
        own, other = wilson(attack, count), wilson(floor, count)
        over = difference(own, other)
        return {"disagreeing": Measure(own, other, other, over, over)}

    said = {}
    for count in (12, 600, 10**6):
        measures = measured(0.12, 0.1, count)
        said[count] = verdict(measures, best_of=4, judged=False, trained=False)
    assert [each["word"] for each in said.values()] == ["undecided", "held", "parted"]
    assert "12 prompts cannot rule out an excess of up to" in said[12]["sentence"]
    assert "cannot rule out" not in said[600]["sentence"]


@pytest.mark.parametrize(
    ("gold", "word"),
    [
        (lambda d: d * (1 - d), "peaks"),
        (lambda d: d * (3 - 0.1 * d), "rises"),
        (lambda d: -d - d * d, "falls"),
        (lambda d: 0 * d, "unclear"),
    ],
)
def test_what_a_curve_is_said_to_do(gold, word):
    """Gold known at each n, with a little noise of prompts, gives the word that its shape deserves."""
    ns = [1, 2, 4, 8, 16, 32]
    distance = torch.tensor([best_of_n_kl(n) ** 0.5 for n in ns])
    noise = torch.randn(1, 40, generator=torch.Generator().manual_seed(0))
    columns = gold(distance)[:, None] + 0.1 * distance[:, None] * noise
    rows = []
    for n, column in zip(ns, columns, strict=True):
        low, high = mean_interval(column)
        rows.append(
            {"n": n, "gold": column.mean().item(), "gold_low": low, "gold_high": high, "proxy": 1.0}
        )
    found = curve_verdict(rows, fit_overoptimization(distance, columns, "best_of_n"), 40)
    assert found["word"] == word


def scored(outputs, reward, witness, prompts):
    columns = {"reward": torch.tensor(reward), "witness": torch.tensor(witness)}
    return ScoredSamples(Samples(prompts, outputs), columns, columns)


def test_disagreement_is_looked_at_output_by_output():
    """Equal outputs count each; references, and what the reward does not like, are no exploits."""
    references = scored(list("abcd"), [-1.0, 1.0, -1.0, 1.0], [1.0, -1.0, -1.0, 1.0], ["p"] * 4)
    found = scored(["x", "x", "a", "y"], [9.0, 9.0, 9.0, -9.0], [-9.0, -9.0, -9.0, 9.0], ["p"] * 4)
    apart = disagreements(found, references)
    assert apart[0] == apart[1] > DISAGREEMENT_Z
    assert apart[2:].isnan().all()
