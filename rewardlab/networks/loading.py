"""Networks and tokenizers of transformers: how they are loaded, and what any of them is asked."""

from __future__ import annotations

import os
from contextlib import nullcontext
from inspect import signature
from typing import Any

import torch

from rewardlab.errors import InputError
from rewardlab.networks.silence import silent


def is_name(model: Any) -> bool:
    """Tell whether a model is named, by a folder or a hub id, and not given as an instance.

    Example:
        >>> is_name("runs/policy"), is_name(torch.nn.Linear(2, 1))
        (True, False)
    """
    return isinstance(model, str | os.PathLike)


def from_pretrained(kind: str, name: str, *, quiet: bool = True, **options: Any) -> Any:
    """Call `from_pretrained` of a class of transformers without touching global randomness.

    Args:
        kind: the class's name, such as "AutoTokenizer".
        name: a folder or a hub id.
        quiet: keep progress bars and reports back. A download is worth a bar.
        options: further arguments of the class's `from_pretrained`.

    Raises:
        InputError: if transformers cannot load it, whatever the reason.
    """
    import transformers

    try:
        with silent() if quiet else nullcontext(), torch.random.fork_rng():
            return getattr(transformers, kind).from_pretrained(name, **options)
    except Exception as error:  # a foreign file can make transformers raise anything
        raise InputError(
            f"transformers cannot load {name} ({kind}): {str(error)[:300]} … "
            "Is it the folder or hub id of a language model, whole and of one backbone?"
        ) from error


def load_network(
    kind: str, name: str, dtype: torch.dtype, *, quiet: bool = True, **options: Any
) -> Any:
    """Load a network of a class of transformers, with all of its weights.

    Args:
        kind: the class's name, such as "AutoModelForCausalLM".
        name: a folder or a hub id.
        dtype: precision of the weights.
        quiet: keep progress bars and reports back.
        options: further arguments of the class's `from_pretrained`.

    Raises:
        InputError: if it cannot be loaded, or the folder lacks some of the class's weights, which
            transformers would draw at random.
    """
    network, info = from_pretrained(
        kind, name, quiet=quiet, dtype=dtype, output_loading_info=True, **options
    )
    missing = sorted(info["missing_keys"])
    if missing:
        raise InputError(
            f"{name} lacks {len(missing)} weights of a {type(network).__name__}, such as "
            f"{missing[0]}. Are config.json and the weights of one model?"
        )
    return network


def load_tokenizer(
    tokenizer: Any | None, model: Any, owner: str, *, quiet: bool = True, **options: Any
) -> Any:
    """Return the tokenizer that is given or named; by default load the one beside the model.

    Args:
        tokenizer: an instance, a folder, a hub id, or None.
        model: the model that it is for, a name or an instance.
        owner: the class that asks, for the message.
        quiet: keep progress bars and reports back.
        options: further arguments of `AutoTokenizer.from_pretrained`.

    Raises:
        InputError: if it cannot be loaded, or the model is an instance, which has none beside it.
    """
    if tokenizer is not None and not is_name(tokenizer):
        return tokenizer
    if tokenizer is None and not is_name(model):
        raise InputError(
            f"{owner} got a {type(model).__name__} and no tokenizer. Give tokenizer= beside it."
        )
    return from_pretrained("AutoTokenizer", str(tokenizer or model), quiet=quiet, **options)


def checkpoint_activations(network: Any) -> None:
    """Let the backward pass compute each block's activations anew: time for memory."""
    older = network.gradient_checkpointing_enable  # its name in older transformers
    enable = getattr(network, "activation_checkpointing_enable", older)
    enable({"use_reentrant": False})


def takes_positions(network: Any) -> bool:
    """Tell whether a network's `forward` takes `position_ids`."""
    return "position_ids" in signature(network.forward).parameters
