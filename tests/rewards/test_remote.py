import json
import threading
import time
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
import torch

from rewardlab.endpoints.client import post_json
from rewardlab.errors import InputError
from rewardlab.rewards.remote import RemoteReward
from rewardlab.testing import RewardConformance
from rewardlab.types import Samples

TEXTS = Samples(
    ["say hi ", "say bye ", ""], ["hi", "good bye", ""], {"row": torch.tensor([7, 8, 9])}
)


@contextmanager
def server(answer):
    """Serve `answer(body, headers) -> (status, plain data or bytes)` on loopback, and yield its URL
    and what it was sent.
    """
    seen = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self):
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            seen.append((self.path, body, dict(self.headers)))
            status, data = answer(body, len(seen))
            content = data if isinstance(data, bytes) else json.dumps(data).encode()
            try:
                self.send_response(status)
                self.send_header("Location", "/elsewhere") if status == 302 else None
                self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                self.wfile.write(content)
            except ConnectionError:
                pass  # the client gave up waiting

        def log_message(self, *args):
            pass

    listening = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(
        target=listening.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True
    )
    thread.start()
    try:
        yield f"http://127.0.0.1:{listening.server_port}", seen
    finally:
        listening.shutdown()
        listening.server_close()
        thread.join()


def lengths(body, count):
    return 200, {
        "rewards": [
            len(query) - len(prompt)
            for query, prompt in zip(body["query"], body["prompts"], strict=True)
        ]
    }


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
    with server(lengths) as (url, seen):
        scores = RemoteReward(url, batch_size=2, query="<u>{prompt}<a>{response}")(TEXTS)
    assert scores.tolist() == [8.0, 14.0, 6.0]
    assert scores.dtype == torch.float32
    assert [(path, body) for path, body, _ in seen] == [
        (
            "/get_reward",
            {
                "query": ["<u>say hi <a>hi", "<u>say bye <a>good bye"],
                "prompts": ["say hi ", "say bye "],
            },
        ),
        ("/get_reward", {"query": ["<u><a>"], "prompts": [""]}),
    ]


def test_a_busy_server_is_asked_again_and_a_path_is_kept():
    with server(lambda body, count: lengths(body, count) if count == 3 else (503, b"busy")) as (
        url,
        seen,
    ):
        assert RemoteReward(f"{url}/rm", wait=0.01)(TEXTS).tolist() == [2.0, 8.0, 0.0]
    assert [path for path, _, _ in seen] == ["/rm"] * 3


def test_it_gives_up_after_the_last_try():
    with (
        server(lambda body, count: (503, b"busy")) as (url, seen),
        pytest.raises(InputError, match=r"failed 3 times.*503.*busy"),
    ):
        RemoteReward(url, retries=2, wait=0.01)(TEXTS)
    assert len(seen) == 3
    with pytest.raises(InputError, match=r"failed 2 times.*refused"):
        RemoteReward(url, retries=1, wait=0.01)(TEXTS)


def test_the_waits_double(monkeypatch):
    waits = []
    monkeypatch.setattr(time, "sleep", waits.append)
    with server(lambda body, count: (429, b"")) as (url, _), pytest.raises(InputError, match="429"):
        post_json(url, {}, retries=4, wait=0.5)
    assert waits == [0.5, 1.0, 2.0, 4.0]


def test_a_server_that_does_not_answer_is_left():
    def slow(body, count):
        time.sleep(0.3)
        return lengths(body, count)

    with server(slow) as (url, _), pytest.raises(InputError, match=r"failed 1 times.*timed out"):
        RemoteReward(url, timeout=0.05, retries=0)(TEXTS)


@pytest.mark.parametrize(
    ("status", "data", "words"),
    [
        (404, b"no such path", "refused the request with 404.*no such path"),
        (302, b"", "refused the request with 302"),
        (200, b"<html>", "should answer JSON"),
        (200, [1, 2, 3], "OpenRLHF's form"),
        (200, {"scores": [1, 2, 3]}, "OpenRLHF's form"),
        (200, {"rewards": [1, 2]}, "with 3 numbers"),
        (200, {"rewards": [1, 2, None]}, "with 3 numbers"),
        (200, {"rewards": [1, 2, True]}, "with 3 numbers"),
        (200, {"rewards": [[1], [2], [3]]}, "with 3 numbers"),
        (200, {"rewards": [1, float("nan"), 3]}, r"nan to sample 1 \(row 8\)"),
        (200, {"rewards": [1, 2, float("-inf")]}, r"-inf to sample 2 \(row 9\)"),
    ],
)
def test_answers_that_are_no_scores_are_refused_at_once(status, data, words):
    with (
        server(lambda body, count: (status, data)) as (url, seen),
        pytest.raises(InputError, match=words),
    ):
        RemoteReward(url, wait=0.01)(TEXTS)
    assert len(seen) == 1


def test_the_key_comes_from_the_environment_and_is_not_kept(monkeypatch):
    monkeypatch.setenv("A_TEST_KEY", "not-a-secret\n")
    with server(lengths) as (url, seen):
        reward = RemoteReward(url, key_variable="A_TEST_KEY")
        reward(TEXTS)
    assert seen[0][2]["Authorization"] == "Bearer not-a-secret"
    assert "not-a-secret" not in str(vars(reward))
    monkeypatch.delenv("A_TEST_KEY")
    with pytest.raises(InputError, match="A_TEST_KEY"):
        reward(TEXTS)


def test_loopback_is_reached_without_the_proxy(monkeypatch):
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    monkeypatch.delenv("no_proxy", raising=False)
    with server(lengths) as (url, _):
        assert RemoteReward(url, retries=0)(TEXTS).tolist() == [2.0, 8.0, 0.0]


@pytest.mark.parametrize("url", ["file:///etc/hosts", "localhost:5000", "http://"])
def test_other_urls_are_refused(url):
    with pytest.raises(InputError, match="begins with http"):
        RemoteReward(url)


def test_images_and_useless_arguments_are_refused():
    with pytest.raises(InputError, match="sends texts"):
        RemoteReward("http://127.0.0.1")(Samples([""], torch.zeros(1, 3, 2, 2)))
    with pytest.raises(InputError, match="response"):
        RemoteReward("http://127.0.0.1", query="{prompt}")
