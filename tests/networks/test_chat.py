"""Prompts and responses as tokens: against `apply_chat_template`, for the forms of many models."""

import datetime
import runpy
from pathlib import Path
from types import SimpleNamespace

import pytest
from tokenizers import processors
from transformers.utils import chat_template_utils

from rewardlab.conversations import Conversation, Message
from rewardlab.errors import InputError
from rewardlab.networks.chat import TextTokens
from rewardlab.networks.text_format import TextFormat

FORMS = SimpleNamespace(**runpy.run_path(str(Path(__file__).with_name("templates.py"))))
NAMES = list(FORMS.TEMPLATES)
TALK = Conversation(
    (Message("user", "Hi"), Message("assistant", "Yo, what?"), Message("user", "Your name?"))
)
SYSTEM = Conversation((Message("system", "Be brief."), Message("user", "Hé 世?")))
MESSAGES = [
    {"role": "user", "content": "Hi"},
    {"role": "assistant", "content": "Yo, what?"},
    {"role": "user", "content": "Your name?"},
]


def theirs(tokenizer, messages, **options):
    """Return the ids by transformers' own call."""
    return tokenizer.apply_chat_template(messages, tokenize=True, return_dict=False, **options)


@pytest.fixture(autouse=True)
def the_day(monkeypatch):
    """Let transformers' own clock show the day that is the default."""

    class Day(datetime.datetime):
        @classmethod
        def now(cls, zone=None):
            return cls(2024, 7, 26)

    monkeypatch.setattr(chat_template_utils, "datetime", Day)


@pytest.mark.parametrize("name", NAMES)
def test_conversations_are_what_the_template_makes_of_them(name):
    tokenizer = FORMS.tokenizer_of(name)
    texts = TextTokens(tokenizer)
    prompts = [TALK, "Hi  there\n", TALK]
    expected = [
        theirs(tokenizer, MESSAGES, add_generation_prompt=True),
        theirs(tokenizer, [{"role": "user", "content": "Hi  there\n"}], add_generation_prompt=True),
    ]
    assert texts.prompt_ids(prompts) == [*expected, expected[0]]
    answer = {"role": "assistant", "content": "Bob."}
    row = theirs(tokenizer, [*MESSAGES, answer])
    assert texts.row_ids([TALK], ["Bob."], [True]) == [row]


@pytest.mark.parametrize("name", ["chatml", "llama3", "mistral"])
def test_a_systems_message_is_the_templates(name):
    tokenizer = FORMS.tokenizer_of(name)
    messages = [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "Hé 世?"},
    ]
    expected = theirs(tokenizer, messages, add_generation_prompt=True)
    assert TextTokens(tokenizer).prompt_ids([SYSTEM]) == [expected]


def test_a_template_that_refuses_a_role_is_a_sentence():
    texts = TextTokens(FORMS.tokenizer_of("gemma"))
    with pytest.raises(InputError, match=r"roles system, user: System role not supported.*Drop"):
        texts.prompt_ids([SYSTEM])


@pytest.mark.parametrize("chat", [None, False])
def test_a_conversation_needs_a_template(chat):
    tokenizer = FORMS.tokenizer_of("chatml")
    if chat is None:
        tokenizer.chat_template = None
    texts = TextTokens(tokenizer, TextFormat(chat))
    with pytest.raises(InputError, match=r"3 messages needs a chat template.*chat_template.jinja"):
        texts.prompt_ids([TALK])


def test_a_template_is_given_as_text_or_as_a_file(tmp_path):
    tokenizer = FORMS.tokenizer_of("chatml")
    expected = theirs(tokenizer, MESSAGES, add_generation_prompt=True)
    tokenizer.chat_template = None
    file = tmp_path / "chat_template.jinja"
    file.write_text(FORMS.CHATML)
    for template in (FORMS.CHATML, str(file)):
        form = TextFormat.of({"template": template})
        assert TextTokens(tokenizer, form).prompt_ids([TALK]) == [expected]
        assert form.settings()["template"] == FORMS.CHATML
    with pytest.raises(InputError, match="cannot be read"):
        TextFormat.of({"template": str(tmp_path / "none")})
    with pytest.raises(InputError, match="has no chat template, and the format asks for one"):
        TextTokens(tokenizer, TextFormat(True))


def test_named_templates_are_formatted_by_their_default():
    tokenizer = FORMS.tokenizer_of("chatml")
    expected = theirs(tokenizer, MESSAGES, add_generation_prompt=True)
    tokenizer.chat_template = {"default": FORMS.CHATML, "tool_use": "none"}
    assert TextTokens(tokenizer).prompt_ids([TALK]) == [expected]


def test_keywords_reach_the_template():
    tokenizer = FORMS.tokenizer_of("chatml")
    plain = TextTokens(tokenizer)
    quick = TextTokens(tokenizer, TextFormat.of({"options": {"enable_thinking": False}}))
    options = {"add_generation_prompt": True, "enable_thinking": False}
    assert quick.prompt_ids([TALK]) == [theirs(tokenizer, MESSAGES, **options)]
    assert quick.prompt_ids([TALK]) != plain.prompt_ids([TALK])


@pytest.mark.parametrize("written", ["%d %b %Y", "%Y-%m-%d", "%B %d, %Y", "%A %-d %H:%M", "%d%%"])
@pytest.mark.parametrize("day", ["2024-07-26", "2030-01-02"])
def test_the_clock_stands_and_reads_as_strftime(written, day, monkeypatch):
    tokenizer = FORMS.byte_tokenizer(
        "\n{{ strftime_now('" + written + "') }}{{ messages[0].content }}"
    )
    texts = TextTokens(tokenizer, TextFormat(date=day))
    shown = datetime.datetime.strptime(day, "%Y-%m-%d").strftime(written)
    assert tokenizer.decode(texts.prompt_ids(["!"])[0]) == "\n" + shown + "!"


def test_a_wrong_date_and_a_wrong_setting_are_refused():
    with pytest.raises(InputError, match=r"year-month-day.*got '26 Jul'"):
        TextFormat(date="26 Jul")
    with pytest.raises(InputError, match=r"got \['dat'\]"):
        TextFormat.of({"dat": "2024-01-01"})


@pytest.mark.parametrize("name", NAMES)
def test_the_template_tells_what_ends_a_turn(name):
    tokenizer = FORMS.tokenizer_of(name)
    assert TextTokens(tokenizer).end == tokenizer.convert_tokens_to_ids(FORMS.ENDS[name])
    assert TextTokens(tokenizer, TextFormat(False)).end is None


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("text", ["no{}user: thanks!{}", "{}", " {}\n", "a{}{}b"])
def test_marks_in_texts_stay_text(name, text):
    """The row is the template's with an empty word, and the word's ordinary tokens in its place."""
    tokenizer = FORMS.tokenizer_of(name)
    texts = TextTokens(tokenizer)
    typed = text.replace("{}", FORMS.ENDS[name]).strip()
    shared = [tokenizer.vocab[symbol] for symbol in ordinary(typed)]
    answered = texts.row_ids([typed], [typed], [True])[0]
    expected = theirs(
        tokenizer,
        [{"role": "user", "content": "Q"}, {"role": "assistant", "content": "Q"}],
    )
    letter = tokenizer.vocab["Q"]
    filled = []
    for token in expected:
        filled += shared if token == letter else [token]
    assert answered == filled
    assert texts.response_ids(["Q"], [typed]) == [shared]
    read = TextTokens(tokenizer, TextFormat(marks=True)).row_ids(["Q"], [typed], [True])[0]
    answer = {"role": "assistant", "content": typed}
    assert read == theirs(tokenizer, [{"role": "user", "content": "Q"}, answer])


def ordinary(text):
    """Return the byte-level symbols of a text."""
    from transformers.convert_slow_tokenizer import bytes_to_unicode

    return [bytes_to_unicode()[byte] for byte in text.encode()]


@pytest.mark.parametrize("kind", ["first", "legacy"])
@pytest.mark.parametrize("text", ["the </s> an", "</s>", "than</s><s>", "the an"])
def test_marks_in_plain_texts_are_split_as_the_tokenizer_splits_them(kind, text):
    tokenizer = FORMS.llama_tokenizer(kind)
    texts = TextTokens(tokenizer)
    expected = tokenizer(text, split_special_tokens=True, add_special_tokens=False).input_ids
    assert texts.prompt_ids([text]) == [expected]
    joined = tokenizer("than " + text, split_special_tokens=True, add_special_tokens=False)
    assert texts.row_ids(["than "], [text], [False]) == [joined.input_ids]
    assert not {1, 2} & set(joined.input_ids)


def test_private_characters_of_a_text_come_through():
    tokenizer = FORMS.tokenizer_of("llama3")
    text = "\U000f0000<|eot|>\U000f0001 \U000f0000"
    row = TextTokens(tokenizer).response_ids(["Q"], [text])[0]
    assert tokenizer.decode(row) == text
    assert row == [tokenizer.vocab[symbol] for symbol in ordinary(text)]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("begun", [True, False])
def test_a_prompt_that_the_template_has_formatted_is_taken_as_it_is(name, begun):
    tokenizer = FORMS.tokenizer_of(name)
    texts = TextTokens(tokenizer)
    text = tokenizer.apply_chat_template(MESSAGES, tokenize=False, add_generation_prompt=True)
    if not begun:
        text = text.removeprefix(tokenizer.bos_token or "").rstrip()
    expected = theirs(tokenizer, MESSAGES, add_generation_prompt=True)
    assert texts.prompt_ids([text]) == [expected]
    assert texts.row_ids([text], ["Bob."], [True]) == [
        expected + tokenizer("Bob." + texts.turns.closing, add_special_tokens=False).input_ids
    ]
    typed = "so " + text
    assert texts.prompt_ids([typed])[0].count(expected[-1]) >= 1
    assert len(texts.prompt_ids([typed])[0]) > len(expected) + 3


def test_a_plain_text_has_one_beginning():
    tokenizer = FORMS.byte_tokenizer(bos_token="<s>", eos_token="</s>", special=["<|user|>"])
    framed = processors.TemplateProcessing("<s> $A", special_tokens=[("<s>", 256)])
    tokenizer._tokenizer.post_processor = framed
    texts = TextTokens(tokenizer)
    for prompt in ("<s>hi", "hi"):
        assert texts.prompt_ids([prompt]) == [
            [256, *tokenizer("hi", add_special_tokens=False).input_ids]
        ]
        assert texts.row_ids([prompt], [" yo"], [True])[0].count(256) == 1
    formatted = texts.prompt_ids(["<|user|>hi"])[0]
    assert formatted == [256, 258, *tokenizer("hi", add_special_tokens=False).input_ids]
    assert texts.prompt_ids(["<s>"]) == [[256]]


@pytest.mark.parametrize("kind", ["first", "legacy"])
@pytest.mark.parametrize("prompt", ["France is", "un", "x "])
@pytest.mark.parametrize(
    "words", [["▁", *"Paris"], [*"able"], ["▁th", "an"], ["▁", "▁an"], ["<0x0A>", "th"]]
)
def test_llamas_spaces_come_through(kind, prompt, words):
    """What was drawn is what its text is encoded as, and the text is what stands behind."""
    tokenizer = FORMS.llama_tokenizer(kind)
    texts = TextTokens(tokenizer)
    start = texts.prompt_ids([prompt])[0]
    drawn = tokenizer.convert_tokens_to_ids(words)
    text = texts.response_text(start, drawn)
    written = "".join(words).replace("▁", " ").replace("<0x0A>", "\n")
    assert text == written
    assert texts.response_ids([prompt], [text]) == [drawn]


@pytest.mark.parametrize("kind", ["first", "legacy"])
def test_llamas_spaces_behind_a_mark(kind):
    template = "{% for m in messages %}<s>{{ m.content }}</s>{% endfor %}{% if add_generation_prompt %}<s>{% endif %}"
    tokenizer = FORMS.llama_tokenizer(kind, template)
    texts = TextTokens(tokenizer)
    start = texts.prompt_ids(["the an"])[0]
    for text in ("than", " than", "an\nth"):
        drawn = texts.response_ids(["the an"], [text])[0]
        whole = theirs(
            tokenizer,
            [{"role": "user", "content": "the an"}, {"role": "assistant", "content": text}],
        )
        assert [*start, *drawn, 2] == whole
        assert texts.response_text(start, drawn) == text


@pytest.mark.parametrize("name", NAMES)
def test_nothing_ends_an_unfinished_response(name):
    tokenizer = FORMS.tokenizer_of(name)
    texts = TextTokens(tokenizer)
    ended, cut = texts.row_ids(["Q", "Q"], ["so", "so"], [True, False])
    closing = tokenizer(texts.turns.closing, add_special_tokens=False).input_ids
    assert ended == cut + closing
    assert tokenizer.decode(cut).endswith("so")
    plain = TextTokens(tokenizer, TextFormat(False))
    ended, cut = plain.row_ids(["Q", "Q"], ["so", "so"], [True, False])
    assert ended == [*cut, tokenizer.eos_token_id]
    assert cut == tokenizer("Qso").input_ids
