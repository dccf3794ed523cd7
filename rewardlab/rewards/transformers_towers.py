"""CLIP-like towers of transformers (CLIP, SigLIP and others), from a folder or an instance."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from rewardlab.errors import InputError
from rewardlab.networks.loading import checkpoint_activations, from_pretrained, load_network
from rewardlab.networks.recomputing import no_such_blocks
from rewardlab.rewards.foreign_towers import ForeignTower, with_numbers
from rewardlab.storage.atomic import write_json
from rewardlab.storage.class_files import read_json

PREPROCESSING = "preprocessor_config.json"
_FILTERS = {2: "bilinear", 3: "bicubic"}  # PIL's numbers


class TransformersTower(ForeignTower):
    """A model of transformers that embeds images and texts into one space.

    Args:
        model: with `get_image_features` and `get_text_features`; used in place.
        numbers: its preprocessing numbers.
        tokenizer: of transformers; None where no text will be embedded.
    """

    image_weights = ("network.vision_model.", "network.visual_projection.")

    def __init__(self, model: Any, numbers: Mapping[str, Any], tokenizer: Any = None) -> None:
        super().__init__()
        self.network = model
        self.numbers = dict(numbers)
        if tokenizer is not None:
            self.tokenizer = PaddedTexts(tokenizer, model.config.text_config)
        self.settings = [type(model).__name__, model.config.vision_config.to_json_string()]

    @property
    def visual(self) -> Any:
        """Return the image half."""
        return self.network.vision_model

    @property
    def logit_scale(self) -> Tensor:
        """Return the logarithm of the scale of cosines."""
        scale: Tensor = self.network.logit_scale
        return scale

    def encode_image(self, images: Tensor, normalize: bool = False) -> Tensor:
        """Return the embeddings [B, D] of preprocessed images [B, 3, H, W]."""
        features = _pooled(self.network.get_image_features(pixel_values=images))
        return nn.functional.normalize(features, dim=-1) if normalize else features

    def encode_text(self, ids: Tensor, normalize: bool = False) -> Tensor:
        """Return the embeddings [B, D] of texts' token ids [B, T], padded behind their end."""
        features = _pooled(self.network.get_text_features(input_ids=ids))
        return nn.functional.normalize(features, dim=-1) if normalize else features

    def checkpoint_activations(self) -> None:
        """Let the backward pass compute anew what each layer made.

        Raises:
            InputError: if the model cannot.
        """
        try:
            checkpoint_activations(self.network)
        except ValueError:
            raise no_such_blocks(self.network) from None

    def save(self, folder: Path, numbers: Mapping[str, Any]) -> None:
        """Write model, tokenizer and preprocessing as transformers does."""
        self.network.save_pretrained(folder)
        if self.tokenizer is not None:
            self.tokenizer.tokenizer.save_pretrained(folder)
        height, width = numbers["size"]
        size = {"height": height, "width": width}
        by_name = {name: number for number, name in _FILTERS.items()}
        squashes = numbers["resize_mode"] == "squash"
        content = {
            "do_resize": True,
            "size": size if squashes else {"shortest_edge": height},
            "do_center_crop": not squashes,
            "crop_size": size,
            "resample": by_name[numbers["interpolation"]],
            "do_normalize": True,
            "image_mean": list(numbers["mean"]),
            "image_std": list(numbers["std"]),
            "rewardlab_preprocessing": dict(numbers),
        }
        write_json(folder / PREPROCESSING, content)


class PaddedTexts:
    """A tokenizer of transformers, called as open_clip's are: rows of the context's length.

    Args:
        tokenizer: of transformers.
        config: of the text half.
    """

    def __init__(self, tokenizer: Any, config: Any) -> None:
        self.tokenizer = tokenizer
        self.context_length = int(config.max_position_embeddings)

    def __call__(self, texts: Sequence[str], context_length: int | None = None) -> Tensor:
        """Return the token ids of texts, int64 [B, T], cut or padded to T."""
        rows = self.tokenizer(
            list(texts),
            padding="max_length",
            truncation=True,
            max_length=context_length or self.context_length,
            return_tensors="pt",
        )
        ids: Tensor = rows["input_ids"]
        return ids


def is_clip_like(model: object) -> bool:
    """Tell whether an object is a model of transformers that embeds images and texts."""
    return hasattr(model, "get_image_features") and hasattr(model, "get_text_features")


def open_transformers_folder(
    folder: Path, text: bool, preprocessing: Any = None
) -> TransformersTower:
    """Load a CLIP-like model of transformers from its folder.

    Raises:
        InputError: if files are missing, broken, or of another kind of model.
    """
    model = load_network("AutoModel", str(folder), torch.float32).eval()
    if not is_clip_like(model):
        raise InputError(
            f"A tower of transformers embeds images and texts; {folder} holds a "
            f"{type(model).__name__}."
        )
    file = folder / PREPROCESSING
    if not file.is_file():
        raise InputError(
            f"{folder} holds no {PREPROCESSING}, which says how images are preprocessed. Copy it "
            "from where the model is from."
        )
    tokenizer = from_pretrained("AutoTokenizer", str(folder)) if text else None
    tower = TransformersTower(model, numbers_of(read_json(file)), tokenizer)
    with_numbers(tower, preprocessing)
    return tower


def numbers_of(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return the preprocessing numbers of a preprocessor_config.json.

    Raises:
        InputError: if it preprocesses in another way than `Preprocessing` does.
    """
    own = config.get("rewardlab_preprocessing")
    if isinstance(own, Mapping):
        return dict(own)
    size = config.get("size")
    crop = config.get("crop_size")
    numbers = {"mean": config.get("image_mean"), "std": config.get("image_std")}
    numbers["interpolation"] = _FILTERS.get(config.get("resample", 3))
    edge = size.get("shortest_edge") if isinstance(size, Mapping) else size
    if config.get("do_center_crop", True) and isinstance(edge, int):
        side = _sides(crop if crop is not None else edge)
        numbers |= {"size": side, "resize_mode": "shortest"}
        if edge != min(side):
            numbers["crop_pct"] = min(side) / edge
    else:
        numbers |= {"size": _sides(size), "resize_mode": "squash"}
    return numbers


def _sides(size: Any) -> tuple[int, int]:
    """Return height and width of a size in one of transformers' forms."""
    if isinstance(size, Mapping) and {"height", "width"} <= size.keys():
        return size["height"], size["width"]
    if isinstance(size, int):
        return size, size
    raise InputError(
        f"The size {size!r:.80} of a {PREPROCESSING} is none that a tower's images have; it should "
        "be a height and a width, or a shortest_edge that is cropped."
    )


def _pooled(output: Any) -> Tensor:
    """Return embeddings, which newer versions of transformers wrap."""
    features: Tensor = getattr(output, "pooler_output", output)
    return features
