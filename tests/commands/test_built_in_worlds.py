"""A fragment that names a built-in world's models is refused over a policy of the user's own."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from rewardlab.commands.built_in_worlds import check_worlds
from rewardlab.errors import InputError

CONFIGS = Path(__file__).parents[2] / "configs"
OWN = {"class_path": "rewardlab.policies.CausalLMPolicy", "init_args": {"model": "model"}}
NAMING = ("bottleneck", "diversity", "gdpo", "independent_members", "mop", "online")


def laid_over(name, policy):
    tree = yaml.safe_load((CONFIGS / "menu" / f"{name}.yaml").read_text(encoding="utf-8"))
    tree["rounds"]["init_args"]["policy"] = policy
    return tree


@pytest.mark.parametrize("name", NAMING)
def test_models_of_the_topics_are_no_members_of_ones_own_rounds(name):
    with pytest.raises(
        InputError, match=r"rounds\..* is rewardlab.embedded.topics.member, a model"
    ):
        check_worlds(laid_over(name, OWN))
    check_worlds(laid_over(name, {"class_path": "rewardlab.embedded.topics.base_policy"}))


@pytest.mark.parametrize("name", ["par", "soft_minimum", "guard_stop", "grm"])
def test_other_fragments_lie_over_any(name):
    check_worlds(laid_over(name, OWN))


def test_a_judge_or_data_of_a_world_are_a_choice():
    judge = {"class_path": "rewardlab.embedded.topics.Gold"}
    arguments = {"policy": OWN, "evaluation": {"judges": {"gold": judge}}, "preferences": judge}
    check_worlds({"rounds": {"class_path": "a.B", "init_args": arguments}})
    check_worlds({})
