"""Post-training the policy in a round: what its loop learns from, and the training itself."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from safetensors.torch import load_file, save_file
from torch import Tensor

from rewardlab.data import save_pairs
from rewardlab.data.prompt_data import numbered
from rewardlab.errors import AlikeError
from rewardlab.evaluation import MonitoredPolicy
from rewardlab.evaluation.evaluation import mean_figure
from rewardlab.mining import BestOf, candidates, extremes
from rewardlab.provenance import fingerprint
from rewardlab.rewards import Reward
from rewardlab.rewards.corrected import Corrected
from rewardlab.rewards.scoring import judged
from rewardlab.rewards.unscored import say_left_out
from rewardlab.rounds.stages import PostTrain, load_stage
from rewardlab.rounds.state import State, fresh_copy, keep_samples
from rewardlab.runs.layout import (
    CANDIDATES,
    CORRECTION_FILE,
    PAIRS,
    PAIRS_FOLDER,
    POST_TRAIN,
    SCORES_FILE,
)
from rewardlab.runs.stage import Stage
from rewardlab.training.online import load_correction
from rewardlab.types import PreferencePairs, Samples


def train_policy(
    state: State,
    post_train: PostTrain,
    reward: Reward,
    reward_stage: Stage,
    make_watched: Callable[[], MonitoredPolicy],
    settings: dict[str, Any],
) -> None:
    """Post-train the policy with its loop, or wrap it in best-of-n if there is none.

    A loop that samples for itself is given prompts, and no candidates are drawn for it.

    Args:
        state: whose policy is trained in place, or wrapped.
        post_train: settings of the loop that trains the policy.
        reward: what ranks the candidates, and what loops raise.
        reward_stage: the record of what made the reward.
        make_watched: makes the `MonitoredPolicy` of guards and readings.
        settings: what the training depends on beside its inputs.
    """
    if post_train.loop is None:
        _filter_policy(state, post_train, reward, reward_stage, settings)
        return
    module = post_train.build(state.policy, reward, state.first_policy)
    if module.learns_from == "prompts":
        examples: Any = numbered(state.prompts_in_turn(post_train.groups or len(state.prompts)))
        inputs = (state.policy_stage, reward_stage)
    else:
        pairs, pairs_stage = draw_training_pairs(state, post_train, reward, reward_stage)
        examples = pairs.chosen if module.learns_from == "samples" else pairs
        inputs = (pairs_stage, reward_stage)
    watched = make_watched()
    stage = state.stage(POST_TRAIN, *inputs, groups=post_train.groups, **settings)

    def train(folder: Path) -> None:
        post_train(module, examples, watched, folder, state.scratch(stage))

    folder = state.run.make(stage, train)
    figures = load_stage(folder, state.policy)
    if isinstance(module.reward, Corrected):
        load_correction(module.reward, load_file(folder / CORRECTION_FILE))
    state.policy_stage = stage
    state.generations[stage.name] = figures.get("generations", 0)
    state.report(post_train=figures)


def draw_training_pairs(
    state: State, post_train: PostTrain, reward: Reward, reward_stage: Stage
) -> tuple[PreferencePairs, Stage]:
    """Draw K candidates a prompt, and return the best-worst pairs with their stage's record.

    Raises:
        InputError: if all candidates of every prompt tie.
    """
    k = post_train.candidates
    prompts = state.prompts_in_turn(post_train.groups or len(state.prompts))
    seed = state.seed_of(CANDIDATES)
    drawn = state.stage(CANDIDATES, state.policy_stage, seed=seed, k=k, prompts=prompts)
    pool = keep_samples(state, drawn, lambda: candidates(state.policy, prompts, k, seed))
    stage = state.stage(PAIRS, drawn, reward_stage, reward=fingerprint(reward))
    folder = state.run.make(stage, lambda folder: _score_and_pair(reward, pool, k, folder))
    scores = _kept_scores(folder, reward, pool)
    pairs = extremes(pool, scores, k)
    missing = scores.isnan()
    figures: dict[str, Any] = {
        "all": mean_figure(scores[~missing]),
        "best": mean_figure(pairs.chosen.facts["score"]),
        "worst": mean_figure(pairs.rejected.facts["score"]),
    }
    if missing.any():
        figures["unscored"] = int(missing.sum())
    state.report(candidates=figures)
    return pairs, stage


def _score_and_pair(reward: Reward, pool: Samples, k: int, folder: Path) -> None:
    """Score candidates, and write the scores and the pairs of best and worst into a stage.

    Raises:
        InputError: if all candidates of every prompt tie, or none is scored.
    """
    result = judged(reward, pool)
    say_left_out(result, "candidates")
    scores = result.scores
    pairs = extremes(pool, scores, k)
    if not len(pairs):
        raise AlikeError(
            f"The reward scores all {k} candidates of every prompt alike, so there is no best and "
            "worst to train on. Does the generator make different outputs of a prompt, and did the "
            "reward learn (val/auc)?"
        )
    save_file({"scores": scores}, folder / SCORES_FILE)
    save_pairs(folder / PAIRS_FOLDER, pairs)


def _kept_scores(folder: Path, reward: Reward, pool: Samples) -> Tensor:
    """Return the candidates' scores [B]; stages of version 0.1 kept none, so they are scored."""
    if not (folder / SCORES_FILE).exists():
        return judged(reward, pool).scores
    scores: Tensor = load_file(folder / SCORES_FILE)["scores"]
    return scores


def _filter_policy(
    state: State,
    post_train: PostTrain,
    reward: Reward,
    reward_stage: Stage,
    settings: dict[str, Any],
) -> None:
    """Wrap the policy so that it returns the best of n.

    It gets a copy of the reward, which the next round's fit must not change.
    """
    inputs = (state.policy_stage, reward_stage)
    state.policy_stage = state.stage("best-of", *inputs, n=post_train.candidates, **settings)
    state.policy = BestOf(state.policy, fresh_copy(reward), post_train.candidates)
