"""Data modules of samples, prompts and pairs, and the loader that can be stopped and resumed."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rewardlab.lazy import lazy_names

if TYPE_CHECKING:
    from rewardlab.data.loader import ResumableLoader, Rows
    from rewardlab.data.preferences import Preferences
    from rewardlab.data.prompt_data import NumberedPrompts, Prompts
    from rewardlab.data.samples import PairsData, SamplesData
    from rewardlab.data.splits import SplitData
    from rewardlab.data.targets import TargetSamples
    from rewardlab.data.token_budget import TokenBudget, budget_of
    from rewardlab.storage.image_folder import ImageFolder
    from rewardlab.storage.images import find_images, read_image
    from rewardlab.storage.preferences import read_preferences
    from rewardlab.storage.prompts import read_prompts
    from rewardlab.storage.samples import load_pairs, load_samples, save_pairs, save_samples
    from rewardlab.storage.video_folder import VideoFolder
    from rewardlab.storage.videos import Clip, read_video, write_video

_HOMES = {
    "ImageFolder": "rewardlab.storage.image_folder",
    "NumberedPrompts": "rewardlab.data.prompt_data",
    "PairsData": "rewardlab.data.samples",
    "Preferences": "rewardlab.data.preferences",
    "Prompts": "rewardlab.data.prompt_data",
    "ResumableLoader": "rewardlab.data.loader",
    "Rows": "rewardlab.data.loader",
    "SamplesData": "rewardlab.data.samples",
    "SplitData": "rewardlab.data.splits",
    "TargetSamples": "rewardlab.data.targets",
    "TokenBudget": "rewardlab.data.token_budget",
    "budget_of": "rewardlab.data.token_budget",
    "Clip": "rewardlab.storage.videos",
    "VideoFolder": "rewardlab.storage.video_folder",
    "read_video": "rewardlab.storage.videos",
    "write_video": "rewardlab.storage.videos",
    "find_images": "rewardlab.storage.images",
    "load_pairs": "rewardlab.storage.samples",
    "load_samples": "rewardlab.storage.samples",
    "read_image": "rewardlab.storage.images",
    "read_preferences": "rewardlab.storage.preferences",
    "read_prompts": "rewardlab.storage.prompts",
    "save_pairs": "rewardlab.storage.samples",
    "save_samples": "rewardlab.storage.samples",
}
__all__ = [
    "Clip",
    "ImageFolder",
    "VideoFolder",
    "NumberedPrompts",
    "PairsData",
    "Preferences",
    "Prompts",
    "ResumableLoader",
    "Rows",
    "SamplesData",
    "SplitData",
    "TargetSamples",
    "TokenBudget",
    "budget_of",
    "find_images",
    "load_pairs",
    "load_samples",
    "read_image",
    "read_preferences",
    "read_prompts",
    "read_video",
    "save_pairs",
    "save_samples",
    "write_video",
]

__getattr__, __dir__ = lazy_names(__name__, _HOMES)
