"""Online hardening: what a correction learns, that it resumes to the bit, and what it refuses."""

from functools import partial

import pytest
import pytorch_lightning as pl
import torch
from torch import nn
from torch.optim import SGD, Adam
from torch.testing import assert_close

from rewardlab import CausalLMPolicy, DiffusionPolicy, LanguageReward, Sampler, VisionReward
from rewardlab.data import SamplesData
from rewardlab.data.prompt_data import Prompts
from rewardlab.errors import InputError
from rewardlab.rewards import Brightness, Corrected, FrozenFeatures, Length, Reward
from rewardlab.testing import tiny_causal_lm, tiny_diffusion, tiny_tokenizer, tiny_tower
from rewardlab.training import DPO, PPO, Online, ReFL, Replay, VelocityMatching
from rewardlab.training.base import Trained
from rewardlab.training.online import correction_state
from rewardlab.training.replay import Drawn, ReplayBuffer
from rewardlab.training.trainers import SILENT
from rewardlab.types import PreferencePairs, Samples

WORDS = ["red", "green", "blue"]
WANTED = torch.tensor([0.7, 0.2, 0.1])
DRAWN = torch.tensor([0.2, 0.3, 0.5])
PROMPTS = ["a", "b"]


class Table(Reward):
    """A score of its own for each word."""

    def __init__(self):
        super().__init__()
        self.scores = nn.Parameter(torch.zeros(len(WORDS)))

    def forward(self, samples):
        return self.scores[[WORDS.index(word) for word in samples.outputs]]


class Drawing(Trained):
    """A loop whose policy draws words with fixed probabilities and learns nothing."""

    learns_from = "prompts"

    def __init__(self, reward, draws):
        super().__init__(partial(SGD, lr=0.1), None, 0)
        self.reward = reward
        self.draws = draws
        self.weight = nn.Parameter(torch.zeros(()))

    def training_step(self, batch, batch_idx):
        self.announce(self.draws)
        return self.weight.square()


def words(probabilities, count=10):
    """Return samples in which each word comes as often as its probability says."""
    counts = (probabilities * count).round().long().tolist()
    texts = [word for word, times in zip(WORDS, counts, strict=True) for _ in range(times)]
    return Samples([""] * len(texts), texts)


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


def trained(parts, folder, epochs, checkpoint=None):
    loop, online = parts
    trainer = pl.Trainer(max_epochs=epochs, callbacks=[online], **SILENT)
    prompts = sorted(set(online.good.prompts))
    data = Prompts(prompts, batch_size=len(prompts))
    trainer.fit(loop, data, ckpt_path=checkpoint, weights_only=True)
    trainer.save_checkpoint(folder / f"{epochs}.ckpt")
    return correction_state(loop.reward), [weight.detach() for weight in loop.policy.parameters()]


@pytest.mark.parametrize("parts", [language, pictures])
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


def test_an_untrained_correction_begins_at_zero_and_says_what_it_is():
    loop, online = language()
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


def test_states_of_the_memory_hold_facts_and_features():
    buffer = ReplayBuffer(Replay(recent=1), seed=0)
    for number in range(3):
        samples = Samples(["p"], ["text"], {"finished": torch.tensor([number == 1])})
        buffer.add(rollout(buffer, samples))
    copy = ReplayBuffer(Replay(recent=1), seed=0)
    copy.load(buffer.state())
    one = buffer.draw(8, seed=4).inputs
    other = copy.draw(8, seed=4).inputs
    assert one.facts["finished"].tolist() == other.facts["finished"].tolist()
