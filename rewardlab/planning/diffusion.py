"""Plans of diffusion policies: the real networks run on shapes alone."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode

from rewardlab.networks import shells
from rewardlab.planning.architecture import Architecture
from rewardlab.planning.live import bytes_of, peak_beside
from rewardlab.planning.memory_plan import MemoryPlan, Part, Stage
from rewardlab.planning.optimizers import gradient_size, state_size
from rewardlab.planning.parts import part_of
from rewardlab.planning.stand_ins import stand_in
from rewardlab.planning.vision import reward_parts, scored
from rewardlab.planning.work import Work
from rewardlab.policies.components import DENOISERS, TEXT_ENCODERS, denoiser_parts
from rewardlab.policies.denoising import Conditions
from rewardlab.policies.diffusion import DiffusionPolicy
from rewardlab.policies.resources import Resources
from rewardlab.policies.samplers import Sampler
from rewardlab.rewards import VisionReward
from rewardlab.types import Trajectory


def diffusion_plan(
    settings: Mapping[str, Any], work: Work, reward: VisionReward | None = None
) -> MemoryPlan:
    """Return the plan of a loop that trains a `DiffusionPolicy`.

    The pipeline's networks are made without numbers from its configs, and the training step runs
    on shapes, in the precisions that it would have; the tensors alive are counted.

    Args:
        settings: the policy's arguments, `pipeline` among them.
        work: what the loop does.
        reward: what PPO or ReFL asks, without numbers.

    Raises:
        InputError: if there are no configs of the pipeline, or its family is not known.
    """
    architecture = Architecture.of(settings["pipeline"])
    policy = _shell_policy(architecture, settings)
    encoders = policy.text_encoders.networks
    parts = _parts(policy, encoders, work)
    fake_mode = FakeTensorMode(allow_non_fake_inputs=True)
    shells.as_fake(policy, fake_mode)
    if reward is not None:
        parts += reward_parts(reward)
        shells.as_fake(reward.requires_grad_(False), fake_mode)
    stages = _Stages(policy, fake_mode, work, reward).all(encoders)
    weights = list(policy.parameters())
    trains = work.rows > 0
    return MemoryPlan(
        title=f"{work.loop} of {architecture.pipeline} at {_size(policy)}",
        parts=parts,
        gradients=gradient_size(weights) if trains else 0,
        optimizer=state_size(weights, work.optimizer, work.options) if trains else 0,
        stages=stages,
        changes=_changes(policy, settings, work, encoders, reward),
        notes=[
            f"Numbers of the networks: {architecture.source}.",
            "Prompts are taken at their largest length. Kernels' own workspaces are left out.",
        ],
    )


def _shell_policy(architecture: Architecture, settings: Mapping[str, Any]) -> DiffusionPolicy:
    """Return the policy of a config, without numbers."""
    arguments = dict(settings)
    arguments.pop("pipeline")
    resources = arguments.pop("resources", None) or Resources()
    if isinstance(resources, Mapping):
        resources = Resources(**resources)
    sampler = arguments.pop("sampler", None) or Sampler()
    if isinstance(sampler, Mapping):
        sampler = Sampler(**sampler)
    dtype = getattr(torch, arguments.get("dtype") or "float32")
    whole = torch.float32 if arguments.get("lora_rank") is None else dtype
    precisions = dict.fromkeys(("vae", *TEXT_ENCODERS), dtype)
    precisions |= dict.fromkeys(DENOISERS, whole)
    pipeline = architecture.shell(precisions)
    with shells.allowed():
        return DiffusionPolicy(
            pipeline,
            sampler=Sampler(guidance=sampler.guidance),
            resources=resources.planned(),
            **arguments,
        )


def _parts(policy: DiffusionPolicy, encoders: list[nn.Module], work: Work) -> list[Part]:
    place = policy.resources.encoders
    parts = [part_of("denoiser", policy.denoiser)]
    if work.has_reference and policy.lora_rank is None:
        parts.append(part_of("reference", policy.denoiser))
    if policy.family.vae is not None:
        parts.append(part_of("autoencoder", policy.pipeline.vae))
    for number, encoder in enumerate(encoders, 1):
        on_device = place == "keep"
        parts.append(part_of(f"text encoder {number}", encoder, on_device=on_device))
    return parts


class _Stages:
    """Runs of a policy without numbers, and the bytes that each needs beside the weights."""

    def __init__(
        self,
        policy: DiffusionPolicy,
        fake_mode: FakeTensorMode,
        work: Work,
        reward: VisionReward | None = None,
    ) -> None:
        self.policy = policy
        self.reward = reward
        self.fake_mode = fake_mode
        self.work = work

    def all(self, encoders: list[nn.Module]) -> list[Stage]:
        """Return the stages of the loop, in their order."""
        stages = []
        if encoders and self.policy.resources.encoders == "offload":
            size = sum(bytes_of(encoder) for encoder in encoders)
            stages.append(Stage("reading new prompts", size, "the text encoders on the device"))
        work = self.work
        if work.drawn:
            stages.append(self._measured("drawing", work.drawn, self._draw))
        if work.drawn and self.reward is not None and work.loop != "ReFL":
            stages.append(self._measured("scoring", work.drawn, self._score))
        if work.encoded and self.policy.family.vae is not None:
            stages.append(self._measured("encoding pictures", work.encoded, self._encode))
        if work.rows:
            train = self._climb if work.loop == "ReFL" else self._train
            stages.append(self._measured("training step", work.rows, train))
        return stages

    def _measured(self, name: str, rows: int, run: Callable[[int], None]) -> Stage:
        networks = [self.policy] if self.reward is None else [self.policy, self.reward]
        peak = peak_beside(nn.ModuleList(networks), self.fake_mode, lambda: run(rows))
        return Stage(name, peak, f"{rows} at once")

    def _inputs(self, rows: int) -> dict[str, Tensor]:
        """Return what one denoising of `rows` outputs is told."""
        policy = self.policy
        state = torch.zeros(rows, 1, *policy.shape)
        conditions = Conditions(stand_in(policy.family, rows, policy.dtype))
        return {
            "x": state,
            "target": torch.zeros_like(state),
            "time": torch.full((rows, 1), 500.0),
            "precision": torch.ones(rows, 1),
            "final": torch.zeros(rows, *policy.shape),
            **conditions.tensors(),
        }

    def _train(self, rows: int) -> None:
        mask = torch.ones(rows, 1, dtype=torch.bool)
        tensors = self._inputs(rows)
        if self.policy.draws > 1:
            for name in ("x", "target", "time", "precision"):
                tensors[name] = tensors[name].repeat_interleave(self.policy.draws, 1)
        trajectory = Trajectory([""] * rows, tensors, mask, {})
        if self.work.has_reference:
            with torch.no_grad():
                self.policy.log_prob(trajectory)
        _hold_gradients(self.policy)
        self.policy.log_prob(trajectory).sum().backward()  # type: ignore[no-untyped-call]

    def _climb(self, rows: int) -> None:
        """Run ReFL's step: the predicted pictures, decoded and scored, with their gradient."""
        assert self.reward is not None
        policy = self.policy
        x = torch.zeros(rows, *policy.shape)
        conditions = Conditions(stand_in(policy.family, rows, policy.dtype))
        output = policy.predict(x, torch.full((rows,), 500.0), conditions)
        images = policy.family.to_images(x - output, policy.dtype)
        scored(self.reward, images).sum().backward()  # type: ignore[no-untyped-call]

    @torch.no_grad()
    def _score(self, rows: int) -> None:
        assert self.reward is not None
        *frames, height, width = _pixels(self.policy)
        scored(self.reward, torch.zeros(rows, *frames, 3, height, width))

    @torch.no_grad()
    def _draw(self, rows: int) -> None:
        policy = self.policy
        inputs = stand_in(policy.family, rows, policy.dtype)
        uncond = stand_in(policy.family, rows, policy.dtype) if policy.is_guided else {}
        x = torch.zeros(rows, *policy.shape)
        output = policy.predict(x, torch.full((rows,), 500.0), Conditions(inputs, uncond))
        policy.family.to_images(output, policy.dtype)

    @torch.no_grad()
    def _encode(self, rows: int) -> None:
        policy = self.policy
        pixels = torch.zeros(rows, 3, *_pixels(policy))
        policy.family.encode_pixels(pixels, [torch.Generator() for _ in range(rows)], policy.dtype)


def _hold_gradients(policy: DiffusionPolicy) -> None:
    """Give a second denoiser, which no row passes here, the gradients of an earlier batch."""
    parts = denoiser_parts(policy.pipeline, policy.denoiser)
    if len(parts) == 2:
        for weight in parts["transformer_2"].parameters():
            if weight.requires_grad:
                weight.grad = torch.zeros_like(weight)


def _pixels(policy: DiffusionPolicy) -> tuple[int, ...]:
    """Return frames, height and width of the outputs, or height and width."""
    *frames, height, width = policy.shape[1:]
    factor = policy.family.factor
    if not frames:
        return height * factor, width * factor
    count = (frames[0] - 1) * policy.family.frame_factor + 1
    return count, height * factor, width * factor


def _size(policy: DiffusionPolicy) -> str:
    numbers = _pixels(policy)
    size = f"{numbers[-2]}x{numbers[-1]} pixels"
    return size if len(numbers) == 2 else f"{numbers[0]} frames of {size}"


def _changes(
    policy: DiffusionPolicy,
    settings: Mapping[str, Any],
    work: Work,
    encoders: list[nn.Module],
    reward: VisionReward | None,
) -> list[str]:
    """Return what would lower the peak, as a config says it."""
    gib = shells.GIB
    changes = []
    if policy.lora_rank is None and work.rows:
        changes.append("lora_rank: 16, which trains an adapter beside frozen weights")
    if policy.dtype == torch.float32:
        changes.append("dtype: bfloat16, which halves the frozen weights")
    if not settings.get("gradient_checkpointing"):
        changes.append("gradient_checkpointing: true")
    if work.loop == "ReFL" and reward is not None and not reward.options["gradient_checkpointing"]:
        changes.append("gradient_checkpointing: true, of the reward")
    size = sum(bytes_of(encoder) for encoder in encoders) / gib
    if policy.resources.encoders in ("keep", "offload") and size > 0.1:
        changes.append(f"resources: {{encoders: host}}, {size:.1f} GiB less")
    if policy.lora_rank is not None and policy.resources.storage != "float8":
        frozen = bytes_of(policy.denoiser) / gib
        changes.append(f"resources: {{storage: float8}}, about {frozen / 2:.1f} GiB less")
    if max(work.encoded, work.drawn) > 1 and policy.resources.autoencoder_rows != 1:
        changes.append("resources: {autoencoder_rows: 1}")
    changes.append("a smaller batch with accumulate_grad_batches, a smaller micro_batch")
    changes.append("a smaller size (look at larger pictures by sampler.size)")
    return changes
