"""Samples and pairs are read from folders or memory, and rows are numbered."""

import json

import pytest
import torch
from jsonargparse import ArgumentParser
from PIL import Image

from rewardlab.conversations import Conversation, Message
from rewardlab.data import PairsData, SamplesData, save_pairs, save_samples
from rewardlab.errors import InputError
from rewardlab.types import PreferencePairs, Samples


def train_batches(data):
    data.setup("fit")
    return list(data.train_dataloader())


def test_samples_data_reads_images_texts_videos_and_memory(tmp_path):
    texts, videos = (
        Samples(["a"] * 3, ["x", "y", "z"]),
        Samples(["a"] * 3, torch.rand(3, 2, 1, 4, 4)),
    )
    (tmp_path / "plain").mkdir()
    for name in "abc":
        Image.new("L", (6, 4)).save(tmp_path / "plain" / f"{name}.png")
    save_samples(tmp_path / "texts", texts)
    save_samples(tmp_path / "videos", videos)
    save_samples(tmp_path / "images", Samples(["a"] * 3, torch.rand(3, 3, 4, 4)))
    shapes = {
        name: [
            tuple(getattr(batch.outputs, "shape", batch.outputs))
            for batch in train_batches(SamplesData(tmp_path / name, 2, size))
        ]
        for name, size in (("plain", 4), ("images", None), ("videos", None))
    }
    assert shapes == {
        "plain": [(2, 3, 4, 4), (1, 3, 4, 4)],
        "images": [(2, 3, 4, 4), (1, 3, 4, 4)],
        "videos": [(2, 2, 1, 4, 4), (1, 2, 1, 4, 4)],
    }
    for source in (texts, tmp_path / "texts"):
        batches = train_batches(SamplesData(source, 2))
        assert sorted(text for batch in batches for text in batch.outputs) == ["x", "y", "z"]
        assert sorted(torch.cat([batch.facts["row"] for batch in batches]).tolist()) == [0, 1, 2]


def test_pairs_data_reads_a_folder_or_memory(tmp_path):
    pairs = PreferencePairs(Samples(["a", "b"], ["x", "y"]), Samples(["a", "b"], ["p", "q"]))
    save_pairs(tmp_path / "pairs", pairs)
    for source in (pairs, tmp_path / "pairs"):
        (batch,) = train_batches(PairsData(source))
        assert sorted(zip(batch.chosen.outputs, batch.rejected.outputs, strict=True)) == [
            ("x", "p"),
            ("y", "q"),
        ]
        assert torch.equal(batch.chosen.facts["row"], batch.rejected.facts["row"])


def test_a_config_gives_the_folder_as_a_string(tmp_path):
    save_samples(tmp_path / "texts", Samples(["a"], ["x"]))
    parser = ArgumentParser(exit_on_error=False)
    parser.add_class_arguments(SamplesData, "samples")
    parser.add_class_arguments(PairsData, "pairs")
    config = parser.parse_object(
        {"samples": {"samples": str(tmp_path / "texts")}, "pairs": {"pairs": "somewhere"}}
    )
    built = parser.instantiate(config)
    assert train_batches(built.samples)[0].outputs == ["x"]
    assert built.pairs.pairs == "somewhere"


def test_row_numbers_that_samples_bring_are_kept():
    samples = Samples(["a", "b"], ["x", "y"], {"row": torch.tensor([7, 3])})
    (batch,) = train_batches(SamplesData(samples))
    assert dict(zip(batch.outputs, batch.facts["row"].tolist(), strict=True)) == {"x": 7, "y": 3}


def test_images_may_lie_in_a_folder_of_any_name(tmp_path):
    (tmp_path / "none").mkdir()
    Image.new("L", (4, 4)).save(tmp_path / "none" / "a.png")
    (batch,) = train_batches(SamplesData(tmp_path))
    assert batch.outputs.shape == (1, 3, 4, 4)


ASK = {"role": "user", "content": "2+2?"}
SYSTEM = {"role": "system", "content": "Be brief."}


@pytest.mark.parametrize(
    ("row", "prompt"),
    [
        ({"prompt": "2+2?", "completion": "4"}, "2+2?"),
        ({"prompt": [ASK], "completion": [{"role": "assistant", "content": "4"}]}, "2+2?"),
        (
            {"messages": [SYSTEM, ASK, {"role": "assistant", "content": "4"}]},
            Conversation((Message("system", "Be brief."), Message("user", "2+2?"))),
        ),
        (
            {"conversations": [{"from": "human", "value": "2+2?"}, {"from": "gpt", "value": "4"}]},
            "2+2?",
        ),
        ({"prompt": "2+2?", "completion": "4", "label": True}, "2+2?"),
    ],
)
def test_samples_to_imitate_come_from_a_file(tmp_path, row, prompt):
    path = tmp_path / "rows.jsonl"
    path.write_text(f"{json.dumps(row)}\n" * 3)
    (first, second) = train_batches(SamplesData(str(path), batch_size=2))
    assert list(first.prompts) == [prompt] * 2
    assert list(second.outputs) == ["4"]
    rows = torch.cat([first.facts["row"], second.facts["row"]])
    assert sorted(rows.tolist()) == [0, 1, 2]


@pytest.mark.parametrize(
    ("row", "sentence"),
    [
        ({"prompt": "a"}, "line 1 is a row that has no text"),
        ({"prompt": "a", "completion": "b", "label": False}, "1 rows of .* have the label false"),
    ],
)
def test_rows_that_cannot_be_imitated_are_named(tmp_path, row, sentence):
    path = tmp_path / "rows.jsonl"
    path.write_text(json.dumps(row))
    with pytest.raises(InputError, match=sentence):
        SamplesData(path).setup("fit")
