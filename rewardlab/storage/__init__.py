"""Files: images, samples, prompts and metadata, read with care and written whole or not at all."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rewardlab.lazy import lazy_names

if TYPE_CHECKING:
    from rewardlab.storage.atomic import atomic_folder, new_folder, write_atomically, write_json
    from rewardlab.storage.conversion import as_samples
    from rewardlab.storage.image_folder import ImageFolder
    from rewardlab.storage.images import find_images, read_image
    from rewardlab.storage.metadata import read_text
    from rewardlab.storage.preferences import PairFile, read_pair_file, read_preferences
    from rewardlab.storage.prompts import read_prompts
    from rewardlab.storage.samples import load_pairs, load_samples, save_pairs, save_samples
    from rewardlab.storage.video_folder import VideoFolder
    from rewardlab.storage.videos import Clip, read_video, write_video

_HOMES = {
    "ImageFolder": "rewardlab.storage.image_folder",
    "Clip": "rewardlab.storage.videos",
    "PairFile": "rewardlab.storage.preferences",
    "VideoFolder": "rewardlab.storage.video_folder",
    "read_video": "rewardlab.storage.videos",
    "write_video": "rewardlab.storage.videos",
    "as_samples": "rewardlab.storage.conversion",
    "atomic_folder": "rewardlab.storage.atomic",
    "find_images": "rewardlab.storage.images",
    "load_pairs": "rewardlab.storage.samples",
    "load_samples": "rewardlab.storage.samples",
    "new_folder": "rewardlab.storage.atomic",
    "read_image": "rewardlab.storage.images",
    "read_pair_file": "rewardlab.storage.preferences",
    "read_preferences": "rewardlab.storage.preferences",
    "read_prompts": "rewardlab.storage.prompts",
    "read_text": "rewardlab.storage.metadata",
    "save_pairs": "rewardlab.storage.samples",
    "save_samples": "rewardlab.storage.samples",
    "write_atomically": "rewardlab.storage.atomic",
    "write_json": "rewardlab.storage.atomic",
}
__all__ = [
    "Clip",
    "ImageFolder",
    "PairFile",
    "VideoFolder",
    "as_samples",
    "atomic_folder",
    "find_images",
    "load_pairs",
    "load_samples",
    "new_folder",
    "read_image",
    "read_pair_file",
    "read_preferences",
    "read_prompts",
    "read_text",
    "read_video",
    "save_pairs",
    "save_samples",
    "write_atomically",
    "write_json",
    "write_video",
]

__getattr__, __dir__ = lazy_names(__name__, _HOMES)
