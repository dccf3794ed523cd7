"""Reading images: one path, and one sentence for each way in which a file can be bad."""

import csv
import json
import logging
import struct
import zlib

import numpy as np
import pytest
import torch
from PIL import Image, features

from rewardlab.data import ImageFolder, find_images, read_image
from rewardlab.errors import InputError
from rewardlab.storage import as_samples


def noise(*shape, seed=0):
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def chunk(name, data):
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


def header_only(path, width, height):
    """Write a PNG whose header claims a size and whose data are missing."""
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", b""))


def rgb16(path):
    """Write a 16-bit RGB PNG by hand, as Pillow cannot."""
    rows = zlib.compress(b"".join(b"\0" + bytes(6 * 4) for _ in range(4)))
    header = struct.pack(">IIBBBBB", 4, 4, 16, 2, 0, 0, 0)
    path.write_bytes(
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")
    )


def animated(path):
    frames = [Image.fromarray(noise(8, 8, 3, seed=seed)) for seed in range(3)]
    frames[0].save(path, save_all=True, append_images=frames[1:])


def truncated(path):
    Image.fromarray(noise(64, 64, 3)).save(path)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


BAD = {
    "empty.png": (lambda path: path.write_bytes(b""), "it is empty. Copy it again or remove it"),
    "text.png": (lambda path: path.write_text("a cat"), "it is no image of a known kind"),
    "half.jpg": (truncated, "corrupt or truncated"),
    "half.png": (truncated, "corrupt or truncated"),
    "cmyk.jpg": (
        lambda path: Image.new("CMYK", (8, 8)).save(path),
        "its colours are CMYK. Convert it to RGB",
    ),
    "grey16.png": (
        lambda path: Image.fromarray(noise(8, 8).astype(np.uint16)).save(path),
        "16 or more bits a channel",
    ),
    "rgb16.png": (rgb16, "16 or more bits a channel"),
    "float.tiff": (
        lambda path: Image.fromarray(noise(8, 8).astype(np.float32)).save(path),
        "16 or more bits a channel",
    ),
    "moving.gif": (animated, r"animated or has pages \(3 frames\)"),
    "moving.webp": (animated, r"animated or has pages \(3 frames\)"),
    "moving.png": (animated, r"animated or has pages \(3 frames\)"),
    "pages.tiff": (animated, r"animated or has pages \(3 frames\)"),
    "wide.png": (
        lambda path: header_only(path, 50_000, 10),
        "claims 50000×10 pixels.*Scale it down",
    ),
    "large.png": (lambda path: header_only(path, 19_000, 19_000), "more than 178 million pixels"),
    "bomb.png": (lambda path: header_only(path, 13_400, 13_320), "claims 13400×13320 pixels"),
}


@pytest.mark.parametrize("name", BAD)
def test_a_bad_image_is_named_with_the_reason_and_the_mend(tmp_path, name):
    write, reason = BAD[name]
    write(tmp_path / name)
    with pytest.raises(InputError, match=rf"{name} cannot be used: .*{reason}"):
        read_image(tmp_path / name)


def test_bad_images_are_skipped_counted_and_named(tmp_path, caplog):
    for name, (write, _) in BAD.items():
        write(tmp_path / name)
    Image.fromarray(noise(8, 8, 3)).save(tmp_path / "good.png")
    (tmp_path / "notes.txt").write_text("not an image")
    with caplog.at_level(logging.WARNING, "rewardlab"):
        images = ImageFolder(tmp_path)
    assert [path.name for path in images.paths] == ["good.png"]
    assert {path.name for path, _ in images.skipped} == set(BAD)
    (message,) = caplog.messages
    assert message.startswith(f"Skipped {len(BAD)} of {len(BAD) + 1} images")
    assert "bomb.png: it claims" in message


def test_strict_refuses_the_first_bad_image(tmp_path):
    Image.new("RGB", (8, 8)).save(tmp_path / "a.png")
    (tmp_path / "b.png").write_bytes(b"")
    with pytest.raises(InputError, match=r"b\.png cannot be used: it is empty"):
        ImageFolder(tmp_path, strict=True)


def test_folders_without_a_usable_image_are_refused(tmp_path):
    with pytest.raises(InputError, match="does not exist"):
        ImageFolder(tmp_path / "nowhere")
    (tmp_path / "notes.txt").write_text("")
    with pytest.raises(InputError, match="holds no images, only 1 other files"):
        ImageFolder(tmp_path)
    with pytest.raises(InputError, match="is a file"):
        ImageFolder(tmp_path / "notes.txt")
    (tmp_path / "a.png").write_bytes(b"")
    with pytest.raises(InputError, match="1 image files and none can be used"):
        ImageFolder(tmp_path)
    with pytest.raises(InputError, match=r"missing\.png cannot be used: it does not exist"):
        read_image(tmp_path / "missing.png")


def test_pixels_come_as_they_are(tmp_path):
    pixels = noise(6, 9, 3)
    Image.fromarray(pixels).save(tmp_path / "a.png")
    assert torch.equal(read_image(tmp_path / "a.png"), torch.from_numpy(pixels).permute(2, 0, 1))
    Image.fromarray(pixels[..., 0]).save(tmp_path / "grey.png")
    assert torch.equal(
        read_image(tmp_path / "grey.png", channels=1)[0], torch.from_numpy(pixels[..., 0])
    )
    assert torch.equal(read_image(tmp_path / "grey.png")[2], torch.from_numpy(pixels[..., 0]))


def test_resizing_fits_the_shorter_side_and_crops_the_centre(tmp_path):
    """Three bars of 20 columns: the square crop about the centre holds the middle one only."""
    pixels = np.repeat(np.array([0, 200, 90], np.uint8), 20)[None].repeat(20, 0)
    Image.fromarray(pixels).save(tmp_path / "bars.png")
    image = read_image(tmp_path / "bars.png", size=10, channels=1)
    assert image.shape == (1, 10, 10)
    assert image[0, :, 2:-2].unique().tolist() == [200]
    assert read_image(tmp_path / "bars.png", size=33).shape == (3, 33, 33)


def test_orientation_and_transparency_are_applied(tmp_path):
    image = Image.fromarray(noise(4, 8, 3))
    exif = image.getexif()
    exif[0x0112] = 6  # turned by 90 degrees
    image.save(tmp_path / "turned.png", exif=exif)
    assert torch.equal(
        read_image(tmp_path / "turned.png"),
        torch.from_numpy(noise(4, 8, 3)).permute(2, 0, 1).rot90(-1, (1, 2)),
    )
    Image.new("RGBA", (4, 4), (255, 0, 0, 0)).save(tmp_path / "clear.png")
    assert read_image(tmp_path / "clear.png").unique().tolist() == [255]


def test_an_item_is_one_row_of_samples_with_prompt_and_facts(tmp_path):
    (tmp_path / "deep").mkdir()
    for name in ("b.png", "a.png", "deep/c.jpg"):
        Image.new("L", (8, 8), 51).save(tmp_path / name)
    lines = ['{"file_name": "b.png", "text": "zwölf", "weight": 0.5, "digit": 3, "note": "x"}']
    lines += [
        '{"file_name": "a.png", "prompt": "one", "weight": 1, "digit": 4}',
        '{"file_name": "deep/c.jpg", "weight": 2.5, "digit": 5}',
    ]
    (tmp_path / "metadata.jsonl").write_text("\n".join(lines), encoding="utf-8")
    images = ImageFolder(tmp_path, channels=1)
    assert images.prompts == ["one", "zwölf", ""]
    item = images[1]
    assert (item.prompts, item.outputs.shape, item.outputs.dtype) == (
        ["zwölf"],
        (1, 1, 8, 8),
        torch.float32,
    )
    assert item.outputs.unique().tolist() == pytest.approx([0.2])
    assert {name: column.tolist() for name, column in item.facts.items()} == {
        "row": [1],
        "weight": [0.5],
        "digit": [3],
    }


def test_a_listed_image_that_is_absent_is_counted_or_refused(tmp_path):
    Image.new("L", (8, 8)).save(tmp_path / "a.png")
    (tmp_path / "metadata.jsonl").write_text('{"file_name": "gone.png", "prompt": ""}\n')
    assert [path.name for path, _ in ImageFolder(tmp_path).skipped] == ["gone.png"]
    with pytest.raises(InputError, match=r"lists gone\.png"):
        ImageFolder(tmp_path, strict=True)


def test_several_sizes_need_a_size(tmp_path):
    Image.new("RGB", (8, 8)).save(tmp_path / "a.png")
    Image.new("RGB", (9, 8)).save(tmp_path / "b.png")
    with pytest.raises(InputError, match=r"a.png is 8×8, b.png 9×8.*Give `size`"):
        ImageFolder(tmp_path)
    assert ImageFolder(tmp_path, size=8)[1].outputs.shape == (1, 3, 8, 8)


def test_images_are_found_at_any_depth_in_order_without_hidden_files(tmp_path):
    (tmp_path / "x").mkdir()
    for name in ("z.PNG", "x/a.webp", ".hidden.png", "b.jpeg", "c.txt"):
        (tmp_path / name).write_bytes(b"")
    assert [path.relative_to(tmp_path).as_posix() for path in find_images(tmp_path)] == [
        "b.jpeg",
        "x/a.webp",
        "z.PNG",
    ]


def pictures(folder, *names):
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        form = {".jfif": "JPEG", ".avif": "AVIF", ".heic": "PNG", "": "PNG"}
        Image.new("RGB", (8, 8)).save(folder / name, format=form.get((folder / name).suffix))


def test_every_picture_is_read_or_named(tmp_path, caplog):
    names = ["a.png", "b.jpe", "c.jfif", "d.TIF", "e.webp", "in/f.bmp", "in/g.ppm", "h.jp2"]
    if features.check("avif"):
        names.append("i.avif")
    left_out = ["j.heic", "k", ".hidden/l.png"]
    pictures(tmp_path, *names, *left_out)
    (tmp_path / "m.svg").write_text("<svg/>")
    (tmp_path / "notes.txt").write_text("of another thing")
    (tmp_path / "Thumbs.db").write_bytes(b"1")
    images = ImageFolder(tmp_path)
    assert {str(path.relative_to(tmp_path)) for path in images.paths} == set(names)
    named = {str(path.relative_to(tmp_path)): reason for path, reason in images.skipped}
    assert named.keys() == {*left_out, "m.svg"}
    assert f"Skipped 4 of {len(names) + 4} images" in caplog.text
    assert named["j.heic"] == ".heic files are not read here. Convert it to PNG or JPEG"
    assert "Rename it" in named["k"]
    caplog.clear()
    assert len(as_samples("", tmp_path)) == len(names)
    assert f"Left out 4 of {len(names) + 4} images" in caplog.text
    with pytest.raises(InputError, match="cannot be used"):
        ImageFolder(tmp_path, strict=True)


def test_a_folder_of_nothing_but_unread_pictures_names_one(tmp_path):
    pictures(tmp_path, "a.heic")
    with pytest.raises(InputError, match=r"holds no images, only 1 other files \(a.heic: .heic"):
        ImageFolder(tmp_path)


def test_a_format_that_a_package_teaches_pillow_is_read(tmp_path, monkeypatch):
    """As pillow_heif does for HEIC."""
    pictures(tmp_path, "a.heic")
    Image.init()
    monkeypatch.setitem(Image.OPEN, "HEIF", Image.OPEN["PNG"])
    assert len(ImageFolder(tmp_path)) == 1


def test_a_link_to_a_folder_is_followed_or_named(tmp_path):
    pictures(tmp_path, "one/a.png", "two/b.png")
    (tmp_path / "one/more").symlink_to(tmp_path / "two", target_is_directory=True)
    images = ImageFolder(tmp_path / "one")
    assert [path.name for path, _ in images.skipped] + [p.name for p in images.paths] in (
        ["more", "a.png"],
        ["a.png", "b.png"],
    )


@pytest.mark.parametrize("name", ["metadata.csv", "metadata.jsonl", "metadata.parquet"])
def test_captions_come_from_metadata_of_every_form(tmp_path, name):
    """Also from a folder inside, with names relative to it, as Hugging Face's imagefolder."""
    pictures(tmp_path, "a.png", "b.png", "in/c.png")
    write_metadata(tmp_path / name, [("a.png", "a cat", 1.5), ("b.png", "a dog, and more", 2)])
    write_metadata(tmp_path / "in" / name, [("c.png", "a bird", -1)])
    images = ImageFolder(tmp_path)
    assert images.prompts == ["a cat", "a dog, and more", "a bird"]
    assert images[2].facts["score"].tolist() == [-1]
    write_metadata(tmp_path / name, [("gone.png", "a cat", 1)])
    images = ImageFolder(tmp_path)
    assert images.prompts == ["", "", "a bird"]
    assert images.skipped[0].reason == f"it is listed in {name}, but is not there."


def write_metadata(path, rows):
    names = ("file_name", "text", "score")
    rows = [dict(zip(names, row, strict=True)) for row in rows]
    if path.suffix == ".csv":
        with path.open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, names)
            writer.writeheader()
            writer.writerows(rows)
    elif path.suffix == ".jsonl":
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    else:
        import pyarrow as arrow
        from pyarrow import parquet

        rows = [row | {"score": float(row["score"])} for row in rows]
        parquet.write_table(arrow.Table.from_pylist(rows), path)


def test_captions_come_from_texts_beside_the_pictures(tmp_path, caplog):
    """As kohya's trainers read them."""
    pictures(tmp_path, "10_cat/a.png", "10_cat/b.jpg", "5_dog/c.webp", "5_dog/d.png")
    (tmp_path / "10_cat/a.txt").write_text("a cat, sitting\n")
    (tmp_path / "10_cat/b.caption").write_text("a cat")
    (tmp_path / "5_dog/c.webp.txt").write_text("a dog")
    images = ImageFolder(tmp_path)
    assert images.prompts == ["a cat, sitting", "a cat", "a dog", ""]
    assert "1 of 4 images" in caplog.text
    write_metadata(tmp_path / "metadata.csv", [("10_cat\\a.png", "listed", 1)])
    assert ImageFolder(tmp_path).prompts == ["listed", "a cat", "a dog", ""]


def test_metadata_without_file_names_is_refused(tmp_path):
    pictures(tmp_path, "a.png")
    (tmp_path / "metadata.csv").write_text("image,text\na.png,a cat\n")
    with pytest.raises(InputError, match=r'metadata.csv has a row without "file_name"'):
        ImageFolder(tmp_path)
