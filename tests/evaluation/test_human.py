"""The A/B page is blind and balanced, and its answers are read back by the pairs' rows."""

import json
import re

import pytest
import torch

from rewardlab.conversations import Conversation, Message
from rewardlab.errors import InputError
from rewardlab.evaluation.human import read_answers, write_page
from rewardlab.types import PreferencePairs, Samples

COUNT = 20


def texts(count=COUNT):
    prompts = [f"prompt {number} <b>" for number in range(count)]
    chosen = [f"sun {number} & <script>" for number in range(count)]
    rejected = [f"rain {number} & <script>" for number in range(count)]
    facts = {"seed": torch.arange(count) + 987650}
    return PreferencePairs(Samples(prompts, chosen, facts), Samples(prompts, rejected, facts))


@pytest.fixture
def files(tmp_path):
    write_page(tmp_path / "page.html", tmp_path / "key.json", texts(), seed=3)
    return tmp_path


def answered(folder, choose):
    """Answer each item by `choose(left text, right text, number)`; None leaves it out."""
    page = (folder / "page.html").read_text(encoding="utf-8")
    sides = re.findall(r'<div class="text">(.*?)</div>', page)
    answers = {}
    for number, (left, right) in enumerate(zip(sides[::2], sides[1::2], strict=True)):
        choice = choose(left, right, number)
        if choice is not None:
            answers[str(number)] = choice
    name = re.search(r'data-page="(\w+)"', page).group(1)
    content = {"page": name, "answers": answers}
    (folder / "answers.json").write_text(json.dumps(content))
    return read_answers(folder / "key.json", folder / "answers.json")


def test_the_page_is_blind_and_loads_nothing(files):
    page = (files / "page.html").read_text(encoding="utf-8")
    assert not re.search(r"chosen|rejected|98765|https?:|src=\"(?!data:)|<link", page)
    assert page.count("<script>") == 1
    assert page.count("&lt;script&gt;") == 2 * COUNT
    assert "chosen" in (files / "key.json").read_text()


def test_both_orders_are_balanced_and_drawn_from_the_seed(files, tmp_path):
    key = json.loads((files / "key.json").read_text())
    left = [item["left"] for item in key["items"]]
    assert left.count("chosen") == left.count("rejected") == COUNT // 2
    rows = [item["row"] for item in key["items"]]
    assert sorted(rows) == list(range(COUNT))
    assert rows != sorted(rows)
    write_page(tmp_path / "other.html", tmp_path / "other.json", texts(), seed=4)
    assert json.loads((tmp_path / "other.json").read_text())["items"] != key["items"]
    write_page(tmp_path / "same.html", tmp_path / "same.json", texts(), seed=3)
    assert (tmp_path / "same.html").read_bytes() == (files / "page.html").read_bytes()


def test_a_judge_who_finds_the_chosen_ones(files):
    figures = answered(files, lambda left, right, number: "left" if "sun" in left else "right")
    assert figures["win_rate"] == 1.0
    assert figures["wins"] == COUNT
    assert figures["losses"] == 0
    assert figures["unanswered"] == 0
    assert 0.8 < figures["low"] < figures["high"] == 1
    assert figures["left"]["share"] == 0.5
    assert not figures["left"]["biased"]
    assert figures["rows"] == dict.fromkeys(range(COUNT), 1.0)


def test_rows_are_those_of_the_pairs_whatever_their_place_on_the_page(files):
    """The judge prefers the chosen output of even rows only, and knows rows by their texts."""

    def choose(left, right, number):
        row = int(re.search(r"\d+", left).group())
        return "left" if ("sun" in left) == (row % 2 == 0) else "right"

    assert answered(files, choose)["rows"] == {row: float(row % 2 == 0) for row in range(COUNT)}


def test_a_judge_who_always_says_left_is_found_out_and_decides_nothing(files):
    figures = answered(files, lambda left, right, number: "left")
    assert figures["win_rate"] == 0.5
    assert figures["left"]["share"] == 1.0
    assert figures["left"]["biased"]


def test_ties_count_half_and_blanks_not_at_all(files):
    figures = answered(files, lambda left, right, number: "tie" if number < 4 else None)
    assert figures["win_rate"] == 0.5
    assert figures["ties"] == 4
    assert figures["unanswered"] == COUNT - 4
    assert figures["left"] is None


def test_two_sets_of_images_with_names_of_their_own(tmp_path):
    images = torch.rand(2, 3, 1, 4, 4, generator=torch.Generator().manual_seed(0))
    pairs = PreferencePairs(Samples([""] * 3, images[0]), Samples([""] * 3, images[1]))
    write_page(
        tmp_path / "page.html",
        tmp_path / "key.json",
        pairs,
        seed=0,
        names=("base", "tuned"),
        question="Which digit?",
    )
    page = (tmp_path / "page.html").read_text(encoding="utf-8")
    assert page.count('src="data:image/png;base64,') == 6
    assert not re.search("base<|tuned", page)
    assert json.loads((tmp_path / "key.json").read_text())["names"] == ["base", "tuned"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"page": "other", "answers": {"0": "left"}}, "answers page other"),
        ({"answers": {}}, "should be an object with page, answers"),
        ({"page": None, "answers": {}}, "holds no answers"),
        ({"page": None, "answers": {"99": "left"}}, "item '99'"),
        ({"page": None, "answers": {"0": "both"}}, "'both'"),
        ({"page": None, "answers": {"0": ["left"]}}, "items are 0 to 19"),
        (None, "not JSON"),
    ],
)
def test_answers_that_cannot_be_read(files, content, message):
    key = json.loads((files / "key.json").read_text())
    if content and content.get("page", "") is None:
        content["page"] = key["page"]
    text = json.dumps(content) if content else "{"
    (files / "answers.json").write_text(text)
    with pytest.raises(InputError, match=message):
        read_answers(files / "key.json", files / "answers.json")


def test_pages_are_never_overwritten_and_need_pairs(files):
    with pytest.raises(InputError, match=r"page\.html.*key\.json exists already"):
        write_page(files / "page.html", files / "key.json", texts(), seed=3)
    with pytest.raises(InputError, match="got 0 pairs"):
        write_page(files / "a.html", files / "a.json", texts()[:0], seed=3)
    with pytest.raises(InputError, match="two names"):
        write_page(files / "a.html", files / "a.json", texts(), seed=3, names=("x", "x"))


def test_odd_texts_survive(tmp_path):
    pairs = PreferencePairs(Samples(["\ud800 月"], [""]), Samples(["\ud800 月"], ["line\n\nline"]))
    write_page(tmp_path / "page.html", tmp_path / "key.json", pairs, seed=0)
    page = (tmp_path / "page.html").read_text(encoding="utf-8")
    assert "? 月" in page
    assert "(nothing)" in page
    assert "line\n\nline" in page


def test_a_conversation_is_shown_turn_by_turn(tmp_path):
    talk = Conversation((Message("system", "Be <b>brief</b>."), Message("user", "2+2?\nNow.")))
    pairs = PreferencePairs(Samples([talk], ["4"]), Samples([talk], ["5"]))
    write_page(tmp_path / "page.html", tmp_path / "key.json", pairs, seed=0)
    text = (tmp_path / "page.html").read_text(encoding="utf-8")
    assert '<p class="text"><b>system</b><br>Be &lt;b&gt;brief&lt;/b&gt;.</p>' in text
    assert '<p class="text"><b>user</b><br>2+2?\nNow.</p>' in text
