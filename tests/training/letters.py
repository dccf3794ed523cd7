"""A bigram model over letters whose outputs can all be enumerated, for tests of PPO."""

from itertools import product

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import ModelCheckpoint
from torch import nn
from torch.nn.functional import one_hot

from rewardlab.data.prompt_data import Prompts
from rewardlab.policies.abilities import HasCritic, HasEntropy
from rewardlab.policies.base import Policy
from rewardlab.rewards.functions import Function
from rewardlab.seeds import generators, uniform
from rewardlab.types import Samples, Trajectory


class Letters(Policy, HasEntropy, HasCritic):
    """A bigram model over letters and the end mark ".". It takes no prompt."""

    def __init__(self, letters="ab", steps=2, seed=0):
        super().__init__()
        self.symbols = letters + "."
        self.steps = steps
        count = len(self.symbols)
        self.next = nn.Linear(count + 1, count, bias=False)
        self.critic = nn.Linear(count + 1, 1)
        generator = torch.Generator().manual_seed(seed)
        self.next.weight.data = torch.randn(count, count + 1, generator=generator)
        nn.init.zeros_(self.critic.weight)
        nn.init.zeros_(self.critic.bias)

    def sample(self, prompts, *, seeds):
        draws = uniform((self.steps,), generators(seeds))
        unknown = torch.zeros(len(prompts), 1, dtype=torch.long)
        tokens = unknown[:, :0]
        for column in draws.T:
            chances = self._logits(torch.cat([tokens, unknown], 1))[:, -1].softmax(1)
            below = (column[:, None] > chances.cumsum(1)).sum(1)
            token = below.clamp_max(len(self.symbols) - 1)
            tokens = torch.cat([tokens, token[:, None]], 1)
        return self.trajectory(prompts, tokens, seeds)

    def trajectory(self, prompts, tokens, seeds=None):
        is_end = tokens == len(self.symbols) - 1
        ended_before = is_end.cumsum(1) - is_end.long()
        mask = ended_before == 0  # the end mark is a step itself
        facts = {"length": mask.sum(1)}
        if seeds is not None:
            facts["seed"] = seeds
        return Trajectory(prompts, {"tokens": tokens}, mask, facts)

    def encode(self, samples, *, seeds):
        raise NotImplementedError

    def decode(self, trajectory):
        tokens = trajectory.tensors["tokens"].tolist()
        lengths = trajectory.mask.sum(1).tolist()
        texts = []
        for row, length in zip(tokens, lengths, strict=True):
            texts.append("".join(self.symbols[token] for token in row[:length]))
        return Samples(trajectory.prompts, texts, trajectory.facts)

    def log_prob(self, trajectory):
        tokens = trajectory.tensors["tokens"]
        log_prob = self._logits(tokens).log_softmax(2).gather(2, tokens[:, :, None])[:, :, 0]
        return log_prob.where(trajectory.mask, float("nan"))  # nobody may look there

    def entropy(self, trajectory):
        log_prob = self._logits(trajectory.tensors["tokens"]).log_softmax(2)
        return -(log_prob.exp() * log_prob).sum(2)

    def value(self, trajectory):
        return self.critic(self._states(trajectory.tensors["tokens"])).float()[:, :, 0]

    def _states(self, tokens):
        """What is before each token, one-hot: the token before it, or the start."""
        start = torch.full_like(tokens[:, :1], len(self.symbols))
        return one_hot(torch.cat([start, tokens[:, :-1]], 1), len(self.symbols) + 1).float()

    def _logits(self, tokens):
        return self.next(self._states(tokens)).float()

    def save_pretrained(self, folder):
        raise NotImplementedError

    def everything(self):
        """A trajectory for each thing it can say."""
        tokens = torch.tensor(list(product(range(len(self.symbols)), repeat=self.steps)))
        last = len(self.symbols) - 1
        for column in range(1, self.steps):
            tokens[:, column] = torch.where(tokens[:, column - 1] == last, last, tokens[:, column])
        tokens = tokens.unique(dim=0)
        return self.trajectory([""] * len(tokens), tokens)

    def chances(self):
        """The log-probability of each thing it can say."""
        trajectory = self.everything()
        return self.log_prob(trajectory).where(trajectory.mask, 0).sum(1)


def worth(samples):
    """A score that is no sum over letters."""
    scores = []
    for text in samples.outputs:
        scores.append(2.0 * text.count("a") - text.count("b") ** 2 + 3 * text.startswith("ba"))
    return torch.tensor(scores)


VALUE = Function(worth)


def fit(module, *, prompts=8, batch_size=8, callbacks=(), ckpt_path=None, logger=False, **limits):
    """Train on prompts, or on so many empty ones, and return the trainer."""
    trainer = pl.Trainer(
        accelerator="cpu",
        logger=logger,
        callbacks=list(callbacks),
        log_every_n_steps=1,
        enable_checkpointing=any(isinstance(callback, ModelCheckpoint) for callback in callbacks),
        enable_progress_bar=False,
        enable_model_summary=False,
        **limits,
    )
    if isinstance(prompts, int):
        prompts = [""] * prompts
    data = Prompts(prompts, batch_size=batch_size)
    trainer.fit(module, data, ckpt_path=ckpt_path, weights_only=True)
    return trainer


def weights(module):
    return torch.cat([parameter.detach().flatten() for parameter in module.policy.parameters()])
