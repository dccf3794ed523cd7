"""What PPO knows of a rollout: penalties, advantages, and the figures that it logs."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from torch import Tensor

from rewardlab.advantages import centered, generalized, group_normalized, leave_one_out
from rewardlab.losses.kl import absolute, k1, k2
from rewardlab.losses.policy_gradient import Normalization
from rewardlab.policies import Policy
from rewardlab.training.base import step_total
from rewardlab.training.processes import gathered, joint_step_weights, own_rows
from rewardlab.types import Index, Rollout, Samples, Trajectory, take

Baseline = Literal["leave_one_out", "group_normalized", "generalized", "decoupled"]
KLKind = Literal["reward", "k2", "k3", "absolute"]
BASELINES: dict[str, Callable[[Tensor], Tensor]] = {
    "leave_one_out": leave_one_out,
    "group_normalized": group_normalized,
    "decoupled": centered,  # of what is normalized already, less the KL
}


@dataclass(frozen=True)
class Experience:
    """A rollout with its finished outputs.

    Attributes:
        rollout: B rows of T steps.
        samples: B outputs.
        values: float32 [B, T], what the critic gave to the steps at the rollout; None where there
            is no critic.
        norm_ratios: float32 [B, T], ‖v‖/‖v_ref‖ of each step of a policy that denoises.
        kl_shares: float32 [B, 1], the share of the KL's weight that each row bears; None is all.
        prepared: the rollout's trajectory as `Policy.prepared` returns it, where the policy that
            drew it takes one step on all of it; else None.
    """

    rollout: Rollout
    samples: Samples
    values: Tensor | None = None
    norm_ratios: Tensor | None = None
    kl_shares: Tensor | None = None
    prepared: Trajectory | None = None

    def __len__(self) -> int:
        return len(self.rollout)

    def __getitem__(self, index: Index) -> Experience:
        columns: dict[str, Any] = {}
        for name, column in vars(self).items():
            columns[name] = None if column is None else take(column, index)
        return Experience(**columns)

    def part(self, rows: Tensor) -> Experience:
        """Return some rows; all of them, in their order, are not copied."""
        return self if len(rows) == len(self) else self[rows]


def without_unscored(experience: Experience) -> Experience:
    """Return the experience with no step that counts in the rows that are not scored.

    So no loss, weight or bonus sees them, and all else is as if they had not been drawn.
    """
    missing = experience.rollout.scores.isnan()
    if not missing.any():
        return experience
    trajectory = experience.rollout.trajectory
    mask = trajectory.mask & ~missing[:, None]
    rollout = replace(experience.rollout, trajectory=replace(trajectory, mask=mask))
    return replace(experience, rollout=rollout)


def weights_of(experience: Experience, normalization: Normalization) -> Tensor:
    """Return each step's weight in a mean over the scored rows of all processes, float32 [B, T].

    Args:
        experience: rows of this process; those that are not scored get 0.
        normalization: see `rewardlab.losses.policy_gradient.step_weights`.
    """
    mask = experience.rollout.trajectory.mask
    scored = ~experience.rollout.scores.isnan()
    weights = torch.zeros(mask.shape, device=mask.device)
    weights[scored] = joint_step_weights(mask[scored], normalization)
    return weights


def minibatches(count: int, size: int | None, epochs: int, seed: int) -> Iterator[Tensor]:
    """Yield the row numbers of each optimizer step, in `epochs` passes over all rows.

    Each pass has an order of its own where it takes several steps.

    Args:
        count: number of rows.
        size: rows a step; all by default.
        epochs: number of passes.
        seed: seed of the orders.

    Example:
        >>> [rows.tolist() for rows in minibatches(3, None, epochs=2, seed=0)]
        [[0, 1, 2], [0, 1, 2]]
    """
    size = min(size or count, count)
    generator = torch.Generator().manual_seed(seed)
    for _ in range(epochs):
        order = torch.arange(count)
        if size < count:
            order = torch.randperm(count, generator=generator)
        yield from torch.split(order, size)


def penalties(kind: KLKind, log_ratio: Tensor, mask: Tensor, dimensions: int) -> Tensor:
    """Return what each step's reward loses to the KL, [B, T] in nats, before the KL's weight.

    It is 0 where the KL is a loss instead.

    Args:
        kind: "reward" takes k1, whose sum over steps estimates the KL of whole outputs; "absolute"
            takes the mean over steps of |x|.
        log_ratio: [B, T], log-probability of the policy minus that of the reference, as means over
            the policy's dimensions.
        mask: bool [B, T].
        dimensions: the policy's.
    """
    nats = (log_ratio * dimensions).where(mask, 0)
    if kind == "reward":
        return k1(nats)
    if kind == "absolute":
        return absolute(nats) / mask.sum(1, keepdim=True).clamp_min(1)
    return torch.zeros_like(nats)


def advantages_of(
    kind: Baseline | Callable[[Tensor], Tensor],
    rewards: Tensor,
    penalty: Tensor,
    mask: Tensor,
    samples_per_prompt: int,
    values: Tensor | None,
    lam: float,
) -> Tensor:
    """Return advantages [B, T] of a critic, or [B, 1] of a baseline over each prompt's samples.

    A critic's advantages are not discounted, since what counts is the finished output. Where a
    reward is NaN, since the output is not scored, the advantages are 0.

    Args:
        kind: name of the baseline, or a function of scores [P, K] of all processes' prompts, which
            sees NaN where there is no score; without effect if there is a critic.
        rewards: [B], of whole outputs; NaN where not scored.
        penalty: [B, T], subtracted step by step.
        mask: bool [B, T].
        samples_per_prompt: K; a prompt's rows lie together.
        values: [B, T], the critic's; None without a critic.
        lam: λ of the critic's advantages.

    Example:
        >>> rewards, mask = torch.tensor([1.0, 3.0]), torch.ones(2, 1, dtype=torch.bool)
        >>> advantages_of("leave_one_out", rewards, torch.zeros(2, 1), mask, 2, None, 1.0).tolist()
        [[-2.0], [2.0]]
    """
    missing = rewards.isnan()[:, None]
    if values is not None:
        present = rewards.masked_fill(missing[:, 0], 0)
        step_rewards = at_last_step(present, mask) - penalty
        advantages, _ = generalized(step_rewards, values, mask, discount=1.0, lam=lam)
        return advantages.masked_fill(missing, 0)
    baseline = BASELINES[kind] if isinstance(kind, str) else kind
    returns = rewards - penalty.sum(1)
    groups = returns.view(-1, samples_per_prompt)
    if isinstance(kind, str):  # each prompt's samples alone, which one process holds
        advantages = baseline(groups)
    else:
        advantages = own_rows(baseline(gathered(groups)), len(groups))
    return advantages.reshape(len(rewards), 1).float().masked_fill(missing, 0)


def at_last_step(rewards: Tensor, mask: Tensor) -> Tensor:
    """Put rewards [B] on the last step that counts of each row: [B, T].

    Example:
        >>> at_last_step(torch.tensor([3.0]), torch.tensor([[True, True, False]])).tolist()
        [[0.0, 3.0, 0.0]]
    """
    numbers = torch.arange(1, mask.shape[1] + 1, device=mask.device)
    last = (mask * numbers).argmax(1, keepdim=True)
    table = torch.zeros(mask.shape, device=mask.device)
    return table.scatter(1, last, rewards[:, None].float())


def rollout_figures(experience: Experience, policy: Policy) -> dict[str, Tensor]:
    """Return what is logged of the rollouts of all processes together, as scalars.

    The KL is in nats an output, summed over its steps. What depends on the reward is of the scored
    outputs; what does not, such as the KL, of all that were drawn.
    """
    rollout = experience.rollout
    mask = rollout.trajectory.mask
    nats = (rollout.log_prob - rollout.reference_log_prob) * policy.dimensions
    scored = without_unscored(experience).rollout.trajectory.mask
    step_advantages = rollout.advantages.expand_as(mask)[scored]
    figures = {
        "score_std": _deviation(gathered(present(rollout.scores))),
        "advantage_std": _deviation(gathered(step_advantages)),
        "kl": gathered(step_total(nats, mask)).mean(),
        "kl_k2": gathered(step_total(k2(nats), mask)).mean(),
    }
    if not policy.mean_log_prob:  # a mean leaves out the Gaussian's constant, so it is no entropy
        figures["entropy"] = -gathered(rollout.log_prob[mask]).mean()
    if experience.norm_ratios is not None:
        figures["norm_ratio"] = gathered(experience.norm_ratios).mean()
    if "length" in experience.samples.facts:
        figures["length"] = gathered(experience.samples.facts["length"]).float().mean()
    if experience.values is not None:
        figures["explained_variance"] = _explained_variance(
            rollout.advantages, experience.values, scored
        )
    return figures


def present(values: Tensor) -> Tensor:
    """Return the values that are there, [n] of [B]: those that are not NaN.

    Example:
        >>> present(torch.tensor([1.0, float("nan")])).tolist()
        [1.0]
    """
    return values[~values.isnan()]


def _deviation(values: Tensor) -> Tensor:
    """Return the standard deviation of values [n] over n, a scalar; NaN of none."""
    return values.std(correction=0) if len(values) else values.new_tensor(torch.nan)


def _explained_variance(advantages: Tensor, values: Tensor, mask: Tensor) -> Tensor:
    """Return the share of the returns' variance that the critic explains, a scalar."""
    returns = gathered((advantages + values)[mask])
    unexplained = gathered(advantages[mask]).var() / returns.var().clamp_min(1e-8)
    return 1 - unexplained
