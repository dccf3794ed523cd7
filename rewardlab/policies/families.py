"""How a prompt becomes a denoiser's inputs: one function per family of diffusers pipelines.

A further family is a further function beside these, and two lines in `_encoded`.
"""

from __future__ import annotations

from collections.abc import Sequence
from inspect import signature
from typing import Any

import torch
from torch import Tensor

from rewardlab.errors import InputError
from rewardlab.policies.pipelines import denoiser_of, latent_shape
from rewardlab.types import distinct

Inputs = dict[str, Tensor]
# options of `encode_prompt`: one row per prompt, and no negative prompt
PLAIN = {"num_images_per_prompt": 1, "do_classifier_free_guidance": False}


def prompt_inputs(
    pipeline: Any, labels: Sequence[str] | None, prompts: Sequence[str], device: torch.device
) -> Inputs:
    """Return the denoiser's inputs for each prompt: named tensors with B rows.

    Equal prompts are encoded once. An unconditional model has no such inputs.

    Raises:
        InputError: if a class name is unknown, or an unconditional model gets a prompt.
    """
    unique = distinct(prompts)
    encoded = _encoded(pipeline, labels, unique.values, device)
    rows = torch.tensor(unique.places, device=device)
    return {name: tensor[rows] for name, tensor in encoded.items()}


def _encoded(
    pipeline: Any, labels: Sequence[str] | None, prompts: Sequence[str], device: torch.device
) -> Inputs:
    """Encode prompts as the pipeline's family does."""
    if labels is not None:
        return class_conditional(pipeline, labels, prompts, device)
    if not hasattr(pipeline, "encode_prompt"):
        return unconditional(pipeline, prompts)
    if hasattr(pipeline, "_get_add_time_ids"):
        return stable_diffusion_xl(pipeline, prompts, device)
    if "prompt_3" in signature(pipeline.encode_prompt).parameters:
        return stable_diffusion_3(pipeline, prompts, device)
    return stable_diffusion(pipeline, prompts, device)


def unconditional(pipeline: Any, prompts: Sequence[str]) -> Inputs:
    """Return no input; only the empty prompt is allowed.

    Raises:
        InputError: if there is another prompt.
    """
    for prompt in prompts:
        if prompt:
            raise InputError(
                f"This {type(pipeline).__name__} is unconditional and takes the empty prompt; got "
                f"{prompt!r}. Give `labels` if its classes have names."
            )
    return {}


def class_conditional(
    pipeline: Any, labels: Sequence[str], prompts: Sequence[str], device: torch.device
) -> Inputs:
    """Return the number of each prompt's class: a UNet2DModel, DiT.

    Raises:
        InputError: if the model has fewer classes than labels, or a prompt is none of them.
    """
    classes = _classes(pipeline, labels)
    numbers = [_class_number(prompt, classes) for prompt in prompts]
    return {"class_labels": torch.tensor(numbers, device=device)}


@torch.no_grad()
def stable_diffusion(pipeline: Any, prompts: Sequence[str], device: torch.device) -> Inputs:
    """Return the text's tokens: Stable Diffusion 1 and 2.

    Raises:
        InputError: if the pipeline encodes prompts in another way.
    """
    embeddings = pipeline.encode_prompt(list(prompts), device=device, **PLAIN)
    if len(embeddings) > 2:
        raise InputError(
            f"DiffusionPolicy expects the tokens of a text with and without guidance; "
            f"{type(pipeline).__name__} encodes a prompt as {len(embeddings)} tensors. It knows "
            "Stable Diffusion 1, 2, XL and 3: take one of them, or a class-conditional model."
        )
    return {"encoder_hidden_states": embeddings[0]}


@torch.no_grad()
def stable_diffusion_xl(pipeline: Any, prompts: Sequence[str], device: torch.device) -> Inputs:
    """Return the text's tokens, its pooled embedding and the image's size: SDXL.

    The empty prompt is zeros where the pipeline's config says so.
    """
    tokens, _, pooled, _ = pipeline.encode_prompt(list(prompts), device=device, **PLAIN)
    height, width = latent_shape(pipeline.unet)[1:]
    size = (height * pipeline.vae_scale_factor, width * pipeline.vae_scale_factor)
    projection = pipeline.text_encoder_2.config.projection_dim
    time_ids = pipeline._get_add_time_ids(size, (0, 0), size, torch.float32, projection)
    used = torch.ones(len(prompts), 1, device=device)
    if pipeline.config.get("force_zeros_for_empty_prompt"):
        flags = [[float(prompt != "")] for prompt in prompts]
        used = torch.tensor(flags, device=device)
    return {
        "encoder_hidden_states": tokens * used[..., None],
        "text_embeds": pooled * used,
        "time_ids": time_ids.to(device).expand(len(prompts), -1),
    }


@torch.no_grad()
def stable_diffusion_3(pipeline: Any, prompts: Sequence[str], device: torch.device) -> Inputs:
    """Return the text's tokens and its pooled embedding: a transformer with flow matching, SD3.

    Each of the text encoders reads the same prompt.
    """
    tokens, _, pooled, _ = pipeline.encode_prompt(
        list(prompts), prompt_2=None, prompt_3=None, device=device, **PLAIN
    )
    return {"encoder_hidden_states": tokens, "pooled_projections": pooled}


def _classes(pipeline: Any, labels: Sequence[str]) -> list[str]:
    """Return the classes' names; the last is the empty prompt if the model has a null class."""
    config: Any = denoiser_of(pipeline).config
    count = config.get("num_class_embeds") or config.get("num_embeds_ada_norm", -1) + 1
    if len(labels) > count:
        raise InputError(f"The model knows {count} classes; got {len(labels)} labels.")
    if len(labels) < count:
        return [*labels, ""]
    return list(labels)


def _class_number(prompt: str, classes: list[str]) -> int:
    if prompt in classes:
        return classes.index(prompt)
    if prompt == "":
        raise InputError(
            "The empty prompt needs a null class, which this model lacks (as many labels as class "
            "embeddings)."
        )
    names = ", ".join(classes[:12]) + " …" * (len(classes) > 12)
    raise InputError(f"No class is called {prompt!r}; the policy's labels are {names}.")
