"""DiffusionPolicy: a diffusers pipeline as a policy, whose steps are Gaussian regressions.

At every step the network predicts a target at x_t, and the step's log-probability is -precision/2 ·
mean((target - prediction)²). For data the target is the denoising target. For a step that was
sampled it is the output that would have made the sampled x' certain, f_old + (σ/b)·z, with
precision (b/σ)². See docs/architecture.md.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from copy import deepcopy
from dataclasses import replace
from math import prod
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from rewardlab.conversations import Prompt, text_prompts
from rewardlab.networks import lora
from rewardlab.networks.float8 import store_in_float8
from rewardlab.networks.precision import arithmetic
from rewardlab.networks.shards import shallow_copy
from rewardlab.policies import (
    denoising,
    diffusion_folder,
    drawing,
    encoding,
    families,
    pipelines,
)
from rewardlab.policies.abilities import (
    Adapted,
    Denoises,
    Denoisings,
    HasAutoencoder,
    KeepsNoise,
    PredictsX0,
)
from rewardlab.policies.base import Policy, frozen_copy
from rewardlab.policies.components import denoiser_of, encoders_of
from rewardlab.policies.denoising import Conditions, guided_output
from rewardlab.policies.denoisings import denoisings_of, log_probs_of, recorded
from rewardlab.policies.noising import noising, predicted_x0
from rewardlab.policies.reference import DenoiserOff
from rewardlab.policies.resources import Resources
from rewardlab.policies.samplers import Sampler, Transitions
from rewardlab.policies.schedulers import chosen_scheduler
from rewardlab.policies.text_encoders import PromptInputs, TextEncoders
from rewardlab.types import Samples, Trajectory


class DiffusionPolicy(Policy, PredictsX0, Denoises, KeepsNoise, Adapted, HasAutoencoder):
    """A diffusers pipeline as a policy over images or videos.

    It may be conditioned on text, on classes or on nothing; `policies/families` lists the kinds.
    Only the denoiser, or its adapter, is trained, and its dropout is off. Log-probabilities are
    means over the D = C·H·W latent dimensions, D = C·F·H·W of a video.

    Args:
        pipeline: folder, hub id or diffusers pipeline. An adapter that it brings along stays a part
            of it: merged if `lora_rank` adds one, else trained on.
        labels: class names of a class-conditional model, in order; prompts are these names.
        sampler: settings by which images are drawn.
        negative_prompt: prompt that guidance steers away from.
        prompt_dropout: share of rows that train without their prompt. It is seeded: both halves of
            a pair drop together.
        draws: number of denoising steps that are averaged for each encoded image.
        lora_rank: rank of a low-rank adapter (arXiv 2106.09685) that is trained instead of all
            weights. The reference is then the same network with the adapter off.
        micro_batch: number of rows that are sampled at once; all by default.
        dtype: precision of the networks' arithmetic, and of the frozen weights that are loaded from
            a folder. Trained weights, targets and log-probabilities stay float32; so does an
            autoencoder that asks for it where float16 would overflow (`force_upcast`).
        gradient_checkpointing: trade time for memory in the backward pass of denoiser and decoder.
        size: height and width of the pictures in pixels; the pipeline's own by default.
        frames: number of frames of the videos; the pipeline's own by default.
        resources: where text encoders are, what is kept of prompts and pictures, and other costs.

    Raises:
        InputError: if the pipeline cannot be loaded, or (on use) a prompt, an image or the sampler
            does not fit it.

    Example:
        >>> from rewardlab.testing import tiny_diffusion
        >>> sampler = Sampler(steps=4)
        >>> policy = DiffusionPolicy(tiny_diffusion(), labels=["zero", "one"], sampler=sampler)
        >>> samples = policy.generate(["one", "zero"], seeds=torch.tensor([1, 2]))
        >>> samples.outputs.shape
        torch.Size([2, 1, 8, 8])
        >>> policy.log_prob(policy.encode(samples, seeds=torch.tensor([3, 4]))).shape
        torch.Size([2, 1])
    """

    denoiser: Any
    _norms: list[Tensor] | None = None  # of the velocities, while they are recorded

    def __init__(
        self,
        pipeline: str | Path | Any,
        labels: list[str] | None = None,
        sampler: Sampler = Sampler(),  # noqa: B008  (frozen)
        negative_prompt: str = "",
        prompt_dropout: float = 0.0,
        draws: int = 1,
        lora_rank: int | None = None,
        micro_batch: int | None = None,
        dtype: Literal["float32", "bfloat16", "float16"] = "float32",
        gradient_checkpointing: bool = False,
        size: int | tuple[int, int] | None = None,
        frames: int | None = None,
        resources: Resources = Resources(),  # noqa: B008  (frozen)
    ) -> None:
        super().__init__()
        self.labels = labels
        self.sampler = sampler
        self.negative_prompt = negative_prompt
        self.prompt_dropout = prompt_dropout
        self.draws = draws
        self.micro_batch = micro_batch
        self.dtype = getattr(torch, dtype)
        self.lora_rank = lora_rank
        self.resources = resources
        self.source = pipeline if isinstance(pipeline, str | Path) else None
        whole = torch.float32 if lora_rank is None else self.dtype
        has_text = resources.encoders != "free"
        self.pipeline = pipelines.load_pipeline(pipeline, self.dtype, whole, text=has_text)
        self.text_encoders = TextEncoders(self.pipeline, resources, self.source, self.dtype)
        encoders = encoders_of(self.pipeline, text=self.text_encoders.moves)
        self.encoders = nn.ModuleList(encoders).eval().requires_grad_(False)
        self.scheduler = chosen_scheduler(self.pipeline.scheduler, sampler.scheduler)
        self.finite_steps: dict[tuple[int, float], bool] = {}
        self._set_size(size, frames)
        self.denoiser = self._trained_denoiser(gradient_checkpointing)

    def _set_size(self, size: int | tuple[int, int] | None, frames: int | None) -> None:
        """Set what depends on the size of the outputs."""
        self.size = size
        self.frames = frames
        self.family = families.family_of(self.pipeline, size, frames)
        self.family.name_classes(self.labels)
        self.family.spare(self.resources)
        self.prompt_inputs = PromptInputs(self.family, self.text_encoders)
        self.shape = self.family.shape
        self.dimensions = prod(self.shape)
        self.noising = noising(self.scheduler, self.family.shift(self.scheduler))

    def with_size(
        self, size: int | tuple[int, int] | None, frames: int | None = None
    ) -> DiffusionPolicy:
        """Return the policy for outputs of another size, with the same weights.

        Train small and look large: what is trained at one size draws at another.

        Raises:
            InputError: if the networks make no pictures of that size.
        """
        other = shallow_copy(self)
        other._set_size(size, frames)
        other.noising.to(self.device)
        return other

    def _trained_denoiser(self, gradient_checkpointing: bool) -> Any:
        """Return the pipeline's denoiser, with an adapter if one is trained."""
        denoiser: Any = denoiser_of(self.pipeline).eval()
        if self.lora_rank is not None:
            denoiser = lora.merged(denoiser)
            lora.add(denoiser, self.lora_rank, self.family.lora_layers, None)
        if self.resources.storage == "float8":
            pipelines.check_rounding(self.source, self.lora_rank)
            store_in_float8(denoiser)
        if gradient_checkpointing:
            denoiser.enable_gradient_checkpointing()
            self.family.checkpoint_decoding()
        if self.resources.backend is not None:
            denoiser.compile(backend=self.resources.backend)
        return denoiser

    @property
    def device(self) -> torch.device:
        return self.noising.time.device

    def train(self, mode: bool = True) -> DiffusionPolicy:
        super().train(mode)
        self.denoiser.eval()  # no dropout of weights or labels: gradients need no training mode
        self.encoders.eval()
        return self

    @torch.no_grad()
    def sample(self, prompts: Sequence[Prompt], *, seeds: Tensor) -> Trajectory:
        """Denoise by stochastic steps and keep what each step saw and drew.

        Raises:
            InputError: if the sampler's steps have no density (see `samplers.transitions`).
        """
        return drawing.sampled(self, prompts, seeds)

    def rollout(self, prompts: Sequence[Prompt], seeds: Tensor, table: Transitions) -> Trajectory:
        """Return the trajectory of a table's steps, and of those that are kept for training."""
        return drawing.rollout(self, prompts, seeds, table)

    def encode(self, samples: Samples, *, seeds: Tensor) -> Trajectory:
        """Noise the images to random times; T is 1, the mean over `draws`.

        In training mode a share `prompt_dropout` of the rows forgets its prompt. The trajectory's
        tensors have one row per sample. Equal seeds draw equal times, noise and dropout.

        Raises:
            InputError: if the outputs are no images, or of a shape that the model does not denoise.
        """
        return encoding.noised(self, samples, seeds)

    def encode_own(self, samples: Samples, *, seeds: Tensor) -> Trajectory:
        """Noise the policy's own pictures with the noise that they were drawn from.

        At t = 1 of a rectified flow the trajectory is where the drawing began (PNAPO, arXiv
        2605.09433). Times and dropout are those of `encode`.

        Raises:
            InputError: as `encode`, and if the samples lack the fact "seed".
        """
        own = encoding.prior_noise(self, samples)
        return encoding.noised(self, samples, seeds, own)

    def check_own_noise(self) -> None:
        """Refuse a policy that is no rectified flow with deterministic steps."""
        encoding.check_own_noise(self)

    def decode(self, trajectory: Trajectory) -> Samples:
        """Return the outputs in [0, 1] that the trajectories end in, differentiable.

        They are images [B, C, H, W] or videos [B, F, C, H, W].
        """
        latents = trajectory.tensors["final"]
        parts = []
        for part in torch.split(latents, self.micro_batch or len(latents)):
            parts.append(self.family.to_images(part, self.dtype))
        return Samples(trajectory.prompts, torch.cat(parts), trajectory.facts)

    def log_prob(self, trajectory: Trajectory) -> Tensor:
        """Return -precision/2 · mean((target - prediction)²) of each step, float32 [B, T].

        A rollout has one column per kept step. Encoded data have one, the mean over `draws`.
        """
        return log_probs_of(self, trajectory)

    def denoisings(self, trajectory: Trajectory) -> Denoisings:
        """Return the network's outputs at the noisings of `encode`, without guidance."""
        return denoisings_of(self, trajectory)

    def recorded_norms(self) -> AbstractContextManager[list[Tensor]]:
        """Return a context that collects ‖v‖ of each `log_prob` within it, [B, D]."""
        return recorded(self)

    def predict_x0(self, trajectory: Trajectory, steps: Tensor) -> Samples:
        """Return the images that the network expects at the end, seen from one step of each row.

        The gradient is that of the one step: x_t, which earlier steps made, is a constant.

        Args:
            trajectory: result of `sample` or `encode`, B rows.
            steps: int64 [B], the number of one kept step of each row.

        Returns:
            Outputs as `decode` gives them, differentiable by the policy's weights.

        Example:
            >>> from rewardlab.testing import tiny_diffusion
            >>> policy = DiffusionPolicy(tiny_diffusion(classes=0), sampler=Sampler(steps=3))
            >>> trajectory = policy.sample([""], seeds=torch.tensor([1]))
            >>> policy.predict_x0(trajectory, torch.tensor([2])).outputs.requires_grad
            True
        """
        tensors = trajectory.tensors
        rows = torch.arange(len(steps), device=steps.device)
        x = tensors["x"][rows, steps]
        time = tensors["time"][rows, steps]
        output = self.predict(x, time, denoising.stored_conditions(tensors))
        x0 = predicted_x0(x, output, self.noising.at_time(time))
        ended = replace(trajectory, tensors={**tensors, "final": x0})
        return self.decode(ended)

    @torch.no_grad()
    def generate(self, prompts: Sequence[Prompt], *, seeds: Tensor) -> Samples:
        """Return one image per prompt by the scheduler's own steps, deterministic or not.

        Their size is the sampler's, if it names one. Where those steps give no numbers, the images
        are drawn as `sample` draws them.
        """
        size = self.sampler.size
        policy = self if size is None else self.with_size(size, self.frames)
        return drawing.drawn(policy, prompts, seeds)

    def step_options(self) -> dict[str, Any]:
        """Return what the scheduler is told beside the number of steps."""
        return self.family.step_options(self.scheduler, self.sampler.steps)

    def reference(self) -> Policy:
        """Return this policy with its adapter off, or a frozen copy with its own denoiser."""
        if self.lora_rank is not None:
            return DenoiserOff(self)
        return frozen_copy(self)

    def __deepcopy__(self, memo: dict[int, Any]) -> DiffusionPolicy:
        """Copy the denoiser; share the pipeline and the encoders, which are never trained."""
        copied = type(self).__new__(type(self))
        memo[id(self)] = copied
        shared = (self.pipeline, self.family, self.scheduler, *self.encoders)
        for part in (*shared, self.text_encoders, self.prompt_inputs):
            memo[id(part)] = part
        copied.__dict__.update(deepcopy(self.__dict__, memo))
        return copied

    def adapter_off(self) -> AbstractContextManager[None]:
        """Return a context in which the denoiser runs without its adapter."""
        return lora.off(self.denoiser)

    def save_pretrained(self, folder: str | Path) -> None:
        """Write a pipeline that diffusers loads, and the policy's own settings.

        An adapter is merged into the denoiser.

        Raises:
            InputError: if what is loaded from the folder predicts another picture.
        """
        diffusion_folder.save(self, Path(folder))

    @classmethod
    def from_pretrained(cls, folder: str | Path) -> DiffusionPolicy:
        """Load what `save_pretrained` wrote.

        With `lora_rank` a fresh adapter starts from the merged weights.
        """
        return cls(folder, **diffusion_folder.load_settings(Path(folder)))

    @property
    def has_autoencoder(self) -> bool:
        """Tell whether the pipeline works on latents of an autoencoder."""
        return self.family.vae is not None

    @property
    def is_guided(self) -> bool:
        """Tell whether drawing needs the network's output without the prompt, too."""
        return self.family.is_guided(self.sampler.guidance)

    def conditions(self, prompts: Sequence[Prompt], *, guided: bool) -> Conditions:
        """Return the denoiser's conditional inputs and, if guided, the unconditional ones."""
        texts = text_prompts(prompts, "DiffusionPolicy")
        cond = self.prompt_inputs(texts, self.device)
        if self.family.is_told_guidance:
            cond["guidance"] = torch.full((len(texts),), self.sampler.guidance, device=self.device)
        if not guided:
            return Conditions(cond)
        negative = [self.negative_prompt] * len(prompts)
        return Conditions(cond, self.prompt_inputs(negative, self.device, negative=True))

    def predict(self, x: Tensor, time: Tensor, conditions: Conditions) -> Tensor:
        """Return the network's output [N, *shape], float32, guided if there is what to guide by."""
        return self.whole_output(x, time, conditions)[:, : x.shape[1]]

    def whole_output(self, x: Tensor, time: Tensor, conditions: Conditions) -> Tensor:
        """Return the same with the channels of a learned variance, where there are any."""
        guidance = self.family.guidance_at(self.sampler, time)
        with arithmetic(x.device, self.dtype):
            return guided_output(self.family, self.denoiser, x, time, conditions, guidance)
