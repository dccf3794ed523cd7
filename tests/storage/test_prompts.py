"""Prompts from files, and what is wrong with some files."""

import json
import logging

import pytest

from rewardlab.conversations import Conversation, Message
from rewardlab.data import read_prompts
from rewardlab.errors import InputError


def write(tmp_path, content, name="prompts.txt"):
    (tmp_path / name).write_bytes(content)
    return tmp_path / name


@pytest.mark.parametrize(
    "content",
    [b"one\nzw\xc3\xb6lf \n", b"\xef\xbb\xbfone\r\nzw\xc3\xb6lf ", b"one\nzw\xc3\xb6lf \r\n"],
)
def test_marks_and_line_ends_are_taken_off_and_the_rest_is_kept(tmp_path, content):
    assert read_prompts(write(tmp_path, content), strict=True) == ["one", "zwölf "]


def test_only_line_feeds_end_a_prompt(tmp_path):
    assert read_prompts(write(tmp_path, "a\u2028b\x0bc\n".encode())) == ["a\u2028b\x0bc"]


def test_blank_lines_are_skipped_and_counted_or_refused(tmp_path, caplog):
    path = write(tmp_path, b"one\n\n  \ntwo\n")
    with caplog.at_level(logging.WARNING, "rewardlab"):
        assert read_prompts(path) == ["one", "two"]
    assert "Skipped 2 blank lines of 4" in caplog.messages[0]
    with pytest.raises(InputError, match="line 2 is blank, and 2 lines in all"):
        read_prompts(path, strict=True)


def test_json_lines_hold_prompts_with_line_breaks(tmp_path):
    path = write(tmp_path, b'{"prompt": "a\\nb"}\n{"prompt": "c", "id": 1}\n', "prompts.jsonl")
    assert read_prompts(path) == ["a\nb", "c"]
    with pytest.raises(InputError, match=r"line 1 has no string \"prompt\"; it has \['text'\]"):
        read_prompts(write(tmp_path, b'{"text": "a"}', "other.jsonl"))


@pytest.mark.parametrize("content", [b"", b"\n\n", b"\xef\xbb\xbf"])
def test_a_file_without_prompts_is_refused(tmp_path, content):
    with pytest.raises(InputError, match="holds no prompts"):
        read_prompts(write(tmp_path, content))


def test_other_encodings_and_missing_files_are_refused(tmp_path):
    with pytest.raises(
        InputError, match=r"line 2: byte 0xf6 is not UTF-8\. Save the file as UTF-8"
    ):
        read_prompts(write(tmp_path, "one\nzwölf".encode("latin-1")))
    with pytest.raises(InputError, match="cannot be read: No such file"):
        read_prompts(tmp_path / "nowhere.txt")


ASK = {"role": "user", "content": "2+2?"}
SYSTEM = {"role": "system", "content": "Be brief."}
ANSWER = {"role": "assistant", "content": "4"}
TALK = Conversation((Message("system", "Be brief."), Message("user", "2+2?")))


@pytest.mark.parametrize("name", ["prompts.jsonl", "prompts.txt"])
@pytest.mark.parametrize(
    ("row", "wanted"),
    [
        ({"prompt": [ASK]}, "2+2?"),
        ({"prompt": [SYSTEM, ASK]}, TALK),
        ({"messages": [SYSTEM, ASK, ANSWER]}, TALK),
        ({"messages": [SYSTEM, ASK]}, TALK),
        ({"prompt": "2+2?", "messages": [ASK, ANSWER]}, "2+2?"),
        ({"prompt": [{"role": "user", "content": [{"type": "text", "text": "2+2?"}]}]}, "2+2?"),
    ],
)
def test_prompts_are_messages_too(tmp_path, name, row, wanted):
    assert read_prompts(write(tmp_path, json.dumps(row).encode(), name)) == [wanted]


def test_an_array_holds_texts_or_objects(tmp_path):
    rows = [{"prompt": "a"}, {"prompt": [SYSTEM, ASK]}]
    path = write(tmp_path, json.dumps(rows, indent=1).encode(), "prompts.json")
    assert read_prompts(path) == ["a", TALK]
    assert read_prompts(write(tmp_path, b'["a", "b\\nc"]')) == ["a", "b\nc"]
    assert read_prompts(write(tmp_path, b"[a cat] in brackets\n{a dog}")) == [
        "[a cat] in brackets",
        "{a dog}",
    ]


@pytest.mark.parametrize(
    ("row", "words"),
    [
        ({"prompt": [ASK, ANSWER]}, "line 2 has a prompt that cannot be used.*is the assistant"),
        ({"prompt": [{"role": "user"}]}, "line 2 has a prompt that cannot be used.*should be"),
        ({"prompt": None}, r"line 2 has no string \"prompt\"; it has \['prompt'\]"),
        ({"prompt": 5}, r"line 2 has no string"),
        ([1], "line 2 is not an object"),
    ],
)
def test_a_row_that_is_no_prompt_is_named(tmp_path, row, words):
    content = json.dumps({"prompt": "a"}) + "\n" + json.dumps(row)
    with pytest.raises(InputError, match=words):
        read_prompts(write(tmp_path, content.encode(), "prompts.jsonl"))


@pytest.mark.parametrize(
    "row",
    [
        {"prompt": "hi", "system": "Be brief."},
        {"instruction": "hi", "system_prompt": "Be brief."},
        {"messages": [{"role": "user", "content": "hi"}], "system": "Be brief."},
    ],
)
def test_the_text_of_the_system_is_its_message(tmp_path, row):
    path = tmp_path / "prompts.jsonl"
    path.write_text(json.dumps(row))
    assert read_prompts(path) == [
        Conversation([Message("system", "Be brief."), Message("user", "hi")])
    ]


def test_columns_that_may_both_be_the_prompt_are_refused(tmp_path):
    path = tmp_path / "prompts.jsonl"
    path.write_text(json.dumps({"question": "hi", "context": "a page"}))
    with pytest.raises(InputError, match='line 1 is a row without "prompt", which "question" and'):
        read_prompts(path)
