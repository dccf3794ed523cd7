"""What an exported reward of images is built from."""

from __future__ import annotations

from typing import Any

from transformers import PretrainedConfig


class ImageRewardConfig(PretrainedConfig):
    """Vision towers, and heads on their embeddings.

    Args:
        towers: of each "library", one of "open_clip", "timm" and "transformers"; "config", from
            which that builds it; "conditional", whether prompts are seen; and "normalize", whether
            embeddings are brought to length 1.
        heads: of each "tower", the number of the one that it stands on; "features", the length of
            what it sees; and "hidden", its hidden units, 0 for a linear one.
        outputs: 1, the score; or 1 + M, the score and M members.
    """

    model_type = "rewardlab_image_reward"

    def __init__(
        self,
        towers: list[dict[str, Any]] | None = None,
        heads: list[dict[str, Any]] | None = None,
        outputs: int = 1,
        **options: Any,
    ) -> None:
        self.towers = towers or []
        self.heads = heads or []
        self.outputs = outputs
        super().__init__(**{"num_labels": 1, **options})
