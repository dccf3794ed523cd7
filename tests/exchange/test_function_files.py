"""Files that OpenRLHF and verl load, imported as these load them: their scores are ours."""

import importlib.util
import json
import logging
import pickle
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

from rewardlab import Conversation, InputError, Message
from rewardlab.exchange import flow_factory, openrlhf, verl
from rewardlab.exchange.function_files import FolderReward
from rewardlab.exporting import export_function
from rewardlab.rewards import (
    Brightness,
    Ensemble,
    LanguageReward,
    Length,
    RemoteReward,
    TextFunction,
    load_reward,
    scores_of,
)
from rewardlab.testing.tiny_text import tiny_causal_lm, tiny_tokenizer
from rewardlab.types import Samples

TURNS = (
    "{% for m in messages %}<|start|>{{ m['role'] }}\n{{ m['content'] }}<|end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|start|>assistant\n{% endif %}"
)


def loaded(file):
    """Load a file as both trainers do, by its path and under no name of its own."""
    spec = importlib.util.spec_from_file_location("reward_func", file)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def saved(folder, template=TURNS, heads=2):
    """Save a reward on a model with a chat template, or none, and return its folder."""
    tokenizer = tiny_tokenizer()
    tokenizer.chat_template = template
    reward = LanguageReward(tiny_causal_lm(context=128), tokenizer, heads=heads)
    reward.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def chat_folder(tmp_path_factory):
    return saved(tmp_path_factory.mktemp("chat") / "reward")


def test_openrlhf_scores_queries_as_we_score_their_prompts_and_responses(tmp_path, chat_folder):
    """A query is what its trainer decodes: the rendered prompt, the policy's tokens, and marks."""
    reward = load_reward(chat_folder)
    talk = Conversation((Message("system", "Be brief."), Message("user", "2+2?")))
    finished = torch.tensor([True, True, False])
    samples = Samples(["Say hi.", talk, "Bye"], ["Hello", "4\n", "See"], {"finished": finished})
    prompts = [reward.texts.row_text(prompt) for prompt in samples.prompts]
    queries = []
    for prompt, text, ends in zip(prompts, samples.outputs, finished.tolist(), strict=True):
        queries.append(prompt + text + ("<|end|>" if ends else ""))
    module = loaded(openrlhf.write_function(chat_folder, tmp_path / "reward.py"))
    result = module.reward_func(queries, prompts, [None] * 3)
    expected = scores_of(reward, samples)
    assert torch.equal(result["rewards"], expected)
    assert torch.equal(result["scores"], expected)
    assert torch.equal(result["extra_logs"]["disagreement"], reward.members(samples).std(1))
    one = module.reward_func(queries[:1], prompts[:1], [None])  # as OpenRLHF calls it
    info = torch.tensor([one["rewards"]])
    assert info.shape == (1,)
    assert info[0] == pytest.approx(expected[0].item(), abs=1e-6)


def test_openrlhf_without_a_template_sends_plain_texts(tmp_path):
    folder = saved(tmp_path / "reward", template=None)
    reward = load_reward(folder)
    module = loaded(openrlhf.write_function(folder, tmp_path / "reward.py"))
    result = module.reward_func(["2+2=4<|end|>"], ["2+2="], [""])
    assert torch.equal(result["rewards"], scores_of(reward, Samples(["2+2="], ["4"])))


def test_a_prompt_by_another_template_is_told_of_once(tmp_path, chat_folder, caplog):
    module = loaded(openrlhf.write_function(chat_folder, tmp_path / "reward.py"))
    own = load_reward(chat_folder).texts.row_text("hi")
    module.reward_func([own + "a"], [own], [""])
    assert "chat template" not in caplog.text
    for _ in range(2):
        result = module.reward_func(["[INST] hi [/INST]a<|end|>"], ["[INST] hi [/INST]"], [""])
    assert caplog.text.count("did not write the prompt '[INST] hi [/INST]'") == 1
    expected = scores_of(load_reward(chat_folder), Samples(["[INST] hi [/INST]"], ["a"]))
    assert torch.equal(result["rewards"], expected)


def test_a_prompt_that_openrlhf_cut_from_the_left_is_found(tmp_path):
    Length().save_pretrained(tmp_path / "words")
    module = loaded(openrlhf.write_function(tmp_path / "words", tmp_path / "reward.py"))
    prompt = "many words before the question that matters: "
    assert module.reward_func([prompt[20:] + "a b"], [prompt], [""])["rewards"].tolist() == [2.0]
    with pytest.raises(InputError, match="should begin with its prompt"):
        module.reward_func(["another text"], [prompt], [""])


def test_ends_of_another_policy_are_taken_off(tmp_path):
    Length().save_pretrained(tmp_path / "words")
    file = openrlhf.write_function(tmp_path / "words", tmp_path / "reward.py", ends=["<eos>"])
    assert loaded(file).reward_func(["hi a <eos>"], ["hi "], [""])["rewards"].tolist() == [1.0]


@pytest.mark.parametrize("in_messages", [False, True])
def test_verl_scores_responses_to_the_prompt_in_its_data(tmp_path, chat_folder, in_messages):
    import numpy as np

    reward = load_reward(chat_folder)
    file = verl.write_function(chat_folder, tmp_path / "reward.py", prompt_key="asked")
    asked = "2+2?"
    if in_messages:
        asked = np.array([{"role": "user", "content": asked}])  # as parquet gives it
    arguments = {"data_source": "sums", "ground_truth": "4", "extra_info": {"asked": asked}}
    result = loaded(file).compute_score(solution_str="4", reward_router_address="x", **arguments)
    samples = Samples(["2+2?"], ["4"])
    assert result["score"] == pytest.approx(scores_of(reward, samples).item(), abs=1e-6)
    disagreement = reward.members(samples).std(1).item()
    assert result["disagreement"] == pytest.approx(disagreement, abs=1e-6)
    json.dumps(result)


def test_verl_without_a_prompt_is_told_where_to_put_it(tmp_path):
    Length().save_pretrained(tmp_path / "words")
    module = loaded(verl.write_function(tmp_path / "words", tmp_path / "a.py"))
    with pytest.raises(InputError, match=r"passes no prompt.*no 'prompt'; it has \['index'\]"):
        module.compute_score("sums", "4", "4", {"index": 3})
    with pytest.raises(InputError, match=r"should be a string or a list of messages .*; got '7'"):
        module.compute_score("sums", "4", "4", {"prompt": 7})
    module = loaded(verl.write_function(tmp_path / "words", tmp_path / "b.py", prompt_key=None))
    assert module.compute_score("sums", "4 it is", "4") == {"score": 3.0}


def unsure(prompt, response):
    return None if response == "?" else 1.0


def test_what_is_not_scored_is_an_error_unless_a_number_is_named(tmp_path, caplog, monkeypatch):
    code = tmp_path / "code"
    code.mkdir()
    (code / "unsure_rules.py").write_text(
        "def unsure(prompt, response):\n    return None if response == '?' else 1.0\n"
    )
    monkeypatch.syspath_prepend(code)
    import unsure_rules

    TextFunction(unsure_rules.unsure, most_unscored=1.0).save_pretrained(tmp_path / "reward")
    strict = openrlhf.write_function(tmp_path / "reward", tmp_path / "a.py", trust=True)
    with caplog.at_level(logging.ERROR), pytest.raises(InputError, match="set UNSCORED"):
        loaded(strict).reward_func(["hi?"], ["hi"], [""])
    assert "did not score 1 of 1 samples" in caplog.text, (
        "OpenRLHF says no more than that it failed"
    )
    numbered = verl.write_function(
        tmp_path / "reward", tmp_path / "b.py", trust=True, unscored=-1.0, prompt_key=None
    )
    assert loaded(numbered).compute_score("", "?", "")["score"] == -1
    assert "The score is set to -1" in caplog.text
    with pytest.raises(InputError, match="would run its code"):
        openrlhf.write_function(tmp_path / "reward", tmp_path / "c.py")


def held_until_all_wait(folder, count):
    """Let a reward's first batch take until all others wait; return the list of batches' sizes."""
    reward = folder.reward()
    members = reward.members
    sizes = []
    end = time.monotonic() + 60

    def noted(samples):
        waits = folder._answers._waiting
        while not sizes and len(samples) + len(waits) < count and time.monotonic() < end:
            time.sleep(0.001)
        sizes.append(len(samples))
        return members(samples)

    reward.members = noted
    return sizes


def in_threads(call, arguments):
    """Return what a function says of each argument, asked from a thread each, errors included."""

    def outcome(argument):
        try:
            return call(argument)
        except InputError as error:
            return error

    with ThreadPoolExecutor(len(arguments)) as pool:
        return list(pool.map(outcome, arguments))


def test_many_threads_get_their_own_scores_in_two_batches(chat_folder):
    folder = FolderReward(chat_folder)
    reward = load_reward(chat_folder)
    texts = [f"number {number}" + " more" * number for number in range(12)]
    expected = [scores_of(reward, Samples(["hi"], [text])).item() for text in texts]
    sizes = held_until_all_wait(folder, 12)
    answers = in_threads(folder.answers, [Samples(["hi"], [text]) for text in texts])
    scores = [answer.judged.scores.item() for answer in answers]
    assert scores == pytest.approx(expected, abs=1e-5)
    assert len(sizes) == 2
    assert sum(sizes) == 12


def test_a_joined_call_that_fails_is_the_fault_of_one(chat_folder):
    folder = FolderReward(chat_folder)
    held_until_all_wait(folder, 5)
    texts = ["a", "b", "too long " * 40, "c", "d"]
    answers = in_threads(folder.answers, [Samples(["hi"], [text]) for text in texts])
    failed = [index for index, answer in enumerate(answers) if isinstance(answer, InputError)]
    assert failed == [2]
    assert all(answers[index].judged.scored.all() for index in (0, 1, 3, 4))


def test_a_copy_in_another_process_loads_the_reward_anew(chat_folder):
    folder = FolderReward(chat_folder, unscored=0.0)
    folder.reward()
    copy = pickle.loads(pickle.dumps(folder))
    assert copy._reward is None
    assert (copy.folder, copy.device, copy.unscored, copy.trust) == (
        str(chat_folder),
        "cpu",
        0.0,
        False,
    )


@pytest.mark.parametrize(
    ("trainer", "reward", "message"),
    [
        (openrlhf, Brightness(), "scores images, and the trainer's policies make texts"),
        (verl, Brightness(), "scores images, and the trainer's policies make texts"),
        (flow_factory, Length(), "scores texts, and the trainer's policies make images"),
    ],
)
def test_a_reward_of_the_other_kind_is_refused(tmp_path, trainer, reward, message):
    reward.save_pretrained(tmp_path / "reward")
    with pytest.raises(InputError, match=message):
        trainer.write_function(tmp_path / "reward", tmp_path / "function.py")
    assert not (tmp_path / "function.py").exists()


def test_the_command_writes_the_same_file_and_hands_trust_on(tmp_path):
    Length().save_pretrained(tmp_path / "words")
    file = export_function(tmp_path / "words", tmp_path / "out", "openrlhf", trust=True)
    assert file.read_text() == openrlhf.function_file(tmp_path / "words", trust=True)
    assert "TRUST = True" in file.read_text()


def test_a_server_is_not_asked_when_a_file_is_written(tmp_path):
    RemoteReward("http://127.0.0.1:9").save_pretrained(tmp_path / "reward")
    with pytest.raises(InputError, match="the server"):
        openrlhf.write_function(tmp_path / "reward", tmp_path / "a.py")
    assert openrlhf.write_function(tmp_path / "reward", tmp_path / "a.py", trust=True).is_file()


@pytest.mark.parametrize("trainer", [openrlhf, verl, flow_factory])
def test_nothing_is_written_for_what_is_no_reward(tmp_path, trainer):
    with pytest.raises(InputError, match="is not a folder"):
        trainer.write_function(tmp_path / "none", tmp_path / "reward.py")
    reward = Brightness() if trainer is flow_factory else Length()
    reward.save_pretrained(tmp_path / "words")
    for name in ("reward", "my-reward.py"):
        with pytest.raises(InputError, match=r"a module such as reward\.py"):
            trainer.write_function(tmp_path / "words", tmp_path / name)
    with pytest.raises(InputError, match="is not a folder"):
        trainer.write_function(tmp_path / "words", tmp_path / "missing" / "reward.py")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["words"]


@pytest.mark.parametrize("trainer", [openrlhf, verl, flow_factory])
def test_a_number_for_missing_scores_is_a_number(tmp_path, trainer):
    (Brightness() if trainer is flow_factory else Length()).save_pretrained(tmp_path / "reward")
    for unscored in (float("nan"), "0", True):
        with pytest.raises(InputError, match="unscored is a finite number"):
            trainer.function_file(tmp_path / "reward", unscored=unscored)


@pytest.mark.parametrize("ends", ["<|end|>", [""], [2]])
def test_one_mark_in_place_of_a_list_cuts_no_letters(tmp_path, ends):
    Length().save_pretrained(tmp_path / "reward")
    with pytest.raises(InputError, match="ends is a list of marks"):
        openrlhf.function_file(tmp_path / "reward", ends=ends)


def test_files_name_their_reward_from_any_folder(tmp_path, monkeypatch):
    Ensemble([Length(), Length()]).save_pretrained(tmp_path / "words")
    monkeypatch.chdir(tmp_path)
    file = verl.write_function("words", "reward.py", prompt_key=None)
    monkeypatch.chdir("/")
    result = loaded(tmp_path / file).compute_score("", "a b", "")
    assert result == {"score": 2.0, "disagreement": 0.0}
