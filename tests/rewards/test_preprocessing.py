import open_clip
import pytest
import torch
from PIL import Image
from torch.testing import assert_close
from torchvision.transforms.functional import to_pil_image, to_tensor

from rewardlab.errors import InputError
from rewardlab.rewards.preprocessing import Preprocessing
from rewardlab.rewards.towers import Tower
from rewardlab.testing import tiny_tower

IMAGES = torch.rand(3, 3, 16, 16, generator=torch.Generator().manual_seed(0))


def picture(shape):
    """Return an image for PIL of a height and width, smooth noise."""
    noise = torch.rand(3, 5, 5, generator=torch.Generator().manual_seed(1))
    return to_pil_image(noise).resize(shape[::-1], Image.Resampling.BICUBIC)


@pytest.mark.parametrize("mode", ["shortest", "longest", "squash"])
@pytest.mark.parametrize("interpolation", ["bicubic", "bilinear"])
@pytest.mark.parametrize("shape", [(40, 31), (9, 16), (16, 12)])
def test_it_is_open_clips(mode, interpolation, shape):
    numbers = {
        "size": (16, 16),
        "mean": (0.5, 0.4, 0.3),
        "std": (0.2, 0.3, 0.4),
        "interpolation": interpolation,
        "resize_mode": mode,
    }
    image = picture(shape)
    config = open_clip.transform.PreprocessCfg(**numbers)
    expected = open_clip.transform.image_transform_v2(config, is_train=False)(image)
    pixels = Preprocessing(numbers)(to_tensor(image)[None])[0]
    assert_close(pixels, expected, atol=2 / 255 / 0.2, rtol=0)
    assert (pixels - expected).abs().mean() < 0.5 / 255 / 0.2


HARD = {
    "checks": (28, 28),
    "digits": (8, 8),
    "text": (224, 500),
    "flat": (57, 400),
    "tall": (333, 91),
    "photograph": (200, 300),
}


@pytest.mark.parametrize("mode", ["shortest", "longest", "squash"])
@pytest.mark.parametrize("interpolation", ["bicubic", "bilinear"])
@pytest.mark.parametrize("size", [(32, 32), (64, 64), (48, 96)])
@pytest.mark.parametrize("shape", HARD.values(), ids=HARD)
def test_hard_edges_are_open_clips_within_a_grey_level(shape, size, interpolation, mode):
    numbers = {
        "size": size,
        "mean": (0.0, 0.0, 0.0),
        "std": (1.0, 1.0, 1.0),
        "interpolation": interpolation,
        "resize_mode": mode,
    }
    noise = torch.rand(3, *shape, generator=torch.Generator().manual_seed(1))
    image = to_pil_image((noise > 0.5).float())
    config = open_clip.transform.PreprocessCfg(**numbers)
    expected = open_clip.transform.image_transform_v2(config, is_train=False)(image)
    pixels = Preprocessing(numbers)(to_tensor(image)[None])[0]
    assert (pixels - expected).abs().max() * 255 < 1.1


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("size", 0),
        ("size", (16, 16, 16)),
        ("size", 10**9),
        ("size", "big"),
        ("size", None),
        ("mean", None),
        ("mean", [0.5, 0.5]),
        ("mean", ["a", "b", "c"]),
        ("std", [0.5, 0.0, 0.5]),
        ("std", [float("nan")] * 3),
        ("interpolation", "lanczos"),
        ("interpolation", ["bicubic"]),
        ("resize_mode", {"a": 1}),
        ("fill_color", 300),
        ("fill_color", "red"),
        ("crop_pct", 0),
    ],
)
def test_numbers_that_preprocess_nothing_are_refused(name, value):
    numbers = {"size": 16, "mean": [0.5] * 3, "std": [0.25] * 3} | {name: value}
    with pytest.raises(InputError, match=f"Preprocessing with {name}="):
        Preprocessing(numbers)
    with pytest.raises(InputError, match="should be a mapping"):
        Preprocessing([value])


def test_images_of_the_right_size_are_only_normalised():
    prepare = Preprocessing({"size": 16, "mean": [0.5] * 3, "std": [0.25] * 3})
    assert torch.equal(prepare(IMAGES), (IMAGES - 0.5) / 0.25)


def test_grey_images_get_three_equal_channels():
    prepare = Preprocessing({"size": 16, "mean": [0.0] * 3, "std": [1.0] * 3})
    grey = IMAGES[:, :1]
    assert torch.equal(prepare(grey), grey.expand(-1, 3, -1, -1))


def test_gradients_pass_the_resize():
    images = torch.rand(1, 3, 40, 30).requires_grad_()
    prepare = Preprocessing({"size": 16, "mean": [0.5] * 3, "std": [0.25] * 3})
    prepare(images).sum().backward()
    assert (images.grad.abs().sum((1, 3)) > 0).any()


@pytest.mark.parametrize("channels", [2, 4])
def test_other_channels_are_refused(channels):
    images = torch.rand(1, channels, 16, 16)
    with pytest.raises(InputError, match=f"tower whose channels do not fit: .* have {channels}"):
        Tower(tiny_tower()).frozen(images)


def test_without_resize_both_sizes_are_named():
    images = torch.rand(1, 3, 8, 24)
    with pytest.raises(InputError, match=r"16x16.*8x24"):
        Tower(tiny_tower()).frozen(images, resize=False)
