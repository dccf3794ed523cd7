import base64
import io

import pytest
import torch
from PIL import Image

from rewardlab.endpoints.wire import chat_reply, chat_request, filled, message, picture_uri
from rewardlab.errors import InputError


def opened(uri):
    head, _, data = uri.partition(",")
    assert head == "data:image/png;base64"
    return Image.open(io.BytesIO(base64.b64decode(data)))


def test_options_join_the_request_and_may_set_the_temperature():
    body = chat_request("m", [message("user", ["a", "b"])], max_tokens=5, temperature=1)
    assert body == {
        "model": "m",
        "messages": [{"role": "user", "content": "ab"}],
        "temperature": 1,
        "max_tokens": 5,
    }


def test_pictures_make_parts_in_order_and_a_video_one_a_frame():
    said = message("user", ["look: ", torch.zeros(3, 2, 2), "\n", torch.ones(2, 1, 2, 2)])
    assert [part["type"] for part in said["content"]] == ["text", *["image_url"] * 3]
    last = opened(said["content"][-1]["image_url"]["url"])
    assert (last.mode, last.getpixel((0, 0))) == ("L", 255)


def test_a_picture_is_exact_to_8_bits():
    image = torch.arange(48).view(3, 4, 4) / 255
    with opened(picture_uri(image)) as picture:
        assert (picture.mode, picture.size, picture.getpixel((1, 0))) == (
            "RGB",
            (4, 4),
            (1, 17, 33),
        )


def test_a_video_is_an_animated_picture():
    with opened(picture_uri(torch.arange(3.0).view(3, 1, 1, 1).expand(3, 1, 2, 2) / 2)) as picture:
        assert picture.n_frames == 3


@pytest.mark.parametrize("image", [torch.zeros(4, 2, 2), torch.full((3, 2, 2), float("nan"))])
def test_what_is_no_picture_is_refused(image):
    with pytest.raises(InputError, match="1 or 3 channels, all finite"):
        picture_uri(image)


def test_what_is_put_into_a_template_is_not_read_again():
    parts = filled("{a}{b} {c} {{a}}", a="{b}", b="x{a}")
    assert "".join(parts) == "{b}x{a} {c} {{b}}"
    picture = torch.zeros(1, 2, 2)
    assert filled("see {a}", a=picture)[1] is picture


@pytest.mark.parametrize(
    "response", [None, {}, {"choices": []}, {"choices": [{"message": {"content": None}}]}, [1], "x"]
)
def test_replies_of_another_form_are_refused(response):
    with pytest.raises(InputError, match="chat/completions"):
        chat_reply(response)
