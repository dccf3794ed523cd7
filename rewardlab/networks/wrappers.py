"""Names of weights as DDP, FSDP and torch.compile write them, with marks of their own."""

from __future__ import annotations

import logging
from collections.abc import Collection, Mapping
from typing import Any

WRAPPERS = ("_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module")
HOLDERS = ("module", "model", "_forward_module", "network", "policy")
DEPTH = 4  # wrappers inside wrappers

_log = logging.getLogger("rewardlab")


def plain_name(name: str) -> str:
    """Return a weight's name without the marks of wrappers, which no layer bears by itself.

    Example:
        >>> plain_name("module._orig_mod.layers.0._fsdp_wrapped_module.weight")
        'layers.0.weight'
    """
    parts = [part for part in name.split(".") if part not in WRAPPERS]
    while len(parts) > 1 and parts[0] == "module":
        parts = parts[1:]
    return ".".join(parts)


def without_wrappers(weights: Mapping[str, Any], owner: str) -> dict[str, Any]:
    """Return weights under their plain names; say so in the log where one had a mark.

    Args:
        weights: by their names in a file.
        owner: where they come from, for the log.
    """
    plain = {}
    for name, weight in weights.items():
        plain[plain_name(name)] = weight
    if plain.keys() != weights.keys():
        tell_of_wrapper(owner)
    return plain


def tell_of_wrapper(owner: str) -> None:
    """Log that a checkpoint's names were read without the marks of a wrapper."""
    _log.warning(
        "The weights of %s bear the marks of a wrapper (DDP, FSDP, torch.compile); they all fit "
        "without them, and are read so",
        owner,
    )


def key_mapping(names: Collection[str]) -> dict[str, str]:
    """Return the renaming, by patterns for transformers, that takes the marks off some names.

    It is empty if they have none in common. Whether the weights fit then is to be seen.

    Args:
        names: of weights that fit nowhere.

    Example:
        >>> key_mapping(["module.a", "module.b"])
        {'^module\\\\.': ''}
        >>> key_mapping(["module.a", "b"])
        {}
    """
    mapping = {}
    for holder in HOLDERS:
        if names and all(name.startswith(f"{holder}.") for name in names):
            mapping[rf"^{holder}\."] = ""
    for wrapper in WRAPPERS:
        if any(wrapper in name.split(".") for name in names):
            for depth in range(DEPTH):  # a pattern is applied once to a name
                mapping[rf"{wrapper}{{1,{depth + 1}}}\."] = ""
    return mapping
