"""Policy: a distribution over step sequences, which can be sampled from and scored."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from copy import deepcopy
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor, nn

from rewardlab.errors import InputError
from rewardlab.types import Samples, Trajectory


class Steps(NamedTuple):
    """What a loss is given of some steps, in one shape.

    Attributes:
        log_prob: of each step.
        entropy: of the distribution that it was drawn from, where it was asked for.
        value: the critic's, before it, where it was asked for.
    """

    log_prob: Tensor
    entropy: Tensor | None = None
    value: Tensor | None = None


At = Callable[[Tensor], Tensor]
StepLoss = Callable[[Steps, At], Tensor]


class Policy(nn.Module, ABC):
    """A generator seen as a sequence of random steps: a language model's tokens, a diffusion
    model's denoising steps.

    Four verbs serve every post-training loop. `seeds` is an int64 tensor [B], one a row; see
    `rewardlab.seeds`.

    Attributes:
        dimensions: by how much a log-probability was divided. 1 for text; C·H·W of a latent for
            images, whose log-probabilities are means over dimensions. Nats are `log_prob *
            dimensions`.
    """

    dimensions: int = 1

    @abstractmethod
    def sample(self, prompts: Sequence[str], *, seeds: Tensor) -> Trajectory:
        """Take a trajectory for each prompt, from exactly the distribution that `log_prob` scores."""

    @abstractmethod
    def encode(self, samples: Samples, *, seeds: Tensor) -> Trajectory:
        """Find a trajectory that ends in each given output. Equal seeds draw equal noise."""

    @abstractmethod
    def decode(self, trajectory: Trajectory) -> Samples:
        """Return the outputs that trajectories end in, with their facts."""

    @abstractmethod
    def log_prob(self, trajectory: Trajectory) -> Tensor:
        """Return the log-probability of each step, float32 [B, T], up to a constant free of the
        parameters.
        """

    def apply_loss(
        self,
        trajectory: Trajectory,
        loss: StepLoss,
        *,
        rows: Tensor | None = None,
        groups: Tensor | None = None,
        entropy: bool = False,
        value: bool = False,
    ) -> Tensor:
        """Return the sum of a loss over the steps of a trajectory, a scalar with a gradient.

        The one verb that training needs. A leaf may walk over the steps in parts, and take a part's
        gradient while it stands.

        Args:
            trajectory: of B rows and T steps.
            loss: takes the `Steps` of a part and `at`, which picks the same steps of any table [B,
                T] or [B, 1]; returns a scalar, what this part adds. It may use only steps that the
                mask counts, and has a gradient by `Steps` alone.
            rows: bool [B, T]; the loss is 0, whatever the policy says, where this is false. A leaf
                may leave those steps out.
            groups: int64 [B]; rows of one number are given to `loss` together, as a loss of whole
                outputs or of pairs asks for.
            entropy: whether `loss` is given the entropy.
            value: whether it is given the critic's value.

        Example:
            >>> from rewardlab import DiffusionPolicy
            >>> from rewardlab.testing import tiny_diffusion
            >>> policy = DiffusionPolicy(tiny_diffusion(classes=0))
            >>> trajectory = policy.encode(Samples([""], torch.rand(1, 1, 8, 8)), seeds=torch.tensor([0]))
            >>> weights = trajectory.mask / trajectory.mask.sum()
            >>> policy.apply_loss(trajectory, lambda steps, at: -(at(weights) * steps.log_prob).sum()).requires_grad
            True
        """
        verbs = [
            verb
            for verb, wanted in (("entropy", entropy), ("value", value))
            if wanted and not hasattr(self, verb)
        ]
        if verbs:
            raise InputError(
                f"The loss needs `{verbs[0]}` of the policy; {type(self).__name__} has none."
            )
        mask = trajectory.mask
        spread = self.entropy(trajectory).where(mask, 0) if entropy else None  # type: ignore[operator]
        critic = self.value(trajectory).where(mask, 0) if value else None  # type: ignore[operator]
        return loss(
            Steps(self.log_prob(trajectory).where(mask, 0), spread, critic), lambda table: table
        )

    @abstractmethod
    def save_pretrained(self, folder: str | Path) -> None:
        """Write the policy into `folder`, so that its class's `from_pretrained(folder)` gives it
        back.
        """

    @torch.no_grad()
    def generate(self, prompts: Sequence[str], *, seeds: Tensor) -> Samples:
        """Return one output a prompt and keep no steps. A leaf may use a sampler here that rollouts
        refuse.
        """
        return self.decode(self.sample(prompts, seeds=seeds))

    def reference(self) -> Policy:
        """Return the policy as it is now, frozen. A leaf with an adapter returns itself with the
        adapter off.
        """
        return frozen_copy(self)


def frozen_copy(policy: Policy) -> Policy:
    """Return a copy of `policy` that no optimiser will change."""
    return deepcopy(policy).eval().requires_grad_(False)
