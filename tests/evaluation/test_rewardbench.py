"""Accuracy on files of RewardBench's form: subsets, sections, and broken rows."""

import json
import math

import numpy as np
import pytest
import torch

from rewardlab.conversations import Conversation, Message
from rewardlab.errors import InputError
from rewardlab.evaluation.rewardbench import SECTIONS, evaluate, read_rewardbench, section_scores
from rewardlab.evaluation.rewardbench2 import SUBSETS
from rewardlab.rewards import Ensemble, Function


def value_in(samples):
    """A reward that reads its score from the text."""
    return torch.tensor([float(text) for text in samples.outputs])


def write(path, rows):
    path.write_text("\n".join(json.dumps(row) for row in rows) + "\n", encoding="utf-8")
    return path


def row(number, subset, chosen, rejected):
    return {
        "prompt": "p",
        "chosen": str(chosen),
        "rejected": str(rejected),
        "subset": subset,
        "id": number,
    }


ROWS = [
    row(0, "llmbar-natural", 2, 1),
    row(1, "llmbar-natural", 1, 2),
    row(2, "llmbar-natural", 1, 1),
    row(3, "mt-bench-hard", 2, 1),
    row(4, "math-prm", 0, 1),
    row(5, "hep-go", 1, 0),
    row("x", "mine", 1, 0),
]


def test_the_table_is_that_of_the_benchmark():
    """2,985 pairs, of which math-prm's 447 count as much as the six languages of code together."""
    sizes = {section: sum(weights.values()) for section, weights in SECTIONS.items()}
    assert sizes == {"Chat": 358, "Chat Hard": 456, "Safety": 740, "Reasoning": 984 * 2}
    assert sum(sizes.values()) - 984 + 447 == 2985
    reasoning = SECTIONS["Reasoning"]
    code = sum(weight for name, weight in reasoning.items() if name.startswith("hep-"))
    assert code == 984


def test_accuracies_by_subset_and_section(tmp_path):
    figures = evaluate(Function(value_in), write(tmp_path / "bench.jsonl", ROWS))
    subsets = figures["subsets"]
    sections = figures["sections"]
    assert subsets["llmbar-natural"]["accuracy"] == 0.5
    assert subsets["llmbar-natural"]["count"] == 3
    assert subsets["mine"]["accuracy"] == 1
    assert sections["Chat Hard"]["score"] == pytest.approx((100 * 0.5 + 37) / 137)
    assert sections["Reasoning"]["score"] == pytest.approx(164 / (984 + 164))
    assert "llmbar-adver-manual" in sections["Chat Hard"]["missing"]
    assert set(sections) == {"Chat Hard", "Reasoning"}
    assert figures["score"] is None
    assert figures["accuracy"] == pytest.approx(4.5 / 7)
    json.dumps(figures, allow_nan=False)


def test_rows_are_those_that_the_benchmarks_tools_read(tmp_path):
    rows = evaluate(Function(value_in), write(tmp_path / "bench.jsonl", ROWS))["rows"]
    assert len(rows) == len(ROWS)
    assert rows[0] == {
        "id": 0,
        "subset": "llmbar-natural",
        "scores_chosen": 2.0,
        "scores_rejected": 1.0,
    }
    assert rows[-1]["id"] == "x"


def test_a_whole_file_has_a_score_which_is_the_mean_of_sections(tmp_path):
    rows = []
    for section, weights in SECTIONS.items():
        chosen = float(section == "Safety")
        rows += [row(name, name, chosen, 0.5) for name in weights]
    reward = Ensemble([Function(value_in), Function(value_in)])
    figures = evaluate(reward, write(tmp_path / "bench.jsonl", rows))
    scores = {name: section["score"] for name, section in figures["sections"].items()}
    assert scores == {"Chat": 0, "Chat Hard": 0, "Safety": 1, "Reasoning": 0}
    assert figures["score"] == 0.25


def test_a_section_without_subsets_is_left_out():
    assert section_scores({"mine": 1.0}) == {}


def test_rows_without_subset_or_id_have_defaults(tmp_path):
    path = write(tmp_path / "bench.jsonl", [{"prompt": "p", "chosen": "1", "rejected": "0"}])
    benchmark = read_rewardbench(path)
    assert benchmark.subsets == ["all"]
    assert benchmark.ids == [0]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "holds no pairs"),
        ('{"prompt": "p", "chosen": "1"}\n', "row 1 has no string rejected"),
        ('{"prompt": "p", "chosen": ["1"], "rejected": "0"}\n', "row 1 has no string chosen"),
        ('{"prompt": \n', "line 1 is not JSON"),
    ],
)
def test_broken_files_are_named(tmp_path, text, message):
    path = tmp_path / "bench.jsonl"
    path.write_text(text)
    with pytest.raises(InputError, match=message):
        evaluate(Function(value_in), path)


def test_messages_are_read_as_conversations(tmp_path):
    ask = {"role": "user", "content": "2+2?"}
    system = {"role": "system", "content": "Be brief."}
    four = {"role": "assistant", "content": "4"}
    five = {"role": "assistant", "content": "5"}
    rows = [
        {"prompt": [system, ask], "chosen": "4", "rejected": "5"},
        {"prompt": [system, ask], "chosen": [four], "rejected": [five]},
        {"chosen": [system, ask, four], "rejected": [system, ask, five]},
        {"prompt": "2+2?", "chosen": [ask, four], "rejected": [ask, five]},
    ]
    talk = Conversation((Message("system", "Be brief."), Message("user", "2+2?")))
    pairs = read_rewardbench(write(tmp_path / "bench.jsonl", rows)).pairs
    assert pairs.chosen.prompts == [talk, talk, talk, "2+2?"]
    assert (pairs.chosen.outputs, pairs.rejected.outputs) == (["4"] * 4, ["5"] * 4)
    other = [{**rows[2], "rejected": [ask, five]}]
    with pytest.raises(InputError, match="row 1 has another prompt for one answer"):
        read_rewardbench(write(tmp_path / "other.jsonl", other))


def best_of(subset, row_id, chosen, rejected, **more):
    return {
        "prompt": "p",
        "chosen": [str(score) for score in chosen],
        "rejected": [str(score) for score in rejected],
        "num_correct": len(chosen),
        "subset": subset,
        "id": row_id,
        **more,
    }


def test_version_2_counts_the_best_of_four_and_shares_ties(tmp_path):
    rows = [
        best_of("Math", "0", [2], [1, 0, -1]),
        best_of("Math", "1", [2], [2, 0, 2]),
        best_of("Math", "2", [2], [3, 0, -1]),
        best_of("Focus", "3", [2], [1, 0, -1]),
    ]
    figures = evaluate(Function(value_in), write(tmp_path / "bench.jsonl", rows))
    assert figures["subsets"]["Math"]["accuracy"] == pytest.approx((1 + 1 / 3) / 3)
    assert figures["subsets"]["Focus"]["accuracy"] == 1
    assert figures["accuracy"] == pytest.approx((2 + 1 / 3) / 4)
    assert figures["score"] is None
    assert figures["rows"][1]["scores"] == [2, 2, 0, 2]
    json.dumps(figures, allow_nan=False)
    with pytest.raises(InputError, match="row 1 has 1 chosen and 3 rejected answers"):
        read_rewardbench(tmp_path / "bench.jsonl")


def test_ties_of_version_2_are_those_of_the_formula(tmp_path):
    """Against numpy, step by step as the paper's appendix writes it."""
    draw = np.random.default_rng(0)
    rows = []
    for number in range(40):
        right = np.round(draw.normal(1.5, 0.5, draw.integers(1, 5)), 2)
        wrong = np.round(draw.normal(0, 0.5, draw.integers(1, 6)), 2)
        rows.append(best_of("Ties", f"tied:{number}", right, wrong))
        if number % 5:
            rows.append(best_of("Ties", f"ref:{number}", right[:1], wrong + number % 3 / 2))
    path = write(tmp_path / "bench.jsonl", rows)
    figures = evaluate(Function(value_in), path)["subsets"]["Ties"]
    leads = {}
    spreads = {}
    for tie in rows:
        right = np.array(list(map(float, tie["chosen"])), np.float32)
        wrong = np.array(list(map(float, tie["rejected"])), np.float32)
        leads[tie["id"]] = float(right.min()) - float(wrong.max())
        spreads[tie["id"]] = float(right.max()) - float(right.min())
    numbers = [number for number in range(40) if number % 5]
    lead = np.array([leads[f"tied:{number}"] for number in numbers])
    ref = np.array([leads[f"ref:{number}"] for number in numbers])
    spread = np.array([spreads[f"tied:{number}"] for number in numbers])
    with np.errstate(divide="ignore", invalid="ignore"):
        margin = np.nan_to_num(np.tanh(np.minimum(lead, ref) / spread - 1), nan=0.0).mean()
    wanted = 0.3 * np.mean([leads[f"tied:{number}"] > 0 for number in range(40)])
    wanted += 0.3 * (ref > 0).mean() + 0.2 * (lead > spread).mean()
    wanted += 0.2 * (np.minimum(lead, ref) > spread).mean() + 0.01 * margin
    assert figures["score"] == pytest.approx(wanted, abs=1e-9)
    assert figures["count"] == 72


def test_version_2_has_a_score_where_all_six_subsets_are_there(tmp_path):
    rows = [best_of(name, "0", [1], [0, 0, 0]) for name in SUBSETS if name != "Ties"]
    rows += [best_of("Ties", "tied:1", [3, 2], [0]), best_of("Ties", "ref:1", [4], [0])]
    figures = evaluate(Function(value_in), write(tmp_path / "bench.jsonl", rows))
    assert figures["score"] == pytest.approx((5 + 1 + 0.01 * math.tanh(1)) / 6)
    rows[-1]["id"] = 7
    with pytest.raises(InputError, match='"tied:7" or "ref:7"; got 7'):
        evaluate(Function(value_in), write(tmp_path / "bench.jsonl", rows))
