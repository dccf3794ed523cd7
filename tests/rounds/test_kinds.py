"""A reward of the wrong modality anywhere in the rounds is refused before anything is trained."""

import runpy
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from rewardlab.errors import InputError
from rewardlab.evaluation import Evaluation, Guard, OutlierMonitor
from rewardlab.rewards import (
    Bottleneck,
    Brightness,
    ClassifierReward,
    Debiased,
    LanguageReward,
    Length,
    Repetition,
    SimilarityReward,
    VisionReward,
    Weighted,
)
from rewardlab.rounds import RunFolder, Tether
from rewardlab.rounds.kinds import check_kinds
from rewardlab.testing import tiny_causal_lm, tiny_tokenizer, tiny_tower
from rewardlab.training import Diversity, GatedKL
from rewardlab.types import Samples

GAME = SimpleNamespace(**runpy.run_path(str(Path(__file__).with_name("test_adv_rm.py"))))
TINY = SimpleNamespace(
    **runpy.run_path(str(Path(__file__).parents[1] / "rewards" / "tiny_models.py"))
)
TEXTS = Samples(["a"], ["b"])
IMAGES = Samples(["a"], torch.rand(1, 1, 8, 8))


def vision():
    return VisionReward(tiny_tower(), heads=2, width=8)


def outliers():
    return Guard(watch=["outliers"], outliers=OutlierMonitor(vision()))


@pytest.mark.parametrize(
    ("made", "place", "name"),
    [
        (lambda: {"callbacks": [GatedKL([Repetition(), Brightness()])]}, "callbacks.0", "Bright"),
        (lambda: {"callbacks": [Diversity(vision())]}, "callbacks.0.features", "VisionReward"),
        (lambda: {"callbacks": [outliers()]}, "callbacks.0.outliers.features", "VisionReward"),
        (lambda: {"tether": Tether(vision())}, "tether.novelty", "VisionReward"),
        (
            lambda: {"evaluation": Evaluation(judges={"ink": Brightness()})},
            "judges.ink",
            "Brightness",
        ),
        (lambda: {"members": [Weighted([Brightness()], [1.0])]}, "members.0", "Brightness"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_rewards_of_pictures_over_texts_are_named_with_their_place(made, place, name):
    parts = made()
    with pytest.raises(InputError, match=rf"{place}.*: {name}.* scores images .* language model"):
        check_kinds(parts, TEXTS)
    check_kinds(parts, TEXTS[:0])


def test_rewards_of_texts_over_pictures_are_found_in_what_makes_the_reward():
    use = partial(Debiased, measures=[Length()])
    with pytest.raises(InputError, match=r"use.measures.0: Length scores texts.* Name a reward"):
        check_kinds({"use": use}, IMAGES)
    check_kinds({"use": use, "members": [Repetition()]}, TEXTS)
    check_kinds({"members": [Brightness(), vision()]}, IMAGES)


def language():
    return LanguageReward(tiny_causal_lm(), tiny_tokenizer(), frozen=True)


def classifier():
    return ClassifierReward(TINY.encoder(), TINY.tokenizer())


@pytest.mark.parametrize(
    ("make", "own", "other"),
    [
        (language, TEXTS, IMAGES),
        (classifier, TEXTS, IMAGES),
        (Length, TEXTS, IMAGES),
        (Repetition, TEXTS, IMAGES),
        (lambda: Bottleneck(language(), width=2), TEXTS, IMAGES),
        (vision, IMAGES, TEXTS),
        (Brightness, IMAGES, TEXTS),
        (lambda: SimilarityReward(tiny_tower()), IMAGES, TEXTS),
        (lambda: Bottleneck(vision(), width=2), IMAGES, TEXTS),
    ],
)
def test_each_reward_takes_its_own_kind_alone(make, own, other):
    reward = make()
    check_kinds({"members": [reward]}, own)
    with pytest.raises(InputError, match=r"members.0: \w+ scores (texts|images)"):
        check_kinds({"members": [reward]}, other)


def test_nothing_is_trained_before(tmp_path):
    play = GAME.game(rounds=0, tether=Tether(vision()))
    with pytest.raises(InputError, match=r"tether.novelty: VisionReward scores images"):
        play.run(RunFolder.open(tmp_path / "run", {"seed": 0}))
    assert not list((tmp_path / "run" / "stages").glob("*-????????"))
