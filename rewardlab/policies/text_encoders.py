"""The text encoders of a pipeline: where they are, and the prompts that they have read."""

from __future__ import annotations

import os
from collections.abc import Hashable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from rewardlab.errors import InputError
from rewardlab.networks.shells import GIB
from rewardlab.policies.bounded import BoundedTable
from rewardlab.policies.components import TEXT_ENCODERS
from rewardlab.policies.families.base import Family
from rewardlab.policies.pipeline_files import load_part, network_classes, pipeline_folder
from rewardlab.policies.resources import EncoderPlace, Resources
from rewardlab.types import distinct

HOST = torch.device("cpu")


class TextEncoders:
    """The text encoders of one pipeline, which are where they compute inside `reading` alone.

    Args:
        pipeline: the pipeline; encoders that are free are None there.
        resources: where they are, and how much is kept of what they have read.
        source: folder or hub id of the pipeline, for encoders that are free.
        dtype: precision in which they are loaded.

    Raises:
        InputError: if they are to be free and there is no folder to load them from.
    """

    def __init__(
        self,
        pipeline: Any,
        resources: Resources,
        source: str | os.PathLike[str] | None,
        dtype: torch.dtype,
    ) -> None:
        if resources.encoders == "free" and source is None:
            raise InputError(
                f"encoders: free loads the text encoders from the pipeline's folder when a new "
                f"prompt comes; a {type(pipeline).__name__} was given as an instance. Give the "
                "folder, or take encoders: host."
            )
        self.pipeline = pipeline
        self.place: EncoderPlace = resources.encoders
        self.source = source
        self.dtype = dtype
        self.prompts = BoundedTable(resources.prompts * GIB, "prompts")

    @property
    def networks(self) -> list[nn.Module]:
        """The encoders that are in memory."""
        parts = [getattr(self.pipeline, name, None) for name in TEXT_ENCODERS]
        return [part for part in parts if isinstance(part, nn.Module)]

    @property
    def moves(self) -> bool:
        """Whether the encoders follow the policy to its device."""
        return self.place == "keep"

    @contextmanager
    def reading(self, device: torch.device) -> Iterator[torch.device]:
        """Let the encoders read prompts inside the `with` block, on the device that is yielded.

        Args:
            device: where the denoiser is.
        """
        if self.place == "keep":
            yield device
            return
        names = self._load()
        where = device if self.place == "offload" else HOST
        _move(self.networks, where)
        try:
            yield where
        finally:
            _move(self.networks, HOST)
            for name in names:
                setattr(self.pipeline, name, None)

    def _load(self) -> list[str]:
        """Load the encoders that are not in memory; return their names."""
        if self.place != "free" or self.source is None:
            return []
        folder = pipeline_folder(self.source)
        loaded = []
        for name, kind in text_encoder_classes(folder).items():
            if getattr(self.pipeline, name, None) is None:
                network = load_part(folder / name, kind, self.dtype)
                setattr(self.pipeline, name, network.requires_grad_(False))
                loaded.append(name)
        return loaded


class PromptInputs:
    """What a family makes of prompts, each prompt read once.

    A prompt is read alone, so what it becomes does not depend on the prompts beside it.

    Args:
        family: makes the denoiser's inputs of prompts.
        encoders: the text encoders that it uses, and the prompts that they have read.
    """

    def __init__(self, family: Family, encoders: TextEncoders) -> None:
        self.family = family
        self.encoders = encoders

    def __call__(
        self, prompts: Sequence[str], device: torch.device, *, negative: bool = False
    ) -> dict[str, Tensor]:
        """Return the denoiser's inputs for each prompt: named tensors with B rows on a device."""
        if not prompts:
            return {}
        unique = distinct(prompts)
        parts = self._of_each(unique.values, device, negative)
        places = torch.tensor(unique.places, device=device)
        inputs = {}
        for name in parts[0]:
            column = torch.cat([part[name].to(device) for part in parts])
            inputs[name] = column[places]
        return inputs

    def _of_each(
        self, prompts: Sequence[str], device: torch.device, negative: bool
    ) -> list[dict[str, Tensor]]:
        """Return the inputs of each prompt, one row each; only those not kept are read."""
        inputs: dict[str, dict[str, Tensor]] = {}
        new = []
        for prompt in prompts:
            kept = self.encoders.prompts.get(self._key(prompt, negative))
            if kept is None:
                new.append(prompt)
            else:
                inputs[prompt] = kept
        if new:
            inputs |= self._read(new, device, negative)
        return [inputs[prompt] for prompt in prompts]

    def _read(
        self, prompts: Sequence[str], device: torch.device, negative: bool
    ) -> dict[str, dict[str, Tensor]]:
        """Return the inputs of new prompts, one row each, and keep them."""
        read = {}
        with self.encoders.reading(device) as where:
            for prompt in prompts:
                read[prompt] = self.family.inputs([prompt], where, negative=negative)
                self.encoders.prompts.put(self._key(prompt, negative), read[prompt])
        return read

    def _key(self, prompt: str, negative: bool) -> Hashable:
        return prompt, negative, self.family.shape  # SDXL's inputs tell the size


def text_encoder_classes(folder: Path) -> dict[str, Any]:
    """Return the classes of a folder's text encoders, by the parts' names."""
    classes = network_classes(folder)
    return {name: classes[name] for name in TEXT_ENCODERS if name in classes}


def _move(networks: Sequence[nn.Module], device: torch.device) -> None:
    for network in networks:
        network.to(device)
