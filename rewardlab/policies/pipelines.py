"""The parts of a diffusers pipeline, and what differs between them: how a prompt conditions, and
where pixels live.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from rewardlab.errors import InputError
from rewardlab.seeds import normal

ADDED = (
    "text_embeds",
    "time_ids",
)  # SDXL's conditions that the UNet takes in a dictionary of their own


def load_pipeline(source: Any) -> Any:
    """Return the diffusers pipeline in a folder, of a hub id, or the given instance itself."""
    if not isinstance(source, (str, os.PathLike)):
        return source
    from diffusers import DiffusionPipeline
    from diffusers.utils.logging import disable_progress_bar

    disable_progress_bar()  # one a component; ours is one a run
    local = os.path.isdir(source)
    try:
        return DiffusionPipeline.from_pretrained(str(source), local_files_only=local)
    except (OSError, ValueError) as error:
        kind = (
            "holds no diffusers pipeline (is model_index.json there?)"
            if local
            else "is no folder, nor a hub id in reach"
        )
        raise InputError(
            f"DiffusionPolicy cannot load {str(source)!r}: it {kind}. {str(error).splitlines()[0]}"
        ) from error


def denoiser_of(pipeline: Any) -> nn.Module:
    """Return the network that is trained: the pipeline's `unet` or `transformer`."""
    for name in ("unet", "transformer"):
        if getattr(pipeline, name, None) is not None:
            return getattr(pipeline, name)
    raise InputError(
        f"DiffusionPolicy needs a pipeline with a unet or a transformer; {type(pipeline).__name__} has neither."
    )


def encoders_of(pipeline: Any) -> list[nn.Module]:
    """Return the frozen networks beside the denoiser: autoencoder and text encoders."""
    names = ("vae", "text_encoder", "text_encoder_2", "text_encoder_3")
    return [
        getattr(pipeline, name)
        for name in names
        if isinstance(getattr(pipeline, name, None), nn.Module)
    ]


def latent_shape(denoiser: Any) -> tuple[int, int, int]:
    """Return (channels, height, width) of what is denoised."""
    size = denoiser.config.sample_size
    height, width = (size, size) if isinstance(size, int) else size
    return denoiser.config.in_channels, height, width


def condition(
    pipeline: Any, labels: Sequence[str] | None, prompts: Sequence[str], device: torch.device
) -> dict[str, Tensor]:
    """Return what the denoiser is told of each prompt: named tensors with B rows; none for an
    unconditional model.

    Equal prompts are encoded once.

    Raises:
        InputError: if a class name is unknown, or an unconditional model is given a prompt.
    """
    unique = list(dict.fromkeys(prompts))
    position = {prompt: i for i, prompt in enumerate(unique)}
    rows = torch.tensor([position[prompt] for prompt in prompts], device=device)
    if labels is not None:
        classes = _classes(pipeline, labels)
        encoded = {
            "class_labels": torch.tensor(
                [_class_of(prompt, classes) for prompt in unique], device=device
            )
        }
    elif hasattr(pipeline, "encode_prompt"):
        with torch.no_grad():
            encoded = _encode_texts(pipeline, unique, device)
    elif any(unique):
        raise InputError(
            f"This {type(pipeline).__name__} is unconditional and takes the empty prompt; got "
            f"{next(filter(None, unique))!r}. Give `labels` if its classes have names."
        )
    else:
        encoded = {}
    return {name: tensor[rows] for name, tensor in encoded.items()}


def _classes(pipeline: Any, labels: Sequence[str]) -> list[str]:
    """The classes' names, with the empty prompt as the null class behind the last if the model has
    one.
    """
    config = denoiser_of(pipeline).config
    embeddings = config.get("num_class_embeds") or config.get("num_embeds_ada_norm", -1) + 1
    if len(labels) > embeddings:
        raise InputError(f"The model knows {embeddings} classes; got {len(labels)} labels.")
    return [*labels, ""] if len(labels) < embeddings else list(labels)


def _class_of(prompt: str, classes: list[str]) -> int:
    if prompt in classes:
        return classes.index(prompt)
    if prompt == "":
        raise InputError(
            "The empty prompt needs a null class, which this model lacks (as many labels as class embeddings)."
        )
    names = ", ".join(classes[:12]) + " …" * (len(classes) > 12)
    raise InputError(f"No class is called {prompt!r}; the policy's labels are {names}.")


def _encode_texts(pipeline: Any, prompts: list[str], device: torch.device) -> dict[str, Tensor]:
    encoded = pipeline.encode_prompt(
        prompts, device=device, num_images_per_prompt=1, do_classifier_free_guidance=False
    )
    if hasattr(pipeline, "_get_add_time_ids"):  # SDXL
        height, width = (
            side * pipeline.vae_scale_factor for side in latent_shape(pipeline.unet)[1:]
        )
        width_of_text = pipeline.text_encoder_2.config.projection_dim
        ids = pipeline._get_add_time_ids(
            (height, width), (0, 0), (height, width), torch.float32, width_of_text
        )
        told = torch.ones(len(prompts), 1, device=device)
        if pipeline.config.get("force_zeros_for_empty_prompt"):
            told = torch.tensor([[float(prompt != "")] for prompt in prompts], device=device)
        return {
            "encoder_hidden_states": encoded[0] * told[..., None],
            "text_embeds": encoded[2] * told,
            "time_ids": ids.to(device).expand(len(prompts), -1),
        }
    if len(encoded) == 4:  # SD3
        return {"encoder_hidden_states": encoded[0], "pooled_projections": encoded[2]}
    return {"encoder_hidden_states": encoded[0]}


def denoise(
    denoiser: nn.Module, x: Tensor, time: Tensor, conditions: Mapping[str, Tensor]
) -> Tensor:
    """Return the network's output [N, C, H, W] in float32; a learned variance in further channels
    is cut off.
    """
    added = {name: conditions[name] for name in ADDED if name in conditions}
    plain = {name: tensor for name, tensor in conditions.items() if name not in ADDED}
    if added:
        plain["added_cond_kwargs"] = added  # type: ignore[assignment]
    return denoiser(x, time, **plain, return_dict=False)[0][:, : x.shape[1]].float()


def to_latents(
    vae: Any, images: Tensor, rows: list[torch.Generator], shape: tuple[int, ...]
) -> Tensor:
    """Return latents [B, *shape] of images [B, C, H, W] in [0, 1]; pixels in [-1, 1] where there is
    no autoencoder.
    """
    pixels = images * 2 - 1
    if vae is not None:
        with torch.no_grad():
            latent = vae.encode(pixels.to(vae.dtype)).latent_dist
            noise = normal(latent.mean.shape[1:], rows, pixels.device)
            pixels = (latent.mean + latent.std * noise - _shift(vae)) * vae.config.scaling_factor
    if pixels.shape[1:] != shape:
        raise InputError(
            f"This diffusion model denoises {list(shape)} (channels, height, width); images {list(images.shape[1:])} become "
            f"{list(pixels.shape[1:])}. Resize and convert them in the data (size, channels)."
        )
    return pixels.float()


def to_images(vae: Any, latents: Tensor) -> Tensor:
    """Return images [B, C, H, W] in [0, 1], float32, differentiable."""
    if vae is not None:
        latents = vae.decode(
            (latents / vae.config.scaling_factor + _shift(vae)).to(vae.dtype), return_dict=False
        )[0]
    return (latents.float() / 2 + 0.5).clamp(0, 1)


def _shift(vae: Any) -> float:
    return getattr(vae.config, "shift_factor", None) or 0.0
