"""Policy: a distribution over step sequences, which can be sampled from and scored."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from copy import deepcopy
from functools import wraps
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from rewardlab.conversations import Prompt
from rewardlab.errors import InputError, check_abilities
from rewardlab.policies.abilities import ABILITIES, EARLIER, HasCritic, HasEntropy
from rewardlab.seeds import check_row_seeds
from rewardlab.types import Samples, Trajectory


class Steps(NamedTuple):
    """The quantities of some steps that a loss may use, all of one shape.

    Attributes:
        log_prob: log-probability of each step.
        entropy: entropy of the distribution that the step was drawn from; None unless requested.
        value: the critic's value before the step; None unless requested.
    """

    log_prob: Tensor
    entropy: Tensor | None = None
    value: Tensor | None = None


At = Callable[[Tensor], Tensor]
StepLoss = Callable[[Steps, At], Tensor]
RowLoss = Callable[[Tensor, Tensor], Tensor]


class RowLosses(NamedTuple):
    """The result of `Policy.apply_row_loss`.

    Attributes:
        loss: scalar with a gradient.
        totals: float32 [B], each row's summed log-probability, without a gradient.
    """

    loss: Tensor
    totals: Tensor


def _with_seeds(generate: Callable[..., Samples]) -> Callable[..., Samples]:
    """Return a `generate` that refuses a call without a seed a row, in words."""

    @wraps(generate)
    def checked(
        self: Any, prompts: Sequence[Prompt], *, seeds: Any = None, **options: Any
    ) -> Samples:
        check_row_seeds(seeds, len(prompts))
        return generate(self, prompts, seeds=seeds, **options)

    return checked


class Generator(nn.Module, ABC):
    """Anything that turns prompts into finished outputs. It can be judged, filtered and attacked.

    An API or any callable is one (`CallableGenerator`). A generator declares what else it can do by
    deriving from abilities (`rewardlab.policies.abilities`).

    Attributes:
        micro_batch: largest number of rows that are drawn at once; None draws all together.
    """

    micro_batch: int | None = None

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        check_abilities(cls, ABILITIES, EARLIER)
        if "generate" in vars(cls):
            cls.generate = _with_seeds(cls.generate)  # type: ignore[method-assign]

    @abstractmethod
    def generate(self, prompts: Sequence[Prompt], *, seeds: Tensor) -> Samples:
        """Return one output per prompt.

        Args:
            prompts: B texts or conversations.
            seeds: int64 [B], one per row; see `rewardlab.seeds`. Equal seeds give equal outputs.

        Raises:
            InputError: if there are no such seeds.
        """

    def check_prompts(self, prompts: Sequence[Prompt]) -> None:
        """Refuse prompts that cannot be used, such as those longer than a model's context.

        By default every prompt can be used.

        Raises:
            InputError: if a prompt cannot be used; the message names the first.
        """


class Policy(Generator):
    """A generator seen as a sequence of random steps, with their log-probabilities.

    The steps are a language model's tokens, or a diffusion model's denoising steps. Four verbs
    (`sample`, `encode`, `decode`, `log_prob`) serve every post-training loop. `seeds` is an int64
    tensor [B], one per row; see `rewardlab.seeds`.

    Attributes:
        dimensions: number by which log-probabilities are divided. It is 1 where they are nats, as
            for text. For a diffusion model it is C·H·W of a latent (C·F·H·W of a video), as its
            log-probabilities are means over dimensions. Nats are `log_prob * dimensions`.
    """

    dimensions: int = 1

    @property
    def mean_log_prob(self) -> bool:
        """Tell whether log-probabilities are means over dimensions instead of nats."""
        return self.dimensions != 1

    def check_samples(self, samples: Samples) -> None:
        """Refuse samples that cannot be encoded, such as those longer than a model's context.

        By default every sample can be encoded.

        Raises:
            InputError: if one cannot; the message names the first.
        """

    @abstractmethod
    def sample(self, prompts: Sequence[Prompt], *, seeds: Tensor) -> Trajectory:
        """Draw a trajectory per prompt from exactly the distribution that `log_prob` scores."""

    @abstractmethod
    def encode(self, samples: Samples, *, seeds: Tensor) -> Trajectory:
        """Return a trajectory that ends in each output. Equal seeds draw equal noise."""

    @abstractmethod
    def decode(self, trajectory: Trajectory) -> Samples:
        """Return the outputs that trajectories end in, with their facts."""

    @abstractmethod
    def log_prob(self, trajectory: Trajectory) -> Tensor:
        """Return the log-probability of each step, float32 [B, T].

        It is exact up to a constant that does not depend on the parameters.
        """

    def prepared(self, trajectory: Trajectory) -> Trajectory:
        """Return the trajectory with what scoring it computes first, with its gradient.

        `log_prob` and `apply_loss` of what is returned then share one pass through the network. It
        holds until a weight changes, for this policy alone, and for one backward pass. A
        subclass that has nothing to prepare returns the trajectory as it is, which is the default.
        """
        return trajectory

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

        Training needs no other verb. A leaf may walk over the steps in parts, and take the gradient
        of each part at once.

        Args:
            trajectory: B rows of T steps.
            loss: function of the `Steps` of a part and of `at`, which picks the same steps of any
                table [B, T] or [B, 1]. It returns a scalar, the part's share of the sum. It may use
                only steps that the mask counts. Its gradient flows through `Steps` alone.
            rows: bool [B, T]; the loss is 0, whatever the policy says, where this is false. A leaf
                may leave those steps out.
            groups: int64 [B]; rows with one number come to `loss` together, as a loss of whole
                outputs or of pairs requires.
            entropy: whether `loss` gets the entropy.
            value: whether `loss` gets the critic's value.

        Raises:
            InputError: if the policy lacks the entropy or the critic that the loss asks for.

        Example:
            >>> from rewardlab import DiffusionPolicy
            >>> from rewardlab.testing import tiny_diffusion
            >>> policy = DiffusionPolicy(tiny_diffusion(classes=0))
            >>> images = Samples([""], torch.rand(1, 1, 8, 8))
            >>> trajectory = policy.encode(images, seeds=torch.tensor([0]))
            >>> weights = trajectory.mask / trajectory.mask.sum()
            >>> def nll(steps, at):
            ...     return -(at(weights) * steps.log_prob).sum()
            >>> policy.apply_loss(trajectory, nll).requires_grad
            True
        """
        mask = trajectory.mask
        entropies = self._required_entropy(trajectory).where(mask, 0) if entropy else None
        values = self._required_value(trajectory).where(mask, 0) if value else None
        log_probs = self.log_prob(trajectory).where(mask, 0)
        return loss(Steps(log_probs, entropies, values), _same_table)

    def apply_row_loss(
        self, trajectory: Trajectory, loss: RowLoss, *, groups: Tensor | None = None
    ) -> RowLosses:
        """Return the sum of a loss of whole rows, with a gradient, and the rows' log-probabilities.

        `apply_loss` walks over the steps; a loss of whole outputs or of pairs sees none of them.

        Args:
            trajectory: B rows of T steps.
            loss: function of the summed log-probability of some rows, float32 [n], and of their
                numbers, int64 [n] in rising order. It returns a scalar, the rows' share of the sum.
                Its gradient flows through its first argument alone.
            groups: int64 [B]; rows with one number come to `loss` together. By default each row
                is its own group.

        Example:
            >>> from rewardlab import DiffusionPolicy
            >>> from rewardlab.testing import tiny_diffusion
            >>> policy = DiffusionPolicy(tiny_diffusion(classes=0))
            >>> images = Samples(["", ""], torch.rand(2, 1, 8, 8))
            >>> trajectory = policy.encode(images, seeds=torch.tensor([0, 1]))
            >>> def nll(totals, rows):
            ...     return -totals.sum() / 2
            >>> loss, totals = policy.apply_row_loss(trajectory, nll)
            >>> loss.requires_grad, totals.shape
            (True, torch.Size([2]))
        """
        shape = trajectory.mask.shape
        device = trajectory.mask.device
        cells = torch.arange(trajectory.mask.numel(), device=device).view(shape)
        if groups is None:
            groups = torch.arange(shape[0])
        groups = groups.to(device)
        totals = torch.zeros(shape[0], device=device)

        def step_loss(steps: Steps, at: At) -> Tensor:
            part_cells = at(cells)
            sums = row_sums(steps.log_prob, part_cells, shape)
            rows = rows_of_groups(groups, part_cells // shape[1])
            totals[rows] = sums[rows].detach()
            return loss(sums[rows], rows)

        return RowLosses(self.apply_loss(trajectory, step_loss, groups=groups), totals)

    def _required_entropy(self, trajectory: Trajectory) -> Tensor:
        if not isinstance(self, HasEntropy):
            raise self._lacks("entropy", HasEntropy)
        return self.entropy(trajectory)

    def _required_value(self, trajectory: Trajectory) -> Tensor:
        if not isinstance(self, HasCritic):
            raise self._lacks("value", HasCritic)
        return self.value(trajectory)

    def _lacks(self, method: str, ability: type) -> InputError:
        return InputError(
            f"The loss needs `{method}` of the policy; {type(self).__name__} has none. "
            f"Give a policy that derives from {ability.__name__}, or leave that term out."
        )

    @abstractmethod
    def save_pretrained(self, folder: str | Path) -> None:
        """Write the policy into `folder`; its class's `from_pretrained(folder)` loads it again."""

    @torch.no_grad()
    def generate(self, prompts: Sequence[Prompt], *, seeds: Tensor) -> Samples:
        """Return one output per prompt and keep no steps.

        A leaf may use a sampler here that rollouts refuse.
        """
        return self.decode(self.sample(prompts, seeds=seeds))

    def reference(self) -> Policy:
        """Return the policy as it is now, frozen.

        A leaf with an adapter returns a view of itself with the adapter off.
        """
        return frozen_copy(self)


def frozen_copy(policy: Policy) -> Policy:
    """Return a copy of `policy` that no optimizer will change."""
    return deepcopy(policy).eval().requires_grad_(False)


def outer_seeds(samples: Samples, seeds: Tensor) -> Samples:
    """Return a wrapper's samples with its own seeds; those of the policy inside stay beside them.

    Example:
        >>> inner = Samples(["a"], ["b"], {"seed": torch.tensor([7])})
        >>> facts = outer_seeds(inner, torch.tensor([1])).facts
        >>> facts["seed"].item(), facts["inner_seed"].item()
        (1, 7)
    """
    if "seed" in samples.facts:
        inner = samples.facts.get("inner_seed", samples.facts["seed"])
        samples = samples.with_facts(inner_seed=inner)
    return samples.with_facts(seed=seeds)


def row_sums(values: Tensor, cells: Tensor, shape: Sequence[int]) -> Tensor:
    """Return the row sums [B] of a table [B, T] with values at `cells` and 0 elsewhere.

    Each value has its own cell, so the order of a sum never changes.

    Args:
        values: float tensor of any shape.
        cells: int64 of the same shape, each value's index in the flattened table.
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

    A row whose steps are all masked still belongs to its group, so pairs stay aligned.

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
    """A function of prompts and seeds as a generator: an API, or a model of another library.

    Args:
        function: maps B prompts and int64 seeds [B] to B strings, or to images [B, C, H, W] or
            videos [B, F, C, H, W] with floats in [0, 1].

    Example:
        >>> def shout(prompts, seeds):
        ...     return [prompt.upper() for prompt in prompts]
        >>> CallableGenerator(shout).generate(["hello"], seeds=torch.tensor([0])).outputs
        ['HELLO']
    """

    def __init__(self, function: Callable[[list[Any], Tensor], Tensor | Sequence[str]]) -> None:
        super().__init__()
        self.function = function

    @torch.no_grad()
    def generate(self, prompts: Sequence[Prompt], *, seeds: Tensor) -> Samples:
        return Samples(list(prompts), self.function(list(prompts), seeds), {"seed": seeds})
