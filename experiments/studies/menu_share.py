"""The share of what online hardening adds that is more than a tether of its strength.

    python experiments/studies/menu_share.py

It reads the falls in docs/studies/menu.csv. With R the restricted mean of an arm, the share is
(R(online) - R(kl-anchor)) / (R(online) - R(online-frozen)), over the seeds that all three have:
kl-anchor is the explicit form of the tether that the correction learns, and online-frozen the same
run with a correction that never learns.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
from menu_table import known_runs
from menu_worlds import TOPICS

ROWS = Path(__file__).parents[2] / "docs" / "studies" / "menu.csv"
ARMS = ("online", "kl-anchor", "online-frozen")
DRAWS = 10_000


def lasting() -> np.ndarray:
    """Return how long each run stood, [seeds, arms], over the seeds that all arms have."""
    steps: dict[str, dict[int, float]] = {arm: {} for arm in ARMS}
    for entry in known_runs(ROWS):
        row = entry.row
        if row.arm in steps:
            steps[row.arm][row.seed] = TOPICS.horizon if row.fall is None else row.fall
    seeds = sorted(set.intersection(*[set(of_arm) for of_arm in steps.values()]))
    return np.array([[steps[arm][seed] for arm in ARMS] for seed in seeds])


def share(runs: np.ndarray) -> float:
    """Return the share of runs [seeds, arms]."""
    online, tether, frozen = runs.mean(0)
    return float((online - tether) / (online - frozen))


def main() -> None:
    """Print the share, and its 95 % bootstrap interval over the seeds."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.parse_args()
    runs = lasting()
    generator = np.random.default_rng(0)
    draws = generator.integers(0, len(runs), (DRAWS, len(runs)))
    low, high = np.percentile([share(runs[rows]) for rows in draws], [2.5, 97.5])
    print(f"{share(runs):.2f} [{low:.2f}, {high:.2f}] over {len(runs)} seeds")


if __name__ == "__main__":
    main()
