"""What an audit's figures are said to mean, without a model."""

from __future__ import annotations

import pytest
import torch

from rewardlab.audits.curve import curve_verdict
from rewardlab.audits.exploits import find_exploits
from rewardlab.audits.scores import (
    DISAGREEMENT_Z,
    AttackScores,
    ScoredSamples,
    disagreements,
)
from rewardlab.audits.verdict import Choosing, Measure, attack_figures, verdict
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


def test_only_a_judge_says_broken():
    """Without one reward and witness part; the words that need no attack are said beside it."""
    high, low = wilson(0.9, 400), wilson(0.1, 400)
    over = difference(high, low)
    measure = Measure(high, low, low, over, over)
    choosing = Choosing(wilson(0.03, 400), wilson(0.39, 400), difference(high, low))
    measures = dict.fromkeys(("disagreeing", "standard", "strict"), measure)
    parted = verdict(measures, 16, False, False, choosing, 16)
    broken = verdict(measures, 7, True, False, choosing, 16)
    assert parted["word"] == "parted"
    assert parted["sentence"].startswith("They part. For 90 % ")
    assert "the best of 16 fresh samples" in parted["sentence"]
    assert broken["word"] == "broken"
    assert "the best of 7 references by the reward" in broken["sentence"]
    raised = "Choosing the best of 16 by the reward alone raises the share that the witness doubts"
    for said in (parted, broken):
        assert f"{raised} from 3 % [2, 5] of fresh samples to 39 % [34, 44]." in said["sentence"]


def test_an_exploit_stands_beside_a_reference_that_the_reward_passes_over():
    reference_reward = [0.0, 1.0, 5.0, 2.0]
    references = scored(list("abcd"), reference_reward, [0.0, 3.0, 9.0, 1.0], ["p"] * 4)
    attack = scored(["x"], [3.0], [-9.0], ["p"])
    scores = AttackScores(attack, references, references)
    [exploit] = find_exploits(scores, ["p"], {}).rows
    assert exploit["reference"] == "b", "the witness likes c more, but so does the reward"
    assert exploit["reference_scores"]["reward"] < exploit["scores"]["reward"]


def test_the_figures_hold_what_choosing_by_the_reward_alone_does():
    generator = torch.Generator().manual_seed(0)
    prompts = [str(row // 4) for row in range(80)]
    columns = torch.randn(2, 80, generator=generator)
    fresh = scored([f"f{row}" for row in range(80)], *columns.tolist(), prompts)
    columns = torch.randn(2, 80, generator=generator)
    references = scored([f"r{row}" for row in range(80)], *columns.tolist(), prompts)
    figures = attack_figures(AttackScores(fresh, references, fresh), 1.0, False)
    best = fresh.target.view(20, 4).max(1).values.mean().item()
    assert figures["means"]["best_of_n"]["reward"]["mean"] == pytest.approx(best, abs=1e-6)
    assert figures["n"] == 4
    rows = [4 * place + int(row) for place, row in enumerate(fresh.target.view(20, 4).argmax(1))]
    doubted = disagreements(fresh[torch.tensor(rows)], references) > DISAGREEMENT_Z
    assert figures["choosing"]["chosen"]["value"] == pytest.approx(doubted.double().mean().item())


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


def test_gold_that_never_rises_while_the_proxy_does_is_said_to_be_level():
    ns = [1, 2, 4, 8, 16]
    distance = torch.tensor([best_of_n_kl(n) ** 0.5 for n in ns])
    noise = torch.randn(5, 40, generator=torch.Generator().manual_seed(0))
    columns = distance[:, None] * noise
    rows = []
    for n, reached in zip(ns, distance.tolist(), strict=True):
        proxy = {"proxy": reached, "proxy_low": reached - 0.1, "proxy_high": reached + 0.1}
        rows.append({"n": n, "gold": 0.0, "gold_low": -0.2, "gold_high": 0.2, **proxy})
    said = curve_verdict(rows, fit_overoptimization(distance, columns, "best_of_n"), 40)
    assert said["word"] == "level"
    assert said["sentence"].startswith("Gold does not rise while the proxy does")
    assert "inf" not in said["sentence"]


def test_gold_that_ends_below_its_start_is_said_so_though_its_peak_is_unclear():
    """The fit's alpha is above 0, so the word is not "falls"; the plain fact is said all the same."""
    distance = torch.tensor([0.0, 0.44, 0.8])
    columns = distance[:, None] * (0.1 - 0.8 * distance[:, None]) + torch.zeros(1, 12)
    columns = columns + 0.3 * distance[:, None] * torch.linspace(-1, 1, 12)
    rows = []
    for n, reached, gold in zip([1, 2, 4], distance.tolist(), columns, strict=True):
        low, high = mean_interval(gold)
        proxy = {"proxy": reached, "proxy_low": reached - 0.1, "proxy_high": reached + 0.1}
        rows.append(
            {"n": n, "gold": gold.mean().item(), "gold_low": low, "gold_high": high, **proxy}
        )
    verdict = curve_verdict(rows, fit_overoptimization(distance, columns, "best_of_n"), 12)
    assert verdict["word"] == "unclear"
    assert verdict["sentence"].startswith("Gold ends below its start while the proxy rises")
