import json
import socket
import threading
import time
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
import torch

from rewardlab import cli
from rewardlab.conversations import Conversation, Message, messages_of
from rewardlab.endpoints.client import post_json
from rewardlab.errors import InputError
from rewardlab.rewards import load_reward
from rewardlab.rewards.remote import RemoteReward
from rewardlab.testing import RewardConformance
from rewardlab.testing.tiny_text import tiny_tokenizer
from rewardlab.types import Samples

TEXTS = Samples(
    ["say hi ", "say bye ", ""],
    ["hi", "good bye", ""],
    {"row": torch.tensor([7, 8, 9])},
)


def handler(answer, requests):
    """Return a handler that answers posts, and appends what it was sent to `requests`."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self):
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            requests.append((self.path, body, dict(self.headers)))
            status, data = answer(body, len(requests))
            content = data if isinstance(data, bytes) else json.dumps(data).encode()
            with suppress(ConnectionError):  # the client gave up waiting
                self.reply(status, content)

        def reply(self, status, content):
            self.send_response(status)
            if status == 302:
                self.send_header("Location", "/elsewhere")
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *args):
            pass

    return Handler


@contextmanager
def server(answer):
    """Serve `answer(body, count) -> (status, data)` on loopback.

    Yields its URL, and the requests so far as (path, body, headers).
    """
    requests = []
    listening = ThreadingHTTPServer(("127.0.0.1", 0), handler(answer, requests))
    options = {"poll_interval": 0.01}
    thread = threading.Thread(target=listening.serve_forever, kwargs=options, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{listening.server_port}", requests
    finally:
        listening.shutdown()
        listening.server_close()
        thread.join()


def lengths(body, count):
    rewards = []
    for query, prompt in zip(body["query"], body["prompts"], strict=True):
        rewards.append(len(query) - len(prompt))
    return 200, {"rewards": rewards}


def busy(body, count):
    return 503, b"busy"


def busy_twice(body, count):
    return lengths(body, count) if count == 3 else busy(body, count)


def slow(body, count):
    time.sleep(0.3)
    return lengths(body, count)


class TestRemoteReward(RewardConformance):
    @pytest.fixture(autouse=True)
    def _serve(self):
        with server(lengths) as (self.url, _):
            yield

    def make(self):
        return RemoteReward(self.url, batch_size=2)

    def samples(self):
        return TEXTS


def test_batches_are_sent_in_openrlhfs_form_and_come_back_in_order():
    with server(lengths) as (url, requests):
        scores = RemoteReward(url, batch_size=2, query="<u>{prompt}<a>{response}")(TEXTS)
    assert scores.tolist() == [8.0, 14.0, 6.0]
    assert scores.dtype == torch.float32
    assert [path for path, _, _ in requests] == ["/get_reward"] * 2
    first, second = [body for _, body, _ in requests]
    assert first == {
        "query": ["<u>say hi <a>hi", "<u>say bye <a>good bye"],
        "prompts": ["say hi ", "say bye "],
    }
    assert second == {"query": ["<u><a>"], "prompts": [""]}


def test_a_busy_server_is_asked_again_and_a_path_is_kept():
    with server(busy_twice) as (url, requests):
        scores = RemoteReward(f"{url}/rm", wait=0.01)(TEXTS)
    assert scores.tolist() == [2.0, 8.0, 0.0]
    assert [path for path, _, _ in requests] == ["/rm"] * 3


def test_it_gives_up_after_the_last_try():
    with (
        server(busy) as (url, requests),
        pytest.raises(InputError, match=r"failed 3 times.*503.*busy"),
    ):
        RemoteReward(url, retries=2, wait=0.01)(TEXTS)
    assert len(requests) == 3
    with pytest.raises(InputError, match=r"failed 2 times.*refused"):
        RemoteReward(url, retries=1, wait=0.01)(TEXTS)


def test_the_waits_double(monkeypatch):
    waits = []
    monkeypatch.setattr(time, "sleep", waits.append)
    with server(lambda body, count: (429, b"")) as (url, _), pytest.raises(InputError, match="429"):
        post_json(url, {}, retries=4, wait=0.5)
    assert waits == [0.5, 1.0, 2.0, 4.0]


def test_a_server_that_does_not_answer_is_left():
    with server(slow) as (url, _), pytest.raises(InputError, match=r"failed 1 times.*timed out"):
        RemoteReward(url, timeout=0.05, retries=0)(TEXTS)


@pytest.mark.parametrize(
    ("status", "data", "message"),
    [
        (404, b"no such path", "refused the request with 404.*no such path"),
        (302, b"", "refused the request with 302"),
        (200, b"<html>", "should answer JSON"),
        (200, [1, 2, 3], "OpenRLHF's form"),
        (200, {"scores": [1, 2, 3]}, "OpenRLHF's form"),
        (200, {"rewards": [1, 2]}, "with 3 numbers"),
        (200, {"rewards": [1, 2, None]}, r"did not score sample 2 \(row 9\).*answered null"),
        (200, {"rewards": [1, 2, True]}, "with 3 numbers"),
        (200, {"rewards": [[1], [2], [3]]}, "with 3 numbers"),
        (200, {"rewards": [1, float("nan"), 3]}, r"nan to sample 1 \(row 8\)"),
        (200, {"rewards": [1, 2, float("-inf")]}, r"-inf to sample 2 \(row 9\)"),
    ],
)
def test_answers_that_are_no_scores_are_refused_at_once(status, data, message):
    with (
        server(lambda body, count: (status, data)) as (url, requests),
        pytest.raises(InputError, match=message),
    ):
        RemoteReward(url, wait=0.01)(TEXTS)
    assert len(requests) == 1


def test_the_key_comes_from_the_environment_and_is_not_kept(monkeypatch):
    monkeypatch.setenv("A_TEST_KEY", "not-a-secret\n")
    with server(lengths) as (url, requests):
        reward = RemoteReward(url, key_variable="A_TEST_KEY")
        reward(TEXTS)
    _, _, headers = requests[0]
    assert headers["Authorization"] == "Bearer not-a-secret"
    assert "not-a-secret" not in str(vars(reward))
    for key in ("clé", "a\nb"):
        monkeypatch.setenv("A_TEST_KEY", key)
        with pytest.raises(InputError, match="a key of ASCII letters"):
            reward(TEXTS)
    monkeypatch.delenv("A_TEST_KEY")
    with pytest.raises(InputError, match="A_TEST_KEY"):
        reward(TEXTS)


def test_loopback_is_reached_without_the_proxy(monkeypatch):
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    monkeypatch.delenv("no_proxy", raising=False)
    with server(lengths) as (url, _):
        scores = RemoteReward(url, retries=0)(TEXTS)
    assert scores.tolist() == [2.0, 8.0, 0.0]


@pytest.mark.parametrize(
    "url",
    [
        "file:///etc/hosts",
        "localhost:5000",
        "http://",
        "http://[::1",
        "http://a:b",
        "http://a:99999",
        "http://a/gét",
        "http://a/b c",
    ],
)
def test_other_urls_are_refused(url):
    with pytest.raises(InputError, match="begins with http"):
        RemoteReward(url)


def test_images_and_useless_arguments_are_refused():
    with pytest.raises(InputError, match="sends texts"):
        RemoteReward("http://127.0.0.1")(Samples([""], torch.zeros(1, 3, 2, 2)))
    with pytest.raises(InputError, match="response"):
        RemoteReward("http://127.0.0.1", query="{prompt}")


TALK = Conversation(
    (
        Message("system", "Be brief."),
        Message("user", "hi"),
        Message("assistant", "hello"),
        Message("user", "2+2?"),
    )
)
TEMPLATE = (
    "{% for m in messages %}<|start|>{{m.role}}\n{{m.content}}<|end|>{% endfor %}"
    "{% if add_generation_prompt %}<|start|>assistant\n{% endif %}"
)


def chat_tokenizer():
    tokenizer = tiny_tokenizer(chat=True)
    tokenizer.chat_template = TEMPLATE
    return tokenizer


@pytest.mark.parametrize("saved", [False, True])
def test_a_template_writes_the_query_as_the_chat_model_reads_it(tmp_path, saved):
    samples = Samples([TALK, "Name? {response}", ""], ["4", "{prompt}", "Bob"])
    with server(lengths) as (url, requests):
        reward = RemoteReward(url, template=chat_tokenizer())
        if saved:
            reward.save_pretrained(tmp_path / "reward")
            reward = load_reward(tmp_path / "reward", trust=True)
        reward(samples)
    _, body, _ = requests[0]
    assert body["query"] == [
        "<|start|>system\nBe brief.<|end|><|start|>user\nhi<|end|><|start|>assistant\nhello<|end|>"
        "<|start|>user\n2+2?<|end|><|start|>assistant\n4<|end|>",
        "<|start|>user\nName? {response}<|end|><|start|>assistant\n{prompt}<|end|>",
        "<|start|>user\n<|end|><|start|>assistant\nBob<|end|>",
    ]
    answered = ["4<|end|>", "{prompt}<|end|>", "Bob<|end|>"]
    for query, prompt, end in zip(body["query"], body["prompts"], answered, strict=True):
        assert query == prompt + end


def test_prompt_and_response_are_glued_together_with_a_word_only(caplog):
    with server(lengths) as (url, _):
        reward = RemoteReward(url)
        reward(Samples(["", ""], ["a", "b"]))
        assert not caplog.text
        reward(TEXTS)
        reward(TEXTS)
        assert caplog.text.count("--query-template") == 1
        caplog.clear()
        RemoteReward(url, "{prompt}{response}")(TEXTS)
        RemoteReward(url, template=chat_tokenizer())(TEXTS)
        assert not caplog.text


def test_a_conversation_needs_a_form_for_its_turns():
    with server(lengths) as (url, requests):
        for query in (None, "{prompt} {response}"):
            with pytest.raises(
                InputError, match=r"4 messages, and a query by text.*query-template"
            ):
                RemoteReward(url, query)(Samples([TALK], ["4"]))
        assert not requests
        RemoteReward(url, "A: {response}")(Samples([TALK], ["4"]))
        assert requests[0][1] == {"query": ["A: 4"], "prompts": [messages_of(TALK)]}


def test_templates_that_cannot_be_used_are_refused(tmp_path):
    tiny_tokenizer().save_pretrained(tmp_path)
    with pytest.raises(InputError, match="has no chat template"):
        RemoteReward("http://127.0.0.1", template=str(tmp_path))
    with pytest.raises(InputError, match="not both"):
        RemoteReward("http://127.0.0.1", "{response}", template=chat_tokenizer())


def test_the_flags_name_query_and_template(tmp_path, capsys):
    chat_tokenizer().save_pretrained(tmp_path / "tokenizer")
    ask = {"role": "user", "content": "2+2?"}
    (tmp_path / "a.jsonl").write_text(json.dumps({"prompt": [ask], "response": "4"}))
    with server(lengths) as (url, requests):
        words = ["score", url, str(tmp_path / "a.jsonl")]
        assert cli.main([*words, "--query-template", str(tmp_path / "tokenizer")]) == 0
        assert cli.main([*words, "--query", r"Q: {prompt}\nA: {response}"]) == 0
    sent = [body["query"] for _, body, _ in requests]
    assert sent == [
        ["<|start|>user\n2+2?<|end|><|start|>assistant\n4<|end|>"],
        ["Q: 2+2?\nA: 4"],
    ]
    for command, option in (("score", "--help-all"), ("attack", "--help"), ("score", "--help")):
        capsys.readouterr()
        with suppress(SystemExit):
            cli.main([command, option])
        assert "--query-template" in capsys.readouterr().out


def dripping(seconds):
    """Return a server of one answer whose bytes come one by one, for so many seconds."""
    listening = socket.create_server(("127.0.0.1", 0))

    def serve():
        connection, _ = listening.accept()
        with listening, connection, suppress(OSError):
            connection.recv(65536)
            connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n")
            end = time.monotonic() + seconds
            while time.monotonic() < end:
                connection.sendall(b" ")
                time.sleep(0.02)

    threading.Thread(target=serve, daemon=True).start()
    return f"http://127.0.0.1:{listening.getsockname()[1]}/rm"


def test_an_answer_that_does_not_end_is_given_up():
    url = dripping(3.0)
    start = time.monotonic()
    with pytest.raises(InputError, match=r"an answer that had not ended after 0\.2 s"):
        post_json(url, {}, timeout=0.2, retries=0)
    assert time.monotonic() - start < 2


def test_an_answer_without_bounds_is_refused(monkeypatch):
    monkeypatch.setattr("rewardlab.endpoints.client.MOST_BYTES", 1000)
    with (
        server(lambda body, count: (200, b" " * 100_000)) as (url, _),
        pytest.raises(InputError, match="answers more than 0 MiB"),
    ):
        post_json(url, {}, retries=0)


@pytest.mark.parametrize(
    "answer",
    [
        b'{"rewards": [1, 2, ' + b"9" * 400 + b"]}",
        b'{"rewards": [1, 2, ' + b"9" * 5000 + b"]}",
        b"[" * 100_000,
        b'{"rewards": [1, 2, "\\ud800"]}',
        b"\xff\xfe",
    ],
)
def test_odd_answers_are_refused_in_a_sentence(answer):
    with (
        server(lambda body, count: (200, answer)) as (url, _),
        pytest.raises(InputError, match="should answer"),
    ):
        RemoteReward(url, retries=0)(TEXTS)
