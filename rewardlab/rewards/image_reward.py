"""ImageReward: the published preference model of that name, from local checkpoints alone."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from rewardlab.conversations import text_prompts
from rewardlab.errors import InputError
from rewardlab.networks.loading import checkpoint_activations, load_tokenizer
from rewardlab.networks.stillness import still
from rewardlab.rewards.abilities import Saved
from rewardlab.rewards.aesthetic import linear_chain
from rewardlab.rewards.base import Reward, checked_scores
from rewardlab.rewards.folders import read_config
from rewardlab.rewards.preprocessing import Preprocessing
from rewardlab.rewards.saved import tried_folder
from rewardlab.rewards.tower_weights import load_weights, read_weights
from rewardlab.types import Samples, images_of

TOKENIZER = "tokenizer"
WEIGHTS = "model.safetensors"
MEAN = 0.16717362830052426  # of the published model's scores, which it standardises by
STD = 1.0333394966054072
TOKENS = 35  # of a prompt
HEAD_WIDTH = 64  # of each attention head, in both halves
_CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
_CLIP_STD = (0.26862954, 0.26130258, 0.27577711)
_VISION_EPS = 1e-6  # of BLIP's layer norms, other than transformers' default
# BLIP's own names, and those of transformers
_VISION_NAMES = (
    ("patch_embed.proj", "embeddings.patch_embedding"),
    ("pos_embed", "embeddings.position_embedding"),
    ("cls_token", "embeddings.class_embedding"),
    ("blocks.", "encoder.layers."),
    (".attn.proj", ".self_attn.projection"),
    (".attn.", ".self_attn."),
    (".norm1.", ".layer_norm1."),
    (".norm2.", ".layer_norm2."),
)


class ImageReward(Reward, Saved):
    """ImageReward-v1.0 (arXiv 2304.05977): BLIP's text half reads the image, a chain scores it.

    The state of the prompt's first token, after attending to the image's tokens, goes through
    linear layers (768, 1024, 128, 64, 16, 1), and the result is standardised by the published
    constants. The score is differentiable with respect to the images; everything is frozen. Of a
    video, frames are scored and their mean counts. Prompts are cut to 35 tokens, as published.

    Args:
        weights: the published checkpoint, `ImageReward.pt`, or one of the same layout.
        tokenizer: of transformers, or its folder: that of bert-base-uncased.
        gradient_checkpointing: trade time for memory where a gradient passes the image half.

    Raises:
        InputError: if the checkpoint is of another layout, or a weight is missing.
    """

    conditional = True
    meaning = "ImageReward"

    def __init__(
        self, weights: str | Path, tokenizer: Any, gradient_checkpointing: bool = False
    ) -> None:
        super().__init__()
        tensors = read_weights(weights)
        vision = _renamed_vision(_part(tensors, "blip.visual_encoder."))
        text = _part(tensors, "blip.text_encoder.")
        text.pop("embeddings.position_ids", None)
        layers = _part(tensors, "mlp.layers.")
        if not (vision and text and layers):
            raise InputError(
                f"{weights} is no checkpoint of ImageReward: it should hold weights called "
                f"blip.visual_encoder…, blip.text_encoder… and mlp.layers…; got "
                f"{', '.join(list(tensors)[:3])}."
            )
        self.vision = _vision_half(vision)
        self.text = _text_half(text, self.vision.config.hidden_size)
        self.head = linear_chain(layers)
        parts = ((self.vision, vision), (self.text, text), (self.head, layers))
        for module, part in parts:
            load_weights(module, part, weights)
        self.tokenizer = load_tokenizer(tokenizer, None, "ImageReward")
        size = self.vision.config.image_size
        self.prepare = Preprocessing({"size": size, "mean": _CLIP_MEAN, "std": _CLIP_STD})
        if gradient_checkpointing:
            checkpoint_activations(self.vision)
        self.requires_grad_(False).eval()

    def train(self, mode: bool = True) -> ImageReward:
        """Stay in eval mode, whatever the module around it does.

        Layers that compute their activations anew do so in training mode alone; they have it, and
        draw nothing.
        """
        super().train(False)
        still(self.vision, training=True)
        return self

    def forward(self, samples: Samples) -> Tensor:
        """Return the scores, float32 [B].

        Raises:
            InputError: if the outputs are strings, a prompt is a conversation, or a score is NaN or
                infinite.
        """
        images = images_of(samples, "ImageReward", channels="3")
        prompts = text_prompts(samples.prompts, "ImageReward")
        frames = images if images.dim() == 5 else images[:, None]
        count = frames.shape[1]
        repeated = []
        for prompt in prompts:
            repeated += [prompt] * count
        with torch.set_grad_enabled(torch.is_grad_enabled() and images.requires_grad):
            scores = self._scores(frames.flatten(0, 1), repeated)
            scores = scores.unflatten(0, (-1, count)).mean(1)
        return checked_scores(scores, samples, "ImageReward")

    def save_pretrained(self, folder: str | Path) -> None:
        """Write the reward into `folder` under the published names, whole or not at all."""
        from safetensors.torch import save_file

        parts = {
            "blip.visual_encoder.": _renamed_vision(self.vision.state_dict(), back=True),
            "blip.text_encoder.": self.text.state_dict(),
            "mlp.layers.": self.head.state_dict(),
        }
        weights = {}
        for beginning, part in parts.items():
            for name, tensor in part.items():
                weights[beginning + name] = tensor.contiguous()
        with tried_folder(folder, self) as fresh:
            save_file(weights, fresh / WEIGHTS)
            self.tokenizer.save_pretrained(fresh / TOKENIZER)

    @classmethod
    def from_pretrained(cls, folder: str | Path) -> ImageReward:
        """Load what `save_pretrained` wrote, in eval mode.

        Raises:
            InputError: if files are missing, broken or edited.
        """
        read_config(folder)
        return cls(Path(folder) / WEIGHTS, str(Path(folder) / TOKENIZER))

    def _scores(self, images: Tensor, prompts: list[str]) -> Tensor:
        """Return the score of each image [N, C, H, W] with its prompt."""
        pixels = self.prepare(images).to(self.head[0].weight.dtype)
        patches = self.vision(pixel_values=pixels).last_hidden_state
        rows = self.tokenizer(
            prompts, padding="max_length", truncation=True, max_length=TOKENS, return_tensors="pt"
        )
        read = self.text(
            input_ids=rows["input_ids"].to(patches.device),
            attention_mask=rows["attention_mask"].to(patches.device),
            encoder_hidden_states=patches,
            encoder_attention_mask=torch.ones(patches.shape[:2], device=patches.device),
        )
        scores: Tensor = self.head(read.last_hidden_state[:, 0])[:, 0]
        return (scores.float() - MEAN) / STD


def _part(tensors: Mapping[str, Tensor], beginning: str) -> dict[str, Tensor]:
    """Return the tensors whose names begin so, without that beginning."""
    part = {}
    for name, tensor in tensors.items():
        if name.startswith(beginning):
            part[name.removeprefix(beginning)] = tensor
    return part


def _renamed_vision(weights: Mapping[str, Tensor], back: bool = False) -> dict[str, Tensor]:
    """Return the image half's weights under transformers' names, or `back` under BLIP's."""
    renamed = {}
    for name, tensor in weights.items():
        for own, theirs in _VISION_NAMES:
            name = name.replace(theirs, own) if back else name.replace(own, theirs)
        if back:
            name = name.replace("post_layernorm.", "norm.")
        elif name.startswith("norm."):
            name = f"post_layernorm.{name.removeprefix('norm.')}"
        renamed[name] = tensor
    return renamed


def _vision_half(weights: Mapping[str, Tensor]) -> Any:
    """Build BLIP's image half, in the sizes of its weights."""
    from transformers import BlipVisionConfig, BlipVisionModel

    width, _, patch, _ = _shape(weights, "embeddings.patch_embedding.weight")
    places = _shape(weights, "embeddings.position_embedding")[1] - 1
    config = BlipVisionConfig(
        hidden_size=width,
        intermediate_size=_shape(weights, "encoder.layers.0.mlp.fc1.weight")[0],
        num_hidden_layers=_count(weights, "encoder.layers."),
        num_attention_heads=max(1, width // HEAD_WIDTH),
        image_size=patch * round(places**0.5),
        patch_size=patch,
        layer_norm_eps=_VISION_EPS,
    )
    with torch.random.fork_rng(devices=[]):
        return BlipVisionModel(config)


def _text_half(weights: Mapping[str, Tensor], image_width: int) -> Any:
    """Build BLIP's text half, in the sizes of its weights."""
    from transformers import BlipTextConfig
    from transformers.models.blip.modeling_blip_text import BlipTextModel

    words, width = _shape(weights, "embeddings.word_embeddings.weight")
    config = BlipTextConfig(
        vocab_size=words,
        hidden_size=width,
        encoder_hidden_size=image_width,
        intermediate_size=_shape(weights, "encoder.layer.0.intermediate.dense.weight")[0],
        num_hidden_layers=_count(weights, "encoder.layer."),
        num_attention_heads=max(1, width // HEAD_WIDTH),
        max_position_embeddings=_shape(weights, "embeddings.position_embeddings.weight")[0],
        is_decoder=True,  # it attends to the image
    )
    with torch.random.fork_rng(devices=[]):
        return BlipTextModel(config, add_pooling_layer=False)


def _shape(weights: Mapping[str, Tensor], name: str) -> tuple[int, ...]:
    if name not in weights:
        raise InputError(f"A checkpoint of ImageReward lacks the weight {name}. Is it whole?")
    return tuple(weights[name].shape)


def _count(weights: Mapping[str, Tensor], beginning: str) -> int:
    """Return how many numbered parts there are whose names begin so."""
    numbers = [0]
    for name in weights:
        if name.startswith(beginning):
            number = name.removeprefix(beginning).partition(".")[0]
            numbers.append(int(number) + 1 if number.isdigit() else 0)
    return max(numbers)
