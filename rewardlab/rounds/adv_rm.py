"""Adv-RM's rounds: fit members, attack the first with a fresh adversary, mine, extend the data, and
again; then post-train.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from torch import Tensor

from rewardlab.attackers.base import scored
from rewardlab.data import Preferences, load_pairs, read_prompts, save_pairs
from rewardlab.errors import InputError
from rewardlab.evaluation import Evaluation, Watched
from rewardlab.evaluation.evaluation import mean_figure
from rewardlab.mining import adversarial_pairs
from rewardlab.policies import Policy
from rewardlab.provenance import fingerprint
from rewardlab.rewards import Reward
from rewardlab.rewards.attack import Attack
from rewardlab.rewards.combine import Ensemble, Standardized, Weighted
from rewardlab.rewards.novelty import Novelty
from rewardlab.rewards.relative import Relative, spread_within
from rewardlab.rewards.scoring import scores_of
from rewardlab.rounds.base import Rounds
from rewardlab.rounds.costs import cost
from rewardlab.rounds.game import (
    State,
    begin,
    check_game,
    draw,
    export_both,
    fit,
    kept,
    seen,
    settings,
    train_policy,
)
from rewardlab.rounds.stages import FitReward, PostTrain
from rewardlab.runs.folder import RunFolder
from rewardlab.seeds import derive
from rewardlab.training import AdvRM as AdvRMLoop
from rewardlab.training.base import trained_state
from rewardlab.types import PreferencePairs, Samples, concatenate


@dataclass
class AttackAndMine:
    """How members are attacked in a round, and what of it becomes training data.

    Args:
        attacker: finds outputs that the attack reward likes (`rewardlab.attackers`); the trained
            one starts anew each time.
        weight: λ, how much the witness's objection counts.
        penalty: below the references' mean, in standard deviations of the references.
        references: responses of the first policy to each prompt, against which everything is
            measured.
        kind: "signed" disagreement (target - witness), or the paper's "absolute".
        z: how many standard deviations of the references' disagreement an attack has to exceed.
        chosen: the "first" reference as the better answer, or the "best" by the target.
        per_prompt: most pairs of one prompt and round.
        cap: most pairs of a round; near one adversarial pair to ten clean ones keeps clean
            accuracy.
        enough: an attacker that trains (`RLAttacker`) ends once this many pairs pass the filter,
            before the cap: twice the cap, say. By default it trains to its end. Attacks on held-out
            prompts, which measure, always do.
        judge: the name of one of the evaluation's judges, by which the funnel tells how many pairs
            are right at each step; it is read for that figure alone. None asks nobody.
        stop_below: rounds end when a fresh attack's yield (share of its outputs that pass gate and
            disagreement) on held-out prompts falls below this; without such prompts, the attack's
            own, unless it had found `enough`.
    """

    attacker: Callable[..., Samples]
    weight: float = 1.0
    penalty: float = 10.0
    references: int = 4
    kind: Literal["signed", "absolute"] = "signed"
    z: float = 1.96
    chosen: Literal["first", "best"] = "best"
    per_prompt: int = 2
    cap: int = 1000
    enough: int | None = None
    judge: str | None = None
    stop_below: float = 0.05

    def __post_init__(self) -> None:
        if self.enough is not None and not hasattr(self.attacker, "until"):
            raise InputError(
                f"enough={self.enough} ends the training of an attacker such as RLAttacker; {type(self.attacker).__name__} "
                "does not train. Leave it out: how much such an attacker draws, its own arguments say."
            )


class AdvRM(Rounds):
    """Rounds of adversary against reward (Adv-RM, arXiv 2504.06141, section 3), then post-training
    with what was hardened.

    Members differ in their seeds, data order and bootstrap; the first is the target, the mean of
    the others its witness. In each round all are refitted from their first weights on the clean
    pairs and all adversarial ones so far. No judge decides anything. What all of it cost beside one
    fit and the same post-training stands in timing.json as "cost".

    Args:
        policy: the first policy: it writes the references, the adversary starts from it, and it is
            what is post-trained.
        members: at least two rewards.
        preferences: the clean pairs.
        prompts: a file of prompts to attack and train on, or the prompts; by default those of the
            clean pairs in training.
        held_out_prompts: prompts on which the yield of a fresh attack is measured; they may not be
            among `prompts`. None measures it on `prompts`.
        attack: how to attack and mine.
        fit: how members are fitted.
        post_train: how the policy is trained with the hardened reward.
        use: the hardened reward is the "target" alone, or the members' "ensemble".
        novelty: a reward with `features` (a frozen backbone, say). The policy is then trained on
            the hardened reward, in its standard deviations within a prompt, less `novelty_weight`
            times an output's distance from the references in these features (`Novelty`): what no
            member has seen cannot be overrated for free.
        novelty_weight: standard deviations of the reward that one standard deviation of the
            distance costs.
        evaluation: how the policy is judged at the end.
        rounds: the most rounds of attack; 0 fits plain members, the baseline.
        seed: of everything that is drawn.
    """

    def __init__(
        self,
        policy: Policy,
        members: list[Reward],
        preferences: Preferences,
        attack: AttackAndMine,
        post_train: PostTrain,
        fit: FitReward | None = None,
        prompts: str | Path | list[str] | None = None,
        held_out_prompts: str | Path | list[str] | None = None,
        use: Literal["target", "ensemble"] = "target",
        novelty: Reward | None = None,
        novelty_weight: float = 1.0,
        evaluation: Evaluation | None = None,
        rounds: int = 2,
        seed: int = 0,
    ) -> None:
        if len(members) < 2:
            raise InputError(
                f"AdvRM needs a target and a witness: at least 2 members; got {len(members)}."
            )
        self.policy = policy
        self.members = members
        self.preferences = preferences
        self.attack = attack
        self.prompts = _prompts(
            preferences.split("train").chosen.prompts if prompts is None else prompts
        )
        self.held_out_prompts = _prompts(held_out_prompts)
        check_game("AdvRM", self.prompts, rounds, least=0)
        self.novelty = novelty
        self.novelty_weight = novelty_weight
        self.post_train = post_train
        self.fit = fit or FitReward(AdvRMLoop)
        self.use = use
        self.evaluation = evaluation or Evaluation()
        self.rounds = rounds
        self.seed = seed
        if attack.judge is not None and attack.judge not in self.evaluation.judges:
            known = sorted(self.evaluation.judges)
            raise InputError(
                f"The attack's judge {attack.judge!r} is none of the evaluation's judges, {known}."
            )
        leaked = set(self.prompts) & set(self.held_out_prompts)
        if leaked:
            raise InputError(
                f"{len(leaked)} of the held-out prompts are attacked and trained on too (first: {sorted(leaked)[0]!r}); the "
                "yield measured on them would flatter. Take other prompts."
            )

    def run(self, run: RunFolder) -> None:
        """Run all rounds in the folder, or those that it lacks."""
        real = self.preferences.split("held_out").chosen
        state = begin(run, self, self.policy, self.members, real, ["policy", "preferences"])
        first = [trained_state(member) for member in self.members]
        state.after(references=self.attack.references)
        references = real[:0]  # plain RLHF needs none
        if self.rounds or self.novelty is not None:
            references = draw_references(state, self.prompts, self.attack.references, "references")
        extra: PreferencePairs | None = None
        for number in range(1, self.rounds + 1):
            state.number = number
            self._fit_members(state, first, extra, self.members)
            pairs, going_on = self._attack_and_mine(state, references)
            extra = pairs if extra is None else concatenate([_plain(extra), _plain(pairs)])
            if not going_on:
                break
        state.number += 1
        used = self.members[:1] if self.use == "target" else self.members
        self._fit_members(state, first, extra, used)
        reward = self.members[0] if self.use == "target" else Ensemble(self.members)
        raised = self._with_novelty(reward, references)
        words = {**settings(run, self, "post_train"), "use": self.use}
        words["novelty"] = (
            None if self.novelty is None else [fingerprint(self.novelty), self.novelty_weight]
        )
        words["held_out_prompts"] = self._unseen()
        train_policy(state, self.post_train, raised, lambda: self._watched(raised), words)
        self._evaluate(state, raised)
        steps = run.results({})["rounds"][str(state.number)].get("post_train", {}).get("steps", 0)
        run.timing({"cost": cost(run.timing(), state.generations, steps)})
        export_both(state, raised)

    def _with_novelty(self, reward: Reward, references: Samples) -> Reward:
        """Return what the policy is trained on: the reward, less the distance from the references
        if that is asked for.
        """
        if self.novelty is None:
            return reward
        _, means, deviation = spread_within(
            references.prompts, scores_of(reward, references)[:, None]
        )
        scaled = Standardized(reward, means.mean().item(), deviation.item())
        device = next(reward.parameters()).device  # where it was fitted
        novelty = Novelty(self.novelty.eval().to(device), references)
        return Weighted([scaled, novelty], [1.0, self.novelty_weight]).eval().to(device)

    def _watched(self, reward: Reward) -> Watched:
        """What is read while the policy is trained: the reward, and prompts that no pair in
        training has.
        """
        return Watched(reward, self.prompts, held_out_prompts=self._unseen())

    def _unseen(self) -> list[str]:
        """Prompts that nothing is trained on: those held out, or those of the held-out pairs."""
        others = dict.fromkeys(self.preferences.split("held_out").chosen.prompts)
        known = set(self.prompts)
        return self.held_out_prompts or [prompt for prompt in others if prompt not in known]

    def _fit_members(
        self,
        state: State,
        first: Sequence[dict[str, Any]],
        extra: PreferencePairs | None,
        members: Sequence[Reward],
    ) -> None:
        """Refit these members from their first weights, each with its own data order and bootstrap."""
        state.after(round=state.number, **settings(state.run, self, "members", "fit"))
        figures = {}
        for number, (member, weights) in enumerate(zip(members, first, strict=False)):
            if not self.fit.warm_start:
                member.load_state_dict(weights, strict=False)
            seed = derive(self.seed, "member", number)
            data = (
                self.preferences.extended(extra, seed)
                if extra is not None
                else self.preferences.extended(_none(self), seed)
            )
            how = FitReward(
                _seeded(self.fit.loop, seed),
                self.fit.trainer,
                self.fit.patience,
                self.fit.warm_start,
            )
            figures[str(number)] = fit(state, f"member-{number}", how, member, data)
        device = next(
            members[-1].parameters()
        ).device  # one that was fitted now may be elsewhere than one that stood
        for member in members:
            member.to(device)
        state.note(members=figures, adversarial_pairs=0 if extra is None else len(extra))

    def _attack_and_mine(self, state: State, references: Samples) -> tuple[PreferencePairs, bool]:
        """Attack with a fresh adversary, keep what passes the filter, and say whether another round
        is worth it.
        """
        state.after(**settings(state.run, self, "attack"))
        found, pairs, funnel = self._attacked(
            state, "attack", self.prompts, references, self.attack.enough
        )
        folder = state.run.stage(
            state.name("adversarial"), state.key, lambda folder: _save(folder, pairs)
        )
        figures = {"funnel": funnel.as_dict(), "yield": _yield(funnel)}
        figures |= {side: mean_figure(found.facts[side]) for side in ("target", "witness")}
        going_on = figures["yield"] >= self.attack.stop_below or _holds(funnel, self.attack.enough)
        if self.held_out_prompts:
            fresh = draw_references(
                state, self.held_out_prompts, self.attack.references, "held-out-references"
            )
            figures["yield"] = _yield(
                self._attacked(state, "held-out-attack", self.held_out_prompts, fresh)[2]
            )
            going_on = figures["yield"] >= self.attack.stop_below
        state.note(attack=figures)
        return (_load(folder) if len(pairs) else pairs), going_on and len(pairs) > 0

    def _attacked(
        self,
        state: State,
        stage: str,
        prompts: Sequence[str],
        references: Samples,
        enough: int | None = None,
    ) -> tuple[Samples, PreferencePairs, Any]:
        """Return what a fresh adversary finds against the members as they are, until that is
        enough; its pairs, and funnel.
        """
        sides = [
            Relative(member, references) for member in (self.members[0], Ensemble(self.members[1:]))
        ]
        known = [scores_of(side, references) for side in sides]
        reward = Attack(*sides, weight=self.attack.weight, penalty=self.attack.penalty)
        attacker = self.attack.attacker
        attacked = list(prompts)
        if hasattr(attacker, "folder"):  # one that trains goes on from its checkpoints
            attacker = replace(
                attacker,
                folder=state.run.scratch(state.name(stage), {**state.key, "prompts": attacked}),
            )
        if enough is not None:
            attacker = replace(
                attacker,
                until=lambda found: _holds(self._mined(found, references, known)[1], enough),
            )

        def attack() -> Samples:
            found = attacker(self.policy, reward, attacked, state.seed_of(stage))
            return (
                found if "witness" in found.facts else scored(reward, found)
            )  # a user's attacker may not say

        found = kept(state, stage, attack, prompts=attacked)
        judge = None if self.attack.judge is None else self.evaluation.judges[self.attack.judge]
        said = None if judge is None else (scores_of(judge, found), scores_of(judge, references))
        return found, *self._mined(found, references, known, said)

    def _mined(
        self, found: Samples, references: Samples, known: list[Tensor], said: Any = None
    ) -> tuple[PreferencePairs, Any]:
        """Return pairs and funnel of attacks that know their scores; `known` are those of the
        references.
        """
        how = self.attack
        own = (found.facts["target"], found.facts["witness"])
        return adversarial_pairs(
            found, *own, references, *known,
            kind=how.kind, z=how.z, chosen=how.chosen, per_prompt=how.per_prompt, cap=how.cap, judge_scores=said,
        )  # fmt: skip

    def _evaluate(self, state: State, reward: Reward) -> None:
        """Judge the policy, and see it and the one before it through the hardened reward."""
        columns = seen(state, reward, self.evaluation)
        state.note(
            separation={
                f"score_{name}": mean_figure(scores.mean(1)) for name, scores in columns.items()
            }
        )


def draw_references(state: State, prompts: Sequence[str], count: int, stage: str) -> Samples:
    """Return `count` responses of the first policy to each prompt, kept as a stage."""
    first = replace(state, policy=state.first, prompts=list(prompts), number=0)
    return draw(first, stage, count * len(set(prompts)))


def _prompts(source: str | Path | Sequence[str] | None) -> list[str]:
    if source is None:
        return []
    return list(dict.fromkeys(read_prompts(source) if isinstance(source, str | Path) else source))


def _yield(funnel: Any) -> float:
    return funnel.counts["disagreeing"] / max(funnel.counts["unique"], 1)


def _holds(funnel: Any, enough: int | None) -> bool:
    return enough is not None and funnel.counts["per_prompt"] >= enough


def _seeded(loop: Callable[..., Any], seed: int) -> Callable[..., Any]:
    def make(reward: Reward) -> Any:
        module = loop(reward)
        module.seed = seed
        return module

    return make


def _plain(pairs: PreferencePairs) -> PreferencePairs:
    """Return the pairs without facts, which differ between rounds."""
    return PreferencePairs(
        *(Samples(half.prompts, half.outputs) for half in (pairs.chosen, pairs.rejected))
    )


def _none(game: AdvRM) -> PreferencePairs:
    return game.preferences.split("train")[:0]


def _save(folder: Path, pairs: PreferencePairs) -> None:
    if len(pairs):
        save_pairs(folder / "pairs", pairs)


def _load(folder: Path) -> PreferencePairs:
    return load_pairs(folder / "pairs")
