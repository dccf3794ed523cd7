"""Flow-Factory: a file with a reward model's class that scores by a reward of images of ours."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from rewardlab.errors import InputError
from rewardlab.exchange.function_files import (
    FolderReward,
    checked_folder,
    checked_unscored,
    filled_file,
    writer_of,
)
from rewardlab.storage.conversion import as_samples

__all__ = ["function_file", "rewards_of", "write_function"]

TEMPLATE = '''"""A rewardlab reward of images for Flow-Factory.

Give it as reward_model: MODULE.RewardlabReward, where MODULE is this file's name and PYTHONPATH has
its folder. Written by rewardlab {version}, which has to be installed.
"""

from flow_factory.rewards import PointwiseRewardModel, RewardModelOutput

from rewardlab.exchange.flow_factory import rewards_of
from rewardlab.exchange.function_files import FolderReward

REWARD = {reward}
UNSCORED = {unscored}  # number that stands for an image without a score; None is an error
TRUST = {trust}  # whether the folder may name code of others, which is run


class RewardlabReward(PointwiseRewardModel):
    """Scores images, or videos, one by one."""

    required_fields = ({field}, "prompt")
    use_tensor_inputs = True

    def __init__(self, config, accelerator):
        super().__init__(config, accelerator)
        self.folder = FolderReward(REWARD, str(self.device), UNSCORED, TRUST)
        self.model = self.folder.reward()

    def __call__(self, prompt, image=None, video=None, **kwargs):
        """Return the rewards [B] of images [C, H, W], or of videos [F, C, H, W]."""
        return RewardModelOutput(rewards=rewards_of(self.folder, prompt, image, video))
'''


def function_file(
    reward_folder: str | Path,
    video: bool = False,
    unscored: float | None = None,
    trust: bool = False,
) -> str:
    """Return the text of a module with a `PointwiseRewardModel` for Flow-Factory.

    The class gets tensors in [0, 1] (`use_tensor_inputs`) and scores them as it is configured
    there: device and batch size are Flow-Factory's; the reward's precision stays its own.

    Args:
        reward_folder: a folder that `load_reward` opens; the file names its absolute path.
        video: whether the generator makes videos.
        unscored: number that stands for an output that the reward leaves unscored; by default that
            is an error.
        trust: as of `load_reward`.

    Raises:
        InputError: if the folder holds no reward, or one that does not score images, or a setting
            is wrong.

    Example:
        >>> from rewardlab.rewards import Brightness
        >>> folder = getfixture("tmp_path") / "reward"
        >>> Brightness().save_pretrained(folder)
        >>> "class RewardlabReward(PointwiseRewardModel):" in function_file(folder)
        True
    """
    values = {
        "reward": str(checked_folder(reward_folder, "images", trust)),
        "field": "video" if video else "image",
        "unscored": checked_unscored(unscored),
        "trust": trust,
    }
    return filled_file(TEMPLATE, values)


write_function = writer_of(function_file)
"""Write the file of `function_file(reward_folder, **options)`, and return its path."""


def rewards_of(
    folder: FolderReward, prompts: Sequence[str], images: Any = None, videos: Any = None
) -> Tensor:
    """Return the rewards of B outputs, float32 [B] on the CPU.

    Args:
        folder: the reward.
        prompts: B texts.
        images: a tensor [B, C, H, W], or B of [C, H, W], which may differ in size; floats in [0, 1]
            or uint8.
        videos: the same of [F, C, H, W].

    Raises:
        InputError: if there are neither images nor videos, or other than one a prompt, or one
            cannot be scored.

    Example:
        >>> from rewardlab.rewards import Brightness
        >>> folder = getfixture("tmp_path") / "reward"
        >>> Brightness().save_pretrained(folder)
        >>> images = [torch.ones(3, 4, 4), torch.zeros(3, 8, 8)]
        >>> rewards_of(FolderReward(folder), ["", ""], images).tolist()
        [1.0, 0.0]
    """
    outputs = images if images is not None else videos
    if outputs is None:
        raise InputError(
            "The reward scores images or videos; Flow-Factory passed neither. Does the generator "
            "make what the file was written for (video=)?"
        )
    if len(outputs) != len(prompts):
        raise InputError(
            f"Flow-Factory passed {len(prompts)} prompts and {len(outputs)} outputs; one each is "
            "wanted."
        )
    rewards = torch.empty(len(prompts))
    for rows in _rows_by_size(outputs):
        batch = torch.stack([outputs[row] for row in rows])
        samples = as_samples([prompts[row] for row in rows], batch)
        rewards[rows] = folder.answers(samples).judged.scores
    return rewards


def _rows_by_size(outputs: Sequence[Tensor]) -> list[list[int]]:
    """Return the rows of outputs of each size."""
    groups: dict[tuple[int, ...], list[int]] = {}
    for row, output in enumerate(outputs):
        groups.setdefault(tuple(output.shape), []).append(row)
    return list(groups.values())
