"""What is written as a folder comes back as it was."""

import random

import pytest
import torch
from PIL import Image

from rewardlab.conversations import Conversation, Message
from rewardlab.data import (
    ImageFolder,
    PairsData,
    load_pairs,
    load_samples,
    save_pairs,
    save_samples,
)
from rewardlab.errors import InputError
from rewardlab.types import PreferencePairs, Samples

STRANGE = ["two\nlines\r\n", "é\u2028中文 🙂", '"quoted" \\ \ud800', "", " spaced "]
FACTS = {
    "seed": torch.tensor([2**62 - 1, 0, -5, 7, 8]),
    "score": torch.tensor([0.1, -1e-30, float("inf"), 2.0, 3.0]),
    "half": torch.tensor([0.5, 1, 2, 3, 4], dtype=torch.bfloat16),
    "double": torch.tensor([1 / 3] * 5, dtype=torch.float64),
    "finished": torch.tensor([True, False, True, True, False]),
}


def same(a, b):
    assert list(a.prompts) == list(b.prompts)
    assert a.facts.keys() == b.facts.keys()
    for name, column in a.facts.items():
        assert column.dtype == b.facts[name].dtype
        assert torch.equal(column, b.facts[name])


@pytest.mark.parametrize("shape", [(1, 4, 6), (3, 4, 6), (2, 3, 4, 4), (11, 1, 4, 4)])
def test_images_and_videos_come_back_rounded_to_8_bits(tmp_path, shape):
    outputs = torch.rand(5, *shape, generator=torch.Generator().manual_seed(0)) * 1.2 - 0.1
    samples = Samples(STRANGE, outputs, FACTS)
    save_samples(tmp_path / "out", samples)
    back = load_samples(tmp_path / "out")
    same(back, samples)
    assert back.outputs.dtype == torch.float32
    assert torch.equal(back.outputs, (outputs.clamp(0, 1) * 255).round() / 255)


def test_texts_come_back_exactly(tmp_path):
    samples = Samples(STRANGE, STRANGE[::-1], FACTS)
    save_samples(tmp_path / "out", samples)
    back = load_samples(tmp_path / "out")
    same(back, samples)
    assert back.outputs == samples.outputs


def talks(seed, count):
    """Conversations of random roles and odd texts."""
    draw = random.Random(seed)
    prompts = []
    for _ in range(count):
        roles = draw.choices(["system", "user", "assistant", "tool"], k=draw.randrange(4))
        turns = [Message(role, draw.choice(STRANGE)) for role in [*roles, "user"]]
        prompts.append(Conversation((Message("system", ""), *turns)))
    return prompts


@pytest.mark.parametrize("seed", range(5))
def test_conversations_come_back(tmp_path, seed):
    prompts = [*talks(seed, 4), *STRANGE]
    samples = Samples(prompts, [f"answer {number}" for number in range(9)])
    save_samples(tmp_path / "texts", samples)
    assert load_samples(tmp_path / "texts").prompts == prompts
    save_samples(tmp_path / "images", Samples(prompts, torch.ones(9, 1, 2, 2)))
    assert load_samples(tmp_path / "images").prompts == prompts
    assert ImageFolder(tmp_path / "images").prompts == prompts
    save_pairs(tmp_path / "pairs", PreferencePairs(samples, Samples(prompts, ["no"] * 9)))
    assert load_pairs(tmp_path / "pairs").chosen.prompts == prompts


def test_a_prompt_of_messages_that_cannot_be_used_is_named(tmp_path):
    rows = '{"output": "x", "prompt": null}\n{"output": "x", "prompt": [{"role": "user"}]}\n'
    (tmp_path / "metadata.jsonl").write_text(rows)
    with pytest.raises(InputError, match=r"metadata.jsonl, sample 2 has no usable prompt.*content"):
        load_samples(tmp_path)


def test_saved_images_are_an_image_folder(tmp_path):
    save_samples(
        tmp_path / "out",
        Samples(STRANGE, torch.ones(5, 3, 4, 4), FACTS | {"row": torch.arange(10, 15)}),
    )
    images = ImageFolder(tmp_path / "out")
    assert images.prompts == STRANGE
    assert images[2].facts["row"].tolist() == [12]
    assert images[2].facts["half"].dtype == torch.bfloat16


def test_pairs_come_back(tmp_path):
    pairs = PreferencePairs(
        Samples(["a", "b"], torch.ones(2, 1, 4, 4)), Samples(["a", "b"], torch.zeros(2, 1, 4, 4))
    )
    save_pairs(tmp_path / "pairs", pairs)
    back = load_pairs(tmp_path / "pairs")
    assert torch.equal(back.chosen.outputs, pairs.chosen.outputs)
    assert torch.equal(back.rejected.outputs, pairs.rejected.outputs)


def test_nothing_is_left_of_a_folder_that_failed(tmp_path):
    outputs = torch.ones(3, 3, 4, 4)
    outputs[1, 0, 0, 0] = float("nan")
    with pytest.raises(InputError, match="Sample 1 has pixels that are NaN"):
        save_samples(tmp_path / "out", Samples(["", "", ""], outputs))
    with pytest.raises(InputError, match="1 or 3 channels"):
        save_samples(tmp_path / "out", Samples([""], torch.ones(1, 4, 4, 4)))
    assert list(tmp_path.iterdir()) == []


def test_an_existing_folder_is_not_written_over(tmp_path):
    save_samples(tmp_path / "out", Samples(["a"], ["x"]))
    with pytest.raises(InputError, match="it exists"):
        save_samples(tmp_path / "out", Samples(["a"], ["y"]))
    assert load_samples(tmp_path / "out").outputs == ["x"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b'{"output": "x"}\n\n{"output": ', r"metadata.jsonl, line 3 is not JSON"),
        (b'{"output": "x"}\n[1]\n', r"metadata.jsonl, line 2 should be an object"),
        (
            b'{"output": "x"}\n{"output": "\xff"}\n',
            r"metadata.jsonl, line 2: byte 0xff is not UTF-8",
        ),
        (b'{"prompt": "x"}\n', 'sample 1 has neither "output" nor "file_name"'),
        (b"", "it has no lines"),
        (b'{"output": "x"}\n{"file_name": "a.png"}\n', "mixes text and images: sample 1"),
        (
            b'{"file_name": "a.png"}\n{"file_name": "b.png"}\n',
            r"several shapes: a.png \[3, 4, 4\], b.png \[3, 4, 5\]",
        ),
        (b'{"file_name": "gone.png"}\n', "gone.png cannot be used: it does not exist"),
    ],
)
def test_broken_metadata_names_file_and_line(tmp_path, content, message):
    (tmp_path / "metadata.jsonl").write_bytes(content)
    Image.new("RGB", (4, 4)).save(tmp_path / "a.png")
    Image.new("RGB", (5, 4)).save(tmp_path / "b.png")
    with pytest.raises(InputError, match=message):
        load_samples(tmp_path)


def test_folders_that_are_no_samples_are_refused(tmp_path):
    with pytest.raises(InputError, match="no folder of samples"):
        load_samples(tmp_path)
    with pytest.raises(InputError, match="chosen and rejected is missing"):
        load_pairs(tmp_path)
    save_samples(tmp_path / "chosen", Samples(["a"], ["x"]))
    save_samples(tmp_path / "rejected", Samples(["b"], ["x"]))
    with pytest.raises(InputError, match="differ in prompts"):
        load_pairs(tmp_path)
    lines = (tmp_path / "chosen/metadata.jsonl").read_text()
    (tmp_path / "chosen/metadata.jsonl").write_text(lines * 2)
    with pytest.raises(InputError, match="has 2 lines, but 1 samples were saved"):
        load_samples(tmp_path / "chosen")


def test_a_jsonl_file_of_pairs_is_sent_to_preferences(tmp_path):
    file = tmp_path / "pairs.jsonl"
    file.write_text('{"prompt": "hi", "chosen": "hello", "rejected": "go away"}\n')
    with pytest.raises(InputError, match="Preferences reads pairs from JSONL"):
        PairsData(file).setup("fit")
