"""Pictures that are made ready ahead: the same scores, in order, in bounded memory."""

from __future__ import annotations

import json
import re
import threading
import warnings
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from PIL import Image

from rewardlab import VisionReward
from rewardlab.bulk import score_files
from rewardlab.bulk.ahead import BATCHES, made_ready
from rewardlab.bulk.entries import Entry, Numbered
from rewardlab.bulk.journal import part_of
from rewardlab.commands.score import run
from rewardlab.errors import InputError
from rewardlab.rewards import Brightness, Length
from rewardlab.rewards.preprocessing import MOST_AHEAD, Preprocessing
from rewardlab.storage.images import read_image
from rewardlab.testing import tiny_tower
from rewardlab.types import Samples

NUMBERS = {"size": (4, 4), "mean": [0.5] * 3, "std": [0.5] * 3}


@pytest.fixture
def pictures(tmp_path):
    folder = tmp_path / "pictures"
    folder.mkdir()
    generator = torch.Generator().manual_seed(0)
    for number in range(20):
        levels = torch.randint(0, 256, (40, 48, 3), dtype=torch.uint8, generator=generator)
        Image.fromarray(levels.numpy()).save(folder / f"{number:02}.png")
    return folder


def batches_of(pictures):
    numbered = []
    for row, picture in enumerate(pictures):
        numbered.append(Numbered(row, Entry(f"{row}.png", output=picture)))
    return [numbered[start : start + 2] for start in range(0, len(numbered), 2)]


def grey():
    return torch.full((3, 4, 4), 0.5)


def test_scores_are_those_of_pictures_in_turn_to_the_bit(pictures, tmp_path):
    reward = VisionReward(tiny_tower(), heads=2).eval()
    tables = []
    seconds = []
    for threads in (0, 1, 3):
        out = tmp_path / f"{threads}.csv"
        before = reward.tower.prepare.seconds
        scored = score_files(reward, pictures, out, batch_size=3, threads=threads, members=True)
        seconds.append(reward.tower.prepare.seconds - before)
        tables.append(out.read_bytes())
        assert 0 < scored.outside < 1
    assert tables[0] == tables[1] == tables[2]
    assert seconds[0] > 0
    assert seconds[1:] == [0, 0]  # the threads resized and normalized every batch
    assert not reward.tower.prepare._kept


def test_the_share_outside_is_of_pictures_alone(tmp_path):
    (tmp_path / "answers.txt").write_text("four\nit is four\n")
    scored = score_files(Length(), tmp_path / "answers.txt", tmp_path / "scores.csv")
    assert scored.outside is None


def test_the_next_batches_are_decoded_while_one_is_scored_and_no_more():
    decoded = [threading.Event() for _ in range(12)]

    def picture(row):
        def pixels():
            decoded[row].set()
            return grey()

        return pixels

    batches = batches_of([picture(row) for row in range(12)])
    ready = made_ready(iter(batches), Brightness(), threads=2)
    first = next(ready)
    assert first.rows == [0, 1]
    for row in range(2 * (1 + BATCHES)):  # nobody asks for them yet
        assert decoded[row].wait(10)
    assert not any(event.is_set() for event in decoded[2 * (1 + BATCHES) :])
    assert [batch.rows for batch in ready] == [[row, row + 1] for row in range(2, 12, 2)]


def test_a_broken_picture_ends_the_run_when_its_turn_comes(pictures, tmp_path):
    (pictures / "05.png").write_bytes(b"no picture")
    out = tmp_path / "scores.csv"
    with pytest.raises(InputError, match=r"05\.png cannot be used.*Or leave such rows unscored"):
        score_files(Brightness(), pictures, out, batch_size=2, threads=3)
    rows = part_of(out).read_text().splitlines()[1:]
    assert ['"rows": [0, 1]' in rows[0], '"rows": [2, 3]' in rows[1], len(rows)] == [True, True, 2]


def test_videos_are_resized_ahead_too():
    reward = VisionReward(tiny_tower()).eval()
    clip = torch.rand(2, 3, 40, 48)
    [ready] = list(made_ready(batches_of([lambda: clip, lambda: clip]), reward, threads=0))
    with torch.no_grad():
        expected = reward(ready.samples)
    ahead = made_ready(batches_of([lambda: clip, lambda: clip]), reward, threads=1)
    before = reward.tower.prepare.seconds
    with torch.no_grad():
        assert torch.equal(reward(next(ahead).samples), expected)
    assert reward.tower.prepare.seconds == before


def test_what_was_computed_ahead_is_only_for_the_same_pixels():
    prepare = Preprocessing(NUMBERS)
    images = torch.rand(2, 3, 8, 6)
    prepare.ahead(images)
    same_numbers = images.clone()
    assert torch.equal(prepare(same_numbers), prepare(images))
    prepare.ahead(images)
    images.mul_(0.5)
    assert torch.equal(prepare(images), prepare(images.clone()))
    prepare.forget()
    images.requires_grad_()
    prepare.ahead(images)
    assert prepare(images).requires_grad


def test_what_nobody_asks_for_is_bounded():
    prepare = Preprocessing(NUMBERS)
    unused = [torch.rand(1, 3, 8, 8) for _ in range(MOST_AHEAD + 3)]
    for images in unused:
        prepare.ahead(images)
    assert len(prepare._kept) == MOST_AHEAD


def test_images_that_do_not_fit_are_refused_by_the_reward_itself():
    prepare = Preprocessing(NUMBERS)
    images = torch.rand(1, 2, 8, 8)
    prepare.ahead(images)
    with pytest.raises(InputError, match="3 channels"):
        prepare(images)
    small = VisionReward(tiny_tower(), resize=False)
    pixels = torch.rand(1, 3, 8, 8)
    small.tower.prepare.ahead(pixels)
    with pytest.raises(InputError, match="resize is off"):
        small(Samples([""], pixels))


def test_threads_that_read_leave_the_filters_of_warnings_as_they_were(pictures):
    before = list(warnings.filters)
    paths = sorted(pictures.iterdir()) * 8
    with ThreadPoolExecutor(4) as pool:
        shapes = list(pool.map(lambda path: read_image(path).shape, paths))
    assert set(shapes) == {(3, 40, 48)}
    assert list(warnings.filters) == before


def test_the_command_says_what_was_outside(pictures, tmp_path, capsys):
    VisionReward(tiny_tower()).eval().save_pretrained(tmp_path / "reward")
    out = tmp_path / "scores.csv"
    run("score", [str(tmp_path / "reward"), str(pictures), "--out", str(out)])
    said = capsys.readouterr().out
    assert re.search(r"20 scores, mean .*; [\d.]+% of the time was outside the reward's ", said)
    record = json.loads(out.with_name("scores.csv.json").read_text())
    assert 0 < record["outside"] < 1
