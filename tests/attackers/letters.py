"""A policy of few letters, and an attack on it, for tests of attackers."""

from copy import copy
from functools import partial
from typing import NamedTuple

import torch
from pytorch_lightning import Trainer

from rewardlab.mining import candidates
from rewardlab.policies import Policy
from rewardlab.policies.abilities import Continues, Tempered
from rewardlab.rewards import Function
from rewardlab.rewards.attack import Attack
from rewardlab.rewards.relative import Relative
from rewardlab.seeds import generators, uniform
from rewardlab.training.ppo import PPO
from rewardlab.types import Samples, Trajectory

PROMPTS = [f"p{i}" for i in range(8)]
STEPS = 6
TRAINER = partial(Trainer, accelerator="cpu", enable_progress_bar=False)
LOOP = partial(
    PPO, samples_per_prompt=8, kl_weight=0.0, optimizer=partial(torch.optim.Adam, lr=0.3)
)


def plain(text):
    return text.replace(" ", "")


class Letters(Policy, Continues, Tempered):
    """Up to 6 letters with blanks between, each drawn alike; "." ends a text."""

    alphabet = "abcz."

    def __init__(self, temperature=1.0):
        super().__init__()
        self.logits = torch.nn.Parameter(torch.tensor([0.35, 0.3, 0.25, 0.02, 0.08]).log())
        self.temperature = temperature

    def with_temperature(self, temperature):
        other = copy(self)
        other.temperature = temperature
        return other

    def _drawn(self, outputs, tokens, seeds):
        noise = uniform((tokens, 5), generators(seeds)).double().clamp_min(1e-12)
        gumbels = -noise.log().neg().log()
        picks = (self.logits.detach() / self.temperature + gumbels).argmax(2)
        texts = []
        for output, row in zip(outputs, picks.tolist(), strict=True):
            text = plain(output) + "".join(self.alphabet[i] for i in row)
            head, end, _ = text.partition(".")
            texts.append(head + end if end else text[:STEPS])
        return texts

    def _trajectory(self, prompts, texts, facts):
        lengths = torch.tensor([len(text) for text in texts])
        mask = torch.arange(STEPS) < lengths[:, None]
        rows = []
        for text in texts:
            rows.append([self.alphabet.index(letter) for letter in text.ljust(STEPS, ".")])
        finished = torch.tensor([text.endswith(".") for text in texts])
        facts = {**facts, "finished": finished, "length": lengths}
        return Trajectory(prompts, {"tokens": torch.tensor(rows)}, mask, facts)

    def sample(self, prompts, *, seeds):
        texts = self._drawn([""] * len(prompts), STEPS, seeds)
        return self._trajectory(prompts, texts, {"seed": seeds})

    def encode(self, samples, *, seeds):
        texts = [f"{plain(text)}."[:STEPS] for text in samples.outputs]
        return self._trajectory(samples.prompts, texts, samples.facts)

    def decode(self, trajectory):
        rows = trajectory.tensors["tokens"].tolist()
        lengths = trajectory.mask.sum(1).tolist()
        texts = []
        for row, length in zip(rows, lengths, strict=True):
            letters = " ".join(self.alphabet[i] for i in row[:length])
            texts.append(letters.rstrip(". "))
        return Samples(trajectory.prompts, texts, trajectory.facts)

    def log_prob(self, trajectory):
        return (self.logits / self.temperature).log_softmax(0)[trajectory.tensors["tokens"]]

    def extend(self, samples, tokens, *, seeds):
        assert not samples.facts["finished"].any()
        texts = self._drawn(samples.outputs, tokens, seeds)
        return self.decode(self._trajectory(samples.prompts, texts, samples.facts))

    def save_pretrained(self, folder):
        folder.mkdir()
        torch.save(self.state_dict(), folder / "weights")

    @classmethod
    def from_pretrained(cls, folder):
        policy = cls()
        policy.load_state_dict(torch.load(folder / "weights"))
        return policy


class Count(torch.nn.Module):
    """How often letters stand in a text, each times a weight."""

    def __init__(self, **weights):
        super().__init__()
        self.weights = torch.nn.ParameterDict()
        for name, value in weights.items():
            self.weights[name] = torch.tensor(float(value))

    def forward(self, samples):
        scores = []
        for text in samples.outputs:
            counts = [weight.item() * text.count(name) for name, weight in self.weights.items()]
            scores.append(sum(counts))
        return torch.tensor(scores)


def count(**weights):
    return Function(Count(**weights))


class World(NamedTuple):
    """An attack, and the references that it is relative to."""

    attack: Attack
    references: Samples


def world(**options):
    """The target likes "z" beside "a", the witness sees through "z"."""
    references = candidates(Letters(), PROMPTS, 8, seed=100)
    target = Relative(count(a=1, z=1.5), references)
    witness = Relative(count(a=1, z=-1.5), references)
    return World(Attack(target, witness, **options), references)
