import json

import pytest
import torch

from rewardlab.data import save_pairs
from rewardlab.data.preferences import Preferences, read_preferences
from rewardlab.errors import InputError
from rewardlab.types import PreferencePairs, Samples


def write(path, *rows):
    path.write_text(
        "\n".join(row if isinstance(row, str) else json.dumps(row) for row in rows),
        encoding="utf-8",
    )
    return path


def pair(number=0, **more):
    return {"prompt": f"p{number}", "chosen": f"good {number}", "rejected": f"bad {number}", **more}


def pairs(count, prompts=None, **facts):
    prompts = [f"p{i}" for i in range(count)] if prompts is None else prompts
    chosen, rejected = (
        Samples(prompts, [f"{word} {i}" for i in range(count)]) for word in ("good", "bad")
    )
    return PreferencePairs(chosen.with_facts(**facts), rejected)


def user(text):
    return {"role": "user", "content": text}


def says(text):
    return {"role": "assistant", "content": text}


@pytest.mark.parametrize(
    ("row", "prompt"),
    [
        ({"prompt": "hi", "chosen": "a", "rejected": "b"}, "hi"),
        ({"prompt": [user("hi")], "chosen": [says("a")], "rejected": [says("b")]}, "hi"),
        ({"chosen": [user("hi"), says("a")], "rejected": [user("hi"), says("b")]}, "hi"),
        ({"prompt": "hi", "chosen": [says("a")], "rejected": [says("b")]}, "hi"),
        ({"prompt": [user("hi")], "chosen": "a", "rejected": "b"}, "hi"),
        ({"prompt": "", "chosen": "a", "rejected": "b"}, ""),
        (
            {
                "prompt": [{"role": "system", "content": "Be kind."}, user("hi")],
                "chosen": [says("a")],
                "rejected": [says("b")],
            },
            "system: Be kind.\n\nuser: hi",
        ),
        (
            {
                "chosen": [user("1"), says("2"), user("3"), says("a")],
                "rejected": [user("1"), says("2"), user("3"), says("b")],
            },
            "user: 1\n\nassistant: 2\n\nuser: 3",
        ),
    ],
)
def test_strings_and_messages_are_read(tmp_path, row, prompt):
    found = read_preferences(write(tmp_path / "pairs.jsonl", row))
    assert (list(found.chosen.prompts), found.chosen.outputs, found.rejected.outputs) == (
        [prompt],
        ["a"],
        ["b"],
    )


def test_margin_and_label_become_facts_where_a_line_has_them(tmp_path):
    found = read_preferences(
        write(
            tmp_path / "a.jsonl",
            pair(0),
            pair(1, margin=2),
            pair(2, label=0.5),
            pair(3, margin=None),
        )
    )
    assert found.chosen.facts["margin"].tolist() == [0, 2, 0, 0]
    assert found.chosen.facts["label"].tolist() == [1, 1, 0.5, 1]
    assert not read_preferences(write(tmp_path / "b.jsonl", pair())).chosen.facts


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ('{"prompt": "a", ', "not JSON"),
        ("[1]", "not an object"),
        ({"prompt": "a", "chosen": "b"}, 'without "rejected"'),
        ({"chosen": "b", "rejected": "c"}, 'without "prompt"'),
        ({}, 'without "prompt" and "chosen" and "rejected"'),
        (pair(rejected="good 0"), "identical chosen and rejected"),
        (pair(chosen=5), "neither a string nor a list"),
        (pair(margin="much"), '"margin" is not a number'),
        (pair(margin=float("nan")), '"margin" is not a number'),
        (pair(label=1.5), '"label" is not a number from 0 to 1'),
        ('{"prompt": "a", "chosen": "\\ud800", "rejected": "b"}', "surrogate"),
        ({"chosen": [user("a"), says("b")], "rejected": [user("c"), says("d")]}, "another prompt"),
        (
            {"prompt": "a", "chosen": [user("b")], "rejected": [says("c")]},
            "do not end with the assistant's",
        ),
        (
            {"prompt": "a", "chosen": [{"role": "assistant"}], "rejected": [says("c")]},
            "messages that are not",
        ),
        ({"prompt": "a", "chosen": [], "rejected": []}, "do not end with the assistant's"),
    ],
)
def test_unusable_lines_are_skipped_counted_and_refused_if_strict(tmp_path, caplog, line, words):
    path = write(tmp_path / "pairs.jsonl", pair(0), "", line, pair(1))
    assert list(read_preferences(path).chosen.prompts) == ["p0", "p1"]
    assert "Skipped 1 of 3 lines" in caplog.text
    assert words in caplog.text
    assert "line 3" in caplog.text
    with pytest.raises(InputError, match=f"line 3 .*{words}"):
        read_preferences(path, strict=True)
    with pytest.raises(InputError, match=f"no preference pairs.*{words}"):
        read_preferences(write(tmp_path / "none.jsonl", line))


def test_equal_reasons_are_counted_together(tmp_path, caplog):
    read_preferences(
        write(tmp_path / "pairs.jsonl", "{", pair(0), "{", pair(1, rejected="good 1"), pair(2))
    )
    assert "Skipped 3 of 5 lines" in caplog.text
    assert "2 not JSON (the first: line 1), 1 with identical" in caplog.text


def test_empty_responses_are_kept_and_counted(tmp_path, caplog):
    path = write(tmp_path / "pairs.jsonl", pair(0, rejected=""), pair(1))
    assert read_preferences(path, strict=True).rejected.outputs == ["", "bad 1"]
    assert "1 of 2 pairs" in caplog.text


def test_files_that_cannot_be_read_are_refused(tmp_path):
    (tmp_path / "latin.jsonl").write_bytes(b'{"prompt": "a"}\n{"prompt": "\xe9"}')
    for path, words in (
        ("latin.jsonl", "line 2: byte 0xe9 is not UTF-8"),
        ("missing.jsonl", "cannot be read"),
    ):
        with pytest.raises(InputError, match=words):
            read_preferences(tmp_path / path)
    (tmp_path / "empty.jsonl").write_text("\n")
    with pytest.raises(InputError, match="no line at all"):
        read_preferences(tmp_path / "empty.jsonl")


def test_a_saved_folder_is_read(tmp_path):
    save_pairs(tmp_path / "pairs", pairs(3, margin=torch.tensor([0.0, 1.0, 2.0])))
    found = read_preferences(tmp_path / "pairs")
    assert found.chosen.facts["margin"].tolist() == [0, 1, 2]
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
