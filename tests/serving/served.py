"""A server on a thread, and requests to it, for tests."""

from __future__ import annotations

import json
import threading
import time
from contextlib import contextmanager
from http.client import HTTPConnection
from urllib.parse import urlsplit

import torch

from rewardlab.rewards.base import Reward
from rewardlab.serving import RewardApp, RewardServer, Scorer
from rewardlab.serving.server import bound_socket

JSON = {"Content-Type": "application/json"}


class Counting(Reward):
    """The number of characters; it counts its batches, and can be held until it is released."""

    def __init__(self) -> None:
        super().__init__()
        self.batches = []
        self.free = threading.Event()
        self.free.set()

    def forward(self, samples):
        self.batches.append(len(samples))
        assert self.free.wait(20)
        if isinstance(samples.outputs, torch.Tensor):
            return samples.outputs.flatten(1).mean(1)
        return torch.tensor([float(len(text)) for text in samples.outputs])


@contextmanager
def serving(*rewards, limits=None, token=None, batch_size=64, max_wait=0.0, queue=4096):
    """Serve rewards called r0, r1, … on loopback; yields the RewardServer."""
    scorers = []
    for number, reward in enumerate(rewards):
        scorers.append(Scorer(f"r{number}", reward, batch_size, max_wait, queue))
    server = RewardServer(RewardApp(scorers, limits, token), bound_socket("127.0.0.1", 0))
    thread = threading.Thread(target=server.serve_rewards, daemon=True)
    thread.start()
    try:
        wait_until(lambda: server.started)
        yield server
    finally:
        server.should_exit = True
        server.force_exit = True
        thread.join(10)
        assert not thread.is_alive()


def wait_until(is_true, seconds=10.0):
    """Wait until a function says yes."""
    deadline = time.monotonic() + seconds
    while not is_true():
        assert time.monotonic() < deadline
        time.sleep(0.005)


def ask(server, path, body=None, headers=JSON, method="POST"):
    """Return status, parsed answer and headers; `body` is plain data or bytes."""
    connection = HTTPConnection(urlsplit(server.url).netloc, timeout=20)
    content = body if isinstance(body, bytes | None) else json.dumps(body).encode()
    try:
        connection.request(method, path, content, dict(headers))
        response = connection.getresponse()
        answer = response.read().decode()
        kind = response.headers.get("Content-Type", "")
        parsed = json.loads(answer) if kind.startswith("application/json") else answer
        return response.status, parsed, response.headers
    finally:
        connection.close()


def verify_body(prompt, response):
    """Return a request of NeMo Gym."""
    message = {
        "type": "message",
        "role": "assistant",
        "content": [{"type": "output_text", "text": response}],
    }
    return {
        "responses_create_params": {"input": prompt},
        "response": {"output": [message]},
        "task": 7,
    }
