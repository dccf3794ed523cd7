"""The audit that climbs a reward by best of n while another one judges."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from rewardlab.audits.inputs import distinct_prompts, names_of
from rewardlab.audits.left_out import curve_samples, curve_scores, missing_of_curve
from rewardlab.conversations import Prompt
from rewardlab.errors import AlikeError, InputError
from rewardlab.evaluation.choosing_n import best_of_each_n, choose_n, familiar_n, fitting_ns
from rewardlab.evaluation.overoptimization import (
    Fit,
    best_of_n_curve,
    fit_overoptimization,
    powers_of_two,
)
from rewardlab.metrics import best_of_n_kl
from rewardlab.mining.candidates import candidates, repeated
from rewardlab.policies import Generator
from rewardlab.rewards import Reward
from rewardlab.rewards.abilities import frozen_features
from rewardlab.rewards.novelty import Novelty
from rewardlab.rewards.relative import places_of, spread_within
from rewardlab.rewards.scoring import judged, scores_of
from rewardlab.runs import layout
from rewardlab.runs.folder import RunFolder
from rewardlab.seeds import derive
from rewardlab.storage.atomic import write_atomically
from rewardlab.storage.samples import load_samples, save_samples
from rewardlab.types import Samples

INPUTS = ("policy", "proxy", "gold")
DOUBTS = {"doubt": "members", "distance": "features"}  # facts, and what they come from
Rows = list[dict[str, Any]]


@dataclass(frozen=True)
class CurveResult:
    """How gold fared while best of n climbed the proxy.

    Attributes:
        figures: plain data, as results.json holds it. `figures["verdict"]` has a "word" ("peaks",
            "rises", "falls", "level" or "unclear") and a "sentence"; `figures["curve"]` has a row
            for each n; `figures["n"]` says how large an n to take, by gold ("chosen") and without
            ("familiar", where the proxy has members that can disagree, or frozen features);
            `figures["poisson"]` has the "curve" of the best of Poisson for the n that the pool is
            large enough for, and the mean n that is "chosen" by gold.
        fit: Gao's fit of gold.
        made_by: what the curve was made by: policy, proxy and gold.
    """

    figures: dict[str, Any]
    fit: Fit
    made_by: dict[str, Any]


class RelativeScores(NamedTuple):
    """Scores on a scale that prompts share.

    Attributes:
        values: [P, N], less each prompt's mean, in standard deviations within prompts.
        mean: the mean over prompts that was taken off.
        deviation: the standard deviation within prompts.
    """

    values: Tensor
    mean: float
    deviation: float

    def scale(self) -> dict[str, float]:
        """Return mean and deviation as plain data."""
        return {"mean": self.mean, "deviation": self.deviation}


class CurveAudit:
    """Climb a proxy by best of n, and say whether gold peaks inside the range.

    See Gao et al., arXiv 2210.10760, section 2. All n are estimated without bias from the same
    outputs.

    Args:
        policy: draws the outputs.
        proxy: the reward that is climbed.
        gold: the reward that judges.
        prompts: a file of prompts, or the prompts. Equal ones count once. Intervals are over them.
        n_max: the largest n, at least 4.
        samples: outputs of each prompt, at least `n_max`; twice `n_max` by default.
        seed: seed of everything that is drawn.
        identity: plain data that names arguments in the stage's key and in the provenance, such as
            the fingerprint of the folder that a reward was loaded from; further names only add to
            the key. An argument without an entry is named by its weights and its settings.

    Raises:
        InputError: if a number is out of range, or there are no prompts.

    Example:
        >>> from rewardlab.embedded.tiny_worlds import text_policy
        >>> from rewardlab.rewards.rules import Length, Repetition
        >>> policy = text_policy(train_steps=1)
        >>> CurveAudit(policy, Length(), Repetition(1), ["one"], n_max=8).samples
        16
    """

    def __init__(
        self,
        policy: Generator,
        proxy: Reward,
        gold: Reward,
        prompts: str | Path | list[Prompt],
        n_max: int = 64,
        samples: int | None = None,
        seed: int = 0,
        identity: Mapping[str, Any] | None = None,
    ) -> None:
        self.policy = policy
        self.proxy = proxy
        self.gold = gold
        self.prompts = distinct_prompts(prompts)
        self.n_max = n_max
        self.samples = 2 * n_max if samples is None else samples
        self.seed = seed
        self.identity = dict(identity or {})
        if n_max < 4 or self.samples < n_max:
            raise InputError(
                "CurveAudit needs n_max of at least 4, and as many samples of each prompt; got "
                f"n_max={n_max} and samples={self.samples}."
            )

    def run(self, folder: RunFolder) -> CurveResult:
        """Draw and score the outputs once, a stage; write results.json and curve.csv."""
        key = self._key()
        made_by = {name: key[name] for name in INPUTS}
        folder.record({"inputs": made_by})
        drawn = self._scored_samples(folder, key)
        facts = curve_samples(drawn, self.n_max).facts
        unscored = int(missing_of_curve(drawn).sum())
        proxy = self._relative("proxy", facts["proxy"])
        gold = self._relative("gold", facts["gold"])
        rows = self._curve(proxy.values, gold.values)
        fit = self._fit(rows, proxy.values, gold.values)
        figures = folder.results(
            {
                "prompts": len(self.prompts),
                "samples": len(facts["proxy"]) // len(self.prompts),
                **({"unscored": unscored} if unscored else {}),
                "scales": {"proxy": proxy.scale(), "gold": gold.scale()},
                "curve": rows,
                "poisson": self._poisson(proxy.values, gold.values),
                "n": self._n(proxy.values, gold.values, facts),
                "fit": fit.as_dict(),
                "verdict": curve_verdict(rows, fit, len(self.prompts)),
            }
        )
        write_atomically(folder.path / layout.CURVE_TABLE, _csv(figures["curve"]))
        return CurveResult(figures, fit, made_by)

    def _key(self) -> dict[str, Any]:
        """Return what the stage depends on."""
        parts = {name: getattr(self, name) for name in INPUTS}
        return {
            **names_of(parts, self.identity),
            "prompts": self.prompts,
            "samples": self.samples,
            "seed": self.seed,
            **self.identity,
        }

    def _scored_samples(self, folder: RunFolder, key: Mapping[str, Any]) -> Samples:
        """Return N outputs of each of P prompts, [P·N], with the facts "proxy" and "gold"."""

        def draw(stage: Path) -> None:
            self.policy.eval()
            seed = derive(self.seed, "curve")
            samples = candidates(self.policy, self.prompts, self.samples, seed)
            proxy, members = curve_scores(self.proxy, samples)
            gold = judged(self.gold, samples).scores
            doubt = _doubt(self.proxy, samples, members)
            samples = samples.with_facts(proxy=proxy, gold=gold, **doubt)
            save_samples(stage / layout.SAMPLES_FOLDER, samples)

        return load_samples(folder.stage(layout.SAMPLES, key, draw) / layout.SAMPLES_FOLDER)

    def _n(self, proxy: Tensor, gold: Tensor, facts: Mapping[str, Tensor]) -> dict[str, Any]:
        """Return how large an n to take, up to `n_max`."""
        ns = list(range(1, self.n_max + 1))
        figures: dict[str, Any] = {"chosen": choose_n(proxy, gold, ns, seed=self.seed).as_dict()}
        for name, by in DOUBTS.items():
            if name in facts and len(proxy) > 1:
                powers = powers_of_two(self.n_max)
                doubt = facts[name].view_as(proxy)
                familiar = familiar_n(proxy, doubt, powers, seed=self.seed)
                figures["familiar"] = {**familiar.as_dict(), "by": by}
        return figures

    def _relative(self, name: str, scores: Tensor) -> RelativeScores:
        """Return scores [P·N] on a scale that prompts share.

        Raises:
            InputError: if the reward gives all outputs of each prompt the same score.
        """
        prompt_of_row = repeated(self.prompts, len(scores) // len(self.prompts))
        try:
            names, means, deviations = spread_within(prompt_of_row, scores.reshape(-1, 1))
        except InputError as error:
            raise InputError(f"--{name}: {error}") from error
        place_of_prompt = {prompt: place for place, prompt in enumerate(names)}
        places = places_of(self.prompts, place_of_prompt, "CurveAudit")
        by_prompt = scores.view(len(self.prompts), -1).double()
        values = (by_prompt - means[places]) / deviations
        return RelativeScores(values, means.mean().item(), deviations.item())

    def _curve(self, proxy: Tensor, gold: Tensor) -> Rows:
        """Return the curve's rows for the powers of two up to `n_max`, and for `n_max`."""
        ns = sorted({*powers_of_two(self.n_max), self.n_max})
        return best_of_n_curve(proxy, gold, ns, seed=self.seed)

    def _poisson(self, proxy: Tensor, gold: Tensor) -> dict[str, Any]:
        """Return the curve of the best of Poisson, and its best mean n, as far as the pool goes."""
        ns = sorted({*powers_of_two(self.n_max), self.n_max})
        fitting = fitting_ns(ns, proxy.shape[1], "poisson")
        rows = best_of_n_curve(proxy, gold, fitting, seed=self.seed, draws="poisson")
        every = fitting_ns(range(1, fitting[-1] + 1), proxy.shape[1], "poisson")
        chosen = choose_n(proxy, gold, every, seed=self.seed, draws="poisson")
        return {"curve": rows, "chosen": chosen.as_dict()}

    def _fit(self, rows: Rows, proxy: Tensor, gold: Tensor) -> Fit:
        """Return Gao's fit of gold over its start, with intervals over prompts."""
        gold_by_n = best_of_each_n(proxy, gold, [row["n"] for row in rows]).float().T.contiguous()
        distance = torch.tensor([row["distance"] for row in rows])
        return fit_overoptimization(
            distance, gold_by_n - gold_by_n[:1], "best_of_n", seed=self.seed
        )


def _doubt(proxy: Reward, samples: Samples, members: Tensor) -> dict[str, Tensor]:
    """Return how far members' scores [P·N, M] part on each output, "doubt" [P·N], if M > 1.

    Each member's scores are in its own standard deviations within a prompt. Of one member it is
    "distance" [P·N], how far an output lies from the others in the proxy's frozen features. Members
    or outputs that are alike, and a proxy without features, say nothing of doubt.
    """
    if members.shape[1] < 2:
        return _distance(proxy, samples)
    try:
        names, means, deviations = spread_within(samples.prompts, members)
    except AlikeError:
        return {}
    place_of_prompt = {prompt: place for place, prompt in enumerate(names)}
    places = places_of(samples.prompts, place_of_prompt, "CurveAudit")
    relative = (members.double() - means[places]) / deviations
    return {"doubt": relative.std(1).float()}


def _distance(proxy: Reward, samples: Samples) -> dict[str, Tensor]:
    """Return the distance [P·N] of each output from the others in the proxy's frozen features."""
    if frozen_features(proxy) is None:
        return {}
    try:
        return {"distance": -scores_of(Novelty(proxy, samples), samples)}
    except AlikeError:
        return {}


def curve_verdict(rows: Rows, fit: Fit, prompts: int) -> dict[str, str]:
    """Return the verdict as "word", and the "sentence" that says why.

    The word is "peaks", "rises", "falls", "level" or "unclear". Gold is level where it is nowhere
    above its start and at the end not below it, by its intervals, while the proxy rises.

    Args:
        rows: the curve's rows, by rising n.
        fit: the fit of gold.
        prompts: how many prompts the intervals rest on.
    """
    last = rows[-1]
    word = _word(rows, fit)
    gold = _with_interval(last, "gold")
    proxy = _with_interval(last, "proxy")
    ending = f"at n = {last['n']} gold is {gold} and the proxy {proxy}, in standard deviations"
    sentence = f"{_finding(word, rows, fit)}; {ending}."
    if prompts == 1:
        sentence += " One prompt only: intervals come from the fit's residuals and are too narrow."
    return {"word": word, "sentence": sentence}


def _word(rows: Rows, fit: Fit) -> str:
    """Return the verdict's one word, by the fit's peak and gold at the largest n."""
    last = rows[-1]
    if _is_level(rows):
        return "level"
    low, high = fit.intervals["peak"]
    gold_high = last["gold_high" if "gold_high" in last else "gold"]
    if fit.alpha <= 0 and gold_high < 0:
        return "falls"
    if low > 0 and high < fit.reached:
        return "peaks"
    if low > fit.reached:
        return "rises"
    return "unclear"


def _is_level(rows: Rows) -> bool:
    """Tell whether gold nowhere rises, by its intervals, nor ends lower, while the proxy rises."""
    if "gold_low" not in rows[0] or "proxy_low" not in rows[0]:
        return False
    last = rows[-1]
    never_above = all(row["gold_low"] <= 0 for row in rows)
    return bool(never_above and last["gold_high"] >= 0 and last["proxy_low"] > 0)


def _finding(word: str, rows: Rows, fit: Fit) -> str:
    """Say what gold does inside the range."""
    low, high = fit.intervals["peak"]
    peak = f"{fit.peak:.2f} [{low:.2f}, {high:.2f}]"
    if math.isinf(fit.peak):
        peak = "no finite distance"
    reached = f"√KL = {fit.reached:.2f}"
    if word == "level":
        return "Gold does not rise while the proxy does: it does not follow the proxy"
    if word == "falls":
        return "Gold has no peak inside the range: it falls from the start"
    if word == "peaks":
        n = _nearest_n(fit.peak)
        return (
            f"Gold peaks inside the range, at √KL = {peak} (about n = {n}), "
            f"{fit.peak_gold:+.2f} above its start by the fit"
        )
    if word == "rises":
        return f"Gold does not peak inside the range, which ends at {reached}"
    top = max(rows, key=_gold)
    measured = f"the fit puts the peak at {peak}; the highest point measured is n = {top['n']}"
    if _parts(rows[-1]):
        return (
            "Gold ends below its start while the proxy rises: to choose the best of "
            f"{rows[-1]['n']} does harm. Whether gold peaks before is unclear: {measured}"
        )
    return f"Whether gold peaks inside the range, which ends at {reached}, is unclear: {measured}"


def _parts(row: Mapping[str, Any]) -> bool:
    """Tell whether gold is below its start and the proxy above, by their intervals."""
    has_intervals = "gold_high" in row and "proxy_low" in row
    return has_intervals and row["gold_high"] < 0 < row["proxy_low"]


def _gold(row: Mapping[str, Any]) -> float:
    return float(row["gold"])


def _with_interval(row: Mapping[str, Any], name: str) -> str:
    """Write a figure with its interval, where there is one."""
    value = row[name]
    if f"{name}_low" not in row:
        return f"{value:+.2f}"
    low = row[f"{name}_low"]
    high = row[f"{name}_high"]
    return f"{value:+.2f} [{low:+.2f}, {high:+.2f}]"


def _nearest_n(distance: float) -> int:
    """Return the n whose √KL is nearest.

    Example:
        >>> _nearest_n(best_of_n_kl(12) ** 0.5)
        12
    """
    n = 1
    while best_of_n_kl(n + 1) ** 0.5 <= distance:
        n += 1
    below = distance - best_of_n_kl(n) ** 0.5
    above = best_of_n_kl(n + 1) ** 0.5 - distance
    return n if below < above else n + 1


def _csv(rows: Sequence[Mapping[str, Any]]) -> str:
    """Write rows of one form as CSV with a head."""
    text = io.StringIO()
    writer = csv.DictWriter(text, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()
