"""Online hardening: what a correction learns, that it resumes to the bit, and what it refuses."""

import runpy
import subprocess
import sys
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import pytest
import pytorch_lightning as pl
import torch
from torch.nn.functional import logsigmoid
from torch.optim import SGD, Adam
from torch.testing import assert_close

from rewardlab import CausalLMPolicy, DiffusionPolicy, LanguageReward, Sampler, VisionReward
from rewardlab.data import SamplesData
from rewardlab.data.prompt_data import Prompts
from rewardlab.errors import InputError
from rewardlab.rewards import (
    Bottleneck,
    Brightness,
    Corrected,
    Ensemble,
    FrozenFeatures,
    Length,
)
from rewardlab.rewards.abilities import DrawsNoise
from rewardlab.seeds import derive, generators, normal, row_seeds
from rewardlab.testing import tiny_causal_lm, tiny_diffusion, tiny_tokenizer, tiny_tower
from rewardlab.training import DPO, PPO, Importance, Online, ReFL, Replay, VelocityMatching
from rewardlab.training.online import correction_state
from rewardlab.training.replay import Drawn, ReplayBuffer
from rewardlab.training.trainers import SILENT
from rewardlab.types import PreferencePairs, Samples

SPOKEN = SimpleNamespace(**runpy.run_path(str(Path(__file__).with_name("spoken.py"))))
DRAWN = SPOKEN.DRAWN
WANTED = SPOKEN.WANTED
WORDS = SPOKEN.WORDS
Drawing = SPOKEN.Drawing
Table = SPOKEN.Table
words = SPOKEN.words
PROMPTS = ["a", "b"]


def teach(online, reward, draws, steps=120):
    trainer = pl.Trainer(max_epochs=1, limit_train_batches=steps, callbacks=[online], **SILENT)
    loader = Prompts([""] * steps, batch_size=1)
    trainer.fit(Drawing(reward, draws), loader)
    return trainer


@pytest.mark.parametrize("pairing", ["prompt", "any"])
def test_the_optimum_is_the_log_ratio_of_wanted_and_drawn(pairing):
    """Bradley and Terry's loss of independent halves and the binary one both have it there."""
    reward = Corrected(Length(), Table())
    online = Online(
        words(WANTED), pairing=pairing, rows=1000, optimizer=partial(Adam, lr=0.05), seed=3
    )
    teach(online, reward, words(DRAWN))
    scores = reward.correction.scores.detach()
    expected = (WANTED / DRAWN).log()
    assert_close(scores - scores.mean(), expected - expected.mean(), atol=0.08, rtol=0)


def test_the_mean_on_references_stays_and_the_deviation_where_it_is_asked_for():
    table = Table()
    table.scores.data.copy_(torch.tensor([0.5, 0.0, -0.5]))
    reward = Corrected(None, table, keep_deviation=True)
    references = Samples([""] * 30, WORDS * 10)
    before = reward(references).std(correction=0)
    online = Online(words(WANTED), references=references, optimizer=partial(Adam, lr=0.1))
    teach(online, reward, words(DRAWN), steps=20)
    after = reward(references)
    assert not torch.equal(table.scores.detach(), torch.tensor([0.5, 0.0, -0.5]))
    assert_close(after.mean(), torch.zeros(()), atol=1e-6, rtol=0)
    assert_close(after.std(correction=0), before, atol=1e-6, rtol=0)


def test_the_guard_leaves_out_updates_while_the_wanted_outputs_lead():
    table = Table()
    table.scores.data.copy_(torch.tensor([1.0, 0.0, -1.0]))
    ahead = table.scores.detach().clone()
    online = Online(words(WANTED), behind_only=True, optimizer=partial(SGD, lr=0.1))
    teach(online, Corrected(Length(), table), words(DRAWN), steps=3)
    assert torch.equal(table.scores.detach(), ahead)
    table.scores.data.mul_(-1)
    teach(online, Corrected(Length(), table), words(DRAWN), steps=3)
    assert table.scores[0] > -1


def test_clean_pairs_are_counted_beside_the_policys_own():
    pairs = PreferencePairs(Samples([""] * 4, ["blue"] * 4), Samples([""] * 4, ["green"] * 4))
    scores = []
    for clean_rows in (0, 200):
        reward = Corrected(Length(), Table())
        online = Online(
            words(WANTED), clean=pairs, clean_rows=clean_rows, optimizer=partial(Adam, lr=0.05)
        )
        teach(online, reward, words(DRAWN), steps=60)
        scores.append(reward.correction.scores.detach())
    assert scores[0][2] < scores[0][1], "the policy draws blue too often"
    assert scores[1][2] > scores[1][1], "clean pairs prefer blue"


def language():
    correction = LanguageReward(tiny_causal_lm(seed=5), tiny_tokenizer())
    policy = CausalLMPolicy(tiny_causal_lm(), tiny_tokenizer(), max_new_tokens=4)
    good = Samples(PROMPTS * 2, ["x y", "z", "y", "z z"])
    options = {"optimizer": partial(Adam, lr=1e-2)}
    return PPO(policy, Corrected(Length(), correction), **options), Online(good, rows=6, **options)


def pictures(loop=PPO, tower=None, **options):
    reward = VisionReward(tower or tiny_tower(), width=8)
    policy = DiffusionPolicy(tiny_diffusion(classes=0), sampler=Sampler(steps=2))
    good = Samples([""] * 4, torch.rand(4, 3, 16, 16, generator=torch.Generator().manual_seed(0)))
    online = Online(good, pairing="any", rows=6, replay=Replay(recent=1, capacity=4), **options)
    return loop(policy, Corrected(Brightness(), reward)), online


def weighted_pictures():
    """Parts whose stale pictures count by importance weights; features and pictures are kept."""
    loop, online = pictures()
    online.buffer.replay = Replay(recent=1, capacity=4, importance=Importance("length"))
    return loop, online


def bottlenecked():
    """Parts whose correction draws noise in an update."""
    loop, online = language()
    correction = Bottleneck(loop.reward.correction, width=6, kl_weight=0.5)
    loop.reward = Corrected(Length(), correction)
    return loop, online


def trained(parts, folder, epochs, checkpoint=None):
    loop, online = parts
    trainer = pl.Trainer(max_epochs=epochs, callbacks=[online], **SILENT)
    prompts = sorted(set(online.good.prompts))
    data = Prompts(prompts, batch_size=len(prompts))
    trainer.fit(loop, data, ckpt_path=checkpoint, weights_only=True)
    trainer.save_checkpoint(folder / f"{epochs}.ckpt")
    return correction_state(loop.reward), [weight.detach() for weight in loop.policy.parameters()]


@pytest.mark.parametrize("parts", [language, pictures, weighted_pictures, bottlenecked])
def test_a_resumed_run_ends_as_an_uninterrupted_one(parts, tmp_path):
    torch.manual_seed(0)
    state, policy = trained(parts(), tmp_path, 4)
    trained(parts(), tmp_path, 2)
    resumed_state, resumed_policy = trained(parts(), tmp_path, 4, tmp_path / "2.ckpt")
    assert state.keys() == resumed_state.keys()
    for name, tensor in state.items():
        assert torch.equal(tensor, resumed_state[name]), name
    for one, other in zip(policy, resumed_policy, strict=True):
        assert torch.equal(one, other)


@pytest.mark.parametrize("loop", [PPO, ReFL, VelocityMatching])
def test_every_loop_that_draws_trains_the_correction(loop, tmp_path):
    module, online = pictures(loop)
    before = module.reward.correction.projection.hidden_weight.detach().clone()
    trained((module, online), tmp_path, 2)
    assert online.buffer.rollouts == 2
    assert not torch.equal(module.reward.correction.projection.hidden_weight, before)


def test_a_loop_that_is_anchored_on_samples_draws_too():
    module, online = pictures(partial(ReFL, sft_weight=1.0))
    data = SamplesData(Samples([""] * 2, torch.rand(2, 1, 8, 8)), batch_size=2)
    pl.Trainer(max_epochs=1, callbacks=[online], **SILENT).fit(module, data)
    assert online.buffer.rollouts == 1


@pytest.mark.parametrize("parts", [language, bottlenecked])
def test_an_untrained_correction_begins_at_zero_and_says_what_it_is(parts):
    loop, online = parts()
    samples = Samples(PROMPTS, ["x", "y y"])
    trainer = pl.Trainer(max_epochs=1, limit_train_batches=0, callbacks=[online], **SILENT)
    trainer.fit(loop, Prompts(PROMPTS, batch_size=2))
    online.setup(trainer, loop, "fit")
    online.on_train_start(trainer, loop)
    assert loop.reward(samples).tolist() == Length()(samples).tolist()
    assert "log-odds" in loop.reward.correction.meaning


def test_features_of_a_frozen_backbone_are_kept_instead_of_outputs():
    loop, online = pictures()
    online.setup(pl.Trainer(**SILENT), loop, "fit")
    kept = online._read(Samples([""] * 3, torch.rand(3, 3, 16, 16)))
    assert kept.inputs.shape == (3, loop.reward.correction.tower.width)


class Noisy(Table, DrawsNoise):
    """Scores with noise, and a term of the loss, while an update is taken."""

    def drawn_members(self, inputs, seeds):
        self.seeds = seeds
        noise = normal((), generators(seeds))
        return (self(inputs) + noise)[:, None], self.scores.square().sum().expand(len(seeds))


def test_noise_is_drawn_by_seed_for_each_row_and_its_term_counts():
    """One step of SGD on all scores at 0 but for the noise, against the same by hand."""
    online = Online(words(WANTED), rows=5, seed=3, optimizer=partial(SGD, lr=1.0))
    correction = Noisy()
    correction.scores.data.copy_(torch.tensor([0.5, -0.5, 0.25]))
    start = correction.scores.detach().clone().requires_grad_()
    teach(online, Corrected(Length(), correction), words(DRAWN), steps=1)
    seed = derive(3, "online", 1, 0)
    assert torch.equal(correction.seeds, row_seeds(derive(seed, "noise", 0), 10))
    own = online.buffer.draw(5, seed)
    good, own = online._paired(own, derive(seed, "good"))
    noise = normal((), generators(correction.seeds))
    lead = _of(start, good) + noise[:5] - _of(start, own) - noise[5:]
    loss = -logsigmoid(lead).mean() + start.square().sum()
    [slope] = torch.autograd.grad(loss, start)
    assert_close(correction.scores.detach(), start.detach() - slope)


def _of(scores, drawn):
    return scores[[WORDS.index(word) for word in drawn.inputs.outputs]]


class Wavering(Table):
    """Scores that drop out in training mode."""

    def forward(self, samples):
        return torch.dropout(super().forward(samples), 0.5, self.training)


class Seen(Table, FrozenFeatures):
    """Features that note how many samples they were made of at once, and in which mode."""

    passes = ()

    def features(self, samples):
        self.passes += ((len(samples), self.training),)
        return torch.eye(len(WORDS))[[WORDS.index(word) for word in samples.outputs]]

    def score_features(self, features):
        return (features @ self.scores)[:, None]


def begun(correction, good):
    online = Online(good)
    loop = Drawing(Corrected(Length(), correction), good)
    online.setup(pl.Trainer(**SILENT), loop, "fit")
    online.on_train_start(pl.Trainer(**SILENT), loop)
    return loop.reward


def test_the_mean_is_brought_back_without_dropout():
    correction = Wavering()
    correction.scores.data.copy_(torch.tensor([5.0, 3.0, -1.0]))
    reward = begun(correction, words(WANTED))
    expected = correction.scores @ WANTED
    assert_close(reward.offset, expected.detach())
    assert correction.training


def test_wanted_outputs_are_read_in_parts_in_evaluation_mode():
    correction = Seen()
    begun(correction, Samples([""] * 150, ["red"] * 150))
    assert correction.passes == ((64, False), (64, False), (22, False), (64, False))
    assert correction.training


def refused(loop, online, match):
    with pytest.raises(InputError, match=match):
        online.setup(pl.Trainer(**SILENT), loop, "fit")


def test_what_cannot_work_is_refused_before_anything_is_trained():
    loop, online = language()
    refused(loop, Online(), "nothing to hold the policy's outputs against")
    plain = PPO(loop.policy, Length())
    refused(plain, online, "the loop climbs a Length")
    refused(DPO(loop.policy), online, "a DPO draws nothing")
    refused(PPO(loop.policy, Corrected(Length(), Length())), online, "none of this Length's")
    with pytest.raises(InputError, match="every, updates and rows of 1 or more"):
        Online(every=0)
    with pytest.raises(InputError, match="clean_rows=3 clean pairs"):
        Online(clean_rows=3)
    none = PreferencePairs(Samples([], []), Samples([], []))
    with pytest.raises(InputError, match="clean pairs are 0"):
        Online(clean=none, clean_rows=3)
    refused(loop, Online(Samples([], [])), "nothing to hold the policy's outputs against")
    hidden = Corrected(Length(), Ensemble([bottlenecked()[0].reward.correction]))
    refused(PPO(loop.policy, hidden), online, "Online trains a Bottleneck alone")
    with pytest.raises(InputError, match='pairs by "prompt" or with "any"'):
        Online(pairing="both")
    with pytest.raises(InputError, match="recent_share in"):
        Replay(recent_share=0.0)
    with pytest.raises(InputError, match="weight above 0"):
        Corrected(Length(), Length(), weight=0.0)


def test_prompts_without_wanted_outputs_are_left_out_and_refused_if_all_are():
    reward = Corrected(Length(), Table())
    online = Online(Samples([""], ["red"]), rows=4)
    teach(online, reward, Samples(["", "other"], ["blue", "blue"]), steps=2)
    with pytest.raises(InputError, match="None of the policy's"):
        teach(online, reward, Samples(["other"], ["blue"]), steps=30)


def rollout(buffer, samples):
    return Drawn(list(samples.prompts), samples, buffer.next_keys(len(samples)))


def kept(replay, samples):
    """Return a memory that holds samples."""
    buffer = ReplayBuffer(replay, seed=0)
    buffer.add(rollout(buffer, samples))
    return buffer


def test_the_memory_keeps_a_uniform_sample_and_refuses_what_no_machine_holds():
    buffer = ReplayBuffer(Replay(recent=2, capacity=50), seed=1)
    for number in range(20):
        buffer.add(rollout(buffer, Samples([""] * 10, [str(number)] * 10)))
    assert len(buffer) == 2 * 10 + 50
    drawn = buffer.draw(4000, seed=0)
    ages = torch.tensor([int(text) for text in drawn.inputs.outputs])
    assert ((ages >= 18).float().mean() - 0.75).abs() < 1e-6
    older = ages[ages < 18].float()
    assert (older.mean() - 8.5).abs() < 1.5, "rollouts 0 to 17 are kept alike"
    huge = Samples([""], torch.zeros(1).expand(1, 3, 2000, 2000))
    with pytest.raises(InputError, match=r"Lower replay.capacity"):
        kept(Replay(capacity=10**7), huge)
    with pytest.raises(InputError, match=r"Online would keep 1,000,000,000,004 outputs"):
        kept(Replay(capacity=10**12), Samples([""], ["a text"]))


def test_states_of_the_memory_hold_facts_and_features():
    buffer = ReplayBuffer(Replay(recent=1), seed=0)
    for number in range(3):
        samples = Samples(["p"], ["text"], {"finished": torch.tensor([number == 1])})
        chance = torch.tensor([number / 2]).double()
        buffer.add(rollout(buffer, samples)._replace(log_prob=chance))
    copy = ReplayBuffer(Replay(recent=1), seed=0)
    copy.load(buffer.state())
    one = buffer.draw(8, seed=4)
    other = copy.draw(8, seed=4)
    assert torch.equal(one.inputs.facts["finished"], other.inputs.facts["finished"])
    assert one.log_prob.tolist() == other.log_prob.tolist()
    assert len(set(one.log_prob.tolist())) > 1


class Counting(Table):
    """Scores that note of how many rows each pass was."""

    def __init__(self):
        super().__init__()
        self.passes = []

    def forward(self, samples):
        self.passes.append((len(samples), samples.facts.get("finished")))
        return super().forward(samples)


def test_an_update_runs_each_row_once_in_one_pass_and_ends_stay_told():
    """Six own rows of one rollout of two, four clean pairs of one: 1 + 2 + 1 + 1 distinct rows."""
    pairs = PreferencePairs(Samples([""], ["green"]), Samples([""], ["blue"]))
    online = Online(Samples([""], ["red"]), pairs, rows=6, clean_rows=4)
    correction = Counting()
    draws = Samples([""] * 2, ["blue", "red"], {"finished": torch.tensor([False, True])})
    teach(online, Corrected(Length(), correction), draws, steps=1)
    before, update, after = correction.passes
    assert (before[0], update[0], after[0]) == (1, 5, 1)
    assert sorted(update[1].tolist()) == [False, True, True, True, True]


@pytest.mark.nightly
def test_two_processes_train_the_correction_of_one_with_their_joint_rollouts(tmp_path):
    """In processes of their own, as autograd cannot be forked once it ran."""
    for devices in (1, 2):
        command = [sys.executable, __file__, str(devices), str(tmp_path / f"{devices}.pt")]
        subprocess.run(command, check=True, timeout=300)
    one = torch.load(tmp_path / "1.pt")
    two = torch.load(tmp_path / "2.pt")
    assert one["scores"].abs().max() > 0.1
    assert torch.equal(one["scores"], two["scores"])
    assert torch.equal(one["offset"], two["offset"])
    assert one["rows"] == two["rows"] == 50


class Sharing(Drawing):
    """A loop in which each process draws its part of the words."""

    def training_step(self, batch, batch_idx):
        own = torch.arange(self.trainer.global_rank, len(self.draws), self.trainer.world_size)
        self.announce(self.draws[own])
        return self.weight.square()


class Keep(pl.Callback):
    """Write the correction of the last process, in its own process."""

    def __init__(self, online, path):
        self.online = online
        self.path = path

    def on_train_end(self, trainer, pl_module):
        if trainer.global_rank == trainer.world_size - 1:
            reward = pl_module.reward
            found = {"scores": reward.correction.scores.detach(), "offset": reward.offset}
            torch.save(found | {"rows": len(self.online.buffer)}, self.path)


def _joint(devices, path):
    """One process draws ten words a step; two draw five each, of the same order."""
    online = Online(words(WANTED), rows=8, optimizer=partial(Adam, lr=0.05))
    strategy = "ddp_fork" if devices > 1 else "auto"
    limits = {"devices": devices, "strategy": strategy, "limit_train_batches": 5, "max_epochs": 1}
    callbacks = [online, Keep(online, path)]
    trainer = pl.Trainer(accelerator="cpu", callbacks=callbacks, **{**SILENT, **limits})
    loader = Prompts([""] * 5 * devices, batch_size=1)
    trainer.fit(Sharing(Corrected(Length(), Table()), words(DRAWN)), loader)


if __name__ == "__main__":
    _joint(int(sys.argv[1]), Path(sys.argv[2]))
