"""Prompts of several messages: hashable, the same in files, and refused where only texts go."""

import pytest

from rewardlab import Conversation, InputError, Message, Samples
from rewardlab.conversations import (
    from_json,
    messages_of,
    prompt_of_messages,
    read_message,
    text_prompts,
    to_json,
)
from rewardlab.types import distinct, take

TALK = Conversation((Message("system", "Be brief."), Message("user", "Name?")))


def test_a_conversation_is_hashable_and_equal_by_its_messages():
    again = from_json(to_json(TALK))
    assert again == TALK
    assert distinct([TALK, "Name?", again]).places == [0, 1, 0]


def test_samples_hold_conversations_and_take_keeps_them():
    samples = Samples([TALK, "hi"], ["Bob", "hello"])
    assert samples[[0]].prompts == [TALK]
    assert take(samples.prompts, slice(1)) == [TALK]


def test_a_lone_user_message_is_its_text():
    assert prompt_of_messages([{"role": "user", "content": "hi"}]) == "hi"
    assert messages_of("hi") == [{"role": "user", "content": "hi"}]


def test_the_answer_follows_the_messages():
    roles = [message["role"] for message in messages_of(TALK, "Bob")]
    assert roles == ["system", "user", "assistant"]


@pytest.mark.parametrize(
    ("messages", "sentence"),
    [
        ([], "at least one message"),
        ([{"role": "assistant", "content": "hi"}], "the assistant's"),
        (["hi"], "A message should be"),
        ([{"role": "user"}], "A message should be"),
        ([{"role": "user", "content": [{"type": "image"}]}], "A message should be"),
        ([{"role": "user", "content": "hi", "tool_calls": [{"name": "f"}]}], "tool_calls"),
    ],
)
def test_what_is_no_conversation_is_refused(messages, sentence):
    with pytest.raises(InputError, match=sentence):
        prompt_of_messages(messages)


def test_null_keys_and_text_parts_are_read_as_datasets_write_them():
    parts = [{"type": "text", "text": "he"}, {"type": "text", "text": "llo"}]
    message = {"role": "user", "content": parts, "tool_calls": None}
    assert read_message(message) == Message("user", "hello")


def test_prompts_of_pictures_are_texts():
    assert text_prompts(["a cat"], "A pipeline") == ["a cat"]
    with pytest.raises(InputError, match="a conversation of 2 messages"):
        text_prompts(["a cat", TALK], "A pipeline")


@pytest.mark.parametrize("value", [None, 3, [], {"role": "user"}])
def test_other_json_is_no_prompt(value):
    with pytest.raises(InputError, match="string or a list of messages"):
        from_json(value)


def test_a_list_of_messages_is_a_conversation_and_mappings_are_refused():
    talk = Conversation([Message("system", "Be brief."), Message("user", "Name?")])
    assert talk == TALK
    assert hash(talk) == hash(TALK)
    with pytest.raises(InputError, match="prompt_of_messages"):
        Conversation([{"role": "user", "content": "Name?"}])
