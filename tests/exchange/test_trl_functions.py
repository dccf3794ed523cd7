"""Reward functions in TRL's form: ours for its trainers, and its own as our rewards."""

import asyncio
import math

import pytest
import torch

from rewardlab import Conversation, InputError, Message, as_samples
from rewardlab.adapters import trl as alias
from rewardlab.exchange import trl
from rewardlab.exchange.trl import as_reward, prompt_dataset, reward_func
from rewardlab.rewards import (
    Ensemble,
    Fact,
    LanguageReward,
    Length,
    Repetition,
    Reward,
    TextFunction,
    Tolerant,
    TRLFunction,
    load_reward,
    scores_of,
)
from rewardlab.rewards.functions import Function
from rewardlab.rewards.scoring import judged
from rewardlab.testing.tiny_text import tiny_causal_lm, tiny_tokenizer
from rewardlab.types import PreferencePairs, Samples

ASK = {"role": "user", "content": "2+2?"}
TALK = Conversation((Message("system", "Be brief."), Message("user", "2+2?")))


def answer(text):
    return [{"role": "assistant", "content": text}]


class Logs(dict):
    def __call__(self, name, value):
        self[name] = value


def test_the_alias_is_the_same():
    for name in trl.__all__:
        assert getattr(alias, name) is getattr(trl, name)
    assert set(alias.__all__) == set(trl.__all__)


def test_texts_and_conversations_are_scored_as_the_same_samples():
    reward = LanguageReward(tiny_causal_lm(), tiny_tokenizer(chat=True))
    score = reward_func(reward)
    expected = scores_of(reward, as_samples(["2+2?", TALK], ["4", "four"])).tolist()
    prompts = [[ASK], [{"role": "system", "content": "Be brief."}, ASK]]
    assert score(prompts=prompts, completions=[answer("4"), answer("four")]) == expected
    assert score(prompts=["2+2?"], completions=["4"]) == pytest.approx(expected[:1])


def test_batches_do_not_change_scores_and_no_gradient_is_kept():
    reward = LanguageReward(tiny_causal_lm(), tiny_tokenizer()).train()
    texts = ["4", "four and more", "", "5"]
    small = reward_func(reward, batch_size=1)(["2+2?"] * 4, texts)
    assert reward_func(reward)(["2+2?"] * 4, texts) == pytest.approx(small, abs=1e-5)
    assert all(isinstance(value, float) for value in small)
    assert reward.training


def test_names_are_unique_and_may_be_given():
    first, second = reward_func(Repetition()), reward_func(Repetition())
    assert first.__name__ != second.__name__
    assert first.__name__.startswith("Repetition")
    assert reward_func(Repetition(), name="repeats").__name__ == "repeats"
    assert not isinstance(first, torch.nn.Module)


def test_disagreement_is_logged_for_several_members_alone():
    both = Ensemble([Length(), Repetition()])
    metrics, extra = Logs(), Logs()
    score = reward_func(both, name="both")
    completions = ["of of of of of", "a b"]
    score(["", ""], completions, log_metric=metrics, log_extra=extra, completion_ids=[[1], [2]])
    members = both.members(Samples(["", ""], completions)).std(1)
    assert metrics == {
        "both/unscored": 0,
        "both/disagreement": pytest.approx(members.mean().item()),
    }
    assert extra == {"both/disagreement": pytest.approx(members.tolist())}
    metrics.clear()
    reward_func(Length(), name="words")(["", ""], completions, log_metric=metrics, log_extra=extra)
    assert metrics == {"words/unscored": 0}
    assert len(extra) == 1


def nan_for_b(samples):
    return torch.tensor([math.nan if text == "b" else 1.0 for text in samples.outputs])


def test_what_is_not_scored_is_none_and_has_no_disagreement():
    partial = Tolerant(Function(nan_for_b), most_unscored=1.0)
    metrics, extra = Logs(), Logs()
    score = reward_func(Ensemble([partial, Length()]), name="partial")
    values = score(["", ""], ["a", "b"], log_metric=metrics, log_extra=extra)
    assert values == [1.0, None]
    assert metrics == {"partial/unscored": 0.5, "partial/disagreement": 0.0}
    assert extra == {"partial/disagreement": [0.0, None]}
    score(["", ""], ["b", "b"], log_metric=metrics)
    assert metrics["partial/unscored"] == 1
    with pytest.raises(InputError, match="nan_for_b gave a score of nan"):
        reward_func(Function(nan_for_b))(["", ""], ["a", "b"])


def test_tokens_say_how_long_a_completion_is_and_whether_it_ended():
    assert reward_func(Fact("length"))(["", ""], ["ab", ""], [[7, 8, 1], []]) == [3.0, 0.0]
    reward = LanguageReward(tiny_causal_lm(), tiny_tokenizer())
    score = reward_func(reward, end_tokens=[256])
    finished = torch.tensor([True, False, False])
    samples = Samples(["hi"] * 3, ["yes", "yes", ""], {"finished": finished})
    values = score(samples.prompts, samples.outputs, [[121, 256], [121], []])
    assert values == pytest.approx(scores_of(reward, samples).tolist(), abs=1e-6)
    assert values[0] != pytest.approx(values[1], abs=1e-3)


@pytest.mark.parametrize(
    ("prompts", "completions", "message"),
    [
        (["a"], ["b", "c"], "1 prompts and 2 completions"),
        ([[ASK]], [[*answer("4"), {"role": "tool", "content": "5"}]], "Completion 0 .*assistant's"),
        ([[ASK]], [[{"role": "assistant", "content": None}]], "Completion 0"),
        (["a"], [5], "Completion 0"),
    ],
)
def test_what_cannot_be_read_is_named(prompts, completions, message):
    with pytest.raises(InputError, match=message):
        reward_func(Length())(prompts, completions)


def test_a_folder_or_a_function_is_no_reward():
    with pytest.raises(InputError, match=r"takes a Reward; got a str.*load_reward"):
        reward_func("runs/rm/reward")


@pytest.mark.parametrize("tokens", [2, [], [None], "</s>", ["</s>"]])
def test_end_tokens_that_are_no_numbers_are_refused(tokens):
    with pytest.raises(InputError, match="end_tokens are the numbers of tokens"):
        reward_func(Length(), end_tokens=tokens)


def test_data_sets_that_cannot_be_made_are_refused():
    images = Samples(["", ""], torch.rand(2, 3, 4, 4))
    with pytest.raises(InputError, match="pairs of images"):
        trl.preference_dataset(PreferencePairs(images, images))
    with pytest.raises(InputError, match="no pairs"):
        trl.preference_dataset(PreferencePairs(Samples([], []), Samples([], [])))
    with pytest.raises(InputError, match=r"other lengths \{'answer': 1\}"):
        prompt_dataset(["a", "b"], answer=[1])
    with pytest.raises(InputError, match="1 of 2 prompts are conversations"):
        prompt_dataset(["a", TALK], conversational=False)


def test_one_conversation_makes_all_prompts_messages():
    assert prompt_dataset(["2+2?", TALK])["prompt"][0] == [ASK]
    assert trl.read_preferences(
        [{"prompt": [ASK], "chosen": answer("4"), "rejected": answer("5")}]
    ).chosen.prompts == ["2+2?"]


def test_labels_that_trl_does_not_read_are_told(caplog):
    chosen = Samples(["a", "b"], ["x", "y"], {"label": torch.tensor([1.0, 0.5])})
    dataset = trl.preference_dataset(PreferencePairs(chosen, Samples(["a", "b"], ["z", "z"])))
    assert dataset["label"][:] == [1.0, 0.5]
    assert "1 of 2 pairs have a label other than 1, which TRL does not read" in caplog.text


def test_a_folder_of_another_kind_takes_no_note(tmp_path):
    Length().save_pretrained(tmp_path / "words")
    with pytest.raises(InputError, match="no sequence classifier"):
        trl.write_chat(tmp_path / "words", False)
    LanguageReward(tiny_causal_lm(), tiny_tokenizer()).save_pretrained(tmp_path / "ours")
    with pytest.raises(InputError, match="is there already"):
        trl.write_chat(tmp_path / "ours", False)


# functions of others as our rewards


def lengths(prompts, completions, **columns):
    """Score the number of letters; an empty text is not scored."""
    texts = [text if isinstance(text, str) else text[0]["content"] for text in completions]
    return [float(len(text)) if text else None for text in texts]


async def later(completions, answer, **columns):
    await asyncio.sleep(0)
    return [float(text == right) for text, right in zip(completions, answer, strict=True)]


def of_tokens(completion_ids, **columns):
    return [float(len(ids)) for ids in completion_ids]


def overlap(prompt, response):
    return len(set(str(prompt)) & set(response)) if response else None


async def later_overlap(prompt, response):
    await asyncio.sleep(0)
    return overlap(prompt, response)


def test_none_is_not_scored():
    result = judged(as_reward(lengths), Samples(["", ""], ["abc", ""]))
    assert result.scores[0] == 3
    assert result.reasons == ["", "TRLFunction: lengths returned None"]
    with pytest.raises(InputError, match="lengths returned None"):
        scores_of(as_reward(lengths), Samples(["", ""], ["abc", ""]))
    with pytest.raises(InputError, match="most_unscored"):
        judged(as_reward(lengths, most_unscored=0.0), Samples([""], [""]))


def test_functions_get_messages_as_trl_hands_them_out():
    seen = []

    def see(prompts, completions, trainer_state, log_metric, **columns):
        seen.append((prompts, completions, columns))
        log_metric("nothing", 1.0)
        return [0] * len(prompts)

    as_reward(see)(as_samples(["hi"], ["ho"]))
    as_reward(see, conversational=True)(as_samples(["hi"], ["ho"]).numbered())
    as_reward(see)(as_samples([TALK], ["4"]))
    assert seen[0][:2] == (["hi"], ["ho"])
    assert seen[1][:2] == ([[{"role": "user", "content": "hi"}]], [answer("ho")])
    assert seen[1][2]["row"] == [0]
    assert seen[2][0][0][0]["role"] == "system"


def test_async_functions_run_inside_of_an_event_loop_too():
    rows = [{"prompt": "2+2?", "answer": "4"}, {"prompt": "3+3?", "answer": "6"}]
    reward = as_reward(later, rows)
    samples = Samples(["3+3?", "2+2?"], ["6", "6"])

    async def inside():
        return reward(samples).tolist()

    assert reward(samples).tolist() == asyncio.run(inside()) == [1.0, 0.0]
    waits = TextFunction(later_overlap)
    assert waits(Samples(["abc"], ["cab"])).item() == TextFunction(overlap)(
        Samples(["abc"], ["cab"])
    )


@pytest.mark.parametrize(
    ("function", "columns", "message"),
    [
        (later, None, "later reads the columns answer, which the samples do not bring along"),
        (of_tokens, None, "of_tokens reads the columns completion_ids"),
        (later, [{"prompt": "other", "answer": "4"}], "none for '2\\+2\\?'"),
        (lambda completions, **_: [1.0, 2.0], None, "a list of 1, .*got a list of 2"),
        (lambda completions, **_: 1.0, None, "a list of 1, .*got a float"),
        (lambda completions, **_: ["good"], None, "returned 'good' for a sample"),
        (lambda completions, **_: [math.inf], None, "gave a score of inf"),
    ],
)
def test_functions_that_do_not_fit_are_named(function, columns, message):
    with pytest.raises(InputError, match=message):
        as_reward(function, columns)(Samples(["2+2?"], ["4"]))


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ([{"answer": "4"}], "Row 1 of the columns should have prompt"),
        ([{"prompt": "a", "x": 1}, {"prompt": "b"}], "Row 2 of the columns should have prompt, x"),
        ([{"prompt": "a", "x": 1}, {"prompt": "a", "x": 2}], "Row 2 .* came before"),
    ],
)
def test_columns_that_cannot_be_found_by_prompt_are_refused(columns, message):
    with pytest.raises(InputError, match=message):
        TRLFunction(lengths, columns)


def test_they_are_saved_by_their_import_path(tmp_path, monkeypatch):
    module = tmp_path / "code"
    module.mkdir()
    (module / "rules_of_mine.py").write_text(
        "def right(completions, answer, **columns):\n"
        "    return [float(text == a) for text, a in zip(completions, answer)]\n"
        "def shared(prompt, response):\n"
        "    return len(set(prompt) & set(response))\n"
    )
    monkeypatch.syspath_prepend(module)
    import rules_of_mine

    rows = tmp_path / "rows.jsonl"
    rows.write_text('{"prompt": "2+2?", "answer": "4"}\n')
    samples = Samples(["2+2?"], ["4"])
    for reward in (
        TRLFunction(rules_of_mine.right, rows, most_unscored=0.5),
        TextFunction(rules_of_mine.shared, most_unscored=0.5),
    ):
        folder = tmp_path / type(reward).__name__
        reward.save_pretrained(folder)
        with pytest.raises(InputError, match="would run its code"):
            load_reward(folder)
        loaded = load_reward(folder, trust=True)
        assert torch.equal(loaded(samples), reward(samples))
        assert loaded.most_unscored == 0.5
    with pytest.raises(InputError, match="no other program can import"):
        TextFunction(lambda prompt, response: 1.0).save_pretrained(tmp_path / "lambda")
    with pytest.raises(InputError, match="share of the samples"):
        TextFunction(overlap, most_unscored=2)


def test_a_config_names_a_function_and_its_columns(tmp_path, monkeypatch):
    from jsonargparse import ArgumentParser

    (tmp_path / "rules_of_config.py").write_text(
        "def right(completions, answer, **columns):\n"
        "    return [float(text == a) for text, a in zip(completions, answer)]\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    rows = tmp_path / "rows.jsonl"
    rows.write_text('{"prompt": "2+2?", "answer": "4"}\n')
    parser = ArgumentParser()
    parser.add_argument("--reward", type=Reward)
    for columns in (str(rows), [{"prompt": "2+2?", "answer": "4"}]):
        arguments = {"function": "rules_of_config.right", "columns": columns}
        part = {"class_path": "rewardlab.rewards.TRLFunction", "init_args": arguments}
        reward = parser.instantiate(parser.parse_object({"reward": part})).reward
        assert reward(Samples(["2+2?"], ["4"])).item() == 1, "a text in quotes stays a text"


def test_a_reward_function_that_trl_ships_is_a_reward():
    from trl.rewards import think_format_reward

    reward = as_reward(think_format_reward, conversational=True)
    texts = ["<think>\nyes\n</think>\n4", "4"]
    assert scores_of(reward, Samples(["2+2?"] * 2, texts)).tolist() == [1.0, 0.0]
