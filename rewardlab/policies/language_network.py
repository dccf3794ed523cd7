"""A causal language model from transformers: loading it, and checks that a policy can use it."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from rewardlab.errors import InputError
from rewardlab.networks import loading, lora
from rewardlab.networks.adapters import absorbed
from rewardlab.networks.heads import check_head
from rewardlab.networks.tokens import check_vocabulary, context_length, padded
from rewardlab.policies.backbone import Backbone, Inputs


def load_network(model: Any, dtype: torch.dtype) -> Any:
    """Return the causal language model of a folder or a hub id, or the instance, in `dtype`.

    Raises:
        InputError: if it cannot be loaded, or lacks weights.
    """
    if not loading.is_name(model):
        network = absorbed(model)
        loading.check_whole(network, f"The {type(model).__name__} that is given")
        return network.to(dtype)
    local = os.path.isdir(model)
    kind = loading.text_class(loading.config_of(str(model))) or "AutoModelForCausalLM"
    return loading.load_network(kind, str(model), dtype, quiet=local, local_files_only=local)


def load_tokenizer(tokenizer: Any | None, model: Any) -> Any:
    """Return the tokenizer (instance, folder or hub id), by default the model's own.

    Raises:
        InputError: if there is none.
    """
    source = model if tokenizer is None else tokenizer
    local = loading.is_name(source) and os.path.isdir(source)
    return loading.load_tokenizer(tokenizer, model, "CausalLMPolicy", local_files_only=local)


def linear_layers(network: Any) -> list[str]:
    """Return the names of the layers that adapters attach to: every linear one but the head."""
    from transformers.pytorch_utils import Conv1D

    head = network.get_output_embeddings()
    names = set()
    for path, module in network.named_modules():
        if isinstance(module, (nn.Linear, Conv1D)) and module is not head:
            names.add(path.rsplit(".", 1)[-1])
    return sorted(names)


def prepare(
    network: Any, lora_rank: int | None, dtype: torch.dtype, gradient_checkpointing: bool
) -> None:
    """Add an adapter and checkpointing of activations where asked for."""
    if lora_rank is not None:
        lora.add(network, lora_rank, linear_layers(network), dtype)
    if gradient_checkpointing:
        loading.checkpoint_activations(network)


def check_fits(tokenizer: Any, network: Any) -> None:
    """Make sure that the tokenizer is the model's, and that a policy can score the model.

    Raises:
        InputError: if not.
    """
    end = tokenizer.eos_token_id or 0
    check_vocabulary(tokenizer, network, needed=max(tokenizer.vocab_size, end + 1))
    with _refusing(network):
        check_head(network, "CausalLMPolicy")
        check_rows(network)


@contextmanager
def _refusing(network: Any) -> Iterator[None]:
    """Turn whatever a foreign network raises while it is tried into an `InputError`."""
    try:
        yield
    except InputError:
        raise
    except Exception as error:  # any architecture may come, and raise anything
        raise InputError(
            f"CausalLMPolicy cannot run {type(network).__name__}: a batch of short rows ended in "
            f"{type(error).__name__}: {str(error)[:200]}. Take a decoder with a cache of keys and "
            "values, such as Llama, Qwen or Gemma."
        ) from error


def check_rows(network: Any) -> None:
    """Make sure that a row of text is the same behind padding, and token by token.

    Recurrent models and decoders that count positions by themselves are not: what is drawn from
    them in a batch would not be what is scored.

    Raises:
        InputError: if they differ.
    """
    states = _last_states(network)
    cases = {"behind padding": states.behind_padding, "token by token": states.token_by_token}
    for case, state in cases.items():
        if not _is_close(state, states.alone):
            raise InputError(
                f"CausalLMPolicy cannot use {type(network).__name__}: it reads a text otherwise "
                f"{case} than alone, so what is drawn in a batch would not be what is scored. "
                "Is it the decoder of an encoder-decoder model, or recurrent?"
            )


class _LastStates(NamedTuple):
    """The state [D] behind the last token of one text, which a network reads in three ways."""

    alone: Tensor
    behind_padding: Tensor
    token_by_token: Tensor


def _last_states(network: Any) -> _LastStates:
    """Return what a network makes of a short text alone, and in a batch with a longer one.

    Raises:
        InputError: if it keeps no cache.
    """
    device = next(network.parameters()).device
    padding = 3
    length = max(min(12, (context_length(network) or 12) - padding), 1)
    longer = [1 + number % 5 for number in range(length + padding)]
    text = longer[:length]
    row = Inputs.of(padded([text], device=device))
    batch = Inputs.of(padded([text, longer], left=True, device=device))
    all_but_last = length + padding - 1
    backbone = Backbone(network, torch.float32, caches_tokens=False, packs=False)
    with torch.no_grad(), backbone.evaluating():
        alone = backbone.run(row).states[0, -1]
        behind_padding = backbone.run(batch).states[0, -1]
        cache = backbone.run(batch.first(all_but_last), keep=True).cache
        if cache is None:
            raise InputError(
                f"CausalLMPolicy cannot draw from {type(network).__name__}: it keeps no cache of "
                "keys and values, as recurrent models do not. Take a decoder with attention."
            )
        last = backbone.run(batch.after(all_but_last), cache, keep=True)
    return _LastStates(alone, behind_padding, last.states[0, -1])


def _is_close(states: Tensor, expected: Tensor) -> bool:
    """Tell whether two states are the same up to rounding; half precision may route otherwise."""
    tolerance = 1e-3 if expected.dtype == torch.float32 else 0.25
    difference = (states.float() - expected.float()).norm()
    return bool(difference <= tolerance * expected.float().norm())
