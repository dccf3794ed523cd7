"""What an exported reward of texts is built from."""

from __future__ import annotations

from typing import Any

from transformers import PretrainedConfig


class TextRewardConfig(PretrainedConfig):
    """Language models without a head, and linear heads on their pooled states.

    Args:
        networks: of each network "config", from which transformers builds it; "width", D of its
            states; "pooling", "last" or "mean"; and "pad", the token that "last" passes over, or
            None.
        outputs: 1, the score; or 1 + M, the score and M members.
    """

    model_type = "rewardlab_text_reward"

    def __init__(
        self, networks: list[dict[str, Any]] | None = None, outputs: int = 1, **options: Any
    ) -> None:
        self.networks = networks or []
        self.outputs = outputs
        super().__init__(**{"num_labels": 1, **options})
