"""RLHF runs on the help topics, which several claims read: arms of the menu's study."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

from claims.claim import Row, Work
from claims.intervals import Interval
from rewardlab.cli import main as rewardlab
from rewardlab.evaluation.restricted import restricted_ratio
from rewardlab.rewards import Reward, load_reward

sys.path.append(str(Path(__file__).parents[1] / "studies"))  # scripts that import each other
import menu

SINGLE = "single"
ADVERSARIAL = "paper"
SMALL = Path(__file__).parent / "small.yaml"
SEEDS = tuple(range(2, 12))
HOW = (
    "Each run is RLOO for 520 steps without a KL term on the help topics, by "
    "`experiments/studies/menu.py`: a Llama of 0.2 million parameters, members fitted to 1,000 "
    "pairs labelled by a counted gold, gold read every ten steps on 128 held-out prompts, in "
    "deviations of the base policy's responses. Settings were chosen on seeds 0 and 1, which are "
    "left out."
)


def run_of(arm: str, seed: int, work: Work) -> Path:
    """Return the folder of an arm's run, which is made if it does not stand.

    Raises:
        SystemExit: with the code of a run that failed; it has said why.
    """
    out = work.folder / "menu"
    folder = out / f"{arm}-{seed}"
    if not (folder / "policy").is_dir():  # exported at the end
        code = rewardlab(small_command(arm, seed, out) if work.small else command(arm, seed, out))
        if code:
            raise SystemExit(code)
    return folder


def command(arm: str, seed: int, out: Path) -> list[str]:
    """Return the command line of a run."""
    return menu.command(arm, seed, out)


def small_command(arm: str, seed: int, out: Path) -> list[str]:
    """Return the command line of a run at the small size."""
    words = command(arm, seed, out)
    place = max(number for number, word in enumerate(words) if word.startswith("--config=")) + 1
    return [*words[:place], f"--config={SMALL}", *words[place:], "--report=false"]


def readings_of(folder: Path) -> list[dict[str, float]]:
    """Return a run's readings: step, gold in deviations above its start, reward and KL."""
    run = menu.read_runs([folder])[0]
    last = max(int(number) for number in run.results["rounds"])
    rows: list[dict[str, float]] = menu.readings_of(run, last)
    deviation = menu.base_deviation(run)
    return [{**row, "gold": (row["gold"] - rows[0]["gold"]) / deviation} for row in rows]


def figures_of(arm: str, seed: int, work: Work) -> dict[str, Any]:
    """Return what the menu's study reads of a run, with the seconds that the run took."""
    row = menu.figures_of(menu.measure(arm, seed, run_of(arm, seed, work)).row)
    for name in ("arm", "seed", "strict_fall"):
        del row[name]
    return row


def ratio(rows: Sequence[Row], arm: str, beside: str) -> Interval:
    """Return the ratio of two arms' restricted means, paired by seed, with its 95 % interval."""
    ours = {row["seed"]: row["fall"] for row in rows if row["setting"] == arm}
    theirs = {row["seed"]: row["fall"] for row in rows if row["setting"] == beside}
    seeds = sorted(ours.keys() & theirs.keys())
    falls = [ours[seed] for seed in seeds]
    found = restricted_ratio(falls, [theirs[seed] for seed in seeds], menu.HORIZON)
    return Interval(*found)


@cache
def reward_of(arm: str, seed: int, work: Work) -> Reward:
    """Return the reward that a run used."""
    return load_reward(run_of(arm, seed, work) / "reward")


def draw_both(rows: Sequence[Row], axes: Any, figure: str, missing: float | None = None) -> None:
    """Draw a figure before and after two rounds of attacks, a line a seed.

    Args:
        rows: of both arms.
        axes: matplotlib's.
        figure: a column of the rows.
        missing: what stands for a figure that was not reached.
    """
    for seed in sorted({row["seed"] for row in rows}):
        values = {row["setting"]: row[figure] for row in rows if row["seed"] == seed}
        heights = [values[arm] for arm in (SINGLE, ADVERSARIAL)]
        reached = [missing if height is None else height for height in heights]
        axes.plot([0, 1], reached, marker="o", label=f"seed {seed}")
    axes.set_xticks([0, 1], ["conventional reward", "hardened in two rounds"])
    axes.set_xlim(-0.3, 1.3)
    axes.legend(fontsize=7)


def draw_ratios(rows: Sequence[Row], axes: Any, beside: str, claimed: float) -> None:
    """Draw each arm's ratio with its interval, and the claimed one as a line."""
    arms = [arm for arm in dict.fromkeys(row["setting"] for row in rows) if arm != beside]
    for place, arm in enumerate(arms):
        found = ratio(rows, arm, beside)
        axes.plot([found.low, found.high], [place, place], color="tab:blue")
        axes.plot(found.value, place, "o", color="tab:blue")
    axes.axvline(1, color="grey", linewidth=0.8)
    axes.axvline(claimed, color="tab:red", linewidth=0.8, linestyle="--", label="claimed")
    axes.set_yticks(range(len(arms)), arms)
    axes.set_ylim(-0.6, len(arms) - 0.4)
    axes.set_xlabel(f"restricted mean time above the start, as a multiple of {beside}'s")
    axes.legend()
