"""Rounds: an outer loop between a generator and a reward, made of stages that are written once."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any

from rewardlab.runs.folder import RunFolder


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
