"""Gradient regularization: steps that leave places alone where the gradient is large."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from fnmatch import fnmatch
from typing import Any

import torch
from torch import Tensor, nn

from rewardlab.errors import InputError
from rewardlab.networks.shards import whole
from rewardlab.networks.stand_ins import standing_in
from rewardlab.policies import Policy


@dataclass(frozen=True)
class GradientRegularization:
    """Add γ·H·g to the gradient g of each step, by a finite difference.

    arXiv 2602.18037. With g₁ the gradient of a minibatch's loss at θ and g₂ that of the same loss
    at θ + ε·g₁, the step takes g₁ + (γ/ε)·(g₂ - g₁). As (g₂ - g₁)/ε is the Hessian times g₁ up to
    order ε, that is the gradient of L + γ/2·‖∇L‖². γ = ε gives the gradient at θ + ε·g₁ (SAM's,
    without its normalization). Each step costs a second forward and backward pass, and no
    generation. The logged `gradient_change` is ‖g₂ - g₁‖/ε.

    Args:
        weight: γ. 0 is the plain step, to the last bit, without a second pass.
        epsilon: ε, how far along the gradient it is taken again.
        clip: largest norm of g₁ and of g₂, each before any use; None leaves them as they are.
        left_out: patterns of the names of weights that are not moved and keep g₁, such as
            embeddings and heads. An adapter has none of them.

    Raises:
        InputError: if a number is out of range, or (on use) the weights or the arithmetic are no
            float32, whose rounding the difference would drown in, or every weight is left out.

    Example:
        >>> weight = nn.Parameter(torch.tensor([1.0, 2.0]))
        >>> curvature = torch.tensor([1.0, 4.0])
        >>> def accumulate():
        ...     (0.5 * curvature * weight.square()).sum().backward()
        >>> accumulate()
        >>> regularize = GradientRegularization(weight=0.5, epsilon=2.0**-10, clip=None)
        >>> change = regularize({"weight": weight}, accumulate)
        >>> weight.grad.tolist(), round(change.item(), 2)  # g = (1, 8), H·g = (1, 32)
        ([1.5, 24.0], 32.02)
        >>> weight.tolist()
        [1.0, 2.0]
    """

    weight: float = 1e-3
    epsilon: float = 1e-3
    clip: float | None = 10.0
    left_out: tuple[str, ...] = ("*embed*", "*wte*", "*head*")

    def __post_init__(self) -> None:
        clip = 1.0 if self.clip is None else self.clip
        if self.weight < 0 or self.epsilon <= 0 or clip <= 0:
            raise InputError(
                "GradientRegularization needs a weight of 0 or more, and epsilon and clip above 0; "
                f"got weight={self.weight:g}, epsilon={self.epsilon:g} and clip={self.clip}."
            )

    def __call__(
        self, parameters: Mapping[str, nn.Parameter], accumulate: Callable[[], Any]
    ) -> Tensor:
        """Put the regularized gradient in the place of that which is there.

        Args:
            parameters: the trained weights with their names; each has its gradient g₁, or none.
            accumulate: adds the same loss's gradient, at the weights as they are, to what is there.

        Returns:
            ‖g₂ - g₁‖/ε over the weights that are moved, a scalar.
        """
        moved = self._moved(parameters)
        weights = [weight for weight in parameters.values() if weight.grad is not None]
        self._clip(weights)
        first = {weight: _taken(weight) for weight in weights}
        values = [weight.detach() + self.epsilon * first[weight] for weight in moved]
        with standing_in(moved, values):
            accumulate()
        self._clip(weights)
        changes = {weight: _taken(weight) - first[weight] for weight in weights}
        for weight in weights:
            weight.grad = first[weight]
        for weight in moved:
            weight.grad = first[weight] + changes[weight] * (self.weight / self.epsilon)
        norms = [whole(torch.linalg.vector_norm(changes[weight])) for weight in moved]
        length: Tensor = torch.linalg.vector_norm(torch.stack(norms))
        return length / self.epsilon

    def check_precision(self, policy: Policy, precision: str) -> None:
        """Refuse arithmetic whose rounding is as large as the difference of two gradients.

        Args:
            policy: the policy that is trained.
            precision: the trainer's, such as "32-true".

        Raises:
            InputError: naming what is not float32.
        """
        narrow = {torch.float16, torch.bfloat16}
        dtypes = {weight.dtype for weight in policy.parameters()}
        dtypes.add(getattr(policy, "dtype", torch.float32))
        if precision not in ("32-true", "64-true") or dtypes & narrow:
            names = sorted(str(dtype).removeprefix("torch.") for dtype in dtypes)
            raise InputError(
                "GradientRegularization takes the difference of two gradients that are "
                f"{self.epsilon:g} apart, which needs float32; the trainer's precision is "
                f"{precision!r} and the policy's {' and '.join(names)}. Give the trainer "
                '"32-true" and the policy float32, or leave the regularization out.'
            )

    def _moved(self, parameters: Mapping[str, nn.Parameter]) -> list[nn.Parameter]:
        """Return the weights with a gradient that no pattern leaves out."""
        weights = []
        for name, weight in parameters.items():
            is_left_out = any(fnmatch(name, pattern) for pattern in self.left_out)
            if weight.grad is not None and not is_left_out:
                weights.append(weight)
        if not weights:
            raise InputError(
                f"GradientRegularization leaves out {list(self.left_out)}, which are all of the "
                f"{len(parameters)} weights that have a gradient. Give other patterns as left_out."
            )
        return weights

    def _clip(self, weights: Iterable[nn.Parameter]) -> None:
        if self.clip is not None:
            nn.utils.clip_grad_norm_(weights, self.clip)


def _taken(weight: nn.Parameter) -> Tensor:
    """Return a weight's gradient, and leave it none."""
    gradient = weight.grad
    weight.grad = None
    return torch.zeros_like(weight) if gradient is None else gradient
