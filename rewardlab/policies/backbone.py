"""Passes through a language model without its head; rows that share prompts are run packed."""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from rewardlab.networks import packing
from rewardlab.networks.loading import takes_positions
from rewardlab.networks.precision import arithmetic
from rewardlab.networks.tokens import Padded, positions_of, unpadded
from rewardlab.types import Distinct, Trajectory, distinct


class Inputs(NamedTuple):
    """The inputs of a pass, of S tokens after P tokens that are in a cache.

    Attributes:
        tokens: int64 [B, S].
        mask: bool [B, P + S], false for padding.
        positions: int64 [B, S].
    """

    tokens: Tensor
    mask: Tensor
    positions: Tensor

    @classmethod
    def of(cls, table: Padded) -> Inputs:
        """Return the inputs of whole rows; positions count from each row's first token."""
        return cls(table.ids, table.mask, positions_of(table.mask))

    def rows(self, numbers: Sequence[int]) -> Inputs:
        """Return the inputs of some rows."""
        return Inputs(*[column[list(numbers)] for column in self])

    def first(self, width: int) -> Inputs:
        """Return the inputs of the first `width` tokens."""
        return Inputs(*[column[:, :width] for column in self])

    def after(self, width: int) -> Inputs:
        """Return the inputs of the tokens after those, which are in a cache."""
        return Inputs(self.tokens[:, width:], self.mask, self.positions[:, width:])

    def next(self, tokens: Tensor, is_open: Sequence[bool]) -> Inputs:
        """Return the inputs of one further token [B]; a row that is not open stays in place."""
        column = torch.tensor(is_open, device=self.mask.device)[:, None]
        mask = torch.cat([self.mask, column], 1)
        positions = self.positions[:, -1:] + column
        return Inputs(tokens[:, None], mask, positions)


class States(NamedTuple):
    """The result of a pass.

    Attributes:
        states: hidden states [B, S, D].
        cache: keys and values of all tokens so far, if they were to be kept.
    """

    states: Tensor
    cache: Any


@dataclass(frozen=True, eq=False)
class Backbone:
    """A causal language model without its head.

    Attributes:
        network: the whole model, of transformers.
        dtype: precision of the arithmetic.
        caches_tokens: whether the cache holds keys and values of every token, and nothing else.
        packs: whether rows can stand in one line; see `networks.packing`.
    """

    network: Any
    dtype: torch.dtype
    caches_tokens: bool
    packs: bool

    @contextmanager
    def evaluating(self) -> Iterator[None]:
        """Run the network in evaluation mode for a while; each part gets its own mode back."""
        parts = [part for part in self.network.modules() if part.training]
        self.network.eval()
        try:
            yield
        finally:
            for part in parts:
                part.training = True

    def run(self, inputs: Inputs, cache: Any = None, *, keep: bool = False) -> States:
        """Run tokens after those in the cache.

        Args:
            inputs: what to run.
            cache: keys and values of earlier tokens; it is changed.
            keep: whether to return a cache with these tokens too.
        """
        options: dict[str, Any] = {"use_cache": keep}
        if keep:
            options["past_key_values"] = cache
        if takes_positions(self.network.base_model):
            options["position_ids"] = inputs.positions
        with arithmetic(inputs.tokens.device, self.dtype):
            output = self.network.base_model(
                input_ids=inputs.tokens,
                attention_mask=inputs.mask.long(),
                **options,
            )
        return States(output.last_hidden_state, getattr(output, "past_key_values", None))

    def run_shared(self, prompts: Inputs, unique: Distinct[Any]) -> States:
        """Run each distinct prompt once; return every row's last state [B, 1, D] and cache.

        Args:
            prompts: inputs of B prompts, padded on the left.
            unique: the distinct ones among them.
        """
        states, cache = self.run(prompts.rows(unique.first_rows), keep=True)
        rows = torch.tensor(unique.places, device=states.device)
        cache.batch_select_indices(rows)
        return States(states[:, -1:][rows], cache)

    def run_prompts(self, prompts: Inputs, texts: Sequence[Hashable]) -> States:
        """Run prompts to draw from, each distinct text once where the cache allows it."""
        unique = distinct(texts)
        if self.caches_tokens and len(unique.values) < len(texts):
            return self.run_shared(prompts, unique)
        return self.run(prompts, keep=True)

    def response_states(self, trajectory: Trajectory) -> Tensor:
        """Return the states [B, T', D] that the tokens are drawn from.

        T' is the length of the longest response. Rows are packed, a prompt that several have once,
        where that costs less than running them whole.
        """
        inputs, width = _scored_inputs(trajectory)
        rows = _token_rows(inputs, width)
        hidden = self.network.config.get_text_config().hidden_size
        lines = packing.cheaper(rows.ids, rows.starts, hidden) if self.packs else None
        if lines is None or not all(rows.starts):
            return self.run(inputs).states[:, width - 1 :]
        table = packing.packed(rows.ids, rows.starts, lines, device=inputs.tokens.device)
        with arithmetic(inputs.tokens.device, self.dtype):
            states = packing.run_packed(self.network.base_model, table)
        return torch.cat([table.before_responses(states), table.responses(states)], 1)


class _Rows(NamedTuple):
    """Token ids of B rows, not padded, and where in each the response starts."""

    ids: list[list[int]]
    starts: list[int]


def _token_rows(inputs: Inputs, width: int) -> _Rows:
    """Return the tokens of each row without padding.

    Args:
        inputs: whole rows.
        width: columns of the prompts.
    """
    ids = unpadded(Padded(inputs.tokens, inputs.mask))
    starts: list[int] = inputs.mask[:, :width].sum(1).tolist()
    return _Rows(ids, starts)


def _scored_inputs(trajectory: Trajectory) -> tuple[Inputs, int]:
    """Return prompts and responses as one pass, and the width of the prompts in it.

    Columns of padding alone are left out, and so is each response's last token.
    """
    tensors = trajectory.tensors
    prompt_mask = tensors["prompt_mask"]
    response_mask = tensors["response_mask"]
    widths = torch.stack([prompt_mask.any(0).sum(), response_mask.any(0).sum()])
    width, steps = widths.tolist()  # the host waits for the device once
    padding = prompt_mask.shape[1] - width
    prompt = tensors["prompt"][:, padding:]
    response = tensors["response"][:, : steps - 1]
    tokens = torch.cat([prompt, response], 1)
    mask = torch.cat([prompt_mask[:, padding:], response_mask[:, : steps - 1]], 1)
    return Inputs.of(Padded(tokens, mask)), width
