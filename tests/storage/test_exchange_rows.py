"""Rows of a prompt and its response, whatever the prompt is called."""

from __future__ import annotations

import json

import pytest

from rewardlab.conversations import Conversation, Message
from rewardlab.storage.exchange_rows import read_good_exchanges, row_exchange
from rewardlab.storage.exchanges import UnusableError

ASK = {"role": "user", "content": "2+2?"}
ANSWER = {"role": "assistant", "content": "4"}
BRIEF = Conversation([Message("system", "Be brief."), Message("user", "2+2?")])


@pytest.mark.parametrize(
    "row",
    [
        {"question": "2+2?", "response": "4"},
        {"instruction": "2+2?", "input": "", "output": "4"},
        {"prompt": None, "query": "2+2?", "completion": "4"},
        {"context": [ASK], "response": [ANSWER]},
        {"question": "2+2?", "response": [ASK, ANSWER]},
        {"Prompt": "2+2?", "response": "4"},
    ],
)
def test_a_prompt_is_called_as_in_pairs(row):
    assert row_exchange(row) == ("2+2?", "4")


def test_instruction_and_input_are_one_prompt():
    row = {"instruction": "Add these.", "input": "2, 2", "output": "4"}
    assert row_exchange(row) == ("Add these.\n\n2, 2", "4")


@pytest.mark.parametrize(
    "row",
    [
        {"system": "Be brief.", "prompt": "2+2?", "response": "4"},
        {"system_prompt": "Be brief.", "instruction": "2+2?", "output": "4"},
        {"system": "Be brief.", "messages": [ASK, ANSWER]},
        {"system": "Be brief.", "conversations": [ASK, ANSWER]},
    ],
)
def test_a_text_of_the_system_is_its_message(row):
    assert row_exchange(row) == (BRIEF, "4")


def test_two_columns_that_may_be_the_prompt_are_refused():
    with pytest.raises(UnusableError, match='"question" and "context" may be'):
        row_exchange({"context": "a page", "question": "2+2?", "response": "4"})


def test_a_file_to_imitate_has_its_prompts(tmp_path):
    path = tmp_path / "alpaca.jsonl"
    path.write_text(json.dumps({"instruction": "2+2?", "input": "", "output": "4"}))
    assert read_good_exchanges(path).prompts == ["2+2?"]
