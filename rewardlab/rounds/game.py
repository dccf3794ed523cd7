"""What GAN-RM's and Adv-RM's rounds share: where a run stands, and the stages that sample, train
and judge a policy.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from safetensors.torch import load_file, save_file
from torch import Tensor

from rewardlab.data import load_samples, save_pairs, save_samples
from rewardlab.errors import InputError
from rewardlab.evaluation import Evaluation, Watched
from rewardlab.evaluation.evaluation import mean_figure
from rewardlab.mining import BestOf, candidates, extremes
from rewardlab.policies import Policy
from rewardlab.provenance import described, fingerprint
from rewardlab.rewards import Reward
from rewardlab.rewards.scoring import member_scores, scores_of
from rewardlab.rounds.stages import FitReward, PostTrain, load_stage
from rewardlab.runs.folder import RunFolder, export
from rewardlab.seeds import derive, row_seeds
from rewardlab.training.trainers import device_of
from rewardlab.types import Samples


@dataclass
class State:
    """Where a run stands.

    Attributes:
        run: the folder.
        key: what came before, on which every stage that follows depends.
        policy: the generator as it is now.
        first: the generator as it was.
        real: what outputs are held against: held-out targets, or chosen responses.
        prompts: which are sampled from, in turn.
        seed: of everything that is drawn.
        drawn: the policy's outputs that were judged last.
        number: of the round.
        generations: how many outputs each stage drew.
    """

    run: RunFolder
    key: dict[str, Any]
    policy: Policy
    first: Policy
    real: Samples
    prompts: Sequence[str]
    seed: int
    drawn: Samples
    number: int = 0
    generations: dict[str, int] = field(default_factory=dict)

    def after(self, **facts: Any) -> None:
        """Let the stages that follow depend on `facts` too."""
        self.key = {"after": fingerprint(self.key), **facts}

    def name(self, stage: str) -> str:
        return f"{self.number}-{stage}"

    def note(self, **figures: Any) -> None:
        """Write figures of this round into results.json."""
        self.run.results({"rounds": {str(self.number): figures}})

    def in_turn(self, count: int) -> list[str]:
        return [self.prompts[i % len(self.prompts)] for i in range(count)]

    def seed_of(self, use: str) -> int:
        return derive(self.seed, use, self.number)


def check_game(name: str, prompts: Sequence[str], rounds: int, least: int) -> None:
    """Refuse a game without prompts, or with fewer rounds than mean anything.

    Raises:
        InputError: naming the argument.
    """
    if not prompts:
        raise InputError(
            f'{name} samples from prompts and got none. Give a file of them; [""] for an unconditional generator.'
        )
    if rounds < least:
        raise InputError(
            f"{name} takes rounds of at least {least}; got {rounds}, which would train nothing."
        )


def begin(
    run: RunFolder,
    game: Any,
    policy: Policy,
    rewards: Sequence[Reward],
    real: Samples,
    names: Sequence[str],
) -> State:
    """Note what the run is made of, keep the real samples, and judge the policy as it comes.

    Args:
        run: the folder.
        game: the rounds, of which `names` are the arguments that every stage depends on. The policy
            goes where its trainers will train, so that the first outputs are drawn there too.
        policy: the generator.
        rewards: to be fitted.
        real: what outputs are held against.
        names: of arguments.
    """
    policy.to(device_of(game.fit.trainer))
    prints = {
        "policy": fingerprint(policy),
        "rewards": [fingerprint(reward) for reward in rewards],
        "real": fingerprint(real),
    }
    run.record({"fingerprints": prints})
    key = {
        "prints": prints,
        "prompts": game.prompts,
        "seed": game.seed,
        **settings(run, game, *names),
    }
    state = State(run, key, policy, policy.reference(), real, game.prompts, game.seed, real[:0])
    kept(state, "targets", lambda: real)
    said = game.evaluation.judge(real, real)
    said.pop("distance", None)  # of a set from itself: no figure
    run.results({"targets": said})
    judged(state, game.evaluation)
    return state


def settings(run: RunFolder, game: Any, *names: str) -> dict[str, Any]:
    """Return what the config says of these arguments, or else what they are; by it stages know
    their settings.
    """
    words: Mapping[str, Any] = run.config.get("rounds", {}).get("init_args", {})
    return {
        name: words[name] if name in words else described(getattr(game, name)) for name in names
    }


def kept(state: State, stage: str, draw: Callable[[], Samples], **key: Any) -> Samples:
    """Return samples that a stage keeps, as their files say; drawn if they do not stand yet. They
    depend on `key` too.
    """
    state.policy.eval()
    key = {**state.key, **key}
    folder = state.run.stage(
        state.name(stage), key, lambda folder: save_samples(folder / "samples", draw())
    )
    samples = load_samples(folder / "samples")
    state.generations[state.name(stage)] = len(samples)
    return samples


def draw(state: State, stage: str, count: int) -> Samples:
    """Return `count` outputs of the policy, the prompts in turn, from seeds of their own."""
    prompts = state.in_turn(count)
    seeds = row_seeds(state.seed_of(stage), count)
    return kept(
        state,
        stage,
        lambda: state.policy.generate(prompts, seeds=seeds),
        prompts=list(state.prompts),
    )


def fit(state: State, stage: str, how: FitReward, reward: Reward, data: Any) -> dict[str, Any]:
    """Fit `reward` in place, or load what a stage that stands has made of it; returns its figures."""
    name = state.name(stage)
    key = state.key
    folder = state.run.stage(
        name, key, lambda folder: how(reward, data, folder, state.run.scratch(name, key))
    )
    return load_stage(folder, reward)


def train_policy(
    state: State,
    how: PostTrain,
    reward: Reward,
    watched: Callable[[], Watched],
    words: dict[str, Any],
) -> None:
    """Select best and worst candidates and train on them; best-of-N only wraps the policy.

    Args:
        state: whose policy is trained in place, or wrapped.
        how: the loop.
        reward: ranks the candidates, and is what loops that sample for themselves raise.
        watched: makes what guards read.
        words: the settings of `how`.
    """
    k = how.candidates
    state.after(candidates=k, groups=how.groups)
    if how.loop is None:
        state.after(best_of=k, **words)
        state.policy = BestOf(
            state.policy, twin(reward), k
        )  # the next round's fit must not change it
        return
    prompts = state.in_turn(how.groups or len(state.prompts))
    seed = state.seed_of("candidates")
    pool = kept(state, "candidates", lambda: candidates(state.policy, prompts, k, seed))
    scores = scores_of(reward, pool)
    pairs = extremes(pool, scores, k)
    if not len(pairs):
        raise InputError(
            f"The reward scores all {k} candidates of every prompt alike, so there is no best and worst to train on. Does the "
            "generator make different outputs of a prompt, and did the reward learn (val/auc)?"
        )
    key = {**state.key, "reward": fingerprint(reward)}  # another one picks other pairs
    state.run.stage(state.name("pairs"), key, lambda folder: save_pairs(folder / "pairs", pairs))
    figures = {
        "all": scores,
        "best": pairs.chosen.facts["score"],
        "worst": pairs.rejected.facts["score"],
    }
    state.note(candidates={name: mean_figure(values) for name, values in figures.items()})
    seen = watched()
    state.after(**words)
    name = state.name("post-train")
    key = state.key
    folder = state.run.stage(
        name,
        key,
        lambda folder: how(
            state.policy, reward, pairs, seen, state.first, folder, state.run.scratch(name, key)
        ),
    )
    figures = load_stage(folder, state.policy)
    state.generations[name] = figures.get("generations", 0)
    state.note(post_train=figures)


def judged(state: State, evaluation: Evaluation) -> Samples:
    """Draw from the policy on the evaluation's prompts and seeds, and note what the judges say;
    returns the outputs.

    No other stage depends on the evaluation, so another judge trains nothing anew.
    """
    state.drawn = kept(
        state,
        "samples",
        lambda: evaluation.draw(state.policy, state.prompts),
        **drawn_by(evaluation),
    )
    state.note(judged=evaluation.judge(state.drawn, state.real))
    return state.drawn


def seen(state: State, reward: Reward, evaluation: Evaluation) -> dict[str, Tensor]:
    """Judge the policy, and return the reward's scores [B, members] of "targets" and of outputs
    "before" and "after".
    """
    before = state.drawn
    after = judged(state, evaluation)
    sides = {"targets": state.real, "before": before, "after": after}

    def scores(folder: Path) -> None:
        save_file(
            {name: member_scores(reward, samples).contiguous() for name, samples in sides.items()},
            folder / "scores.safetensors",
        )

    folder = state.run.stage(state.name("scores"), {**state.key, **drawn_by(evaluation)}, scores)
    columns: dict[str, Tensor] = load_file(folder / "scores.safetensors")
    return columns


def drawn_by(evaluation: Evaluation) -> dict[str, Any]:
    """Return what judged samples depend on besides the policy and its prompts."""
    return {"judged": [evaluation.samples, evaluation.seed]}


def twin(reward: Reward) -> Reward:
    """Return a copy with trained weights of its own; the frozen ones are shared."""
    return deepcopy(
        reward,
        {
            id(parameter): parameter
            for parameter in reward.parameters()
            if not parameter.requires_grad
        },
    )


def export_both(state: State, reward: Reward) -> None:
    """Write the last policy, and the reward that it was trained on, unless they stand already."""
    for name, thing in {"policy": state.policy, "reward": reward}.items():
        if not (state.run.path / name).exists():
            export(thing, state.run.path / name)
