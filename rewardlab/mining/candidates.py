"""Candidates of a policy, and the best and worst of them by a reward."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import get_args

import torch
from torch import Tensor

from rewardlab.conversations import Prompt
from rewardlab.errors import InputError
from rewardlab.metrics.best_of_n import Draws, poisson_counts
from rewardlab.mining.running_best import best_while_drawn
from rewardlab.policies import Generator, Policy, load_policy
from rewardlab.policies.base import outer_seeds
from rewardlab.rewards import Reward, load_reward
from rewardlab.rewards.abilities import Saved
from rewardlab.seeds import derive, generators, row_seeds, uniform
from rewardlab.storage.atomic import write_json
from rewardlab.storage.class_files import POLICY_FILE, read_class_file
from rewardlab.types import PreferencePairs, Samples


def candidates(policy: Generator, prompts: Sequence[Prompt], k: int, seed: int) -> Samples:
    """Return K outputs of each prompt, [P·K] rows, a prompt's candidates together.

    The fact "group" numbers the prompts.
    """
    rows = repeated(prompts, k)
    samples = policy.generate(rows, seeds=row_seeds(derive(seed, "candidates"), len(rows)))
    return samples.with_facts(group=torch.arange(len(prompts)).repeat_interleave(k))


def best_and_worst(
    policy: Generator, reward: Reward, prompts: Sequence[Prompt], *, k: int, seed: int
) -> PreferencePairs:
    """Draw K candidates a prompt; pair the highest-scored with the lowest. GAN-RM, section 3.3.

    Candidates that the reward does not score are left out; the log says how many.

    Raises:
        InputError: if k < 2, or no candidate is scored.

    Example:
        >>> from rewardlab import DiffusionPolicy
        >>> from rewardlab.rewards import Brightness
        >>> from rewardlab.testing import tiny_diffusion
        >>> from rewardlab.policies.samplers import Sampler
        >>> sampler = Sampler(steps=2)
        >>> policy = DiffusionPolicy(tiny_diffusion(), labels=["zero", "one"], sampler=sampler)
        >>> pairs = best_and_worst(policy, Brightness(), ["one", "zero"], k=4, seed=0)
        >>> bool((Brightness()(pairs.chosen) > Brightness()(pairs.rejected)).all())
        True
    """
    check_candidates(k)
    rows = repeated(prompts, k)
    groups = torch.arange(len(prompts)).repeat_interleave(k)
    seeds = row_seeds(derive(seed, "candidates"), len(rows))
    kept = best_while_drawn(policy, reward, rows, seeds=seeds, groups=groups, worst=True)
    return extremes(kept.samples.with_facts(group=kept.groups), kept.scores, 2)


def extremes(samples: Samples, scores: Tensor, k: int) -> PreferencePairs:
    """Pair the highest- with the lowest-scored of each prompt's K candidates.

    Prompts whose candidates all tie are left out, and so are those with fewer than two that are
    scored. Where best and worst are the same text, its scores differ by rounding, and all tie.

    Args:
        samples: [P·K], a prompt's candidates together.
        scores: [P·K]; NaN where a candidate is not scored.
        k: candidates a prompt.

    Returns:
        At most P pairs, with each half's score as the fact "score".
    """
    check_candidates(k)
    groups = scores.view(-1, k)
    first = torch.arange(len(groups)) * k
    missing = groups.isnan()
    best = first + groups.masked_fill(missing, -torch.inf).argmax(1)
    worst = first + groups.masked_fill(missing, torch.inf).argmin(1)
    differ = scores[best] > scores[worst]
    if isinstance(samples.outputs, list):
        texts = zip(samples[best].outputs, samples[worst].outputs, strict=True)
        differ &= torch.tensor([first != second for first, second in texts], dtype=torch.bool)
    best = best[differ]
    worst = worst[differ]
    chosen = samples[best].with_facts(score=scores[best])
    return PreferencePairs(chosen, samples[worst].with_facts(score=scores[worst]))


def check_candidates(k: int) -> None:
    """Refuse fewer than two candidates a prompt, before any is drawn."""
    if k < 2:
        raise InputError(
            f"A preference pair needs two candidates of a prompt; got k={k}. Draw at least 2 (8 is "
            "usual)."
        )


class BestOf(Generator):
    """The best of n outputs by a reward: test-time filtering, as a generator.

    It has no step probabilities, so it is judged and attacked like any generator, and not trained:
    train the policy inside it instead.

    Args:
        policy: draws the candidates.
        reward: ranks them. Candidates that it does not score are left out; where it scores none of
            an output's, the first of them is the output.
        n: number of candidates an output. The divergence from the policy is at most
            ln n - (n - 1)/n nats.
        draws: "fixed" n, or "poisson": 1 + Poisson(n - 1) for each output, n in the mean (best of
            Poisson, arXiv 2506.19248). Its divergence is `metrics.best_of_poisson_kl(n - 1)`; n
            need not be whole.

    Raises:
        InputError: if n is below 1, or `draws` is another word.
    """

    def __init__(self, policy: Generator, reward: Reward, n: float, draws: Draws = "fixed") -> None:
        super().__init__()
        if not n >= 1:
            raise InputError(f"BestOf takes the best of n >= 1 outputs; got n={n}.")
        if draws not in get_args(Draws) or (draws == "fixed" and n != int(n)):
            raise InputError(
                'BestOf draws a "fixed", whole number n of outputs or a "poisson" one; got '
                f"draws={draws!r} and n={n}."
            )
        self.policy = policy
        self.reward = reward
        self.n = n
        self.draws = draws

    @torch.no_grad()
    def generate(self, prompts: Sequence[Prompt], *, seeds: Tensor) -> Samples:
        """Return the best of n outputs a prompt.

        Each row's candidates come from seeds that are derived from its own. The fact "seed" is the
        row's, "inner_seed" that of its best candidate.
        """
        counts = self._counts(seeds)
        largest = int(counts.max())
        columns = [row_seeds(derive(0, "best of", i), seeds) for i in range(largest)]
        is_drawn = torch.arange(largest) < counts[:, None]
        candidate_seeds = torch.stack(columns, 1)[is_drawn]
        groups = is_drawn.nonzero()[:, 0]
        rows = [prompts[row] for row in groups.tolist()]
        kept = best_while_drawn(
            self.policy, self.reward, rows, seeds=candidate_seeds, groups=groups
        )
        return outer_seeds(kept.samples, seeds)

    def _counts(self, seeds: Tensor) -> Tensor:
        """Return the number of candidates [B] of each row, by the row's seed."""
        if self.draws == "fixed":
            return torch.full((len(seeds),), int(self.n))
        chances = poisson_counts(self.n - 1)
        rows = generators(row_seeds(derive(0, "how many"), seeds))
        points = uniform((), rows, dtype=torch.float64)
        places = torch.searchsorted(chances.cumsum(0), points, right=True)
        return 1 + places.clamp_max(len(chances) - 1)

    def check_prompts(self, prompts: Sequence[Prompt]) -> None:
        """Refuse what the policy inside refuses."""
        self.policy.check_prompts(prompts)

    def save_pretrained(self, folder: str | Path) -> None:
        """Write n into policy.json, the policy into `folder`/policy, the reward beside it.

        Raises:
            InputError: if one of them cannot be saved.
        """
        if not isinstance(self.policy, Policy | BestOf) or not isinstance(self.reward, Saved):
            raise InputError(
                f"A BestOf of {type(self.policy).__name__} by {type(self.reward).__name__} cannot "
                "be saved, since one of the two cannot. Make it in code."
            )
        self.reward.check_savable()
        self.policy.save_pretrained(Path(folder) / "policy")
        self.reward.save_pretrained(Path(folder) / "reward")
        config = {"class_path": "rewardlab.mining.BestOf", "n": self.n, "draws": self.draws}
        write_json(Path(folder) / POLICY_FILE, config)

    @classmethod
    def from_pretrained(cls, folder: str | Path, *, trust: bool = False) -> BestOf:
        """Load what `save_pretrained` wrote, in eval mode.

        Args:
            folder: which `save_pretrained` wrote.
            trust: as `load_policy` and `load_reward` take it, for the two parts.

        Raises:
            InputError: if a part is missing or cannot be read.
        """
        config = read_class_file(Path(folder) / POLICY_FILE)
        policy = load_policy(Path(folder) / "policy", trust=trust)
        reward = load_reward(Path(folder) / "reward", trust=trust)
        draws = config.get("draws", "fixed")  # folders of before have none
        n = float(config["n"])
        return cls(policy, reward, int(n) if n.is_integer() else n, draws).eval()


def repeated(prompts: Sequence[Prompt], k: int) -> list[Prompt]:
    """Return each prompt k times, one prompt's copies together.

    Example:
        >>> repeated(["a", "b"], 2)
        ['a', 'a', 'b', 'b']
    """
    rows: list[Prompt] = []
    for prompt in prompts:
        rows += [prompt] * k
    return rows
