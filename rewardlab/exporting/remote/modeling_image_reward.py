"""A reward of images: vision towers and heads on their embeddings. The only logit is the score."""

from __future__ import annotations

from copy import deepcopy
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AutoConfig, AutoModel, PreTrainedModel

from .configuration_image_reward import ImageRewardConfig
from .output_reward import RewardOutput, reward_output


class ImageRewardModel(PreTrainedModel):
    """Towers, and heads whose sum is the score, the only logit.

    Args:
        config: of the towers and the heads.
    """

    config_class = ImageRewardConfig
    main_input_name = "pixel_values"

    def __init__(self, config: ImageRewardConfig) -> None:
        super().__init__(config)
        self.towers = nn.ModuleList()
        self.heads = nn.ModuleList()
        for tower in config.towers:
            self.towers.append(Tower(tower))
        for head in config.heads:
            self.heads.append(Head(head["features"], head["hidden"], config.outputs))
        self.post_init()  # type: ignore[no-untyped-call]

    def forward(
        self,
        pixel_values: Tensor,
        input_ids: Tensor | None = None,
        return_dict: bool | None = None,
        **options: Any,
    ) -> RewardOutput | tuple[Any, ...]:
        """Return the scores as logits [B, 1], and the members' [B, M].

        Args:
            pixel_values: [B, 3, H, W] from the image processor, or [B, F, 3, H, W] of videos, of
                which the mean embedding counts.
            input_ids: [B, T] of prompts, where the reward sees them.
            return_dict: if false, a tuple is returned.
            options: ignored.

        Raises:
            ValueError: if the reward sees prompts, and there are none.
        """
        embeddings = [tower(pixel_values, input_ids) for tower in self.towers]
        columns: list[Tensor] = []
        for head, part in zip(self.heads, self.config.heads, strict=True):
            columns.append(head(embeddings[part["tower"]].to(head.mean.dtype)))
        outputs = torch.stack(columns).sum(0)
        return reward_output(outputs, return_dict)

    def _init_weights(self, module: nn.Module) -> None:
        """Leave weights as they are: all of them are loaded."""


class Head(nn.Module):
    """Heads on one tower as one: standardised features, hidden units, a number an output.

    Args:
        features: D.
        hidden: H; 0 for a linear head.
        outputs: O.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, features: int, hidden: int, outputs: int) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(features))
        self.register_buffer("std", torch.ones(features))
        self.hidden = nn.Linear(features, hidden) if hidden else None
        self.score = nn.Linear(hidden or features, outputs)

    def forward(self, features: Tensor) -> Tensor:
        """Return the outputs [B, O] of features [B, D]."""
        rows = (features - self.mean) / self.std
        if self.hidden is not None:
            rows = nn.functional.gelu(self.hidden(rows))
        outputs: Tensor = self.score(rows)
        return outputs


class Tower(nn.Module):
    """The image half of a model of open_clip, timm or transformers; with prompts, both halves.

    Args:
        description: what it is built from.
    """

    def __init__(self, description: dict[str, Any]) -> None:
        super().__init__()
        self.library = description.get("library")
        self.conditional = description["conditional"]
        self.normalize = description["normalize"]
        config = description["config"]
        self.network: Any
        if self.library == "open_clip" and self.conditional:
            self.network = open_clip_model(config)
        elif self.library == "open_clip":
            self.network = open_clip_tower(config)
        elif self.library == "timm":
            self.network = timm_tower(config)
        elif self.library == "transformers":
            self.network = transformers_tower(config, self.conditional)
        else:
            raise ValueError(f"The config names no library that is known: {self.library!r}.")
        keep_buffers(self.network)

    def forward(self, pixel_values: Tensor, input_ids: Tensor | None = None) -> Tensor:
        """Return what heads see of preprocessed pictures, or videos, and prompts: [B, D]."""
        embeddings: Tensor
        if pixel_values.dim() == 5:
            frames = self.images(pixel_values.flatten(0, 1))
            embeddings = frames.unflatten(0, pixel_values.shape[:2]).mean(1)
        else:
            embeddings = self.images(pixel_values)
        if not self.conditional:
            return embeddings
        texts = self.texts(input_ids)
        return torch.cat([embeddings, texts, embeddings * texts], 1)

    def images(self, pixel_values: Tensor) -> Tensor:
        """Return the embeddings [B, D] of preprocessed pictures [B, 3, H, W]."""
        embeddings: Tensor
        if self.library == "timm":
            hidden = self.network.forward_features(pixel_values)
            embeddings = self.network.forward_head(hidden, pre_logits=True)
        elif self.library == "transformers":
            output = self.network.get_image_features(pixel_values=pixel_values)
            embeddings = getattr(output, "pooler_output", output)
        elif self.conditional:
            embeddings = self.network.encode_image(pixel_values, normalize=False)
        else:
            embeddings = self.network(pixel_values)
        if self.normalize:
            return nn.functional.normalize(embeddings.float(), dim=-1)
        return embeddings

    def texts(self, input_ids: Tensor | None) -> Tensor:
        """Return the embeddings [B, D] of prompts' tokens [B, T]."""
        if input_ids is None:
            raise ValueError("This reward scores a picture beside its prompt: give input_ids too.")
        if self.library == "transformers":
            output = self.network.get_text_features(input_ids=input_ids)
            embeddings = getattr(output, "pooler_output", output)
        else:
            embeddings = self.network.encode_text(input_ids, normalize=False)
        return embeddings  # type: ignore[no-any-return]


def open_clip_model(config: dict[str, Any]) -> Any:
    """Build both halves of an open_clip model from its config."""
    from open_clip.model import CLIP, CustomTextCLIP

    settings = deepcopy(config)
    settings["vision_cfg"].pop("timm_model_pretrained", None)
    kind = CustomTextCLIP if settings.pop("custom_text", False) else CLIP
    return kind(**settings)


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


def transformers_tower(config: dict[str, Any], conditional: bool) -> Any:
    """Build a CLIP-like model of transformers; unless prompts are seen, without its text half."""
    settings = dict(config)
    kind = settings.pop("model_type")
    network = AutoModel.from_config(AutoConfig.for_model(kind, **settings))
    if not conditional:
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
