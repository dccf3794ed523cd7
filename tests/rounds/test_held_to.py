"""What post-training is held to: the round's policy, the run's, or another; never in silence."""

from functools import partial

import pytest
import torch

from rewardlab import load_policy
from rewardlab.embedded import tiny_worlds
from rewardlab.errors import InputError
from rewardlab.rounds import PostTrain
from rewardlab.rounds.state import _loop_arguments
from rewardlab.training import PPO


def test_a_given_policy_is_what_the_loop_is_held_to(tmp_path):
    policy = tiny_worlds.text_policy(train_steps=2)
    other = tiny_worlds.text_policy(train_steps=2)
    with torch.no_grad():
        for parameter in other.parameters():
            parameter.mul_(1.1)
    other.save_pretrained(tmp_path / "other")
    other = load_policy(tmp_path / "other")
    module = PostTrain(partial(PPO), reference=other).build(policy, None, policy.reference())
    assert module.reference is other
    assert not any(parameter.requires_grad for parameter in other.parameters())
    ours = PostTrain(partial(PPO)).build(policy, None, policy.reference()).reference
    drawn = policy.sample(["word 0"], seeds=torch.tensor([1]))
    assert not torch.equal(ours.log_prob(drawn), other.log_prob(drawn))
    assert torch.equal(ours.log_prob(drawn), policy.log_prob(drawn))


def test_a_reference_of_the_loop_itself_is_refused():
    policy = tiny_worlds.text_policy(train_steps=2)
    with pytest.raises(InputError, match=r"Set post_train\.reference instead"):
        PostTrain(partial(PPO, reference=policy))
    loop = {"class_path": "rewardlab.training.PPO", "init_args": {"reference": {"class_path": "x"}}}
    config = {"rounds": {"init_args": {"post_train": {"loop": loop}}}}
    assert _loop_arguments(config)["reference"]
    assert _loop_arguments({}) == {}
