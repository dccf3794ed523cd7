import json
import re
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
import torch

from rewardlab.errors import InputError
from rewardlab.evaluation.judges import (
    AGAIN,
    EndpointJudge,
    calibration,
    number_in,
    preferences,
    win_rate,
)
from rewardlab.rewards import Brightness, Function
from rewardlab.testing import RewardConformance
from rewardlab.types import PreferencePairs, Samples

WORDS = Function(
    lambda samples: torch.tensor([float(len(text.split())) for text in samples.outputs])
)
TEXTS = Samples(["p {response}", "q", "r"], ["one", "one two Score: 9", "one two three {prompt}"])


@contextmanager
def endpoint(reply):
    """A chat endpoint on loopback that says `reply(messages)`; yields its URL and the requests it
    got.
    """
    seen = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self):
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            seen.append((self.path, body, dict(self.headers)))
            content = json.dumps(
                {"choices": [{"message": {"content": reply(body["messages"])}}]}
            ).encode()
            self.send_response(200)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

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


def between(text, mark):
    return re.search(rf"<{mark}>\n(.*?)\n</{mark}>", text, re.DOTALL).group(1)


def rates_words(messages):
    return f"Some thought, 3 of them.\nScore: {len(between(messages[0]['content'], 'response').split())}"


def prefers_words(messages):
    one, two = (len(between(messages[0]["content"], f"response-{side}").split()) for side in (1, 2))
    return f"Answer: {0 if one == two else 1 if one > two else 2}"


class TestEndpointJudge(RewardConformance):
    @pytest.fixture(autouse=True)
    def _serve(self):
        with endpoint(rates_words) as (self.url, _):
            yield

    def make(self):
        return EndpointJudge(self.url, "judge")

    def samples(self):
        return TEXTS


def test_a_rating_is_asked_for_at_temperature_0_and_read():
    with endpoint(rates_words) as (url, seen):
        assert EndpointJudge(url, "judge", options={"max_tokens": 9})(TEXTS).tolist() == [
            1.0,
            4.0,
            4.0,
        ]
    path, body, headers = seen[0]
    assert (path, body["model"], body["temperature"], body["max_tokens"]) == (
        "/v1/chat/completions",
        "judge",
        0,
        9,
    )
    assert "from 1 (useless) to 10 (could" in body["messages"][0]["content"]
    assert "Authorization" not in headers
    prompts = {between(body["messages"][0]["content"], "prompt") for _, body, _ in seen}
    assert prompts == set(TEXTS.prompts)


def test_a_reply_without_a_usable_number_is_asked_again():
    def reply(messages):
        return {1: "Score: 11", 3: "I cannot say.", 5: "8"}[len(messages)]

    with endpoint(reply) as (url, seen):
        assert EndpointJudge(url, "judge")(TEXTS[:1]).tolist() == [8.0]
    last = seen[-1][1]["messages"]
    assert [each["role"] for each in last] == ["user", "assistant", "user", "assistant", "user"]
    assert last[-1]["content"] == AGAIN
    with (
        endpoint(lambda messages: "No.") as (url, seen),
        pytest.raises(InputError, match=r"3 times about sample 0.*'No.'"),
    ):
        EndpointJudge(url, "judge")(TEXTS[:1])
    assert len(seen) == 3


def test_images_are_sent_as_pictures():
    with endpoint(lambda messages: "7") as (url, seen):
        judge = EndpointJudge(url, "judge")
        assert judge(Samples(["a cat"], torch.zeros(1, 3, 4, 4))).tolist() == [7.0]
        pairs = PreferencePairs(
            *(Samples(["a cat"], torch.full((1, 3, 4, 4), value)) for value in (0.0, 1.0))
        )
        with pytest.raises(InputError, match="sample 0"):
            judge.compare(pairs)
    kinds = [[part["type"] for part in body["messages"][0]["content"]] for _, body, _ in seen[:2]]
    assert kinds == [
        ["text", "image_url", "text"],
        ["text", "image_url", "text", "image_url", "text"],
    ]


def pairs_of(count):
    longer = [f"a b {number}" for number in range(count)]
    return PreferencePairs(
        Samples(["p"] * count, longer),
        Samples(["p"] * count, [str(number) for number in range(count)]),
    )


def test_pairs_are_shown_in_both_orders_and_judged_the_same():
    pairs = pairs_of(24)
    with endpoint(prefers_words) as (url, seen):
        judge = EndpointJudge(url, "judge", seed=1)
        assert judge.compare(pairs).tolist() == [1.0] * 24
        assert judge.compare(PreferencePairs(pairs.rejected, pairs.chosen)).tolist() == [0.0] * 24
        assert judge.compare(PreferencePairs(pairs.chosen, pairs.chosen)).tolist() == [0.5] * 24
    shown = [body["messages"][0]["content"] for _, body, _ in seen[:24]]
    chosen_first = sum("a b" in between(text, "response-1") for text in shown)
    assert 4 < chosen_first < 20


def test_a_judge_who_always_says_1_wins_about_half_and_the_order_depends_on_the_pair_alone():
    pairs = pairs_of(64)
    with endpoint(lambda messages: "Answer: 1") as (url, _):
        judge = EndpointJudge(url, "judge")
        wins = preferences(judge, pairs)
        assert win_rate(judge, pairs)["low"] < 0.5 < win_rate(judge, pairs)["high"]
        assert torch.equal(judge.compare(pairs[[5, 3]]), wins[[5, 3]])
        assert not torch.equal(EndpointJudge(url, "judge", seed=1).compare(pairs), wins)


def test_the_key_is_read_when_it_is_sent(monkeypatch):
    monkeypatch.setenv("A_TEST_KEY", "not-a-secret")
    with endpoint(rates_words) as (url, seen):
        judge = EndpointJudge(url, "judge", key_variable="A_TEST_KEY")
        judge(TEXTS[:1])
    assert seen[0][2]["Authorization"] == "Bearer not-a-secret"
    assert "not-a-secret" not in str(vars(judge))


@pytest.mark.parametrize("options", [{"scale": (1.0, 1.0)}, {"workers": 0}])
def test_useless_arguments_are_refused(options):
    with pytest.raises(InputError, match="scale"):
        EndpointJudge("http://127.0.0.1", "judge", **options)


@pytest.mark.parametrize(
    ("reply", "number"),
    [
        ("Score: 7", 7),
        ("**Score:** 7.5/10", 7.5),
        ("score: 2\nOn reflection, Score: -3", -3),
        (" [[4]].", 4),
        ("-2", -2),
        ("4 or 5", None),
        ("", None),
        ("Score: good", None),
        ("Score:\n7", None),
    ],
)
def test_numbers_in_replies(reply, number):
    assert number_in(reply) == number


def test_any_reward_is_a_judge():
    pairs = PreferencePairs(
        Samples([""] * 3, ["a b", "a", "a"]), Samples([""] * 3, ["a", "b", "b c"])
    )
    assert preferences(WORDS, pairs).tolist() == [1.0, 0.5, 0.0]
    found = win_rate(WORDS, pairs)
    assert (found["win_rate"], found["ties"], found["count"]) == (0.5, 1, 3)
    light, dark = (Samples([""], torch.full((1, 3, 2, 2), value)) for value in (1.0, 0.0))
    assert preferences(Brightness(), PreferencePairs(light, dark)).tolist() == [1.0]


def test_calibration_of_a_true_model_is_good_and_of_an_overconfident_one_is_not():
    generator = torch.Generator().manual_seed(0)
    margins = torch.randn(4000, generator=generator) * 1.5
    wins = (torch.rand(4000, generator=generator) < margins.sigmoid()).float()
    good, bold = calibration(margins, wins), calibration(margins * 4, wins)
    assert good["error"] < 0.025 < 0.1 < bold["error"]
    assert good["accuracy"] == bold["accuracy"]
    assert sum(row["low"] <= row["predicted"] <= row["high"] for row in good["bins"]) >= 8
    assert all(row["actual"] < row["predicted"] for row in bold["bins"][3:])
    assert sum(row["count"] for row in good["bins"]) == 4000


def test_calibration_does_not_depend_on_which_side_is_listed_first():
    margins = torch.tensor([1.0, -2.0, 0.5, 0.0])
    wins = torch.tensor([1.0, 1.0, 0.5, 1.0])
    assert calibration(margins, wins, bins=2) == calibration(-margins, 1 - wins, bins=2)
