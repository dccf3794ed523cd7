import runpy
from pathlib import Path
from types import SimpleNamespace

import pytest

from rewardlab.errors import InputError
from rewardlab.rewards.formatting import batch_ids, token_ids
from rewardlab.types import Samples

TINY = SimpleNamespace(**runpy.run_path(str(Path(__file__).with_name("tiny_models.py"))))
BARE = "{% for m in messages %}{{ m['content'] }}|{% endfor %}"
OPEN_ENDED = "{% for m in messages %}{{ m['role'] }}: {{ m['content'] }}\n{% endfor %}"
BEGUN = (
    "<|im_start|>{{ messages[0]['content'] }}"
    "{% if messages|length > 1 %}{{ messages[1]['content'] }}<|end|>{% endif %}"
)


def ids_of(tokenizer, prompt, response):
    """Return the ids of one pair, and where its response starts."""
    rows = token_ids(tokenizer, [prompt], [response])
    return rows.ids[0], rows.starts[0]


@pytest.mark.parametrize("text", ["hello", "hello<|end|>", ""])
def test_the_end_token_is_appended_once(text):
    plain = TINY.tokenizer()
    end = plain.eos_token_id
    ids, start = ids_of(plain, "say ", text)
    assert ids.count(end) == 1
    assert ids[-1] == end
    assert start == 4


def test_a_template_that_ends_the_response_needs_no_end_token():
    chat = TINY.tokenizer(TINY.CHATML)
    ids, start = ids_of(chat, "say", "hello")
    assert chat.decode(ids[start:]) == "hello<|end|>\n"
    bare = TINY.tokenizer(BARE)
    ids, _ = ids_of(bare, "say", "hello")
    assert bare.decode(ids) == "say|hello|"


def test_a_template_that_leaves_the_response_open_gets_the_end_token():
    open_ended = TINY.tokenizer(OPEN_ENDED)
    ids, _ = ids_of(open_ended, "say", "hello")
    assert open_ended.decode(ids) == "user: say\nassistant: hello\n<|end|>"


def test_equal_prompts_start_their_responses_at_the_same_place():
    chat = TINY.tokenizer(TINY.CHATML)
    rows = token_ids(chat, ["say", "why", "say"], ["hello", "", "x"])
    assert rows.starts[0] == rows.starts[2] == ids_of(chat, "say", "x")[1]


def test_a_prompt_is_cut_from_the_left_to_fit():
    plain = TINY.tokenizer()
    rows = batch_ids(plain, Samples(["abcdefgh"], ["12345678"]), 10, "A")
    assert plain.decode(rows.ids[0]) == "h12345678<|end|>"
    assert (rows.starts, rows.cut) == ([1], 1)


def test_the_begin_of_text_token_stays_where_there_is_room():
    begun = TINY.tokenizer(BEGUN, bos_token="<|im_start|>")
    rows = batch_ids(begun, Samples(["abcdefgh"], ["1234567"]), 10, "A")
    assert begun.decode(rows.ids[0]) == "<|im_start|>h1234567<|end|>"
    assert rows.starts == [2]
    rows = batch_ids(begun, Samples(["abcdefgh"], ["123456789"]), 10, "A")
    assert begun.decode(rows.ids[0]) == "123456789<|end|>"


def test_a_row_without_any_token_is_named():
    endless = TINY.tokenizer(eos_token=None)
    with pytest.raises(InputError, match="A has no tokens for sample 1: prompt and response"):
        batch_ids(endless, Samples(["a", ""], ["b", ""]), None, "A")
