"""Files of benchmarks: told by their columns, and read as right and wrong answers."""

import json
import math

import pytest
import torch

from rewardlab.errors import InputError
from rewardlab.evaluation import benchmark_figures, read_benchmark, score_file
from rewardlab.rewards import Length
from rewardlab.storage.samples import save_pairs
from rewardlab.types import PreferencePairs, Samples


def write(path, rows):
    text = json.dumps(rows) if path.suffix == ".json" else "\n".join(map(json.dumps, rows))
    path.write_text(text, encoding="utf-8")
    return path


PAIR = {"prompt": "p", "chosen": "a", "rejected": "b"}
JUDGED = {
    "pair_id": "x",
    "source": "livebench-math",
    "question": "q",
    "response_model": "m",
    "response_A": "good",
    "response_B": "bad",
    "label": "A>B",
}
VOTED = {
    "idx": 3,
    "motivation_app": "Grammarly",
    "instruction": "do",
    "input": math.nan,
    "response1": "bad",
    "response2": "good",
    "annotator1": 2,
    "annotator2": 0,
    "annotator3": 2,
}
LABELED = {"input": "q", "output_1": "bad", "output_2": "good", "label": 2}
STYLES = {"id": "c/1", "prompt": "p", "chosen": ["a"] * 3, "rejected": ["b"] * 3, "domain": "chat"}
BEST = {"id": "1", "prompt": "p", "chosen": ["a"], "rejected": ["b", "c", "d"], "subset": "Math"}


@pytest.mark.parametrize(
    ("form", "row", "subset"),
    [
        ("preferences", PAIR, "all"),
        ("preferences", {**PAIR, "subset": "mine"}, "mine"),
        ("rewardbench", {**PAIR, "subset": "hep-go", "id": 1}, "hep-go"),
        ("rewardbench2", BEST, "Math"),
        ("rm-bench", STYLES, "chat"),
        ("judgebench", JUDGED, "Math"),
        ("pandalm", VOTED, "Grammarly"),
        ("llmbar", LABELED, "all"),
    ],
)
def test_a_form_is_told_by_its_columns(tmp_path, form, row, subset):
    file = read_benchmark(write(tmp_path / "rows.json", [row]))
    assert (file.form, file.rows[0].subset, file.left_out) == (form, subset, {})
    if form in ("judgebench", "pandalm", "llmbar"):
        assert (file.rows[0].chosen, file.rows[0].rejected) == (["good"], ["bad"])


def test_three_wrong_and_three_right_answers_of_version_2_are_no_matrix(tmp_path):
    row = {**BEST, "subset": "Ties", "id": "tied:1", "chosen": ["a"] * 3, "rejected": ["b"] * 3}
    assert read_benchmark(write(tmp_path / "rows.json", [row])).form == "rewardbench2"


def test_the_sides_of_a_judged_pair_are_exchanged_by_its_label(tmp_path):
    other = {**JUDGED, "response_A": "bad", "response_B": "good", "label": "B>A"}
    rows = read_benchmark(write(tmp_path / "rows.jsonl", [JUDGED, other])).rows
    assert rows[0].chosen == rows[1].chosen == ["good"]


def test_most_annotators_decide_and_equal_ones_are_counted(tmp_path):
    """Votes 2, 0, 2 decide; 1, 0, 2 and 0, 0, 1 do not. An input of NaN is none."""
    parted = {**VOTED, "annotator1": 1}
    equal = {**VOTED, "annotator1": 0, "annotator3": 1}
    given = {**VOTED, "input": "this"}
    file = read_benchmark(write(tmp_path / "rows.json", [VOTED, parted, equal, given]))
    assert file.left_out == {"called equal": 2}
    assert [row.prompt for row in file.rows] == ["do", "do\n\nthis"]
    assert file.rows[0].row_id == 3


def test_rows_that_cannot_be_used_are_left_out_up_to_a_tenth(tmp_path, caplog):
    """PandaLM's own file has 6 of 999 answers that are true or false in JSON, not texts."""
    broken = {**VOTED, "response1": True}
    file = read_benchmark(write(tmp_path / "rows.json", [*[VOTED] * 9, broken]))
    assert (len(file.rows), file.left_out) == (9, {"unusable": 1})
    assert "1 of 10 rows cannot be used and are left out; the first: object 10" in caplog.text
    with pytest.raises(InputError, match=r"object 9.*2 of 10 rows are not"):
        read_benchmark(write(tmp_path / "more.json", [*[VOTED] * 8, broken, broken]))


def test_labels_of_preferences_turn_pairs_and_leave_ties_out(tmp_path):
    rows = [{**PAIR, "label": label} for label in (1.0, 0.2, 0.5)]
    file = read_benchmark(write(tmp_path / "rows.jsonl", rows))
    assert [row.chosen for row in file.rows] == [["a"], ["b"]]
    assert file.left_out == {"called equal": 1}


def test_what_is_no_pair_is_counted(tmp_path):
    rows = [PAIR, {"prompt": "p", "chosen": "a"}, {**PAIR, "rejected": "a"}]
    assert read_benchmark(write(tmp_path / "rows.jsonl", rows)).left_out == {"unusable": 2}


def test_a_table_and_conversations_are_read(tmp_path):
    (tmp_path / "judged.csv").write_text(
        'question,response_A,response_B,label,source\nq,good,bad,A>B,mmlu-pro-law\n"a, b",bad,good,B>A,x\n'
    )
    file = read_benchmark(tmp_path / "judged.csv")
    assert [(row.prompt, row.chosen, row.subset) for row in file.rows] == [
        ("q", ["good"], "Knowledge"),
        ("a, b", ["good"], "x"),
    ]
    ask = {"role": "user", "content": "q"}
    row = {name: [ask, {"role": "assistant", "content": name}] for name in ("chosen", "rejected")}
    [talk] = read_benchmark(write(tmp_path / "talks.jsonl", [row])).rows
    assert (talk.prompt, talk.chosen, talk.rejected) == ("q", ["chosen"], ["rejected"])


@pytest.mark.parametrize(
    ("rows", "sentence"),
    [
        ([], "holds no rows. Give a file of a benchmark"),
        ([{"text": "a", "score": 1}], "of no form that `evaluate` knows.*columns score, text"),
        ([{"prompt": "p", "chosen": "a"}], 'without "rejected"'),
        ([{**BEST, "rejected": None}], "row 1 has no string chosen and rejected"),
        ([JUDGED, {**JUDGED, "label": None}], 'has no "label". A row of JudgeBench should be'),
        ([{**JUDGED, "label": "A"}], "has the label 'A', not"),
        ([{**LABELED, "label": 3}], "has the label '3', not 1 or 2"),
        ([{**LABELED, "output_1": 7}], 'has a "output_1" that is no text'),
        ([{**LABELED, "label": 0}], "no pair that is decided"),
        ([{**PAIR, "label": 0.5}], "no pair that is decided"),
        ([{**LABELED, "input": "\ud800"}], "half a surrogate pair"),
        ([{"instruction": "a", "response1": "b", "response2": "c"}], 'has no "annotator1"'),
    ],
)
def test_bad_files_are_refused_in_a_sentence(tmp_path, rows, sentence):
    with pytest.raises(InputError, match=sentence):
        read_benchmark(write(tmp_path / "rows.json", rows))


def test_broken_missing_and_pictures_are_refused(tmp_path):
    (tmp_path / "broken.jsonl").write_text(json.dumps(LABELED) + '\n{"input"')
    with pytest.raises(InputError, match="line 2 is not JSON"):
        read_benchmark(tmp_path / "broken.jsonl")
    (tmp_path / "words.txt").write_text("no rows at all\n")
    with pytest.raises(InputError, match="1 lines that are no rows"):
        read_benchmark(tmp_path / "words.txt")
    with pytest.raises(InputError, match=r"does not exist\. Give a local file"):
        read_benchmark(tmp_path / "none.jsonl")
    pictures = Samples(["a"], torch.rand(1, 3, 8, 8))
    save_pairs(tmp_path / "pairs", PreferencePairs(pictures, pictures))
    with pytest.raises(InputError, match="holds pairs of pictures"):
        read_benchmark(tmp_path / "pairs")


ODD = [None, 7, math.nan, True, "", [], {}, ["x"], [["x"]], {"a": 1}, "A>B", "\ud800", [None], [7]]


@pytest.mark.parametrize(
    "row", [PAIR, JUDGED, VOTED, LABELED, STYLES, BEST], ids=lambda row: len(row)
)
def test_whatever_stands_in_a_cell_is_read_or_refused_in_a_sentence(tmp_path, row):
    """Every column in turn holds every odd value; what is read is scored and has figures."""
    sentences = []
    for name in row:
        for value in ODD:
            path = write(tmp_path / "rows.json", [{**row, name: value}, row])
            try:
                scored = score_file(Length(), read_benchmark(path))
            except InputError as error:
                sentences.append(str(error))
                continue
            assert scored.file.rows
        figures = benchmark_figures(scored)
        assert 0 <= figures["headline"]["mean"] <= 1
        json.dumps(figures, allow_nan=False)
    assert sentences
    assert all(str(tmp_path) in sentence for sentence in sentences)
