"""Kernels: operations that are too large or too exact to be written where they are used.

Triton is imported when it runs.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from rewardlab.errors import InputError
from rewardlab.kernels.advantages import generalized_advantages
from rewardlab.kernels.advantages import hindrances as of_advantages
from rewardlab.kernels.diffusion_dpo import diffusion_dpo_loss, squared_error
from rewardlab.kernels.diffusion_dpo import hindrances as of_squared_error
from rewardlab.kernels.dispatch import Backend, Explanation, explained
from rewardlab.kernels.linear_log_prob import LinearLogProb, linear_log_prob, linear_logits
from rewardlab.kernels.linear_log_prob import hindrances as of_log_prob
from rewardlab.kernels.policy_loss import hindrances as of_loss
from rewardlab.kernels.policy_loss import linear_loss
from rewardlab.kernels.resize import hindrances as of_resize
from rewardlab.kernels.resize import resize
from rewardlab.kernels.scan import discounted_sum
from rewardlab.kernels.scan import hindrances as of_scan

__all__ = [
    "Explanation",
    "LinearLogProb",
    "diffusion_dpo_loss",
    "discounted_sum",
    "explain",
    "generalized_advantages",
    "linear_log_prob",
    "linear_logits",
    "linear_loss",
    "resize",
    "squared_error",
]
_HINDRANCES: dict[Callable[..., Any], Callable[..., dict[str, str]]] = {
    diffusion_dpo_loss: of_squared_error,
    discounted_sum: of_scan,
    generalized_advantages: of_advantages,
    linear_log_prob: of_log_prob,
    linear_loss: of_loss,
    resize: of_resize,
    squared_error: of_squared_error,
}


def explain(
    op: Callable[..., Any], *arguments: Any, backend: Backend | None = None, **options: Any
) -> Explanation:
    """Return what `op(*arguments, backend=backend, **options)` would run.

    The explanation also says what keeps the other backends from running.

    Raises:
        InputError: if `op` is no kernel.

    Example:
        >>> import torch
        >>> explain(discounted_sum, torch.ones(2, 3), 0.9, backend="reference").backend
        'reference'
        >>> hidden, weight, targets = torch.ones(2, 3), torch.ones(5, 3), torch.tensor([0, 1])
        >>> print(explain(linear_log_prob, hidden, weight, targets))
        linear_log_prob: torch (the first that can run)
          triton: ...
          torch: can run
          reference: can run
    """
    if op not in _HINDRANCES:
        kernels = ", ".join(sorted(kernel.__name__ for kernel in _HINDRANCES))
        name = getattr(op, "__name__", op)
        raise InputError(f"explain takes one of the kernels {kernels}; got {name!r}.")
    hindrances = _HINDRANCES[op](*arguments, **options)
    return explained(op.__name__, hindrances, backend)
