"""Two pretrained ImageNet towers of different families, as open_clip folders.

open_clip takes an image tower of timm. The text half that it asks for stays random and unused:
`conditional=False`.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import nn

from real.files import model_file
from rewardlab.embedded.cache import cached
from rewardlab.rewards.tower_files import save_tower

WIDTH = 1280
TEXT = {"context_length": 8, "vocab_size": 16, "width": 32, "heads": 2, "layers": 1}
IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
HALF = (0.5, 0.5, 0.5)
PACKAGES = ("torch", "open_clip_torch", "rewardlab")


class TowerSpec(NamedTuple):
    """What timm and open_clip are told of a tower.

    Attributes:
        architecture: its name in timm.
        mean: the preprocessing's mean of each channel.
        std: its deviation.
    """

    architecture: str
    mean: tuple[float, float, float]
    std: tuple[float, float, float]


TOWERS = {
    "efficientnet": TowerSpec("tf_efficientnet_lite0", HALF, HALF),
    "mobilenet": TowerSpec("mobilenetv2_100", IMAGENET_MEAN, IMAGENET_STD),
}


def tower(name: str, side: int = 160, pretrained: bool = True) -> str:
    """Return "local-dir:FOLDER" of a tower, written on the first call.

    Args:
        name: "efficientnet" (EfficientNet-Lite0) or "mobilenet" (MobileNetV2).
        side: pixels that pictures are resized to.
        pretrained: false for an untrained control.
    """
    settings = {"name": name, "side": side, "pretrained": pretrained}
    make = partial(_write, name=name, side=side, pretrained=pretrained)
    return f"local-dir:{cached(f'real-{name}', settings, PACKAGES, make)}"


def _write(folder: Path, name: str, side: int, pretrained: bool) -> None:
    from open_clip.model import CLIP, CLIPTextCfg, CLIPVisionCfg

    spec = TOWERS[name]
    vision = {
        "timm_model_name": spec.architecture,
        "timm_model_pretrained": False,
        "timm_pool": "avg",
        "timm_proj": "none",
        "image_size": side,
    }
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = CLIP(WIDTH, CLIPVisionCfg(**vision), CLIPTextCfg(**TEXT)).eval()
    if pretrained:
        load_trunk(model.visual.trunk, model_file(name))
    numbers = {
        "size": (side, side),
        "mean": spec.mean,
        "std": spec.std,
        "interpolation": "bicubic",
        "resize_mode": "shortest",
    }
    config = {"embed_dim": WIDTH, "vision_cfg": vision, "text_cfg": TEXT}
    save_tower(model, folder, config, numbers)


def load_trunk(trunk: nn.Module, path: Path) -> None:
    """Load a file whose tensors have the trunk's order and shapes under other names.

    The classifier, which the trunk lacks, comes last in the file. `load_state_dict` refuses a
    tensor of another shape.
    """
    weights: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    names = list(trunk.state_dict())
    trunk.load_state_dict(dict(zip(names, weights.values(), strict=False)))
