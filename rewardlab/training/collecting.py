"""How PPO turns prompts into experience: sample, score, and compute what its steps need."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

from rewardlab.advantages import decoupled_sum
from rewardlab.conversations import Prompt
from rewardlab.errors import InputError
from rewardlab.policies import Policy
from rewardlab.policies.norm_ratios import NormRatios
from rewardlab.policies.reference import first_reference
from rewardlab.rewards import Reward
from rewardlab.rewards.base import checked_scores
from rewardlab.rewards.unscored import judged_batch
from rewardlab.seeds import derive, row_seeds
from rewardlab.training.ppo_checks import critic_of, weighted_of
from rewardlab.training.processes import from_all_processes
from rewardlab.training.rollouts import Experience, advantages_of, penalties
from rewardlab.training.shaping import ReferenceFigures, reference_figures, whitened
from rewardlab.training.weighing import kl_shares, weighed
from rewardlab.types import Rollout, Samples, Trajectory, take

if TYPE_CHECKING:
    from rewardlab.training.ppo import PPO


class Draws(NamedTuple):
    """Outputs of a policy, and the trajectory that ended in them."""

    samples: Samples
    trajectory: Trajectory


@torch.no_grad()
def collect_experience(loop: PPO, prompts: Sequence[Prompt], rows: Tensor) -> Experience:
    """Return the experience of K outputs a prompt, by the policy as it is.

    There are B = P·K rows, a prompt's together. Where an output is not scored, or none of the
    reference outputs that it is compared with is, its score is NaN and its advantage 0.

    Args:
        loop: its policy, reference, reward and settings.
        prompts: P strings.
        rows: int64 [P], the prompts' numbers.
    """
    samples, trajectory = draw(loop, loop.policy, prompts, rows, loop.current_epoch)
    scored = score_components(loop, samples)
    networks = _ask_networks(loop, trajectory)
    rewards = rewards_of(loop, samples, scored, prompts, rows)
    scores = scored.scores.masked_fill(rewards.isnan(), torch.nan)
    mask = trajectory.mask
    log_ratios = networks.log_prob - networks.reference_log_prob
    nats = penalties(loop.kl, log_ratios, mask, loop.policy.dimensions)
    shares = kl_shares(loop, samples, scores)
    penalty = loop.kl_weight * (nats if shares is None else nats * shares)
    k = loop.samples_per_prompt
    values = networks.values
    advantages = advantages_of(loop.advantage, rewards, penalty, mask, k, values, loop.lam)
    advantages = weighed(loop, samples, advantages)
    rollout = Rollout(
        trajectory, networks.log_prob, networks.reference_log_prob, scores, advantages
    )
    return Experience(rollout, samples, values, networks.norms.ratios, shares, networks.prepared)


class _Networks(NamedTuple):
    """What the networks say of a rollout's steps.

    Attributes:
        log_prob: float32 [B, T], of the policy.
        reference_log_prob: float32 [B, T].
        values: float32 [B, T], of the critic; None without one.
        norms: the norms of a denoiser's velocities, beside the reference's.
        prepared: the trajectory with the states that the one step is taken from; None where there
            are several steps.
    """

    log_prob: Tensor
    reference_log_prob: Tensor
    values: Tensor | None
    norms: NormRatios
    prepared: Trajectory | None


def _ask_networks(loop: PPO, trajectory: Trajectory) -> _Networks:
    """Return what policy, reference and critic say of a rollout's steps."""
    prepared = None
    if loop.takes_one_step(len(trajectory)):
        prepared = loop.policy.prepared(trajectory)
    steps = trajectory if prepared is None else prepared
    norms = NormRatios()
    with norms.of_policy(loop.policy):
        log_prob = in_parts(loop.policy.log_prob, steps, loop.micro_batch)
    with norms.of_reference(loop.reference):
        reference_log_prob = in_parts(loop.reference.log_prob, trajectory, loop.micro_batch)
    values = None
    if loop.advantage == "generalized":
        values = in_parts(critic_of(loop.policy).value, steps, loop.micro_batch)
    return _Networks(log_prob, reference_log_prob, values, norms, prepared)


def draw(
    loop: PPO, policy: Policy, prompts: Sequence[Prompt], rows: Tensor, epoch: int | str
) -> Draws:
    """Draw K outputs of each prompt, a prompt's together.

    The fact "row" of a sample is the number of its prompt. The k-th sample's noise comes from
    (seed, epoch, row, k).

    Args:
        loop: its seed and K; the outputs count among its generations.
        policy: the loop's policy, or its reference.
        prompts: P strings.
        rows: int64 [P], the prompts' numbers.
        epoch: the number of the epoch, or the name of another use.
    """
    k = loop.samples_per_prompt
    columns = []
    for number in range(k):
        name = derive(loop.seed, "PPO", epoch, number)
        columns.append(row_seeds(name, rows))
    seeds = torch.stack(columns, 1).flatten()
    repeated_prompts = take(prompts, torch.arange(len(prompts)).repeat_interleave(k))
    trajectory = policy.sample(repeated_prompts, seeds=seeds)
    loop.generations += len(seeds)
    samples = policy.decode(trajectory).with_facts(row=rows.repeat_interleave(k))
    return Draws(samples, trajectory)


def measured_reference(loop: PPO, prompts: Sequence[Prompt], rows: Tensor) -> ReferenceFigures:
    """Return what shaped rewards are in units of, measured on the reference's own samples.

    The first batch gives all figures. Where rewards are compared with references of their own
    prompt, the prompts that a later batch brings for the first time are sampled from then.

    Args:
        loop: its reference, reward and shaping, and the figures so far.
        prompts: P strings.
        rows: int64 [P], the prompts' numbers.
    """
    figures = loop.reference_figures
    shaping = loop.shaping
    if figures is None:
        samples, scores = _scored_references(loop, prompts, rows)
        figures = reference_figures(scores, samples, loop.samples_per_prompt, shaping)
        if shaping.par is None:
            return figures
        for process_rows, process_scores in from_all_processes((rows.cpu(), scores.cpu())):
            figures = figures.extended(process_rows, process_scores)
        return figures
    new = figures.missing(rows)
    if not shaping.needs_each_prompt or not new.any():
        return figures
    new_rows = rows[new.to(rows.device)]
    references = _scored_references(loop, take(prompts, new), new_rows)
    return figures.extended(new_rows, references.scores)


class ScoredComponents(NamedTuple):
    """Scores [B], and those of each of several rewards [B, R] where advantages need them."""

    scores: Tensor
    components: Tensor | None


def score_components(loop: PPO, samples: Samples) -> ScoredComponents:
    """Return the scores of samples, in one pass with those of each reward that is added up.

    Where some rewards of a decoupled sum do not score a sample, the others' weighted sum is its
    score.

    Raises:
        InputError: as `score_rollout`.
    """
    if loop.advantage != "decoupled":
        return ScoredComponents(score_rollout(loop.reward, samples, loop.device), None)
    reward = weighted_of(loop.reward)
    with torch.autocast(loop.device.type, enabled=False):
        judged = judged_batch(reward, samples.to(loop.device), reward.components)
    components = judged.scores.to(loop.device)
    scores = (components * reward.weights.to(components)).nansum(1)
    scores = scores.masked_fill(components.isnan().all(1), torch.nan)
    return ScoredComponents(scores, components)


def rewards_of(
    loop: PPO, samples: Samples, scored: ScoredComponents, prompts: Sequence[Prompt], rows: Tensor
) -> Tensor:
    """Return the rewards [B] before the KL: the shaped scores, or what decoupled advantages are of.

    Args:
        loop: its shaping and its figures of the reference, which are measured where they lack.
        samples: B outputs, a prompt's together.
        scored: their scores.
        prompts: P strings.
        rows: int64 [P], the prompts' numbers.
    """
    if scored.components is not None:
        return decoupled_rewards(loop, scored.components)
    if loop.shaping.needs_reference:
        loop.reference_figures = measured_reference(loop, prompts, rows)
    return loop.shaping(scored.scores, samples, loop.reference_figures)


def decoupled_rewards(loop: PPO, components: Tensor) -> Tensor:
    """Return GDPO's advantages [B] before the KL, whitened over all processes.

    They are NaN where no reward scored a sample.
    """
    groups = components.view(-1, loop.samples_per_prompt, components.shape[1])
    weights = weighted_of(loop.reward).weights.to(components)
    total = decoupled_sum(groups, weights).flatten()
    return whitened(total.masked_fill(components.isnan().all(1), torch.nan))


class ScoredSamples(NamedTuple):
    """Samples, and their scores [B]."""

    samples: Samples
    scores: Tensor


def _scored_references(loop: PPO, prompts: Sequence[Prompt], rows: Tensor) -> ScoredSamples:
    """Return K samples of the loop's reference for each prompt, with their scores."""
    samples, _ = draw(loop, first_reference(loop.reference), prompts, rows, "reference")
    return ScoredSamples(samples, score_rollout(loop.reward, samples, loop.device))


def score_rollout(reward: Reward, samples: Samples, device: torch.device) -> Tensor:
    """Return the scores of samples in the reward's own precision, float32 [B], on `device`.

    NaN stands where a reward that is `Partial` does not score a sample.

    Raises:
        InputError: if the reward returns something else than one score a sample, a score is not
            finite, or more samples are not scored than the reward's share.
    """
    name = type(reward).__name__
    with torch.autocast(device.type, enabled=False):
        judged = judged_batch(reward, samples.to(device))
    scores = judged.scores
    shape = list(scores.shape) if isinstance(scores, Tensor) else type(scores).__name__
    if shape != [len(samples)]:
        raise InputError(
            f"{name} has to return one score a sample, a tensor [{len(samples)}]; got {shape}."
        )
    if judged.unscored:
        return scores.to(device)
    return checked_scores(scores.to(device), samples, name)


def in_parts(
    steps: Callable[[Trajectory], Tensor], trajectory: Trajectory, size: int | None
) -> Tensor:
    """Return what a policy says of each step [B, T], computed for `size` rows at a time."""
    parts = torch.split(torch.arange(len(trajectory)), size or len(trajectory))
    if len(parts) == 1:
        return steps(trajectory)
    return torch.cat([steps(trajectory[part]) for part in parts])
