"""All dialects, in the order in which documents name them."""

from __future__ import annotations

from rewardlab.serving.dialects import flow_factory, nemo_gym, openrlhf, sglang, tei, vllm
from rewardlab.serving.dialects.base import Dialect

DIALECTS: tuple[Dialect, ...] = (
    openrlhf.DIALECT,
    vllm.DIALECT,
    sglang.DIALECT,
    tei.DIALECT,
    flow_factory.DIALECT,
    nemo_gym.DIALECT,
)
