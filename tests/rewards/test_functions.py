import pytest
import torch

from rewardlab.errors import InputError
from rewardlab.rewards import Brightness, Function
from rewardlab.types import Samples

TEXTS = Samples(["say hi", "say bye"], ["hi", "bye"], {"row": torch.tensor([7, 8])})


def lengths(samples):
    return torch.tensor([len(text) for text in samples.outputs])


def a_column(samples):
    return torch.zeros(2, 1)


def a_list(samples):
    return [0.0, 1.0]


def infinite(samples):
    return torch.tensor([0.0, float("inf")])


def test_a_function_scores_in_float32():
    scores = Function(lengths)(TEXTS)
    assert scores.tolist() == [2.0, 3.0]
    assert scores.dtype == torch.float32


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (a_column, r"a_column .* tensor \[2\]; got a tensor \[2, 1\]"),
        (a_list, "got a list"),
        (infinite, r"infinite gave .* sample 1 \(row 8\) with the prompt 'say bye'"),
    ],
)
def test_wrong_scores_are_named(function, message):
    with pytest.raises(InputError, match=message):
        Function(function)(TEXTS)


def test_brightness_needs_images():
    with pytest.raises(InputError, match="Brightness scores images"):
        Brightness()(TEXTS)
    video = Samples([""], torch.ones(1, 5, 3, 2, 2))
    assert Brightness()(video).tolist() == [1.0]
