"""Samples from what people have, and what Samples and rewards refuse."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image
from torch.testing import assert_close

import rewardlab
from rewardlab import InputError, Samples, VisionReward, as_samples
from rewardlab.conversations import Conversation, Message
from rewardlab.rewards import Brightness
from rewardlab.testing import tiny_tower


def picture(value, size=(8, 8)):
    return Image.new("RGB", size, (value, value, value))


@pytest.fixture
def pictures(tmp_path):
    for number, value in enumerate((0, 51, 255)):
        picture(value).save(tmp_path / f"{number}.png")
    return tmp_path


def test_pictures_of_every_form_are_the_same_samples(pictures):
    files = sorted(pictures.iterdir())
    images = [Image.open(file) for file in files]
    levels = torch.from_numpy(np.stack([np.array(image) for image in images])).permute(0, 3, 1, 2)
    forms = [pictures, str(pictures), files, list(map(str, files)), images, levels, list(levels)]
    wanted = torch.tensor([0, 0.2, 1])
    for form in forms:
        samples = as_samples("a cat", form)
        assert samples.prompts == ["a cat"] * 3
        assert samples.outputs.dtype == torch.float32
        assert torch.equal(samples.outputs[:, 0, 0, 0], wanted)
    assert Brightness()(as_samples(["a cat"], [images[1]])).item() == pytest.approx(0.2)


def test_transparent_pictures_stand_on_white_and_sizes_are_made_equal():
    clear = Image.new("RGBA", (8, 8), (0, 0, 0, 0))
    assert as_samples([""], [clear]).outputs.min() == 1
    wide = picture(0, (16, 8))
    with pytest.raises(InputError, match=r"several shapes.*`size`"):
        as_samples("", [clear, wide])
    assert as_samples("", [clear, wide], size=4).outputs.shape == (2, 3, 4, 4)


@pytest.mark.parametrize(
    ("outputs", "sentence"),
    [([], "no outputs"), (["a", picture(0)], "beside others"), ([3], "is a int")],
)
def test_what_is_no_output_is_refused(outputs, sentence):
    with pytest.raises(InputError, match=sentence):
        as_samples("", outputs)


def test_samples_of_pictures_name_the_helper():
    for outputs in ([picture(0)], [torch.zeros(3, 8, 8)]):
        with pytest.raises(InputError, match=r"rewardlab.as_samples\(prompts, outputs\)"):
            Samples([""], outputs)


@pytest.mark.parametrize("arguments", [([picture(0)],), ("folder",), (["a"], ["b"]), ()])
def test_a_reward_refuses_what_are_no_samples(arguments):
    with pytest.raises(InputError, match=r"rewardlab\.as_samples"):
        Brightness()(*arguments)


@pytest.mark.parametrize(
    ("change", "mend"), [(lambda x: x * 255, "divide them by 255"), (lambda x: 2 * x - 1, "/ 2")]
)
def test_pictures_outside_the_unit_range_are_refused(change, mend):
    images = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    for reward in (Brightness(), VisionReward(tiny_tower(), heads=2, width=8)):
        assert torch.isfinite(reward(Samples(["", ""], images))).all()
        assert torch.isfinite(reward(Samples(["", ""], images.bfloat16().float() * 1.001))).all()
        with pytest.raises(InputError, match=mend):
            reward(Samples(["", ""], change(images)))


def test_the_package_hands_it_on():
    assert rewardlab.as_samples is as_samples
    assert "as_samples" in dir(rewardlab)


def test_prompts_are_texts_conversations_or_lists_of_messages():
    ask = {"role": "user", "content": "2+2?"}
    system = {"role": "system", "content": "Be brief."}
    talk = Conversation((Message("system", "Be brief."), Message("user", "2+2?")))
    for one in (talk, [system, ask], list(talk.messages)):
        assert as_samples(one, ["4", "5"]).prompts == [talk, talk]
        assert as_samples([one, "hi"], ["4", "5"]).prompts == [talk, "hi"]
    assert as_samples([ask], ["4"]).prompts == as_samples([[ask]], ["4"]).prompts == ["2+2?"]
    with pytest.raises(InputError, match="is the assistant's"):
        as_samples([ask, {"role": "assistant", "content": "4"}], ["4"])
    with pytest.raises(InputError, match="a string or a list of messages"):
        as_samples([5], ["4"])


@pytest.mark.parametrize("dtype", ["uint8", "float32", "float64"])
def test_arrays_have_their_channels_last_as_pillow_and_diffusers_make_them(dtype):
    generator = np.random.default_rng(0)
    levels = generator.integers(0, 256, (2, 6, 8, 3), dtype=np.uint8)
    expected = as_samples("", [Image.fromarray(picture) for picture in levels]).outputs
    arrays = levels if dtype == "uint8" else (levels / 255).astype(dtype)
    first = np.ascontiguousarray(arrays.transpose(0, 3, 1, 2))
    for outputs in (arrays, list(arrays), first, arrays[:, ::-1][:, ::-1]):
        assert_close(as_samples("", outputs).outputs.float(), expected)
    assert_close(as_samples("", arrays[0]).outputs.float(), expected[:1])
    video = as_samples("", arrays[None]).outputs
    assert_close(video[0].float(), expected)


@pytest.mark.parametrize(
    "array", [np.zeros((2, 8, 8, 4)), np.zeros((8, 8)), np.zeros((1, 8, 8, 3), dtype=np.int64)]
)
def test_arrays_of_another_form_are_refused(array):
    with pytest.raises(InputError, match="height, width, channels"):
        as_samples("", array)


def test_an_array_of_texts_is_texts():
    assert as_samples("", np.array(["yes", "no"], dtype=object)).outputs == ["yes", "no"]
