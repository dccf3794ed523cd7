"""Rounds: an outer loop between a generator and a reward, made of stages that are written once."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any

from rewardlab.data.splits import Part
from rewardlab.rewards import Reward
from rewardlab.runs.folder import RunFolder
from rewardlab.types import PreferencePairs, Samples


class Rounds(ABC):
    """What `rewardlab rounds` runs. Constructed from a config like everything else."""

    @abstractmethod
    def run(self, run: RunFolder) -> None:
        """Run the stages that are not finished yet, and write the figures."""

    def exported(self) -> dict[str, Any]:
        """Return the policy and the reward that a run leaves, by the names of their folders."""
        return {}

    def plan(self) -> list[str]:
        """Return the names of the long stages in order, as far as they are known before.

        They say what is left where a run goes on. Rounds may end earlier.
        """
        return []

    def fitted(self) -> list[Reward]:
        """Return the rewards that are fitted."""
        return []

    def fit_rows(self, part: Part) -> Samples | PreferencePairs | None:
        """Return what the rewards are fitted on, or held against; None if it is not known."""
        return None

    def draw_counts(self) -> dict[str, int]:
        """Return how many rows are drawn for the rewards, by the names of the stages."""
        return {}

    def shrink(self) -> None:  # noqa: B027  (may be left as it is)
        """Make data and attacks of these rounds small, for a rehearsal (see `rounds/few.py`)."""

    def widen(self, references: int) -> None:  # noqa: B027  (may be left as it is)
        """Let the attacks of shrunk rounds have more references of a prompt."""
