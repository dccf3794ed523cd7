"""DiffusionPolicy: a diffusers pipeline as a policy, whose steps are Gaussian regressions.

Whatever a step's origin, the network predicts a target at x_t, and the step's log-probability is
-precision/2 · mean((target - prediction)²). For data the target is the denoising target; for a step
that was sampled it is the output that would have made the sampled x' certain, f_old + (σ/b)·z, with
precision (b/σ)². See docs/architecture.md.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from copy import deepcopy
from dataclasses import asdict
from inspect import signature
from math import prod
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn
from tqdm import tqdm

from rewardlab.errors import InputError
from rewardlab.kernels.diffusion_dpo import squared_error
from rewardlab.networks import lora
from rewardlab.policies import pipelines
from rewardlab.policies.abilities import Adapted, PredictsX0
from rewardlab.policies.base import Policy, frozen_copy
from rewardlab.policies.reference import AdapterOff
from rewardlab.policies.samplers import (
    Noising,
    Sampler,
    Transitions,
    noising,
    set_timesteps,
    transitions,
)
from rewardlab.policies.x0 import predict_x0
from rewardlab.seeds import derive, generators, normal, row_seeds, uniform
from rewardlab.types import Samples, Trajectory, concatenate

Conditions = Mapping[str, Tensor]
# prefixes of the conditions, with and without the prompt, in a trajectory's tensors
TOLD = "told."
UNTOLD = "untold."


class DiffusionPolicy(Policy, PredictsX0, Adapted):
    """Any diffusers pipeline with a `unet` or `transformer`: conditioned on text (SD 1.x, 2.x,
    SDXL, SD3), classes or nothing.

    Only the denoiser, or its adapter, is trained. Log-probabilities are means over the D = C·H·W
    latent dimensions.

    Args:
        pipeline: a folder, a hub id or a diffusers pipeline.
        labels: the class names of a class-conditional model, in order; prompts are these names.
        sampler: how images are drawn.
        negative_prompt: what guidance steers away from.
        prompt_dropout: share of rows that train without their prompt (seeded: both halves of a pair
            drop together).
        draws: denoising steps that are averaged for each encoded image.
        lora_rank: train a low-rank adapter of this rank (arXiv 2106.09685) instead of all weights.
            The reference is then the same network with the adapter off.
        micro_batch: rows that are sampled at once; all by default.
        dtype: precision of the networks' arithmetic. Trained weights, targets and log-probabilities
            stay float32.
        gradient_checkpointing: trade time for memory in the denoiser's backward pass.

    Raises:
        InputError: if the pipeline cannot be loaded, or (on use) a prompt, an image or the sampler
            does not fit it.

    Example:
        >>> from rewardlab.testing import tiny_diffusion
        >>> policy = DiffusionPolicy(tiny_diffusion(), labels=["zero", "one"], sampler=Sampler(steps=4))
        >>> samples = policy.generate(["one", "zero"], seeds=torch.tensor([1, 2]))
        >>> samples.outputs.shape
        torch.Size([2, 1, 8, 8])
        >>> policy.log_prob(policy.encode(samples, seeds=torch.tensor([3, 4]))).shape
        torch.Size([2, 1])
    """

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
    ) -> None:
        super().__init__()
        self.pipeline = pipelines.load_pipeline(pipeline)
        self.labels = labels
        self.sampler = sampler
        self.negative_prompt = negative_prompt
        self.prompt_dropout = prompt_dropout
        self.draws = draws
        self.micro_batch = micro_batch
        self.dtype = getattr(torch, dtype)
        self.lora_rank = lora_rank
        self.denoiser = pipelines.denoiser_of(self.pipeline).float().train()
        self.encoders = (
            nn.ModuleList(pipelines.encoders_of(self.pipeline))
            .eval()
            .requires_grad_(False)
            .to(self.dtype)
        )
        self.scheduler = _scheduler(self.pipeline.scheduler, sampler)
        self.shape = pipelines.latent_shape(self.denoiser)
        self.dimensions = prod(self.shape)
        if lora_rank is not None:
            lora.add(self.denoiser, lora_rank, ["to_k", "to_q", "to_v", "to_out.0"], self.dtype)
        if gradient_checkpointing:
            self.denoiser.enable_gradient_checkpointing()
        table = noising(self.scheduler)
        for name in Noising.__dataclass_fields__:
            self.register_buffer(f"noising_{name}", getattr(table, name), persistent=False)

    @property
    def device(self) -> torch.device:
        return self.noising_time.device

    def train(self, mode: bool = True) -> DiffusionPolicy:
        super().train(mode)
        self.encoders.eval()
        return self

    @torch.no_grad()
    def sample(self, prompts: Sequence[str], *, seeds: Tensor) -> Trajectory:
        """Denoise by stochastic steps and keep what each step saw and drew.

        Raises:
            InputError: if the sampler's steps have no density (see `samplers.transitions`).
        """
        table = transitions(self.scheduler, self.sampler)
        return concatenate(
            [self._rollout(part, rows, table) for part, rows in self._parts(prompts, seeds)]
        )

    def _rollout(self, prompts: Sequence[str], seeds: Tensor, table: Transitions) -> Trajectory:
        rows = generators(seeds)
        conditions = self._conditions(prompts, guided=self.sampler.guidance != 1)
        x = normal(self.shape, rows, self.device)
        states = []
        targets = []
        for time, a, b, noise in zip(
            *(column.tolist() for column in vars(table).values()), strict=True
        ):
            output = self._predict(x, x.new_full((len(x),), time), conditions)
            z = normal(self.shape, rows, self.device)
            states.append(x)
            targets.append(output + (noise / b) * z)
            x = a * x + b * output + noise * z
        steps = _kept_steps(table, self.sampler.kept_steps, seeds).to(self.device)
        precision = (
            (table.output / table.noise).square().where(table.noise > 0, 0).float().to(self.device)
        )
        tensors = {
            "x": _at(torch.stack(states, 1), steps),
            "target": _at(torch.stack(targets, 1), steps),
            "time": table.time.float().to(self.device)[steps],
            "precision": precision[steps],
            "final": x,
            **conditions,
        }
        return Trajectory(
            prompts, tensors, (table.noise > 0).to(self.device)[steps], {"seed": seeds}
        )

    def encode(self, samples: Samples, *, seeds: Tensor) -> Trajectory:
        """Noise the images to random times; T is 1, the mean over `draws`.

        In training mode a share `prompt_dropout` of the rows forgets its prompt. The trajectory's
        tensors have a row a sample; equal seeds draw equal times, noise and dropout.
        """
        if not isinstance(samples.outputs, Tensor):
            raise InputError(
                f"DiffusionPolicy encodes images [B, C, H, W] in [0, 1]; got a list of {len(samples)} strings. "
                "Was the data made for a language model?"
            )
        rows = generators(seeds)
        x0 = pipelines.to_latents(self._vae, samples.outputs.to(self.device), rows, self.shape)[
            :, None
        ]
        index = (uniform((self.draws,), rows, self.device) * len(self.noising_time)).long()
        noise = normal((self.draws, *self.shape), rows, self.device)
        signal, sigma, of_signal, of_noise = (
            getattr(self, f"noising_{name}")[index][..., None, None, None]
            for name in ("signal", "noise", "of_signal", "of_noise")
        )
        dropped = uniform((), rows) < (self.prompt_dropout if self.training else 0.0)
        prompts = [
            "" if drop else prompt
            for drop, prompt in zip(dropped.tolist(), samples.prompts, strict=True)
        ]
        tensors = {
            "x": signal * x0 + sigma * noise,
            "target": of_signal * x0 + of_noise * noise,
            "time": self.noising_time[index],
            "precision": torch.ones_like(index, dtype=torch.float32),
            "final": x0[:, 0],
            **self._conditions(prompts, guided=False),
        }
        mask = torch.ones(len(samples), 1, dtype=torch.bool, device=self.device)
        return Trajectory(samples.prompts, tensors, mask, samples.facts)

    def decode(self, trajectory: Trajectory) -> Samples:
        """Return the images [B, C, H, W] in [0, 1] that the trajectories end in. Differentiable."""
        latents = trajectory.tensors["final"]
        images = torch.cat(
            [
                pipelines.to_images(self._vae, part)
                for part in latents.split(self.micro_batch or len(latents))
            ]
        )
        return Samples(trajectory.prompts, images, trajectory.facts)

    def log_prob(self, trajectory: Trajectory) -> Tensor:
        """Return -precision/2 · mean((target - prediction)²) of each step, float32 [B, T].

        A rollout has a column a kept step; encoded data have one, the mean over `draws`.
        """
        x, target, time, precision = (
            trajectory.tensors[name] for name in ("x", "target", "time", "precision")
        )
        drawn = time.shape[1]
        conditions = {
            name: tensor.repeat_interleave(drawn, 0)
            for name, tensor in trajectory.tensors.items()
            if name.startswith((TOLD, UNTOLD))
        }
        prediction = self._predict(x.flatten(0, 1), time.flatten(), conditions)
        errors = squared_error(prediction, target.flatten(0, 1)).view_as(time)
        return (-0.5 * precision * errors).view(len(x), trajectory.mask.shape[1], -1).mean(2)

    def predict_x0(self, trajectory: Trajectory, steps: Tensor) -> Samples:
        """Return the images that rows are seen to end in from one of their steps each, int64 [B],
        with a gradient.
        """
        return predict_x0(self, trajectory, steps)

    @torch.no_grad()
    def generate(self, prompts: Sequence[str], *, seeds: Tensor) -> Samples:
        """Return one image a prompt by the scheduler's own steps, deterministic or not."""
        return concatenate(
            [self._generate(part, rows) for part, rows in self._parts(prompts, seeds)]
        )

    def _generate(self, prompts: Sequence[str], seeds: Tensor) -> Samples:
        scheduler = deepcopy(self.scheduler)
        rows = generators(seeds)
        set_timesteps(scheduler, self.sampler.steps, self.device)
        conditions = self._conditions(prompts, guided=self.sampler.guidance != 1)
        accepted = signature(scheduler.step).parameters
        extra = {
            name: value
            for name, value in (("eta", self.sampler.noise), ("generator", rows))
            if name in accepted
        }
        x = normal(self.shape, rows, self.device) * getattr(scheduler, "init_noise_sigma", 1.0)
        scale = getattr(scheduler, "scale_model_input", lambda x, time: x)
        for time in scheduler.timesteps:
            output = self._predict(scale(x, time), time.expand(len(x)), conditions)
            x = scheduler.step(output, time, x, **extra, return_dict=False)[0]
        return Samples(prompts, pipelines.to_images(self._vae, x), {"seed": seeds})

    def reference(self) -> Policy:
        """Return this policy with its adapter off, or a frozen copy with a denoiser of its own."""
        return AdapterOff(self) if self.lora_rank is not None else frozen_copy(self)

    def __deepcopy__(self, memo: dict[int, Any]) -> DiffusionPolicy:
        """Copy the denoiser; the encoders, which are never trained, are shared."""
        twin = type(self).__new__(type(self))
        memo |= {id(part): part for part in (self.pipeline, self.scheduler, *self.encoders)} | {
            id(self): twin
        }
        twin.__dict__.update(deepcopy(self.__dict__, memo))
        return twin

    def adapter_off(self) -> AbstractContextManager[None]:
        """Run the denoiser without its adapter for a while."""
        return lora.off(self.denoiser)

    def save_pretrained(self, folder: str | Path) -> None:
        """Write a pipeline that diffusers loads (an adapter is merged into it) and the policy's own
        settings.
        """
        folder = Path(folder)
        self._merged_pipeline().save_pretrained(folder)
        settings = {
            "sampler": asdict(self.sampler),
            "dtype": str(self.dtype).removeprefix("torch."),
        }
        kept = ("labels", "negative_prompt", "prompt_dropout", "draws", "lora_rank")
        settings |= {name: getattr(self, name) for name in kept}
        text = json.dumps(
            {"class_path": "rewardlab.policies.DiffusionPolicy", "init_args": settings}, indent=2
        )
        (folder / "policy.json").write_text(text + "\n", encoding="utf-8")

    @classmethod
    def from_pretrained(cls, folder: str | Path) -> DiffusionPolicy:
        """Load what `save_pretrained` wrote. With `lora_rank` a fresh adapter starts from the
        merged weights.
        """
        settings = json.loads((Path(folder) / "policy.json").read_text(encoding="utf-8"))[
            "init_args"
        ]
        return cls(folder, **(settings | {"sampler": Sampler(**settings["sampler"])}))

    def _merged_pipeline(self) -> Any:
        name = "unet" if getattr(self.pipeline, "unet", None) is not None else "transformer"
        denoiser = lora.merged(self.denoiser)
        return type(self.pipeline)(**(self.pipeline.components | {name: denoiser}))

    @property
    def _vae(self) -> Any:
        return getattr(self.pipeline, "vae", None)

    def _parts(
        self, prompts: Sequence[str], seeds: Tensor
    ) -> Iterator[tuple[Sequence[str], Tensor]]:
        size = self.micro_batch or max(len(prompts), 1)
        starts = range(0, max(len(prompts), 1), size)
        for start in tqdm(
            starts, "sampling", leave=False, disable=None if len(starts) > 1 else True
        ):
            yield prompts[start : start + size], seeds[start : start + size]

    def _conditions(self, prompts: Sequence[str], *, guided: bool) -> dict[str, Tensor]:
        """What the denoiser is told, and with guidance what it is not told, under their prefixes."""
        told = pipelines.condition(self.pipeline, self.labels, prompts, self.device)
        conditions = {TOLD + name: tensor for name, tensor in told.items()}
        if guided:
            untold = pipelines.condition(
                self.pipeline, self.labels, [self.negative_prompt] * len(prompts), self.device
            )
            conditions |= {UNTOLD + name: tensor for name, tensor in untold.items()}
        return conditions

    def _predict(self, x: Tensor, time: Tensor, conditions: Conditions) -> Tensor:
        """The network's output [N, *shape], float32; guided (arXiv 2207.12598) where the conditions
        say what is not told.
        """
        told = {
            name.removeprefix(TOLD): tensor
            for name, tensor in conditions.items()
            if name.startswith(TOLD)
        }
        untold = {
            name.removeprefix(UNTOLD): tensor
            for name, tensor in conditions.items()
            if name.startswith(UNTOLD)
        }
        with (
            nullcontext()
            if self.dtype == torch.float32
            else torch.autocast(x.device.type, self.dtype)
        ):
            if not untold:
                return pipelines.denoise(self.denoiser, x, time, told)
            both = {name: torch.cat([untold[name], told[name]]) for name in told}
            without, given = pipelines.denoise(
                self.denoiser, x.repeat(2, 1, 1, 1), time.repeat(2), both
            ).chunk(2)
        return without + self.sampler.guidance * (given - without)


def _scheduler(own: Any, sampler: Sampler) -> Any:
    """The pipeline's scheduler, or DDIM or DDPM on its noise schedule, without clipping."""
    if sampler.scheduler == "pipeline":
        return own
    import diffusers

    kind = diffusers.DDIMScheduler if sampler.scheduler == "ddim" else diffusers.DDPMScheduler
    return kind.from_config(own.config, clip_sample=False, thresholding=False)


def _kept_steps(table: Transitions, kept: int | None, seeds: Tensor) -> Tensor:
    """Step numbers [B, T] to train on: all, or for each row its own choice of `kept` stochastic
    ones, in order.
    """
    count = len(table.time)
    if kept is None:
        return torch.arange(count).expand(len(seeds), count)
    stochastic = (table.noise > 0).nonzero()[:, 0]
    if not 1 <= kept <= len(stochastic):
        raise InputError(
            f"sampler.kept_steps must be between 1 and the {len(stochastic)} stochastic steps; got {kept}."
        )
    order = uniform(
        (len(stochastic),), generators(row_seeds(derive(0, "kept steps"), seeds))
    ).argsort(1)
    return stochastic[order[:, :kept].sort(1).values]


def _at(values: Tensor, steps: Tensor) -> Tensor:
    """values[b, steps[b]] for each row b: [B, S, ...] and [B, T] give [B, T, ...]."""
    return values[torch.arange(len(steps), device=steps.device)[:, None], steps]
