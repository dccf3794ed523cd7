"""The best of many candidates, of which only a block is in memory."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from rewardlab.conversations import Prompt
from rewardlab.policies import Generator
from rewardlab.rewards import Reward
from rewardlab.rewards.scoring import BATCH, judged
from rewardlab.rewards.unscored import Judged, say_left_out
from rewardlab.types import Samples, concatenate


@dataclass(frozen=True)
class Candidates:
    """Candidates of several groups, in the order in which they were drawn.

    Attributes:
        samples: N rows.
        scores: float32 [N], NaN where a candidate is not scored.
        groups: int64 [N], to which of the groups a candidate belongs.
    """

    samples: Samples
    scores: Tensor
    groups: Tensor

    def __getitem__(self, rows: Tensor) -> Candidates:
        return Candidates(self.samples[rows], self.scores[rows], self.groups[rows])

    def ends(self, worst: bool) -> Candidates:
        """Return the best of each group, and behind it the worst if asked for.

        The first of equal ones is taken, and the first of a group of which none is scored.
        """
        rows: list[Tensor] = []
        sizes = self.groups.unique(return_counts=True)[1]
        for members in self.groups.argsort(stable=True).split(sizes.tolist()):
            scores = self.scores[members]
            rows.append(members[scores.nan_to_num(-torch.inf, neginf=-torch.inf).argmax()])
            if worst:
                low = scores.masked_fill(scores.isnan(), torch.inf)
                rows.append(members[low.argmin()])
        return self[torch.stack(rows)]


def best_while_drawn(
    policy: Generator,
    reward: Reward,
    prompts: Sequence[Prompt],
    *,
    seeds: Tensor,
    groups: Tensor,
    worst: bool = False,
) -> Candidates:
    """Draw candidates and score them block by block, and keep the best of each group.

    A policy with a `micro_batch` is asked for about `BATCH` rows at once, so that of many pictures
    only those are in memory, beside the kept ones. What is drawn is what one call would draw.

    Args:
        policy: draws the candidates.
        reward: ranks them; those that it does not score are left out, and the log says how many.
        prompts: N prompts, one a candidate.
        seeds: int64 [N].
        groups: int64 [N], never falling; the best of each is kept.
        worst: keep the worst of each group too, behind its best.

    Returns:
        One row a group, or two, groups in the order of their numbers.

    Raises:
        InputError: if no candidate is scored.
    """
    ended: list[Candidates] = []
    begun: list[Candidates] = []  # of the group that may go on in the next block
    results: list[Judged] = []
    for block in _blocks(len(prompts), policy.micro_batch):
        samples = policy.generate(prompts[block], seeds=seeds[block])
        results.append(judged(reward, samples))
        begun.append(Candidates(samples, results[-1].scores, groups[block]))
        kept = _together(begun).ends(worst)
        goes_on = kept.groups == kept.groups[-1]
        if not goes_on.all():
            ended.append(kept[~goes_on])
        begun = [kept[goes_on]]
    say_left_out(_joined(results), "candidates")
    return _together([*ended, *begun])


def _together(parts: Sequence[Candidates]) -> Candidates:
    """Return the candidates of all parts, in the order of the parts."""
    return Candidates(
        concatenate([part.samples for part in parts]),
        torch.cat([part.scores for part in parts]),
        torch.cat([part.groups for part in parts]),
    )


def _blocks(count: int, micro_batch: int | None) -> Iterator[slice]:
    """Give the rows of each block: whole micro-batches, about `BATCH` rows together."""
    size = max(count, 1)
    if micro_batch is not None:
        size = micro_batch * max(BATCH // micro_batch, 1)
    for start in range(0, max(count, 1), size):
        yield slice(start, start + size)


def _joined(results: Sequence[Judged]) -> Judged:
    reasons: list[str] = []
    for result in results:
        reasons += result.reasons
    return Judged(torch.cat([result.scores for result in results]), reasons)
