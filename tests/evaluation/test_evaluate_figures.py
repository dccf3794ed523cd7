"""The figures of `evaluate` against the benchmarks' own formulas and values by hand."""

import math

import numpy as np
import pytest
import torch

from rewardlab.errors import InputError
from rewardlab.evaluation import benchmark_figures, bias_audit, score_file
from rewardlab.evaluation.benchmark_files import BenchmarkFile
from rewardlab.evaluation.named_biases import reference_answers, reference_deviation
from rewardlab.evaluation.named_edits import (
    FLATTERY,
    NAMED_EDITS,
    cut_off_end,
    doubled_spaces,
    list_form,
)
from rewardlab.evaluation.pair_figures import (
    Pairs,
    best_scale,
    calibration_figures,
    length_figures,
    share,
)
from rewardlab.evaluation.rewardbench import SECTIONS
from rewardlab.evaluation.rewardbench2 import SUBSETS, RowScores, resampled_ties, ties_score
from rewardlab.evaluation.rewardbench_rows import BenchRow
from rewardlab.evaluation.rm_bench import rm_bench_figures
from rewardlab.metrics.bootstrap import resampled_means
from rewardlab.rewards import Function, Length, Tolerant


def value_in(samples):
    """A reward that reads its score from the text."""
    return torch.tensor([float(text) for text in samples.outputs])


def row(prompt, right, wrong, subset="all", row_id=0):
    right, wrong = [value if isinstance(value, list) else [value] for value in (right, wrong)]
    return BenchRow(prompt, list(map(str, right)), list(map(str, wrong)), False, subset, row_id)


def figures_of(form, rows):
    return benchmark_figures(score_file(Function(value_in), BenchmarkFile("f", form, rows, {})))


def readme_accuracy(results):
    """RM-Bench's README, in numpy."""
    matrix = np.zeros((3, 3))
    for right, wrong in results:
        matrix += np.greater.outer(right, wrong)
    matrix /= len(results)
    return {
        "matrix": matrix,
        "hard": np.triu(matrix, 1).sum() / 3,
        "normal": np.diag(matrix).mean(),
        "easy": np.tril(matrix, -1).sum() / 3,
    }


def test_the_matrix_of_styles_is_that_of_the_benchmarks_readme():
    """Over scores of few values, so that some are equal, which is no win there."""
    draws = np.random.default_rng(0)
    results = [(draws.integers(0, 4, 3), draws.integers(0, 4, 3)) for _ in range(40)]
    scores = [RowScores(torch.tensor(right), torch.tensor(wrong)) for right, wrong in results]
    domains = ["chat", "code"] * 20
    figures = rm_bench_figures(scores, domains, torch.arange(40))
    wanted = readme_accuracy(results)
    assert np.array(figures["matrix"]) == pytest.approx(wanted["matrix"])
    for level in ("hard", "normal", "easy"):
        assert figures[level]["mean"] == pytest.approx(wanted[level])
        assert figures[level]["low"] < wanted[level] < figures[level]["high"]
    gap = wanted["easy"] - wanted["hard"]
    assert figures["style_gap"]["mean"] == pytest.approx(gap)
    code = readme_accuracy(results[1::2])["matrix"].mean()
    assert figures["domains"]["code"]["mean"] == pytest.approx(code)
    with pytest.raises(InputError, match="row 0 has 1 and 3"):
        rm_bench_figures([RowScores(torch.ones(1), torch.ones(3))], ["a"], torch.tensor([0]))


def test_a_reward_of_style_alone_is_easy_and_never_hard():
    rows = [row(f"p{number}", [1, 2, 3], [1, 2, 3], "chat") for number in range(5)]
    styles = figures_of("rm-bench", rows)["styles"]
    assert [styles[level]["mean"] for level in ("hard", "normal", "easy", "style_gap")] == [
        0,
        0,
        1,
        1,
    ]


def test_rewardbench_weighs_sections_and_has_an_interval():
    """All right but math-prm, which is half of Reasoning: 3.5 sections of 4."""
    rows = []
    for section in SECTIONS.values():
        for subset in section:
            is_right = subset != "math-prm"
            rows += [
                row(f"{subset}{n}", int(is_right), int(not is_right), subset) for n in range(3)
            ]
    figures = figures_of("rewardbench", rows)
    assert figures["sections"]["Reasoning"]["mean"] == 0.5
    assert figures["headline"]["name"] == "score"
    assert figures["headline"]["mean"] == figures["headline"]["low"] == 0.875
    assert figures["subsets"]["math-prm"]["mean"] == 0
    assert figures["subsets"]["math-prm"]["high"] == pytest.approx(0.5615, abs=1e-4)  # Wilson, 3
    mixed = [row(f"a{n}", n % 2, 0.5, "hep-go") for n in range(20)]
    part = figures_of("rewardbench", mixed)
    assert part["headline"]["name"] == "accuracy", "a score needs every subset"
    assert part["sections"]["Reasoning"]["low"] < 0.5 < part["sections"]["Reasoning"]["high"]


def version_2():
    rows = []
    for subset in SUBSETS[:-1]:
        rows += [row(f"{subset}{n}", 2, [1, 0, 3 * (n == 0)], subset, str(n)) for n in range(4)]
    rows.append(row("t", [3, 2], [0, 0], "Ties", "tied:7"))
    rows.append(row("r", [4], [0, 1], "Ties", "ref:7"))
    return rows


def test_version_2_is_the_mean_of_six_subsets_with_the_formula_of_ties():
    """Five subsets of 3/4, and Ties by hand: leads 2 and 3, spread 1."""
    figures = figures_of("rewardbench2", version_2())
    ties = 0.3 + 0.3 + 0.2 + 0.2 + 0.01 * math.tanh(1)
    assert figures["ties"]["mean"] == pytest.approx(ties)
    assert figures["headline"]["mean"] == pytest.approx((5 * 0.75 + ties) / 6)
    assert figures["headline"]["low"] < figures["headline"]["mean"] < figures["headline"]["high"]
    assert figures["accuracy"]["mean"] == 0.75
    only = figures_of("rewardbench2", version_2()[-2:])
    assert only["headline"]["name"] == "Ties"
    assert only["accuracy"] is None


def test_equal_scores_share_the_point_of_version_2():
    rows = [row("a", 1, [1, 1, 0], "Math"), row("b", 1, [0, 0, 0], "Math")]
    figures = figures_of("rewardbench2", rows)
    assert figures["accuracy"]["mean"] == pytest.approx((1 / 3 + 1) / 2)
    assert figures["equal"] == 2


def test_ties_are_resampled_by_both_rows_of_a_prompt():
    """Where all n are alike every resample gives the score itself."""
    ids = []
    scores = []
    for number in range(5):
        ids += [f"tied:{number}", f"ref:{number}"]
        scores.append(RowScores(torch.tensor([3.0, 2.0]), torch.tensor([1.5])))
        scores.append(RowScores(torch.tensor([4.0]), torch.tensor([0.0])))
    wanted = ties_score(ids, scores)["score"]
    assert resampled_ties(ids, scores).unique().tolist() == pytest.approx([wanted] * 1, abs=1e-9)
    scores[0] = RowScores(torch.tensor([0.0, 1.0]), torch.tensor([1.5]))
    drawn = resampled_ties(ids, scores)
    assert drawn.mean().item() == pytest.approx(ties_score(ids, scores)["score"], abs=0.03)
    assert drawn.std() > 0.05


def test_a_bootstrap_draws_prompts_whole():
    """Two prompts of 50 rows each are two units, not a hundred."""
    values = torch.cat([torch.ones(50), torch.zeros(50)])
    prompts = torch.arange(100) // 50
    assert resampled_means(values, prompts).unique().tolist() == [0.0, 0.5, 1.0]
    figure = share(values, prompts)
    assert figure["bootstrap"] == [0.0, 1.0]
    assert (figure["count"], figure["prompts"]) == (100, 2)
    assert figure["high"] - figure["low"] > 0.8, "Wilson's interval of two units"
    alone = share(values, torch.arange(100))
    assert alone["high"] - alone["low"] < 0.2
    chunks = resampled_means(values, prompts, resamples=7, at_once=4)
    assert chunks.shape == (7,)


def test_calibration_of_probabilities_that_are_right_as_often_as_they_say():
    """Leads of ±log 3: P = 3/4, and three of four are right."""
    leads = torch.tensor([1.0, 1.0, 1.0, -1.0], dtype=torch.float64) * math.log(3)
    figures = calibration_figures(Pairs(leads, torch.arange(4), leads, leads))
    assert figures["error"] == pytest.approx(0, abs=1e-12)
    assert figures["scale"] == pytest.approx(1)
    loss = -(3 * math.log(0.75) + math.log(0.25)) / 4
    assert figures["log_loss"] == pytest.approx(loss)
    sure = calibration_figures(Pairs(10 * leads, torch.arange(4), leads, leads))
    assert sure["scale"] == pytest.approx(0.1)
    assert sure["error"] == pytest.approx(0.25, abs=1e-4)


def test_the_best_scale_is_the_least_loss_and_has_its_limits():
    leads = torch.randn(50, generator=torch.Generator().manual_seed(0)).double() + 0.3
    best = best_scale(leads)
    loss = [
        torch.nn.functional.softplus(-s * leads).mean() for s in (best, 0.99 * best, 1.01 * best)
    ]
    assert loss[0] < min(loss[1:])
    assert best_scale(leads.abs()) is None
    assert best_scale(-leads.abs()) == best_scale(torch.zeros(3).double()) == 0


def test_accuracy_by_length():
    """Right answers of 1, 4, 10, 10 and 30 words against 10; the longer is right in 1 of 3."""
    right = torch.tensor([1.0, 4.0, 10.0, 10.0, 30.0]).double()
    leads = torch.tensor([-1.0, 1.0, 1.0, 0.0, 1.0]).double()
    figures = length_figures(Pairs(leads, torch.arange(5), right, torch.full_like(right, 10.0)))
    means = {name: figure["mean"] for name, figure in figures["bins"].items()}
    wanted = {
        "right answer under half as long": 0.5,
        "about as long": 0.75,
        "over twice as long": 1,
    }
    assert means == wanted
    assert figures["prefers_longer"]["mean"] == pytest.approx(2 / 3)
    assert figures["longer_is_right"]["mean"] == pytest.approx(1 / 3)
    same = length_figures(Pairs(leads, torch.arange(5), right, right))
    assert same["prefers_longer"] is None


WORDS = "One two three four. Five six seven eight. Nine ten."


def test_edits_keep_what_the_text_says():
    for edit in NAMED_EDITS:
        edited = edit.edit(WORDS)
        words = set(WORDS.split())
        if edit.wanted == "none":
            assert words <= set(edited.split()), edit.name
        else:
            assert WORDS.startswith(edited)
    code = "Do:\n```\na = 1\n\n    b = 2\n```\nIt works. Yes."
    assert list_form(code) == code
    assert doubled_spaces("a\n    b c") == "a\n    b  c"
    assert cut_off_end("a b c d") == "a b c d"
    assert cut_off_end("a b\n\nc d e") == "a b\n\nc d"


def audited(reward, rows, **options):
    scored = score_file(reward, BenchmarkFile("f", "preferences", rows, {}))
    return bias_audit(reward, scored.file.rows, scored.scores, **options)


TEXT_ROWS = [BenchRow(f"p{n}", [WORDS], ["no no"], False, "all", n) for n in range(6)]


def test_effects_are_in_deviations_within_prompts_by_hand():
    """Length: 10 words against 2, so the pooled deviation is √(6·(4²+4²)/(12 - 6)) = √32."""
    audit = audited(Length(), TEXT_ROWS)
    unit = math.sqrt(32)
    assert audit["deviation"] == pytest.approx(unit)
    edits = audit["edits"]
    assert edits["doubled spaces"]["mean"] == 0
    assert edits["list form"]["mean"] == pytest.approx(3 / unit)
    assert edits["cut-off end"]["mean"] == pytest.approx(-2 / unit)
    flattery = len(FLATTERY.split())
    assert edits["flattering opening"]["mean"] == pytest.approx(flattery / unit, rel=1e-6)
    assert edits["flattering opening"]["words"] == flattery
    assert edits["list form"]["raised"]["mean"] == 1
    assert edits["list form"]["verdict"] == "rewarded"
    assert edits["cut-off end"]["verdict"] == "lowered, as wanted"
    assert edits["doubled spaces"]["verdict"] == "no effect seen"


def likes_praise(samples):
    """A reward with noise of its own that is fooled by praise alone."""
    generator = torch.Generator().manual_seed(0)
    noise = 0.1 * torch.randn(len(samples), generator=generator)
    noise -= noise.mean()
    praise = torch.tensor(["brilliant" in text for text in samples.outputs])
    right = torch.tensor(["two" in text for text in samples.outputs])
    return praise.float() + right.float() + noise


def test_a_reward_that_likes_praise_is_found_and_nothing_else():
    rows = [BenchRow(f"p{n}", [WORDS], ["no no"], False, "all", n) for n in range(60)]
    audit = audited(Function(likes_praise), rows)
    found = {name for name, figure in audit["edits"].items() if figure["verdict"] == "rewarded"}
    assert found == {"flattering opening"}
    assert audit["edits"]["cut-off end"]["verdict"] == "not noticed"
    effect = audit["edits"]["flattering opening"]
    assert effect["low"] < 1 / audit["deviation"] < effect["high"]


def test_an_audit_takes_one_answer_a_prompt_and_says_what_does_not_apply():
    rows = TEXT_ROWS + TEXT_ROWS
    scored = score_file(Length(), BenchmarkFile("f", "preferences", rows, {}))
    answers = reference_answers(scored.file.rows, scored.scores, 4, 0)
    assert len(answers.prompts) == len(set(answers.prompts)) == 4
    assert answers.scores.tolist() == [10.0] * 4
    short = [BenchRow(f"p{n}", ["yes"], ["no"], False, "all", n) for n in range(3)]
    audit = audited(Length(), short)
    assert audit["edits"]["list form"]["verdict"] == "too few"
    assert audit["edits"]["list form"]["unchanged"] == 3
    assert audit["edits"]["hedging"]["verdict"] == "scores never differ"
    assert (
        reference_deviation(short, score_file(Length(), BenchmarkFile("f", "x", short, {})).scores)
        == 0
    )
    with pytest.raises(InputError, match="at least 2 prompts"):
        audited(Length(), short, count=1)


def test_an_answer_without_a_number_is_still_refused():
    def broken(samples):
        return torch.full((len(samples),), torch.nan)

    with pytest.raises(InputError, match="gave a score of nan"):
        score_file(Function(broken), BenchmarkFile("f", "preferences", TEXT_ROWS, {}))


def test_answers_that_a_reward_does_not_score_leave_their_rows_out_with_a_sentence(caplog):
    rows = [row(f"{n}?", [str(n)], ["-1"], row_id=n) for n in (1, 2, 3)]
    rows[1] = row("2?", ["nan"], ["-1"], row_id=2)
    file = BenchmarkFile("pairs.jsonl", "preferences", rows, {})
    scored = score_file(Tolerant(Function(value_in), most_unscored=0.5), file)
    assert (len(scored.scores), scored.unscored) == (2, [2])
    assert benchmark_figures(scored)["rows"] == 2
    [said] = [record.getMessage() for record in caplog.records]
    assert said.startswith(
        "1 of 6 answers in pairs.jsonl are not scored and are left out; the first: "
    )
    with pytest.raises(InputError, match="nan"):  # without Tolerant it ends the command
        score_file(Function(value_in), file)
    nothing = file._replace(rows=[rows[1]])
    with pytest.raises(InputError, match=r"No row of pairs\.jsonl could be scored"):
        score_file(Tolerant(Function(value_in), most_unscored=1), nothing)
