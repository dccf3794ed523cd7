"""Two denoisers that share the time: one for much noise, one for little, as in Wan 2.2."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from rewardlab.networks import shells


class TimedDenoisers(nn.Module):
    """Two denoisers as one: each row passes the one that its time belongs to.

    Both train at once, each at its own times. A batch without a time of one of them leaves that one
    without a gradient; a distributed run has to allow it (`find_unused_parameters`).

    Args:
        transformer: denoiser of times from `boundary` up, which hold much noise.
        transformer_2: denoiser of earlier times, which hold little.
        boundary: in the scheduler's times.

    Attributes:
        config: that of the first, whose latents the other shares.
    """

    def __init__(self, transformer: Any, transformer_2: Any, boundary: float) -> None:
        super().__init__()
        self.transformer = transformer
        self.transformer_2 = transformer_2
        self.boundary = boundary

    @property
    def config(self) -> Any:
        return self.transformer.config

    def enable_gradient_checkpointing(self) -> None:
        self.transformer.enable_gradient_checkpointing()
        self.transformer_2.enable_gradient_checkpointing()

    def compile(self, *args: Any, **options: Any) -> None:
        """Compile both; the choice between them stays outside."""
        self.transformer.compile(*args, **options)
        self.transformer_2.compile(*args, **options)

    def forward(self, x: Tensor, timestep: Tensor, **inputs: Any) -> tuple[Tensor]:
        """Return the output for latents [N, *shape] at times [N]."""
        noisy, clear = self._rows(timestep)
        parts = []
        for rows, denoiser in ((noisy, self.transformer), (clear, self.transformer_2)):
            if len(rows):
                parts.append(denoiser(x[rows], timestep[rows], **_rows_of(inputs, rows))[0])
        order = torch.cat([noisy, clear]).argsort()
        return (torch.cat(parts)[order],)

    def _rows(self, timestep: Tensor) -> tuple[Tensor, Tensor]:
        """Return the rows of the first denoiser, and those of the second.

        In a plan, whose times say nothing, all pass the first, which takes the most memory.
        """
        if shells.is_fake(timestep):
            return torch.arange(len(timestep)), torch.arange(0)
        is_noisy = timestep >= self.boundary
        return is_noisy.nonzero().flatten(), (~is_noisy).nonzero().flatten()


def _rows_of(inputs: dict[str, Any], rows: Tensor) -> dict[str, Any]:
    """Return rows of those inputs that are tensors."""
    chosen = {}
    for name, value in inputs.items():
        chosen[name] = value[rows] if isinstance(value, Tensor) else value
    return chosen
