"""How proxy and judges fare when a policy's reference finishes its pictures ever earlier."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch

from rewardlab.conversations import Prompt
from rewardlab.evaluation.prompts import in_turn
from rewardlab.policies import Generator
from rewardlab.rewards import Reward
from rewardlab.rewards.scoring import judged, scored_part
from rewardlab.seeds import derive, row_seeds


@torch.no_grad()
def finish_curve(
    finish: Callable[[float], Generator],
    rewards: Mapping[str, Reward],
    prompts: Sequence[Prompt],
    *,
    taus: Sequence[float] = (0.0, 0.1, 0.2, 0.4, 0.6, 0.8, 1.0),
    samples: int = 128,
    seed: int = 0,
) -> list[dict[str, float]]:
    """Return a row for each τ with the mean of each reward and its standard error.

    A proxy that falls while the judges rise was raised by the steps that the reference took over.
    All τ have the same prompts and seeds.

    Args:
        finish: makes the generator of a τ, such as `lambda tau: BaseFinish(policy, tau, base)`.
        rewards: named proxies and judges.
        prompts: of the outputs, in turn.
        taus: the times at which the reference takes over.
        samples: outputs of each τ.
        seed: seed of their noise.

    Returns:
        Rows with "tau", each reward's name, and "NAME_error".

    Example:
        >>> from rewardlab import DiffusionPolicy, Sampler
        >>> from rewardlab.policies import BaseFinish
        >>> from rewardlab.rewards import Brightness
        >>> from rewardlab.testing import tiny_diffusion
        >>> sampler = Sampler(steps=3)
        >>> policy = DiffusionPolicy(tiny_diffusion(classes=0), sampler=sampler, lora_rank=2)
        >>> def finish(tau):
        ...     return BaseFinish(policy, tau)
        >>> rows = finish_curve(finish, {"ink": Brightness()}, [""], taus=(0.0, 1.0), samples=4)
        >>> list(rows[0])
        ['tau', 'ink', 'ink_error']
    """
    seeds = row_seeds(derive(seed, "finish curve"), samples)
    rows = []
    for tau in taus:
        outputs = finish(tau).eval().generate(in_turn(prompts, samples), seeds=seeds)
        row = {"tau": tau}
        for name, reward in rewards.items():
            scores = scored_part(outputs, judged(reward, outputs), "outputs").scores
            row[name] = scores.mean().item()
            row[f"{name}_error"] = scores.std().item() / len(scores) ** 0.5
        rows.append(row)
    return rows
