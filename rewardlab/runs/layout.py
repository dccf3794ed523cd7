"""Names of a run folder's files and stages, and how the names of stages are built and parsed.

A stage is called by its name, such as "1-post-train": the number of the round and the stage.
Its folder is called by its title: the name and the digest of what the stage depends on.
"""

from __future__ import annotations

import re
from typing import NamedTuple

# Files and folders of a run.
CONFIG_FILE = "config.yaml"
FACTS_FILE = "run.json"
RESULTS_FILE = "results.json"
TIMING_FILE = "timing.json"
METRICS_FILE = "metrics.csv"
DIAGNOSTICS_FILE = "diagnostics.json"
LOG_FILE = "log.txt"
LOCK_FILE = ".lock"
STAGES_FOLDER = "stages"
SCRATCH_FOLDER = ".scratch"
POLICY_FOLDER = "policy"
REWARD_FOLDER = "reward"

# Files of single commands.
REPORT_PAGE = "report.html"
ATTACK_PAGE = "attack.html"
EXPLOITS_FILE = "exploits.jsonl"
CURVE_PAGE = "curve.html"
CURVE_TABLE = "curve.csv"
CURVE_PICTURE = "curve.png"
EVALUATE_PAGE = "evaluate.html"
EVALUATE_ROWS = "rows.jsonl"

# What a fit keeps of its held-out data: a folder in its run folder, and what is in it.
HELD_OUT_FOLDER = "held-out"
HIGHEST_FOLDER = "highest"
LOWEST_FOLDER = "lowest"
SCORED_FILE = "scored.json"

# Files and folders in a stage's folder.
SECONDS_FILE = "seconds.json"
CHECKSUMS_FILE = "checksums.json"
STATE_FILE = "state.safetensors"
CORRECTION_FILE = "correction.safetensors"
FIGURES_FILE = "figures.json"
SCORES_FILE = "scores.safetensors"
SCORES_TABLE = "scores.json"
SAMPLES_FOLDER = "samples"
PAIRS_FOLDER = "pairs"
CHOSEN_FOLDER = "pairs/chosen"
REJECTED_FOLDER = "pairs/rejected"
LAST_CHECKPOINT = "last.ckpt"
EARLIER_CHECKPOINT = "earlier.ckpt"

# Stages of every game.
TARGETS = "targets"
SAMPLES = "samples"
CANDIDATES = "candidates"
PAIRS = "pairs"
POST_TRAIN = "post-train"
SCORES = "scores"

# Stages of GAN-RM.
NEGATIVES = "negatives"
POOL = "pool"
POOL_SCORES = "pool-scores"
REWARD = "reward"
BOOTSTRAPPED_REWARD = "bootstrapped-reward"
MONITOR = "monitor"

# Stages of Adv-RM.
MEMBER = "member"
REFERENCES = "references"
REFERENCE_SCORES = "reference-scores"
HELD_OUT_REFERENCE_SCORES = "held-out-reference-scores"
JUDGED_ATTACK = "judged"
ATTACK = "attack"
ADVERSARIAL = "adversarial"
ANCHORS = "anchors"
ANCHOR_SCORES = "anchor-scores"
PAIR_WEIGHTS = "pair-weights"
HELD_OUT_REFERENCES = "held-out-references"
HELD_OUT_ATTACK = "held-out-attack"

DIGEST_LENGTH = 8
_NAME = re.compile(r"(?:(?P<round>\d+)-)?(?P<stage>.+?)(?:-(?P<member>\d+))?")


class StageName(NamedTuple):
    """The parts of a stage's name.

    Attributes:
        round: number of the round; None for a stage outside rounds.
        stage: name of the stage, such as `POST_TRAIN`.
        member: number of the ensemble's member; None for a stage of the whole round.
    """

    round: int | None
    stage: str
    member: int | None = None


def stage_name(number: int, stage: str, member: int | None = None) -> str:
    """Return the name of a round's stage.

    Args:
        number: number of the round; 0 comes before the first.
        stage: name of the stage, such as `POST_TRAIN`.
        member: number of the ensemble's member, for a stage of one member.

    Example:
        >>> stage_name(1, POST_TRAIN), stage_name(1, MEMBER, 0)
        ('1-post-train', '1-member-0')
    """
    if member is None:
        return f"{number}-{stage}"
    return f"{number}-{stage}-{member}"


def parse_stage_name(name: str) -> StageName:
    """Return the parts of a stage's name.

    Example:
        >>> parse_stage_name("1-member-0")
        StageName(round=1, stage='member', member=0)
        >>> parse_stage_name("2-post-train")
        StageName(round=2, stage='post-train', member=None)
        >>> parse_stage_name("scores")
        StageName(round=None, stage='scores', member=None)
    """
    match = _NAME.fullmatch(name)
    if match is None:
        return StageName(None, name)
    return StageName(_number(match["round"]), match["stage"], _number(match["member"]))


def stage_title(name: str, digest: str) -> str:
    """Return the name of a stage's folder.

    Args:
        name: the stage's name.
        digest: hash of all that the stage depends on, of which the first 8 digits are used.

    Example:
        >>> stage_title("1-post-train", "0123456789abcdef")
        '1-post-train-01234567'
    """
    return f"{name}-{digest[:DIGEST_LENGTH]}"


def name_of_title(title: str) -> str:
    """Return a stage's name from the name of its folder; "" if the title has no digest.

    Example:
        >>> name_of_title("1-post-train-01234567"), name_of_title("cost")
        ('1-post-train', '')
    """
    return title.rpartition("-")[0]


def _number(digits: str | None) -> int | None:
    return None if digits is None else int(digits)
