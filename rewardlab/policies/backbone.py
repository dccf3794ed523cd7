"""Passes through a language model without its head; prompts that rows share are run once."""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from rewardlab.networks.loading import takes_positions
from rewardlab.networks.precision import arithmetic
from rewardlab.networks.sharing import saves_enough
from rewardlab.networks.stillness import recomputing_parts
from rewardlab.networks.tokens import Padded, positions_of
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
        recomputes: whether activations are recomputed in the backward pass; no cache is kept then.
    """

    network: Any
    dtype: torch.dtype
    caches_tokens: bool
    recomputes: bool

    @property
    def shares_prompts(self) -> bool:
        """Whether a pass with a gradient can run a prompt once for all rows that have it."""
        if not self.recomputes:
            return self.caches_tokens
        keeps_states = not any(part.training for part in recomputing_parts(self.network))
        return self.caches_tokens and keeps_states

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

        T' is the length of the longest response. A prompt that several rows have is run once,
        where that saves enough: its keys and values serve all of them.
        """
        inputs, width = _scored_inputs(trajectory)
        unique = distinct(trajectory.prompts)
        spared = (len(trajectory) - len(unique.values)) * width
        if not self.shares_prompts or not saves_enough(spared, inputs.tokens.numel()):
            return self.run(inputs).states[:, width - 1 :]
        last, cache = self.run_shared(inputs.first(width), unique)
        responses = inputs.after(width)
        if responses.tokens.shape[1] == 0:
            return last
        states = self.run(responses, cache, keep=True).states
        return torch.cat([last, states], 1)


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
