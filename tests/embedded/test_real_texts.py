"""The pure functions of the text half of `make demo-real`; its weights are read by tests/real."""

import sys
from pathlib import Path

import pytest
import torch

from rewardlab.rewards import Function, Length
from rewardlab.types import PreferencePairs, Samples

EXPERIMENTS = Path(__file__).parents[2] / "experiments"


@pytest.fixture(autouse=True)
def experiments(monkeypatch):
    monkeypatch.setattr(sys, "path", [str(EXPERIMENTS), *sys.path])


def test_a_text_is_cut_at_the_end_of_a_sentence():
    from real.tellers import cut

    text = ' The dog ran. "It was happy." Then\nit slept'
    assert cut(text, 1) == " The dog ran."
    assert cut(text, 4) == ' The dog ran. "It was happy."'
    assert cut(text, 7) == ' The dog ran. "It was happy." Then'
    assert cut(text, 99) == text
    assert cut("", 3) == ""


def test_half_of_the_answers_are_said_twice_and_of_the_others_each_word():
    from real.remedies import padded

    answers = Samples(["a", "b", "c"], ["one two", "one two", "three"])
    texts = padded(answers, seed=0).outputs
    assert texts == ["one two one two", "one one two two", "three three"]


def test_a_reward_of_length_alone_has_nothing_left_without_length():
    from real.remedies import without_length

    texts = ["a b c", "a", "a b", "a b c d e"]
    pairs = PreferencePairs(Samples(["p"] * 4, texts), Samples(["p"] * 4, texts[::-1]))
    thrice = Function(lambda samples: 3 * Length()(samples))
    scores = without_length(thrice, pairs)(pairs.chosen)
    assert scores.tolist() == pytest.approx([0.0] * 4, abs=1e-4)


def test_readings_are_read_from_a_run(tmp_path):
    from real.hunger import read_curves

    lines = ["lr,reading/kl,reading/plain,reading/words,step", ",0.0,1.5,20.0,0", "0.1,,,,3"]
    lines.append(",2.5,2.5,30.0,5")
    (tmp_path / "metrics.csv").write_text("\n".join(lines) + "\n")
    curves = read_curves(tmp_path)
    assert curves["step"] == [0, 5]
    assert curves["words"] == [20, 30]
    assert curves["kl"] == [0, 2.5]


def test_what_stands_in_for_missing_files_is_said(tmp_path):
    from real.texts import Files, describe
    from real.worlds import World

    world = World("300 pairs.", None, None, None)
    assert "No --llama2c given" in describe(world, Files())
    assert "No --llama2c" not in describe(world, Files(weights=tmp_path / "a.bin"))


def test_other_pairs_of_the_same_name_have_other_runs(tmp_path):
    from real.texts import Files, name_of

    names = []
    for text in ("one", "two"):
        (tmp_path / "pairs.jsonl").write_text(text)
        names.append(name_of(Files(pairs=tmp_path / "pairs.jsonl"), 300, 0))
    assert names[0] != names[1]
    assert all(name.startswith("pairs-") for name in names)
    assert all(name.endswith("-embedded-300-seed0") for name in names)


def test_figures_of_texts_without_a_judge():
    from real.hunger import figures_of

    facts = {"finished": torch.tensor([True, False])}
    figures = figures_of(Samples(["a"] * 2, ["x y", "x y z w"], facts), Length(), None)
    assert figures["words"]["mean"] == figures["reward"]["mean"] == 3
    assert figures["unended"]["mean"] == 0.5
    assert figures["variety"]["mean"] == 0.75
    assert "judge" not in figures


def test_the_picture_is_drawn_with_and_without_people(tmp_path):
    from real.hunger import BASE, REMEDIES
    from real.hunger_picture import draw

    figure = {"mean": 0.5, "low": 0.4, "high": 0.6}
    curve = {"step": [0, 5], "words": [20, 40], "plain": [0, 1]}
    names = [BASE, *[f"RLHF, {remedy}" for remedy in REMEDIES]]
    content = {
        "figures": {name: {"judge": figure} for name in names},
        "curves": dict.fromkeys(REMEDIES, curve),
    }
    draw(tmp_path / "with.png", content, dict.fromkeys(REMEDIES, figure))
    draw(tmp_path / "without.png", content, {})
    assert (tmp_path / "with.png").stat().st_size > 10_000
    assert (tmp_path / "without.png").stat().st_size > 10_000
