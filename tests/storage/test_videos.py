"""Videos in files and folders of frames: read, written, refused; as targets and as samples."""

import logging
import struct
import sys

import av
import numpy as np
import pytest
import torch
from PIL import Image
from torch.testing import assert_close

from rewardlab.data import Clip, SamplesData, TargetSamples, VideoFolder, read_video, write_video
from rewardlab.data.samples import open_samples
from rewardlab.errors import InputError
from rewardlab.storage import as_samples, load_samples, save_samples
from rewardlab.storage.image_folder import ImageFolder
from rewardlab.storage.video_files import CONTAINERS
from rewardlab.types import Samples

FORMS = {"": 0.51, ".mkv": 0.51, ".gif": 6.0, ".mp4": 6.0, ".webm": 6.0}  # mean error in levels


def smooth(frames=7, channels=3, height=30, width=44):
    """A soft pattern that moves, which codecs keep well."""
    rows = torch.linspace(0, 3, height).view(1, 1, height, 1)
    columns = torch.linspace(0, 2, width).view(1, 1, 1, width)
    times = torch.linspace(0, 1, frames).view(frames, 1, 1, 1)
    colours = torch.linspace(0, 1, channels).view(1, channels, 1, 1)
    return 0.5 + 0.4 * torch.sin(rows + columns + 2 * times + colours)


def levels(video):
    return (video * 255).round()


@pytest.mark.parametrize("suffix", FORMS)
@pytest.mark.parametrize("height", [30, 31])
def test_what_is_written_is_read(suffix, height, tmp_path):
    video = smooth(height=height, width=height + 14)
    write_video(tmp_path / f"a{suffix}", video)
    again = read_video(tmp_path / f"a{suffix}")
    assert again.shape == video.shape
    assert again.dtype == torch.uint8
    assert (again.float() - levels(video)).abs().mean() < FORMS[suffix]


@pytest.mark.parametrize("suffix", FORMS)
def test_frames_and_stride_take_what_slicing_takes(suffix, tmp_path):
    write_video(tmp_path / f"a{suffix}", smooth())
    whole = read_video(tmp_path / f"a{suffix}")
    for frames, stride in ((3, 1), (3, 2), (2, 6), (7, 1), (1, 9)):
        part = read_video(tmp_path / f"a{suffix}", Clip(frames, stride))
        assert part.equal(whole[::stride][:frames])
    assert read_video(tmp_path / f"a{suffix}", Clip(stride=3)).equal(whole[::3])


@pytest.mark.parametrize("suffix", [".mkv", ""])
def test_frames_are_resized_and_made_grey_as_pictures_are(suffix, tmp_path):
    video = smooth(frames=2)
    write_video(tmp_path / f"a{suffix}", video)
    for number, frame in enumerate(video):
        array = levels(frame).to(torch.uint8).permute(1, 2, 0).numpy()
        Image.fromarray(array).save(tmp_path / f"{number}.png")
    for channels in (1, 3):
        pictures = [
            as_samples("", [tmp_path / f"{number}.png"], 16).outputs[0] for number in range(2)
        ]
        frames = read_video(tmp_path / f"a{suffix}", size=16, channels=channels)
        expected = torch.stack(pictures)
        if channels == 1:
            weights = torch.tensor([0.299, 0.587, 0.114]).view(3, 1, 1)
            expected = (expected * weights).sum(1, keepdim=True)
        assert_close(frames / 255, expected, atol=1.6 / 255, rtol=0)


def test_a_grey_video_is_written_and_read_in_both_ways(tmp_path):
    video = smooth(channels=1)
    for suffix in FORMS:
        write_video(tmp_path / f"a{suffix}", video)
        grey = read_video(tmp_path / f"a{suffix}", channels=1)
        colour = read_video(tmp_path / f"a{suffix}")
        assert grey.shape[1] == 1
        assert (colour.float() - grey.float()).abs().mean() < 2


@pytest.mark.parametrize(
    ("matrix", "turns"),
    [((0, 1, -1, 0), -1), ((-1, 0, 0, -1), 2), ((0, -1, 1, 0), 1), ((1, 0, 0, 1), 0)],
)
def test_a_telephones_video_stands_upright(matrix, turns, tmp_path):
    """The matrix of the header, (x, y) -> (ax + cy, bx + dy), as a camera that was turned writes it.

    With (0, 1, -1, 0), what is stored is shown a quarter turn clockwise.
    """
    path = tmp_path / "a.mp4"
    write_video(path, smooth(frames=3, height=32, width=48))
    plain = read_video(path)
    content = bytearray(path.read_bytes())
    start = content.index(b"tkhd") + 44
    a, b, c, d = [number << 16 for number in matrix]
    content[start : start + 36] = struct.pack(">9i", a, b, 0, c, d, 0, 0, 0, 1 << 30)
    path.write_bytes(content)
    assert read_video(path).equal(torch.rot90(plain, turns, (2, 3)))


def test_frame_two_comes_before_frame_ten(tmp_path):
    for number in range(12):
        Image.new("L", (4, 4), number * 20).save(tmp_path / f"f{number}.png")
    assert read_video(tmp_path, channels=1)[:, 0, 0, 0].tolist() == [20 * n for n in range(12)]


def test_transparent_gifs_lie_on_white(tmp_path):
    frame = Image.new("RGBA", (6, 4), (0, 0, 0, 0))
    frame.putpixel((0, 0), (200, 0, 0, 255))
    other = Image.new("RGBA", (6, 4), (0, 0, 0, 0))
    other.putpixel((1, 0), (200, 0, 0, 255))
    frame.save(tmp_path / "a.gif", save_all=True, append_images=[other], disposal=2)
    video = read_video(tmp_path / "a.gif")
    assert video[0, :, 3, 5].tolist() == [255, 255, 255]
    assert video[1, :, 0, 1].tolist() == [200, 0, 0]


def cut(path, share):
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * share)])


@pytest.mark.parametrize("suffix", [".mp4", ".webm", ".gif", ".mkv"])
@pytest.mark.parametrize("damage", ["empty", "text", "half", "missing"])
def test_a_broken_file_is_one_sentence(suffix, damage, tmp_path, capfd):
    path = tmp_path / f"a{suffix}"
    write_video(path, smooth(frames=24))
    if damage == "empty":
        path.write_bytes(b"")
    elif damage == "text":
        path.write_bytes(b"no video at all " * 200)
    elif damage == "half":
        cut(path, 0.5)
    else:
        path.unlink()
    with pytest.raises(InputError) as caught:
        read_video(path, Clip(24) if suffix == ".gif" else Clip())
    message = str(caught.value)
    assert message.startswith(f"{path} cannot be used: it ")
    assert message.count("\n") == 0
    assert str(path) not in message[len(str(path)) :]
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize("suffix", [".webm", ".mkv"])
@pytest.mark.parametrize("share", [0.8, 0.9, 0.97])
def test_a_few_frames_that_are_lost_at_the_end_are_seen(suffix, share, tmp_path):
    """The header says how long the pictures last; sound that goes on longer does not count."""
    path = tmp_path / f"a{suffix}"
    write_video(path, smooth(frames=12))
    assert len(read_video(path)) == 12
    cut(path, share)
    with pytest.raises(InputError, match="it is cut off, at"):
        read_video(path)
    assert len(read_video(path, Clip(4))) == 4


@pytest.mark.parametrize("share", [0.35, 0.45, 0.54])
def test_a_frame_that_is_marked_as_damaged_is_refused(share, tmp_path):
    """MPEG-4 part 2 marks zeros anywhere; H.264 takes most of them for pictures, so by chance."""
    path = tmp_path / "a.mp4"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=8)
        stream.width, stream.height, stream.pix_fmt = 32, 32, "yuv420p"
        for picture in np.random.default_rng(0).integers(0, 256, (12, 32, 32, 3), np.uint8):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode())
    content = bytearray(path.read_bytes())
    start = round(share * len(content))
    content[start : start + 64] = bytes(64)
    path.write_bytes(content)
    with pytest.raises(InputError, match="it is damaged at"):
        read_video(path)


def test_a_last_frame_that_stands_for_long_is_no_loss(tmp_path):
    path = tmp_path / "slides.mkv"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("ffv1", rate=10)
        stream.width, stream.height, stream.pix_fmt = 16, 16, "bgr0"
        for time in (0, 10, 11, 30):
            frame = av.VideoFrame.from_ndarray(np.zeros((16, 16, 3), np.uint8), format="rgb24")
            frame.pts = time
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    assert len(read_video(path)) == 4


def test_sound_alone_is_no_video(tmp_path):
    with av.open(str(tmp_path / "a.mp4"), "w") as container:
        stream = container.add_stream("aac", rate=44100)
        sound = np.zeros((1, 1024), dtype="float32")
        frame = av.AudioFrame.from_ndarray(sound, format="fltp", layout="mono")
        frame.sample_rate = 44100
        container.mux(stream.encode(frame))
        container.mux(stream.encode())
    with pytest.raises(InputError, match="only sound"):
        read_video(tmp_path / "a.mp4")


def test_without_pyav_the_sentence_says_what_to_install(tmp_path, monkeypatch):
    write_video(tmp_path / "a.mp4", smooth())
    write_video(tmp_path / "a.gif", smooth())
    monkeypatch.setitem(sys.modules, "av", None)
    with pytest.raises(InputError, match=r"pip install 'rewardlab\[video\]'"):
        read_video(tmp_path / "a.mp4")
    with pytest.raises(InputError, match=r"pip install 'rewardlab\[video\]'"):
        write_video(tmp_path / "b.mp4", smooth())
    assert len(read_video(tmp_path / "a.gif")) == 7


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Clip(frames=0), "one frame at least"),
        (lambda: Clip(stride=0), "stride of at least 1"),
        (lambda: write_video("a.avi", smooth()), "written as .mp4, .webm, .mkv or .gif"),
        (lambda: write_video("a.mp4", smooth()[0]), r"\[F, C, H, W\] of 1 or 3 channels"),
        (lambda: write_video("a.mp4", smooth(channels=2)), "1 or 3 channels"),
    ],
)
def test_what_means_nothing_is_refused(make, message):
    with pytest.raises(InputError, match=message):
        make()


def test_long_videos_are_refused_where_all_frames_are_asked_for(tmp_path, monkeypatch):
    monkeypatch.setattr("rewardlab.storage.videos.MOST_FRAMES", 5)
    for suffix in ("", ".gif", ".mp4"):
        write_video(tmp_path / f"a{suffix}", smooth())
        with pytest.raises(InputError, match=r"more than 5 frames\. Say how many"):
            read_video(tmp_path / f"a{suffix}")
        assert len(read_video(tmp_path / f"a{suffix}", Clip(6))) == 6


@pytest.fixture
def clips(tmp_path):
    """Three kinds of videos with their prompts, one that is short, one broken, a loose picture."""
    folder = tmp_path / "clips"
    folder.mkdir()
    write_video(folder / "a.mkv", smooth(8))
    write_video(folder / "b.gif", smooth(9))
    write_video(folder / "c", smooth(10))
    write_video(folder / "short.mkv", smooth(3))
    (folder / "broken.mp4").write_bytes(b"nothing")
    Image.new("RGB", (4, 4)).save(folder / "cover.png")
    (folder / "a.txt").write_text("a walk")
    (folder / "metadata.jsonl").write_text(
        '{"file_name": "b.gif", "prompt": "a run", "rating": 3}\n'
        '{"file_name": "c", "prompt": "a jump", "rating": 4}\n'
    )
    return folder


def test_a_folder_of_videos_is_a_data_set(clips, caplog):
    with caplog.at_level(logging.WARNING, "rewardlab"):
        videos = VideoFolder(clips, Clip(frames=4, stride=2), size=16)
    assert [path.name for path in videos.paths] == ["a.mkv", "b.gif", "c"]
    assert videos.prompts == ["a walk", "a run", "a jump"]
    assert videos[0].outputs.shape == (1, 4, 3, 16, 16)
    assert_close(videos[2].outputs[0], read_video(clips / "c", Clip(4, 2), 16) / 255)
    reasons = {path.name: reason for path, reason in videos.skipped}
    assert set(reasons) == {"broken.mp4", "short.mkv", "cover.png"}
    assert "it has 2 frames at a stride of 2, and 4 are wanted" in reasons["short.mkv"]
    assert "Skipped 3 of 6 videos" in caplog.text
    with pytest.raises(InputError, match=r"broken.mp4 cannot be used"):
        VideoFolder(clips, Clip(frames=4), size=16, strict=True)


def test_other_numbers_of_frames_and_other_sizes_are_one_sentence(tmp_path):
    write_video(tmp_path / "a.mkv", smooth(5))
    write_video(tmp_path / "b.mkv", smooth(6))
    with pytest.raises(InputError, match=r"a.mkv is 5 frames of 44×30, b.mkv 6 frames.*`clip`"):
        VideoFolder(tmp_path, size=16)
    write_video(tmp_path / "c.mkv", smooth(6, height=20))
    with pytest.raises(InputError, match=r"c.mkv 5 frames of 44×20.*Give `size`"):
        VideoFolder(tmp_path, Clip(5))
    (tmp_path / "pictures").mkdir()
    Image.new("RGB", (4, 4)).save(tmp_path / "pictures" / "a.png")
    with pytest.raises(InputError, match="holds no videos, only 1 pictures"):
        VideoFolder(tmp_path / "pictures")
    with pytest.raises(InputError, match="does not exist"):
        VideoFolder(tmp_path / "none")


def test_targets_are_clips_against_the_generators_videos(clips):
    negatives = Samples([""] * 3, torch.rand(3, 4, 3, 16, 16))
    data = TargetSamples(clips, negatives, held_out=1, size=16, clip=Clip(4, 2))
    data.setup("fit")
    batch = next(iter(data.train_dataloader()))
    assert batch.inputs.outputs.shape == (4, 4, 3, 16, 16)
    other = Samples([""] * 3, torch.rand(3, 5, 3, 16, 16))
    with pytest.raises(
        InputError, match=r"images \[4, 3, 16, 16\], negatives .*\[5, 3, 16, 16\].*clip"
    ):
        TargetSamples(clips, other, held_out=1, size=16, clip=Clip(4, 2)).setup("fit")
    tuned = SamplesData(clips, batch_size=3, size=16, clip=Clip(4))
    tuned.setup("fit")
    assert next(iter(tuned.train_dataloader())).outputs.shape == (3, 4, 3, 16, 16)


@pytest.mark.parametrize("video", ["frames", "mkv", "mp4", "webm", "gif"])
@pytest.mark.parametrize("channels", [1, 3])
def test_samples_are_saved_and_loaded(video, channels, tmp_path):
    outputs = torch.stack([smooth(4, channels), smooth(4, channels).flip(0)])
    samples = Samples(["up", "down"], outputs, {"seed": torch.tensor([5, 6])})
    save_samples(tmp_path / "saved", samples, video)
    loaded = load_samples(tmp_path / "saved")
    assert loaded.prompts == ["up", "down"]
    assert loaded.outputs.shape == outputs.shape
    error = (loaded.outputs - outputs).abs().mean() * 255
    assert error < (0.51 if video in ("frames", "mkv") else 6)
    rows = open_samples(tmp_path / "saved")
    assert rows[1].outputs.equal(loaded.outputs[1:])
    assert rows[1].facts["seed"].tolist() == [6]
    small = open_samples(tmp_path / "saved", size=8, clip=Clip(2))
    assert small[1].outputs.shape == (1, 2, 3, 8, 8)
    assert (small[1].prompts, small[1].facts["seed"].tolist()) == (["down"], [6])


def test_a_folder_of_files_of_videos_is_told_from_one_of_pictures(tmp_path):
    write_video(tmp_path / "a.mkv", smooth(4))
    assert isinstance(open_samples(tmp_path), VideoFolder)
    write_video(tmp_path / "b", smooth(4))
    assert isinstance(open_samples(tmp_path), ImageFolder), "pictures at any depth are pictures"
    assert isinstance(open_samples(tmp_path, clip=Clip()), VideoFolder)


def test_as_samples_takes_videos(tmp_path):
    write_video(tmp_path / "a.mkv", smooth(4))
    write_video(tmp_path / "b.gif", smooth(5))
    assert as_samples("up", tmp_path / "a.mkv").outputs.shape == (1, 4, 3, 30, 44)
    both = as_samples("up", [tmp_path / "a.mkv", str(tmp_path / "b.gif")], 16, Clip(3))
    assert both.outputs.shape == (2, 3, 3, 16, 16)
    assert as_samples("up", tmp_path, clip=Clip(4)).outputs.shape == (2, 4, 3, 30, 44)
    with pytest.raises(InputError, match="`clip`, the number of frames"):
        as_samples("up", [tmp_path / "a.mkv", tmp_path / "b.gif"], 16, Clip())
    with pytest.raises(InputError, match="animated"):
        as_samples("up", tmp_path / "b.gif")


def test_every_container_is_offered_to_the_reader(tmp_path):
    for suffix in CONTAINERS:
        (tmp_path / f"a{suffix}").write_bytes(b"nothing")
    with pytest.raises(InputError, match=f"holds {len(CONTAINERS)} videos and none can be used"):
        open_samples(tmp_path)
