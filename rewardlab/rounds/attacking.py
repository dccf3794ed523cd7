"""Attacks in a round: which members are attacked, what is mined of it, and whether to go on."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal, NamedTuple

from safetensors.torch import load_file, save_file
from torch import Tensor

from rewardlab.attackers.base import TrainedAttacker, scored_only, with_scores
from rewardlab.conversations import Prompt
from rewardlab.errors import InputError
from rewardlab.evaluation.evaluation import mean_figure
from rewardlab.mining import Funnel, adversarial_pairs
from rewardlab.policies import Policy
from rewardlab.provenance import fingerprint
from rewardlab.rewards import Reward
from rewardlab.rewards.attack import Attack
from rewardlab.rewards.combine import Ensemble
from rewardlab.rewards.relative import QuantileSpread, Relative, Scale, Spread
from rewardlab.rewards.scoring import judged
from rewardlab.rounds.state import State, keep_samples
from rewardlab.runs.layout import JUDGED_ATTACK, SCORES_FILE
from rewardlab.runs.stage import Stage
from rewardlab.seeds import derive, row_seeds
from rewardlab.types import PreferencePairs, Samples, distinct


@dataclass
class Mining:
    """Which of an attack's outputs become rejected examples. Adv-RM, arXiv 2504.06141, section 3.

    Args:
        kind: "signed" disagreement (target - witness), or the paper's "absolute".
        z: how many standard deviations of the references' disagreement an attack has to exceed.
        quantile: replaces z: the share of the references' own disagreement that an attack has to
            exceed, such as 0.975.
        chosen: the "first" reference as the better answer, or the "best" by the target.
        per_prompt: most pairs of one prompt and round.
        cap: most pairs of an attack; near one adversarial pair to ten clean ones keeps clean
            accuracy.
        pick: the pairs with the "largest" disagreement up to the cap, or "random" ones among all
            that pass.
        after: share of a trained attacker's batches before which nothing is mined. Early on, what
            an adversary finds is often better than the references.
    """

    kind: Literal["signed", "absolute"] = "signed"
    z: float = 1.96
    chosen: Literal["first", "best"] = "best"
    per_prompt: int = 2
    cap: int = 1000
    pick: Literal["largest", "random"] = "largest"
    after: float = 0.0
    quantile: float | None = None

    def __post_init__(self) -> None:
        if self.quantile is not None and not 0 < self.quantile < 1:
            raise InputError(
                "Mining takes a quantile of the references' disagreement between 0 and 1; got "
                f"{self.quantile:g}. 0.975 stands where z=1.96 does."
            )
        if not 0 <= self.after < 1:
            raise InputError(
                f"Mining begins after a share of the attack, 0 <= after < 1; got {self.after:g}."
            )


@dataclass
class AttackAndMine:
    """How members are attacked in a round, and what of it becomes training data.

    Args:
        attacker: finds outputs that the attack reward likes (`rewardlab.attackers`); the trained
            one starts anew each time.
        mining: which of them become rejected examples.
        members: attack the "first" member alone, or "each" in turn.
        witness: the reward that has to object; by default the mean of the members that are not
            attacked. One that was trained on other data, or a `Novelty`, has other blind spots.
        weight: λ, how much the witness's objection counts.
        penalty: subtracted where a score is below the references' mean, in standard deviations of
            the references.
        references: responses of the first policy to each prompt, against which everything is
            measured.
        enough: end the training of an attacker (`RLAttacker`) once this many pairs pass the filter,
            before the cap: twice the cap, say. By default it trains to its end. Attacks on held-out
            prompts, which measure, always do.
        judge: the name of one of the evaluation's judges, by which the funnel tells how many pairs
            are right at each step; it is read for that figure alone. None asks nobody.
        witness_scale: how the witness's scores are brought to the references: by their "deviation",
            or by their "quantile" (see `rewardlab.rewards.Relative`).
        stop_below: end the rounds when a fresh attack's yield (share of its outputs that pass gate
            and disagreement) on held-out prompts falls below this; without such prompts, the
            attack's own, unless it had found `enough`.
    """

    attacker: Callable[..., Samples]
    mining: Mining = field(default_factory=Mining)
    members: Literal["first", "each"] = "first"
    witness: Reward | None = None
    weight: float = 1.0
    penalty: float = 10.0
    references: int = 4
    enough: int | None = None
    judge: str | None = None
    stop_below: float = 0.05
    witness_scale: Scale = "deviation"

    def __post_init__(self) -> None:
        if self.enough is not None and not isinstance(self.attacker, TrainedAttacker):
            raise InputError(
                f"enough={self.enough} ends the training of an attacker such as RLAttacker; "
                f"{type(self.attacker).__name__} does not train. Leave it out: how much such an "
                "attacker draws, its own arguments say."
            )


class Sides(NamedTuple):
    """The two rewards of an attack, relative to each prompt's references.

    Attributes:
        target: the reward under attack.
        witness: the reward that has to object.
        references: typical responses, of which `target_scores` and `witness_scores` are known.
        target_scores: float32 [R].
        witness_scores: float32 [R].
    """

    target: Relative
    witness: Relative
    references: Samples
    target_scores: Tensor
    witness_scores: Tensor


class Attacked(NamedTuple):
    """What an attack gave: its outputs, the pairs mined from them, and the counts of each step."""

    samples: Samples
    pairs: PreferencePairs
    funnel: Funnel

    @property
    def yield_share(self) -> float:
        """The yield: the share of unique outputs that pass the gate and the disagreement filter."""
        return self.funnel.counts["disagreeing"] / max(self.funnel.counts["unique"], 1)


def sides_of(
    state: State,
    stage: Stage,
    members: Sequence[Reward],
    target_number: int,
    witness: Reward | None,
    references: Samples,
    witness_scale: Scale = "deviation",
) -> Sides:
    """Return the two sides of an attack on one member; the references' scores are kept as a stage.

    Args:
        state: where the run stands.
        stage: the record of those scores.
        members: of the round.
        target_number: number of the one under attack.
        witness: the reward that has to object; None for the mean of the other members.
        references: responses to each prompt.
        witness_scale: how the witness's scores are brought to them.
    """
    if witness is None:
        others = [member for number, member in enumerate(members) if number != target_number]
        witness = Ensemble(others)
    target = members[target_number]

    def measure(folder: Path) -> None:
        columns = _measured("target", target, references, "deviation")
        columns |= _measured("witness", witness, references, witness_scale)
        save_file(columns, folder / SCORES_FILE)

    columns = load_file(state.run.make(stage, measure) / SCORES_FILE)
    return Sides(
        _side("target", target, references, columns),
        _side("witness", witness, references, columns),
        references,
        columns["target"],
        columns["witness"],
    )


def _measured(name: str, reward: Reward, references: Samples, scale: Scale) -> dict[str, Tensor]:
    """Return a side's scores of the references, and what brings its scores to them, by name."""
    side = Relative(reward, references, scale=scale)
    columns = {f"{name}_means": side.means, f"{name}_deviations": side.deviations}
    if side.knots is not None:
        columns[f"{name}_knots"] = side.knots
    columns[name] = judged(side, references).scores
    return columns


def _side(
    name: str, reward: Reward, references: Samples, columns: Mapping[str, Tensor]
) -> Relative:
    """Return a reward relative to the references, by what `_measured` returned."""
    prompts = distinct(references.prompts).values
    spread = Spread(prompts, columns[f"{name}_means"], columns[f"{name}_deviations"])
    return Relative(reward, QuantileSpread(spread, columns.get(f"{name}_knots")))


def attack(
    state: State,
    policy: Policy,
    settings: AttackAndMine,
    sides: Sides,
    stage: Stage,
    prompts: Sequence[Prompt],
    *,
    judge: Reward | None = None,
    enough: int | None = None,
) -> Attacked:
    """Attack with a fresh adversary, or load what it found, and mine pairs from that.

    Args:
        state: where the run stands.
        policy: where the adversary starts.
        settings: of the attack.
        sides: the rewards.
        stage: the record of the attack; its seed is the adversary's.
        prompts: that are attacked.
        judge: tells the funnel how many pairs are right.
        enough: pairs at which an attacker that trains ends.
    """
    reward = Attack(sides.target, sides.witness, weight=settings.weight, penalty=settings.penalty)
    attacker = _prepared(state, settings, sides, stage, enough)

    def make() -> Samples:
        samples = attacker(policy, reward, list(prompts), stage.seed)
        knows_scores = "witness" in samples.facts  # a user's attacker may not say
        return samples if knows_scores else scored_only(with_scores(reward, samples))

    samples = keep_samples(state, stage, make)
    scores = None
    if judge is not None:
        scores = _judge_scores(state, stage, judge, samples, sides.references)
    pairs, funnel = mine(samples, sides, settings.mining, seed=state.seed, judged=scores)
    return Attacked(samples, pairs, funnel)


class JudgeScores(NamedTuple):
    """A judge's scores of an attack's outputs [B], and of the references [R]."""

    samples: Tensor
    references: Tensor


def _judge_scores(
    state: State, stage: Stage, judge: Reward, samples: Samples, references: Samples
) -> JudgeScores:
    """Return a judge's scores of an attack's outputs and of the references, kept as a stage."""

    def score(folder: Path) -> None:
        columns = {
            "samples": judged(judge, samples).scores,
            "references": judged(judge, references).scores,
        }
        save_file(columns, folder / SCORES_FILE)

    record = Stage(f"{stage.name}-{JUDGED_ATTACK}", (stage,), {"judge": fingerprint(judge)})
    columns = load_file(state.run.make(record, score) / SCORES_FILE)
    return JudgeScores(columns["samples"], columns["references"])


def mine(
    samples: Samples,
    sides: Sides,
    mining: Mining,
    *,
    seed: int = 0,
    judged: JudgeScores | None = None,
) -> tuple[PreferencePairs, Funnel]:
    """Return adversarial pairs of an attack's outputs, and how many are left at each step.

    Args:
        samples: outputs with the facts "target" and "witness", and "step" where mining is late.
        sides: the rewards, with their scores of the references.
        mining: what passes.
        seed: of the pick, if it is random.
        judged: a judge's scores of the samples and of the references.
    """
    if mining.after:
        late = _late(samples, mining.after)
        samples = samples[late]
        if judged is not None:
            judged = JudgeScores(judged.samples[late], judged.references)
    at_random = mining.pick == "random"
    pairs, funnel = adversarial_pairs(
        samples,
        samples.facts["target"],
        samples.facts["witness"],
        sides.references,
        sides.target_scores,
        sides.witness_scores,
        kind=mining.kind,
        z=mining.z,
        quantile=mining.quantile,
        chosen=mining.chosen,
        per_prompt=mining.per_prompt,
        cap=max(len(samples), 1) if at_random else mining.cap,
        judge_scores=judged,
    )
    if at_random and len(pairs) > mining.cap:
        pairs = _at_random(pairs, mining.cap, seed)
    return pairs, funnel


def _at_random(pairs: PreferencePairs, count: int, seed: int) -> PreferencePairs:
    """Return `count` of the pairs, picked at random, in their order."""
    order = row_seeds(derive(seed, "spread"), len(pairs)).argsort()
    return pairs[order[:count].sort().values]


def attack_figures(attacked: Attacked) -> dict[str, Any]:
    """Return the figures of an attack as plain data."""
    figures: dict[str, Any] = {"funnel": attacked.funnel.as_dict(), "yield": attacked.yield_share}
    for side in ("target", "witness"):
        figures[side] = mean_figure(attacked.samples.facts[side])
    return figures


def is_enough(funnel: Funnel, enough: int | None) -> bool:
    """Tell whether as many pairs passed the filter as were asked for."""
    return enough is not None and funnel.counts["per_prompt"] >= enough


def _late(samples: Samples, after: float) -> Tensor:
    """Return which samples were found after a share of the attack's batches: bool [B].

    Raises:
        InputError: if the attacker did not record when each was found.
    """
    if "step" not in samples.facts:
        raise InputError(
            f"Mining after={after:g} of the attack needs an attacker that trains and records each "
            "output's step, such as RLAttacker with collect=logged. Leave it out for others."
        )
    steps = samples.facts["step"]
    return steps >= after * (steps.max() + 1)


def _prepared(
    state: State,
    settings: AttackAndMine,
    sides: Sides,
    stage: Stage,
    enough: int | None,
) -> Any:
    """Return the attacker; one that trains goes on from its checkpoints, and ends at `enough`."""
    attacker = settings.attacker
    if not isinstance(attacker, TrainedAttacker):
        return attacker
    trained: Any = attacker  # a dataclass, such as RLAttacker
    trained = replace(trained, folder=state.scratch(stage))
    if enough is None:
        return trained
    until = partial(_has_enough, sides=sides, mining=settings.mining, enough=enough)
    return replace(trained, until=until)


def _has_enough(samples: Samples, sides: Sides, mining: Mining, enough: int) -> bool:
    return is_enough(mine(samples, sides, mining)[1], enough)
