"""Gated KL and diversity: doubt by ranks, whose KL counts, q over steps, and what is favored."""

import runpy
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import pytest
import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import ModelCheckpoint
from torch.optim import SGD
from torch.testing import assert_close

from rewardlab import DiffusionPolicy, InputError
from rewardlab.advantages import diversified, leave_one_out
from rewardlab.metrics import doubts, most_doubted
from rewardlab.policies import CausalLMPolicy
from rewardlab.policies.samplers import Sampler
from rewardlab.rewards import Brightness, FrozenFeatures, Function, LanguageReward, Length, Reward
from rewardlab.testing import tiny_causal_lm, tiny_diffusion, tiny_tokenizer
from rewardlab.training import DPO, PPO, Diversity, GatedKL, Resumable

LETTERS = SimpleNamespace(**runpy.run_path(str(Path(__file__).with_name("letters.py"))))
Letters = LETTERS.Letters
fit = LETTERS.fit
weights = LETTERS.weights
WITNESS = Function(
    lambda samples: torch.tensor([-float(text.count("a")) for text in samples.outputs])
)


def module(**options):
    settings = {"kl_weight": 0.5, "optimizer": partial(SGD, lr=0.3), **options}
    return PPO(Letters(steps=4), LETTERS.VALUE, reference=Letters(steps=4, seed=5), **settings)


class TestDoubts:
    def test_a_sample_that_only_the_reward_likes_is_doubted_most(self):
        scores = torch.tensor([0.0, 1.0, 2.0, 9.0])
        agreeing, opposed = scores.exp(), -scores
        assert_close(doubts(scores, agreeing[:, None]), torch.zeros(4))
        assert doubts(scores, opposed[:, None]).tolist() == pytest.approx([-1, -1 / 3, 1 / 3, 1])
        both = torch.stack([agreeing, opposed], 1)
        assert doubts(scores, both).tolist() == pytest.approx([-0.5, -1 / 6, 1 / 6, 0.5])

    def test_it_is_the_share_of_comparisons_won(self):
        draw = torch.Generator().manual_seed(0)
        table = torch.randint(5, (30, 3), generator=draw).float()  # with ties
        won = (table[:, None] > table[None]).double() + (table[:, None] == table[None]).double() / 2
        shares = (won.sum(1) - 0.5) / 29
        expected = (shares[:, 0] - shares[:, 1:].mean(1)).float()
        found = doubts(table[:, 0], table[:, 1:])
        assert_close(found, expected)
        assert found.mean().item() == pytest.approx(0, abs=1e-6)
        moved = torch.cat([table[:, :1] ** 3 + 7, table[:, 1:].exp()], 1)
        assert torch.equal(doubts(moved[:, 0], moved[:, 1:]), found)

    @pytest.mark.parametrize(
        ("share", "expected"),
        [(0.01, [0, 0, 0, 1, 0]), (0.5, [0, 1, 0, 1, 0]), (1.0, [1, 1, 0, 1, 0])],
    )
    def test_only_doubts_of_0_or_more_are_chosen(self, share, expected):
        doubt = torch.tensor([0.0, 0.3, -0.1, 0.8, -0.9])
        assert most_doubted(doubt, share).int().tolist() == expected

    def test_bad_input(self):
        with pytest.raises(InputError, match="witnesses"):
            doubts(torch.zeros(3), torch.zeros(3))
        with pytest.raises(InputError, match="a witness at least"):
            doubts(torch.zeros(3), torch.zeros(3, 0))
        with pytest.raises(InputError, match="finite"):
            doubts(torch.tensor([0.0, float("nan")]), torch.zeros(2, 1))


class Experiences(pl.Callback):
    """Each rollout that a loop collected."""

    def __init__(self, monkeypatch):
        self.rollouts = []
        collect = PPO.collect

        def kept(loop, *args):
            self.rollouts.append(collect(loop, *args))
            return self.rollouts[-1]

        monkeypatch.setattr(PPO, "collect", kept)


@pytest.mark.parametrize("as_published", [False, True])
def test_in_the_reward_the_kl_is_subtracted_from_gated_samples_alone(monkeypatch, as_published):
    kept = Experiences(monkeypatch)
    gate = GatedKL([WITNESS], share=0.2, as_published=as_published)
    fit(module(), callbacks=[gate], max_steps=1, max_epochs=-1)
    [experience] = kept.rollouts
    rollout = experience.rollout
    doubt = doubts(rollout.scores, WITNESS(experience.samples)[:, None])
    gated = most_doubted(-doubt if as_published else doubt, 0.2)
    assert 0 < gated.sum() < len(gated) / 4
    assert torch.equal(experience.kl_shares[:, 0], gated.float())
    nats = (rollout.log_prob - rollout.reference_log_prob).where(rollout.trajectory.mask, 0).sum(1)
    returns = torch.where(gated, rollout.scores - 0.5 * nats, rollout.scores)
    assert_close(rollout.advantages[:, 0], leave_one_out(returns.view(-1, 4)).flatten())


def test_as_a_loss_the_kl_pulls_gated_samples_alone(monkeypatch):
    kept = Experiences(monkeypatch)
    loop = module(kl="k2")
    fit(loop, callbacks=[GatedKL([WITNESS])], max_steps=1, max_epochs=-1)
    [experience] = kept.rollouts
    mask = experience.rollout.trajectory.mask

    def gradient(rows):
        part = experience[rows]
        loss, _ = loop.loss(part, mask[rows] / mask.sum())
        return torch.autograd.grad(loss, loop.policy.next.weight)[0]

    gated = experience.kl_shares[:, 0].bool()
    free = (~gated).nonzero().flatten()
    held = gated.nonzero().flatten()
    with_kl = gradient(free), gradient(held)
    loop.kl_weight = 0.0
    assert torch.equal(with_kl[0], gradient(free))
    assert not torch.equal(with_kl[1], gradient(held))


def test_a_gate_that_is_open_for_all_is_the_plain_kl(monkeypatch):
    everybody = Function(lambda samples: torch.zeros(len(samples)))
    plain = module()
    fit(plain, max_epochs=2)
    monkeypatch.setattr("rewardlab.training.gated_kl.most_doubted", lambda doubt, _: doubt > -2)
    gated = module()
    fit(gated, callbacks=[GatedKL([everybody])], max_epochs=2)
    assert torch.equal(weights(plain), weights(gated))


def test_the_share_follows_the_doubt_within_its_bounds():
    gate = GatedKL([WITNESS], share=0.1, lowest=0.05, highest=0.12)
    for _ in range(20):
        gate._adapt(0.5)
    assert gate.share == 0.1  # nothing to compare with before
    for doubt in (0.5, 0.6, 0.7, 0.8):
        gate._adapt(doubt)
    assert gate.share == 0.12  # 0.1 · 1.1³, held at the highest
    gate._adapt(0.55)
    assert gate.share == 0.12
    for step in range(20):
        gate._adapt(0.4 - 0.01 * step)
    assert gate.share == 0.05
    for _ in range(16):
        gate._adapt(0.3)
    assert gate.share == 0.05
    gate._adapt(0.5)  # the high doubts are more than 20 steps ago
    assert gate.share == pytest.approx(0.055)


def test_a_run_resumes_with_the_gate_to_the_bit(tmp_path, monkeypatch):
    monkeypatch.setattr("rewardlab.training.gated_kl.WINDOW", 2)

    def run(steps, ckpt_path=None):
        saves = ModelCheckpoint(tmp_path, "{step}", every_n_train_steps=1, save_top_k=-1)
        gate = GatedKL([WITNESS], share=0.2, lowest=0.01, highest=0.9)
        gate._doubts = type(gate._doubts)(maxlen=2)
        loop = module()
        callbacks = [gate, Resumable(), saves]
        fit(loop, callbacks=callbacks, max_steps=steps, max_epochs=-1, ckpt_path=ckpt_path)
        return weights(loop), gate

    straight, gate = run(12)
    run(6)
    resumed, again = run(12, tmp_path / "step=6.ckpt")
    assert torch.equal(straight, resumed)
    assert gate.share == again.share != 0.2
    assert gate.state_dict() == again.state_dict()


class TestDiversified:
    def test_it_is_the_distance_to_the_nearest_over_its_mean(self):
        draw = torch.Generator().manual_seed(0)
        features = torch.randn(3, 4, 5, generator=draw)
        advantages = torch.randn(3, 4, 2, generator=draw)
        weighed, distances = diversified(advantages, features)
        for prompt in range(3):
            for k in range(4):
                others = [j for j in range(4) if j != k]
                own = features[prompt, k].expand(3, 5)
                cosines = torch.cosine_similarity(own, features[prompt, others])
                assert_close(distances[prompt, k], 1 - cosines.max())
        factors = (distances / distances.mean(1, keepdim=True))[:, :, None]
        assert_close(weighed, torch.where(advantages > 0, advantages * factors, advantages))

    def test_twins_keep_their_advantages(self):
        advantages = torch.tensor([[[1.0], [-1.0]]])
        weighed, distances = diversified(advantages, torch.ones(1, 2, 3))
        assert torch.equal(weighed, advantages)
        assert distances.tolist() == [[0, 0]]

    def test_bad_input(self):
        with pytest.raises(InputError, match="same samples"):
            diversified(torch.zeros(1, 2, 1), torch.zeros(1, 3, 4))
        with pytest.raises(InputError, match="K >= 2"):
            diversified(torch.zeros(1, 1, 1), torch.zeros(1, 1, 4))


class Pixels(Reward, FrozenFeatures):
    """A reward whose frozen features are an image's pixels."""

    def forward(self, samples):
        return samples.outputs.flatten(1).mean(1)

    def features(self, samples):
        return samples.outputs.flatten(1)


def language(**options):
    return CausalLMPolicy(tiny_causal_lm(), tiny_tokenizer(), max_new_tokens=3, **options)


def test_texts_and_images_are_gated_and_diversified(monkeypatch):
    kept = Experiences(monkeypatch)
    features = LanguageReward(tiny_causal_lm(), tiny_tokenizer(), frozen=True)
    spelling = Function(
        lambda samples: torch.tensor([sum(map(ord, text)) / 100 for text in samples.outputs])
    )
    spread = Function(lambda samples: samples.outputs.flatten(1).std(1))
    pictures = DiffusionPolicy(tiny_diffusion(classes=0), sampler=Sampler(steps=2))
    worlds = [
        (language(), spelling, features, Length(), {}),
        (pictures, Brightness(), Pixels(), spread, {"clip": 1e-4}),
    ]
    for policy, reward, measured, witness, options in worlds:
        loop = PPO(policy, reward, kl_weight=0.04, **options)
        callbacks = [GatedKL([witness]), Diversity(measured)]
        trainer = fit(loop, callbacks=callbacks, prompts=2, batch_size=2, max_epochs=1)
        experience = kept.rollouts[-1]
        before = leave_one_out(experience.rollout.scores.view(2, 4))  # the KL is 0 at the start
        assert before.abs().max() > 0
        groups = measured.features(experience.samples).flatten(1).view(2, 4, -1)
        weighed, distances = diversified(before[:, :, None], groups)
        assert_close(experience.rollout.advantages, weighed.view(8, 1))
        found = trainer.callback_metrics
        assert_close(found["neighbor_distance"], distances.mean())
        assert found["kl_share"] == pytest.approx(0.1)
        assert 0 < found["kl_gated"] <= 0.2


def test_bad_input_is_refused_in_a_sentence():
    with pytest.raises(InputError, match="got none"):
        GatedKL([])
    with pytest.raises(InputError, match="lowest <= share"):
        GatedKL([WITNESS], share=0.5)
    with pytest.raises(InputError, match="Length has none"):
        Diversity(Length())
    with pytest.raises(InputError, match="no KL with a weight"):
        fit(module(kl_weight=0.0), callbacks=[GatedKL([WITNESS])], max_epochs=1)
    with pytest.raises(InputError, match="this DPO has no KL"):
        GatedKL([WITNESS]).on_train_start(None, DPO(language()))
    with pytest.raises(InputError, match="leave_one_out"):
        fit(module(advantage="group_normalized"), callbacks=[Diversity(Pixels())], max_epochs=1)
    decoupled = module()
    decoupled.advantage = "decoupled"
    with pytest.raises(InputError, match=r"must not be divided .* PPO with the advantage 'decoup"):
        Diversity(Pixels()).on_train_start(None, decoupled)
    broken = Function(lambda samples: torch.full((len(samples),), float("nan")))
    with pytest.raises(InputError, match="gave a score of nan"):
        fit(module(), callbacks=[GatedKL([broken])], max_epochs=1)
