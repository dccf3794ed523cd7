"""Adv-RM's rounds: fit members, attack them, mine, extend the data, and again; then post-train."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, Literal, NamedTuple

from rewardlab.conversations import Prompt
from rewardlab.data import Preferences, read_prompts
from rewardlab.data.splits import Part
from rewardlab.evaluation import Evaluation, MonitoredPolicy
from rewardlab.evaluation.evaluation import mean_figure
from rewardlab.policies import Policy
from rewardlab.provenance import fingerprint
from rewardlab.rewards import Reward
from rewardlab.rounds import few, plan
from rewardlab.rounds.adv_rm_checks import check_adv_rm
from rewardlab.rounds.attacking import (
    AttackAndMine,
    Attacked,
    Sides,
    attack,
    attack_figures,
    is_enough,
    sides_of,
)
from rewardlab.rounds.base import Rounds
from rewardlab.rounds.costs import cost
from rewardlab.rounds.hardening import OnlineHardening, hardened_online
from rewardlab.rounds.member_fits import MemberFits
from rewardlab.rounds.post_training import train_policy
from rewardlab.rounds.reweighting import Repeats, Reweighting
from rewardlab.rounds.stages import FitReward, PostTrain
from rewardlab.rounds.state import (
    State,
    begin,
    check_one_process,
    compare_policies,
    draw_from,
    draw_stage,
    export_both,
    settings_of,
)
from rewardlab.rounds.tether import Tether, reward_in_use, tethered
from rewardlab.runs.folder import RunFolder
from rewardlab.runs.layout import (
    ADVERSARIAL,
    ANCHORS,
    ATTACK,
    HELD_OUT_ATTACK,
    HELD_OUT_REFERENCE_SCORES,
    HELD_OUT_REFERENCES,
    POLICY_FOLDER,
    REFERENCE_SCORES,
    REFERENCES,
    REWARD_FOLDER,
)
from rewardlab.runs.stage import Stage
from rewardlab.training import AdvRM
from rewardlab.types import PreferencePairs, Samples


class References(NamedTuple):
    """Responses of the first policy, and the record of their stage."""

    samples: Samples
    stage: Stage


class AdvRMRounds(Rounds):
    """Rounds of adversary against reward, then post-training: Adv-RM, arXiv 2504.06141, section 3.

    Members differ in their seeds, data order and bootstrap; the first is the target, the mean of
    the others its witness. In each round all are refitted from their first weights on the clean
    pairs and all adversarial ones so far. No judge decides anything. What all of it cost beside one
    fit and the same post-training stands in timing.json as "cost".

    Args:
        policy: the first policy: it writes the references, the adversary starts from it, and it is
            what is post-trained.
        members: at least two rewards; one is enough with `rounds=0`.
        preferences: the clean pairs.
        prompts: a file of prompts to attack and train on, or the prompts; by default those of the
            clean pairs in training.
        held_out_prompts: prompts on which the yield of a fresh attack is measured; they may not be
            among `prompts`. None measures it on `prompts`.
        attack: how to attack and mine.
        fit: how members are fitted.
        post_train: how the policy is trained with the hardened reward.
        use: the hardened reward is the "target" alone, the members' "ensemble", or what a function
            of the ensemble and the first policy's references makes of it, such as
            `rewards.Debiased`, `rewards.SoftMinimum`, `rewards.Cautious` or `rewards.Relative`.
        tether: a distance that is subtracted from the hardened reward; none by default.
        online: a correction that learns while the policy is trained; none by default. With
            `rounds=0` it is the only hardening, else it comes on top of the rounds of attack.
        reweight: refit the reward by importance weights for the trained policy, and train the
            policy anew; by default not.
        evaluation: how the policy is judged at the end.
        rounds: the most rounds of attack; 0 fits plain members, the baseline.
        seed: of everything that is drawn.

    Raises:
        InputError: if there are fewer than two members or no prompts, the attack's judge is not one
            of the evaluation's, or held-out prompts are attacked too.
    """

    def __init__(
        self,
        policy: Policy,
        members: list[Reward],
        preferences: Preferences,
        attack: AttackAndMine,
        post_train: PostTrain,
        fit: FitReward | None = None,
        prompts: str | Path | list[Prompt] | None = None,
        held_out_prompts: str | Path | list[Prompt] | None = None,
        use: Literal["target", "ensemble"] | Callable[[Reward, Samples], Reward] = "target",
        tether: Tether | None = None,
        online: OnlineHardening | None = None,
        reweight: Reweighting | None = None,
        evaluation: Evaluation | None = None,
        rounds: int = 2,
        seed: int = 0,
    ) -> None:
        clean_prompts = preferences.split("train").chosen.prompts
        self.policy = policy
        self.members = members
        self.preferences = preferences
        self.attack = attack
        self.prompts = _unique_prompts(clean_prompts if prompts is None else prompts)
        self.held_out_prompts = _unique_prompts(held_out_prompts)
        self.tether = tether
        self.online = online
        self.reweight = reweight
        self.post_train = post_train
        self.fit = fit or FitReward(AdvRM)
        self.use = use
        self.evaluation = evaluation or Evaluation()
        self.rounds = rounds
        self.seed = seed
        check_adv_rm(self)

    def run(self, run: RunFolder) -> None:
        """Run all rounds in the folder, or those that it lacks."""
        self.preferences.fit_to(self.members)
        self.policy.check_prompts(self._unseen_prompts())
        check_one_process("attack.attacker", self.attack.attacker)
        real = self.preferences.split("held_out").chosen
        state = begin(run, self, self.members, real, ["policy", "preferences"])
        fits = MemberFits(self, state)
        references = None
        if self.draws_references:
            references = self._references(state, self.prompts, REFERENCES)
        for number in range(1, self.rounds + 1):
            state.number = number
            fits.fit(self.members)
            assert references is not None
            if not self._attack_and_mine(state, fits, references):
                break
        state.number += 1
        repeats = Repeats(self.reweight, state, fits)
        reward, reward_stage = self._train(state, fits, references)
        while repeats.begin():
            reward, reward_stage = self._train(state, fits, references)
        self._evaluate(state, reward, reward_stage)
        _report_cost(state)
        export_both(state, reward)

    def _train(
        self, state: State, fits: MemberFits, references: References | None
    ) -> tuple[Reward, Stage]:
        """Fit the reward, train the policy on it, and return the reward with its record."""
        reward, reward_stage = self._hardened(fits, references)
        settings = {**settings_of(state.run, self, "post_train"), "watched": self._unseen_prompts()}
        post_train = self.post_train
        if self.online is not None:
            described = settings_of(state.run, self, "online")
            members = [reward] if self.reads_references else self._members_in_use()
            reward, reward_stage, post_train = hardened_online(
                state, self.online, members, reward_stage, post_train, described
            )
        watched = partial(
            MonitoredPolicy, reward, self.prompts, held_out_prompts=self._unseen_prompts()
        )
        train_policy(state, post_train, reward, reward_stage, watched, settings)
        return reward, reward_stage

    @property
    def draws_references(self) -> bool:
        """Tell whether responses of the first policy are drawn, for attacks or the reward."""
        return bool(self.rounds) or self.reads_references

    @property
    def reads_references(self) -> bool:
        """Tell whether the reward is made of the references beside the members."""
        return self.tether is not None or callable(self.use)

    def exported(self) -> dict[str, Any]:
        """Return the policy and a member of the reward, by the names of their folders."""
        return {POLICY_FOLDER: self.policy, REWARD_FOLDER: self.members[0]}

    def plan(self) -> list[str]:
        """Return the names of the stages in order."""
        return plan.of_adv_rm(self)

    def fitted(self) -> list[Reward]:
        """Return the members."""
        return list(self.members)

    def fit_rows(self, part: Part) -> PreferencePairs:
        """Return the clean pairs that are trained on, or held out."""
        return self.preferences.split(part)

    def draw_counts(self) -> dict[str, int]:
        """Return how many references the attacks are measured against, and how many anchors."""
        counts = {REFERENCES: self.attack.references * len(self.prompts)}
        if self.online is not None:
            counts[ANCHORS] = self.online.best_of * len(self.prompts)
        return counts

    def shrink(self) -> None:
        """Keep few pairs and held-out prompts, and a small attack."""
        self.preferences = self.preferences.few(few.ROWS)
        self.held_out_prompts = self.held_out_prompts[: few.PROMPTS]
        attacker = few.small_attacker(self.attack.attacker)
        self.attack = replace(self.attack, attacker=attacker, references=2, enough=None)
        if self.online is not None:
            self.online = replace(self.online, best_of=2)

    def widen(self, references: int) -> None:
        """Take more references, and each prompt once."""
        self.prompts = _unique_prompts(self.prompts)
        self.attack = replace(self.attack, references=references)

    def _references(self, state: State, prompts: Sequence[Prompt], name: str) -> References:
        """Return responses of the first policy to each prompt, kept as a stage before round 1."""
        prompts = list(prompts)
        before_rounds = replace(
            state, policy=state.first_policy, policy_stage=state.start, prompts=prompts, number=0
        )
        count = self.attack.references * len(set(prompts))
        stage = draw_stage(before_rounds, name, count)
        return References(draw_from(before_rounds, state.first_policy, stage, count), stage)

    def _attack_and_mine(self, state: State, fits: MemberFits, references: References) -> bool:
        """Attack, keep the pairs that pass the filter, and tell whether to go on."""
        judge = None
        if self.attack.judge is not None:
            judge = self.evaluation.judges[self.attack.judge]
        attacks = []
        stages = []
        options: dict[str, Any] = {"judge": judge, "enough": self.attack.enough}
        for number in range(len(self.members) if self.attack.members == "each" else 1):
            stage = self._attack_stage(state, fits, references, self.prompts, ATTACK, number)
            sides = self._sides(state, fits, references, REFERENCE_SCORES, number)
            attacked = attack(
                state, self.policy, self.attack, sides, stage, self.prompts, **options
            )
            attacks.append(attacked)
            stages.append(stage)
        fits.extend(attacks, state.stage(ADVERSARIAL, *stages))
        figures, continues = self._figures(state, fits, attacks)
        state.report(**figures)
        return continues and any(len(attacked.pairs) for attacked in attacks)

    def _figures(
        self, state: State, fits: MemberFits, attacks: Sequence[Attacked]
    ) -> tuple[dict[str, Any], bool]:
        """Return each attack's figures, and whether the yield is worth another round."""
        figures: dict[str, Any] = {}
        for number, attacked in enumerate(attacks):
            figures[_attack_name(ATTACK, number)] = attack_figures(attacked)
        if self.held_out_prompts:
            held_out_yield = self._held_out_yield(state, fits)
            figures[ATTACK]["yield"] = held_out_yield
            return figures, held_out_yield >= self.attack.stop_below
        best_yield = max(attacked.yield_share for attacked in attacks)
        has_enough = any(is_enough(attacked.funnel, self.attack.enough) for attacked in attacks)
        return figures, has_enough or best_yield >= self.attack.stop_below

    def _held_out_yield(self, state: State, fits: MemberFits) -> float:
        """Return the yield of a fresh attack on prompts that nothing is trained on."""
        prompts = self.held_out_prompts
        references = self._references(state, prompts, HELD_OUT_REFERENCES)
        stage = self._attack_stage(state, fits, references, prompts, HELD_OUT_ATTACK, 0)
        sides = self._sides(state, fits, references, HELD_OUT_REFERENCE_SCORES, 0)
        return attack(state, self.policy, self.attack, sides, stage, prompts).yield_share

    def _sides(
        self, state: State, fits: MemberFits, references: References, name: str, number: int
    ) -> Sides:
        """Return the two sides of an attack on one member, with the references' scores."""
        witness = self.attack.witness
        settings: dict[str, Any] = {"member": number}
        if witness is not None:
            settings["witness"] = fingerprint(witness)
        scale = self.attack.witness_scale
        if scale != "deviation":
            settings["witness_scale"] = scale
        title = _attack_name(name, number)
        stage = state.stage(title, references.stage, *fits.stages, **settings)
        members = self.members
        return sides_of(state, stage, members, number, witness, references.samples, scale)

    def _attack_stage(
        self,
        state: State,
        fits: MemberFits,
        references: References,
        prompts: Sequence[Prompt],
        name: str,
        number: int,
    ) -> Stage:
        """Return the record of an attack on one member."""
        title = _attack_name(name, number)
        inputs = (references.stage, *fits.stages)
        settings = settings_of(state.run, self, "attack")
        seed = state.seed_of(title)
        return state.stage(
            title, *inputs, seed=seed, prompts=list(prompts), member=number, **settings
        )

    def _hardened(self, fits: MemberFits, references: References | None) -> tuple[Reward, Stage]:
        """Refit the members in use, and return the hardened reward with its record.

        A tether's distance is subtracted from it.
        """
        fits.fit(self._members_in_use())
        settings: dict[str, Any] = settings_of(fits.state.run, self, "use")
        inputs = tuple(fits.stages)
        samples = None
        if references is not None:
            samples = references.samples
            if self.reads_references:
                inputs = (*inputs, references.stage)
        reward = reward_in_use(self.use, self.members, samples)
        tether = self.tether
        if tether is not None:
            assert samples is not None  # a tether reads the references
            novelty = fingerprint(tether.novelty)
            settings["tether"] = [novelty, tether.weight, tether.reward_weight]
            reward = tethered(reward, tether, samples)
        return reward, Stage("hardened", inputs, settings)

    def _members_in_use(self) -> list[Reward]:
        """Return the members whose mean, or what is made of them, the policy climbs."""
        return self.members[:1] if self.use == "target" else self.members

    def _unseen_prompts(self) -> list[Prompt]:
        """Return prompts that nothing is trained on: those held out, or of the held-out pairs."""
        if self.held_out_prompts:
            return self.held_out_prompts
        trained = set(self.prompts)
        others = dict.fromkeys(self.preferences.split("held_out").chosen.prompts)
        return [prompt for prompt in others if prompt not in trained]

    def _evaluate(self, state: State, reward: Reward, reward_stage: Stage) -> None:
        """Judge the policy; report the reward's scores of it and of the policy before."""
        columns = compare_policies(state, reward, reward_stage, self.evaluation)
        figures = {f"score_{name}": mean_figure(scores) for name, scores in columns.items()}
        state.report(separation=figures)


def _unique_prompts(source: str | Path | Sequence[Prompt] | None) -> list[Prompt]:
    if source is None:
        return []
    prompts = read_prompts(source) if isinstance(source, str | Path) else source
    return list(dict.fromkeys(prompts))


def _attack_name(name: str, number: int) -> str:
    """Return the name of an attack: the first member's has no number."""
    return f"{name}-{number}" if number else name


def _report_cost(state: State) -> None:
    """Write what hardening cost into timing.json."""
    figures = state.run.results({})["rounds"][str(state.number)]
    steps = figures.get("post_train", {}).get("steps", 0)
    state.run.timing({"cost": cost(state.run.timing(), state.generations, steps)})
