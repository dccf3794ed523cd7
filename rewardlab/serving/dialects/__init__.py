"""The forms of requests and answers, each a file: its path, how it is read, written and refused."""

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

__all__ = ["DIALECTS", "Dialect"]
