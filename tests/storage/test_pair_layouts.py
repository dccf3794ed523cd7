"""Every layout of preference pairs is told by its columns, read, and kept apart from the others.

The examples are those of the guide: each says that to "2+2?" the answer "4" is better than "5".
"""

import json
import re
from pathlib import Path

import numpy as np
import pytest

from rewardlab.conversations import Conversation, Message
from rewardlab.data import Preferences
from rewardlab.data.splits import prompt_key
from rewardlab.errors import InputError
from rewardlab.evaluation import read_benchmark
from rewardlab.storage import read_preferences
from rewardlab.storage.exchanges import UnusableError
from rewardlab.storage.pair_layouts import LAYOUTS, laid_out
from rewardlab.storage.pair_rows import parse_pair
from rewardlab.storage.preferences import read_pair_file
from rewardlab.storage.records import Record

GUIDE = Path(__file__).parents[2] / "docs/guide/data.md"
ROW = re.compile(r"^\| `([\w -]+)` \| (.+?) \| .*\|$", re.MULTILINE)


def guide_examples():
    """Return each row of the guide's table of layouts: its name and its example's rows."""
    table = GUIDE.read_text(encoding="utf-8").split("## Layouts")[1].split("\n## ")[0]
    examples = []
    for name, cell in ROW.findall(table):
        examples.append((name, [json.loads(text) for text in re.findall(r"`([^`]+)`", cell)]))
    return examples


EXAMPLES = guide_examples()
IDS = [f"{name}-{number}" for number, (name, _) in enumerate(EXAMPLES)]


def user(text):
    return {"role": "user", "content": text}


def says(text):
    return {"role": "assistant", "content": text}


def write(path, *rows):
    path.write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    return path


def question(prompt):
    """Return the last thing that a prompt says, without the marks of a dialogue."""
    text = prompt.messages[-1].content if isinstance(prompt, Conversation) else prompt
    return text.replace("Human:", "").replace("Assistant:", "").strip()


def assert_four(pairs):
    assert {question(prompt) for prompt in pairs.chosen.prompts} == {"2+2?"}
    assert {text.strip() for text in pairs.chosen.outputs} == {"4"}
    assert {text.strip() for text in pairs.rejected.outputs} == {"5"}


def test_the_guide_shows_every_layout():
    assert {name for name, _ in EXAMPLES} == LAYOUTS.keys() - {"text lines"}
    assert len(EXAMPLES) == 22


@pytest.mark.parametrize(("name", "rows"), EXAMPLES, ids=IDS)
def test_an_example_of_the_guide_is_read_as_it_says(tmp_path, name, rows):
    file = read_pair_file(write(tmp_path / "a.jsonl", *rows), strict=True)
    assert file.layouts == {name: len(rows)}
    assert_four(file.pairs)
    capitals = [{key.capitalize(): value for key, value in row.items()} for row in rows]
    assert read_preferences(write(tmp_path / "b.jsonl", *capitals)) == file.pairs
    assert {row.chosen[0].strip() for row in read_benchmark(tmp_path / "a.jsonl").rows} == {"4"}


@pytest.mark.parametrize(("name", "rows"), EXAMPLES, ids=IDS)
def test_tables_hold_the_same_pairs(tmp_path, name, rows):
    """A parquet table; a folder of datasets; and parquet of pandas, whose cells are arrays."""
    import datasets
    import pandas

    wanted = read_preferences(write(tmp_path / "a.jsonl", *rows))
    pandas.DataFrame(rows).to_parquet(tmp_path / "a.parquet")
    assert read_preferences(tmp_path / "a.parquet", strict=True) == wanted
    frame = pandas.read_parquet(tmp_path / "a.parquet")
    frame.to_parquet(tmp_path / "arrays.parquet")
    assert read_preferences(tmp_path / "arrays.parquet", strict=True) == wanted
    if len(rows) > 1 or name in ("dialogues", "messages", "ranked completions"):
        datasets.Dataset.from_list(rows).save_to_disk(str(tmp_path / "folder"))
        assert read_preferences(tmp_path / "folder", strict=True) == wanted


@pytest.mark.parametrize(("name", "rows"), EXAMPLES, ids=IDS)
def test_no_prompt_is_on_both_sides_of_the_split(tmp_path, name, rows):
    """Each prompt comes in two spellings; held_out_by=prompts keeps both on one side."""
    many = []
    for number in range(12):
        for spelling in (f"{number}+2?", f" {number}+2?  "):
            for row in rows:
                many.append(json.loads(json.dumps(row).replace("2+2?", spelling)))
    path = write(tmp_path / "a.jsonl", *many)
    data = Preferences(path, held_out=0.3, held_out_by="prompts")
    train, held_out = data.split("train"), data.split("held_out")
    sides = [{prompt_key(prompt) for prompt in part.chosen.prompts} for part in (train, held_out)]
    assert min(map(len, sides)) > 0
    assert sides[0].isdisjoint(sides[1])
    assert len(sides[0] | sides[1]) == 12


def test_pandas_writes_arrays_of_messages_to_csv_without_commas(tmp_path):
    import pandas

    talk = [user("it's } {\n'2'"), says('{"a": 1} {')]
    rows = [{"chosen": np.array(talk), "rejected": np.array([talk[0], says("no")])}]
    pandas.DataFrame(rows).to_csv(tmp_path / "a.csv", index=False)
    assert "}, {" not in (tmp_path / "a.csv").read_text()
    file = read_pair_file(tmp_path / "a.csv", strict=True)
    assert file.layouts == {"messages": 1}
    assert file.pairs.chosen.prompts == ["it's } {\n'2'"]
    assert file.pairs.chosen.outputs == ['{"a": 1} {']


def test_messages_as_texts_are_read_where_a_whole_column_holds_them(tmp_path):
    talk = json.dumps([says("4")])
    row = {"prompt": "2+2?", "chosen": talk, "rejected": json.dumps([says("5")])}
    assert_four(read_preferences(write(tmp_path / "a.jsonl", row)))
    pairs = read_preferences(write(tmp_path / "b.jsonl", row, {**row, "chosen": "four"}))
    assert pairs.chosen.outputs == [talk, "four"]


def test_columns_of_messages_are_messages(tmp_path):
    chosen = {"role": ["user", "assistant"], "content": ["2+2?", "4"]}
    rejected = {"role": ["user", "assistant"], "content": ["2+2?", "5"]}
    row = {"chosen": chosen, "rejected": rejected}
    assert_four(read_preferences(write(tmp_path / "a.jsonl", row)))


@pytest.mark.parametrize(
    "row",
    [
        {"system": "Be brief.", "prompt": "2+2?", "chosen": "4", "rejected": "5"},
        {"system_prompt": "Be brief.", "prompt": [user("2+2?")], "chosen": "4", "rejected": "5"},
        {
            "system": "Be brief.",
            "chosen": [user("2+2?"), says("4")],
            "rejected": [user("2+2?"), says("5")],
        },
        {
            "system": "Be another.",
            "prompt": [{"role": "system", "content": "Be brief."}, user("2+2?")],
            "chosen": [says("4")],
            "rejected": [says("5")],
        },
    ],
)
def test_a_systems_message_begins_the_prompt_once(tmp_path, row):
    pairs = read_preferences(write(tmp_path / "a.jsonl", row), strict=True)
    turns = (Message("system", "Be brief."), Message("user", "2+2?"))
    assert pairs.chosen.prompts == [Conversation(turns)]
    assert_four(pairs)


def rated(*ratings):
    return [{"response": f"answer {n}", "annotations": rating} for n, rating in enumerate(ratings)]


def test_ratings_order_completions_and_equal_ones_make_no_pair(tmp_path):
    """By the mean of the aspects that have a number, whatever overall_score says."""
    aspects = [
        {"honesty": {"Rating": "2"}, "helpfulness": {"Rating": "N/A"}},
        {"honesty": {"Rating": "4"}, "helpfulness": {"Rating": "2"}},
        {"honesty": {"Rating": "3"}, "helpfulness": {"Rating": "3"}},
    ]
    completions = [{**item, "overall_score": 10 - n} for n, item in enumerate(rated(*aspects))]
    row = {"instruction": "2+2?", "completions": completions}
    file = read_pair_file(write(tmp_path / "a.jsonl", row), strict=True)
    answers = list(zip(file.pairs.chosen.outputs, file.pairs.rejected.outputs, strict=True))
    assert answers == [("answer 1", "answer 0"), ("answer 2", "answer 0")]
    assert file.equal == 1


def test_verdicts_of_equal_answers_are_counted(tmp_path, caplog):
    answers = {"prompt": "2+2?", "response_1": "5", "response_2": "4"}
    rows = [{**answers, "preference_strength": strength} for strength in (0, 1, 0)]
    file = read_pair_file(write(tmp_path / "a.jsonl", *rows), strict=True)
    assert (len(file.pairs), file.equal, file.rows) == (1, 2, 3)
    assert "2 pairs of answers" in caplog.text
    scored = {"prompt": "2+2?", "chosen": "4", "rejected": "5"}
    rows = [{**scored, "score_chosen": 5, "score_rejected": score} for score in (5, 4)]
    assert read_pair_file(write(tmp_path / "b.jsonl", *rows)).equal_scores == 1


def test_a_file_of_equal_answers_says_so(tmp_path):
    row = {"prompt": "2+2?", "response_1": "5", "response_2": "4", "preference_strength": 0}
    with pytest.raises(InputError, match="no pair that is decided: 2 pairs of answers are called"):
        read_preferences(write(tmp_path / "a.jsonl", row, row))


def test_rows_of_several_layouts_stand_in_one_file(tmp_path):
    whole = [example for number, (_, example) in enumerate(EXAMPLES) if number != 1]
    rows = [row for example in whole for row in example]
    file = read_pair_file(write(tmp_path / "a.jsonl", *rows), strict=True)
    assert sum(file.layouts.values()) == file.rows == len(rows)
    assert {text.strip() for text in file.pairs.rejected.outputs} == {"5"}


HALVES = {"chosen": "4", "rejected": "5"}


@pytest.mark.parametrize(
    ("row", "words"),
    [
        ({"question": "a", "context": "b", **HALVES}, 'which "question" and "context" may be'),
        ({"text": "Human: 2+2? Assistant: 4"}, 'one "text"; whether two lines are a pair'),
        ({"prompt": "a", "chosen": ["4"], "rejected": "5"}, "list of answers beside a single one"),
        (
            {"context": "a", "response1": "4", "response2": "5", "overall_preference": 4},
            "overall_preference '4', not from -3 to 3",
        ),
        (
            {
                "context": "a",
                "response1": "4",
                "response2": "5",
                "overall_preference": 1,
                "annotator1": 1,
            },
            "both PandaLM's annotators and HelpSteer3's",
        ),
        (
            {"prompt": "a", "completions": [{"rank": 0, "completion": "4", "response": "4"}] * 2},
            "both ranks .* and responses",
        ),
        (
            {"prompt": "a", "completions": [{"response": "4"}, {"response": "5"}]},
            "has no text, or no rank or rating",
        ),
        ({"prompt": "a", "completions": [{"response": "4"}]}, "a single completion"),
        (
            {"history": "a", "human_ref_A": "4", "human_ref_B": "5", "labels": 0.5},
            "has the labels 0.5, not 0 or 1",
        ),
        ({"completions": [{"response": "4"}] * 2}, 'with completions and without "instruction"'),
        ({"prompt": "a", "response": "4", "helpfulness": "much"}, '"helpfulness" is not a number'),
        ({"prompt": "a", "response": "4", "helpfulness": 3}, "only response to its prompt"),
        (
            {"prompt": "a", "chosen": '[{"role": "assistant", "content": "4', "rejected": "5"},
            "messages in a text that cannot be read",
        ),
        (
            {"prompt": "a", "chosen": "['4']", "rejected": "['5' '6']"},
            "with a list of answers in a text",
        ),
        (
            {
                "prompt": "a",
                "response_1": "4",
                "response_2": "5",
                "preference_strength": 1,
                "response_0": "3",
                "better_response_id": 0,
            },
            "fits the forms of HelpSteer2-Preference and PKU-SafeRLHF",
        ),
        (
            {
                "system": "Be brief.",
                "chosen": "\n\nHuman: a\n\nAssistant: b",
                "rejected": "\n\nHuman: a\n\nAssistant: c",
            },
            '"system" text beside a dialogue',
        ),
    ],
)
def test_what_cannot_be_told_is_refused_in_a_sentence(tmp_path, row, words):
    with pytest.raises(InputError, match=words):
        read_preferences(write(tmp_path / "a.jsonl", row))


ODD = [None, "", 5, float("nan"), True, [], {}, [[]], [None], [{}], ["a", 1], {"role": ["a"]}, "[{"]


def odd_rows(row):
    """Give a row with each of its cells left out, and replaced by each odd value."""
    for name in row:
        yield {key: value for key, value in row.items() if key != name}
        for value in ODD:
            yield {**row, name: value}


@pytest.mark.parametrize(("name", "rows"), EXAMPLES, ids=IDS)
def test_whatever_stands_in_a_cell_is_read_or_counted(name, rows):
    """The other row keeps its pair; of the odd one nothing but a reason or a pair comes out."""
    good = Record("good", {"prompt": "2+2?", "chosen": "4", "rejected": "5"})
    for row in odd_rows({"system": "Be brief.", **rows[0]}):
        laid = laid_out([good, Record("odd", row)])
        reasons = 0
        pairs = 0
        for record in laid.records:
            try:
                pairs += isinstance(parse_pair(record, False, "text").chosen, str)
            except UnusableError:
                reasons += 1
        assert pairs >= 1
        assert pairs + reasons + len(laid.unusable) + laid.equal >= 2
