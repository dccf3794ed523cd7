"""A reward of images as a folder of transformers, with the code that its classes need."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from rewardlab.exporting.comparison import Comparison, coarsest, compared
from rewardlab.exporting.image_scorer import ImageScorer, JoinedHead
from rewardlab.exporting.remote.configuration_image_reward import ImageRewardConfig
from rewardlab.exporting.remote.image_processing_image_reward import ImageRewardProcessor
from rewardlab.exporting.remote.modeling_image_reward import ImageRewardModel
from rewardlab.networks.silence import silent
from rewardlab.rewards import Reward, VisionReward
from rewardlab.rewards.scoring import scores_of
from rewardlab.storage.atomic import write_json
from rewardlab.types import Samples

CODE = Path(__file__).parent / "remote"
CONFIGURATION = "configuration_image_reward"
MODELING = "modeling_image_reward"
PROCESSING = "image_processing_image_reward"
SHAPES = ((40, 56), (56, 40), (17, 90), (300, 280))  # height and width of probes


def write_images(
    folder: Path, scorer: ImageScorer, reward: Reward, dtype: torch.dtype
) -> Comparison:
    """Write a reward of images into an empty folder, load it with transformers, and compare.

    Args:
        folder: empty.
        scorer: of the reward.
        reward: the original.
        dtype: of the weights.

    Raises:
        InputError: if what was written scores otherwise.
    """
    model: Any = image_model(scorer)
    model = model.to(dtype)
    with silent():
        model.save_pretrained(folder)
    _name_classes(folder)
    write_processor(folder, scorer.reader)
    for name in (CONFIGURATION, MODELING):
        shutil.copy(CODE / f"{name}.py", folder)
    with silent():
        loaded: Any = ImageRewardModel.from_pretrained(folder)
    processor = ImageRewardProcessor.from_pretrained(folder)
    scores = []
    expected = []
    for pictures in probe_pictures(scorer.reader):
        pixels = processor(pictures)["pixel_values"]
        scores.append(_logits(loaded.eval(), pixels.to(dtype)))
        expected.append(scores_of(reward, Samples([""] * len(pictures), pictures)))
    name = coarsest(str(dtype).removeprefix("torch."), reward)
    return compared(torch.cat(scores), torch.cat(expected), name, "The exported model")


def probe_pictures(reader: VisionReward) -> list[Tensor]:
    """Return pictures [2, 3, H, W] of several shapes that a reward takes."""
    size = reader.tower.prepare.size
    shapes = (*SHAPES, size) if reader.resize else (size,)
    pictures = []
    for number, shape in enumerate(shapes):
        generator = torch.Generator().manual_seed(number)
        pictures.append(torch.rand(2, 3, *shape, generator=generator))
    return pictures


@torch.no_grad()
def _logits(model: Any, pixels: Tensor) -> Tensor:
    logits: Tensor = model(pixels).logits
    return logits[:, 0].float()


def image_model(scorer: ImageScorer) -> Any:
    """Return the model that a folder holds, in float32."""
    config = ImageRewardConfig(
        tower=scorer.tower.description,
        embedding_width=len(scorer.head.mean),
        hidden_width=0 if scorer.head.hidden_weight is None else len(scorer.head.hidden_weight),
    )
    with torch.random.fork_rng(devices=[]), silent():
        model: Any = ImageRewardModel(config)
    model.tower.load_state_dict(_prefixed(scorer.tower.network.state_dict()))
    _fill_head(model.head, scorer.head)
    return model.eval()


@torch.no_grad()
def _fill_head(module: Any, head: JoinedHead) -> None:
    module.mean.copy_(head.mean)
    module.std.copy_(head.std)
    if head.hidden_weight is not None:
        module.hidden.weight.copy_(head.hidden_weight)
        module.hidden.bias.copy_(head.hidden_bias)
    module.score.weight.copy_(head.weight[None])
    module.score.bias.fill_(head.bias)


def _prefixed(state: dict[str, Tensor]) -> dict[str, Tensor]:
    return {f"network.{name}": tensor for name, tensor in state.items()}


def write_processor(folder: Path, reader: VisionReward) -> None:
    """Write a reward's preprocessing, and the code that does it, into a folder."""
    numbers = reader.tower.prepare.numbers
    height, width = numbers["size"]
    content = {
        "auto_map": {"AutoImageProcessor": f"{PROCESSING}.ImageRewardProcessor"},
        "image_processor_type": "ImageRewardProcessor",
        "size": {"height": height, "width": width},
        "image_mean": list(numbers["mean"]),
        "image_std": list(numbers["std"]),
        "interpolation": numbers["interpolation"],
        "resize_mode": numbers["resize_mode"],
        "fill_color": numbers["fill_color"],
        "crop_pct": numbers.get("crop_pct"),
        "do_resize": reader.resize,
    }
    write_json(folder / "preprocessor_config.json", content)
    shutil.copy(CODE / f"{PROCESSING}.py", folder)


def _name_classes(folder: Path) -> None:
    """Say in a folder's config.json which classes load it."""
    file = folder / "config.json"
    config = json.loads(file.read_text(encoding="utf-8"))
    config["auto_map"] = {
        "AutoConfig": f"{CONFIGURATION}.ImageRewardConfig",
        "AutoModel": f"{MODELING}.ImageRewardModel",
        "AutoModelForImageClassification": f"{MODELING}.ImageRewardModel",
        "AutoImageProcessor": f"{PROCESSING}.ImageRewardProcessor",
    }
    write_json(file, config)
