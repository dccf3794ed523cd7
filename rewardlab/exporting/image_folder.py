"""A reward of images as a folder of transformers, with the code that its classes need."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from rewardlab.exporting.code_folder import OUTPUT, columns_of, copy_code, name_classes
from rewardlab.exporting.comparison import (
    Comparison,
    coarsest,
    compared,
    expected_outputs,
)
from rewardlab.exporting.image_scorer import ImageScorer, JoinedHead
from rewardlab.exporting.prompt_tokens import PROMPTS
from rewardlab.exporting.remote.configuration_image_reward import ImageRewardConfig
from rewardlab.exporting.remote.image_processing_image_reward import ImageRewardProcessor
from rewardlab.exporting.remote.modeling_image_reward import ImageRewardModel
from rewardlab.networks.silence import silent
from rewardlab.rewards import Reward
from rewardlab.storage.atomic import write_json
from rewardlab.types import Samples

CONFIGURATION = "configuration_image_reward"
MODELING = "modeling_image_reward"
PROCESSING = "image_processing_image_reward"
CLASSES = {
    "AutoConfig": f"{CONFIGURATION}.ImageRewardConfig",
    "AutoModel": f"{MODELING}.ImageRewardModel",
    "AutoModelForImageClassification": f"{MODELING}.ImageRewardModel",
    "AutoImageProcessor": f"{PROCESSING}.ImageRewardProcessor",
}
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
    name_classes(folder, CLASSES)
    write_processor(folder, scorer)
    copy_code(folder, CONFIGURATION, MODELING, OUTPUT)
    with silent():
        loaded: Any = ImageRewardModel.from_pretrained(folder)
    outputs = []
    expected = []
    for batch in image_probes(folder, scorer):
        tables = dict(batch.tables)
        tables["pixel_values"] = tables["pixel_values"].to(dtype)
        outputs.append(_outputs(loaded.eval(), tables))
        expected.append(expected_outputs(reward, batch.samples, scorer.outputs))
    name = coarsest(str(dtype).removeprefix("torch."), reward)
    return compared(torch.cat(outputs), torch.cat(expected), name, "The exported model")


class ImageProbe(NamedTuple):
    """Samples, and the tables that a folder's processor and tokenizer make of them.

    Attributes:
        samples: pictures of one size, with prompts.
        tables: "pixel_values" and, where prompts are seen, "input_ids".
    """

    samples: Samples
    tables: dict[str, Tensor]


def image_probes(folder: Path, scorer: ImageScorer) -> list[ImageProbe]:
    """Return pictures of several shapes that a reward takes, two of each, as a folder reads them.

    Args:
        folder: with the processor.
        scorer: of the reward.
    """
    processor = ImageRewardProcessor.from_pretrained(folder)
    size = scorer.look.tower.prepare.size
    shapes = (*SHAPES, size) if scorer.look.resizes else (size,)
    probes = []
    for number, shape in enumerate(shapes):
        generator = torch.Generator().manual_seed(number)
        pictures = torch.rand(2, 3, *shape, generator=generator)
        prompts = ["", ""] if scorer.prompts is None else list(PROMPTS)
        tables = {"pixel_values": processor(pictures)["pixel_values"]}
        if scorer.prompts is not None:
            tables["input_ids"] = scorer.prompts.ids(prompts)
        probes.append(ImageProbe(Samples(prompts, pictures), tables))
    return probes


@torch.no_grad()
def _outputs(model: Any, tables: Mapping[str, Tensor]) -> Tensor:
    """Return all that a model gives, float32 [B, O]."""
    return columns_of(model(**tables))


def image_model(scorer: ImageScorer) -> Any:
    """Return the model that a folder holds, in float32."""
    heads = []
    for placed in scorer.heads:
        head = placed.head
        hidden = 0 if head.hidden_weight is None else len(head.hidden_weight)
        heads.append({"tower": placed.tower, "features": len(head.mean), "hidden": hidden})
    config = ImageRewardConfig(
        towers=[tower.description for tower in scorer.towers], heads=heads, outputs=scorer.outputs
    )
    with torch.random.fork_rng(devices=[]), silent():
        model: Any = ImageRewardModel(config)
    for module, tower in zip(model.towers, scorer.towers, strict=True):
        module.network.load_state_dict(tower.network.state_dict())
    for module, placed in zip(model.heads, scorer.heads, strict=True):
        _fill_head(module, placed.head)
    return model.eval()


@torch.no_grad()
def _fill_head(module: Any, head: JoinedHead) -> None:
    module.mean.copy_(head.mean)
    module.std.copy_(head.std)
    if head.hidden_weight is not None:
        module.hidden.weight.copy_(head.hidden_weight)
        module.hidden.bias.copy_(head.hidden_bias)
    module.score.weight.copy_(head.weight)
    module.score.bias.copy_(head.bias)


def write_processor(folder: Path, scorer: ImageScorer) -> None:
    """Write a reward's preprocessing, the code that does it, and a tokenizer of its own."""
    numbers = scorer.look.tower.prepare.numbers
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
        "do_resize": scorer.look.resizes,
    }
    write_json(folder / "preprocessor_config.json", content)
    copy_code(folder, PROCESSING)
    if scorer.prompts is not None:
        scorer.prompts.write(folder)
