"""Training data from policies and rewards.

Best and worst candidates, pseudo-labels by rank, adversarial pairs.
"""

from rewardlab.mining.adversarial import adversarial_pairs
from rewardlab.mining.augmentation import non_contextual
from rewardlab.mining.bootstrap import RankBootstrap
from rewardlab.mining.candidates import (
    BestOf,
    best_and_worst,
    candidates,
    check_candidates,
    extremes,
)
from rewardlab.mining.funnel import Funnel

__all__ = [
    "BestOf",
    "Funnel",
    "RankBootstrap",
    "adversarial_pairs",
    "best_and_worst",
    "candidates",
    "check_candidates",
    "extremes",
    "non_contextual",
]
