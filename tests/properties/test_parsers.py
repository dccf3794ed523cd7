"""What is written is read again: conversations, preferences, prompts, samples, templates."""

import json
import tempfile
from contextlib import suppress
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from rewardlab.conversations import (
    Conversation,
    Message,
    from_json,
    messages_of,
    prompt_of_messages,
    to_json,
)
from rewardlab.endpoints.wire import chat_reply, filled
from rewardlab.errors import InputError
from rewardlab.storage import (
    load_pairs,
    load_samples,
    read_preferences,
    read_prompts,
    save_pairs,
    save_samples,
)
from rewardlab.types import PreferencePairs, Samples

LETTERS = st.characters(exclude_categories=["Cs"])
TEXTS = st.text(LETTERS, max_size=12)
LINES = st.text(st.characters(exclude_categories=["Cs", "Cc", "Zl", "Zp"]), max_size=12)
ROLES = st.sampled_from(["system", "user", "assistant", "tool"])
MESSAGES = st.lists(st.builds(Message, ROLES, TEXTS), max_size=3)
TALKS = st.builds(
    lambda before, last: Conversation((*before, last)),
    MESSAGES,
    st.builds(Message, st.sampled_from(["user", "system", "tool"]), TEXTS),
)
PROMPTS = TEXTS | TALKS.filter(
    lambda talk: len(talk.messages) > 1 or talk.messages[0].role != "user"
)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | TEXTS,
    lambda inside: st.lists(inside, max_size=3) | st.dictionaries(TEXTS, inside, max_size=3),
    max_leaves=8,
)


@given(PROMPTS)
def test_a_prompt_is_read_as_it_was_written(prompt):
    text = json.dumps(to_json(prompt))
    again = from_json(json.loads(text))
    assert again == prompt
    assert hash(again) == hash(prompt)


@given(PROMPTS, TEXTS)
def test_a_response_ends_the_messages_and_the_rest_is_the_prompt(prompt, response):
    messages = messages_of(prompt, response)
    assert messages[-1] == {"role": "assistant", "content": response}
    assert prompt_of_messages(messages[:-1]) == prompt


@given(JSON)
def test_any_json_is_a_prompt_or_refused(value):
    with suppress(InputError):
        prompt = from_json(value)
        assert isinstance(prompt, str | Conversation)


def written(name, content, read):
    """Return what a reader makes of a new file."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / name
        path.write_bytes(content)
        return read(path)


ENDS = st.sampled_from([b"\n", b"\r\n"])
MARKS = st.sampled_from([b"", b"\xef\xbb\xbf"])


@given(st.lists(LINES.filter(str.strip), min_size=1, max_size=5), ENDS, MARKS, st.booleans())
def test_prompts_in_lines_are_read_as_they_are(prompts, end, mark, last):
    content = mark + end.join(prompt.encode() for prompt in prompts) + (end if last else b"")
    assert written("prompts.txt", content, read_prompts) == prompts


@given(st.lists(TEXTS.filter(str.strip), min_size=1, max_size=5), ENDS, MARKS, st.booleans())
def test_prompts_in_objects_are_read_as_they_are(prompts, end, mark, ascii_only):
    lines = [json.dumps({"prompt": text}, ensure_ascii=ascii_only).encode() for text in prompts]
    assert written("prompts.jsonl", mark + end.join(lines), read_prompts) == prompts


PAIRS = st.lists(
    st.tuples(TEXTS, TEXTS, TEXTS).filter(lambda pair: pair[1] != pair[2]), min_size=1, max_size=5
)


def exchange(prompt, response):
    return messages_of(prompt, response)


FORMS = {
    "texts": lambda p, c, r: {"prompt": p, "chosen": c, "rejected": r},
    "messages": lambda p, c, r: {
        "prompt": messages_of(p),
        "chosen": [messages_of(p, c)[-1]],
        "rejected": [messages_of(p, r)[-1]],
    },
    "within": lambda p, c, r: {"chosen": messages_of(p, c), "rejected": messages_of(p, r)},
}


@given(PAIRS, st.sampled_from(sorted(FORMS)), ENDS, MARKS)
def test_pairs_are_the_same_in_each_of_their_forms(rows, form, end, mark):
    lines = [json.dumps(FORMS[form](*row)).encode() for row in rows]
    pairs = written("pairs.jsonl", mark + end.join(lines) + end, read_preferences)
    assert list(pairs.chosen.prompts) == [row[0] for row in rows]
    assert list(pairs.chosen.outputs) == [row[1] for row in rows]
    assert list(pairs.rejected.outputs) == [row[2] for row in rows]


@given(PAIRS, JSON)
def test_a_line_that_is_no_pair_costs_that_line_only(rows, odd):
    lines = [json.dumps(FORMS["texts"](*row)).encode() for row in rows]
    lines.insert(len(lines) // 2, json.dumps({"note": odd}).encode())
    pairs = written("pairs.jsonl", b"\n".join(lines), read_preferences)
    assert list(pairs.chosen.outputs) == [row[1] for row in rows]


COLUMNS = st.sampled_from([torch.int64, torch.float32, torch.float64, torch.bool])


@given(st.lists(st.tuples(TEXTS, TEXTS, st.integers(-(2**53), 2**53)), min_size=1), COLUMNS)
def test_samples_are_read_as_they_were_saved(rows, dtype):
    prompts, outputs, numbers = zip(*rows, strict=True)
    samples = Samples(list(prompts), list(outputs), {"row": torch.tensor(numbers).to(dtype)})
    turned = Samples(samples.prompts, [f"{text}!" for text in outputs])
    with tempfile.TemporaryDirectory() as folder:
        save_samples(Path(folder) / "samples", samples)
        again = load_samples(Path(folder) / "samples")
        save_pairs(Path(folder) / "pairs", PreferencePairs(samples, turned))
        pairs = load_pairs(Path(folder) / "pairs")
    for found in (again, pairs.chosen):
        assert list(found.prompts) == list(prompts)
        assert list(found.outputs) == list(outputs)
        assert found.facts["row"].dtype == dtype
        assert found.facts["row"].equal(samples.facts["row"])
    assert list(pairs.rejected.outputs) == list(turned.outputs)


@given(st.integers(1, 3), st.integers(1, 6), st.integers(1, 6), st.sampled_from([1, 3]), st.data())
def test_levels_of_pictures_survive_files(count, height, width, channels, data):
    size = count * channels * height * width
    levels = data.draw(st.binary(min_size=size, max_size=size))
    images = torch.tensor(list(levels)).float().view(count, channels, height, width) / 255
    with tempfile.TemporaryDirectory() as folder:
        save_samples(Path(folder) / "samples", Samples([""] * count, images))
        again = load_samples(Path(folder) / "samples").outputs
    torch.testing.assert_close(again, images, rtol=0, atol=1e-7)


@given(
    TEXTS, TEXTS, st.lists(st.sampled_from(["{prompt}", "{response}", "{other}", "{", "}", "x"]))
)
def test_what_is_put_into_a_template_is_not_read_again(prompt, response, pieces):
    values = {"{prompt}": prompt, "{response}": response}
    expected = "".join(values.get(piece, piece) for piece in pieces)
    assert "".join(filled("".join(pieces), prompt=prompt, response=response)) == expected


@given(JSON)
def test_a_judges_reply_is_a_text_or_refused(value):
    with pytest.raises(InputError, match="should answer"):
        chat_reply(value)
