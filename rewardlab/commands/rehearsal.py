"""`--dry-run`: build everything on one tiny batch, and print a table; write nothing that stays."""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Sequence
from pathlib import Path

from rewardlab.rounds.base import Rounds
from rewardlab.rounds.rehearsal import Line
from rewardlab.rounds.rehearsal import rehearse as rehearse_rounds


def rehearse(rounds: Rounds, out: Path) -> int:
    """Rehearse rounds in a temporary folder, print the table, and return the exit code.

    Args:
        rounds: as they were built from the config.
        out: the run folder that the real run would have.
    """
    logging.getLogger("rewardlab").setLevel(logging.WARNING)
    with tempfile.TemporaryDirectory(prefix="rewardlab-") as place:
        lines = rehearse_rounds(rounds, Path(place))
    print(table(lines))
    print(f"Nothing was written. The run's folder will be {out}.")
    return 0


def table(lines: Sequence[Line]) -> str:
    """Return lines as a table of two columns.

    Example:
        >>> print(table([Line("policy", "2 weights"), Line("disk", "1 GiB")]))
        policy  2 weights
        disk    1 GiB
    """
    width = max(len(line.name) for line in lines)
    return "\n".join(f"{line.name:<{width}}  {line.text}" for line in lines)
