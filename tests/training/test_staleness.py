"""Importance weights of stale outputs: against probabilities, against the expectation, in a run."""

import runpy
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import pytest
import pytorch_lightning as pl
import torch
from torch import nn
from torch.optim import Adam
from torch.testing import assert_close

from rewardlab import CausalLMPolicy, DiffusionPolicy
from rewardlab.data.prompt_data import Prompts
from rewardlab.errors import InputError
from rewardlab.policies import Policy
from rewardlab.rewards import Corrected, Length
from rewardlab.seeds import row_seeds
from rewardlab.testing import tiny_causal_lm, tiny_diffusion, tiny_tokenizer
from rewardlab.training import Importance, Online, Replay
from rewardlab.training.joint_scores import JointScores
from rewardlab.training.online_loss import online_loss
from rewardlab.training.trainers import SILENT
from rewardlab.types import Samples, Trajectory

SPOKEN = SimpleNamespace(**runpy.run_path(str(Path(__file__).with_name("spoken.py"))))
DRAWN = SPOKEN.DRAWN
WANTED = SPOKEN.WANTED
WORDS = SPOKEN.WORDS
Drawing = SPOKEN.Drawing
Table = SPOKEN.Table
words = SPOKEN.words
NOW = torch.tensor([0.6, 0.3, 0.1])
EXACT = Importance(quantile=1.0)


def loop_of(policy):
    return SimpleNamespace(policy=policy, device=torch.device("cpu"))


class Saying(Policy):
    """A policy that says one word, with given probabilities."""

    def __init__(self, chances):
        super().__init__()
        self.logits = nn.Parameter(chances.log())

    def sample(self, prompts, *, seeds):
        raise NotImplementedError

    def encode(self, samples, *, seeds):
        tokens = torch.tensor([[WORDS.index(word)] for word in samples.outputs])
        return Trajectory(samples.prompts, {"tokens": tokens}, torch.ones_like(tokens).bool())

    def decode(self, trajectory):
        raise NotImplementedError

    def generate(self, prompts, *, seeds):
        raise NotImplementedError

    def log_prob(self, trajectory):
        return self.logits.log_softmax(0)[trajectory.tensors["tokens"]]

    def save_pretrained(self, folder):
        raise NotImplementedError


def test_weights_are_ratios_of_probabilities_that_the_network_gives():
    texts = ["xy", "z", "yy x"]
    samples = Samples(["a"] * 3, texts)
    seeds = row_seeds(0, 3)
    log_probs = []
    expected = []
    for seed in (1, 2):
        network = tiny_causal_lm(seed=seed)
        policy = CausalLMPolicy(network, tiny_tokenizer(), max_new_tokens=8)
        log_probs.append(EXACT.log_prob(loop_of(policy), samples, seeds))
        expected.append([chance(network, text) for text in texts])
    then, now = log_probs
    ratios = (torch.tensor(expected[1]) - torch.tensor(expected[0])).exp().double()
    weights = EXACT.weights(now - then).weights
    assert_close(weights, ratios / ratios.mean(), rtol=1e-4, atol=0)
    assert (weights - 1).abs().max() > 1e-3


@torch.no_grad()
def chance(network, text):
    """Return log p of a text's bytes and the end after "a"."""
    ids = torch.tensor([[97, *text.encode(), tiny_tokenizer().eos_token_id]])
    log_probs = network(input_ids=ids).logits[0, :-1].log_softmax(1)
    return log_probs.gather(1, ids[0, 1:, None]).sum().item()


@pytest.mark.parametrize("ratio", ["whole", "length", "temper"])
def test_what_a_ratio_is_of_two_tokens_more_likely_by_a_nat_each(ratio):
    class Even(Saying):
        def log_prob(self, trajectory):
            return super().log_prob(trajectory).expand(-1, 3)

        def encode(self, samples, *, seeds):
            mask = torch.tensor([[True, True, False]] * len(samples))
            table = super().encode(samples, seeds=seeds)
            return Trajectory(table.prompts, table.tensors, mask)

    one = Even(torch.tensor([0.5, 0.25, 0.25]))
    importance = Importance(ratio, power=0.25)
    found = importance.log_prob(loop_of(one), words(WANTED), row_seeds(0, 10))
    factor = {"whole": 2, "length": 1, "temper": 0.5}[ratio]
    expected = factor * torch.tensor([0.5] * 7 + [0.25] * 3).log().double()
    assert_close(found, expected, rtol=1e-6, atol=0)


@pytest.mark.parametrize("pairing", ["prompt", "any"])
def test_the_weighted_loss_of_stale_outputs_is_that_of_the_policys_own(pairing):
    """Each of ten outputs as often as the old policy says: the mean is its expectation."""
    stale = words(DRAWN)
    seeds = row_seeds(0, 10)
    then = EXACT.log_prob(loop_of(Saying(DRAWN)), stale, seeds)
    now = EXACT.log_prob(loop_of(Saying(NOW)), stale, seeds)
    weights = EXACT.weights(now - then).weights
    scores = torch.tensor([0.3, -1.0, 2.0])
    good = torch.full((10, 1), 0.7)

    def loss(samples, weights=None):
        own = scores[[WORDS.index(word) for word in samples.outputs]][:, None]
        return online_loss(pairing, JointScores([good, own], None), weights)

    assert_close(loss(stale, weights), loss(words(NOW)))
    assert (loss(stale) - loss(words(NOW))).abs() > 0.05


class Moving(Drawing):
    """A loop whose policy is another from the second step on."""

    def __init__(self, reward):
        super().__init__(reward, None)
        self.policy = Saying(DRAWN)

    def training_step(self, batch, batch_idx):
        first = self.trainer.fit_loop.total_batch_idx == 0
        if not first:
            self.policy.logits.data = NOW.log()
        self.announce(words(DRAWN, 1000) if first else words(NOW))
        return self.weight.square()


def test_with_weights_the_correction_meets_the_present_policy_not_the_memory():
    """A thousand stale outputs beside a few of the present policy; all of them are in updates."""
    found = []
    for importance in (None, EXACT):
        reward = Corrected(Length(), Table())
        replay = Replay(recent=1000, importance=importance)
        online = Online(words(WANTED), rows=600, replay=replay, optimizer=partial(Adam, lr=0.1))
        trainer = pl.Trainer(max_epochs=1, limit_train_batches=50, callbacks=[online], **SILENT)
        trainer.fit(Moving(reward), Prompts([""] * 50, batch_size=1))
        scores = reward.correction.scores.detach()
        found.append(scores - scores.mean())
    expected = (WANTED / NOW).log()
    expected -= expected.mean()
    unweighted, weighted = found
    assert_close(weighted, expected, atol=0.15, rtol=0)
    assert (unweighted - expected).abs().max() > 0.5
    assert 0 < trainer.callback_metrics["online_effective"] < 1


def test_what_cannot_be_weighed_is_refused():
    with pytest.raises(InputError, match='the ratio "whole", "length" or "temper"'):
        Importance("half")
    with pytest.raises(InputError, match="a power and a quantile above 0"):
        Importance("temper", power=0.0)
    images = DiffusionPolicy(tiny_diffusion(classes=0))
    with pytest.raises(InputError, match="whole ratio leaves one sample"):
        EXACT.check_policy(images)
    Importance("length").check_policy(images)
    with pytest.raises(InputError, match="has none"):
        EXACT.check_policy(None)
