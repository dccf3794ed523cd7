"""RLAttacker: what its adversary finds, its buffer, early stopping and resuming."""

import os
import runpy
import signal
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from pytorch_lightning import Callback, LightningModule

from rewardlab.attackers import RLAttacker
from rewardlab.attackers.rl import fresh_copy
from rewardlab.attackers.rollout_buffer import BufferCheckpoint, RolloutBuffer
from rewardlab.conversations import Conversation, Message
from rewardlab.errors import InputError
from rewardlab.mining import adversarial_pairs, candidates
from rewardlab.policies.causal_lm import CausalLMPolicy
from rewardlab.provenance import fingerprint
from rewardlab.rewards import Function
from rewardlab.rewards.attack import Attack
from rewardlab.rewards.language import LanguageReward
from rewardlab.rewards.member import Member
from rewardlab.rewards.relative import Relative
from rewardlab.rewards.scoring import member_scores
from rewardlab.testing.tiny_text import tiny_causal_lm, tiny_tokenizer
from rewardlab.training.ppo import PPO
from rewardlab.types import Samples

LETTERS = SimpleNamespace(**runpy.run_path(str(Path(__file__).with_name("letters.py"))))
Letters = LETTERS.Letters
PROMPTS = LETTERS.PROMPTS
TRAINER = LETTERS.TRAINER
count = LETTERS.count
world = LETTERS.world
LOOP = LETTERS.LOOP


def test_the_trained_adversary_finds_what_both_halves_of_the_attack_ask_for():
    """Below the gate the penalty rules, so it first learns "a"; from there only "z" pays."""
    attack, references = world()
    trainer = partial(TRAINER, max_steps=25)
    attacker = RLAttacker(LOOP, trainer, batch_size=8, collect="fresh", per_prompt=2)
    before = attack(references)
    after = attacker(Letters(), attack, PROMPTS, 0)
    share_above = (attack.target(after) > 0).float().mean()
    assert share_above > 0.9 > (attack.target(references) > 0).float().mean()
    assert attack(after).mean() > before.mean() + 12
    assert sum(text.count("z") for text in after.outputs) > 4 * len(after)


def test_logged_samples_are_all_that_was_scored_and_make_pairs():
    attack, references = world()
    attacker = RLAttacker(LOOP, partial(TRAINER, max_steps=25), batch_size=8)
    found = attacker(Letters(), attack, PROMPTS, 0)
    assert len(found) == 25 * 8 * 8
    assert found.facts["step"].unique().tolist() == list(range(25))
    assert {"seed", "length", "finished", "attack", "target", "witness"} <= set(found.facts)
    scores = [member_scores(reward, references)[:, 0] for reward in (attack.target, attack.witness)]
    gold = count(a=1)
    judge = tuple(gold(samples) for samples in (found, references))
    facts = (found.facts["target"], found.facts["witness"])
    pairs, funnel = adversarial_pairs(
        found, *facts, references, *scores, chosen="best", judge_scores=judge
    )
    assert len(pairs) == 8
    assert all("z" in text for text in pairs.rejected.outputs)
    assert funnel.precision["kept"] > 0.9 > 0.8 > funnel.precision["generated"]


def test_a_limit_keeps_the_latest():
    attack, _ = world()
    trainer = partial(TRAINER, max_steps=4)
    whole = RLAttacker(LOOP, trainer, 8)(Letters(), attack, PROMPTS, 0)
    part = RLAttacker(LOOP, trainer, 8, limit=100)(Letters(), attack, PROMPTS, 0)
    assert len(part) == 100
    assert part.outputs == whole.outputs[-100:]


def test_a_killed_attack_goes_on_from_its_checkpoint(tmp_path):
    attack, _ = world()

    def run(folder, steps):
        attacker = RLAttacker(
            LOOP,
            partial(TRAINER, max_steps=steps),
            4,
            folder=folder,
            checkpoint_every=1,
        )
        return attacker(Letters(), attack, PROMPTS, 0)

    whole = run(tmp_path / "whole", 4)
    part = run(tmp_path / "part", 3)
    assert len(part) < len(whole)
    resumed = run(tmp_path / "part", 4)
    assert resumed.outputs == whole.outputs
    for name, column in whole.facts.items():
        assert torch.equal(resumed.facts[name], column)


def test_a_checkpoint_names_the_buffer_as_earlier_versions_do(tmp_path):
    """So that an attack that was killed under an earlier version keeps its samples."""
    trainer = partial(TRAINER, max_steps=2)
    attacker = RLAttacker(LOOP, trainer, 4, folder=tmp_path, checkpoint_every=1)
    found = attacker(Letters(), world().attack, PROMPTS, 0)
    checkpoint = torch.load(tmp_path / "last.ckpt", weights_only=True)
    saved = checkpoint["callbacks"]["Recording"]
    assert saved["step"] == 2
    outputs = [part["outputs"] for part in saved["parts"]]
    assert outputs[0] + outputs[1] == found.outputs


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_in_an_attack_keeps_the_step(tmp_path, monkeypatch, number):
    attack, _ = world()

    def run(folder):
        return RLAttacker(LOOP, partial(TRAINER, max_steps=4), 4, folder=folder)(
            Letters(), attack, PROMPTS, 0
        )

    whole = run(tmp_path / "whole")
    step = PPO.training_step
    calls = []

    def pressed(*args):
        calls.append(1)
        if len(calls) == 2:
            os.kill(os.getpid(), number)
        return step(*args)

    with monkeypatch.context() as patch:
        patch.setattr(PPO, "training_step", pressed)
        with pytest.raises(SystemExit):
            run(tmp_path / "part")
    assert len(calls) == 2
    assert run(tmp_path / "part").outputs == whole.outputs


@pytest.mark.parametrize("kept", [False, True])
def test_the_trainers_own_callbacks_stay(tmp_path, kept):
    attack, _ = world()
    seen = []

    class Probe(Callback):
        def on_train_batch_end(self, *_):
            seen.append(1)

    trainer = partial(TRAINER, max_steps=2, callbacks=[Probe()])
    attacker = RLAttacker(
        LOOP,
        trainer,
        4,
        folder=tmp_path if kept else None,
        until=lambda found: False,
    )
    attacker(Letters(), attack, PROMPTS, 0)
    assert len(seen) == 2


def test_an_adversary_that_found_enough_stops_also_after_a_kill(tmp_path):
    attack, _ = world()
    asked = []

    def run(folder, steps, enough=0):
        def until(found):
            asked.append(len(found))
            return len(found) >= enough

        trainer = partial(TRAINER, max_steps=steps)
        options = {
            "folder": folder,
            "checkpoint_every": 1,
            "until": until if enough else None,
            "ask_every": 2,
        }
        return RLAttacker(LOOP, trainer, 4, **options)(Letters(), attack, PROMPTS, 0)

    whole = run(None, 12)
    step = len(whole) // 12
    stopped = run(tmp_path / "once", 12, enough=5 * step)
    assert asked == [2 * step, 4 * step, 6 * step]
    assert stopped.outputs == whole.outputs[: 6 * step]
    assert run(None, 12, enough=5 * step).outputs == stopped.outputs
    run(tmp_path / "killed", 3, enough=5 * step)
    assert run(tmp_path / "killed", 12, enough=5 * step).outputs == stopped.outputs


class Idle(LightningModule):
    """A loop that does not use its reward."""

    def __init__(self, policy, reward, seed=0):
        super().__init__()
        self.policy = policy

    def training_step(self, batch, batch_idx):
        return self.policy.log_prob(self.policy.sample(batch.prompts, seeds=batch.rows)).sum()

    def configure_optimizers(self):
        return torch.optim.SGD(self.policy.parameters(), lr=0.0)


def test_a_loop_that_scores_nothing_and_a_frozen_policy_are_refused():
    attack, _ = world()
    with pytest.raises(InputError, match="scored nothing"):
        RLAttacker(Idle, partial(TRAINER, max_epochs=1))(Letters(), attack, PROMPTS, 0)
    with pytest.raises(InputError, match="nothing to train"):
        fresh_copy(Letters().reference())


def test_an_adversary_and_its_target_share_a_frozen_backbone_and_the_target_stays():
    network, tokenizer = tiny_causal_lm(), tiny_tokenizer()
    members = LanguageReward(network, tokenizer, heads=2, frozen=True)
    policy = CausalLMPolicy(network, tokenizer, max_new_tokens=4, lora_rank=2)
    own = {id(weight) for weight in members.parameters() if not weight.requires_grad}
    adversary = fresh_copy(policy)
    assert own
    assert own <= {id(weight) for weight in adversary.parameters()}
    references = candidates(policy, PROMPTS[:4], 4, seed=1)
    relative = Relative(members, references)
    attack = Attack(
        Member(relative, 0),
        Member(relative, 1),
        threshold=0.0,
        max_length=4,
        unfinished_penalty=5.0,
    )
    scores = attack(references)
    prints = [fingerprint(thing) for thing in (members, policy)]
    loop = partial(PPO, kl_weight=0.0, optimizer=partial(torch.optim.Adam, lr=0.05))
    found = RLAttacker(loop, partial(TRAINER, max_steps=3), batch_size=4)(
        policy, attack, PROMPTS[:4], 0
    )
    assert [fingerprint(thing) for thing in (members, policy)] == prints
    torch.testing.assert_close(attack(references), scores, atol=0, rtol=0)
    assert len(found) == 3 * 4 * 4


def test_conversations_in_the_buffer_survive_a_checkpoint(tmp_path):
    """Lightning reads checkpoints of plain data only."""
    talk = Conversation((Message("system", "Be brief."), Message("user", "2+2?")))
    buffer = RolloutBuffer(Function(lambda samples: torch.ones(len(samples))))
    buffer(Samples([talk, "hi"], ["4", "hello"]))
    callback = BufferCheckpoint(buffer, tmp_path / "unused.ckpt", every=1)
    torch.save(callback.state_dict(), tmp_path / "state.pt")
    again = RolloutBuffer(buffer.reward)
    state = torch.load(tmp_path / "state.pt", weights_only=True)
    BufferCheckpoint(again, tmp_path / "unused.ckpt", every=1).load_state_dict(state)
    assert again.samples().prompts == [talk, "hi"]
    assert again.samples().outputs == ["4", "hello"]
