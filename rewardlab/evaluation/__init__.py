"""Evaluation: monitors that may stop a run, and judges that are only read afterwards."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rewardlab.lazy import lazy_names

if TYPE_CHECKING:
    from rewardlab.evaluation.alarms import detection, first_alarm
    from rewardlab.evaluation.benchmark_files import read_benchmark
    from rewardlab.evaluation.benchmark_scores import benchmark_figures, score_file
    from rewardlab.evaluation.choosing_n import choose_n, familiar_n, soft_best_of_n_expected
    from rewardlab.evaluation.evaluation import Evaluation
    from rewardlab.evaluation.finishing import finish_curve
    from rewardlab.evaluation.guard import Guard
    from rewardlab.evaluation.guard import Watched as Watched
    from rewardlab.evaluation.judges import ComparesPairs, EndpointJudge
    from rewardlab.evaluation.monitors import MonitoredPolicy
    from rewardlab.evaluation.named_biases import bias_audit
    from rewardlab.evaluation.norm_reading import NormReading
    from rewardlab.evaluation.outlier_monitor import OutlierMonitor
    from rewardlab.evaluation.overoptimization import best_of_n_curve, fit_overoptimization
    from rewardlab.evaluation.picture_biases import picture_audit
    from rewardlab.evaluation.readings import Readings
    from rewardlab.evaluation.rubric import Rubric
    from rewardlab.evaluation.stability import stability_ratio

_HOMES = {
    "ComparesPairs": "rewardlab.evaluation.judges",
    "EndpointJudge": "rewardlab.evaluation.judges",
    "Evaluation": "rewardlab.evaluation.evaluation",
    "Guard": "rewardlab.evaluation.guard",
    "MonitoredPolicy": "rewardlab.evaluation.monitors",
    "NormReading": "rewardlab.evaluation.norm_reading",
    "OutlierMonitor": "rewardlab.evaluation.outlier_monitor",
    "Readings": "rewardlab.evaluation.readings",
    "Rubric": "rewardlab.evaluation.rubric",
    "Watched": "rewardlab.evaluation.guard",  # the earlier name of MonitoredPolicy
    "benchmark_figures": "rewardlab.evaluation.benchmark_scores",
    "bias_audit": "rewardlab.evaluation.named_biases",
    "picture_audit": "rewardlab.evaluation.picture_biases",
    "choose_n": "rewardlab.evaluation.choosing_n",
    "familiar_n": "rewardlab.evaluation.choosing_n",
    "soft_best_of_n_expected": "rewardlab.evaluation.choosing_n",
    "best_of_n_curve": "rewardlab.evaluation.overoptimization",
    "detection": "rewardlab.evaluation.alarms",
    "finish_curve": "rewardlab.evaluation.finishing",
    "first_alarm": "rewardlab.evaluation.alarms",
    "fit_overoptimization": "rewardlab.evaluation.overoptimization",
    "read_benchmark": "rewardlab.evaluation.benchmark_files",
    "score_file": "rewardlab.evaluation.benchmark_scores",
    "stability_ratio": "rewardlab.evaluation.stability",
}
__all__ = [
    "ComparesPairs",
    "EndpointJudge",
    "Evaluation",
    "Guard",
    "MonitoredPolicy",
    "NormReading",
    "OutlierMonitor",
    "Readings",
    "Rubric",
    "benchmark_figures",
    "best_of_n_curve",
    "bias_audit",
    "picture_audit",
    "detection",
    "finish_curve",
    "first_alarm",
    "choose_n",
    "familiar_n",
    "soft_best_of_n_expected",
    "fit_overoptimization",
    "read_benchmark",
    "score_file",
    "stability_ratio",
]

__getattr__, __dir__ = lazy_names(__name__, _HOMES)
