"""What is left of an audit's samples where a reward leaves some out (docs/guide/not_scored.md)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from rewardlab.audits.scores import AttackScores, ScoredSamples
from rewardlab.conversations import Prompt
from rewardlab.errors import InputError
from rewardlab.rewards import Reward
from rewardlab.rewards.scoring import Scores, judged, judged_by, scores_and_members
from rewardlab.rewards.unscored import is_partial
from rewardlab.types import Samples


class OnlyScored(NamedTuple):
    """An attack's scores without what some reward did not score.

    Attributes:
        scores: what is left.
        rows: the place of each output of the attack that is left among all of them.
        unscored: how many of each side are not scored, for sides where some are; and "prompts",
            how many prompts were dropped.
    """

    scores: AttackScores
    rows: list[int]
    unscored: dict[str, int]


def only_scored(scores: AttackScores) -> OnlyScored:
    """Leave out what reward, witness or judge did not score.

    A prompt with fewer than two references that are scored is dropped. Of fresh samples every
    prompt keeps as many, the first that are scored: as many as the prompt with the fewest has.

    Raises:
        InputError: if nothing is left of a side, or no fresh sample of a prompt.
    """
    present = {side: _present(scored) for side, scored in scores._asdict().items()}
    unscored = {side: int((~rows).sum()) for side, rows in present.items() if not rows.all()}
    if not unscored:
        return OnlyScored(scores, list(range(len(scores.attack))), {})
    prompts = scores.references.samples.prompts
    compared = _with_several(prompts, present["references"])
    dropped = len(set(prompts) - compared)
    if dropped:
        unscored["prompts"] = dropped
    kept = {}
    places = {}
    for side, scored in scores._asdict().items():
        is_compared = [prompt in compared for prompt in scored.samples.prompts]
        rows = (present[side] & torch.tensor(is_compared)).nonzero().flatten()
        if side == "fresh":
            of_fresh = [scored.samples.prompts[row] for row in rows.tolist()]
            rows = rows[as_many_each(of_fresh, torch.ones(len(rows), dtype=torch.bool))]
        _check_left(side, len(scored), len(rows))
        kept[side] = scored[rows]
        places[side] = rows.tolist()
    return OnlyScored(AttackScores(**kept), places["attack"], unscored)


def _with_several(prompts: Sequence[Prompt], present: Tensor) -> set[Prompt]:
    """Return the prompts with two rows or more that are present."""
    counts: dict[Prompt, int] = {}
    for prompt, is_present in zip(prompts, present.tolist(), strict=True):
        counts[prompt] = counts.get(prompt, 0) + is_present
    return {prompt for prompt, count in counts.items() if count > 1}


def _check_left(side: str, count: int, left: int) -> None:
    """Refuse a side of which nothing is left."""
    if not left:
        raise InputError(
            f"Of the {count} {side} samples too few are scored by reward, witness and judge, so "
            "nothing is left to measure. Mend what kept them from scoring."
        )


def _present(scored: ScoredSamples) -> Tensor:
    """Return which samples each reward scores, bool [B]."""
    columns = [values.isnan() for values in scored.relative.values()]
    return ~torch.stack(columns).any(0)


def as_many_each(prompts: Sequence[Prompt], present: Tensor) -> Tensor:
    """Return which of the present samples stay, bool [B], so that each prompt has as many."""
    counts = dict.fromkeys(prompts, 0)
    numbers = []
    for prompt, is_present in zip(prompts, present.tolist(), strict=True):
        counts[prompt] += is_present
        numbers.append(counts[prompt])
    return present & (torch.tensor(numbers) <= min(counts.values()))


def curve_scores(proxy: Reward, samples: Samples) -> Scores:
    """Return a proxy's scores [B] and its members' [B, M]; NaN where not scored."""
    if not is_partial(proxy):
        return scores_and_members(proxy, samples)
    members = judged_by(proxy, proxy.members, samples).scores
    return Scores(judged(proxy, samples).scores, members)


def missing_of_curve(samples: Samples) -> Tensor:
    """Return which samples proxy or gold did not score, bool [B]."""
    return samples.facts["proxy"].isnan() | samples.facts["gold"].isnan()


def curve_samples(samples: Samples, n_max: int) -> Samples:
    """Return what proxy and gold score, of each prompt as many: as the one with the fewest has.

    Args:
        samples: as many of each prompt, with the facts "proxy" and "gold".
        n_max: how many have to be left of a prompt.

    Raises:
        InputError: if fewer are.
    """
    missing = missing_of_curve(samples)
    if not missing.any():
        return samples
    prompts = len(set(samples.prompts))
    left = as_many_each(samples.prompts, ~missing)
    count = int(left.sum()) // prompts
    if count < n_max:
        raise InputError(
            f"Of the {len(samples) // prompts} samples of a prompt proxy and gold both score "
            f"{count}, and n_max={n_max} needs as many. Draw more, or take a smaller n_max."
        )
    return samples[left]
