"""A reward of images: a frozen vision tower and heads on its embedding. The logit is the score."""

from __future__ import annotations

from copy import deepcopy
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AutoConfig, AutoModel, PreTrainedModel
from transformers.modeling_outputs import ImageClassifierOutput

from .configuration_image_reward import ImageRewardConfig


class ImageRewardModel(PreTrainedModel):
    """A tower, and heads that give one number, the score, as the only logit.

    Args:
        config: of the tower and the heads.
    """

    config_class = ImageRewardConfig
    main_input_name = "pixel_values"

    def __init__(self, config: ImageRewardConfig) -> None:
        super().__init__(config)
        self.tower = Tower(config.tower)
        self.head = Head(config.embedding_width, config.hidden_width)
        self.post_init()  # type: ignore[no-untyped-call]

    def forward(
        self, pixel_values: Tensor, return_dict: bool | None = None, **options: Any
    ) -> ImageClassifierOutput | tuple[Tensor]:
        """Return the scores as logits [B, 1].

        Args:
            pixel_values: [B, 3, H, W] from the image processor, or [B, F, 3, H, W] of videos, of
                which the mean embedding counts.
            return_dict: if false, a tuple is returned.
            options: ignored.
        """
        if pixel_values.dim() == 5:
            frames = self.tower(pixel_values.flatten(0, 1))
            embeddings = frames.unflatten(0, pixel_values.shape[:2]).mean(1)
        else:
            embeddings = self.tower(pixel_values)
        logits = self.head(embeddings.to(self.head.mean.dtype))[:, None]
        if return_dict is False:
            return (logits,)
        return ImageClassifierOutput(logits=logits)

    def _init_weights(self, module: nn.Module) -> None:
        """Leave weights as they are: all of them are loaded."""


class Head(nn.Module):
    """All heads as one: standardised features, hidden units, one number.

    Args:
        features: D.
        hidden: H; 0 for a linear head.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, features: int, hidden: int) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(features))
        self.register_buffer("std", torch.ones(features))
        self.hidden = nn.Linear(features, hidden) if hidden else None
        self.score = nn.Linear(hidden or features, 1)

    def forward(self, features: Tensor) -> Tensor:
        """Return a score a row [B] of features [B, D]."""
        rows = (features - self.mean) / self.std
        if self.hidden is not None:
            rows = nn.functional.gelu(self.hidden(rows))
        scores: Tensor = self.score(rows)
        return scores[:, 0]


class Tower(nn.Module):
    """The image half of a model of open_clip, timm or transformers.

    Args:
        description: what it is built from.
    """

    def __init__(self, description: dict[str, Any]) -> None:
        super().__init__()
        self.library = description.get("library")
        self.network: Any
        if self.library == "open_clip":
            self.network = open_clip_tower(description["config"])
        elif self.library == "timm":
            self.network = timm_tower(description["config"])
        elif self.library == "transformers":
            self.network = transformers_tower(description["config"])
        else:
            raise ValueError(f"The config names no library that is known: {self.library!r}.")
        keep_buffers(self.network)

    def forward(self, pixel_values: Tensor) -> Tensor:
        """Return the embeddings [B, D] of preprocessed images [B, 3, H, W]."""
        if self.library == "timm":
            hidden = self.network.forward_features(pixel_values)
            embeddings = self.network.forward_head(hidden, pre_logits=True)
        elif self.library == "transformers":
            output = self.network.get_image_features(pixel_values=pixel_values)
            embeddings = getattr(output, "pooler_output", output)
        else:
            embeddings = self.network(pixel_values)
        return embeddings  # type: ignore[no-any-return]


def open_clip_tower(config: dict[str, Any]) -> Any:
    """Build the image half of an open_clip model from its config."""
    from open_clip.model import _build_vision_tower

    vision = deepcopy(config["vision_cfg"])
    vision.pop("timm_model_pretrained", None)
    return _build_vision_tower(config["embed_dim"], vision, bool(config.get("quick_gelu", False)))


def timm_tower(config: dict[str, Any]) -> Any:
    """Build a model of timm from what its folders hold, without a classifier."""
    import timm

    args = {**(config.get("model_args") or {}), "num_classes": 0}
    architecture = config["architecture"]
    own = {"architecture": architecture, **(config.get("pretrained_cfg") or {})}
    return timm.create_model(architecture, pretrained=False, pretrained_cfg=own, **args)


def transformers_tower(config: dict[str, Any]) -> Any:
    """Build a CLIP-like model of transformers, and take its text half out."""
    settings = dict(config)
    kind = settings.pop("model_type")
    network = AutoModel.from_config(AutoConfig.for_model(kind, **settings))
    without_text(network)
    return network


def without_text(network: nn.Module) -> None:
    """Take what no image needs out of a CLIP-like model."""
    for name in ("text_model", "text_projection", "logit_scale", "logit_bias"):
        if hasattr(network, name):
            delattr(network, name)


def keep_buffers(network: nn.Module) -> None:
    """Let all buffers be saved and loaded, those too that a library would compute anew."""
    for module in network.modules():
        module._non_persistent_buffers_set.clear()
