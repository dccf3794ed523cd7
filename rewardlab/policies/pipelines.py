"""Diffusers pipelines, loaded or given, with the weights and precisions that training needs."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import torch
from torch import nn

from rewardlab.errors import InputError
from rewardlab.networks import shells
from rewardlab.policies import families
from rewardlab.policies.autoencoder import overflows
from rewardlab.policies.components import DENOISERS, TEXT_ENCODERS, denoiser_of, encoders_of
from rewardlab.policies.pipeline_files import class_name, load_folder, pipeline_folder
from rewardlab.storage.class_files import read_json


def load_pipeline(
    source: Any,
    dtype: torch.dtype = torch.float32,
    denoiser_dtype: torch.dtype = torch.float32,
    *,
    text: bool = True,
) -> Any:
    """Return the diffusers pipeline of a folder or a hub id, or the pipeline itself.

    A folder's parts are loaded in the precisions that are asked for. A pipeline that is given keeps
    its parts' precision, or gets more: nothing of it is rounded.

    Args:
        source: folder, hub id or pipeline.
        dtype: precision of the frozen encoders. An autoencoder that float16 would overflow
            (`force_upcast`) has float32 in its place.
        denoiser_dtype: precision of the denoiser.
        text: whether the text encoders of a folder are loaded, too.

    Raises:
        InputError: if there is none, its weights do not fit, or it is of no family that is known.
    """
    if not isinstance(source, (str, os.PathLike)):
        families.check_known(source)
        if not shells.are_allowed():
            _check_weights(source)
        _widen(source, dtype, denoiser_dtype)
        return source
    folder = pipeline_folder(source)
    families.check_name(class_name(folder))

    def dtype_of(name: str, part: Path) -> torch.dtype:
        if name in DENOISERS:
            return denoiser_dtype
        return _encoder_dtype(name, part, dtype)

    later = () if text else TEXT_ENCODERS
    pipeline = load_folder(folder, dtype_of, skipped=later)
    pipeline.loaded_later = later
    families.check_known(pipeline)
    return pipeline


def check_rounding(source: Any, lora_rank: int | None) -> None:
    """Refuse to store weights in eight bits that are trained, or that nothing else holds whole.

    Raises:
        InputError: without an adapter, or without a folder.
    """
    if lora_rank is None:
        raise InputError(
            "storage: float8 rounds frozen weights, and without lora_rank all weights of the "
            "denoiser are trained. Give lora_rank, or leave storage out."
        )
    if source is None and not shells.are_allowed():
        raise InputError(
            "storage: float8 rounds the denoiser's weights, and a saved policy takes them whole "
            "from the pipeline's folder; a pipeline was given as an instance. Give its folder."
        )


def _encoder_dtype(name: str, folder: Path, dtype: torch.dtype) -> torch.dtype:
    """Return the precision in which a frozen part of a folder is loaded."""
    if name != "vae" or dtype != torch.float16:
        return dtype
    config = read_json(folder / "config.json")
    by_default = config.get("_class_name") == "AutoencoderKL"
    return torch.float32 if config.get("force_upcast", by_default) else dtype


def _widen(pipeline: Any, dtype: torch.dtype, denoiser_dtype: torch.dtype) -> None:
    """Give a pipeline's networks at least the precisions that are asked for."""
    _at_least(denoiser_of(pipeline), denoiser_dtype)
    for encoder in encoders_of(pipeline):
        _at_least(encoder, torch.float32 if overflows(encoder, dtype) else dtype)


def _at_least(network: nn.Module, dtype: torch.dtype) -> None:
    for tensor in [*network.parameters(), *network.buffers()]:
        if tensor.is_floating_point() and tensor.dtype.itemsize < dtype.itemsize:
            tensor.data = tensor.data.to(dtype)


def _check_weights(pipeline: Any) -> None:
    """Refuse a pipeline some of whose weights are not there."""
    for network in (denoiser_of(pipeline), *encoders_of(pipeline)):
        for name, weight in network.named_parameters():
            if weight.is_meta:
                raise InputError(
                    f"The {type(network).__name__} of this {type(pipeline).__name__} has no values "
                    f"for its weight {name} (it is on the device meta). Did its checkpoint lack "
                    "that weight? Load the pipeline from a whole folder."
                )
