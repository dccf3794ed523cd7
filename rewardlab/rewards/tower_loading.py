"""Towers by what users name: an architecture, a folder, a repository, or a model that is built."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import nn

from rewardlab.errors import InputError
from rewardlab.rewards.tower_files import TowerOptions, open_model
from rewardlab.rewards.tower_forms import Gelu
from rewardlab.rewards.tower_prompts import LongPrompts
from rewardlab.rewards.towers import Tower


def load_tower(
    tower: str | nn.Module,
    pretrained: str | None = None,
    text: bool = False,
    unlocked_groups: int = 0,
    gelu: Gelu | None = None,
    preprocessing: str | Mapping[str, Any] | None = None,
    long_prompts: LongPrompts = "cut",
) -> Tower:
    """Load a model of open_clip, timm or transformers, and split its image tower.

    Only a tag or an hf-hub: name reaches for the network.

    Args:
        tower: an architecture of open_clip ("ViT-L-14"), "local-dir:FOLDER" (of any of the three
            libraries), "hf-hub:ORGANISATION/NAME", "timm:ARCHITECTURE.TAG", or a model.
        pretrained: for an architecture: open_clip's tag, a local weights file, or "random" for a
            control that knows nothing.
        text: whether prompts will be embedded too, so that a named tower's own tokenizer is loaded.
        unlocked_groups: see `Tower`.
        gelu: the activation that a weights file was trained with, "quick" for OpenAI's and for
            others whose tags say so. Needed where the architecture has weights of both kinds and no
            open_clip_config.json stands beside the file.
        preprocessing: what a weights file was trained with: one of open_clip's tags that has the
            same, or a mapping of numbers (mean, std, interpolation, resize_mode). Needed where the
            architecture's tags differ. Of folders, tags and models it replaces their own.
        long_prompts: see `Tower`.

    Raises:
        InputError: if the name, the folder or the weights are not there or do not fit each other,
            or nothing decides the form of the weights.

    Example:
        >>> load_tower("ViT-L-41", "random")
        Traceback (most recent call last):
        rewardlab.errors.InputError: open_clip has no tower named ViT-L-41; the nearest is ...
    """
    if isinstance(tower, nn.Module):
        numbers = _numbers_of_instance(tower, pretrained, gelu, preprocessing)
        return Tower(tower, unlocked_groups, numbers=numbers, long_prompts=long_prompts)
    if not isinstance(tower, str):
        raise InputError(
            f"A tower is a name, a folder as local-dir:FOLDER, or a model; got {tower!r:.80}."
        )
    options = TowerOptions(pretrained, gelu, preprocessing)
    model, tokenizer, config = open_model(tower, text, options)
    return Tower(model, unlocked_groups, tower, tokenizer, config, long_prompts=long_prompts)


def _numbers_of_instance(
    tower: nn.Module, pretrained: str | None, gelu: Gelu | None, preprocessing: Any
) -> Mapping[str, Any] | None:
    """Return the preprocessing numbers for a model that is built already; refuse the rest."""
    if pretrained is not None or gelu is not None:
        raise InputError(
            f"A {type(tower).__name__} that is given as a model has its weights and its "
            f"activation; got pretrained={pretrained} and gelu={gelu} as well. Leave them out."
        )
    if preprocessing is None or isinstance(preprocessing, Mapping):
        return preprocessing
    raise InputError(
        "Of a tower that is given as a model, preprocessing is a mapping of numbers; got "
        f"{preprocessing!r}."
    )
