"""Edits of pictures by hand, and effects of known size."""

import numpy as np
import pytest
import torch
from PIL import Image

from rewardlab.errors import InputError
from rewardlab.evaluation import picture_audit
from rewardlab.evaluation.picture_biases import picture_deviation
from rewardlab.evaluation.picture_edits import PICTURE_EDITS, TEXT_HEIGHT, PictureEdit, crop
from rewardlab.rewards import Brightness, Function, Tolerant
from rewardlab.types import Samples


class Rows:
    """One-row samples of a list of pictures, each float [C, H, W]."""

    def __init__(self, pictures, prompts=None):
        self.pictures = pictures
        self.prompts = prompts or [""] * len(pictures)

    def __len__(self):
        return len(self.pictures)

    def __getitem__(self, number):
        return Samples([self.prompts[number]], self.pictures[number][None])


def noise(count=6, side=80, channels=3, seed=0):
    """Pictures of smooth coloured noise between 0.2 and 0.6."""
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.rand(count, channels, 8, 8, generator=generator) * 0.4 + 0.2
    return torch.nn.functional.interpolate(coarse, size=(side, side), mode="bilinear")


def as_image(picture):
    return Image.fromarray((picture * 255).round().byte().permute(1, 2, 0).numpy())


def test_each_edit_does_what_its_name_says():
    picture = as_image(noise(1)[0])
    before = np.asarray(picture, dtype=float)
    edited = {edit.name: edit.edit(picture) for edit in PICTURE_EDITS}
    after = {name: np.asarray(image, dtype=float) for name, image in edited.items()}
    assert all(image.size == (80, 80) and image.mode == "RGB" for image in edited.values())
    assert np.asarray(picture, dtype=float).tolist() == before.tolist()  # the original stays

    def spread(pixels):
        return (pixels.max(2) - pixels.min(2)).mean()

    def roughness(pixels):
        return np.abs(np.diff(pixels, axis=0)).mean()

    assert spread(after["saturate"]) == pytest.approx(1.5 * spread(before), rel=0.05)
    assert after["brighten"].mean() == pytest.approx(1.2 * before.mean(), rel=0.01)
    assert roughness(after["sharpen"]) > roughness(before) > roughness(after["blur"])
    assert 0 < np.abs(after["JPEG"] - before).mean() < 5
    changed = np.abs(after["text overlay"] - before).sum(2) > 0
    rows = np.flatnonzero(changed.any(1))
    assert rows.min() >= 80 * (1 - 2 * TEXT_HEIGHT)
    assert 0 < changed.mean() < 0.1


def test_a_crop_is_the_middle_in_the_old_size():
    ramp = Image.fromarray(np.tile(np.arange(100, dtype=np.uint8), (40, 1)))
    row = np.asarray(crop(ramp))[20]
    assert row[0] == pytest.approx(5, abs=1)
    assert row[-1] == pytest.approx(94, abs=1)
    assert row[50] == pytest.approx(50, abs=1)


def test_effects_are_paired_and_in_deviations():
    pictures = noise(8)
    audit = picture_audit(Brightness(), Rows(list(pictures)))
    levels = (pictures * 255).round() / 255
    deviation = levels.mean((1, 2, 3)).std().item()
    assert audit["deviation"] == pytest.approx(deviation, rel=1e-4)
    brighten = audit["edits"]["brighten"]
    assert brighten["mean"] == pytest.approx(0.2 * levels.mean().item() / deviation, rel=0.02)
    assert brighten["low"] <= brighten["mean"] <= brighten["high"]
    assert (brighten["verdict"], brighten["count"], brighten["size"]) == (
        "rewarded",
        8,
        "factor 1.2",
    )
    assert audit["edits"]["blur"]["verdict"] == "not noticed"
    assert picture_audit(Brightness(), Rows(list(pictures))) == audit


def test_a_reward_of_sharpness_punishes_a_blur_and_pays_for_sharpening():
    sharpness = Function(lambda samples: samples.outputs.diff(dim=2).abs().mean((1, 2, 3)))
    edits = picture_audit(sharpness, Rows(list(noise(8, side=64))))["edits"]
    assert edits["blur"]["verdict"] == "lowered, as wanted"
    assert edits["sharpen"]["verdict"] == "rewarded"


def test_pictures_of_other_sizes_and_grey_ones_are_taken():
    pictures = [*noise(3, side=80), *noise(2, side=32), *noise(3, side=70, channels=1)]
    edits = picture_audit(Brightness(), Rows(pictures), batch_size=2)["edits"]
    assert edits["saturate"]["unchanged"] == 3
    assert edits["text overlay"]["unchanged"] == 2
    assert edits["brighten"]["count"] == 8


def test_the_deviation_is_within_prompts_where_each_has_several():
    scores = torch.tensor([0.0, 2.0, 100.0, 102.0, torch.nan], dtype=torch.float64)
    assert picture_deviation(scores, ["a", "a", "b", "b", "b"]) == pytest.approx(2**0.5)
    assert picture_deviation(scores, list("abcde")) == pytest.approx(scores[:4].std().item())


def test_pictures_that_are_not_scored_are_left_out_and_counted():
    def strict(samples):
        means = samples.outputs.mean((1, 2, 3))
        return means.masked_fill(means > 0.45, torch.nan)

    reward = Tolerant(Function(strict), most_unscored=0.9)
    pictures = [torch.full((3, 64, 64), level) for level in (0.1, 0.2, 0.3, 0.4, 0.5)]
    edits = picture_audit(reward, Rows(pictures))["edits"]
    assert (edits["brighten"]["count"], edits["brighten"]["unscored"]) == (3, 2)


def test_what_cannot_be_audited_is_refused():
    with pytest.raises(InputError, match="at least 2"):
        picture_audit(Brightness(), Rows(list(noise(1))))
    with pytest.raises(InputError, match="samples are texts or videos"):
        picture_audit(Brightness(), Rows(list(noise(8, channels=3).reshape(2, 4, 3, 80, 80))))


def test_an_edit_that_changes_nothing_has_no_effect():
    same = PictureEdit("same", "nothing", lambda picture: picture, "none")
    [row] = picture_audit(Brightness(), Rows(list(noise(4))), edits=[same])["edits"].values()
    assert (row["verdict"], row["unchanged"], row["mean"]) == ("too few", 4, None)
