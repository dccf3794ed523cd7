"""Plans of rewards of pictures: towers of open_clip without numbers, and heads on them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

from rewardlab.errors import InputError
from rewardlab.networks import shells
from rewardlab.planning.live import peak_beside
from rewardlab.planning.memory_plan import MemoryPlan, Part, Stage
from rewardlab.planning.optimizers import gradient_size, state_size
from rewardlab.planning.parts import part_of
from rewardlab.planning.work import Work
from rewardlab.rewards import VisionReward
from rewardlab.rewards.tower_files import LOCAL

FEATURE_ROWS = 64  # pictures whose features are computed at once, as the data modules do
FOREIGN = ("timm:", "hf-hub:")
TOWER_CONFIG = "open_clip_config.json"


def vision_shell(settings: Mapping[str, Any]) -> VisionReward:
    """Return the `VisionReward` of a config without numbers, from its tower's config alone.

    Raises:
        InputError: if the tower is not one of open_clip, whose config is at hand.
    """
    import open_clip

    arguments = dict(settings)
    name = str(arguments.pop("tower"))
    for option in ("pretrained", "gelu", "preprocessing"):
        arguments.pop(option, None)
    config = None
    if not name.startswith(FOREIGN) and _has_config(name):
        config = open_clip.get_model_config(name)
    if config is None:
        raise InputError(
            f"The plan reads towers of open_clip, by an architecture's name or a folder "
            f"(local-dir:FOLDER with open_clip_config.json); got {name!r}. Count another tower's "
            "weights, and a batch of its activations, by hand."
        )
    custom = config.pop("custom_text", False) or "hf_model_name" in config.get("text_cfg", {})
    kind = open_clip.CustomTextCLIP if custom else open_clip.CLIP
    with shells.shells():
        model = kind(**config)
    return VisionReward(model, **arguments)


def _has_config(name: str) -> bool:
    """Tell whether a folder that is named has a config; other names are architectures."""
    folder = name.removeprefix(LOCAL)
    return folder == name or (Path(folder) / TOWER_CONFIG).is_file()


def reward_parts(reward: VisionReward) -> list[Part]:
    """Return the tower and the heads as parts of a plan."""
    return [part_of("tower", reward.tower), part_of("heads", reward.projection)]


def pictures(reward: VisionReward, rows: int) -> Tensor:
    """Return pictures of the tower's own size, without numbers."""
    return torch.zeros(rows, 3, *reward.tower.prepare.size)


def scored(reward: VisionReward, images: Tensor) -> Tensor:
    """Return the heads' logits [B, K] of pictures [B, C, H, W], or of frames [B, F, C, H, W].

    No number is looked at, so they are not checked.
    """
    frames = images.flatten(0, -4)
    embeddings = reward.tower.rest(reward.tower.frozen(frames))
    if reward.conditional:
        embeddings = torch.cat([embeddings, embeddings, embeddings], 1)  # prompts are cached
    logits: Tensor = reward.projection(embeddings.float())
    return logits


def gan_rm_plan(settings: Mapping[str, Any], work: Work) -> MemoryPlan:
    """Return the plan of fitting a `VisionReward` on a frozen tower by GANRM.

    The pictures' features are computed once and kept in the host's memory; heads train on them.

    Args:
        settings: the reward's arguments, `tower` among them.
        work: what the loop does.

    Raises:
        InputError: if the tower's config is not at hand, or some of its groups are trained.
    """
    if settings.get("unlocked_groups"):
        raise InputError(
            "The plan knows GANRM on frozen towers (unlocked_groups: 0), whose features are kept; "
            f"got unlocked_groups={settings['unlocked_groups']}, whose tokens pass trained blocks."
        )
    reward = vision_shell(settings)
    fake_mode = FakeTensorMode(allow_non_fake_inputs=True)
    shells.as_fake(reward, fake_mode)
    weights = list(reward.parameters())
    width = reward.projection.mean.numel()

    def compute_features() -> None:
        with torch.no_grad():
            model: Any = reward.tower.model
            model.encode_image(pictures(reward, FEATURE_ROWS), normalize=False)

    def train() -> None:
        logits = reward.projection(torch.zeros(work.rows, width))
        logits.sum().backward()  # type: ignore[no-untyped-call]

    stages = []
    for name, rows, run in (
        ("computing features", FEATURE_ROWS, compute_features),
        ("training step", work.rows, train),
    ):
        stages.append(Stage(name, peak_beside(reward, fake_mode, run), f"{rows} at once"))
    return MemoryPlan(
        title="GANRM of a VisionReward on a frozen tower",
        parts=reward_parts(reward),
        gradients=gradient_size(weights),
        optimizer=state_size(weights, work.optimizer, work.options),
        stages=stages,
        changes=["a smaller tower, or one in half precision", "a smaller batch_size"],
        notes=["Features of all pictures are kept in the host's memory, which is not counted."],
    )


def framed(settings: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return the arguments of the reward of frames inside a `Framewise`, or the reward's own.

    Example:
        >>> framed({"reward": {"class_path": "a.VisionReward", "init_args": {"tower": "RN50"}}})
        {'tower': 'RN50'}
    """
    inner = settings.get("reward")
    return inner["init_args"] if isinstance(inner, Mapping) else settings
