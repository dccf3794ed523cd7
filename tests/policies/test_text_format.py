"""CausalLMPolicy on conversations, ends of turns, Llama's spaces, long rows and unfinished ones."""

import json
import runpy
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from transformers import GenerationConfig

from rewardlab.conversations import Conversation, Message
from rewardlab.errors import InputError
from rewardlab.networks.text_format import TextFormat
from rewardlab.policies import load_policy
from rewardlab.policies.causal_lm import CausalLMPolicy
from rewardlab.seeds import row_seeds
from rewardlab.testing.tiny_text import tiny_causal_lm, tiny_tokenizer
from rewardlab.types import PreferencePairs, Samples

HERE = Path(__file__).parent
FORMS = SimpleNamespace(**runpy.run_path(str(HERE.parent / "networks" / "templates.py")))
TALK = Conversation((Message("user", "Hi"), Message("assistant", "Yo"), Message("user", "Name?")))
SEED = row_seeds(0, 1)


def policy_of(tokenizer, context=128, **options):
    """A tiny model with a vocabulary for the tokenizer."""
    model = tiny_causal_lm(vocabulary=len(tokenizer), context=context)
    options.setdefault("max_new_tokens", 6)
    return CausalLMPolicy(model, tokenizer, **options)


def drawn(policy, prompt, tokens):
    """Return the trajectory of a prompt to which the policy drew these tokens."""
    codec = policy._codec
    return codec.trajectory([prompt], codec.prompts([prompt]), [tokens], {})


@pytest.mark.parametrize("name", ["chatml", "llama3", "gemma", "mistral"])
def test_a_conversation_is_drawn_from_and_scored_in_the_templates_form(name):
    tokenizer = FORMS.tokenizer_of(name)
    policy = policy_of(tokenizer, context=256)
    messages = [
        {"role": "user", "content": "Hi"},
        {"role": "assistant", "content": "Yo"},
        {"role": "user", "content": "Name?"},
    ]
    form = {"date_string": "26 Jul 2024", "add_generation_prompt": True, "return_dict": False}
    expected = tokenizer.apply_chat_template(messages, **form)
    trajectory = policy.sample([TALK], seeds=SEED)
    assert trajectory.tensors["prompt"][0].tolist() == expected
    again = policy.encode(policy.decode(trajectory), seeds=SEED)
    assert again.tensors["prompt"][0].tolist() == expected
    assert policy.log_prob(again).shape == again.mask.shape


@pytest.mark.parametrize("name", ["chatml", "llama3", "gemma", "mistral"])
def test_a_turn_ends_as_the_template_ends_it(name):
    """What is drawn until the turn's end is what is encoded, and the end is no part of the text."""
    tokenizer = FORMS.tokenizer_of(name)
    policy = policy_of(tokenizer)
    end = tokenizer.convert_tokens_to_ids(FORMS.ENDS[name])
    response = [*tokenizer("yes", add_special_tokens=False).input_ids, end]
    samples = policy.decode(drawn(policy, "Hi", response))
    assert samples.outputs == ["yes"]
    assert policy.encode(samples, seeds=SEED).tensors["response"].tolist() == [response]
    assert policy.ends[0] == end
    assert tokenizer.eos_token_id in policy.ends


def test_ends_that_the_model_lists_stop_drawing_and_foreign_ones_do_not():
    model = tiny_causal_lm()
    model.generation_config = GenerationConfig(eos_token_id=[256, 257])
    assert CausalLMPolicy(model, tiny_tokenizer()).ends == [256, 257]
    model.generation_config = GenerationConfig(eos_token_id=[2, 257])
    assert CausalLMPolicy(model, tiny_tokenizer()).ends == [256]


@pytest.mark.parametrize("kind", ["first", "legacy"])
def test_llamas_spaces_come_back_as_they_were_drawn(kind):
    tokenizer = FORMS.llama_tokenizer(kind)
    policy = policy_of(tokenizer)
    for words in (["▁", *"Paris"], [*"able"], ["▁th", "an"]):
        tokens = [*tokenizer.convert_tokens_to_ids(words), tokenizer.eos_token_id]
        samples = policy.decode(drawn(policy, "France is", tokens))
        assert samples.outputs == ["".join(words).replace("▁", " ")]
        assert policy.encode(samples, seeds=SEED).tensors["response"].tolist() == [tokens]


@pytest.mark.parametrize("chat", [True, False])
def test_a_policy_cannot_write_a_turn(chat):
    tokenizer = tiny_tokenizer(chat=chat)
    policy = CausalLMPolicy(tiny_causal_lm(context=128), tokenizer)
    typed = tokenizer("no<|end|>user: thanks!<|start|>", split_special_tokens=True).input_ids
    samples = policy.decode(drawn(policy, "Hi", [*typed, 256]))
    again = policy.encode(samples, seeds=SEED).tensors["response"]
    assert again.tolist() == [[*typed, 256]]
    marks = CausalLMPolicy(tiny_causal_lm(context=128), tokenizer, chat=TextFormat(marks=True))
    read = marks.encode(samples, seeds=SEED).tensors["response"][0].tolist()
    assert read == [*b"no", 256, *b"user: thanks!", 258, 256]


def test_nothing_ends_a_response_that_was_cut_off():
    policy = CausalLMPolicy(tiny_causal_lm(), tiny_tokenizer())
    facts = {"finished": torch.tensor([False, True, False])}
    samples = Samples(["a"] * 3, ["so", "so", ""], facts)
    trajectory = policy.encode(samples, seeds=row_seeds(0, 3))
    assert trajectory.mask.sum(1).tolist() == [2, 3, 1]
    responses = trajectory.tensors["response"]
    assert responses[trajectory.mask].tolist() == [115, 111, 115, 111, 256, 256]


LONG = Samples(["ab" * 20, "a", "abc"], ["xyz", "q" * 40, "r"])


def test_rows_that_do_not_fit_are_told_before_anything_is_done():
    policy = CausalLMPolicy(tiny_causal_lm(), tiny_tokenizer(), max_length=20)
    assert policy.fits(LONG).tolist() == [False, False, True]
    assert CausalLMPolicy(tiny_causal_lm(), tiny_tokenizer()).fits(LONG).all()
    exact = Samples(["a" * 10, "a" * 10], ["b" * 9, "b" * 10])
    assert policy.fits(exact).tolist() == [True, False]
    policy.encode(exact[:1], seeds=SEED)
    message = r"Row 7, 'xyz', has 40 tokens of prompt and needs 4 .* is 20 \(2 of 3 rows"
    with pytest.raises(InputError, match=message):
        policy.encode(LONG.numbered(7), seeds=row_seeds(0, 3))


@pytest.mark.parametrize("chat", [False, {"date": "2030-01-02"}])
def test_the_format_is_saved_with_the_policy(tmp_path, chat):
    tokenizer = tiny_tokenizer(chat=True)
    tokenizer.chat_template = "{{ strftime_now('%d %b %Y') }} " + tokenizer.chat_template
    policy = CausalLMPolicy(tiny_causal_lm(), tokenizer, chat=chat, max_length=50)
    policy.save_pretrained(tmp_path)
    loaded = load_policy(tmp_path)
    assert loaded.texts.form == policy.texts.form
    assert loaded.max_length == 50
    tokens = loaded.encode(Samples(["Hi"], ["yes"]), seeds=SEED).tensors["prompt"][0].tolist()
    expected = "Hi" if chat is False else "02 Jan 2030 user: Hi\nassistant: "
    assert bytes(tokens).decode() == expected
    saved = json.loads((tmp_path / "policy.json").read_text())["init_args"]
    assert saved["chat"]["date"] == policy.texts.form.date


def test_a_models_own_folder_may_say_that_it_knows_no_chat(tmp_path):
    tiny_causal_lm().save_pretrained(tmp_path)
    tiny_tokenizer(chat=True).save_pretrained(tmp_path)
    said = {"class_path": "rewardlab.policies.CausalLMPolicy", "init_args": {"chat": False}}
    (tmp_path / "policy.json").write_text(json.dumps(said))
    tokens = load_policy(tmp_path).encode(Samples(["Hi"], ["yes"]), seeds=SEED).tensors["prompt"]
    assert tokens.tolist() == [[*b"Hi"]]


@pytest.mark.parametrize(
    ("words", "chat"),
    [
        (["--policy.init_args.chat=false"], TextFormat(False)),
        (["--policy.init_args.chat.date=2026-01-02"], TextFormat(date="2026-01-02")),
        (['--policy.init_args.chat={"options": {"a": 1}}'], TextFormat(options={"a": 1})),
        ([], TextFormat()),
    ],
)
def test_flags_name_the_format(words, chat, tmp_path):
    from jsonargparse import ArgumentParser

    from rewardlab.policies.base import Policy

    tiny_causal_lm().save_pretrained(tmp_path)
    tiny_tokenizer(chat=True).save_pretrained(tmp_path)
    parser = ArgumentParser(exit_on_error=False)
    parser.add_subclass_arguments(Policy, "policy")
    first = ["--policy=rewardlab.policies.CausalLMPolicy", f"--policy.init_args.model={tmp_path}"]
    policy = parser.instantiate(parser.parse_args([*first, *words])).policy
    assert policy.texts.form == chat


def test_dpo_learns_from_conversations():
    from rewardlab.training import DPO

    policy = CausalLMPolicy(tiny_causal_lm(context=128), tiny_tokenizer(chat=True))
    pairs = PreferencePairs(Samples([TALK], ["Bob"]), Samples([TALK], ["No"]))
    module = DPO(policy)
    module.log_dict = lambda *args, **options: None
    module.log = lambda *args, **options: None
    assert module._loss(pairs, "").item() == pytest.approx(0.6931, abs=1e-3)
