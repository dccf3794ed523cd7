import io
import time

import pytest
import torch
from PIL import Image
from torch import Tensor
from torch.nn.functional import avg_pool2d
from torchvision.transforms.functional import pil_to_tensor, to_pil_image

from rewardlab.data.diagnostics import Separator, report, separators
from rewardlab.errors import InputError
from rewardlab.types import Samples


def scenes(count: int, seed: int, size: int = 64) -> Tensor:
    """Coloured noise with the 1/f spectrum of photographs."""
    white = torch.randn(count, 3, size, size, generator=torch.Generator().manual_seed(seed))
    frequency = torch.hypot(torch.fft.fftfreq(size)[:, None], torch.fft.rfftfreq(size)[None])
    gain = 1 / (frequency + 1 / size)
    pink = torch.fft.irfft2(
        torch.fft.rfft2(white) * gain / gain.square().mean().sqrt(), s=(size, size)
    )
    return (0.5 + 0.1 * (pink + pink.mean(1, keepdim=True))).clamp(0, 1)


def jpeg(images: Tensor, quality: int) -> Tensor:
    coded = []
    for image in images:
        file = io.BytesIO()
        to_pil_image(image).save(file, "JPEG", quality=quality)
        coded.append(pil_to_tensor(Image.open(file)) / 255)
    return torch.stack(coded)


def blur(images: Tensor) -> Tensor:
    return avg_pool2d(images, 3, 1, 1, count_include_pad=False)


def aucs(*args, **kwargs) -> dict[str, float]:
    return {one.name: one.auc for one in separators(*args, **kwargs)}


@pytest.fixture(scope="module")
def pair() -> tuple[Tensor, Tensor]:
    return scenes(80, 0), scenes(80, 1)


@pytest.mark.parametrize("quality", [60, 90])
def test_jpeg_against_raw(pair, quality):
    """Measured AUC 1.00 from quality 30 to 95; the file type is unknown without files."""
    found = separators(jpeg(pair[0], quality), pair[1])
    assert found[0].name == "JPEG blocks"
    assert found[0].auc > 0.95
    assert "one codec" in report(found)


def test_blur_is_sharpness_and_not_a_codec(pair):
    found = aucs(blur(pair[0]), pair[1])
    assert found["sharpness"] > 0.95
    assert (
        max(found[name] for name in ("JPEG blocks", "colour", "brightness", "size", "file type"))
        < 0.65
    )


def test_tint_is_colour_and_not_brightness():
    """The weaker colours are drawn towards red and blue at one mean brightness."""
    a, b = scenes(80, 0) * 0.8, scenes(80, 1) * 0.8
    found = aucs(a * torch.tensor([1.15, 0.7, 1.15])[:, None, None], b)
    assert found["colour"] > 0.95
    assert max(found["brightness"], found["sharpness"], found["JPEG blocks"]) < 0.65


def test_grey_against_colour(pair):
    grey = pair[0].mean(1, keepdim=True)
    assert aucs(list(grey), pair[1])["colour"] == 1.0
    assert aucs(grey, pair[1].mean(1, keepdim=True))["colour"] == 0.5


def test_bold_strokes_show_as_brightness():
    thin = torch.zeros(20, 1, 8, 8)
    thin[:, :, 2:6, 3] = 1 - torch.rand(20, 1, 4, generator=torch.Generator().manual_seed(0)) / 4
    bold = thin.clone()
    bold[:, :, 2:6, 4] = 1
    assert aucs(bold, thin)["brightness"] == 1.0
    assert "ignore it" in report(separators(bold, thin))


def test_which_class_has_more_does_not_matter(pair):
    assert aucs(pair[0], blur(pair[1])) == pytest.approx(aucs(blur(pair[1]), pair[0]))


@pytest.mark.parametrize("count", [3, 20, 100])
def test_equal_classes_are_let_pass(count):
    """Measured over 100 seeds of each count: 0, 4 and 3 pass chance; 0, 2 and 0 pass 0.8 as well,
    and would be listed.
    """
    alarms = sum(
        any(one.auc >= one.chance for one in separators(images[:count], images[count:]))
        for images in (scenes(2 * count, seed, size=24) for seed in range(30))
    )
    assert (
        alarms <= 3
    )  # 5 % of 30 is 1.5; more than 3 has a chance of 6 in 100 at that rate, and less below it


def test_few_samples_say_so():
    images = scenes(6, 0)
    assert report(separators(images[:3], blur(images[3:]))).startswith("There are too few samples")


def test_report_without_and_with_findings(pair):
    calm = report(separators(*pair))
    assert calm.startswith("Nothing simple separates")
    assert "\n" not in calm
    found = [
        Separator("colour", 0.85, "mend it", 0.6),
        Separator("size", 0.85, "crop", 0.9),
        Separator("contrast", 0.7, "-", 0.6),
    ]
    lines = report(found).splitlines()
    assert len(lines) == 3
    assert lines[1] == "  colour 0.85: mend it"
    assert "contrast 0.70" in report(found, threshold=0.65)


def saved(folder, images: Tensor, **options) -> list[str]:
    folder.mkdir()
    suffix = options.pop("suffix", "png")
    paths = [str(folder / f"{i}.{suffix}") for i in range(len(images))]
    for path, image in zip(paths, images, strict=True):
        to_pil_image(image).save(path, **options)
    return paths


def test_files_give_size_and_type_away(tmp_path, pair):
    a, b = pair[0][:12], pair[1][:12]
    wide = saved(tmp_path / "wide", a[:, :, :32])
    png = saved(tmp_path / "png", b)
    coarse, fine = (saved(tmp_path / f"q{q}", a, suffix="jpg", quality=q) for q in (60, 90))
    by_size, by_type = (
        aucs(a, b, target_files=wide, generated_files=png),
        aucs(a, b, target_files=fine, generated_files=png),
    )
    assert (by_size["size"], by_size["file type"]) == (1.0, 0.5)
    assert (by_type["size"], by_type["file type"]) == (0.5, 1.0)
    assert aucs(a, b, target_files=fine, generated_files=coarse)["file type"] == 1.0
    assert aucs(a, b, target_files=fine)["file type"] == 1.0
    assert aucs(a, b, target_files=png)["file type"] == 0.5


def test_mixed_sizes_around_the_generators(pair):
    mixed = [
        image[:, : 48 + 16 * (i % 3)] if i % 3 != 1 else image[:, :, :48]
        for i, image in enumerate(scenes(30, 0, size=80))
    ]
    assert aucs(mixed, pair[1][:30])["size"] == 1.0


def test_files_that_are_no_images_are_left_out(tmp_path, pair):
    clip = tmp_path / "clip.mp4"
    clip.write_bytes(b"no image")
    found = aucs(pair[0][:9], pair[1][:9], target_files=[clip])
    assert (found["size"], found["file type"]) == (0.5, 0.5)


def test_autoencoder_signature(pair):
    """A code that keeps a quarter of the pixels changes nothing the second time."""

    def reconstruct(samples: Samples) -> Samples:
        coarse = avg_pool2d(samples.outputs, 2)
        return Samples(samples.prompts, coarse.repeat_interleave(2, -1).repeat_interleave(2, -2))

    decoded = reconstruct(Samples([""] * 80, pair[1])).outputs
    assert aucs(pair[0], decoded, reconstruct=reconstruct)["autoencoder"] == 1.0
    assert aucs(*pair, reconstruct=reconstruct)["autoencoder"] < 0.6
    assert "autoencoder" not in aucs(*pair)
    with pytest.raises(InputError, match="reconstruct must return"):
        separators(
            *pair, reconstruct=lambda samples: Samples(samples.prompts, samples.outputs[..., :8])
        )


def test_videos_are_seen_by_their_middle_frame(pair):
    def video(images: Tensor) -> Samples:
        still = torch.zeros_like(images)
        return Samples([""] * len(images), torch.stack([still, images, still], 1))

    assert aucs(video(blur(pair[0])), video(pair[1])) == pytest.approx(aucs(blur(pair[0]), pair[1]))


def test_large_images_are_cut_on_the_grid_and_many_are_subsampled():
    large = scenes(8, 0, size=300)
    assert aucs(jpeg(large[:4], 75), large[4:])["JPEG blocks"] == 1.0
    many = torch.rand(1200, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    first, again, other = (separators(many[:600], many[600:], seed=seed) for seed in (0, 0, 1))
    assert first == again != other
    assert first[0].chance == pytest.approx(
        0.5 + 2.81 * (1001 / (12 * 500 * 500)) ** 0.5, abs=0.005
    )


def test_it_is_quick():
    images = scenes(600, 0)
    start = time.process_time()
    separators(images[:300], images[300:])
    assert time.process_time() - start < 1


@pytest.mark.parametrize(
    "images",
    [
        torch.zeros(5, 1, 8, 8),
        torch.ones(5, 3, 40, 40),
        torch.zeros(5, 4, 2, 1),
        [torch.zeros(2, 9, 30)],
    ],
)
def test_flat_and_tiny_images_separate_nothing(images):
    assert set(aucs(images, images).values()) == {0.5}


@pytest.mark.parametrize(
    ("targets", "words"),
    [
        (torch.zeros(0, 3, 8, 8), "targets is empty"),
        (Samples(["a"], ["text"]), "targets holds str"),
        ([torch.zeros(8, 8)], r"targets holds torch.float32 \[8, 8\]"),
        ([torch.zeros(3, 8, 8, dtype=torch.uint8)], "uint8"),
        (torch.full((2, 3, 8, 8), float("nan")), "targets holds NaN"),
    ],
)
def test_bad_input_is_named(targets, words):
    with pytest.raises(InputError, match=words):
        separators(targets, torch.zeros(2, 3, 8, 8))
