"""GAN-RM's rounds: sample, fit the reward, bootstrap, select, post-train, and again with fresh
negatives.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path

from torch import Tensor

from rewardlab.data import TargetSamples, read_prompts
from rewardlab.evaluation import Evaluation, Guard, Watched
from rewardlab.evaluation.evaluation import separation_figures
from rewardlab.mining import RankBootstrap
from rewardlab.policies import Policy
from rewardlab.rewards import Reward
from rewardlab.rewards.scoring import scores_of
from rewardlab.rounds.base import Rounds
from rewardlab.rounds.game import (
    State,
    begin,
    check_game,
    draw,
    export_both,
    fit,
    seen,
    settings,
    train_policy,
    twin,
)
from rewardlab.rounds.stages import FitReward, PostTrain
from rewardlab.runs.folder import RunFolder
from rewardlab.training.base import trained_state
from rewardlab.types import Samples


class GANRM(Rounds):
    """T rounds of generator against reward (GAN-RM, arXiv 2506.13846, section 3), the target
    samples staying the same.

    Every stage's result is named by a hash of what it depends on: the stages before it, its part of
    the config, its seed. A killed run goes on from the last that stands.

    Args:
        policy: the generator.
        reward: the discriminator; refitted from its first weights in each round unless
            `fit.warm_start`.
        targets: the target samples, how many are held out and how they are read. Its negatives are
            drawn here.
        prompts: a file of prompts, or the prompts; a list with one empty prompt for an
            unconditional generator.
        fit: how the reward is fitted.
        post_train: how the policy is trained with it.
        bootstrap: pseudo-labels by rank, and a second fit with them.
        evaluation: how the policy is judged after each round.
        negatives: generated samples that the reward learns against; as many as targets by default.
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
        prompts: str | Path | list[str],
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
        self.prompts = prompts if isinstance(prompts, list) else read_prompts(prompts)
        check_game("GANRM", self.prompts, rounds, least=1)
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
        first_reward = trained_state(self.reward)
        negatives = None
        real = self.targets.target_samples("held_out")
        state = begin(run, self, self.policy, [self.reward], real, ["policy", "targets"])
        for number in range(1, self.rounds + 1):
            state.number = number
            if negatives is None or self.refresh_negatives:
                negatives = self._draw_negatives(state)
            if not self.fit.warm_start:
                self.reward.load_state_dict(first_reward, strict=False)
            self._fit_reward(state, negatives)
            watched = partial(self._watched, state, negatives, first_reward)
            train_policy(
                state, self.post_train, self.reward, watched, settings(run, self, "post_train")
            )
            self._evaluate(state)
        export_both(state, self.reward)

    def _draw_negatives(self, state: State) -> Samples:
        count = self.negatives or len(state.real) + len(self.targets.target_samples("train"))
        state.after(negatives=count)
        return draw(state, "negatives", count)

    def _fit_reward(self, state: State, negatives: Samples) -> None:
        """Fit the reward; with a bootstrap, fit it again with pseudo-labels from its own ranking."""
        state.after(round=state.number, **settings(state.run, self, "reward", "fit"))
        figures = {
            "first": fit(state, "reward", self.fit, self.reward, self.targets.against(negatives))
        }
        if self.bootstrap is not None:
            state.after(bootstrap=vars(self.bootstrap))
            pool = draw(state, "pool", self.bootstrap.pool)
            pseudo = self.bootstrap(pool, scores_of(self.reward, pool), negatives)
            data = self.targets.against(negatives, pseudo)
            figures["bootstrapped"] = fit(state, "bootstrapped-reward", self.fit, self.reward, data)
        state.note(reward=figures)

    def _watched(
        self, state: State, negatives: Samples, first_reward: dict[str, Tensor]
    ) -> Watched:
        """Return what guards read: for those that watch a classifier, one fitted on the held-out
        targets alone.
        """
        guards = [callback for callback in self.post_train.callbacks if isinstance(callback, Guard)]
        watched = Watched(self.reward, self.prompts, state.real)
        if any("classifier" in guard.watch for guard in guards):
            watched.classifier = twin(self.reward)
            watched.classifier.load_state_dict(first_reward, strict=False)
            fit(
                state,
                "monitor",
                self.fit,
                watched.classifier,
                self.targets.against(negatives, swap=True),
            )
        return watched

    def _evaluate(self, state: State) -> None:
        """Judge the policy, and see it and the one before it through this round's reward."""
        members = seen(state, self.reward, self.evaluation)
        state.note(
            separation=separation_figures(
                {name: columns.mean(1) for name, columns in members.items()}
            )
        )
