"""Adversarial pairs: what an attack has found, filtered until the reference is likely the better
answer.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from rewardlab.errors import InputError
from rewardlab.provenance import fingerprint
from rewardlab.rewards.relative import places_of, spread_within
from rewardlab.types import PreferencePairs, Samples

STEPS = ("generated", "unique", "gated", "disagreeing", "per_prompt", "kept")


@dataclass(frozen=True)
class Funnel:
    """How many samples of an attack were left after each step of the filter, and how many of those
    a judge agrees with.

    Attributes:
        counts: of "generated", "unique" (no two alike, none a reference), "gated" (above the
            references' mean), "disagreeing", "per_prompt" (at most q a prompt) and "kept" (the
            cap).
        precision: the share of samples whose chosen side the judge prefers to them, a tie counting
            one half, at each step; None for a step that left none. Nothing at all without a judge.

    Example:
        >>> print(Funnel({"generated": 8, "kept": 2}, {"generated": 0.5, "kept": 1.0}))
        step         left  share  precision
        generated       8  1.000      0.500
        kept            2  0.250      1.000
    """

    counts: Mapping[str, int]
    precision: Mapping[str, float | None] | None = None

    def as_dict(self) -> dict[str, Any]:
        """Return plain data for results.json."""
        return {"counts": dict(self.counts)} | (
            {} if self.precision is None else {"precision": dict(self.precision)}
        )

    def __str__(self) -> str:
        lines = [
            f"{'step':12}{'left':>5}  share" + ("" if self.precision is None else "  precision")
        ]
        start = max(next(iter(self.counts.values())), 1)
        for step, count in self.counts.items():
            right = "" if self.precision is None else _figure(self.precision[step])
            lines.append(f"{step:12}{count:5}  {count / start:.3f}" + right)
        return "\n".join(lines)


def adversarial_pairs(
    attacks: Samples,
    target_scores: Tensor,
    witness_scores: Tensor,
    references: Samples,
    reference_target: Tensor,
    reference_witness: Tensor,
    *,
    kind: Literal["signed", "absolute"] = "signed",
    z: float = 1.96,
    quantile: float | None = None,
    chosen: Literal["first", "best"] = "first",
    per_prompt: int = 1,
    cap: int = 1000,
    relative: bool = True,
    judge_scores: tuple[Tensor, Tensor] | None = None,
) -> tuple[PreferencePairs, Funnel]:
    """Pair references, as chosen, with attacks that the target overrates and the witness doubts.
    Adv-RM, section 3.

    An attack stays if the target scores it above the mean of its prompt's references, and the
    disagreement of target and witness is larger than z standard deviations of the references'
    disagreement. Of a prompt's attacks, and beyond the cap, the ones with the largest disagreement
    stay, of equals the earlier.

    Args:
        attacks: B samples of adversaries.
        target_scores: [B], of the reward that is to be hardened.
        witness_scores: [B].
        references: N samples of the first policy, two or more a prompt of the attacks.
        reference_target: [N], of the target.
        reference_witness: [N], of the witness.
        kind: disagreement is target - witness ("signed"), or its absolute value (the paper's).
        z: how large it has to be, above the references' mean in their standard deviations.
        quantile: instead of z: above this quantile of the references' own disagreement.
        chosen: the prompt's "first" reference, or the "best" of them by the target.
        per_prompt: q, most pairs of one prompt.
        cap: most pairs.
        relative: bring scores to each prompt's references first, as `Relative` does, so that an
            offset f(prompt) or a scale of a score changes no pair. Scores that come from `Relative`
            stay as they are. False takes scores as given: the paper's, and the ablation.
        judge_scores: of attacks [B] and of references [N], by a gold reward. They are read for the
            funnel's precision only.

    Returns:
        The pairs, in the attacks' order, with the facts "target" and "witness" on both halves and
        "disagreement" (in standard deviations) on the rejected one; and the funnel.

    Raises:
        InputError: if columns do not fit, a prompt has no references, or the references'
            disagreement does not vary.

    Example:
        >>> references = Samples(["hi"] * 4, ["hello", "good day", "hey", "welcome"])
        >>> known = torch.tensor([0.0, 1.0, 0.0, 1.0]), torch.tensor([0.0, 1.0, 1.0, 0.0])
        >>> attacks = Samples(["hi"] * 3, ["of of of", "goodbye", "hello there"])
        >>> scores = torch.tensor([6.0, -5.0, 1.0]), torch.tensor([-4.0, -9.0, 1.0])
        >>> pairs, funnel = adversarial_pairs(attacks, *scores, references, *known)
        >>> pairs.chosen.outputs, pairs.rejected.outputs, list(funnel.counts.values())
        (['hello'], ['of of of'], [3, 3, 2, 1, 1, 1])
    """
    own = _columns(attacks, "target_scores and witness_scores", target_scores, witness_scores)
    known = _columns(
        references, "reference_target and reference_witness", reference_target, reference_witness
    )
    names = list(dict.fromkeys(references.prompts))
    places = {name: place for place, name in enumerate(names)}
    place, known_place = (
        places_of(half.prompts, places, "adversarial_pairs") for half in (attacks, references)
    )
    lead = own[:, 0] - _means(known[:, 0], known_place)[place]
    disagreement, limit = _disagreement(
        own, known, place, references.prompts, kind, z, quantile, relative
    )
    best = known[:, 0] if chosen == "best" else torch.zeros(len(known))
    partner = _largest_of_each(best, known_place)[place]

    steps = [range(len(attacks)), _unique(attacks, references)]
    steps.append([row for row in steps[-1] if lead[row] > 0])
    steps.append([row for row in steps[-1] if disagreement[row] > limit])
    ranked = sorted(steps[-1], key=lambda row: (-disagreement[row].item(), row))
    ranked = _at_most(per_prompt, ranked, attacks.prompts.__getitem__)
    steps += [ranked, sorted(ranked[:cap])]
    funnel = Funnel(
        dict(zip(STEPS, map(len, steps), strict=True)),
        _precision(steps, partner, judge_scores, attacks, references),
    )

    rows = torch.tensor(steps[-1], dtype=torch.long)
    rejected = attacks[rows].with_facts(
        disagreement=disagreement[rows].float(), **_facts(own[rows])
    )
    return PreferencePairs(
        references[partner[rows]].with_facts(**_facts(known[partner[rows]])), rejected
    ), funnel


def _disagreement(
    own: Tensor,
    known: Tensor,
    place: Tensor,
    prompts: Sequence[str],
    kind: str,
    z: float,
    quantile: float | None,
    relative: bool,
) -> tuple[Tensor, float]:
    """Return the attacks' disagreement [B] in the references' standard deviations, and what it has
    to exceed.

    With `relative`, references are measured against a mean that they are part of, so each of K
    differs from it by less than an attack, which is not: by √((K - 1)/K) against √((K + 1)/K)
    deviations. The references' residuals are widened by the ratio, or z = 1.96 would let through 13
    % of fresh samples instead of 2.5 % at K = 2.
    """
    if relative:
        names, means, deviations = spread_within(prompts, known)
        known_place = places_of(
            prompts, {name: i for i, name in enumerate(names)}, "adversarial_pairs"
        )
        count = torch.bincount(known_place)[known_place].double()
        own = (own - means[place]) / deviations
        several = count > 1
        widened = ((count + 1) / (count - 1)).sqrt()[several, None]
        known = ((known - means[known_place]) / deviations)[several] * widened
    gaps, known_gaps = (scores[:, 0] - scores[:, 1] for scores in (own, known))
    if kind == "absolute":
        gaps = gaps.abs()
        known_gaps = known_gaps.abs()
    spread, mean = torch.std_mean(known_gaps)
    if not spread > 1e-6 * (known.abs().mean() + known_gaps.abs().mean()):
        raise InputError(
            f"Target and witness disagree equally on all {len(known_gaps)} references, so their disagreement has no scale. Are "
            "they one reward, or is there one reference only?"
        )
    limit = z if quantile is None else ((known_gaps.quantile(quantile) - mean) / spread).item()
    return (gaps - mean) / spread, limit


def _columns(samples: Samples, what: str, *scores: Tensor) -> Tensor:
    """Return scores as float64 columns [B, 2]."""
    shapes = [list(column.shape) for column in scores]
    if shapes != [[len(samples)]] * len(scores) or not all(
        column.isfinite().all() for column in scores
    ):
        raise InputError(
            f"{what} need one finite score for each of {len(samples)} samples; got {shapes}."
        )
    return torch.stack([column.detach().double().cpu() for column in scores], 1)


def _means(values: Tensor, place: Tensor) -> Tensor:
    """Return the mean [P] of values [N] over each place."""
    counts = torch.bincount(place)
    return torch.zeros(len(counts), dtype=values.dtype).index_add_(0, place, values) / counts


def _largest_of_each(values: Tensor, place: Tensor) -> Tensor:
    """Return the first row [P] that holds the largest value of each place."""
    rows: dict[int, int] = {}
    for row, (where, value) in enumerate(zip(place.tolist(), values.tolist(), strict=True)):
        if where not in rows or value > values[rows[where]]:
            rows[where] = row
    return torch.tensor([rows[where] for where in range(len(rows))], dtype=torch.long)


def _unique(attacks: Samples, references: Samples) -> list[int]:
    """The rows whose output, text or pixels, is neither a reference of its prompt nor one that
    stood before.
    """
    seen = set(_keys(references))
    return [row for row, key in enumerate(_keys(attacks)) if not (key in seen or seen.add(key))]


def _keys(samples: Samples) -> list[tuple[str, str]]:
    outputs = samples.outputs
    marks = map(fingerprint, outputs) if isinstance(outputs, Tensor) else outputs
    return list(zip(samples.prompts, marks, strict=True))


def _at_most(limit: int, rows: Sequence[int], group: Callable[[int], str]) -> list[int]:
    """The first `limit` rows of each group."""
    counts: dict[str, int] = {}
    kept = []
    for row in rows:
        counts[group(row)] = counts.get(group(row), 0) + 1
        if counts[group(row)] <= limit:
            kept.append(row)
    return kept


def _precision(
    steps: Sequence[Sequence[int]],
    partner: Tensor,
    judge_scores: tuple[Tensor, Tensor] | None,
    attacks: Samples,
    references: Samples,
) -> dict[str, float | None] | None:
    """The share of each step's rows whose partner the judge prefers."""
    if judge_scores is None:
        return None
    own = _columns(attacks, "judge_scores of the attacks", judge_scores[0])[:, 0]
    known = _columns(references, "judge_scores of the references", judge_scores[1])[:, 0]
    right = (1 + (known[partner] - own).sign()) / 2
    means = [right[list(rows)].mean().item() if len(rows) else None for rows in steps]
    return dict(zip(STEPS, means, strict=True))


def _facts(scores: Tensor) -> dict[str, Tensor]:
    return dict(zip(("target", "witness"), scores.float().unbind(1), strict=True))


def _figure(share: float | None) -> str:
    return f"{'-' if share is None else format(share, '.3f'):>11}"
