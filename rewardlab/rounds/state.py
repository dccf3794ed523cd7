"""Where rounds stand, and the stages that draw, judge and compare."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from safetensors.torch import load_file, save_file
from torch import Tensor

from rewardlab.conversations import Prompt
from rewardlab.data import load_samples, save_samples
from rewardlab.data.long_rows import fitting
from rewardlab.data.prompt_data import numbered
from rewardlab.errors import InputError
from rewardlab.evaluation import Evaluation
from rewardlab.evaluation.prompts import in_turn
from rewardlab.policies import Generator, Policy
from rewardlab.provenance import described, fingerprint
from rewardlab.rewards import Reward
from rewardlab.rewards.combine import Weighted
from rewardlab.rewards.scoring import scores_of
from rewardlab.rounds.base import Rounds
from rewardlab.rounds.kinds import check_kinds
from rewardlab.rounds.stages import FitReward, PostTrain, check_reference, load_stage
from rewardlab.runs.checks import NO_SETTINGS
from rewardlab.runs.exporting import export
from rewardlab.runs.folder import RunFolder
from rewardlab.runs.identity import without
from rewardlab.runs.layout import (
    POLICY_FOLDER,
    REWARD_FOLDER,
    SAMPLES,
    SAMPLES_FOLDER,
    SCORES,
    SCORES_FILE,
    TARGETS,
    stage_name,
)
from rewardlab.runs.stage import Stage
from rewardlab.seeds import derive, row_seeds
from rewardlab.training.base import ChecksLoop
from rewardlab.training.trainers import device_of, processes_of
from rewardlab.types import Samples


@dataclass
class State:
    """Where a run stands.

    Attributes:
        run: the folder.
        start: the record of what the run begins with; every stage depends on it.
        policy: the generator as it is now.
        policy_stage: the record of what made it.
        first_policy: the policy as it was at the start, frozen.
        real: samples that outputs are held against: held-out targets, or chosen responses.
        prompts: prompts that are sampled from, in turn.
        seed: of everything that is drawn.
        samples: the policy's outputs that were judged last.
        samples_stage: the record of those.
        number: of the round; 0 before the first.
        generations: how many outputs each stage drew, by its name.
    """

    run: RunFolder
    start: Stage
    policy: Any
    policy_stage: Stage
    first_policy: Policy
    real: Samples
    prompts: Sequence[Prompt]
    seed: int
    samples: Samples
    samples_stage: Stage
    number: int = 0
    generations: dict[str, int] = field(default_factory=dict)

    def stage(self, name: str, *inputs: Stage, seed: int | None = None, **settings: Any) -> Stage:
        """Return the record of a stage of this round."""
        return Stage(stage_name(self.number, name), inputs, settings, seed)

    def scratch(self, stage: Stage) -> Path:
        """Return the folder of a long stage's own checkpoints."""
        return self.run.scratch(stage.name, stage.record)

    def report(self, **figures: Any) -> None:
        """Write figures of this round into results.json."""
        self.run.results({"rounds": {str(self.number): figures}})

    def prompts_in_turn(self, count: int) -> list[Prompt]:
        """Return `count` prompts, beginning again after the last."""
        return in_turn(self.prompts, count)

    def seed_of(self, use: str) -> int:
        """Return the seed of one use in this round."""
        return derive(self.seed, use, self.number)


def check_rounds(name: str, prompts: Sequence[Prompt], rounds: int, least: int) -> None:
    """Refuse rounds without prompts, or fewer than mean anything.

    Raises:
        InputError: naming the argument.
    """
    if not prompts:
        raise InputError(
            f"{name} samples from prompts and got none. Give a file of them; "
            '[""] for an unconditional generator.'
        )
    if rounds < least:
        raise InputError(
            f"{name} takes rounds of at least {least}; got {rounds}, which would train nothing."
        )


def settings_of(run: RunFolder, rounds: Rounds, *names: str) -> dict[str, Any]:
    """Return the settings that a stage's hash depends on.

    Args:
        run: the folder, with the config that it was made with.
        rounds: the object that the config, or a Python user, has made.
        names: of its arguments.

    Returns:
        For each name the config's value where it has one; else a description of the attribute.
        Arguments that change no result, such as how often a checkpoint is kept, are left out.
    """
    config: Mapping[str, Any] = run.config.get("rounds", {}).get("init_args", {})
    settings = {}
    for name in names:
        settings[name] = config[name] if name in config else described(getattr(rounds, name))
    return without(settings, NO_SETTINGS)  # type: ignore[no-any-return]


def begin(
    run: RunFolder,
    rounds: Any,
    rewards: Sequence[Reward],
    real: Samples,
    names: Sequence[str],
) -> State:
    """Record what the run is made of, keep the real samples, and judge the policy as it comes.

    The policy goes where its trainers will train, so that the first outputs are drawn there too.

    Args:
        run: the folder.
        rounds: with `policy`, `prompts`, `fit`, `evaluation` and `seed`.
        rewards: rewards to be fitted.
        real: samples that outputs are held against.
        names: of the arguments that every stage depends on.
    """
    check_one_process("fit", rounds.fit)
    check_one_process("post_train", rounds.post_train)
    _check_held_out(real)
    check_kinds(rounds, real)
    check_reference(_loop_arguments(run.config))
    _check_loop(rounds.post_train, rounds.policy, rewards[0])
    rounds.policy.to(device_of(rounds.fit.trainer))
    prompts = numbered(rounds.prompts)
    prompts = fitting(prompts, [rounds.policy], rounds.post_train.long_rows, "prompts")
    rounds.prompts = list(prompts.prompts)
    start = _start(run, rounds, rewards, real, names)
    state = State(
        run=run,
        start=start,
        policy=rounds.policy,
        policy_stage=start,
        first_policy=rounds.policy.reference(),
        real=real,
        prompts=rounds.prompts,
        seed=rounds.seed,
        samples=real[:0],
        samples_stage=start,
    )
    keep_samples(state, state.stage(TARGETS, start), lambda: real)
    figures = rounds.evaluation.judge(real, real)
    figures.pop("distance", None)  # of a set from itself: no figure
    run.results({"targets": figures})
    judge_policy(state, rounds.evaluation)
    return state


def _check_held_out(real: Samples) -> None:
    """Refuse fewer real samples than a mean with its interval takes; it is the last stage's.

    Raises:
        InputError: saying how many there are.
    """
    if len(real) < 2:
        raise InputError(
            "Rounds hold the policy's outputs against held-out targets or chosen responses, and "
            f"say how sure each mean is, which takes 2 or more; got {len(real)}. Give more of "
            "them, or a larger held_out."
        )


def _check_loop(post_train: PostTrain, policy: Policy, reward: Reward) -> None:
    """Refuse arguments of the loop, and callbacks that it does not suit, before the fits.

    Raises:
        InputError: of the loop or the callback.
    """
    if post_train.loop is None:
        return
    loop = post_train.loop(policy, Weighted([reward], [1.0]))
    for callback in post_train.callbacks:
        if isinstance(callback, ChecksLoop):
            callback.check_loop(loop)


def _loop_arguments(config: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return what a config gives the loop of post-training; nothing if there is no config."""
    part: Any = config
    for name in ("rounds", "init_args", "post_train", "loop", "init_args"):
        part = part.get(name) if isinstance(part, Mapping) else None
    return part if isinstance(part, Mapping) else {}


def check_one_process(name: str, part: Any) -> None:
    """Refuse a trainer that would start further processes, each of which would run the rounds.

    Args:
        name: the argument of the rounds, for the message.
        part: what may have a trainer.

    Raises:
        InputError: if it would.
    """
    make = getattr(part, "trainer", None)
    count = 1 if make is None else processes_of(make)
    if count > 1:
        raise InputError(
            f"The trainer of `{name}` would start {count} processes, and rounds run in one: "
            "every process would draw, fit and write the same stages. Give it devices=1 and "
            "num_nodes=1; several processes train with `rewardlab fit`."
        )


def _start(
    run: RunFolder, rounds: Any, rewards: Sequence[Reward], real: Samples, names: Sequence[str]
) -> Stage:
    """Return the record that every stage depends on, and write the inputs' fingerprints."""
    prints = {
        "policy": fingerprint(rounds.policy),
        "rewards": [fingerprint(reward) for reward in rewards],
        "real": fingerprint(real),
    }
    run.record({"fingerprints": prints})
    settings = {"prints": prints, "prompts": rounds.prompts, **settings_of(run, rounds, *names)}
    return Stage("start", settings=settings, seed=rounds.seed)


def keep_samples(state: State, stage: Stage, draw: Callable[[], Samples]) -> Samples:
    """Load a stage's samples, or draw and save them first."""
    state.policy.eval()
    folder = state.run.make(stage, lambda folder: save_samples(folder / SAMPLES_FOLDER, draw()))
    samples = load_samples(folder / SAMPLES_FOLDER)
    state.generations[stage.name] = len(samples)
    return samples


def draw_samples(state: State, name: str, count: int) -> Samples:
    """Return `count` outputs of the policy, the prompts in turn, from seeds of their own."""
    return draw_from(state, state.policy, draw_stage(state, name, count), count)


def draw_stage(state: State, name: str, count: int) -> Stage:
    """Return the record of `count` outputs of the policy on the state's prompts."""
    prompts = list(state.prompts)
    seed = state.seed_of(name)
    return state.stage(name, state.policy_stage, seed=seed, count=count, prompts=prompts)


def draw_from(state: State, policy: Generator, stage: Stage, count: int) -> Samples:
    """Load a stage's samples, or draw them from `policy` with the stage's seed."""
    assert stage.seed is not None
    seeds = row_seeds(stage.seed, count)
    prompts = state.prompts_in_turn(count)
    return keep_samples(state, stage, lambda: policy.generate(prompts, seeds=seeds))


def fit_reward(
    state: State, stage: Stage, fit: FitReward, reward: Reward, data: Any
) -> dict[str, Any]:
    """Fit `reward` in place, or load what a finished stage has made of it; return its figures."""

    def fill(folder: Path) -> None:
        fit(reward, data, folder, state.scratch(stage))

    return load_stage(state.run.make(stage, fill), reward)


def kept_scores(state: State, stage: Stage, reward: Reward, samples: Samples) -> Tensor:
    """Load the scores [B] that a stage keeps, or score the samples first."""

    def score(folder: Path) -> None:
        save_file({"scores": scores_of(reward, samples)}, folder / SCORES_FILE)

    scores: Tensor = load_file(state.run.make(stage, score) / SCORES_FILE)["scores"]
    return scores


def judge_policy(state: State, evaluation: Evaluation) -> Samples:
    """Draw on the evaluation's prompts and seeds, and report what the judges say.

    No other stage depends on the judges, so another judge trains nothing anew.
    """
    judged = [evaluation.samples, evaluation.seed]
    stage = state.stage(SAMPLES, state.policy_stage, judged=judged)
    samples = keep_samples(state, stage, lambda: evaluation.draw(state.policy, state.prompts))
    state.samples = samples
    state.samples_stage = stage
    state.report(judged=evaluation.judge(samples, state.real))
    return samples


def compare_policies(
    state: State, reward: Reward, reward_stage: Stage, evaluation: Evaluation
) -> dict[str, Tensor]:
    """Judge the policy, and score it and the one before it with this round's reward.

    Returns:
        The reward's scores [B] of "targets", and of outputs "before" and "after".
    """
    before = state.samples
    before_stage = state.samples_stage
    after = judge_policy(state, evaluation)
    sides = {"targets": state.real, "before": before, "after": after}

    def score(folder: Path) -> None:
        columns = {name: scores_of(reward, samples) for name, samples in sides.items()}
        save_file(columns, folder / SCORES_FILE)

    stage = state.stage(SCORES, before_stage, state.samples_stage, reward_stage)
    scores: dict[str, Tensor] = load_file(state.run.make(stage, score) / SCORES_FILE)
    return scores


def fresh_copy(reward: Reward) -> Reward:
    """Return a copy with trained weights of its own; the frozen ones are shared."""
    frozen = {}
    for parameter in reward.parameters():
        if not parameter.requires_grad:
            frozen[id(parameter)] = parameter
    return deepcopy(reward, frozen)


def export_both(state: State, reward: Reward) -> None:
    """Write the last policy, and the reward that it was trained on, unless they stand already."""
    for name, part in {POLICY_FOLDER: state.policy, REWARD_FOLDER: reward}.items():
        target = state.run.path / name
        if not target.exists():
            export(part, target)
