"""MemoryPlan: what is in a device's memory, stage by stage, and what to change about it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from rewardlab.networks.shells import GIB

# beside tensors; modelled, not measured
CONTEXT = 0.6 * GIB  # CUDA's context and libraries
ROUNDING = 0.05  # what an allocator loses, as a share of what is made and freed in a stage


@dataclass(frozen=True)
class Part:
    """A network, or a part of one.

    Attributes:
        name: such as "denoiser".
        dtype: precision of most of its weights.
        weights: number of its weights.
        size: bytes of its weights and buffers.
        on_device: whether it is in the device's memory all the time.
    """

    name: str
    dtype: str
    weights: int
    size: int
    on_device: bool = True


@dataclass(frozen=True)
class Stage:
    """Something that runs.

    Attributes:
        name: such as "training step".
        extra: largest number of bytes alive at once beside what is there all the time.
        detail: what runs, in words.
    """

    name: str
    extra: int
    detail: str = ""


@dataclass(frozen=True)
class MemoryPlan:
    """The memory of one training loop on one device, in bytes.

    Attributes:
        title: what runs.
        parts: the networks.
        gradients: bytes of the trained weights' gradients; they are part of the training step.
        optimizer: bytes of the optimizer's state.
        stages: what runs, one after the other.
        changes: what would lower the peak, as a config says it, the most useful first.
        notes: what was assumed, and what is left out.
    """

    title: str
    parts: Sequence[Part]
    gradients: int
    optimizer: int
    stages: Sequence[Stage]
    changes: Sequence[str] = ()
    notes: Sequence[str] = field(default=())

    @property
    def resident(self) -> int:
        """Bytes that are there all the time: weights and the optimizer's state."""
        return sum(part.size for part in self.parts if part.on_device) + self.optimizer

    @property
    def peak(self) -> int:
        """Largest number of bytes of tensors alive at once."""
        return self.resident + max((stage.extra for stage in self.stages), default=0)

    @property
    def needed(self) -> int:
        """Bytes of a device that holds the peak, with what is beside tensors."""
        extra = self.peak - self.resident
        return int(self.peak + ROUNDING * extra + CONTEXT)

    def fits(self, gpu_memory: float) -> bool:
        """Tell whether it fits a device of so many GiB."""
        return self.needed <= gpu_memory * GIB

    def text(self, gpu_memory: float | None = None) -> str:
        """Return the plan as lines of text, with a verdict for a device of so many GiB."""
        lines = [self.title, ""]
        for part in self.parts:
            place = "" if part.on_device else "   (not on the device)"
            weights = f"{part.dtype}, {_count(part.weights)} weights"
            lines.append(_line(f"weights: {part.name}", part.size, weights + place))
        lines.append(_line("optimizer's state", self.optimizer, "modelled from its class"))
        lines.append(_line("there all the time", self.resident, ""))
        for stage in self.stages:
            lines.append(_line(f"+ {stage.name}", stage.extra, stage.detail))
        lines.append(_line("of it gradients", self.gradients, "in the training step"))
        lines.append(_line("peak of tensors", self.peak, "modelled: shapes ran, no number did"))
        beside = "with CUDA's context and the allocator's rounding, modelled"
        lines.append(_line("a device needs", self.needed, beside))
        lines += [f"* {note}" for note in self.notes]
        if gpu_memory is not None:
            lines += ["", *self._verdict(gpu_memory)]
        return "\n".join(lines)

    def _verdict(self, gpu_memory: float) -> list[str]:
        if self.fits(gpu_memory):
            return [f"Fits {gpu_memory:g} GiB, by plan."]
        missing = self.needed / GIB - gpu_memory
        lines = [f"Does not fit {gpu_memory:g} GiB, by plan: {missing:.2f} GiB too much. Change:"]
        return lines + [f"  {change}" for change in self.changes]


def _line(name: str, size: int, detail: str) -> str:
    return f"{name:<32} {size / GIB:9.3f} GiB   {detail}".rstrip()


def _count(weights: int) -> str:
    if weights >= 10**9:
        return f"{weights / 10**9:.2f} billion"
    return f"{weights / 10**6:.2f} million"
