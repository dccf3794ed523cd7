"""The fits of an ensemble's members in Adv-RM's rounds, and the pairs that they learn from."""

from __future__ import annotations

from collections.abc import Sequence
from copy import copy
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from torch import Tensor

from rewardlab.data import Preferences, load_pairs, save_pairs
from rewardlab.rewards import Reward
from rewardlab.rounds.attacking import Attacked
from rewardlab.rounds.state import State, fit_reward, settings_of
from rewardlab.runs.layout import MEMBER, PAIRS_FOLDER
from rewardlab.runs.stage import Stage
from rewardlab.seeds import derive
from rewardlab.training.base import trained_state
from rewardlab.training.trainers import device_of
from rewardlab.types import PreferencePairs, Samples, concatenate


class MemberFits:
    """The members' fits in each round, and the adversarial pairs that they have so far.

    Attributes:
        stages: the records of the members' last fits.
        weights: how much each pair in training counts, [N]; None for all alike.
    """

    def __init__(self, rounds: Any, state: State) -> None:
        self.rounds = rounds
        self.state = state
        self.first_weights = [trained_state(member) for member in rounds.members]
        self.stages: list[Stage] = []
        self.pairs: PreferencePairs | None = None
        self.pair_stages: list[Stage] = []
        self.weights: Tensor | None = None
        self.weight_stages: list[Stage] = []
        self._fitted_data: Preferences | None = None

    def fit(self, members: Sequence[Reward]) -> None:
        """Refit these members from their first weights, each with its own order and bootstrap.

        Members that are finished, without a loop, stay as they are.
        """
        if self.rounds.fit.loop is None:
            self.stages = [self.state.start]
            for member in members:
                member.eval().to(device_of(self.rounds.fit.trainer))
            return
        figures = {}
        stages = []
        for number, member in enumerate(members):
            stage = self._stage(number)
            figures[str(number)] = self._fit_member(number, member, stage)
            stages.append(stage)
        self.stages = stages
        device = next(members[-1].parameters()).device  # a member that stood may be elsewhere
        for member in members:
            member.to(device)
        count = 0 if self.pairs is None else len(self.pairs)
        self.state.report(members=figures, adversarial_pairs=count)

    def extend(self, attacks: Sequence[Attacked], stage: Stage) -> None:
        """Keep the pairs of a round's attacks as a stage, and train on them from now on."""
        pairs = _joined([attacked.pairs for attacked in attacks])

        def save(folder: Path) -> None:
            if len(pairs):
                save_pairs(folder / PAIRS_FOLDER, pairs)

        folder = self.state.run.make(stage, save)
        if len(pairs):
            pairs = load_pairs(folder / PAIRS_FOLDER)
        self.pairs = pairs if self.pairs is None else _joined([self.pairs, pairs])
        self.pair_stages.append(stage)
        self._fitted_data = None

    def data(self, seed: int) -> Preferences:
        """Return the clean pairs and the adversarial ones so far, without weights.

        Args:
            seed: of their order.
        """
        if self.rounds.reweight is None:
            return self._extended(seed)
        if self._fitted_data is None:  # once, since it tells of what it cuts and leaves out
            self._fitted_data = self._extended(seed)
            self._fitted_data.fit_to(self.rounds.members)  # weights belong to the same rows then
        data = copy(self._fitted_data)
        data.order_seed = seed
        return data

    def weigh(self, weights: Tensor, stage: Stage) -> None:
        """Fit with weights from now on.

        Args:
            weights: [N], of the pairs in training.
            stage: the record of what made them.
        """
        self.weights = weights
        self.weight_stages = [stage]

    def _extended(self, seed: int) -> Preferences:
        """Return the clean pairs and the adversarial ones so far, in an order of their own."""
        preferences: Preferences = self.rounds.preferences
        pairs = preferences.split("train")[:0] if self.pairs is None else self.pairs
        return preferences.extended(pairs, seed)

    def _stage(self, number: int) -> Stage:
        state = self.state
        settings = settings_of(state.run, self.rounds, "members", "fit")
        seed = derive(self.rounds.seed, "member", number)
        before = self.stages[number : number + 1] if self.rounds.fit.warm_start else []
        inputs = (state.start, *self.pair_stages, *self.weight_stages, *before)
        return state.stage(f"{MEMBER}-{number}", *inputs, seed=seed, **settings)

    def _fit_member(self, number: int, member: Reward, stage: Stage) -> dict[str, Any]:
        fit = self.rounds.fit
        seed = stage.seed
        assert seed is not None
        assert fit.loop is not None  # `fit` has left finished members as they are
        if not fit.warm_start:
            member.load_state_dict(self.first_weights[number], strict=False)
        seeded = replace(fit, loop=partial(fit.loop, seed=seed))
        data = self.data(seed)
        if self.weights is not None:
            data = data.weighted(self.weights)
        return fit_reward(self.state, stage, seeded, member, data)


def _joined(parts: Sequence[PreferencePairs]) -> PreferencePairs:
    """Return all pairs; of several parts without facts, which differ between attacks."""
    if len(parts) == 1:
        return parts[0]
    plain: PreferencePairs = concatenate([_without_facts(pairs) for pairs in parts])
    return plain


def _without_facts(pairs: PreferencePairs) -> PreferencePairs:
    chosen = Samples(pairs.chosen.prompts, pairs.chosen.outputs)
    return PreferencePairs(chosen, Samples(pairs.rejected.prompts, pairs.rejected.outputs))
