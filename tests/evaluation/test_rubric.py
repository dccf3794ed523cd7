"""Rubric: requirements checked by a scripted chat endpoint on loopback."""

import re
import runpy
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from rewardlab.errors import InputError
from rewardlab.evaluation import EndpointJudge, Rubric
from rewardlab.evaluation.rubric import ITEM, panel_disagreement
from rewardlab.rewards import Gated, Length, load_reward
from rewardlab.rewards.scoring import judged
from rewardlab.types import Samples

JUDGES = SimpleNamespace(**runpy.run_path(str(Path(__file__).with_name("test_judges.py"))))
endpoint = JUDGES.endpoint
ITEMS = ["It is polite.", "It is short."]
TEXTS = Samples(["p", "p", "q"], ["please do", "do it now at once", "please go on and on"])


def strict(messages):
    """Say what holds: please is polite, up to 3 words are short."""
    question = messages[0]["content"]
    response, item = (JUDGES.between(question, mark) for mark in ("response", "requirement"))
    holds = "please" in response if item == ITEMS[0] else len(response.split()) <= 3
    return f"Let me see.\nAnswer: {int(holds)}"


def lenient(messages):
    return "Answer: 1"


def test_all_items_of_all_judges_have_to_hold_and_members_show_who_doubts():
    with endpoint(strict) as (first, _), endpoint(lenient) as (second, _):
        rubric = Rubric([EndpointJudge(first, "a"), EndpointJudge(second, "b")], ITEMS)
        assert rubric(TEXTS).tolist() == [1.0, 0.0, 0.0]
        members = rubric.members(TEXTS)
    assert members.tolist() == [[1.0, 1.0], [0.0, 1.0], [0.5, 1.0]]
    assert panel_disagreement(members) == pytest.approx(2 / 3)


def test_what_was_answered_costs_no_call():
    with endpoint(strict) as (url, requests):
        rubric = Rubric([EndpointJudge(url, "a")], ITEMS)
        rubric(TEXTS)
        assert len(requests) == 6
        rubric.members(TEXTS)
        rubric(TEXTS[[0, 0, 2]])
        assert len(requests) == 6
        rubric(Samples(["another"], ["please do"]))
    assert len(requests) == 8


def test_answers_of_another_run_cost_no_call_and_belong_to_their_model(tmp_path):
    with endpoint(strict) as (url, requests):
        scores = Rubric([EndpointJudge(url, "a")], ITEMS, cache=tmp_path)(TEXTS)
        again = Rubric([EndpointJudge(url, "a")], ITEMS, cache=tmp_path)
        assert torch.equal(again(TEXTS), scores)
        assert len(requests) == 6
        Rubric([EndpointJudge(url, "b")], ITEMS, cache=tmp_path)(TEXTS)
        Rubric([EndpointJudge(url, "a")], ITEMS, ITEM + " Be brief.", tmp_path)(TEXTS[:1])
        Rubric([EndpointJudge(url, "a", options={"seed": 1})], ITEMS, cache=tmp_path)(TEXTS[:1])
        assert len(requests) == 6 + 6 + 2 + 2
    files = sorted(tmp_path.rglob("*.json"))
    assert len(files) == 16
    for file in files:
        file.write_text("{")
    with pytest.raises(InputError, match=r"cannot be read.* Remove it"):
        Rubric([EndpointJudge(url, "a")], ITEMS, cache=tmp_path)(TEXTS)


def test_a_question_that_is_not_answered_leaves_its_sample_out_and_is_asked_again():
    broken = {"now": True}

    def reply(messages):
        if broken["now"] and "do it now" in messages[0]["content"]:
            return "No."
        return strict(messages)

    with endpoint(reply) as (url, _):
        rubric = Rubric([EndpointJudge(url, "a")], ITEMS)
        assert judged(rubric, TEXTS).scored.tolist() == [True, False, True]
        assert judged(Gated(Length(), gate=rubric), TEXTS).scored.tolist() == [True, False, True]
        with pytest.raises(InputError, match="about one question and gave no number as asked"):
            rubric(TEXTS[[1]])
        broken["now"] = False
        assert rubric(TEXTS).tolist() == [1.0, 0.0, 0.0]


def test_as_a_gate_it_ranks_what_fails_last():
    with endpoint(strict) as (url, _):
        rubric = Rubric([EndpointJudge(url, "a")], [ITEMS[0]])
        texts = ["please do go", "go on at last then", "please"]
        assert Gated(Length(), gate=rubric)(Samples(["p"] * 3, texts)).tolist() == [3.0, 1.0, 1.0]


def test_pictures_are_shown():
    pictures = Samples(["a cat"] * 2, torch.stack([torch.zeros(3, 4, 4), torch.ones(3, 4, 4)]))
    with endpoint(lambda messages: "Answer: 1") as (url, requests):
        rubric = Rubric([EndpointJudge(url, "a")], ["It shows a cat."])
        assert rubric(pictures).tolist() == [1.0, 1.0]
        rubric(pictures)
    assert len(requests) == 2
    assert JUDGES.kinds_of_parts(requests[0]) == ["text", "image_url", "text"]


def test_a_folder_names_servers_and_needs_trust(tmp_path):
    with endpoint(strict) as (url, _):
        rubric = Rubric([EndpointJudge(url, "a", key_variable="A_KEY")], ITEMS)
        rubric.save_pretrained(tmp_path / "reward")
        with pytest.raises(InputError, match=re.escape(url)):
            load_reward(tmp_path / "reward")
        loaded = load_reward(tmp_path / "reward", trust=True)
        loaded.judges[0].key_variable = None
        assert loaded(TEXTS).tolist() == [1.0, 0.0, 0.0]


def test_a_rubric_needs_judges_items_and_their_place():
    judge = EndpointJudge("http://127.0.0.1", "a")
    for judges, items, template in (([], ITEMS, "{item} {response}"), ([judge], [], "{item}")):
        with pytest.raises(InputError, match="one judge and one item at least"):
            Rubric(judges, items, template)
