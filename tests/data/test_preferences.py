"""Clean pairs are split, adversarial ones join them, and a pair keeps its number."""

import pytest
import torch

from rewardlab.data import Preferences, save_pairs
from rewardlab.errors import InputError
from rewardlab.types import PreferencePairs, Samples


def pairs(count, prompts=None, **facts):
    prompts = [f"p{i}" for i in range(count)] if prompts is None else prompts
    chosen, rejected = (
        Samples(prompts, [f"{word} {i}" for i in range(count)]) for word in ("good", "bad")
    )
    return PreferencePairs(chosen.with_facts(**facts), rejected)


def test_a_saved_folder_is_read(tmp_path):
    save_pairs(tmp_path / "pairs", pairs(3, margin=torch.tensor([0.0, 1.0, 2.0])))
    data = Preferences(tmp_path / "pairs", held_out=1)
    assert len(data.split("train")) == 2


def rows(part):
    return set(part.chosen.facts["row"].tolist())


def test_clean_pairs_are_split_and_adversarial_ones_only_trained_on():
    alone, both = (
        Preferences(pairs(50), extra=extra, held_out=0.2, seed=3) for extra in (None, pairs(7))
    )
    assert len(alone.split("held_out")) == 10
    assert rows(alone.split("held_out")) == rows(both.split("held_out"))
    assert rows(both.split("train")) == rows(alone.split("train")) | set(range(50, 57))
    assert both.split("train").chosen.facts["extra"].sum() == 7
    assert rows(alone.split("train")).isdisjoint(rows(alone.split("held_out")))
    assert rows(Preferences(pairs(50), held_out=0.2, seed=4).split("held_out")) != rows(
        alone.split("held_out")
    )
    facts = both.split("train").chosen.facts
    assert set(facts["label"].tolist()) == {1.0}
    assert set(facts["margin"].tolist()) == {0.0}


def test_no_pair_of_a_held_out_prompt_is_trained_on_where_prompts_are_many():
    prompts = [f"p{i % 20}" for i in range(60)]
    data = Preferences(pairs(60, prompts), held_out=8)
    sides = [set(data.split(part).chosen.prompts) for part in ("train", "held_out")]
    assert sides[0].isdisjoint(sides[1])
    assert len(data.split("held_out")) == 9
    assert len(Preferences(pairs(60, [""] * 60), held_out=8).split("held_out")) == 8


def test_batches_come_in_the_seeds_order():
    data = Preferences(pairs(20), held_out=4, batch_size=8)
    batches = list(data.train_dataloader())
    assert [len(batch) for batch in batches] == [8, 8]
    assert rows(batches[0]) | rows(batches[1]) == rows(data.split("train"))
    again = [
        batch.chosen.outputs
        for batch in Preferences(pairs(20), held_out=4, batch_size=8).train_dataloader()
    ]
    assert again == [batch.chosen.outputs for batch in batches]
    assert [len(batch) for batch in data.val_dataloader()] == [4]
    assert Preferences(pairs(5), held_out=0).val_dataloader() == []


def test_images_are_pairs_too():
    bright, dark = (Samples([""] * 6, torch.full((6, 1, 8, 8), level)) for level in (0.9, 0.1))
    data = Preferences(
        PreferencePairs(bright, dark), extra=PreferencePairs(bright, dark)[:2], held_out=2
    )
    assert next(iter(data.train_dataloader())).rejected.outputs.shape == (6, 1, 8, 8)
    with pytest.raises(InputError, match=r"texts, images \[1, 8, 8\]"):
        Preferences(pairs(4), extra=PreferencePairs(bright, dark), held_out=1).split("train")


@pytest.mark.parametrize(("held_out", "count"), [(5, 5), (9, 5), (-1, 5)])
def test_a_split_that_leaves_nothing_is_refused(held_out, count):
    with pytest.raises(InputError, match="leaves none to train on"):
        Preferences(pairs(count), held_out=held_out).split("train")


def test_doubles_are_dropped_where_it_is_asked_for(caplog):
    twice = pairs(10)[[0, 1, 1, 2, *range(10)]]
    assert len(Preferences(twice, held_out=0).split("train")) == 14
    data = Preferences(twice, extra=pairs(3)[[0, 0, 2]], held_out=0, dedup=True)
    train = data.split("train")
    assert len(train) == 12
    assert train.chosen.facts["extra"].sum() == 2
    assert train.chosen.facts["row"].tolist() == list(range(12))
    assert "Dropped 4 of 14 pairs that stand earlier already" in caplog.text
    assert len(data.extended(pairs(2)[[0, 0]]).split("train")) == 11


def test_pairs_with_another_label_or_pixel_are_no_doubles():
    labeled = pairs(2, ["p", "p"], label=torch.tensor([1.0, 0.5]))
    same = PreferencePairs(labeled.chosen, labeled.rejected)
    same.chosen.outputs[:] = ["a", "a"]
    same.rejected.outputs[:] = ["b", "b"]
    assert len(Preferences(same, held_out=0, dedup=True).split("train")) == 2
    pixels = torch.zeros(3, 1, 2, 2)
    pixels[2, 0, 0, 0] = 1e-6
    prompts = ["p"] * 3
    pictures = PreferencePairs(
        Samples(prompts, pixels), Samples(prompts, 1 - pixels[:1].expand(3, 1, 2, 2))
    )
    assert len(Preferences(pictures, held_out=0, dedup=True).split("train")) == 2


@pytest.mark.parametrize(("by", "shares"), [("auto", True), ("pairs", True), ("prompts", False)])
def test_whole_prompts_are_held_out_where_it_is_asked_for(by, shares, caplog):
    prompts = [f"p{i % 30}" + " " * (i % 2) for i in range(300)]
    data = Preferences(pairs(300, prompts), held_out=0.1, held_out_by=by)
    sides = []
    for part in ("train", "held_out"):
        sides.append({prompt.strip() for prompt in data.split(part).chosen.prompts})
    assert len(data.split("held_out")) == 30
    assert bool(sides[0] & sides[1]) == shares
    assert ("held_out_by=prompts" in caplog.text) == (by == "auto")


def test_prompts_that_differ_in_spaces_and_case_are_on_one_side():
    prompts = [text for i in range(40) for text in (f"What is {i}?", f" what  is\n{i}? ")]
    data = Preferences(pairs(80, prompts), held_out=0.2)
    held_out = data.split("held_out").chosen.facts["row"].tolist()
    assert len(held_out) == 16
    assert sorted(row // 2 for row in held_out)[::2] == sorted({row // 2 for row in held_out})
