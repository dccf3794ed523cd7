"""The client's time-outs, retries, concurrency, and what it leaves unscored."""

from __future__ import annotations

import json
import runpy
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from rewardlab.endpoints import client
from rewardlab.endpoints.client import ServerError, post_json
from rewardlab.errors import InputError
from rewardlab.rewards import load_reward
from rewardlab.rewards.remote import RemoteReward
from rewardlab.rewards.scoring import judged, scores_of
from rewardlab.types import Samples

REMOTE = SimpleNamespace(**runpy.run_path(str(Path(__file__).with_name("test_remote.py"))))
server, lengths, slow, busy = REMOTE.server, REMOTE.lengths, REMOTE.slow, REMOTE.busy
MANY = Samples([""] * 23, ["x" * length for length in range(23)])


def waiting(body, count):
    """Answer the sooner the later a request came."""
    time.sleep(0.3 if count == 1 else 0.02)
    return lengths(body, count)


def test_requests_under_way_at_once_keep_the_order():
    most = []

    def answer(body, count):
        most.append(count)
        time.sleep(0.15)
        return waiting(body, count)

    with server(answer) as (url, requests):
        reward = RemoteReward(url, "{response}", batch_size=2, concurrency=6)
        started = time.monotonic()
        scores = reward(MANY)
        seconds = time.monotonic() - started
    assert scores.tolist() == list(range(23))
    assert len(requests) == 12
    assert seconds < 12 * 0.15


def test_the_total_time_bounds_tries_and_waits():
    with server(busy) as (url, requests):
        started = time.monotonic()
        with pytest.raises(ServerError, match=r"failed \d times, at last with 503") as error:
            post_json(url, {}, retries=100, wait=0.05, total=0.6)
        assert time.monotonic() - started < 5
    assert 2 <= len(requests) <= 5
    assert error.value.status == 503
    with server(slow) as (url, _), pytest.raises(InputError, match=r"failed 1 times.*timed out"):
        RemoteReward(url, retries=0, total_timeout=0.1)(MANY)


def test_waits_vary_by_a_quarter_and_heed_retry_after(monkeypatch):
    waits = []
    monkeypatch.setattr(time, "sleep", waits.append)
    with server(lambda body, count: (429, b"")) as (url, _):
        for _ in range(4):
            with pytest.raises(InputError):
                RemoteReward(url, retries=3, wait=0.5)(MANY[:1])
    assert len(waits) == 12
    for place, seconds in enumerate(waits):
        middle = 0.5 * 2 ** (place % 3)
        assert 0.75 * middle <= seconds <= 1.25 * middle
    assert len(set(waits)) == 12
    patience = client.Patience(timeout=3.0)
    waits.clear()
    assert client._waited(patience, 1, 2.0, float("inf"))
    assert client._waited(patience, 1, 60.0, float("inf"))
    assert not client._waited(patience, 1, 2.0, time.monotonic() + 1)
    assert waits == [2.0, 3.0]


@pytest.mark.parametrize(
    ("answer", "reason"),
    [(busy, "503 Service Unavailable: busy"), (slow, "timed out")],
    ids=["busy", "slow"],
)
def test_a_server_that_fails_leaves_samples_unscored_up_to_a_share(answer, reason):
    with server(answer) as (url, _):
        reward = RemoteReward(url, timeout=0.1, retries=1, wait=0.01, most_unscored=1.0)
        result = judged(reward, MANY[:3])
        assert result.scores.isnan().all()
        assert all(reason in words for words in result.reasons)
        with pytest.raises(InputError, match="each one has to be scored"):
            scores_of(reward, MANY[:3])
        some = RemoteReward(url, timeout=0.1, retries=0, most_unscored=0.02)
        with pytest.raises(InputError, match=r"more than most_unscored=0\.02 allows"):
            judged(some, MANY[:3])


def picky(body, count):
    """Refuse a request with a long text, as vLLM and TEI do."""
    if any(len(text) > 20 for text in body["query"]):
        return 413, {"error": "too long"}
    return lengths(body, count)


def test_the_one_text_that_a_server_refuses_is_found():
    with server(picky) as (url, requests):
        reward = RemoteReward(url, "{response}", batch_size=8, most_unscored=0.5)
        result = judged(reward, MANY)
        assert result.scores[:21].tolist() == list(range(21))
        assert result.scores[21:].isnan().all()
        assert "413" in result.reasons[22]
        assert "too long" in result.reasons[22]
        assert len(requests) == 3 + 7
        with pytest.raises(InputError, match="refused the request with 413"):
            RemoteReward(url, "{response}")(MANY)


def buggy(body, count):
    """Fail as rewardlab's own server does, where one row brings about a bug."""
    if any(len(text) > 20 for text in body["query"]):
        return 500, {"error": "a bug"}
    return lengths(body, count)


def test_the_one_text_that_a_server_fails_at_is_found_without_waiting_again():
    with server(buggy) as (url, requests):
        reward = RemoteReward(
            url, "{response}", batch_size=8, retries=1, wait=0.01, most_unscored=0.5
        )
        result = judged(reward, MANY)
        assert result.scores[:21].tolist() == list(range(21))
        assert "500" in result.reasons[22]
        assert len(requests) == 2 + 2 + 7


@pytest.mark.parametrize("status", [401, 403, 404])
def test_a_refusal_of_the_client_ends_the_run_whatever_is_allowed(status):
    with (
        server(lambda body, count: (status, b"no")) as (url, _),
        pytest.raises(InputError, match=f"refused the request with {status}"),
    ):
        judged(RemoteReward(url, most_unscored=1.0), MANY)


def test_null_and_numbers_that_are_none_are_not_scored():
    def answer(body, count):
        rewards = [1.5, None, float("nan")]
        return 200, {"rewards": rewards, "reasons": ["", "it is rude", ""]}

    with server(answer) as (url, _):
        result = judged(RemoteReward(url, most_unscored=1.0), MANY[:3])
    assert result.scores[0].item() == 1.5
    assert [words.removeprefix("RemoteReward: ") for words in result.reasons] == [
        "",
        "it is rude",
        "the server's score is nan",
    ]


@pytest.mark.parametrize(
    ("dialect", "answer"),
    [
        ("vllm", {"data": [{"index": 0, "probs": [0.1, 0.9]}]}),
        ("vllm", {"data": [{"probs": [0.1]}]}),
        ("vllm", {"data": []}),
        ("sglang", {"data": [{"index": 0, "embedding": [0.1] * 8}]}),
        ("sglang", {"embedding": [0.1]}),
        ("tei", {"score": 0.1}),
        ("tei", [[{"score": 0.1}, {"score": 0.9}]]),
        ("tei", [{"score": 0.1}]),
    ],
)
def test_answers_of_another_form_are_refused(dialect, answer):
    with (
        server(lambda body, count: (200, answer)) as (url, requests),
        pytest.raises(InputError, match=r"with 1 numbers, one an output.*Is it a reward server in"),
    ):
        RemoteReward(url, dialect=dialect)(MANY[:1])
    assert len(requests) == 1


def test_answers_are_put_in_order_by_their_index():
    data = [{"index": 1, "probs": [0.25]}, {"index": 0, "probs": [0.5]}]
    with server(lambda body, count: (200, {"data": data})) as (url, requests):
        scores = RemoteReward(url, "{prompt}{response}", dialect="vllm")(MANY[:2])
    assert scores.tolist() == [0.5, 0.25]
    path, body, _ = requests[0]
    assert path == "/classify"
    assert body == {"input": ["", "x"], "use_activation": False}


def test_folders_of_before_load_and_new_settings_are_kept(tmp_path):
    reward = RemoteReward(
        "http://127.0.0.1:9/rm?reward=a-b.1",
        dialect="tei",
        total_timeout=7.0,
        concurrency=3,
        most_unscored=0.25,
    )
    reward.save_pretrained(tmp_path / "new")
    loaded = load_reward(tmp_path / "new", trust=True)
    for name in ("url", "dialect", "total_timeout", "concurrency", "most_unscored"):
        assert getattr(loaded, name) == getattr(reward, name)
    config = tmp_path / "new" / "config.json"
    settings = json.loads(config.read_text())
    for name in ("dialect", "total_timeout", "concurrency", "most_unscored"):
        del settings[name]
    config.write_text(json.dumps(settings))
    old = load_reward(tmp_path / "new", trust=True)
    assert (old.dialect, old.total_timeout, old.concurrency, old.most_unscored) == (
        "openrlhf",
        None,
        1,
        0.0,
    )


@pytest.mark.parametrize(
    "options",
    [
        {"dialect": "grpc"},
        {"dialect": ["vllm"]},
        {"concurrency": 0},
        {"concurrency": 2.5},
        {"most_unscored": 1.5},
        {"total_timeout": 0.0},
        {"timeout": 0},
        {"timeout": float("nan")},
        {"timeout": "5"},
        {"wait": -1},
        {"retries": -1},
        {"batch_size": 2.5},
    ],
)
def test_settings_out_of_range_are_refused(options):
    with pytest.raises(InputError):
        RemoteReward("http://127.0.0.1:9", **options)


def test_images_are_sent_as_their_form_says(caplog):
    images = Samples(["a"], torch.zeros(1, 3, 2, 2))
    videos = Samples(["a"], torch.zeros(1, 4, 3, 2, 2))
    with server(lambda body, count: (200, {"rewards": [0.5]})) as (url, requests):
        reward = RemoteReward(url, dialect="flow-factory")
        assert reward(images).tolist() == reward(videos).tolist() == [0.5]
    (path, one, _), (_, other, _) = requests
    assert path == "/compute"
    assert one["prompt"] == other["prompt"] == ["a"]
    assert one["image"][0].startswith("iVBOR")
    assert len(other["video"][0]) == 4
    assert not caplog.messages  # no word of queries, which are of texts


def test_pixels_out_of_range_are_refused_and_not_clamped():
    reward = RemoteReward("http://127.0.0.1:9", dialect="flow-factory")
    with pytest.raises(InputError, match=r"RemoteReward scores images in \[0, 1\]"):
        reward(Samples(["a"], torch.full((1, 3, 2, 2), -1.0)))


def test_a_url_that_names_a_reward_alone_gets_the_forms_path():
    reward = RemoteReward("http://127.0.0.1:9?reward=eye", dialect="flow-factory")
    assert reward.url == "http://127.0.0.1:9/compute?reward=eye"
