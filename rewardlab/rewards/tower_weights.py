"""Weights files of towers: read without unpickling code, and loaded whole or not at all."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from rewardlab.errors import InputError

ENDINGS = ("safetensors", "bin", "pth")  # of the weights files that open_clip reads in a folder
PREFERRED = (
    "open_clip_model.safetensors",
    "open_clip_pytorch_model.safetensors",
    "open_clip_pytorch_model.bin",
    "open_clip_pytorch_model.pth",
    "model.safetensors",
    "pytorch_model.bin",
    "pytorch_model.pth",
    "model.pth",
)  # open_clip's own order
PREFIXES = ("module.", "_orig_mod.", "model.")  # of wrappers that people save with the model
CONTAINERS = ("state_dict", "model_state_dict", "model", "module")
_SCRIPT_SETTINGS = ("input_resolution", "context_length", "vocab_size")  # in OpenAI's archives
_ALREADY_IN_THE_TEXT_TOWER = "text.transformer.embeddings.position_ids"
_SHOWN = 4  # how many names of weights a message lists


def weights_file(folder: Path) -> Path | None:
    """Return the weights file of a folder, None if there is none.

    Raises:
        InputError: if there are several and none has a name that decides.
    """
    files = []
    for ending in ENDINGS:
        files += sorted(folder.glob(f"*.{ending}"))
    names = {file.name: file for file in files}
    for name in PREFERRED:
        if name in names:
            return names[name]
    if len(files) > 1:
        raise InputError(
            f"{folder} holds {len(files)} weights files and none is called {PREFERRED[0]}: "
            f"{', '.join(names)}. Leave one."
        )
    return files[0] if files else None


def read_weights(file: str | Path) -> dict[str, Tensor]:
    """Read a weights file: safetensors, or what torch saved with nothing but tensors in it.

    Prefixes of wrappers (DataParallel, torch.compile, Lightning) are dropped.

    Raises:
        InputError: if the file cannot be read so, or holds no weights.
    """
    file = Path(file)
    content = _read(file)
    for name in CONTAINERS:
        if isinstance(content, Mapping) and isinstance(content.get(name), Mapping):
            content = content[name]
    weights = {}
    if isinstance(content, Mapping):
        weights = {name: value for name, value in content.items() if isinstance(value, Tensor)}
    if not weights:
        raise InputError(
            f"{file} holds no weights by their names but a {type(content).__name__}. Save the "
            "model's state_dict()."
        )
    return unprefixed(weights)


def read_safetensors(file: Path) -> dict[str, Tensor]:
    """Read a safetensors file.

    Raises:
        InputError: if it is not readable.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return load_file(file)
    except (SafetensorError, OSError) as error:
        raise InputError(
            f"{file} is not a readable safetensors file: {error}. Are the weights whole, or is it "
            "cut off?"
        ) from error


def unprefixed(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return weights without the wrappers' prefixes that all of their names have.

    Example:
        >>> list(unprefixed({"module._orig_mod.proj": torch.ones(1)}))
        ['proj']
    """
    weights = dict(weights)
    prefix = _common_prefix(weights)
    while prefix:
        weights = {name.removeprefix(prefix): value for name, value in weights.items()}
        prefix = _common_prefix(weights)
    return weights


def load_weights(model: nn.Module, weights: Mapping[str, Tensor], source: str | Path) -> None:
    """Load weights into a module, all of them or none.

    Args:
        model: keeps its precision.
        weights: by their names.
        source: where they are from, for the message.

    Raises:
        InputError: naming weights that are missing, of another shape, or unexpected.
    """
    shapes = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    missing = [name for name in shapes if name not in weights]
    unexpected = [name for name in weights if name not in shapes]
    other = []
    for name, shape in shapes.items():
        if name in weights and tuple(weights[name].shape) != shape:
            other.append(f"{name} {list(weights[name].shape)} for {list(shape)}")
    if missing or unexpected or other:
        raise InputError(
            f"{source} does not fit this {type(model).__name__} of {len(shapes)} weights: "
            f"missing {_named(missing)}, unexpected {_named(unexpected)}, of another shape "
            f"{_named(other)}. Are the weights whole, and do they belong to it?"
        )
    model.load_state_dict(weights)


def in_clip_form(model: nn.Module, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return weights under the names of an open_clip model, where they are in an older form.

    Other than open_clip, this never stretches position embeddings to another size.
    """
    from open_clip.convert import convert_state_dict
    from open_clip.model import convert_to_custom_text_state_dict

    renamed = dict(convert_state_dict(model, dict(weights)))
    for name in _SCRIPT_SETTINGS:
        renamed.pop(name, None)
    if "positional_embedding" in renamed and not hasattr(model, "positional_embedding"):
        renamed = convert_to_custom_text_state_dict(renamed)
    state = model.state_dict()
    if _ALREADY_IN_THE_TEXT_TOWER not in state:
        renamed.pop(_ALREADY_IN_THE_TEXT_TOWER, None)
    for name in ("logit_scale", "logit_bias"):
        if name in renamed and name in state and renamed[name].numel() == 1:
            renamed[name] = renamed[name].reshape(state[name].shape)
    return renamed


def _read(file: Path) -> Any:
    if file.suffix == ".safetensors":
        return read_safetensors(file)
    try:
        return torch.load(file, map_location="cpu", weights_only=True)
    except Exception as error:  # a foreign file can make torch raise anything
        if "TorchScript" in str(error):
            raise InputError(
                f"{file} is a TorchScript archive, as OpenAI published CLIP. It holds code, which "
                "is not run here. If you trust it, convert it once: "
                "safetensors.torch.save_file(torch.jit.load(FILE).state_dict(), "
                "'weights.safetensors'), and give that with gelu='quick'."
            ) from error
        raise InputError(
            f"{file} is no weights file that can be read without running code in it: "
            f"{str(error)[:200]} … Is it cut off? Save the model's state_dict() as safetensors."
        ) from error


def _common_prefix(weights: Mapping[str, Tensor]) -> str:
    """Return the wrapper's prefix that all names have, an empty text if there is none."""
    for prefix in PREFIXES:
        if all(name.startswith(prefix) for name in weights):
            return prefix
    return ""


def _named(names: list[str]) -> str:
    """Return how a message lists names of weights."""
    if not names:
        return "none"
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return ", ".join(names[:_SHOWN]) + more
