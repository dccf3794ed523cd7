"""Accuracy on files of RewardBench's form: subsets, sections, and broken rows."""

import json

import pytest
import torch

from rewardlab.errors import InputError
from rewardlab.evaluation.rewardbench import SECTIONS, evaluate, read_rewardbench, section_scores
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
