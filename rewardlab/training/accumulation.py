"""Accumulated gradients that equal those of one batch, whatever each part weighs."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn


class AccumulationWindow:
    """The batches whose gradients make one optimizer step.

    Lightning divides the loss of each of N batches by N, so a batch of few steps would weigh as
    much as one of many. Here a batch's loss is multiplied by its share: its count over that of the
    first batch. Before the optimizer step the gradients are brought to the mean over all counts.

    Example:
        >>> window = AccumulationWindow()
        >>> weight = nn.Parameter(torch.zeros(()))
        >>> for values in ([1.0, 3.0, 5.0], [7.0]):
        ...     loss = (weight * torch.tensor(values)).mean()
        ...     (window.shared(loss, len(values), parts=2) / 2).backward()
        >>> window.close([weight])
        >>> weight.grad.item()  # the mean over all four
        4.0
    """

    def __init__(self) -> None:
        self._first = 0.0
        self._total = 0.0
        self._parts = 1

    def shared(self, loss: Tensor, count: float | Tensor, parts: int) -> Tensor:
        """Return a batch's mean loss, multiplied by the batch's share.

        Args:
            loss: the mean over what the batch counts.
            count: of what its loss is the mean; the mean count of all processes.
            parts: N, by which Lightning divides, above 1.
        """
        self._parts = parts
        count = float(count)
        if not self._total:
            self._first = max(count, 1e-8)
        self._total += count
        return loss * (count / self._first)

    @torch.no_grad()
    def close(self, parameters: Iterable[nn.Parameter]) -> None:
        """Bring the gradients to the mean over all batches since the last step, in place."""
        if self._total:
            factor = self._parts * self._first / self._total
            for parameter in parameters:
                if parameter.grad is not None:
                    parameter.grad.mul_(factor)
        self._total = 0.0


def parts_of(module: Any) -> int:
    """Return how many batches make an optimizer step of a loop; 1 outside of a trainer."""
    trainer = getattr(module, "_trainer", None)
    return 1 if trainer is None else int(trainer.accumulate_grad_batches)
