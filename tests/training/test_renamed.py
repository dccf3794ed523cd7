"""Arguments that were renamed still work under their earlier names, with one warning."""

import inspect
import warnings
from collections.abc import Callable

import pytest
import pytorch_lightning as pl
from jsonargparse import ArgumentParser
from torch import nn

from rewardlab.policies import DiffusionPolicy, Policy
from rewardlab.rewards import Brightness, Function, Reward
from rewardlab.testing import tiny_diffusion
from rewardlab.training import PPO, AdvRM


def policy():
    return DiffusionPolicy(tiny_diffusion(classes=0))


def trainable_reward():
    return Function(nn.Linear(1, 1))


@pytest.mark.parametrize(
    ("make", "earlier", "present", "value"),
    [
        (
            lambda **names: PPO(policy(), Brightness(), **names),
            "loss_normalisation",
            "loss_normalization",
            "sequence",
        ),
        (lambda **names: AdvRM(trainable_reward(), **names), "centring", "centering", 0.1),
    ],
    ids=["PPO", "AdvRM"],
)
def test_the_earlier_name_sets_the_same_and_warns_once(make, earlier, present, value):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        module = make(**{earlier: value})
    assert getattr(module, present) == value
    assert [warning.category for warning in caught] == [DeprecationWarning]
    assert f"{earlier!r}" in str(caught[0].message)
    assert f"{present!r} now" in str(caught[0].message)
    assert caught[0].filename == __file__, "the warning is of the caller's line"
    assert getattr(make(**{present: value}), present) == value


def test_both_names_together_are_refused():
    with pytest.raises(TypeError, match="'centring', an earlier name of 'centering'"):
        AdvRM(trainable_reward(), centring=0.1, centering=0.2)


def test_the_signature_has_the_present_name_alone():
    assert "loss_normalization" in inspect.signature(PPO).parameters
    assert "loss_normalisation" not in inspect.signature(PPO).parameters


def test_a_config_sets_the_present_name():
    parser = ArgumentParser(exit_on_error=False)
    parser.add_argument("--loop", type=Callable[[Policy, Reward], pl.LightningModule])
    settings = {"loss_normalization": "constant"}
    config = parser.parse_object(
        {"loop": {"class_path": "rewardlab.training.PPO", "init_args": settings}}
    )
    module = parser.instantiate(config).loop(policy(), Brightness())
    assert module.loss_normalization == "constant"
