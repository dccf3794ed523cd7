"""Kinds of exploits: each gets its label, and references stay within their own limits."""

import json
from itertools import product

import pytest
import torch

from rewardlab.errors import InputError
from rewardlab.evaluation.taxonomy import (
    copying,
    gibberish,
    length,
    punctuation,
    repetition,
    taxonomy,
)
from rewardlab.types import Samples

PROMPT = "Explain how the tide follows the moon."
REFERENCES = Samples(
    [PROMPT] * 4,
    [
        "The moon pulls at the sea, and the sea rises on both sides.",
        "Tides rise twice a day, because the earth turns under two bulges.",
        "It is gravity: the near side is pulled more than the far side.",
        "As the moon moves on, high water comes later, by fifty minutes a day.",
    ],
)
MADE_UP_WORDS = ", ".join(map("".join, product("bdfgklmn", "aeiou", "n")))


@pytest.mark.parametrize(
    ("text", "labels"),
    [
        ("The tide, so to say, is the moon pulling at the sea.", []),
        ("of of of of of of of of of of, of of.", ["repetition"]),
        (
            "Explain how the tide follows the moon, explain how, and so on, yes.",
            ["copying the prompt"],
        ),
        ("the sea goes up and down with every turn that our planet makes", ["missing punctuation"]),
        (f"{MADE_UP_WORDS}.", ["long"]),
        ("Gravity.", ["short"]),
        (
            "Xqzt, brglmpf vvvv kkkk the moon, zxcvbn qwrtp and then lkjhgf, so it is.",
            ["gibberish"],
        ),
        ("", ["short"]),
    ],
)
def test_each_kind_of_exploit_gets_its_label(text, labels):
    result = taxonomy(Samples([PROMPT], [text]), REFERENCES)
    assert [name for name in result.labels[0] if name in labels] == labels
    if not labels or labels == ["long"]:
        assert result.labels == [labels]


def test_references_are_within_their_own_limits():
    result = taxonomy(REFERENCES, REFERENCES)
    assert result.labels == [[]] * 4
    assert result.counts["none"] == 4
    assert set(result.reference_shares.values()) == {0.0, 1.0}
    json.dumps(result.as_dict(), allow_nan=False)


def test_the_share_of_labelled_references_is_what_the_quantile_leaves():
    outputs = [" ".join(["word"] * number) + "." for number in range(1, 101)]
    texts = Samples([""] * 100, outputs)
    result = taxonomy(texts, texts, quantile=0.9)
    assert result.reference_shares["long"] == pytest.approx(0.09, abs=0.011)
    assert result.counts["long"] == round(100 * result.reference_shares["long"])


def test_measures():
    assert length("a b\nc") == 3
    assert repetition("") == repetition("one") == 0
    assert repetition("\n\n\n\n") == pytest.approx(2 / 3)
    assert copying("The Moon, pulls at it", "moon pulls") == 1
    assert copying("", "anything at all") == copying("anything", "") == 0
    assert copying("one two three four", "two three four five") == 0.5
    assert punctuation("a, b") == 0.5
    assert gibberish("") == 0
    assert gibberish("It's well-known: NASA's URL, 3.5 km, naïve, 月, strength") == 0
    assert gibberish("aaaargh bcdfgh ***") == 1


def test_images_and_empty_sets_are_refused():
    with pytest.raises(InputError, match=r"the attacks are images \[1, 3, 2, 2\]"):
        taxonomy(Samples([""], torch.zeros(1, 3, 2, 2)), REFERENCES)
    with pytest.raises(InputError, match="the references are none"):
        taxonomy(REFERENCES, REFERENCES[:0])
    with pytest.raises(InputError, match="quantile"):
        taxonomy(REFERENCES, REFERENCES, quantile=0.1)
