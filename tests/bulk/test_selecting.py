"""The best of each prompt's candidates."""

from __future__ import annotations

import json

import pytest
import torch
from PIL import Image

from rewardlab.bulk import Reading, select_files, selecting
from rewardlab.bulk.selecting import Selection
from rewardlab.commands.select import sentences
from rewardlab.errors import InputError
from rewardlab.evaluation.choosing_n import choose_n, familiar_n
from rewardlab.rewards import Function, Reward, Tolerant
from rewardlab.storage import read_preferences


def number(samples):
    """Score a text by its number."""
    if "bad" in samples.outputs:
        raise InputError("The text is bad")
    return torch.tensor([float(text) for text in samples.outputs])


class TwoOpinions(Reward):
    """Two members, that part where the number is large."""

    mean_of_members = True

    def members(self, samples):
        numbers = torch.tensor([float(text) for text in samples.outputs])
        return torch.stack([numbers - numbers.exp(), numbers + numbers.exp()], 1)

    def forward(self, samples):
        return self.members(samples).mean(1)


@pytest.fixture
def write(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)

    def lines(rows):
        (tmp_path / "drawn.jsonl").write_text("\n".join(map(json.dumps, rows)))

    return lines


def candidates(*rows):
    return [{"prompt": prompt, "response": response} for prompt, response in rows]


def lines_of(name):
    with open(name, encoding="utf-8") as file:
        return [json.loads(line) for line in file]


def test_the_best_of_each_prompt_in_the_order_of_prompts(write):
    write(candidates(("b", "1"), ("a", "3"), ("b", "5"), ("a", "2"), ("b", "5")))
    selected = select_files(Function(number), "drawn.jsonl", "best.jsonl")
    assert (selected.prompts, selected.rows, selected.n) == (2, 2, None)
    rows = lines_of("best.jsonl")
    assert [(row["prompt"], row["row"], row["score"]) for row in rows] == [("b", 2, 5), ("a", 1, 3)]
    assert [row["candidates"] for row in rows] == [3, 2]


def test_the_first_n_are_chosen_from_and_several_kept(write):
    write(candidates(("a", "1"), ("a", "2"), ("a", "9")))
    select_files(Function(number), "drawn.jsonl", "best.jsonl", Selection(n=2, keep=5))
    ranks = [(row["rank"], row["response"]) for row in lines_of("best.jsonl")]
    assert ranks == [(1, "2"), (2, "1")]


def test_what_is_not_scored_is_left_out_and_counted(write):
    write(candidates(("a", "bad"), ("a", "2"), ("b", "bad")))
    selected = select_files(Tolerant(Function(number), 1), "drawn.jsonl", "best.jsonl")
    assert (selected.prompts, selected.unscored, selected.without) == (1, 2, 1)
    rows = lines_of("best.jsonl")
    assert [(row["response"], row["unscored"]) for row in rows] == [("2", 1)]


def test_a_column_may_say_what_belongs_together(write):
    rows = candidates(("a", "1"), ("a", "2"), ("b", "3"))
    for group, row in zip((7, 8, 7), rows, strict=True):
        row["group"] = group
    write(rows)
    select_files(Function(number), "drawn.jsonl", "best.jsonl", Selection(group="group"))
    assert [row["response"] for row in lines_of("best.jsonl")] == ["3", "2"]
    with pytest.raises(InputError, match="no column 'grp'; it has prompt, response, group"):
        select_files(Function(number), "drawn.jsonl", "other.jsonl", Selection(group="grp"))


def test_what_was_chosen_from_is_said_where_there_are_fewer_than_n(write):
    write(candidates(("a", "1"), ("a", "2"), ("b", "9"), ("b", "bad")))
    reward = Tolerant(Function(number), 1)
    selected = select_files(reward, "drawn.jsonl", "best.jsonl", Selection(n=99))
    assert (selected.fewest, selected.most) == (1, 2)
    first = sentences(selected, None)[0]
    wanted = "the best of 1 to 2 candidates (all that there are; --n allows 99) of 2 prompts"
    assert first == f"best.jsonl: {wanted}"
    one = select_files(reward, "drawn.jsonl", "one.jsonl", Selection(n=1))
    assert sentences(one, None)[0] == "one.jsonl: the best of 1 candidates of 2 prompts"
    again = select_files(reward, "drawn.jsonl", "best.jsonl", Selection(n=99), resume=True)
    assert sentences(again, None)[0] == first


@pytest.mark.parametrize("nothing", [None, "", float("nan")])
def test_rows_without_a_group_are_groups_of_their_own(write, caplog, nothing):
    rows = candidates(("a", "1"), ("a", "2"), ("b", "3"), ("b", "4"))
    for group, row in zip((7, nothing, nothing, 7), rows, strict=True):
        row["group"] = group
    write(rows)
    select_files(Function(number), "drawn.jsonl", "best.jsonl", Selection(group="group"))
    assert [row["response"] for row in lines_of("best.jsonl")] == ["4", "2", "3"]
    [warning] = [line for line in caplog.messages if "no value in the column" in line]
    assert warning.startswith(
        "2 rows have no value in the column 'group' (the first: drawn.jsonl, "
    )


def test_pairs_are_read_by_a_fit(write):
    write(candidates(("a", "1"), ("a", "3"), ("a", "2"), ("b", "4"), ("b", "4"), ("c", "5")))
    selection = Selection(pairs="pairs.jsonl")
    selected = select_files(Function(number), "drawn.jsonl", "best.jsonl", selection)
    assert (selected.pairs, selected.level) == (1, 2)
    assert sentences(selected, "pairs.jsonl")[1].endswith("none: one candidate, or all score alike")
    pairs = read_preferences("pairs.jsonl", strict=True)
    assert (pairs.chosen.prompts, pairs.chosen.outputs) == (["a"], ["3"])
    assert pairs.rejected.outputs == ["1"]
    assert "margin" not in pairs.chosen.facts, "scores are no margins that a fit would follow"


def test_answers_to_different_prompts_are_no_pair_of_a_group(write, caplog):
    rows = candidates(("a", "1"), ("b", "3"), ("a", "2"), ("a", "4"), ("b", "5"))
    for row, topic in zip(rows, ("x", "x", "y", "y", "z"), strict=True):
        row["topic"] = topic
    write(rows)
    selection = Selection(pairs="pairs.jsonl", group="topic")
    selected = select_files(Function(number), "drawn.jsonl", "best.jsonl", selection)
    assert (selected.prompts, selected.pairs, selected.level) == (3, 1, 1)
    assert [row["response"] for row in lines_of("best.jsonl")] == ["3", "4", "5"]
    [pair] = lines_of("pairs.jsonl")
    assert (pair["prompt"], pair["chosen"], pair["rejected"]) == ("a", "4", "2")
    [warning] = [line for line in caplog.messages if "different prompts" in line]
    assert "the first: drawn.jsonl, line 2 and drawn.jsonl, line 1" in warning


def test_n_is_chosen_by_gold_as_choosing_n_does(write):
    generator = torch.Generator().manual_seed(0)
    proxy = torch.rand(6, 8, generator=generator)
    gold = proxy - 2 * (proxy - 0.6).relu()
    rows = []
    for prompt in range(6):
        for place in range(8):
            row = {"prompt": f"p{prompt}", "response": str(proxy[prompt, place].item())}
            row["judge"] = gold[prompt, place].item() if prompt < 5 else None
            rows.append(row)
    write(rows)
    selection = Selection(n="auto", gold="judge")
    selected = select_files(Function(number), "drawn.jsonl", "best.jsonl", selection)
    wanted = choose_n(proxy[:5], gold[:5])
    assert selected.n == wanted.n < 8
    with open("best.jsonl.json") as file:
        choosing = json.load(file)["choosing"]
    assert (choosing["rule"], choosing["prompts"], choosing["high"]) == ("gold", 5, wanted.high)


def test_n_is_chosen_by_the_members_without_gold(write):
    generator = torch.Generator().manual_seed(0)
    proxy = torch.randn(20, 16, generator=generator)
    rows = []
    for prompt in range(20):
        rows += candidates(*[(f"p{prompt}", str(value)) for value in proxy[prompt].tolist()])
    write(rows)
    selected = select_files(TwoOpinions(), "drawn.jsonl", "best.jsonl", Selection(n="auto"))
    wanted = familiar_n(proxy, proxy.exp(), list(range(1, 17)))
    assert selected.n == wanted.n < 16
    with pytest.raises(InputError, match="or a reward with several members"):
        select_files(Function(number), "drawn.jsonl", "other.jsonl", Selection(n="auto"))


@pytest.mark.parametrize(
    ("selection", "sentence"),
    [
        (Selection(gold="judge"), "needs --n auto"),
        (Selection(pairs="drawn.jsonl"), "exists and is never overwritten"),
        (Selection(pairs="pairs.csv"), "a new .jsonl file"),
        (Selection(pairs="best.jsonl"), "are both best.jsonl"),
        (Selection(pairs="missing/pairs.jsonl"), "is missing. Make it"),
        (Selection(n="auto", gold="prompt"), "'prompt' should be a number; got 'a'"),
        (Selection(pairs="pairs.jsonl"), "No prompt makes a pair"),
    ],
)
def test_a_mistake_is_a_sentence_and_writes_no_table(write, tmp_path, selection, sentence):
    write(candidates(("a", "1")))
    with pytest.raises(InputError, match=sentence):
        select_files(Function(number), "drawn.jsonl", "best.jsonl", selection)
    assert not (tmp_path / "best.jsonl").exists()
    assert not (tmp_path / "pairs.jsonl").exists()


def test_the_best_pictures_are_kept_and_make_no_pairs(write, tmp_path):
    (tmp_path / "drawn").mkdir()
    for name, value in (("a", 9), ("b", 99)):
        Image.new("RGB", (4, 4), (value, 0, 0)).save(tmp_path / "drawn" / f"{name}.png")
    reward = Function(lambda samples: samples.outputs.flatten(1).mean(1))
    select_files(reward, "drawn", "best.csv", reading=Reading(size=2))
    assert ",b.png," in (tmp_path / "best.csv").read_text()
    with pytest.raises(InputError, match="--pairs writes texts"):
        select_files(reward, "drawn", "other.csv", Selection(pairs="pairs.jsonl"))


def test_a_selection_goes_on(write, tmp_path):
    write(candidates(("a", "1"), ("a", "3")))
    select_files(Function(number), "drawn.jsonl", "best.jsonl")
    again = select_files(Function(number), "drawn.jsonl", "best.jsonl", resume=True)
    assert again.prompts == 1
    with pytest.raises(InputError, match="selection differ"):
        select_files(Function(number), "drawn.jsonl", "best.jsonl", Selection(n=1), resume=True)


def test_pairs_that_a_kill_left_without_their_table_stand(write, tmp_path, monkeypatch):
    write(candidates(("a", "1"), ("a", "3")))
    selection = Selection(pairs="pairs.jsonl")
    with monkeypatch.context() as patch:
        patch.setattr(selecting, "write_record", lambda *_, **__: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            select_files(Function(number), "drawn.jsonl", "best.jsonl", selection)
    written = (tmp_path / "pairs.jsonl").read_text()
    assert written
    with pytest.raises(InputError, match="never overwritten"):
        select_files(Function(number), "drawn.jsonl", "best.jsonl", selection)
    again = select_files(Function(number), "drawn.jsonl", "best.jsonl", selection, resume=True)
    assert again.pairs == 1
    assert (tmp_path / "pairs.jsonl").read_text() == written
    (tmp_path / "pairs.jsonl").unlink()
    with pytest.raises(InputError, match=r"its pairs, pairs\.jsonl, are gone"):
        select_files(Function(number), "drawn.jsonl", "best.jsonl", selection, resume=True)


def test_other_pairs_are_not_taken_for_those_of_a_killed_run(write, tmp_path):
    write(candidates(("a", "1"), ("a", "3")))
    (tmp_path / "pairs.jsonl").write_text("{}\n")
    selection = Selection(pairs="pairs.jsonl")
    with pytest.raises(InputError, match="holds other pairs"):
        select_files(Function(number), "drawn.jsonl", "best.jsonl", selection, resume=True)
    assert (tmp_path / "pairs.jsonl").read_text() == "{}\n"


def test_a_candidate_that_cannot_be_read_counts_for_its_prompt(write):
    write([*candidates(("a", "1"), ("b", "3")), {"prompt": "b", "response": None}])
    reading = Reading(skip_unreadable=True)
    selected = select_files(Function(number), "drawn.jsonl", "best.jsonl", reading=reading)
    assert (selected.prompts, selected.without) == (2, 0)
    assert [row["unscored"] for row in lines_of("best.jsonl")] == [0, 1]


def test_candidates_of_one_text_make_no_pair_though_rounding_parts_their_scores(write):
    scores = iter([1.0, 1.0000001, 0.9999999, 2.0, 3.0])
    reward = Function(lambda samples: torch.tensor([next(scores) for _ in samples.outputs]))
    write(candidates(("a", "same"), ("a", "same"), ("a", "same"), ("b", "one"), ("b", "two")))
    selection = Selection(pairs="pairs.jsonl")
    selected = select_files(reward, "drawn.jsonl", "best.jsonl", selection)
    assert [(row["chosen"], row["rejected"]) for row in lines_of("pairs.jsonl")] == [("two", "one")]
    assert (selected.pairs, selected.level) == (1, 1)
    assert "; 1 prompts have none" in sentences(selected, "pairs.jsonl")[-1]


def test_a_misspelt_column_is_said_before_anything_is_scored(write, tmp_path):
    reward = Function(lambda samples: pytest.fail("scored"))
    write(candidates(("a", "1"), ("a", "2")))
    for selection in (Selection(group="promt"), Selection(n="auto", gold="jugde")):
        with pytest.raises(InputError, match="has no column"):
            select_files(reward, "drawn.jsonl", "best.jsonl", selection)
    assert not (tmp_path / "best.jsonl.part").exists()
