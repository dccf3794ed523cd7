"""Each dialect: its client's scores equal those in process, and what is not scored is no number."""

from __future__ import annotations

import base64
import json
import runpy
import struct
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch.testing import assert_close

from rewardlab.conversations import Conversation, Message
from rewardlab.endpoints.wire import picture_uri
from rewardlab.errors import InputError
from rewardlab.rewards import LanguageReward, Length
from rewardlab.rewards.functions import Function
from rewardlab.rewards.remote import RemoteReward
from rewardlab.rewards.scoring import judged, scores_of
from rewardlab.testing.tiny_text import tiny_causal_lm, tiny_tokenizer
from rewardlab.types import Samples

HERE = Path(__file__).parent
SERVED = SimpleNamespace(**runpy.run_path(str(HERE / "served.py")))
ask, serving, verify_body = SERVED.ask, SERVED.serving, SERVED.verify_body
Refusing = runpy.run_path(str(HERE.with_name("refusing.py")))["Refusing"]
TEXTS = ("openrlhf", "vllm", "sglang", "tei")
TALK = Conversation((Message("system", "Be brief."), Message("user", "2+2?")))
SAMPLES = Samples(
    ["say hi ", "say <|end|>", "", "say hi "],
    ["hi", "good bye\n", "né <|start|>x", " hi\n\n"],
)
CHAT = (
    "{% for m in messages %}<|start|>{{m.role}}\n{{m.content}}<|end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|start|>assistant\n{% endif %}"
)


def language_reward(chat=None, **options):
    """Return a small reward of texts; `chat` is its template, None for plain text."""
    tokenizer = tiny_tokenizer()
    tokenizer.chat_template = chat
    model = tiny_causal_lm(width=64, layers=3, context=128)
    return LanguageReward(model, tokenizer, **options).eval()


@pytest.fixture(scope="module")
def plain():
    reward = language_reward()
    with serving(reward) as server:
        yield reward, server


@pytest.fixture(scope="module")
def chatting():
    reward = language_reward(CHAT)
    with serving(reward) as server:
        yield reward, server


def in_process(reward, samples):
    return scores_of(reward, samples, 64)


def assert_equal(scores, wanted):
    """Up to rounding: a batch is packed by its rows, and requests share batches as they come."""
    assert scores.dtype == torch.float32
    assert_close(scores, wanted, atol=1e-6, rtol=1e-5)
    assert len(set(wanted.tolist())) > 1


# Marks that a user typed are text in process and where the prompt is known; in a whole text nothing
# tells them from the template's, so these samples have none.
UNMARKED = Samples(["say hi ", "say hi ", "", "q"], ["hi", "good bye\n", "né x", " hi\n\n"])


@pytest.mark.parametrize("dialect", TEXTS)
def test_a_plain_reward_scores_as_in_process(plain, dialect):
    reward, server = plain
    remote = RemoteReward(server.url, "{prompt}{response}", dialect=dialect)
    assert_equal(remote(UNMARKED), in_process(reward, UNMARKED))


@pytest.mark.parametrize("dialect", TEXTS)
def test_a_chat_reward_scores_what_its_template_wrote_once(chatting, dialect):
    reward, server = chatting
    remote = RemoteReward(server.url, template=reward.tokenizer, dialect=dialect)
    samples = Samples([*UNMARKED.prompts, TALK], [*UNMARKED.outputs, "4"])
    assert_equal(remote(samples), in_process(reward, samples))


def test_with_prompts_beside_them_typed_marks_stay_text(plain, chatting):
    """But for those in a prompt that a template wrote, which nothing tells from its own."""
    for reward, server in (plain, chatting):
        remote = RemoteReward(server.url, "{prompt}{response}")
        rows = SAMPLES[[0, 1, 3]]  # without a prompt a text is whole
        assert_equal(remote(rows), in_process(reward, rows))
    reward, server = chatting
    remote = RemoteReward(server.url, template=reward.tokenizer)
    rows = SAMPLES[[0, 2, 3]]
    assert_equal(remote(rows), in_process(reward, rows))


def test_an_unfinished_response_stays_open_where_a_template_writes_the_text(chatting):
    reward, server = chatting
    samples = Samples(["a", "b"], ["one", "two"], {"finished": torch.tensor([True, False])})
    wanted = in_process(reward, samples)
    assert not torch.equal(wanted, in_process(reward, Samples(samples.prompts, samples.outputs)))
    for dialect in TEXTS:
        remote = RemoteReward(server.url, template=reward.tokenizer, dialect=dialect)
        assert torch.equal(remote(samples), wanted)


@pytest.mark.parametrize("beginning", ["", "<|start|>"])
def test_a_template_that_begins_with_a_mark_begins_once(beginning):
    """The trainer verl drops the begin-of-text token of what its template wrote, and OpenRLHF keeps it."""
    chat = "{{ bos_token }}" + CHAT.replace("<|start|>", "#")
    reward = language_reward(chat)
    text = reward.texts.row_text("hi", "hello")
    assert text.startswith("<|start|>#user")
    sent = beginning + text.removeprefix("<|start|>")
    with serving(reward) as server:
        _, answer, _ = ask(server, "/classify", {"input": sent, "use_activation": False})
    wanted = in_process(reward, Samples(["hi"], ["hello"]))
    assert answer["data"][0]["probs"] == wanted.tolist()


def test_a_decoded_query_with_its_end_token_is_parted_as_openrlhf_sends_it(chatting):
    reward, server = chatting
    prompt = reward.texts.row_text("hi")
    body = {"query": [prompt + "hello<|end|>"], "prompts": [prompt], "labels": ["x"]}
    status, answer, _ = ask(server, "/get_reward", body)
    wanted = in_process(reward, Samples(["hi"], ["hello"])).tolist()
    assert (status, answer) == (200, {"rewards": wanted, "scores": wanted, "extra_logs": {}})


@pytest.mark.parametrize("name", ["plain", "chatting"])
def test_a_query_that_does_not_begin_with_its_prompt_is_said_and_counted(name, request, caplog):
    _, server = request.getfixturevalue(name)
    body = {"query": ["2+2?4", "hi"], "prompts": ["2 + 2?", "hi"]}
    for _ in range(2):
        assert ask(server, "/get_reward", body)[0] == 200
    said = [line for line in caplog.messages if "does not begin with its prompt" in line]
    assert len(said) == 1
    assert "the query '2+2?4' does not begin with its prompt, '2 + 2?', so it is scored" in said[0]
    text = server.app.metrics.text({})
    assert 'rewardlab_unparted_total{reward="r0"} 2' in text


def test_pooling_over_the_response_wants_the_prompt_apart():
    reward = language_reward(pooling="mean")
    rows = UNMARKED[[0, 1, 3]]
    with serving(reward) as server:
        openrlhf = RemoteReward(server.url, "{prompt}{response}")
        assert_equal(openrlhf(rows), in_process(reward, rows))
        vllm = RemoteReward(server.url, "{prompt}{response}", dialect="vllm")
        with pytest.raises(InputError, match=r"422.*Send the prompt apart"):
            vllm(rows)


def test_vllms_activation_and_messages(plain):
    reward, server = plain
    score = in_process(reward, Samples(["hi"], ["hello"]))
    _, answer, _ = ask(server, "/classify", {"input": ["hihello"], "model": "r0"})
    item = answer["data"][0]
    assert item == {
        "index": 0,
        "label": "LABEL_0",
        "probs": score.sigmoid().tolist(),
        "num_classes": 1,
    }
    assert answer["model"] == "r0"
    messages = [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "hello"}]
    body = {"messages": messages, "use_activation": False}
    assert ask(server, "/classify", body)[1]["data"][0]["probs"] == score.tolist()


def test_sglangs_embedding_in_base64(plain):
    reward, server = plain
    score = in_process(reward, Samples(["hi"], ["hello"]))
    body = {"input": "hihello", "encoding_format": "base64", "model": "r0"}
    _, answer, _ = ask(server, "/v1/embeddings", body)
    content = base64.b64decode(answer["data"][0]["embedding"])
    assert list(struct.unpack("<f", content)) == score.tolist()


def test_two_strings_of_tei_are_a_pair(chatting):
    reward, server = chatting
    score = in_process(reward, Samples(["hi"], ["hello"]))
    raw = {"raw_scores": True}
    single = [{"score": score.item(), "label": "LABEL_0"}]
    assert ask(server, "/predict", {"inputs": ["hi", "hello"], **raw})[1] == single
    assert ask(server, "/predict", {"inputs": [["hi", "hello"]], **raw})[1] == [single]
    text = reward.texts.row_text("hi", "hello")
    assert ask(server, "/predict", {"inputs": text, **raw})[1] == single
    assert ask(server, "/predict", {"inputs": [text], **raw})[1] == single
    activated = ask(server, "/predict", {"inputs": [text]})[1]
    assert activated == [{"score": score.sigmoid().item(), "label": "LABEL_0"}]
    assert ask(server, "/predict", {"inputs": ["a", "b", "c"]})[0] == 422


def test_nemo_gyms_request_comes_back_with_its_reward(chatting):
    reward, server = chatting
    body = verify_body([{"role": "developer", "content": "Be brief."}], "4")
    body["responses_create_params"]["input"] += [{"role": "user", "content": "2+2?"}]
    reasoning = {"type": "reasoning", "summary": []}
    body["response"]["output"].insert(0, reasoning)
    status, answer, _ = ask(server, "/verify", body)
    score = in_process(reward, Samples([TALK], ["4"])).item()
    wanted = {"reward": score, "mask_sample": False, "failure_kind": None, "failure_reason": None}
    assert (status, answer) == (200, body | wanted)
    too_large = json.dumps(body | {"x": 7}).replace("7", "1e999").encode()
    assert ask(server, "/verify", too_large)[0] == 400
    call = {"type": "function_call", "name": "f", "arguments": "{}"}
    body["response"]["output"].append(call)
    assert ask(server, "/verify", body)[0] == 422


@pytest.mark.parametrize("shape", [(3, 5, 4), (1, 5, 4), (2, 3, 5, 4), (2, 1, 5, 4)])
def test_images_and_videos_of_flow_factory(shape):
    levels = torch.randint(0, 256, (3, *shape), generator=torch.Generator().manual_seed(0))
    samples = Samples(["a", "b", "c"], levels.float() / 255)
    reward = Function(weighted_pixels)
    with serving(reward) as server:
        remote = RemoteReward(server.url, dialect="flow-factory", batch_size=2)
        assert_equal(remote(samples), scores_of(reward, samples))
        with pytest.raises(InputError, match="sends images or videos; got 4 texts"):
            remote(SAMPLES)


def weighted_pixels(samples):
    """Return a number that each pixel's place changes."""
    pixels = samples.outputs.flatten(1)
    return pixels @ torch.linspace(0, 1, pixels.shape[1])


def test_pictures_of_several_sizes_are_scored_apart():
    images = [picture_uri(torch.full((3, side, 2), 0.2)) for side in (2, 4, 2)]
    with serving(Function(mean_pixels)) as server:
        status, answer, _ = ask(server, "/compute", {"prompt": ["a"] * 3, "image": images})
    assert status == 200
    assert answer["rewards"] == pytest.approx([0.2, 0.2, 0.2])


def mean_pixels(samples):
    return samples.outputs.flatten(1).mean(1)


NOT_SCORED = {
    "/get_reward": {"query": ["one two", "refuse this"], "prompts": ["", ""]},
    "/classify": {"input": ["one two", "refuse this"], "use_activation": False},
    "/v1/embeddings": {"input": ["one two", "refuse this"]},
    "/predict": {"inputs": [["one two"], ["refuse this"]], "raw_scores": True},
    "/verify": verify_body("hi", "refuse this"),
}


def test_what_is_not_scored_is_null_masked_or_an_error():
    answers = {}
    with serving(Refusing()) as server:
        for path, body in NOT_SCORED.items():
            status, answers[path], _ = ask(server, path, body)
            assert status == {"/get_reward": 200, "/verify": 200, "/predict": 424}.get(path, 422)
    reason = "Refusing: it says refuse"
    assert answers["/get_reward"]["rewards"] == answers["/get_reward"]["scores"] == [2.0, None]
    assert answers["/get_reward"]["reasons"] == ["", reason]
    for path in ("/classify", "/v1/embeddings"):
        error = answers[path]["error"]
        assert f"Input 1 is not scored: {reason}" in error["message"]
        assert error["code"] == 422
    assert answers["/predict"]["error_type"] == "backend"
    masked = answers["/verify"]
    assert masked["mask_sample"] is True
    assert masked["failure_kind"] == "verifier_error"
    assert masked["failure_reason"] == reason


def test_pictures_that_are_not_scored_are_null():
    with serving(Function(inverse_of_first)) as server:
        images = [picture_uri(torch.full((1, 2, 2), level)) for level in (1.0, 0.0)]
        _, answer, _ = ask(server, "/compute", {"prompt": ["a", "b"], "image": images})
    assert answer["rewards"] == [1.0, None]
    assert "inf" in answer["reasons"][1]


def inverse_of_first(samples):
    return samples.outputs.flatten(1)[:, 0].reciprocal()


@pytest.mark.parametrize("dialect", TEXTS)
def test_the_client_gets_it_back_as_not_scored(dialect):
    samples = Samples([""] * 4, ["one two", "refuse this", "three", "refuse"])
    with serving(Refusing()) as server:
        remote = RemoteReward(server.url, dialect=dialect, most_unscored=0.9)
        result = judged(remote, samples)
        strict = RemoteReward(server.url, dialect=dialect)
        with pytest.raises(InputError, match="it says refuse"):
            strict(samples)
    assert result.scores[[0, 2]].tolist() == [2.0, 1.0]
    assert result.scores[[1, 3]].isnan().all()
    assert [bool(reason) for reason in result.reasons] == [False, True, False, True]
    assert "it says refuse" in result.reasons[1]


def test_a_text_beyond_the_context_is_not_scored_unless_it_may_be_cut(plain):
    reward, server = plain
    text = "".join(chr(97 + place % 26) for place in range(300))
    status, answer, _ = ask(server, "/predict", {"inputs": text, "raw_scores": True})
    assert status == 424
    assert "301 tokens and the model sees 128" in answer["error"]
    body = {"inputs": text, "raw_scores": True, "truncate": True}
    score = ask(server, "/predict", body)[1][0]["score"]
    assert score == in_process(reward, Samples([""], [text[-127:]])).item()
    answer = ask(server, "/predict", body | {"truncation_direction": "Right"})
    assert (answer[0], "is Left here" in answer[1]["error"]) == (422, True)
    body = {"input": text, "use_activation": False, "truncate_prompt_tokens": -1}
    assert ask(server, "/classify", body)[1]["data"][0]["probs"] == [score]


def test_several_rewards_by_name():
    with serving(Length(), Refusing()) as server:
        body = {"input": "refuse three words", "use_activation": False}
        assert ask(server, "/classify", body)[1]["data"][0]["probs"] == [3.0]
        assert ask(server, "/classify", body | {"model": "r0"})[0] == 200
        assert ask(server, "/classify", body | {"model": "r1"})[0] == 422
        assert ask(server, "/classify?reward=r1", body)[0] == 422
        status, answer, _ = ask(server, "/classify", body | {"model": "r2"})
        assert status == 404
        assert "There is no reward 'r2' here, only r0, r1." in answer["error"]["message"]
        url = f"{server.url}/get_reward?reward=r1"
        result = judged(RemoteReward(url, most_unscored=1.0), Samples([""], ["refuse"]))
        assert result.unscored == 1
