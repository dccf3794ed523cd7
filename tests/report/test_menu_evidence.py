"""What advice says of the menu's study is what the study's published rows give."""

import csv
from pathlib import Path
from typing import NamedTuple

import pytest

from rewardlab.evaluation.restricted import restricted_ratio
from rewardlab.report.menu_evidence import EVIDENCE, Evidence, evidence_of

ROOT = Path(__file__).parents[2]


class World(NamedTuple):
    """Where a world's rows are, the arm that its ratio is to, and the steps of a run."""

    file: str
    plain: str
    steps: int


WORLDS = {
    "help topics": World("menu.csv", "none", 520),
    "digits": World("menu_digits.csv", "dpo", 60),
}


def falls_by_seed(world, arm):
    with (ROOT / "docs" / "studies" / world.file).open(newline="") as stream:
        rows = [row for row in csv.DictReader(stream) if row["arm"] == arm]
    return {int(row["seed"]): float(row["fall"]) if row["fall"] else None for row in rows}


@pytest.mark.parametrize(
    "evidence", sorted(set(EVIDENCE.values())), ids=lambda evidence: evidence.arm
)
def test_the_figures_are_those_of_the_published_rows(evidence):
    world = WORLDS[evidence.world]
    falls = falls_by_seed(world, evidence.arm)
    plain = falls_by_seed(world, world.plain)
    seeds = sorted(falls)
    assert (evidence.seeds, evidence.falls) == (
        len(seeds),
        sum(fall is not None for fall in falls.values()),
    )
    ratio = restricted_ratio(
        [falls[seed] for seed in seeds], [plain[seed] for seed in seeds], world.steps
    )
    expected = (ratio.value, ratio.low, ratio.high)
    assert (evidence.ratio, evidence.low, evidence.high) == pytest.approx(expected, abs=0.005)


def test_each_remedy_that_was_measured_is_a_fragment_or_a_flag_that_is_there():
    fragments = [part for part in EVIDENCE if part.startswith("/")]
    for part in fragments:
        assert list((ROOT / "configs").glob(f"*{part}")), part


@pytest.mark.parametrize(("low", "high", "effect"), [(1.1, 3, 1), (0.9, 3, 0), (0.2, 0.9, -1)])
def test_an_interval_on_one_side_of_one_decides(low, high, effect):
    evidence = Evidence("topics", "par", 10, 9, 1.0, low, high)
    assert evidence.effect == effect
    assert ("it helped", "undecided", "it hurt")[1 - effect] in evidence.sentence()


def test_flags_that_nothing_was_measured_of_have_no_evidence():
    assert evidence_of(["--rounds.init_args.online.weight=4"]) is None
    assert evidence_of([]) is None
