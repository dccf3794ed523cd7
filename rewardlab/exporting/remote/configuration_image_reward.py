"""What an exported reward of images is built from."""

from __future__ import annotations

from typing import Any

from transformers import PretrainedConfig


class ImageRewardConfig(PretrainedConfig):
    """A vision tower, and heads on its embedding.

    Args:
        tower: "library", one of "open_clip", "timm" and "transformers", and "config", from which
            that builds the tower.
        embedding_width: D, length of the tower's embedding.
        hidden_width: H, hidden units of all heads together; 0 for a linear head.
    """

    model_type = "rewardlab_image_reward"

    def __init__(
        self,
        tower: dict[str, Any] | None = None,
        embedding_width: int = 1,
        hidden_width: int = 0,
        **options: Any,
    ) -> None:
        self.tower = tower or {}
        self.embedding_width = embedding_width
        self.hidden_width = hidden_width
        super().__init__(**{"num_labels": 1, **options})
