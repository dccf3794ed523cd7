"""Candidates of a policy, and the best and worst of them by a reward."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from rewardlab.errors import InputError
from rewardlab.policies import Policy
from rewardlab.rewards import Reward
from rewardlab.rewards.scoring import score
from rewardlab.seeds import derive, row_seeds
from rewardlab.types import PreferencePairs, Samples, Trajectory


def candidates(policy: Policy, prompts: Sequence[str], k: int, seed: int) -> Samples:
    """Return K outputs of each prompt, [P·K] rows, a prompt's candidates together; the fact "group"
    numbers the prompts.
    """
    repeated = [prompt for prompt in prompts for _ in range(k)]
    samples = policy.generate(repeated, seeds=row_seeds(derive(seed, "candidates"), len(repeated)))
    return samples.with_facts(group=torch.arange(len(prompts)).repeat_interleave(k))


def best_and_worst(
    policy: Policy, reward: Reward, prompts: Sequence[str], *, k: int, seed: int
) -> PreferencePairs:
    """Draw K candidates a prompt; pair the highest-scored with the lowest. GAN-RM, section 3.3.

    Raises:
        InputError: if k < 2.

    Example:
        >>> from rewardlab import DiffusionPolicy
        >>> from rewardlab.rewards import Brightness
        >>> from rewardlab.testing import tiny_diffusion
        >>> from rewardlab.policies.samplers import Sampler
        >>> policy = DiffusionPolicy(tiny_diffusion(), labels=["zero", "one"], sampler=Sampler(steps=2))
        >>> pairs = best_and_worst(policy, Brightness(), ["one", "zero"], k=4, seed=0)
        >>> bool((Brightness()(pairs.chosen) > Brightness()(pairs.rejected)).all())
        True
    """
    check_candidates(k)
    drawn = candidates(policy, prompts, k, seed)
    return extremes(drawn, score(reward, drawn).mean(1), k)


def extremes(samples: Samples, scores: Tensor, k: int) -> PreferencePairs:
    """Pair the highest- with the lowest-scored of each prompt's K candidates; prompts whose
    candidates all tie are left out.

    Args:
        samples: [P·K], a prompt's candidates together.
        scores: [P·K].
        k: candidates a prompt.

    Returns:
        At most P pairs, with each half's score as the fact "score".
    """
    check_candidates(k)
    groups = scores.view(-1, k)
    first = torch.arange(len(groups)) * k
    best = first + groups.argmax(1)
    worst = first + groups.argmin(1)
    differ = scores[best] > scores[worst]
    chosen, rejected = (
        samples[rows[differ]].with_facts(score=scores[rows[differ]]) for rows in (best, worst)
    )
    return PreferencePairs(chosen, rejected)


def check_candidates(k: int) -> None:
    """Refuse fewer than two candidates a prompt, before any is drawn."""
    if k < 2:
        raise InputError(
            f"A preference pair needs two candidates of a prompt; got k={k}. Draw at least 2 (8 is usual)."
        )


class BestOf(Policy):
    """The best of n outputs by a reward: test-time filtering, as a policy that can be sampled from
    but not scored.

    Args:
        policy: draws the candidates.
        reward: ranks them.
        n: candidates an output. Its divergence from the policy is at most ln n - (n - 1)/n nats.
    """

    def __init__(self, policy: Policy, reward: Reward, n: int) -> None:
        super().__init__()
        if n < 1:
            raise InputError(f"BestOf takes the best of n >= 1 outputs; got n={n}.")
        self.policy = policy
        self.reward = reward
        self.n = n
        self.dimensions = policy.dimensions

    @torch.no_grad()
    def generate(self, prompts: Sequence[str], *, seeds: Tensor) -> Samples:
        """Return the best of n outputs a prompt. Each row's candidates come from seeds derived of
        its own.
        """
        own = torch.stack(
            [row_seeds(derive(0, "best of", i), seeds) for i in range(self.n)], 1
        ).flatten()
        drawn = self.policy.generate(
            [prompt for prompt in prompts for _ in range(self.n)], seeds=own
        )
        best = score(self.reward, drawn).mean(1).view(-1, self.n).argmax(1)
        return drawn[torch.arange(len(prompts)) * self.n + best].with_facts(seed=seeds)

    def sample(self, prompts: Sequence[str], *, seeds: Tensor) -> Trajectory:
        """Refuse: choosing the best of n has no tractable probability of its steps."""
        raise InputError(
            "BestOf filters finished outputs and has no step probabilities; train the policy inside it instead."
        )

    def log_prob(self, trajectory: Trajectory) -> Tensor:
        """Refuse, as `sample` does."""
        return self.sample(trajectory.prompts, seeds=torch.zeros(len(trajectory)))  # type: ignore[return-value]

    def encode(self, samples: Samples, *, seeds: Tensor) -> Trajectory:
        return self.policy.encode(samples, seeds=seeds)

    def decode(self, trajectory: Trajectory) -> Samples:
        return self.policy.decode(trajectory)

    def save_pretrained(self, folder: str | Path) -> None:
        """Write the policy into `folder`/policy and the reward into `folder`/reward."""
        self.policy.save_pretrained(Path(folder) / "policy")
        self.reward.save_pretrained(Path(folder) / "reward")
