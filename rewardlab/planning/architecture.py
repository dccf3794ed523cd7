"""Architecture: what the configs of a diffusers pipeline say of its networks, without weights."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import import_module
from inspect import signature
from pathlib import Path
from typing import Any

import torch
from torch import nn

from rewardlab.errors import InputError
from rewardlab.networks.shells import shells
from rewardlab.storage.class_files import read_json

KNOWN = Path(__file__).parent / "architectures"
INDEX = "model_index.json"


@dataclass(frozen=True)
class PartConfig:
    """A part of a pipeline.

    Attributes:
        library: "diffusers" or "transformers".
        name: its class's name there.
        config: its config, as the class takes it.
    """

    library: str
    name: str
    config: Mapping[str, Any]


@dataclass(frozen=True)
class Architecture:
    """The parts of a pipeline.

    Attributes:
        pipeline: name of its class in diffusers.
        settings: its config, beside its parts.
        parts: what is a network, or a scheduler, by name.
        source: where the numbers are from.
    """

    pipeline: str
    settings: Mapping[str, Any]
    parts: Mapping[str, PartConfig]
    source: str

    @classmethod
    def of(cls, source: str | Path) -> Architecture:
        """Return the architecture of a folder, or of a published model that is known by its name.

        A folder needs no weights: model_index.json and each part's config.json are enough.

        Raises:
            InputError: if it is neither.
        """
        folder = Path(source)
        if (folder / INDEX).is_file():
            return _of_folder(folder)
        for file in sorted(KNOWN.glob("*.json")):
            content = json.loads(file.read_text(encoding="utf-8"))
            if str(source) in content["names"]:
                return _of_content(content)
        raise InputError(
            f"The plan reads configs alone, and {str(source)!r} is no folder of a pipeline here "
            f"(with {INDEX}), nor one of the published models that it knows: "
            f"{', '.join(known_names())}. Copy the folder's .json files; weights are not needed."
        )

    def shell(self, dtype_of: Mapping[str, torch.dtype]) -> Any:
        """Return the pipeline with networks without numbers, in the precisions of `dtype_of`."""
        import diffusers

        components: dict[str, Any] = {}
        for name, part in self.parts.items():
            components[name] = _component(part, dtype_of.get(name))
        kind: Any = getattr(diffusers, self.pipeline)
        arguments = signature(kind.__init__).parameters
        for name, parameter in arguments.items():
            if name == "self" or name in components:
                continue
            if name in self.settings:
                components[name] = self.settings[name]
            elif parameter.default is parameter.empty:
                components[name] = None
        return kind(**components)


def known_names() -> list[str]:
    """Return the names of the published models whose configs are here.

    Example:
        >>> "black-forest-labs/FLUX.1-dev" in known_names()
        True
    """
    names = []
    for file in sorted(KNOWN.glob("*.json")):
        names += json.loads(file.read_text(encoding="utf-8"))["names"]
    return names


def _of_content(content: Mapping[str, Any]) -> Architecture:
    parts = {}
    for name, part in content["parts"].items():
        parts[name] = PartConfig(part["library"], part["class"], part["config"])
    return Architecture(content["pipeline"], content["settings"], parts, content["source"])


def _of_folder(folder: Path) -> Architecture:
    index = read_json(folder / INDEX)
    settings = {}
    parts = {}
    for name, entry in index.items():
        if not isinstance(entry, list):
            settings[name] = entry
            continue
        library, class_name = entry
        file = _config_file(folder / name)
        if library in ("diffusers", "transformers") and file is not None:
            parts[name] = PartConfig(library, class_name, read_json(file))
    return Architecture(str(index["_class_name"]), settings, parts, f"the configs of {folder}")


def _config_file(folder: Path) -> Path | None:
    for name in ("config.json", "scheduler_config.json"):
        if (folder / name).is_file():
            return folder / name
    return None


def _component(part: PartConfig, dtype: torch.dtype | None) -> Any:
    """Return a scheduler, or a network without numbers."""
    kind: Any = getattr(import_module(part.library), part.name, None)
    if kind is None:
        raise InputError(f"{part.library} has no {part.name}; is it of another version?")
    if not issubclass(kind, nn.Module):
        return kind.from_config(dict(part.config)) if hasattr(kind, "from_config") else None
    with shells(dtype or torch.float32):
        if part.library == "diffusers":
            network = kind.from_config(dict(part.config))
        else:
            network = kind(kind.config_class.from_dict(dict(part.config)))
    _widen_kept(network)
    return network.eval()


def _widen_kept(network: Any) -> None:
    """Give weights that diffusers keeps in float32 whatever was asked for, float32."""
    kept = set(getattr(network, "_keep_in_fp32_modules", None) or ())
    if not kept or not type(network).__module__.startswith("diffusers"):
        return
    for name, weight in network.named_parameters():
        if kept & set(name.split(".")):
            weight.data = weight.data.float()
