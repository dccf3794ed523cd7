"""GAN-RM's rounds: sample, fit the reward, bootstrap, select, post-train, and again."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from torch import Tensor

from rewardlab.conversations import Prompt
from rewardlab.data import TargetSamples, read_prompts
from rewardlab.data.long_rows import fitting
from rewardlab.data.splits import Part
from rewardlab.evaluation import Evaluation, Guard, MonitoredPolicy
from rewardlab.evaluation.evaluation import separation_figures
from rewardlab.mining import RankBootstrap
from rewardlab.policies import Policy
from rewardlab.rewards import Reward
from rewardlab.rounds import few, plan
from rewardlab.rounds.base import Rounds
from rewardlab.rounds.hardening import in_the_loop
from rewardlab.rounds.post_training import train_policy
from rewardlab.rounds.stages import FitReward, PostTrain
from rewardlab.rounds.state import (
    State,
    begin,
    check_rounds,
    compare_policies,
    draw_from,
    draw_samples,
    draw_stage,
    export_both,
    fit_reward,
    fresh_copy,
    kept_scores,
    settings_of,
)
from rewardlab.runs.folder import RunFolder
from rewardlab.runs.layout import (
    BOOTSTRAPPED_REWARD,
    MONITOR,
    NEGATIVES,
    POLICY_FOLDER,
    POOL,
    POOL_SCORES,
    REWARD,
    REWARD_FOLDER,
)
from rewardlab.runs.stage import Stage
from rewardlab.training.base import trained_state
from rewardlab.training.trainers import device_of
from rewardlab.types import Samples


class Negatives(NamedTuple):
    """Samples of the generator that the reward learns against, and the record of their stage."""

    samples: Samples
    stage: Stage


class GANRMRounds(Rounds):
    """T rounds of generator against reward: GAN-RM, arXiv 2506.13846, section 3.

    The target samples stay the same. Every stage's result is named by a hash of what it depends on:
    the stages before it, its part of the config, its seed. A killed run goes on from the last that
    stands.

    Args:
        policy: the generator.
        reward: the discriminator; refitted from its first weights in each round unless
            `fit.warm_start`.
        targets: the target samples, how many are held out and how they are read. Its negatives are
            drawn here.
        prompts: a file of prompts, or the prompts; a list with one empty prompt for an
            unconditional generator.
        fit: how the reward is fitted.
        post_train: how the policy is trained with it. With an `Online` among its callbacks the
            reward goes on learning while the policy climbs it, from targets and what is drawn.
        bootstrap: pseudo-labels by rank, and a second fit with them.
        evaluation: how the policy is judged after each round.
        negatives: number of generated samples that the reward learns against; as many as targets by
            default.
        rounds: T.
        refresh_negatives: draw negatives from the current policy in each round; frozen ones are the
            ablation.
        seed: of everything that is drawn.

    Raises:
        InputError: if there are no prompts or no rounds.
    """

    def __init__(
        self,
        policy: Policy,
        reward: Reward,
        targets: TargetSamples,
        prompts: str | Path | list[Prompt],
        fit: FitReward,
        post_train: PostTrain,
        bootstrap: RankBootstrap | None = None,
        evaluation: Evaluation | None = None,
        negatives: int | None = None,
        rounds: int = 1,
        refresh_negatives: bool = True,
        seed: int = 0,
    ) -> None:
        self.policy = policy
        self.reward = reward
        self.targets = targets
        targets.drawn_by(policy)
        self.prompts = prompts if isinstance(prompts, list) else read_prompts(prompts)
        check_rounds("GANRMRounds", self.prompts, rounds, least=1)
        self.fit = fit
        self.post_train = post_train
        self.bootstrap = bootstrap
        self.evaluation = evaluation or Evaluation()
        self.negatives = negatives
        self.rounds = rounds
        self.refresh_negatives = refresh_negatives
        self.seed = seed

    def run(self, run: RunFolder) -> None:
        """Run all rounds in the folder, or those that it lacks."""
        first_weights = trained_state(self.reward)
        self.policy.to(device_of(self.fit.trainer))  # where targets pass its autoencoder
        real = self.targets.target_samples("held_out")
        parts = {"train": self.targets.target_samples("train"), "held_out": real}
        for part, samples in parts.items():
            fitting(samples, [self.reward], "refuse", f"{part} targets")
        state = begin(run, self, [self.reward], real, ["policy", "targets"])
        settings = settings_of(run, self, "post_train")
        reward_stage: Stage | None = None
        negatives: Negatives | None = None
        for number in range(1, self.rounds + 1):
            state.number = number
            if negatives is None or self.refresh_negatives:
                negatives = self._draw_negatives(state)
            if not self.fit.warm_start:
                self.reward.load_state_dict(first_weights, strict=False)
                reward_stage = None
            reward_stage = self._fit_reward(state, negatives, reward_stage)
            reward, post_train = in_the_loop(
                self.reward, self.post_train, parts["train"], negatives.samples
            )
            watched = partial(self._monitored_policy, state, negatives, first_weights)
            train_policy(state, post_train, reward, reward_stage, watched, settings)
            self._evaluate(state, reward_stage)
        export_both(state, self.reward)

    def exported(self) -> dict[str, Any]:
        """Return the policy and the reward, by the names of their folders."""
        return {POLICY_FOLDER: self.policy, REWARD_FOLDER: self.reward}

    def plan(self) -> list[str]:
        """Return the names of the stages in order."""
        return plan.of_gan_rm(self)

    def fitted(self) -> list[Reward]:
        """Return the reward."""
        return [self.reward]

    def fit_rows(self, part: Part) -> Samples:
        """Return the targets that are trained on, or held out."""
        return self.targets.target_samples(part)

    def draw_counts(self) -> dict[str, int]:
        """Return how many negatives are drawn, and how many samples that the reward ranks."""
        counts = {NEGATIVES: self._negative_count()}
        if self.bootstrap is not None:
            counts[POOL] = self.bootstrap.pool
        return counts

    def shrink(self) -> None:
        """Keep few targets, negatives and ranked samples."""
        self.targets = self.targets.few(few.ROWS)
        self.targets.drawn_by(self.policy)
        self.negatives = few.ROWS
        if self.bootstrap is not None:
            self.bootstrap = replace(self.bootstrap, pool=few.OUTPUTS, count=1)

    def _negative_count(self) -> int:
        return self.negatives or self.targets.target_count

    def _draw_negatives(self, state: State) -> Negatives:
        count = self._negative_count()
        stage = draw_stage(state, NEGATIVES, count)
        return Negatives(draw_from(state, state.policy, stage, count), stage)

    def _fit_reward(self, state: State, negatives: Negatives, before: Stage | None) -> Stage:
        """Fit the reward; with a bootstrap, fit it again with pseudo-labels from its own ranking.

        Args:
            state: where the run stands.
            negatives: generated samples to learn against.
            before: the record of the fit that this one goes on from; None for the first weights.

        Returns:
            The record of the last fit.
        """
        inputs = (negatives.stage,) if before is None else (negatives.stage, before)
        settings = settings_of(state.run, self, "reward", "fit")
        stage = state.stage(REWARD, *inputs, **settings)
        data = self.targets.against(negatives.samples)
        figures = {"first": fit_reward(state, stage, self.fit, self.reward, data)}
        if self.bootstrap is not None:
            pool = draw_samples(state, POOL, self.bootstrap.pool)
            pool_stage = draw_stage(state, POOL, self.bootstrap.pool)
            scores_stage = state.stage(POOL_SCORES, stage, pool_stage)
            scores = kept_scores(state, scores_stage, self.reward, pool)
            pseudo = self.bootstrap(pool, scores, negatives.samples)
            data = self.targets.against(negatives.samples, pseudo)
            bootstrap: Any = vars(self.bootstrap)
            stage = state.stage(BOOTSTRAPPED_REWARD, stage, pool_stage, bootstrap=bootstrap)
            figures["bootstrapped"] = fit_reward(state, stage, self.fit, self.reward, data)
        state.report(reward=figures)
        return stage

    def _monitored_policy(
        self, state: State, negatives: Negatives, first_weights: dict[str, Tensor]
    ) -> MonitoredPolicy:
        """Return the reward, prompts and held-out targets for the guards.

        If a guard watches the classifier, fit one on the held-out targets, which the reward never
        sees.
        """
        guards = [callback for callback in self.post_train.callbacks if isinstance(callback, Guard)]
        watched = MonitoredPolicy(self.reward, self.prompts, state.real)
        if any("classifier" in guard.watch for guard in guards):
            classifier = fresh_copy(self.reward)
            classifier.load_state_dict(first_weights, strict=False)
            settings = settings_of(state.run, self, "reward", "fit")
            stage = state.stage(MONITOR, negatives.stage, **settings)
            data = self.targets.against(negatives.samples, swap=True)
            fit_reward(state, stage, self.fit, classifier, data)
            watched.classifier = classifier
        return watched

    def _evaluate(self, state: State, reward_stage: Stage) -> None:
        """Judge the policy; report the reward's scores of it and of the policy before."""
        scores = compare_policies(state, self.reward, reward_stage, self.evaluation)
        state.report(separation=separation_figures(scores))
