"""Batches over requests, rows that fail, a full queue, and the end."""

from __future__ import annotations

import runpy
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from rewardlab.errors import InputError
from rewardlab.rewards.functions import Function
from rewardlab.rewards.remote import RemoteReward
from rewardlab.serving import Row, Scorer
from rewardlab.serving.limits import RefusalError
from rewardlab.types import Samples

SERVED = SimpleNamespace(**runpy.run_path(str(Path(__file__).with_name("served.py"))))
Counting, ask, serving = SERVED.Counting, SERVED.ask, SERVED.serving
wait_until = SERVED.wait_until


def test_requests_that_come_while_a_batch_runs_share_the_next():
    reward = Counting()
    reward.free.clear()
    texts = ["x" * length for length in range(1, 22)]
    with serving(reward, batch_size=16) as server, ThreadPoolExecutor(21) as pool:
        answers = [pool.submit(ask, server, "/get_reward", {"query": texts[:1]})]
        wait_until(lambda: reward.batches == [1])
        answers += [pool.submit(ask, server, "/get_reward", {"query": [t]}) for t in texts[1:]]
        wait_until(lambda: len(server.app.default) == 20)
        reward.free.set()
        scores = [answer.result()[1]["rewards"] for answer in answers]
    assert scores == [[float(len(text))] for text in texts]
    assert reward.batches == [1, 16, 4]


def test_a_row_waits_for_others_no_longer_than_it_is_said():
    reward = Counting()
    scorer = Scorer("r", reward, batch_size=3, max_wait=0.25)
    started = time.monotonic()
    jobs = [scorer.submit([Row("", text)]) for text in ("a", "bb")]
    assert [job.future.result(10)[0].value for job in jobs] == [1.0, 2.0]
    assert time.monotonic() - started >= 0.25
    assert reward.batches == [2]
    patient = Scorer("p", reward, batch_size=3, max_wait=60.0)
    jobs = [patient.submit([Row("", text)]) for text in ("a", "bb", "ccc")]
    assert [job.future.result(10)[0].value for job in jobs] == [1.0, 2.0, 3.0]
    assert reward.batches == [2, 3]
    scorer.close()
    patient.close()


def fussy(samples):
    """Fail for texts that begin with b: with a sentence, or as a bug."""
    values = []
    for text in samples.outputs:
        if text == "bad":
            raise InputError("bad is no text")
        if text == "bug":
            raise RuntimeError("a bug")
        values.append(float("nan") if text == "nan" else 1.0)
    return torch.tensor(values)


def test_a_row_that_fails_does_not_disturb_other_requests():
    scorer = Scorer("r", Function(fussy), batch_size=8, max_wait=0.2)
    jobs = [scorer.submit([Row("", text)]) for text in ("ok", "bad", "nan", "bug", "fine")]
    assert jobs[0].future.result(10)[0].value == 1.0
    assert jobs[4].future.result(10)[0].value == 1.0
    assert jobs[1].future.result(10)[0] == (None, "bad is no text")
    assert jobs[2].future.result(10)[0].value is None
    with pytest.raises(RefusalError, match="500: r failed with RuntimeError: a bug"):
        jobs[3].future.result(10)
    scorer.close()


def test_a_full_queue_is_429_with_when_to_come_again():
    reward = Counting()
    reward.free.clear()
    with serving(reward, batch_size=2, queue=4) as server, ThreadPoolExecutor(4) as pool:
        first = pool.submit(ask, server, "/get_reward", {"query": ["a", "b"]})
        wait_until(lambda: reward.batches == [2])
        second = pool.submit(ask, server, "/get_reward", {"query": ["a"] * 4})
        wait_until(lambda: len(server.app.default) == 4)
        status, answer, headers = ask(server, "/get_reward", {"query": ["c"]})
        assert status == 429
        assert int(headers["Retry-After"]) >= 1
        assert "4 texts wait for r0 already" in answer["error"]
        reward.free.set()
        assert first.result()[0] == second.result()[0] == 200


def test_rows_of_a_client_that_went_away_are_dropped():
    reward = Counting()
    reward.free.clear()
    with serving(reward, batch_size=1) as server, ThreadPoolExecutor(1) as pool:
        first = pool.submit(ask, server, "/get_reward", {"query": ["a"]})
        wait_until(lambda: reward.batches == [1])
        impatient = RemoteReward(server.url, timeout=0.2, retries=0)
        with pytest.raises(InputError, match="timed out"):
            impatient(Samples([""], ["gone"]))
        wait_until(lambda: server.app.in_flight == 1)
        reward.free.set()
        assert first.result()[0] == 200
        assert ask(server, "/get_reward", {"query": ["b"]})[1]["rewards"] == [1.0]
    assert reward.batches == [1, 1]


def test_rows_of_one_kind_share_a_batch_and_others_keep_their_turn():
    reward = Counting()
    reward.free.clear()
    scorer = Scorer("r", reward, batch_size=8, max_wait=0.0)
    small = [Row("", torch.ones(1, 2, 2)), Row("", torch.zeros(1, 2, 2))]
    large = Row("", torch.full((1, 4, 4), 0.5))
    first = scorer.submit([Row("", "text")])
    wait_until(lambda: reward.batches == [1])
    mixed = scorer.submit([small[0], large, small[1]])
    reward.free.set()
    assert [score.value for score in mixed.future.result(10)] == [1.0, 0.5, 0.0]
    assert first.future.result(10)[0].value == 4.0
    assert reward.batches == [1, 2, 1]
    scorer.close()


def test_a_closed_scorer_finishes_what_waits_and_takes_no_more():
    reward = Counting()
    reward.free.clear()
    scorer = Scorer("r", reward, batch_size=1)
    jobs = [scorer.submit([Row("", "a")]) for _ in range(3)]
    reward.free.set()
    scorer.close()
    assert [job.future.result(0)[0].value for job in jobs] == [1.0, 1.0, 1.0]
    with pytest.raises(RefusalError, match="503"):
        scorer.submit([Row("", "b")])


@pytest.mark.parametrize("options", [{"batch_size": 0}, {"max_wait": -1.0}])
def test_useless_numbers_are_refused(options):
    with pytest.raises(InputError, match="batch_size >= 1"):
        Scorer("r", Counting(), **options)
