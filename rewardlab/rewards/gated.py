"""Gated: a reward that counts only where a gate holds; elsewhere an output is last in its group."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from rewardlab.errors import InputError
from rewardlab.rewards.abilities import Saved
from rewardlab.rewards.base import Reward
from rewardlab.rewards.folders import check_parts, load_reward, read_settings, write_reward
from rewardlab.rewards.scoring import judged, scored_part
from rewardlab.types import Samples, distinct


class Gated(Reward, Saved):
    """The reward where the gate holds, else the lowest of the prompt's outputs in the batch.

    arXiv 2605.12474. What fails is ranked last among the outputs of its prompt, whatever the
    reward's scale; a constant would be harsh for one prompt and mild for another. Where all of a
    prompt's outputs fail they tie, and nothing is learned from them. So a score depends on the
    batch. A sample that reward or gate does not score is not scored, nor compared with.

    Args:
        reward: what counts.
        references: outputs of the first policy, or the lowest score of such. An output that is
            alone in its group and fails gets that score, if it is lower than its own.
        gate: a reward that says 1 where all holds, such as an `evaluation.Rubric`.
        threshold: gate's score from which on it holds.

    Raises:
        InputError: if there is no gate.

    Example:
        >>> from rewardlab.rewards import Function, Length
        >>> def ends(samples):
        ...     return torch.tensor([float(text.endswith(".")) for text in samples.outputs])
        >>> gated = Gated(Length(), gate=Function(ends))
        >>> gated(Samples(["a", "a", "a"], ["so it is.", "yes.", "and so on and on"])).tolist()
        [3.0, 1.0, 1.0]
    """

    takes_trust = True
    floor: Tensor

    def __init__(
        self,
        reward: Reward,
        references: Samples | float | None = None,
        gate: Reward | None = None,
        threshold: float = 0.5,
    ) -> None:
        super().__init__()
        if gate is None:
            raise InputError(
                "Gated needs gate=, a reward that says 1 where all holds and 0 elsewhere. Give an "
                "evaluation.Rubric, or a rule of your own."
            )
        self.reward = reward
        self.gate = gate
        self.threshold = threshold
        if isinstance(references, Samples):
            scored = scored_part(references, judged(reward, references), "references")
            references = scored.scores.min().item()
        lowest = float("inf") if references is None else references
        self.register_buffer("floor", torch.tensor(lowest))

    def forward(self, samples: Samples) -> Tensor:
        """Return the gated scores, float32 [B]; NaN where the gate gives none."""
        scores: Tensor = self.reward(samples)
        gate = self.gate(samples).to(scores)
        groups = distinct(samples.prompts)
        places = torch.tensor(groups.places, device=scores.device)
        count = len(groups.values)
        lowest = scores.new_full((count,), float("inf"))
        others = scores.masked_fill(scores.isnan(), float("inf"))  # not scored: no part of a group
        lowest = lowest.scatter_reduce(0, places, others, "amin")
        sizes = torch.bincount(places, minlength=count)
        floor = self.floor.to(scores)
        lowest = torch.where(sizes == 1, torch.minimum(lowest, floor), lowest)
        gated = torch.where(gate >= self.threshold, scores, lowest[places])
        return gated.masked_fill(gate.isnan() | scores.isnan(), float("nan"))

    def check_savable(self) -> None:
        """Refuse a reward or a gate that cannot be saved."""
        check_parts([self.reward, self.gate])

    def save_pretrained(self, folder: str | Path) -> None:
        """Write threshold and floor and, into `folder`/reward and /gate, the two.

        Raises:
            InputError: if one of them cannot be saved, or `folder` holds something else.
        """
        floor = self.floor.item() if self.floor.isfinite() else None
        settings = {"threshold": self.threshold, "floor": floor}
        write_reward(folder, self, settings, {"reward": self.reward, "gate": self.gate})

    @classmethod
    def from_pretrained(cls, folder: str | Path, trust: bool = False) -> Gated:
        """Load what `save_pretrained` wrote, in eval mode."""
        settings = read_settings(folder, "threshold", "floor")
        reward = load_reward(Path(folder) / "reward", trust=trust)
        gate = load_reward(Path(folder) / "gate", trust=trust)
        return cls(reward, settings["floor"], gate, settings["threshold"]).eval()
