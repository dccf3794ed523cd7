"""Log-probabilities of responses under a language model's head, and losses of them."""

from __future__ import annotations

from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import pad

from rewardlab.errors import InputError
from rewardlab.kernels import LinearLogProb, linear_log_prob, linear_logits, linear_loss
from rewardlab.networks.heads import softcap_of
from rewardlab.networks.precision import full_precision
from rewardlab.policies.base import At, StepLoss, Steps
from rewardlab.types import Trajectory


class StepTable(NamedTuple):
    """The steps of responses as N = B·T' rows, where T' is the length of the longest response.

    Attributes:
        states: [N, D], what each token is drawn from.
        targets: int64 [N], the tokens.
        mask: bool [N], false for padding.
        steps: T'.
        shape: B and T of the trajectory.
    """

    states: Tensor
    targets: Tensor
    mask: Tensor
    steps: int
    shape: torch.Size

    @classmethod
    def of(cls, states: Tensor, trajectory: Trajectory) -> StepTable:
        """Return the table of states [B, T', D] and the trajectory's tokens."""
        steps = states.shape[1]
        targets = trajectory.tensors["response"][:, :steps].flatten()
        mask = trajectory.mask[:, :steps].flatten()
        return cls(states.flatten(0, 1), targets, mask, steps, trajectory.mask.shape)

    def rows_of(self, table: Tensor) -> Tensor:
        """Return the entries [N] of a table [B, T] or [B, 1] at these steps."""
        return table.expand(self.shape)[:, : self.steps].flatten()

    def widened(self, values: Tensor) -> Tensor:
        """Return values [N] as a table [B, T], with 0 after the longest response."""
        table = values.view(-1, self.steps)
        return pad(table, (0, self.shape[1] - self.steps))

    def at(self, rows: Tensor) -> At:
        """Return the function that picks `rows` of a table [B, T] or [B, 1]."""
        return partial(self._pick, rows)

    def _pick(self, rows: Tensor, table: Tensor) -> Tensor:
        return self.rows_of(table)[rows]


class Head(NamedTuple):
    """A language model's head: logits are cap(states · weightᵀ + bias) / temperature.

    Attributes:
        weight: [V, D], in the precision of the network's arithmetic.
        bias: [V], if the head has one.
        temperature: divides the logits.
        softcap: final soft cap on the logits, if the model has one.
    """

    weight: Tensor
    bias: Tensor | None
    temperature: float
    softcap: float | None

    @classmethod
    def of(cls, network: Any, dtype: torch.dtype, temperature: float) -> Head:
        """Return a transformers model's head, in the precision `dtype`."""
        layer = network.get_output_embeddings()
        bias = getattr(layer, "bias", None)
        return cls(layer.weight.to(dtype), bias, temperature, softcap_of(network))

    def logits(self, states: Tensor) -> Tensor:
        """Return the logits [N, V] of states [N, D]."""
        return linear_logits(
            states.to(self.weight.dtype),
            self.weight,
            self.bias,
            temperature=self.temperature,
            softcap=self.softcap,
        )

    def log_probs(self, table: StepTable, *, entropy: bool) -> LinearLogProb:
        """Return each step's log-probability and, if asked for, entropy; [N] each, 0 in padding."""
        return linear_log_prob(
            table.states.to(self.weight.dtype),
            self.weight,
            table.targets,
            bias=self.bias,
            temperature=self.temperature,
            softcap=self.softcap,
            mask=table.mask,
            entropy=entropy,
        )


def new_value_head(network: Any) -> nn.Linear:
    """Return a critic on a language model's states, zero at first."""
    width = network.get_output_embeddings().weight.shape[1]
    value_head = nn.Linear(width, 1)
    nn.init.zeros_(value_head.weight)
    nn.init.zeros_(value_head.bias)
    return value_head


def critic_values(value_head: nn.Module | None, table: StepTable) -> Tensor:
    """Return the critic's values, float32 [N].

    Raises:
        InputError: if there is no value head.
    """
    if value_head is None:
        raise InputError(
            "This CausalLMPolicy has no value head, which GAE needs; make it with value_head=True."
        )
    with full_precision(table.states.device):
        values: Tensor = value_head(table.states.float())
    return values[:, 0]


def fused_loss(
    head: Head, table: StepTable, loss: StepLoss, groups: Tensor | None, *, entropy: bool
) -> Tensor:
    """Return the sum of a loss over chunks of the steps; the head's gradient is taken at once.

    See `kernels.linear_loss`. It takes the gradient by log-probability and entropy alone, so a loss
    of the critic's values needs `loss_with_critic`.

    Args:
        head: by which the steps are scored.
        table: the steps.
        loss: as in `Policy.apply_loss`.
        groups: int64 [B], rows that the loss needs together.
        entropy: whether the loss gets the entropy.
    """

    def chunk_loss(log_probs: Tensor, entropies: Tensor | None, rows: Tensor) -> Tensor:
        return loss(Steps(log_probs, entropies), table.at(rows))

    step_groups = None
    if groups is not None:
        groups = groups.to(table.states.device)
        step_groups = table.rows_of(groups[:, None])
    value, _ = linear_loss(
        table.states.to(head.weight.dtype),
        head.weight,
        table.targets,
        chunk_loss,
        bias=head.bias,
        temperature=head.temperature,
        softcap=head.softcap,
        mask=table.mask,
        entropy=entropy,
        groups=step_groups,
    )
    return value


def loss_with_critic(
    head: Head, table: StepTable, loss: StepLoss, values: Tensor, *, entropy: bool
) -> Tensor:
    """Return a loss of all steps at once, with the critic's values [N].

    Args:
        head: by which the steps are scored.
        table: the steps.
        loss: as in `Policy.apply_loss`.
        values: float32 [N].
        entropy: whether the loss gets the entropy.
    """
    scores = head.log_probs(table, entropy=entropy)
    rows = table.mask.nonzero()[:, 0]
    entropies = None
    if scores.entropy is not None:
        entropies = scores.entropy[rows]
    steps = Steps(scores.log_prob[rows], entropies, values[rows])
    return loss(steps, table.at(rows))
