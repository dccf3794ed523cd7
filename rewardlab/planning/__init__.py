"""Plans of memory: what a config needs on a device, before anything is loaded.

`plans_of` reads a config; `diffusion` and `language` run the real networks on shapes alone, in
which `live` counts the tensors alive; `memory_plan` is the result. `architecture` reads the configs
of pipelines, `measured` is what plans are held against.
"""

from __future__ import annotations

from rewardlab.planning.configs import plans_of
from rewardlab.planning.live import LiveBytes
from rewardlab.planning.measured import measured_peak
from rewardlab.planning.memory_plan import MemoryPlan, Part, Stage
from rewardlab.planning.work import Work

__all__ = [
    "LiveBytes",
    "MemoryPlan",
    "Part",
    "Stage",
    "Work",
    "measured_peak",
    "plans_of",
]
