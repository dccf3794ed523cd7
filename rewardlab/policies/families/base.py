"""Family: how prompts, latents and pixels pass through the networks of a kind of pipelines."""

from __future__ import annotations

import logging
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from inspect import signature
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from rewardlab.errors import InputError
from rewardlab.networks import shells
from rewardlab.networks.tokens import check_words
from rewardlab.policies.autoencoder import (
    LatentScale,
    checkpoint_activations,
    decoded,
    encoded,
    latent_scale,
)
from rewardlab.policies.components import denoiser_of
from rewardlab.policies.frugal_autoencoder import FrugalAutoencoder
from rewardlab.policies.resources import Resources
from rewardlab.policies.samplers import Sampler
from rewardlab.types import distinct

Inputs = Mapping[str, Tensor]
# options of `encode_prompt`: one row per prompt, and no negative prompt
PLAIN = {"num_images_per_prompt": 1, "do_classifier_free_guidance": False}
log = logging.getLogger("rewardlab")


class Family(ABC):
    """A kind of diffusers pipelines, for one pipeline of it.

    Latents are [B, *shape], with the channels first: [C, H, W], or [C, F, H, W] of a video. What
    the denoiser takes may be packed otherwise.

    Args:
        pipeline: the pipeline.
        size: height and width in pixels, or one number for both; by default the pipeline's own.
        frames: number of frames of a video.

    Attributes:
        shape: shape of the latents.
        lora_layers: names of the denoiser's layers that get an adapter.
        reads: numbers of the autoencoder's config that the pipeline reads.
        needs: parts without which the pipeline makes no pictures.
        planned_tokens: length of every prompt, where a plan runs on shapes alone.
    """

    lora_layers: ClassVar[list[str]] = ["to_k", "to_q", "to_v", "to_out.0"]
    reads: ClassVar[list[str]] = ["scaling_factor"]
    needs: ClassVar[list[str]] = ["scheduler", "vae", "text_encoder", "tokenizer"]
    planned_tokens: int | None = None
    _keeps_activations = False  # of the autoencoder, against what was asked

    def __init__(self, pipeline: Any, size: Any = None, frames: int | None = None) -> None:
        self.pipeline = pipeline
        self._check_parts()
        self.vae: Any = getattr(pipeline, "vae", None)
        self.config: Any = denoiser_of(pipeline).config
        self.shape = self.latent_shape(size, frames)
        self._check_channels()

    @property
    def is_video(self) -> bool:
        return len(self.shape) == 4

    @property
    def factor(self) -> int:
        """How many pixels of a side become one number of a latent's."""
        return int(getattr(self.pipeline, "vae_scale_factor", 1)) if self.vae is not None else 1

    @property
    def frame_factor(self) -> int:
        """How many frames of a video become one latent, behind the first frame."""
        return 1

    def latent_shape(self, size: Any, frames: int | None) -> tuple[int, ...]:
        """Return the shape of the latents of pictures of a size."""
        self.refuse_frames(frames)
        return (self.config.in_channels, *self.latent_size(size, self.config.sample_size))

    def latent_size(self, size: Any, default: Any, multiple: int = 1) -> tuple[int, int]:
        """Return height and width of the latents.

        Args:
            size: in pixels, as in the constructor.
            default: in latents, for a size of None.
            multiple: which number both have to be a multiple of.

        Raises:
            InputError: if the networks make no pictures of that size.
        """
        if size is None:
            height, width = _pair(default)
            return height, width
        height, width = _pair(size)
        step = self.factor * multiple
        if height % step or width % step or min(height, width) < step:
            raise InputError(
                f"{type(self.pipeline).__name__} makes pictures whose height and width are "
                f"multiples of {step} pixels; got size {height}x{width}."
            )
        return height // self.factor, width // self.factor

    def name_classes(self, labels: Sequence[str] | None) -> None:
        """Refuse names of classes: this family reads texts."""
        if labels is not None:
            raise InputError(
                f"labels name the classes of a class-conditional model; "
                f"{type(self.pipeline).__name__} reads prompts as they are. Leave labels out."
            )

    def spare(self, resources: Resources) -> None:
        """Let the autoencoder see few pictures at once, or keep what it encoded, if asked for."""
        if self.vae is not None and (resources.autoencoder_rows or resources.latents):
            self.vae = FrugalAutoencoder(self.vae, resources)

    def checkpoint_decoding(self) -> None:
        """Let a gradient that passes the autoencoder compute its activations anew, if it can."""
        if self.vae is not None:
            self._keeps_activations = not checkpoint_activations(self.vae)

    def call_default(self, name: str) -> Any:
        """Return the default of an argument of the pipeline's call."""
        return signature(type(self.pipeline).__call__).parameters[name].default

    def refuse_frames(self, frames: int | None) -> None:
        """Refuse a number of frames: this family makes single pictures."""
        if frames is not None:
            raise InputError(
                f"frames={frames} is for pipelines of videos; {type(self.pipeline).__name__} makes "
                "single pictures."
            )

    def inputs(
        self, prompts: Sequence[str], device: torch.device, *, negative: bool = False
    ) -> dict[str, Tensor]:
        """Return the denoiser's inputs for each prompt: named tensors with B rows.

        Equal prompts are encoded once.
        """
        unique = distinct(prompts)
        with torch.no_grad():
            inputs = self.encode(unique.values, device, negative=negative)
        rows = torch.tensor(unique.places, device=device)
        return {name: tensor[rows] for name, tensor in inputs.items()}

    @abstractmethod
    def encode(
        self, prompts: Sequence[str], device: torch.device, *, negative: bool = False
    ) -> dict[str, Tensor]:
        """Return the denoiser's inputs for distinct prompts.

        Args:
            prompts: P texts.
            device: where the inputs are to lie.
            negative: whether they are prompts that guidance steers away from.
        """

    def encoded_prompts(
        self, prompts: Sequence[str], device: torch.device, **options: Any
    ) -> tuple[Any, ...]:
        """Return what the pipeline's `encode_prompt` gives, up to its own number of tokens.

        Args:
            prompts: P texts.
            device: where they are encoded.
            options: further arguments of `encode_prompt`.
        """
        encoded_prompts: tuple[Any, ...] = self.pipeline.encode_prompt(
            list(prompts),
            device=device,
            max_sequence_length=self.call_default("max_sequence_length"),
            do_classifier_free_guidance=False,
            **options,
        )
        return encoded_prompts

    def call(self, denoiser: nn.Module, x: Tensor, time: Tensor, inputs: Inputs) -> Tensor:
        """Return the denoiser's output for latents [N, *shape] at times [N] of the scheduler.

        It may have further channels, which hold a learned variance.
        """
        output: Tensor = denoiser(x, timestep=time, **inputs, return_dict=False)[0]
        return output

    @property
    def is_told_guidance(self) -> bool:
        """Tell whether the denoiser is told the guidance, in an input of that name."""
        return bool(self.config.get("guidance_embeds"))

    def is_guided(self, guidance: float) -> bool:
        """Tell whether a guidance of this scale needs the denoiser's output without the prompt."""
        return guidance != 1 and not self.is_told_guidance

    def guidance_at(self, sampler: Sampler, time: Tensor) -> float | Tensor:
        """Return the scale of guidance at times [N], or of each row, to multiply latents with.

        Raises:
            InputError: if the sampler has one for a second denoiser, and there is none.
        """
        if sampler.late_guidance is not None:
            raise InputError(
                f"late_guidance={sampler.late_guidance} is for pipelines with a second denoiser "
                f"for the late steps, as Wan 2.2; this {type(self.pipeline).__name__} has one. "
                "Leave it out."
            )
        return sampler.guidance

    def guided(self, cond: Tensor, uncond: Tensor, guidance: float | Tensor) -> Tensor:
        """Return the guided output (classifier-free guidance, arXiv 2207.12598)."""
        return uncond + guidance * (cond - uncond)

    def step_options(self, scheduler: Any, steps: int) -> dict[str, Any]:
        """Return what the pipeline hands to `set_timesteps` beside the number of steps."""
        return {}

    def shift(self, scheduler: Any) -> float | None:
        """Return the flow's time shift at this size; None for the scheduler's own."""
        return None

    def to_images(self, latents: Tensor, dtype: torch.dtype) -> Tensor:
        """Return images [B, C, H, W] or videos [B, F, C, H, W] in [0, 1], float32."""
        if self._keeps_activations and latents.requires_grad and torch.is_grad_enabled():
            self._keeps_activations = False  # said once
            log.warning(
                "gradient_checkpointing is of the denoiser alone: diffusers' %s keeps all "
                "activations of a decoding that a gradient passes; told once",
                type(self.pipeline.vae).__name__,
            )
        pixels = self.decode(latents, dtype) if self.vae is not None else latents.float()
        if self.is_video:
            pixels = pixels.transpose(1, 2)
        return (pixels / 2 + 0.5).clamp(0, 1)

    def decode(self, latents: Tensor, dtype: torch.dtype) -> Tensor:
        """Return pixels [B, C, …] in [-1, 1] of latents."""
        return decoded(self.vae, self._scale().to_autoencoder(latents), dtype)

    def to_latents(
        self, images: Tensor, row_generators: list[torch.Generator], dtype: torch.dtype
    ) -> Tensor:
        """Return latents of images or videos in [0, 1]; without an autoencoder, pixels in [-1, 1].

        Raises:
            InputError: if they are of another shape.
        """
        if images.dim() != len(self.shape) + 1:
            kind = "videos [B, F, C, H, W]" if self.is_video else "images [B, C, H, W]"
            raise InputError(
                f"{type(self.pipeline).__name__} takes {kind}; got {list(images.shape)}. "
                "Was the data made for another model?"
            )
        self._check_frames(images)
        pixels = images * 2 - 1
        if self.is_video:
            pixels = pixels.transpose(1, 2)
        latents = pixels
        if self.vae is not None:
            latents = self.encode_pixels(pixels, row_generators, dtype)
        self._check_shape(images, latents)
        return latents.float()

    def encode_pixels(
        self, pixels: Tensor, row_generators: list[torch.Generator], dtype: torch.dtype
    ) -> Tensor:
        """Return latents of pixels [B, C, …] in [-1, 1]."""
        latents = encoded(self.vae, pixels, row_generators, dtype)
        return self._scale().to_denoiser(latents)

    def _scale(self) -> LatentScale:
        return latent_scale(self.vae, self.reads, dims=len(self.shape) - 1)

    def latent_frames(self, frames: int | None, default: int, every: int) -> int:
        """Return the number of a video's frames in latents, one and then one for `every` frames.

        Raises:
            InputError: if the autoencoder makes no such number.
        """
        count = default if frames is None else frames
        if count < 1 or (count - 1) % every:
            raise InputError(
                f"{type(self.pipeline).__name__} makes videos of 1, {1 + every}, {1 + 2 * every}, "
                f"… frames; got frames={count}."
            )
        return (count - 1) // every + 1

    def _check_frames(self, images: Tensor) -> None:
        """Refuse a video of another length: autoencoders drop frames that fill no latent."""
        if not self.is_video:
            return
        frames = (self.shape[1] - 1) * self.frame_factor + 1
        if images.shape[1] != frames:
            raise InputError(
                f"This diffusion model makes videos of {frames} frames; got {images.shape[1]}. "
                "Was the data read with another number of frames? Give one number to both."
            )

    def _check_shape(self, images: Tensor, latents: Tensor) -> None:
        if tuple(latents.shape[1:]) != self.shape:
            raise InputError(
                f"This diffusion model denoises {list(self.shape)} ({self._axes()}); what is "
                f"given, {list(images.shape[1:])}, becomes {list(latents.shape[1:])}. Resize and "
                "convert it in the data (size, channels)."
            )

    def _axes(self) -> str:
        return "channels, frames, height, width" if self.is_video else "channels, height, width"

    def _check_parts(self) -> None:
        """Refuse a pipeline that lacks a part, or whose tokenizer knows no words.

        Text encoders may be left out that are loaded when a prompt comes; a plan needs no words.
        """
        if shells.are_allowed():
            return
        kind = type(self.pipeline).__name__
        later = getattr(self.pipeline, "loaded_later", ())
        for name in self.needs:
            part = getattr(self.pipeline, name, None)
            if part is None and name in later:
                continue
            if part is None:
                raise InputError(
                    f"This {kind} has no {name}, which it needs to make pictures of prompts. Load "
                    "it whole, or give it that part."
                )
            if name.startswith("tokenizer"):
                check_words(part, f"The part {name} of this {kind}")

    def _check_channels(self) -> None:
        """Refuse a denoiser that takes more than noisy latents, as inpainting models do."""
        channels = _latent_channels(self.vae)
        if channels is not None and channels != self.shape[0]:
            raise InputError(
                f"The denoiser of this {type(self.pipeline).__name__} takes {self.shape[0]} "
                f"channels, and its autoencoder makes {channels}: it wants a mask or a picture "
                "beside the noise, as models for inpainting and editing do. DiffusionPolicy draws "
                "from prompts alone; take the model for text to image."
            )


def _latent_channels(vae: Any) -> int | None:
    """Return the channels of an autoencoder's latents, if its config says so."""
    if vae is None:
        return None
    for name in ("latent_channels", "z_dim"):
        if vae.config.get(name) is not None:
            return int(vae.config.get(name))
    return None


def _pair(size: Any) -> tuple[int, int]:
    if isinstance(size, int):
        return size, size
    height, width = size
    return int(height), int(width)
