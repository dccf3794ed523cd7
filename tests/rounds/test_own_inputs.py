"""Rounds of a user's own parts: rewards without weights, adapters, few rows, settings that cannot be."""

import runpy
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from rewardlab import PPO, CausalLMPolicy, InputError, LanguageReward, PreferencePairs, Samples
from rewardlab.data import Preferences
from rewardlab.evaluation import Guard
from rewardlab.rewards import Debiased
from rewardlab.rewards.rules import Length
from rewardlab.rounds import FitReward, OnlineHardening, PostTrain, Reweighting, RunFolder
from rewardlab.rounds.reweighting import pair_log_ratios
from rewardlab.testing import tiny_causal_lm, tiny_tokenizer
from rewardlab.training import GatedKL, ReferenceReset

GAME = SimpleNamespace(**runpy.run_path(str(Path(__file__).with_name("test_adv_rm.py"))))


class Characters(Length):
    """Counts characters: no weights, and untrained outputs differ."""

    def forward(self, samples):
        return torch.tensor([float(len(text)) for text in samples.outputs])


def finished(**options):
    """Return rounds that fit nothing, on a reward without parameters."""
    rounds = GAME.game(rounds=0, members=[Characters()], **options)
    rounds.fit = FitReward(None, GAME.TRAINER)
    return rounds


def test_a_reward_without_parameters_is_climbed_with_what_is_made_of_it(tmp_path):
    finished(use=partial(Debiased, share=1.0)).run(RunFolder.open(tmp_path / "run", {}))
    assert (tmp_path / "run" / "policy").is_dir()


def test_a_correction_takes_the_default_training_and_a_reward_without_parameters(tmp_path):
    correction = LanguageReward(tiny_causal_lm(seed=3), tiny_tokenizer(), pooling="mean")
    rounds = finished(use="ensemble", online=OnlineHardening(correction, best_of=2))
    rounds.run(RunFolder.open(tmp_path / "run", {}))
    assert correction.head.abs().sum() > 0, "it began at 0"


def test_an_adapter_is_compared_with_the_policy_before_it():
    policy = CausalLMPolicy(tiny_causal_lm(scale=0.2), tiny_tokenizer(), lora_rank=2)
    pairs = PreferencePairs(Samples(["a"], ["yes"]), Samples(["a"], ["n"]))
    assert pair_log_ratios(policy, policy.reference(), pairs, Reweighting()).item() == 0
    with torch.no_grad():
        for weight in policy.parameters():
            if weight.requires_grad:
                weight.add_(0.1)
    assert pair_log_ratios(policy, policy.reference(), pairs, Reweighting()).item() != 0


def refuse(rounds, folder, sentence):
    """Hold that rounds are refused before a stage is made."""
    run = RunFolder.open(folder, {})
    with pytest.raises(InputError, match=sentence):
        rounds.run(run)
    assert not list((folder / "stages").glob("*"))


def test_an_argument_that_the_loop_refuses_is_refused_before_the_fits(tmp_path):
    loop = partial(PPO, samples_per_prompt=1)
    refuse(GAME.game(loop=loop), tmp_path / "run", "got samples_per_prompt=1")


@pytest.mark.parametrize("callback", [ReferenceReset(50), GatedKL([Length()])])
def test_a_callback_that_the_loop_does_not_suit_is_refused_before_the_fits(tmp_path, callback):
    rounds = GAME.game(loop=partial(PPO, kl_weight=0.0, samples_per_prompt=2))
    rounds.post_train.callbacks = [callback]
    refuse(rounds, tmp_path / "run", "kl_weight")


def test_a_single_held_out_pair_is_refused_before_the_fits(tmp_path):
    rounds = GAME.game()
    halves = [Samples(GAME.PROMPTS, [answer] * 8) for answer in ("yes", "n")]
    for count in (0, 1):
        rounds.preferences = Preferences(PreferencePairs(*halves), held_out=count)
        refuse(rounds, tmp_path / str(count), f"2 or more; got {count}")


def test_two_guards_that_stop_are_refused_and_one_that_logs_beside_is_not():
    with pytest.raises(InputError, match="has two of Guard"):
        PostTrain(callbacks=[Guard(), Guard(watch=["disagreement"])])
    assert len(PostTrain(callbacks=[Guard(), Guard(stop=False)]).callbacks) == 2
