"""What the server refuses, how it counts, and how it stops."""

from __future__ import annotations

import re
import runpy
import signal
import socket
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from http.client import HTTPConnection
from pathlib import Path
from types import SimpleNamespace
from urllib.parse import urlsplit

import pytest
import torch

from rewardlab.endpoints.wire import PNG, picture_uri
from rewardlab.errors import InputError
from rewardlab.rewards import Length
from rewardlab.rewards.remote import RemoteReward
from rewardlab.serving import Limits
from rewardlab.serving.metrics import CONTENT_TYPE
from rewardlab.serving.server import bound_socket
from rewardlab.types import Samples

SERVED = SimpleNamespace(**runpy.run_path(str(Path(__file__).with_name("served.py"))))
JSON, ask, serving = SERVED.JSON, SERVED.ask, SERVED.serving
Counting, wait_until = SERVED.Counting, SERVED.wait_until
QUERY = {"query": ["two words"]}
SMALL = Limits(body_bytes=2000, rows=2, pixels=30, read_seconds=0.3)


@pytest.fixture(scope="module")
def small():
    with serving(Length(), limits=SMALL) as server:
        yield server


def png(*shape):
    return picture_uri(torch.zeros(shape)).removeprefix(PNG)


@pytest.mark.parametrize(
    ("path", "body", "status", "sentence"),
    [
        ("/get_reward", b"{", 400, "should be JSON; Expecting"),
        ("/get_reward", b"[" * 1500, 400, "should be JSON"),
        ("/get_reward", b'{"query": NaN}', 400, "NaN is no JSON"),
        ("/get_reward", b"\xff\xfe\xff", 400, "should be JSON"),
        ("/get_reward", [1], 422, "should be a JSON object; got list"),
        ("/get_reward", {}, 422, "query should be a text or a list of texts; got NoneType"),
        ("/get_reward", {"query": []}, 422, "got an empty list"),
        ("/get_reward", {"query": ["a", 1]}, 422, r"query\[1\] should be a text; got int"),
        ("/get_reward", {"query": ["a"], "prompts": ["a", "b"]}, 422, "prompts has 2 items"),
        ("/get_reward", {"query": ["a"], "prompts": [{}]}, 422, r"prompts\[0\]: A prompt should"),
        ("/get_reward", {"query": ["a"] * 3}, 413, "query holds 3 items; this server takes 2"),
        ("/get_reward", {"query": ["a" * 2000]}, 413, "may have 2000 bytes"),
        ("/get_reward", b'{"query": ["\\ud800"]}', 422, "half of a surrogate pair"),
        ("/get_reward", {"query": ["a"], "model": 7}, 404, "There is no reward '7' here, only r0"),
        ("/classify", {"input": [1, 2]}, 422, r"input\[0\] should be a text"),
        ("/classify", {"input": "a", "softmax": False}, 422, "Send use_activation"),
        ("/classify", {"input": "a", "use_activation": "no"}, 422, "true or false; got str"),
        ("/classify", {"input": "a", "truncate_prompt_tokens": 9}, 422, "is -1 here"),
        ("/classify", {"messages": [{"role": "user", "content": "a"}]}, 422, "end with the assis"),
        ("/classify", {"messages": "a"}, 422, "should be a list of"),
        ("/v1/embeddings", {"input": "a", "dimensions": 2}, 422, "a reward gives one number"),
        ("/v1/embeddings", {"input": "a", "encoding_format": "int8"}, 422, "float or base64"),
        ("/predict", {"inputs": [["a", "b", "c"]]}, 422, r"inputs\[0\] should be a text, a pair"),
        ("/predict", {"inputs": [["a"], "b"]}, 422, r"inputs\[1\] should be a text, a pair"),
        ("/predict", {"inputs": [["a"]] * 3}, 413, "inputs holds 3 items"),
        ("/compute", {"prompt": ["a"]}, 422, "either image or video"),
        ("/compute", {"prompt": ["a"], "image": ["?"]}, 422, r"image\[0\] is not base64"),
        ("/compute", {"prompt": ["a"], "image": ["aGk="]}, 422, "cannot be read"),
        ("/compute", {"prompt": ["a"], "image": [3]}, 422, "should be base64 of a picture"),
        ("/compute", {"prompt": ["a"], "image": [png(1, 6, 6)]}, 413, "more than 30 pixels"),
        ("/compute", {"prompt": ["a", "b"], "image": [png(1, 2, 2)]}, 422, "a list of 1 texts"),
        ("/compute", {"image": ["x"], "condition_images": [["x"]]}, 422, "prompts and outputs alo"),
        ("/compute", {"video": [[]]}, 422, "a list of frames"),
        ("/compute", {"video": [[png(1, 2, 2), png(1, 2, 3)]]}, 422, "different sizes"),
        ("/verify", {"response": {}}, 422, "two objects"),
        ("/verify", {"responses_create_params": {}, "response": {}}, 422, "input should be a text"),
        (
            "/verify",
            {"responses_create_params": {"input": "a"}, "response": {"output": []}},
            422,
            "should hold the assistant's message",
        ),
    ],
)
def test_a_bad_request_is_refused_in_a_sentence(small, path, body, status, sentence):
    given, answer, _ = ask(small, path, body)
    assert given == status, answer
    words = answer.get("error") or answer["detail"]
    words = words["message"] if isinstance(words, dict) else words
    assert re.search(sentence, words)
    assert "\n" not in words
    assert ask(small, "/get_reward", QUERY)[1]["rewards"] == [2.0]


def test_pixels_are_counted_over_a_request(small):
    images = {"prompt": ["a", "b"], "image": [png(1, 4, 4), png(1, 4, 4)]}
    assert ask(small, "/compute", images)[0] == 413
    videos = {"prompt": ["a"], "video": [[png(1, 4, 4), png(1, 4, 4)]]}
    assert ask(small, "/compute", videos)[0] == 413


def test_paths_and_methods_that_there_are_not(small):
    assert ask(small, "/", QUERY)[0] == 404
    assert ask(small, "/get_reward", None, method="GET")[0] == 405
    assert ask(small, "/health", None, method="GET")[:2] == (200, {"status": "ok"})


def test_a_web_page_cannot_make_a_browser_ask(small):
    """A form's content type is refused, and so is another host name that leads to this machine."""
    assert ask(small, "/get_reward", QUERY, {"Content-Type": "text/plain"})[0] == 415
    headers = {**JSON, "Host": "elsewhere.example"}
    assert ask(small, "/get_reward", QUERY, headers)[0] == 421
    status, _, answer_headers = ask(small, "/get_reward", None, method="OPTIONS")
    assert status == 405
    assert not [name for name in answer_headers if name.lower().startswith("access-control")]


def test_a_body_without_its_length_is_bounded_too(small):
    host, port = urlsplit(small.url).netloc.split(":")
    with socket.create_connection((host, int(port)), timeout=10) as connection:
        head = f"POST /get_reward HTTP/1.1\r\nHost: {host}\r\nTransfer-Encoding: chunked\r\n"
        connection.sendall(f"{head}Content-Type: application/json\r\n\r\n".encode())
        piece = b"400\r\n" + b"x" * 1024 + b"\r\n"
        connection.sendall(piece * 3)
        assert connection.recv(1000).startswith(b"HTTP/1.1 413")


@pytest.mark.parametrize(
    ("sent", "answer"),
    [
        ("", b""),
        ("POST /get_reward HTTP/1.1\r\nHost:", b""),
        (
            "POST /get_reward HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n"
            "Content-Length: 50\r\n\r\n{",
            b"HTTP/1.1 408",
        ),
    ],
)
def test_a_slow_client_is_let_go(small, sent, answer):
    host, port = urlsplit(small.url).netloc.split(":")
    with socket.create_connection((host, int(port)), timeout=10) as connection:
        connection.sendall(sent.encode())
        started = time.monotonic()
        received = b""
        with suppress(ConnectionError):
            while piece := connection.recv(4096):
                received += piece
        assert time.monotonic() - started < 8
    assert received[: len(answer)] == answer
    assert bool(received) == bool(answer)


def test_a_connection_that_is_kept_serves_on(small):
    connection = HTTPConnection(urlsplit(small.url).netloc, timeout=10)
    for pause in (0.0, 0.4):  # longer than a head may take
        time.sleep(pause)
        connection.request("POST", "/get_reward", b'{"query": ["a b c"]}', JSON)
        assert connection.getresponse().read().startswith(b'{"rewards":[3.0]')
    connection.close()


def test_a_token_is_asked_for(monkeypatch):
    with serving(Length(), token="not-a-secret") as server:
        for headers in (
            JSON,
            {**JSON, "Authorization": "Bearer not-a-secre"},
            {**JSON, "Authorization": "Basic not-a-secret"},
            {**JSON, "Authorization": "Bearer é"},
        ):
            encoded = {name: word.encode("utf-8") for name, word in headers.items()}
            status, answer, answer_headers = ask(server, "/get_reward", QUERY, encoded)
            assert status == 401
            assert answer_headers["WWW-Authenticate"] == "Bearer"
            assert "not-a-secret" not in str(answer)
        assert ask(server, "/metrics", None, {}, "GET")[0] == 401
        assert ask(server, "/health", None, {}, "GET")[0] == 200
        monkeypatch.setenv("A_TEST_TOKEN", "not-a-secret")
        remote = RemoteReward(server.url, key_variable="A_TEST_TOKEN")
        assert remote(Samples([""], ["a b"])).tolist() == [2.0]


LINE = re.compile(r'(\w+)\{(\w+="(?:[^"\\]|\\.)*"(?:,\w+="(?:[^"\\]|\\.)*")*)\} (\S+)')


def parsed(text):
    """Return the samples of Prometheus' text form, and the kind of each family."""
    samples = {}
    kinds = {}
    assert text.endswith("\n")
    for line in text.splitlines():
        if line.startswith("# TYPE "):
            _, _, name, kind = line.split()
            kinds[name] = kind
        elif not line.startswith("# HELP "):
            name, labels, value = LINE.fullmatch(line).groups()
            samples[name, labels] = float(value)
    return samples, kinds


def test_metrics_count_what_happened():
    reward = Counting()
    with serving(reward, batch_size=4) as server:
        ask(server, "/get_reward", {"query": ["a", "b", "c"]})
        ask(server, "/predict", {"inputs": "a", "raw_scores": True})
        ask(server, "/predict", b"{")
        status, text, headers = ask(server, "/metrics", None, {}, "GET")
    assert (status, headers["Content-Type"]) == (200, CONTENT_TYPE)
    samples, kinds = parsed(text)
    assert samples["rewardlab_requests_total", 'dialect="openrlhf",status="200"'] == 1
    assert samples["rewardlab_requests_total", 'dialect="tei",status="400"'] == 1
    assert samples["rewardlab_batch_rows_bucket", 'reward="r0",le="1"'] == 1
    assert samples["rewardlab_batch_rows_bucket", 'reward="r0",le="2"'] == 1
    assert samples["rewardlab_batch_rows_bucket", 'reward="r0",le="4"'] == 2
    assert samples["rewardlab_batch_rows_bucket", 'reward="r0",le="+Inf"'] == 2
    assert samples["rewardlab_batch_rows_sum", 'reward="r0"'] == 4
    assert samples["rewardlab_rows_total", 'reward="r0"'] == 4
    assert samples["rewardlab_unscored_total", 'reward="r0"'] == 0
    assert samples["rewardlab_queue_rows", 'reward="r0"'] == 0
    assert samples["rewardlab_request_seconds_count", 'dialect="tei"'] == 2
    assert 0 < samples["rewardlab_request_seconds_sum", 'dialect="tei"'] < 20
    families = {re.sub("_(bucket|sum|count)$", "", name) for name, _ in samples}
    assert families == set(kinds)


def test_a_stop_finishes_what_was_accepted_and_refuses_what_is_new():
    reward = Counting()
    reward.free.clear()
    with serving(reward, batch_size=1) as server, ThreadPoolExecutor(3) as pool:
        answers = [pool.submit(ask, server, "/get_reward", QUERY) for _ in range(3)]
        wait_until(lambda: server.app.in_flight == 3)
        server.handle_exit(signal.SIGTERM, None)
        status, answer, headers = ask(server, "/get_reward", QUERY)
        assert (status, headers["Connection"]) == (503, "close")
        assert answer == {"error": "The server is stopping. Ask another one."}
        assert ask(server, "/health", None, {}, "GET")[0] == 503
        time.sleep(0.3)
        assert not server.should_exit
        reward.free.set()
        assert [future.result()[1]["rewards"] for future in answers] == [[9.0]] * 3
        wait_until(lambda: server.should_exit)
    assert len(reward.batches) == 3


def test_a_stop_does_not_wait_for_ever():
    reward = Counting()
    reward.free.clear()
    limits = Limits(drain_seconds=0.2)
    with serving(reward, limits=limits) as server, ThreadPoolExecutor(1) as pool:
        pool.submit(ask, server, "/get_reward", QUERY)
        wait_until(lambda: server.app.in_flight == 1)
        server.handle_exit(signal.SIGTERM, None)
        wait_until(lambda: server.should_exit, seconds=5)
        reward.free.set()


def test_a_port_in_use_and_addresses_that_are_none():
    taken = bound_socket("127.0.0.1", 0)
    taken.listen()
    port = taken.getsockname()[1]
    with pytest.raises(InputError, match=f"Port {port} of 127.0.0.1 is in use"):
        bound_socket("127.0.0.1", port)
    taken.close()
    with pytest.raises(InputError, match="from 0 to 65535; got 70000"):
        bound_socket("127.0.0.1", 70000)
    with pytest.raises(InputError, match="Cannot listen on"):
        bound_socket("198.51.100.1", 0)  # of documents, so no machine's


@pytest.mark.parametrize("name", ["body_bytes", "rows", "pixels", "queue", "read_seconds"])
def test_bounds_are_above_zero(name):
    with pytest.raises(InputError, match=f"A server's {name} is above 0; got 0"):
        Limits(**{name: 0})
