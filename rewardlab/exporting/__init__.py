"""Exports: a reward in the forms of other libraries, with a model card.

What can be a network of transformers, a folder of networks with code of its own, or one ONNX graph
is written as such, loaded again and compared with the reward before it stands.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from rewardlab.lazy import lazy_names

if TYPE_CHECKING:
    from rewardlab.exporting.card import Subject, model_card
    from rewardlab.exporting.combination import Combination, combination_of
    from rewardlab.exporting.comparison import Comparison
    from rewardlab.exporting.evidence import Evidence, read_evidence
    from rewardlab.exporting.folders import (
        Origin,
        export_function,
        export_onnx,
        export_transformers,
    )

_HOMES = {
    "Combination": "rewardlab.exporting.combination",
    "Comparison": "rewardlab.exporting.comparison",
    "Evidence": "rewardlab.exporting.evidence",
    "Origin": "rewardlab.exporting.folders",
    "Subject": "rewardlab.exporting.card",
    "combination_of": "rewardlab.exporting.combination",
    "export_function": "rewardlab.exporting.folders",
    "export_onnx": "rewardlab.exporting.folders",
    "export_transformers": "rewardlab.exporting.folders",
    "model_card": "rewardlab.exporting.card",
    "read_evidence": "rewardlab.exporting.evidence",
}
__all__ = [
    "Combination",
    "Comparison",
    "Evidence",
    "Origin",
    "Subject",
    "combination_of",
    "export_function",
    "export_onnx",
    "export_transformers",
    "model_card",
    "read_evidence",
]

__getattr__, __dir__ = lazy_names(__name__, _HOMES)
