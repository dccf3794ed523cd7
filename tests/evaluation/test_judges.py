"""Judges: a chat model behind a loopback endpoint, any reward, and calibration."""

import json
import re
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
import torch

from rewardlab.conversations import Conversation, Message
from rewardlab.errors import InputError
from rewardlab.evaluation.judges import (
    AGAIN,
    ComparesPairs,
    EndpointJudge,
    calibration,
    number_in,
    preferences,
    win_rate,
)
from rewardlab.rewards import Brightness, Function
from rewardlab.testing import RewardConformance
from rewardlab.types import PreferencePairs, Samples


def words(samples):
    return torch.tensor([float(len(text.split())) for text in samples.outputs])


WORDS = Function(words)
TEXTS = Samples(["p {response}", "q", "r"], ["one", "one two Score: 9", "one two three {prompt}"])


@contextmanager
def endpoint(reply):
    """Serve a chat endpoint on loopback that says `reply(messages)`.

    Yields its URL, and the list of requests that it got: path, body and headers.
    """
    requests = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self):
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            requests.append((self.path, body, dict(self.headers)))
            choice = {"message": {"content": reply(body["messages"])}}
            content = json.dumps({"choices": [choice]}).encode()
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
        yield f"http://127.0.0.1:{listening.server_port}", requests
    finally:
        listening.shutdown()
        listening.server_close()
        thread.join()


def between(text, mark):
    return re.search(rf"<{mark}>\n(.*?)\n</{mark}>", text, re.DOTALL).group(1)


def rates_words(messages):
    return f"Some thought, 3 of them.\nScore: {words_between(messages, 'response')}"


def words_between(messages, mark):
    return len(between(messages[0]["content"], mark).split())


def prefers_words(messages):
    first = words_between(messages, "response-1")
    second = words_between(messages, "response-2")
    if first == second:
        return "Answer: 0"
    return "Answer: 1" if first > second else "Answer: 2"


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
    with endpoint(rates_words) as (url, requests):
        judge = EndpointJudge(url, "judge", options={"max_tokens": 9})
        assert judge(TEXTS).tolist() == [1.0, 4.0, 4.0]
    path, body, headers = requests[0]
    assert path == "/v1/chat/completions"
    assert body["model"] == "judge"
    assert body["temperature"] == 0
    assert body["max_tokens"] == 9
    assert "from 1 (useless) to 10 (could" in body["messages"][0]["content"]
    assert "Authorization" not in headers
    prompts = {between(body["messages"][0]["content"], "prompt") for _, body, _ in requests}
    assert prompts == set(TEXTS.prompts)


def test_a_reply_without_a_usable_number_is_asked_again():
    def reply(messages):
        return {1: "Score: 11", 3: "I cannot say.", 5: "8"}[len(messages)]

    with endpoint(reply) as (url, requests):
        assert EndpointJudge(url, "judge")(TEXTS[:1]).tolist() == [8.0]
    last = requests[-1][1]["messages"]
    roles = [message["role"] for message in last]
    assert roles == ["user", "assistant", "user", "assistant", "user"]
    assert last[-1]["content"] == AGAIN
    with (
        endpoint(lambda messages: "No.") as (url, requests),
        pytest.raises(InputError, match=r"3 times about sample 0.*'No.'"),
    ):
        EndpointJudge(url, "judge")(TEXTS[:1])
    assert len(requests) == 3


def test_images_are_sent_as_pictures():
    black = Samples(["a cat"], torch.zeros(1, 3, 4, 4))
    white = Samples(["a cat"], torch.ones(1, 3, 4, 4))
    with endpoint(lambda messages: "7") as (url, requests):
        judge = EndpointJudge(url, "judge")
        assert judge(black).tolist() == [7.0]
        with pytest.raises(InputError, match="sample 0"):
            judge.compare(PreferencePairs(black, white))
    assert kinds_of_parts(requests[0]) == ["text", "image_url", "text"]
    assert kinds_of_parts(requests[1]) == ["text", "image_url", "text", "image_url", "text"]


def kinds_of_parts(request):
    _, body, _ = request
    return [part["type"] for part in body["messages"][0]["content"]]


def pairs_of(count):
    longer = [f"a b {number}" for number in range(count)]
    shorter = [str(number) for number in range(count)]
    return PreferencePairs(Samples(["p"] * count, longer), Samples(["p"] * count, shorter))


def test_pairs_are_shown_in_both_orders_and_judged_the_same():
    pairs = pairs_of(24)
    with endpoint(prefers_words) as (url, requests):
        judge = EndpointJudge(url, "judge", seed=1)
        assert judge.compare(pairs).tolist() == [1.0] * 24
        assert judge.compare(PreferencePairs(pairs.rejected, pairs.chosen)).tolist() == [0.0] * 24
        assert judge.compare(PreferencePairs(pairs.chosen, pairs.chosen)).tolist() == [0.5] * 24
    questions = [body["messages"][0]["content"] for _, body, _ in requests[:24]]
    chosen_first = sum("a b" in between(question, "response-1") for question in questions)
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
    with endpoint(rates_words) as (url, requests):
        judge = EndpointJudge(url, "judge", key_variable="A_TEST_KEY")
        judge(TEXTS[:1])
    assert requests[0][2]["Authorization"] == "Bearer not-a-secret"
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
    chosen = Samples([""] * 3, ["a b", "a", "a"])
    rejected = Samples([""] * 3, ["a", "b", "b c"])
    pairs = PreferencePairs(chosen, rejected)
    assert preferences(WORDS, pairs).tolist() == [1.0, 0.5, 0.0]
    figures = win_rate(WORDS, pairs)
    assert figures["win_rate"] == 0.5
    assert figures["ties"] == 1
    assert figures["count"] == 3
    light = Samples([""], torch.ones(1, 3, 2, 2))
    dark = Samples([""], torch.zeros(1, 3, 2, 2))
    assert preferences(Brightness(), PreferencePairs(light, dark)).tolist() == [1.0]


class Contrary(Brightness, ComparesPairs):
    """A judge that compares against its own scores."""

    def compare(self, pairs):
        return torch.zeros(len(pairs))


def test_a_judge_that_compares_is_asked_to_compare():
    light = Samples([""], torch.ones(1, 3, 2, 2))
    dark = Samples([""], torch.zeros(1, 3, 2, 2))
    assert preferences(Contrary(), PreferencePairs(light, dark)).tolist() == [0.0]


def test_a_judge_that_compares_without_saying_so_is_refused():
    class Forgetful(Brightness):
        def compare(self, pairs):
            return torch.zeros(len(pairs))

    with pytest.raises(InputError, match=r"Forgetful defines `compare`.*ComparesPairs"):
        preferences(Forgetful(), pairs_of(2))


def test_calibration_of_a_true_model_is_good_and_of_an_overconfident_one_is_not():
    generator = torch.Generator().manual_seed(0)
    margins = torch.randn(4000, generator=generator) * 1.5
    wins = (torch.rand(4000, generator=generator) < margins.sigmoid()).float()
    good = calibration(margins, wins)
    bold = calibration(margins * 4, wins)
    assert good["error"] < 0.025 < 0.1 < bold["error"]
    assert good["accuracy"] == bold["accuracy"]
    within = [row["low"] <= row["predicted"] <= row["high"] for row in good["bins"]]
    assert sum(within) >= 8
    assert all(row["actual"] < row["predicted"] for row in bold["bins"][3:])
    assert sum(row["count"] for row in good["bins"]) == 4000


def test_calibration_does_not_depend_on_which_side_is_listed_first():
    margins = torch.tensor([1.0, -2.0, 0.5, 0.0])
    wins = torch.tensor([1.0, 1.0, 0.5, 1.0])
    assert calibration(margins, wins, bins=2) == calibration(-margins, 1 - wins, bins=2)


def test_a_judge_reads_a_conversation_as_turns():
    talk = Conversation((Message("system", "Be {response}."), Message("user", "2+2?")))
    with endpoint(lambda messages: "Score: 1") as (url, requests):
        judge = EndpointJudge(url, "m")
        judge(Samples([talk], ["4"]))
        judge.compare(PreferencePairs(Samples([talk], ["4"]), Samples([talk], ["5"])))
    for _, body, _ in requests:
        assert "system: Be {response}.\n\nuser: 2+2?" in body["messages"][0]["content"]
