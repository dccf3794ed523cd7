"""Statistics of scores [N] and of features [N, D]: tensors in, Python floats out.

Tensors may be of any float type; everything is computed in float64.
"""

from rewardlab.metrics.best_of_n import (
    best_of_n_expected,
    best_of_n_kl,
    best_of_poisson_expected,
    best_of_poisson_kl,
)
from rewardlab.metrics.bootstrap import mean_interval
from rewardlab.metrics.calibration import calibration_error
from rewardlab.metrics.distances import (
    coverage,
    diversity,
    frechet_distance,
    kernel_distance,
    kernel_distance_interval,
    precision_recall,
)
from rewardlab.metrics.doubt import doubts, most_doubted
from rewardlab.metrics.ranking import auc, auc_interval, rank_correlation
from rewardlab.metrics.videos import flicker, motion, temporal_consistency

__all__ = [
    "auc",
    "auc_interval",
    "best_of_n_expected",
    "best_of_n_kl",
    "best_of_poisson_expected",
    "best_of_poisson_kl",
    "calibration_error",
    "coverage",
    "diversity",
    "doubts",
    "flicker",
    "frechet_distance",
    "kernel_distance",
    "kernel_distance_interval",
    "mean_interval",
    "most_doubted",
    "motion",
    "precision_recall",
    "rank_correlation",
    "temporal_consistency",
]
