"""Policy: a distribution over step sequences, which can be sampled from and scored."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from copy import deepcopy
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from rewardlab.errors import InputError, check_abilities
from rewardlab.policies.abilities import ABILITIES, EARLIER, HasCritic, HasEntropy
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
RowLoss = Callable[[Tensor, Tensor], Tensor]


class RowLosses(NamedTuple):
    """What `Policy.apply_row_loss` returns.

    Attributes:
        loss: a scalar with a gradient.
        totals: float32 [B], each row's summed log-probability, without a gradient.
    """

    loss: Tensor
    totals: Tensor


class Generator(nn.Module, ABC):
    """Whatever turns prompts into finished outputs. It can be judged, filtered and attacked.

    An API or any callable is one (`CallableGenerator`). What else a generator can do it declares by
    deriving from abilities (`rewardlab.policies.abilities`).

    Attributes:
        micro_batch: the most rows that are drawn at once; None draws all together.
    """

    micro_batch: int | None = None

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        check_abilities(cls, ABILITIES, EARLIER)

    @abstractmethod
    def generate(self, prompts: Sequence[str], *, seeds: Tensor) -> Samples:
        """Return one output a prompt.

        Args:
            prompts: B strings.
            seeds: int64 [B], one a row; see `rewardlab.seeds`. Equal seeds give equal outputs.
        """

    def check_prompts(self, prompts: Sequence[str]) -> None:
        """Refuse prompts that cannot be used, such as those longer than a model's context.

        By default all can.

        Raises:
            InputError: naming the first that cannot.
        """


class Policy(Generator):
    """A generator seen as a sequence of random steps, with their log-probabilities.

    The steps are a language model's tokens, or a diffusion model's denoising steps. Four verbs
    serve every post-training loop. `seeds` is an int64 tensor [B], one a row; see
    `rewardlab.seeds`.

    Attributes:
        dimensions: the number by which log-probabilities were divided. 1 for text; C·H·W of a
            latent for images, whose log-probabilities are means over dimensions. Nats are
            `log_prob * dimensions`.
    """

    dimensions: int = 1

    @property
    def mean_log_prob(self) -> bool:
        """Tell whether log-probabilities are means over dimensions instead of nats."""
        return self.dimensions != 1

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
        mask = trajectory.mask
        entropies = critic = None
        if entropy:
            entropies = self._able(HasEntropy, "entropy").entropy(trajectory).where(mask, 0)
        if value:
            critic = self._able(HasCritic, "value").value(trajectory).where(mask, 0)
        steps = Steps(self.log_prob(trajectory).where(mask, 0), entropies, critic)
        return loss(steps, _same_table)

    def apply_row_loss(
        self, trajectory: Trajectory, loss: RowLoss, *, groups: Tensor | None = None
    ) -> RowLosses:
        """Return the sum of a loss of whole rows, with a gradient, and the rows' log-probabilities.

        The walk over steps is `apply_loss`'s; a loss of whole outputs or of pairs sees none of it.

        Args:
            trajectory: of B rows and T steps.
            loss: takes the summed log-probability of some rows, float32 [n], and their numbers,
                int64 [n] in rising order; returns a scalar, what these rows add. It has a gradient
                by its first argument alone.
            groups: int64 [B]; rows of one number come to `loss` together. By default each row
                stands alone.

        Example:
            >>> from rewardlab import DiffusionPolicy
            >>> from rewardlab.testing import tiny_diffusion
            >>> policy = DiffusionPolicy(tiny_diffusion(classes=0))
            >>> images = Samples(["", ""], torch.rand(2, 1, 8, 8))
            >>> trajectory = policy.encode(images, seeds=torch.tensor([0, 1]))
            >>> loss, totals = policy.apply_row_loss(trajectory, lambda totals, rows: -totals.mean())
            >>> loss.requires_grad, totals.shape
            (True, torch.Size([2]))
        """
        shape = trajectory.mask.shape
        device = trajectory.mask.device
        cells = torch.arange(trajectory.mask.numel(), device=device).view(shape)
        groups = torch.arange(shape[0]) if groups is None else groups
        groups = groups.to(device)
        totals = torch.zeros(shape[0], device=device)

        def step_loss(steps: Steps, at: At) -> Tensor:
            places = at(cells)
            sums = row_sums(steps.log_prob, places, shape)
            rows = rows_of_groups(groups, places // shape[1])
            totals[rows] = sums[rows].detach()
            return loss(sums[rows], rows)

        return RowLosses(self.apply_loss(trajectory, step_loss, groups=groups), totals)

    def _able(self, ability: type[Any], method: str) -> Any:
        """Return the policy as one with an ability that a loss asks for.

        Raises:
            InputError: if it does not have it.
        """
        if not isinstance(self, ability):
            raise InputError(
                f"The loss needs `{method}` of the policy; {type(self).__name__} has none. "
                f"Give a policy that derives from {ability.__name__}, or leave that term out."
            )
        return self

    @abstractmethod
    def save_pretrained(self, folder: str | Path) -> None:
        """Write the policy into `folder`, so that its class's `from_pretrained(folder)` gives it
        back.
        """

    @torch.no_grad()
    def generate(self, prompts: Sequence[str], *, seeds: Tensor) -> Samples:
        """Return one output a prompt and keep no steps.

        A leaf may use a sampler here that rollouts refuse.
        """
        return self.decode(self.sample(prompts, seeds=seeds))

    def reference(self) -> Policy:
        """Return the policy as it is now, frozen.

        A leaf with an adapter returns itself with the adapter off.
        """
        return frozen_copy(self)


def frozen_copy(policy: Policy) -> Policy:
    """Return a copy of `policy` that no optimiser will change."""
    return deepcopy(policy).eval().requires_grad_(False)


def row_sums(values: Tensor, cells: Tensor, shape: Sequence[int]) -> Tensor:
    """Return the sums [B] of values that stand at `cells` of a table [B, T]; 0 for an absent row.

    Each value has a cell of its own, so nothing is added in an order that changes.

    Args:
        values: float, of any shape.
        cells: int64 of the same shape, each value's place in the flattened table.
        shape: B and T.

    Example:
        >>> row_sums(torch.tensor([1.0, 2.0, 3.0]), torch.tensor([0, 1, 5]), (3, 2)).tolist()
        [3.0, 0.0, 3.0]
    """
    table = values.new_zeros(shape).flatten()
    table = table.index_put((cells.flatten(),), values.flatten())
    return table.view(*shape).sum(1)


def rows_of_groups(groups: Tensor, rows: Tensor) -> Tensor:
    """Return all rows, in rising order, of the groups that `rows` belong to.

    A row whose steps do not count still belongs to its group, so pairs stay aligned.

    Example:
        >>> rows_of_groups(torch.tensor([0, 1, 0, 1]), torch.tensor([3])).tolist()
        [1, 3]
    """
    present = torch.zeros(len(groups), dtype=torch.bool, device=groups.device)
    present[rows.flatten()] = True
    return torch.isin(groups, groups[present]).nonzero().flatten()


def _same_table(table: Tensor) -> Tensor:
    return table


class CallableGenerator(Generator):
    """Any function of prompts and seeds as a generator: an API, or a model of another library.

    Args:
        function: takes B prompts and int64 seeds [B]; returns B strings, or images [B, C, H, W]
            with floats in [0, 1].

    Example:
        >>> shout = CallableGenerator(lambda prompts, seeds: [text.upper() for text in prompts])
        >>> shout.generate(["hello"], seeds=torch.tensor([0])).outputs
        ['HELLO']
    """

    def __init__(self, function: Callable[[Sequence[str], Tensor], Tensor | Sequence[str]]) -> None:
        super().__init__()
        self.function = function

    @torch.no_grad()
    def generate(self, prompts: Sequence[str], *, seeds: Tensor) -> Samples:
        return Samples(list(prompts), self.function(prompts, seeds), {"seed": seeds})
