"""Tolerant: any reward, with samples that it cannot score left out instead of a stop."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from rewardlab.errors import InputError, reason_of
from rewardlab.rewards.abilities import Partial, Saved
from rewardlab.rewards.base import Reward
from rewardlab.rewards.folders import check_parts, load_reward, read_settings, write_reward
from rewardlab.rewards.unscored import Judged, accepted, judged_batch, partial_scores
from rewardlab.types import Samples


class Tolerant(Reward, Partial, Saved):
    """A reward whose failures on single samples leave those samples unscored.

    A sample goes unscored if scoring it raises an InputError (too long for the model, refused by a
    server, no parsable answer) or gives a score that is not finite. Any other exception is a bug
    and stops. Where a batch fails, its halves are scored apart, down to the sample that is at
    fault, so a bad sample costs about 2·log2(batch) passes more.

    Args:
        reward: what scores.
        most_unscored: share of samples that may go unscored before a sentence ends the run, in
            [0, 1]; see `rewardlab.rewards.scoring.judged`.

    Raises:
        InputError: if the share is out of range.

    Example:
        >>> from rewardlab.rewards.functions import Function
        >>> from rewardlab.rewards.scoring import judged
        >>> def inverse(samples):
        ...     return torch.tensor([float(len(text)) for text in samples.outputs]).reciprocal()
        >>> result = judged(Tolerant(Function(inverse)), Samples(["", ""], ["four", ""]))
        >>> result.scores.tolist(), result.reasons[1][:44]
        ([0.25, nan], 'Tolerant: inverse gave a score of inf to sam')
    """

    takes_trust = True

    def __init__(self, reward: Reward, most_unscored: float = 0.05) -> None:
        super().__init__()
        if not 0 <= most_unscored <= 1:
            raise InputError(
                "Tolerant's most_unscored is a share of the samples, in [0, 1]; got "
                f"{most_unscored!r}. Take 0.05, or 0 to stop at the first."
            )
        self.reward = reward
        self.most_unscored = most_unscored
        self.conditional = reward.conditional
        self.meaning = reward.meaning
        self._columns = 1  # members, once a sample is scored

    def forward(self, samples: Samples) -> Tensor:
        """Return the scores, float32 [B]; see `rewardlab.rewards.unscored.partial_scores`."""
        return partial_scores(self, samples)

    def members(self, samples: Samples) -> Tensor:
        """Return the scores of the reward's members, float32 [B, M]; see `forward`."""
        judged = self._judge(samples, self.reward.members)
        if judged.scores.dim() == 2:
            self._columns = judged.scores.shape[1]
        scores = judged.scores.reshape(len(samples), -1).expand(-1, self._columns)
        return accepted(self, scores, judged.reasons, samples)

    def judge(self, samples: Samples) -> Judged:
        """Return the scores that the reward gives, and why it gives none to a sample."""
        return self._judge(samples, self.reward)

    def check_savable(self) -> None:
        """Refuse a reward inside that cannot be saved."""
        check_parts([self.reward])

    def save_pretrained(self, folder: str | Path) -> None:
        """Write the share and, into `folder`/reward, the reward.

        Raises:
            InputError: if the reward cannot be saved, or `folder` holds something else.
        """
        settings = {"most_unscored": self.most_unscored}
        write_reward(folder, self, settings, {"reward": self.reward})

    @classmethod
    def from_pretrained(cls, folder: str | Path, trust: bool = False) -> Tolerant:
        """Load what `save_pretrained` wrote, in eval mode."""
        settings = read_settings(folder, "most_unscored")
        return cls(load_reward(Path(folder) / "reward", trust=trust), **settings).eval()

    def _judge(self, samples: Samples, score: Callable[[Samples], Tensor]) -> Judged:
        """Return what a method of the reward gives, scores [B] or [B, M]; of a failure [B]."""
        try:
            judged = judged_batch(self.reward, samples, score, limited=False)
        except InputError as error:
            if len(samples) > 1:
                return self._in_halves(samples, score)
            missing = torch.full((len(samples),), torch.nan, device=_device(self.reward, samples))
            return Judged(missing, [reason_of(error)] * len(samples))
        return _finite(judged)

    def _in_halves(self, samples: Samples, score: Callable[[Samples], Tensor]) -> Judged:
        """Return what the halves of a batch that failed as a whole give."""
        middle = len(samples) // 2
        first = self._judge(samples[:middle], score)
        second = self._judge(samples[middle:], score)
        parts = [first.scores, second.scores]
        columns = [part.shape[1] for part in parts if part.dim() == 2]
        if columns:
            parts = [part.reshape(len(part), -1).expand(-1, columns[0]) for part in parts]
        return Judged(torch.cat(parts), first.reasons + second.reasons)


def _finite(judged: Judged) -> Judged:
    """Return the same with a reason for each score, or row of members', that is not finite."""
    reasons = list(judged.reasons)
    rows = judged.scores.detach().view(len(judged.scores), -1)
    for row in (~torch.isfinite(rows).all(1)).nonzero().flatten().tolist():
        values = rows[row]
        reasons[row] = reasons[row] or f"its score is {values[~torch.isfinite(values)][0].item()}"
    return Judged(judged.scores, reasons)


def _device(reward: Reward, samples: Samples) -> torch.device:
    """Return where scores of samples lie: on the reward's device, or else on the facts'."""
    tensors = [*reward.parameters(), *samples.facts.values()]
    return next((tensor.device for tensor in tensors), torch.device("cpu"))
