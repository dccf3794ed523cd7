"""Checkpoints of one file, in the layout of Stable Diffusion's own programs, as folders."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file
from torch import Tensor, nn

from rewardlab.errors import InputError
from rewardlab.networks.silence import silent
from rewardlab.policies.families import check_name
from rewardlab.policies.pipeline_files import (
    INDEX,
    class_name,
    load_part,
    network_classes,
    quiet_diffusers,
)
from rewardlab.storage.atomic import new_folder
from rewardlab.storage.class_files import read_json

UNET = "model.diffusion_model."
# where a part's weights stand in the file, by the part's name in a folder
STABLE_DIFFUSION = {
    "unet": UNET,
    "vae": "first_stage_model.",
    "text_encoder": "cond_stage_model.transformer.",
}
STABLE_DIFFUSION_XL = {
    "unet": UNET,
    "vae": "first_stage_model.",
    "text_encoder": "conditioner.embedders.0.",
    "text_encoder_2": "conditioner.embedders.1.",
}
# of other programs, and of no use to the networks
UNUSED = ("position_ids", "logit_scale")
ADAPTERS = ("lora_", ".lora_A.", ".lora_B.", "lora_down", "hada_w", "lokr_w")


class Layout(NamedTuple):
    """A kind of files that is known.

    Attributes:
        pipeline: name of the pipeline's class.
        prefixes: of the parts' weights.
    """

    pipeline: str
    prefixes: Mapping[str, str]


LAYOUTS = (
    Layout("StableDiffusionPipeline", STABLE_DIFFUSION),
    Layout("StableDiffusionXLPipeline", STABLE_DIFFUSION_XL),
)


def folder_from_single_file(file: str | Path, config: str | Path, folder: str | Path) -> Path:
    """Write a checkpoint of one .safetensors file as a folder that `DiffusionPolicy` loads.

    The file has the layout of Stable Diffusion 1 or XL's own programs, as models are shared. What
    it does not hold (tokenizer, scheduler, at times the autoencoder) comes from a folder of the
    same kind. Nothing is downloaded, and each weight of a part that is read has to find its place.

    Args:
        file: the .safetensors file.
        config: folder of a diffusers pipeline of the same kind and sizes; parts that the file
            holds need their config.json alone.
        folder: where the pipeline's folder is to stand, in the file's precision.

    Returns:
        The folder.

    Raises:
        InputError: if the file is of another layout, or its weights do not fit the configs.

    Example:
        >>> folder_from_single_file("model.safetensors", "stable-diffusion-v1-5", "model")
        Traceback (most recent call last):
        rewardlab.errors.InputError: There is no file model.safetensors. ...
    """
    file = Path(file)
    config = Path(config)
    layout = layout_of(file, config)
    check_name(layout.pipeline)
    if not (config / INDEX).is_file() or class_name(config) != layout.pipeline:
        raise InputError(
            f"{file} holds the weights of a {layout.pipeline}, and config={config} is no folder of "
            f"one (is {INDEX} there?). Take a folder of the same kind and sizes; of the parts that "
            "the file holds, config.json is enough."
        )
    checkpoint = load_file(file)
    _check_prediction(checkpoint, config, file)
    with new_folder(folder, marker=INDEX) as fresh:
        weights = shutil.ignore_patterns("*.safetensors", "*.bin", "*.index.json")
        shutil.copytree(config, fresh, ignore=weights, dirs_exist_ok=True)
        for name, kind in network_classes(config).items():
            part = _part(checkpoint, layout.prefixes.get(name), _Place(file, config, name, kind))
            with silent():
                part.save_pretrained(fresh / name)
    return Path(folder)


def layout_of(file: Path, config: Path) -> Layout:
    """Return the layout of a file, which its header says; no weight is read.

    Args:
        file: the file.
        config: a folder of its kind, for the message.

    Raises:
        InputError: if there is none, or it is of another layout.
    """
    if not file.is_file():
        raise InputError(
            f"There is no file {file}. folder_from_single_file takes one .safetensors file."
        )
    names = _names(file)
    has_unet = any(name.startswith(f"{UNET}input_blocks.") for name in names)
    for layout in LAYOUTS:
        text = layout.prefixes["text_encoder"]
        if has_unet and any(name.startswith(text) for name in names):
            return layout
    if any(mark in " ".join(names) for mark in ADAPTERS):
        raise InputError(
            f"{file} holds an adapter and no model. Load its base model as a pipeline of "
            "diffusers, then load_lora_weights, and give DiffusionPolicy the pipeline."
        )
    raise _unknown_layout(file, names, config)


def _names(file: Path) -> list[str]:
    """Return the names of a file's tensors, from its header."""
    try:
        with safe_open(file, "pt") as tensors:
            return list(tensors.keys())
    except (SafetensorError, OSError) as error:
        raise InputError(
            f"{file} is no .safetensors file, or is cut off ({error}). Files of other forms "
            "(.ckpt) are not read: they can hold programs. Is the download whole?"
        ) from error


def _unknown_layout(file: Path, names: list[str], config: Path) -> InputError:
    """Return the refusal of a file whose layout was not compared; it says how to convert it."""
    if any("double_blocks." in name for name in names):
        title = "FLUX's own layout"
        conversion = _conversion_of_transformer(file, config)
    elif any("joint_blocks." in name for name in names):
        title = "Stable Diffusion 3's own layout"
        conversion = _conversion_of_pipeline("StableDiffusion3Pipeline", file, config)
    elif any(name.startswith("cond_stage_model.model.") for name in names):
        title = "Stable Diffusion 2's own layout"
        conversion = _conversion_of_pipeline("StableDiffusionPipeline", file, config)
    else:
        title = f"weights with names such as {min(names, default='none')}"
        conversion = _conversion_of_pipeline("DiffusionPipeline", file, config)
    return InputError(
        f"{file} has {title}; folder_from_single_file reads those of Stable Diffusion 1 and XL. "
        f"Convert it once, with a folder of its kind at hand:\n{conversion}"
        "and compare a picture with that of the program that the file is for."
    )


def _conversion_of_pipeline(kind: str, file: Path, config: Path) -> str:
    """Return the lines for a file that holds a whole pipeline of a class."""
    return (
        f"  pipeline = diffusers.{kind}.from_single_file({str(file)!r}, "
        f"config={str(config)!r}, local_files_only=True)\n"
        "  pipeline.save_pretrained('MODEL')\n"
    )


def _conversion_of_transformer(file: Path, config: Path) -> str:
    """Return the lines for a file that holds a transformer alone."""
    return (
        f"  transformer = diffusers.FluxTransformer2DModel.from_single_file({str(file)!r}, "
        f"config={str(config)!r}, subfolder='transformer', local_files_only=True)\n"
        f"  diffusers.FluxPipeline.from_pretrained({str(config)!r}, transformer=transformer)"
        ".save_pretrained('MODEL')\n"
    )


def _check_prediction(checkpoint: Mapping[str, Tensor], config: Path, file: Path) -> None:
    """Refuse a file that is marked as one of v-prediction beside a scheduler of noise."""
    scheduler = read_json(config / "scheduler" / "scheduler_config.json")
    kind = scheduler.get("prediction_type", "epsilon")
    if "v_pred" in checkpoint and kind != "v_prediction":
        raise InputError(
            f"{file} is marked as a model of v-prediction (v_pred), and the scheduler of {config} "
            f"says {kind!r}. Set prediction_type to 'v_prediction' in its scheduler_config.json"
            f"{', and rescale_betas_zero_snr to true' if 'ztsnr' in checkpoint else ''}."
        )


@dataclass(frozen=True)
class _Place:
    """Where a part is from: the file, or the folder's part `name` of a class `kind`."""

    file: Path
    config: Path
    name: str
    kind: Any


def _part(checkpoint: Mapping[str, Tensor], prefix: str | None, place: _Place) -> Any:
    """Return a network with the file's weights or, where it has none, with the folder's."""
    weights = {} if prefix is None else _weights_under(prefix, checkpoint)
    if weights:
        return _converted(weights, place)
    folder = place.config / place.name
    if not any(folder.glob("*.safetensors")) and not any(folder.glob("*.bin")):
        raise InputError(
            f"{place.file} holds no {place.name}, and neither does {folder}. Take a folder that "
            "has the weights of this part, or a file with it (an autoencoder is 'baked in')."
        )
    return load_part(folder, place.kind, torch.float32)


def _weights_under(prefix: str, checkpoint: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the tensors of a part, by their names in the file."""
    weights = {}
    for name, tensor in checkpoint.items():
        if name.startswith(prefix) and not name.endswith(UNUSED):
            weights[name] = tensor
    return weights


def _converted(weights: dict[str, Tensor], place: _Place) -> Any:
    """Return a network of the folder's config with the file's weights, each of them used."""
    dtypes = {tensor.dtype for tensor in weights.values()}
    dtype = dtypes.pop() if len(dtypes) == 1 else torch.float32
    if dtype.itemsize == 1:
        raise InputError(
            f"{place.file} holds weights of eight bits ({dtype}), which are rounded. Take its file "
            "of 16 bits; `resources: {storage: float8}` rounds frozen weights when they are loaded."
        )
    try:
        with silent(), quiet_diffusers():
            network = _load(dict(weights), place, dtype)
    except Exception as error:  # a foreign file can make diffusers raise anything
        detail = str(error).strip().splitlines() or [type(error).__name__]
        raise _misfit(place, detail[0][:200]) from error
    expected = sum(tensor.numel() for tensor in weights.values())
    count = sum(weight.numel() for weight in network.parameters())
    missing = [name for name, weight in network.named_parameters() if weight.is_meta]
    if missing:
        raise _misfit(place, f"the file lacks {missing[0]}")
    if count != expected:
        raise _misfit(place, f"the file has {expected} numbers for {count}")
    return network


def _load(weights: dict[str, Tensor], place: _Place, dtype: torch.dtype) -> nn.Module:
    """Return a network that diffusers makes of a part's weights."""
    from diffusers.loaders.single_file_utils import create_diffusers_clip_model_from_ldm

    options: dict[str, Any] = {
        "config": str(place.config),
        "subfolder": place.name,
        "torch_dtype": dtype,
        "local_files_only": True,
    }
    if hasattr(place.kind, "from_single_file"):
        network: nn.Module = place.kind.from_single_file(weights, **options)
    else:
        network = create_diffusers_clip_model_from_ldm(place.kind, weights, **options)
    return network


def _misfit(place: _Place, detail: str) -> InputError:
    return InputError(
        f"The {place.name} of {place.file} does not fit the {place.kind.__name__} that "
        f"{place.config / place.name} describes: {detail}. Is the folder of the same kind and "
        "sizes? Models for inpainting, and files with an adapter inside, have other weights."
    )
