"""Preference pairs are read from files; what is no pair is skipped, counted and named."""

import json
from datetime import datetime
from importlib import import_module

import pytest
import torch

from rewardlab import data, storage
from rewardlab.conversations import Conversation, Message
from rewardlab.errors import InputError
from rewardlab.storage import read_preferences, save_pairs
from rewardlab.types import PreferencePairs, Samples


def write(path, *rows):
    path.write_text(
        "\n".join(row if isinstance(row, str) else json.dumps(row) for row in rows),
        encoding="utf-8",
    )
    return path


def pair(number=0, **more):
    return {"prompt": f"p{number}", "chosen": f"good {number}", "rejected": f"bad {number}", **more}


def user(text):
    return {"role": "user", "content": text}


def says(text):
    return {"role": "assistant", "content": text}


def talk(*turns):
    return Conversation(tuple(Message(role, content) for role, content in turns))


@pytest.mark.parametrize(
    ("row", "prompt"),
    [
        ({"prompt": "hi", "chosen": "a", "rejected": "b"}, "hi"),
        ({"prompt": [user("hi")], "chosen": [says("a")], "rejected": [says("b")]}, "hi"),
        ({"chosen": [user("hi"), says("a")], "rejected": [user("hi"), says("b")]}, "hi"),
        ({"prompt": "hi", "chosen": [says("a")], "rejected": [says("b")]}, "hi"),
        ({"prompt": [user("hi")], "chosen": "a", "rejected": "b"}, "hi"),
        ({"prompt": "", "chosen": "a", "rejected": "b"}, ""),
        (
            {
                "prompt": [{"role": "system", "content": "Be kind."}, user("hi")],
                "chosen": [says("a")],
                "rejected": [says("b")],
            },
            talk(("system", "Be kind."), ("user", "hi")),
        ),
        (
            {
                "chosen": [user("1"), says("2"), user("3"), says("a")],
                "rejected": [user("1"), says("2"), user("3"), says("b")],
            },
            talk(("user", "1"), ("assistant", "2"), ("user", "3")),
        ),
    ],
)
def test_strings_and_messages_are_read(tmp_path, row, prompt):
    found = read_preferences(write(tmp_path / "pairs.jsonl", row))
    assert (list(found.chosen.prompts), found.chosen.outputs, found.rejected.outputs) == (
        [prompt],
        ["a"],
        ["b"],
    )


def test_margin_and_label_become_facts_where_a_line_has_them(tmp_path):
    found = read_preferences(
        write(
            tmp_path / "a.jsonl",
            pair(0),
            pair(1, margin=2),
            pair(2, label=0.5),
            pair(3, margin=None),
        )
    )
    assert found.chosen.facts["margin"].tolist() == [0, 2, 0, 0]
    assert found.chosen.facts["label"].tolist() == [1, 1, 0.5, 1]
    assert not read_preferences(write(tmp_path / "b.jsonl", pair())).chosen.facts


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ('{"prompt": "a", ', "not JSON"),
        ("[1]", "not an object"),
        ({"prompt": "a", "chosen": "b"}, 'without "rejected"'),
        ({"chosen": "b", "rejected": "c"}, 'without "prompt"'),
        ({}, 'without "prompt" and "chosen" and "rejected"'),
        (pair(rejected="good 0"), "identical chosen and rejected"),
        (pair(chosen=5), "neither a string nor a list"),
        (pair(margin="much"), '"margin" is not a number'),
        (pair(margin="1" * 400), '"margin" is not a number'),
        (pair(chosen=[user("another"), says("b")]), "another question than its prompt"),
        ({"chosen": [user("a"), says("b"), says("c")], "rejected": []}, "two of the assistant's"),
        ({"chosen": [{**says("b"), "tool_calls": [1]}], "rejected": []}, "calls of tools"),
        ('{"prompt": ' + "9" * 5000 + "}", "not JSON"),
        ("[" * 100_000, "not JSON"),
        (pair(margin=float("nan")), '"margin" is not a number'),
        (pair(label=1.5), '"label" is not a number from 0 to 1'),
        ('{"prompt": "a", "chosen": "\\ud800", "rejected": "b"}', "surrogate"),
        ({"chosen": [user("a"), says("b")], "rejected": [user("c"), says("d")]}, "another prompt"),
        (
            {"prompt": "a", "chosen": [user("b")], "rejected": [says("c")]},
            "do not end with the assistant's",
        ),
        (
            {"prompt": "a", "chosen": [{"role": "assistant"}], "rejected": [says("c")]},
            "messages that are not",
        ),
        ({"prompt": "a", "chosen": [], "rejected": []}, "do not end with the assistant's"),
    ],
)
def test_unusable_lines_are_skipped_counted_and_refused_if_strict(tmp_path, caplog, line, words):
    path = write(tmp_path / "pairs.jsonl", pair(0), "", line, pair(1))
    assert list(read_preferences(path).chosen.prompts) == ["p0", "p1"]
    assert "Skipped 1 of 3 lines" in caplog.text
    assert words in caplog.text
    assert "line 3" in caplog.text
    with pytest.raises(InputError, match=f"line 3 .*{words}"):
        read_preferences(path, strict=True)
    with pytest.raises(InputError, match=f"no preference pairs.*{words}"):
        read_preferences(write(tmp_path / "none.jsonl", line))


def test_equal_reasons_are_counted_together(tmp_path, caplog):
    read_preferences(
        write(tmp_path / "pairs.jsonl", "{", pair(0), "{", pair(1, rejected="good 1"), pair(2))
    )
    assert "Skipped 3 of 5 lines" in caplog.text
    assert "2 not JSON (the first: line 1), 1 with identical" in caplog.text


def test_empty_responses_are_kept_and_counted(tmp_path, caplog):
    path = write(tmp_path / "pairs.jsonl", pair(0, rejected=""), pair(1))
    assert read_preferences(path, strict=True).rejected.outputs == ["", "bad 1"]
    assert "1 of 2 pairs" in caplog.text


def test_files_that_cannot_be_read_are_refused(tmp_path):
    (tmp_path / "latin.jsonl").write_bytes(b'{"prompt": "a"}\n{"prompt": "\xe9"}')
    for path, words in (
        ("latin.jsonl", "line 2: byte 0xe9 is not UTF-8"),
        ("missing.jsonl", "cannot be read"),
    ):
        with pytest.raises(InputError, match=words):
            read_preferences(tmp_path / path)
    (tmp_path / "empty.jsonl").write_text("\n")
    with pytest.raises(InputError, match="no line at all"):
        read_preferences(tmp_path / "empty.jsonl")


def test_a_saved_folder_is_read(tmp_path):
    chosen = Samples(["p"] * 3, ["a", "b", "c"], {"margin": torch.tensor([0.0, 1.0, 2.0])})
    save_pairs(tmp_path / "pairs", PreferencePairs(chosen, Samples(["p"] * 3, ["x", "y", "z"])))
    assert read_preferences(tmp_path / "pairs").chosen.facts["margin"].tolist() == [0, 1, 2]


def test_data_hands_the_reader_on():
    assert data.read_preferences is storage.read_preferences


SYSTEM = {"role": "system", "content": "Be brief."}


@pytest.mark.parametrize(
    ("prompt", "before", "wanted"),
    [
        ("2+2?", [user("2+2?")], "2+2?"),
        ([user("2+2?")], [user("2+2?")], "2+2?"),
        ("2+2?\n", [user("2+2?")], "2+2?"),
        ("2+2?", [SYSTEM, user("2+2?")], talk(("system", "Be brief."), ("user", "2+2?"))),
        ([SYSTEM, user("2+2?")], [], talk(("system", "Be brief."), ("user", "2+2?"))),
        ([SYSTEM, user("2+2?")], [user("2+2?")], talk(("system", "Be brief."), ("user", "2+2?"))),
        ([user("2+2?")], [SYSTEM, user("2+2?")], talk(("system", "Be brief."), ("user", "2+2?"))),
        ([SYSTEM], [user("2+2?")], talk(("system", "Be brief."), ("user", "2+2?"))),
        (
            "hi",
            [user("hi"), says("hello"), user("2+2?")],
            talk(("user", "hi"), ("assistant", "hello"), ("user", "2+2?")),
        ),
        (
            "2+2?",
            [user("hi"), says("hello"), user("2+2?")],
            talk(("user", "hi"), ("assistant", "hello"), ("user", "2+2?")),
        ),
        (
            [user("hi"), says("hello"), user("2+2?")],
            [user("hi"), says("hello"), user("2+2?")],
            talk(("user", "hi"), ("assistant", "hello"), ("user", "2+2?")),
        ),
    ],
)
def test_a_prompt_that_the_messages_begin_with_is_taken_once(tmp_path, prompt, before, wanted):
    row = {"prompt": prompt, "chosen": [*before, says("4")], "rejected": [*before, says("5")]}
    found = read_preferences(write(tmp_path / "pairs.jsonl", row))
    assert found.chosen.prompts == [wanted]
    assert (found.chosen.outputs, found.rejected.outputs) == (["4"], ["5"])


def test_ultrafeedbacks_columns_do_not_double_the_prompt(tmp_path):
    messages = {"chosen": [user("2+2?"), says("4")], "rejected": [user("2+2?"), says("5")]}
    more = {"prompt_id": "a1", "messages": messages["chosen"], "score_chosen": 8.5}
    rows = [{"prompt": "2+2?", **messages, **more}, {"prompt": [user("2+2?")], **messages}]
    assert read_preferences(write(tmp_path / "a.jsonl", *rows)).chosen.prompts == ["2+2?"] * 2


DIALOGUES = [
    "\n\nHuman: hi\n\nAssistant:",
    "\n\nHuman: hi\n\nAssistant: hello\n\nHuman: 2+2?\n\nAssistant:",
    "Q: 2+2?\nA:",
    "### Instruction:\nAdd.\n\n### Response:\n",
    "<|im_start|>user\nhi<|im_end|>\n<|im_start|>assistant\n",
    "<s>[INST] 2+2? [/INST]",
    "<start_of_turn>user\n2+2?<end_of_turn>\n<start_of_turn>model\n",
    "A chat. USER: 2+2? ASSISTANT:",
]


@pytest.mark.parametrize("prompt", DIALOGUES)
@pytest.mark.parametrize("answers", [(" good ", " bad"), (" it is", " it is 4"), ("", " I am 4")])
def test_dialogues_without_a_prompt_part_at_the_last_turn(tmp_path, prompt, answers):
    chosen, rejected = answers
    row = {"chosen": prompt + chosen, "rejected": prompt + rejected}
    found = read_preferences(write(tmp_path / "pairs.jsonl", row))
    assert found.chosen.prompts == [prompt]
    assert (found.chosen.outputs, found.rejected.outputs) == ([chosen], [rejected])
    doubled = read_preferences(write(tmp_path / "doubled.jsonl", {"prompt": prompt, **row}))
    assert doubled.chosen.prompts == [prompt]
    assert (doubled.chosen.outputs, doubled.rejected.outputs) == ([chosen], [rejected])


@pytest.mark.parametrize(
    ("chosen", "rejected"),
    [
        ("good ", "bad"),  # an empty common start
        ("The cat sat.", "The cat ran."),  # no turn is marked
        ("Answer: yes", "Answer: no"),  # and none is asked
        (
            "\n\nHuman: hi\n\nAssistant: a\n\nHuman: b\n\nAssistant: c",
            "\n\nHuman: hi\n\nAssistant: d",
        ),
    ],
)
def test_texts_without_a_prompt_are_never_cut_inside_a_turn(tmp_path, chosen, rejected):
    path = write(tmp_path / "pairs.jsonl", {"chosen": chosen, "rejected": rejected})
    with pytest.raises(InputError, match=r'1 without "prompt", and .* share no dialogue'):
        read_preferences(path)


def test_a_file_whose_texts_begin_with_their_prompts_is_read_once(tmp_path, caplog):
    rows = [pair(number) for number in range(10)]
    for row in rows:
        row["chosen"] = f"{row['prompt']} {row['chosen']}"
        row["rejected"] = f"{row['prompt']} {row['rejected']}"
    found = read_preferences(write(tmp_path / "all.jsonl", *rows))
    assert found.chosen.prompts[3] == "p3"
    assert (found.chosen.outputs[3], found.rejected.outputs[3]) == (" good 3", " bad 3")
    assert "In 10 of 10 rows" in caplog.text
    by_chance = pair(0, prompt="Yes", chosen="Yes sure", rejected="Yes no")
    found = read_preferences(write(tmp_path / "one.jsonl", by_chance, *map(pair, range(5))))
    assert found.chosen.outputs[0] == "Yes sure"
    assert "In 1 of 6 rows" in caplog.text
    inside = pair(0, prompt="Par", chosen="Paris", rejected="Parma")
    assert read_preferences(write(tmp_path / "word.jsonl", inside)).chosen.outputs == ["Paris"]


def from_(sender, text):
    return {"from": sender, "value": text}


@pytest.mark.parametrize(
    ("row", "prompt"),
    [
        (
            {
                "conversations": [from_("human", "2+2?")],
                "chosen": from_("gpt", "4"),
                "rejected": from_("gpt", "5"),
            },
            "2+2?",
        ),
        (
            {
                "conversations": [
                    from_("system", "Be brief."),
                    from_("human", "hi"),
                    from_("gpt", "hello"),
                    from_("human", "2+2?"),
                ],
                "chosen": from_("gpt", "4"),
                "rejected": from_("gpt", "5"),
            },
            talk(("system", "Be brief."), ("user", "hi"), ("assistant", "hello"), ("user", "2+2?")),
        ),
        ({"conversations": [from_("human", "2+2?")], "chosen": "4", "rejected": "5"}, "2+2?"),
        (
            {
                "chosen": [from_("human", "2+2?"), from_("gpt", "4")],
                "rejected": [from_("human", "2+2?"), from_("gpt", "5")],
            },
            "2+2?",
        ),
    ],
)
def test_pairs_in_the_form_of_sharegpt(tmp_path, row, prompt):
    pairs = read_preferences(write(tmp_path / "a.json", row), strict=True)
    assert pairs == PreferencePairs(Samples([prompt], ["4"]), Samples([prompt], ["5"]))


def test_a_sender_that_is_not_known_is_named(tmp_path):
    row = {"conversations": [from_("observation", "x")], "chosen": "a", "rejected": "b"}
    with pytest.raises(InputError, match="1 with messages from 'observation'"):
        read_preferences(write(tmp_path / "a.jsonl", row))


@pytest.mark.parametrize(
    "row",
    [
        {"prompt": "hi", "completion": "hello", "label": True},
        {"prompt": [user("hi")], "completion": [says("go")], "label": False},
        {"messages": [user("hi"), says("hello")], "label": True},
        {"conversations": [from_("human", "hi"), from_("gpt", "hey")], "kto_tag": False},
    ],
)
def test_single_answers_with_a_verdict_are_told_for_what_they_are(tmp_path, row):
    with pytest.raises(
        InputError, match=r"3 that is one answer, marked as good or bad \(as for KTO"
    ):
        read_preferences(write(tmp_path / "kto.jsonl", row, row, row))


HH = "\n\nHuman: hi\n\nAssistant: hello\n\nHuman: 2+2?\n\nAssistant:"


def test_dialogues_stay_texts_or_become_turns(tmp_path):
    path = write(tmp_path / "hh.jsonl", {"chosen": f"{HH} 4", "rejected": f"{HH} 5\n"})
    assert read_preferences(path).chosen == Samples([HH], [" 4"])
    pairs = read_preferences(path, dialogues="turns")
    prompt = talk(("user", "hi"), ("assistant", "hello"), ("user", "2+2?"))
    assert pairs == PreferencePairs(Samples([prompt], ["4"]), Samples([prompt], ["5"]))
    held = data.Preferences(path, held_out=0, dialogues="turns")
    assert list(held.split("train").chosen.prompts) == [prompt]
    assert list(held.extended(pairs[:0]).split("train").chosen.prompts) == [prompt]


@pytest.mark.parametrize(
    ("before", "prompt"),
    [
        ("\n\nHuman: hi\n\nAssistant:", "hi"),
        ("<|im_start|>user\nhi<|im_end|>", None),  # no turn of the assistant's begins
        ("### Instruction:\nAdd.\n\n### Response:\n", "Add."),
        ("USER: hi ASSISTANT: ho USER: more ASSISTANT:", None),
    ],
)
def test_dialogues_of_other_marks_as_turns(tmp_path, before, prompt):
    row = {"chosen": f"{before}a", "rejected": f"{before}b"}
    path = write(tmp_path / "a.jsonl", row, pair())
    prompts = read_preferences(path, dialogues="turns").chosen.prompts
    if "USER" in before:
        assert prompts[0] == talk(("user", "hi"), ("assistant", "ho"), ("user", "more"))
    elif prompt is None:
        assert list(prompts) == ["p0"]
    else:
        assert list(prompts) == [prompt, "p0"]


CHATML = "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n"
LLAMA3 = (
    "<|start_header_id|>user<|end_header_id|>\n\nHi<|eot_id|>"
    "<|start_header_id|>assistant<|end_header_id|>\n\n"
)


@pytest.mark.parametrize(
    ("prompt", "end"),
    [
        (CHATML, "<|im_end|>"),
        (CHATML, "<|im_end|>\n"),
        (LLAMA3, "<|eot_id|>"),
        ("<start_of_turn>user\nHi<end_of_turn>\n<start_of_turn>model\n", "<end_of_turn>\n"),
        ("<s>[INST] Hi [/INST]", " </s>"),
    ],
)
@pytest.mark.parametrize("joined", [True, False])
def test_the_mark_that_ends_a_formatted_answer_is_the_models_to_write(
    tmp_path, prompt, end, joined
):
    row = {"chosen": f"yes{end}", "rejected": f"no{end}"}
    if joined:
        row = {name: prompt + text for name, text in row.items()}
    else:
        row["prompt"] = prompt
    path = tmp_path / "pairs.jsonl"
    path.write_text(json.dumps(row))
    pairs = read_preferences(path)
    assert pairs.chosen.prompts == [prompt]
    assert [pairs.chosen.outputs[0].strip(), pairs.rejected.outputs[0].strip()] == ["yes", "no"]


def test_answers_that_are_dates_stay_the_texts_of_their_file(tmp_path):
    """`datasets` makes points in time of such a column; a table of those is refused."""
    arrow = pytest.importorskip("pyarrow")
    texts = {"prompt": "When?", "chosen": "2024-05-01", "rejected": "next year"}
    pairs = read_preferences(write(tmp_path / "dates.jsonl", texts), strict=True)
    assert pairs.chosen.outputs == ["2024-05-01"]
    moments = arrow.array([datetime(2024, 5, 1)], arrow.timestamp("s"))
    table = arrow.table({"prompt": ["When?"], "chosen": moments, "rejected": ["next year"]})
    import_module("pyarrow.parquet").write_table(table, tmp_path / "dates.parquet")
    with pytest.raises(InputError, match="neither a string nor a list of messages"):
        read_preferences(tmp_path / "dates.parquet")
