"""Evaluation: monitors that may stop a run, and judges that are only read afterwards."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rewardlab.evaluation.guard import Guard, Watched
    from rewardlab.evaluation.judges import EndpointJudge
    from rewardlab.evaluation.judging import Evaluation
    from rewardlab.evaluation.overoptimization import best_of_n_curve, fit_overoptimization
    from rewardlab.evaluation.readings import Readings
    from rewardlab.evaluation.stability import stability_ratio

_HOME = {
    "guard": ("Guard", "Watched"),
    "judges": ("EndpointJudge",),
    "judging": ("Evaluation",),
    "overoptimization": ("best_of_n_curve", "fit_overoptimization"),
    "readings": ("Readings",),
    "stability": ("stability_ratio",),
}
__all__ = [
    "EndpointJudge",
    "Evaluation",
    "Guard",
    "Readings",
    "Watched",
    "best_of_n_curve",
    "fit_overoptimization",
    "stability_ratio",
]


def __getattr__(name: str) -> Any:
    for module, names in _HOME.items():
        if name in names:
            return getattr(import_module(f"rewardlab.evaluation.{module}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
