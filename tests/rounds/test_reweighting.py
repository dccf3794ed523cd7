"""OCRM's further round: its weights, that it resumes, and what it refuses."""

import json
import runpy
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from rewardlab import PPO, AdvRM, CausalLMPolicy, LanguageReward, PreferencePairs, Samples
from rewardlab.data import Preferences
from rewardlab.errors import InputError
from rewardlab.networks.silence import silent
from rewardlab.rounds import OnlineHardening, PostTrain, Reweighting, RunFolder
from rewardlab.rounds.member_fits import MemberFits
from rewardlab.rounds.reweighting import pair_log_ratios
from rewardlab.testing import tiny_causal_lm, tiny_tokenizer

GAME = SimpleNamespace(**runpy.run_path(str(Path(__file__).with_name("test_adv_rm.py"))))
FAST = partial(PPO, optimizer=partial(torch.optim.Adam, lr=1e-2))
PAIRS = PreferencePairs(
    Samples(["a", "b"], ["yes", "no no"]), Samples(["a", "b"], ["n", "so it is"])
)


class KilledError(Exception):
    pass


def game(**options):
    return GAME.game(loop=FAST, rounds=0, **{"reweight": Reweighting()} | options)


def text_policy(seed):
    return CausalLMPolicy(tiny_causal_lm(seed=seed, scale=0.2), tiny_tokenizer(), max_new_tokens=6)


def total(policy, prompt, response):
    """Log p of a response and its end, by whole logits, and how many tokens it has."""
    tokenizer = policy.tokenizer
    start = tokenizer(prompt).input_ids
    row = [*start, *tokenizer(response).input_ids, tokenizer.eos_token_id]
    logits = policy.network(torch.tensor([row])).logits[0].log_softmax(-1)
    steps = range(len(start), len(row))
    return sum(logits[at - 1, row[at]].item() for at in steps), len(steps)


@pytest.mark.parametrize("normalize", ["length", "temper"])
def test_ratios_are_those_of_both_halves(normalize):
    now, then = text_policy(0), text_policy(1)
    found = pair_log_ratios(now, then, PAIRS, Reweighting(normalize=normalize, power=0.25))
    for row in range(2):
        expected = 0.0
        for half in (PAIRS.chosen, PAIRS.rejected):
            here, count = total(now, half.prompts[row], half.outputs[row])
            there, _ = total(then, half.prompts[row], half.outputs[row])
            share = 1 / count if normalize == "length" else 0.25
            expected += share * (here - there)
        assert found[row].item() == pytest.approx(expected, abs=1e-4)


def test_a_weight_of_two_is_a_pair_twice_and_none_is_left_out():
    reward = LanguageReward(tiny_causal_lm(), tiny_tokenizer()).eval()
    module = AdvRM(reward, bootstrap=False)
    module.log_dict = lambda *_, **__: None
    weighted = PAIRS[[0, 1]].chosen.with_facts(weight=torch.tensor([2.0, 0.0]))
    loss = module.training_step(PreferencePairs(weighted, PAIRS.rejected), 0)
    assert loss.item() == pytest.approx(module.training_step(PAIRS[[0]], 0).item(), rel=1e-5)
    data = Preferences(PAIRS, held_out=0)
    found = data.weighted(torch.tensor([3.0, 1.0])).split("train").chosen.facts
    assert found["weight"].tolist() == [3.0, 1.0]
    assert "weight" not in data.split("train").chosen.facts
    for wrong in (torch.ones(3), torch.tensor([1.0, -1.0])):
        with pytest.raises(InputError, match="for each of 2 pairs"):
            data.weighted(wrong)


def results(folder):
    return json.loads((folder / "results.json").read_text())["rounds"]


def test_a_further_round_refits_with_weights_and_trains_anew(tmp_path, monkeypatch):
    """The policy starts again from its first weights; the plan names what is made."""
    play = game()
    plan = play.plan()
    starts = []
    train = PostTrain.__call__

    def seen(self, module, *args):
        starts.append(next(module.policy.parameters()).detach().clone())
        return train(self, module, *args)

    monkeypatch.setattr(PostTrain, "__call__", seen)
    with silent():
        play.run(RunFolder.open(tmp_path / "run", {}, False))
    assert len(starts) == 2
    assert torch.equal(*starts)
    figures = results(tmp_path / "run")["2"]["importance"]
    assert figures["pairs"] == 40
    assert 0.1 < figures["effective_share"] < 1
    assert "first policy" in figures["behavior"]
    made = {
        folder.name.rpartition("-")[0] for folder in (tmp_path / "run" / "stages").glob("[0-9]*")
    }
    assert {name for name in plan if "pair-weights" in name or "member" in name} == {
        "1-member-0",
        "2-pair-weights",
        "2-member-0",
    }
    assert made == set(plan)


@pytest.mark.nightly
def test_a_killed_run_ends_as_one_that_was_not(tmp_path, monkeypatch):
    train = PostTrain.__call__
    started = []

    def kill(self, module, *args):
        started.append(1)
        if len(started) == 2:
            raise KilledError
        return train(self, module, *args)

    monkeypatch.setattr(PostTrain, "__call__", kill)
    with pytest.raises(KilledError), silent():
        game().run(RunFolder.open(tmp_path / "killed", {}, False))
    monkeypatch.setattr(PostTrain, "__call__", train)
    with silent():
        game().run(RunFolder.open(tmp_path / "killed", {}, True))
        game().run(RunFolder.open(tmp_path / "run", {}, False))
    assert results(tmp_path / "killed") == results(tmp_path / "run")


def test_pairs_are_told_of_once_and_drawn_in_each_members_own_order(caplog):
    caplog.set_level("INFO")
    fits = MemberFits(game(), SimpleNamespace(start=None))
    first, second = fits.data(1), fits.data(2)
    told = [message for message in caplog.messages if message.startswith("Trained on")]
    assert len(told) == 1
    assert (first.order_seed, second.order_seed) == (1, 2)
    assert first.split("train").chosen.outputs == second.split("train").chosen.outputs
    orders = [
        [batch.chosen.outputs for batch in data.train_dataloader()] for data in (first, second)
    ]
    assert orders[0] != orders[1]


def test_refusals():
    play = game()
    play.post_train.loop = None
    names = ("policy", "members", "preferences", "attack", "post_train", "prompts", "reweight")
    options = {name: getattr(play, name) for name in names}
    with pytest.raises(InputError, match=r"CausalLMPolicy and no post_train\.loop"):
        type(play)(**options)
    correction = OnlineHardening(LanguageReward(tiny_causal_lm(), tiny_tokenizer()))
    with pytest.raises(InputError, match="Take one of them"):
        game(online=correction)
    with pytest.raises(InputError, match=r"got 0 and 0\.1"):
        Reweighting(repeats=0)
    with pytest.raises(InputError, match="'words'"):
        Reweighting(normalize="words")
