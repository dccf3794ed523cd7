"""Which networks run packed rows: whose tokens see what mask and position say, and no more."""

from __future__ import annotations

from typing import Any

from rewardlab.networks.loading import takes_positions

ATTENTIONS = ("sdpa", "eager")  # those of transformers that take a mask of any form
TWO_DIMENSIONS = ("openai-gpt",)  # architectures that take a mask of padding alone


def packs(network: Any) -> bool:
    """Tell whether a network of transformers gives a packed token what it gives it alone.

    Args:
        network: without its head.
    """
    return not hindrance(network)


def hindrance(network: Any) -> str:
    """Return why rows of a network of transformers are not packed, or "" if they are.

    Every layer has to attend to all that came before, without a window or a recurrent state, and to
    take positions and a mask of any form.

    Args:
        network: without its head.

    Example:
        >>> from rewardlab.testing.tiny_text import tiny_causal_lm
        >>> hindrance(tiny_causal_lm().base_model)
        ''
    """
    if not takes_positions(network):
        return "it counts positions by itself"
    if not keeps_only_keys_and_values(network):
        return "its layers keep a window, a recurrent state or no cache"
    attention = getattr(network.config, "_attn_implementation", None)
    if attention not in ATTENTIONS:
        return f"its attention, {attention}, takes no mask of any form; sdpa and eager do"
    if network.config.model_type in TWO_DIMENSIONS:
        return "its attention takes a mask of padding alone"
    return _own_sight(network)


def _own_sight(network: Any) -> str:
    """Return why what a token sees depends on where in the table it stands, mask or not; or "".

    So it is in GPT-Neo, whose local layers cut a window of columns; in Falcon with ALiBi; in
    encoders; and in RoBERTa and its kind.
    """
    config = network.config
    if "local" in (getattr(config, "attention_layers", None) or ()):
        return "its local layers see a window of columns"
    if getattr(config, "alibi", False):
        return "its distances (ALiBi) are those of columns"
    for name, part in network.named_modules():
        if getattr(part, "is_causal", True) is False:
            return "its tokens see those behind them"
        is_of_positions = name.endswith("position_embeddings")
        if is_of_positions and getattr(part, "padding_idx", None) is not None:
            return "it counts positions from behind the padding token's number"
    return ""


def keeps_only_keys_and_values(network: Any) -> bool:
    """Return whether a network's cache holds only the keys and values of every token.

    Then it has no window and no recurrent state.
    """
    from transformers.cache_utils import DynamicCache, DynamicLayer

    try:
        layers = DynamicCache(config=network.config).layers
    except (AttributeError, KeyError, TypeError, ValueError):  # a config that says too little
        return False
    return bool(layers) and all(type(layer) is DynamicLayer for layer in layers)
