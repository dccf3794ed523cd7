"""Refits of the reward by importance weights, for where a policy has gone: OCRM."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from rewardlab.errors import InputError
from rewardlab.losses.importance import ImportanceWeights, importance_weights
from rewardlab.policies import Policy
from rewardlab.rounds.member_fits import MemberFits
from rewardlab.rounds.state import State
from rewardlab.runs.layout import PAIR_WEIGHTS, SCORES_FILE
from rewardlab.training.base import step_total, trained_state
from rewardlab.types import PreferencePairs, Samples

BEHAVIOR = "the first policy's likelihood, whoever wrote a response"
BATCH = 64


@dataclass
class Reweighting:
    """Refit the reward to where the trained policy is, and train the policy anew.

    OCRM, arXiv 2507.15507: a reward is fitted where its pairs were drawn, and asked where the
    policy goes. Pair i gets the weight Π over both halves of π_now(y)/π_behavior(y), by which its
    loss is what the policy's own pairs would have: no new label, no new sample. The members in use
    are refitted with the weights, and the policy trains from its first weights again. The behavior
    policy is not known of given pairs nor of an attacker's: the first policy stands for both.

    Args:
        repeats: how many times.
        normalize: "length" takes the ratio a token, the geometric mean; "temper" takes the whole
            ratio to the power of `power`.
        power: of the ratio, for "temper".
        quantile: of the weights, at which larger ones are clipped.
    """

    repeats: int = 1
    normalize: Literal["length", "temper"] = "length"
    power: float = 0.1
    quantile: float = 0.95

    def __post_init__(self) -> None:
        if self.repeats < 1 or not 0 < self.power <= 1:
            raise InputError(
                "Reweighting needs repeats of at least 1 and a power above 0, up to 1; got "
                f"{self.repeats} and {self.power:g}."
            )
        if self.normalize not in ("length", "temper"):
            raise InputError(f'Reweighting takes "length" or "temper"; got {self.normalize!r}.')


class Repeats:
    """The further rounds of a run, each with weights for the policy of the one before.

    Args:
        settings: how weights are made; None for a run without further rounds.
        state: where the run stands, before its policy is trained.
        fits: the members' fits, which take the weights.
    """

    def __init__(self, settings: Reweighting | None, state: State, fits: MemberFits) -> None:
        self.settings = settings
        self.state = state
        self.fits = fits
        self.left = 0 if settings is None else settings.repeats
        self.start = trained_state(state.policy) if self.left else {}

    def begin(self) -> bool:
        """Begin the next round, with weights for the policy as it is; tell whether there is one."""
        if not self.left:
            return False
        self.left -= 1
        self.state.number += 1
        self._weigh()
        self.state.policy.load_state_dict(self.start, strict=False)
        self.state.policy_stage = self.state.start
        return True

    def _weigh(self) -> None:
        """Set the weights of the pairs that members are refitted on, and report what is left."""
        settings = self.settings
        assert settings is not None
        pairs = self.fits.data(self.state.seed).split("train")
        inputs = (self.state.policy_stage, *self.fits.pair_stages)
        stage = self.state.stage(
            PAIR_WEIGHTS, *inputs, normalize=settings.normalize, power=settings.power
        )

        def save(folder: Path) -> None:
            ratios = pair_log_ratios(self.state.policy, self.state.first_policy, pairs, settings)
            save_file({"log_ratios": ratios}, folder / SCORES_FILE)

        ratios = load_file(self.state.run.make(stage, save) / SCORES_FILE)["log_ratios"]
        found = importance_weights(ratios, settings.quantile)
        self.fits.weigh(found.weights.float(), stage)
        self.state.report(importance=_figures(found))


@torch.no_grad()
def pair_log_ratios(
    policy: Policy, behavior: Policy, pairs: PreferencePairs, settings: Reweighting
) -> Tensor:
    """Return the log-ratio of each pair, the sum over both halves, float64 [N].

    Args:
        policy: whose pairs they are to stand for.
        behavior: who is taken to have drawn them.
        pairs: N pairs of texts.
        settings: how ratios of sequences of different length are brought together.
    """
    totals = torch.zeros(len(pairs), dtype=torch.float64)
    device = next(policy.parameters()).device  # a reference that shares its weights has none
    for half in (pairs.chosen, pairs.rejected):
        now = _log_probs(policy, half, settings, device)
        then = _log_probs(behavior, half, settings, device)
        totals += now - then
    return totals


def check_reweighting(rounds: Any) -> None:
    """Refuse rounds in which a policy cannot be trained again from its first weights.

    Raises:
        InputError: if there is no loop, or a correction that has learned in the loop before.
    """
    if rounds.reweight is None:
        return
    has_loop = rounds.post_train.loop is not None
    if not has_loop or rounds.policy.mean_log_prob:
        raise InputError(
            "reweight needs the likelihoods of a policy of texts that a loop trains; got "
            f"{type(rounds.policy).__name__} and {'a' if has_loop else 'no'} post_train.loop. "
            "Leave out reweight."
        )
    if rounds.fit.loop is None:
        raise InputError(
            "reweight refits the members with weights, and fit.loop is none. Give fit a loop, or "
            "leave out reweight."
        )
    if rounds.online is not None:
        raise InputError(
            "reweight refits the reward and trains the policy anew, and online's correction has "
            "learned from the policy before. Take one of them."
        )


def _log_probs(
    policy: Policy, samples: Samples, settings: Reweighting, device: torch.device
) -> Tensor:
    """Return each output's log-probability, float64 [N]: a token, or times the power."""
    was_training = policy.training
    policy.eval()
    parts = []
    for start in range(0, len(samples), BATCH):
        batch = samples[start : start + BATCH]
        seeds = torch.zeros(len(batch), dtype=torch.long)
        trajectory = policy.encode(batch.to(device), seeds=seeds)
        totals = step_total(policy.log_prob(trajectory), trajectory.mask).double()
        lengths = trajectory.mask.sum(1).clamp_min(1)
        scaled = totals / lengths if settings.normalize == "length" else settings.power * totals
        parts.append(scaled.cpu())
    policy.train(was_training)
    return torch.cat(parts)


def _figures(found: ImportanceWeights) -> dict[str, Any]:
    """Return the figures of weights as plain data."""
    return {
        "effective_share": found.effective_share,
        "effective": found.effective_share * len(found.weights),
        "pairs": len(found.weights),
        "clipped": found.clipped,
        "largest": found.weights.max().item(),
        "behavior": BEHAVIOR,
    }
