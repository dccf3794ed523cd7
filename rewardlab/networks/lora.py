"""Low-rank adapters on any network, through peft."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from copy import deepcopy
from typing import Any

import torch
from torch import nn

from rewardlab.errors import InputError
from rewardlab.seeds import derive

# what transformers and diffusers keep of an adapter beside its layers, and would save again
REMEMBERED = ("peft_config", "_hf_peft_config_loaded")


def add(
    network: nn.Module,
    rank: int,
    layers: list[str] | str,
    dtype: torch.dtype | None,
    seed: int = 0,
) -> None:
    """Freeze `network` in `dtype` and add a trainable float32 low-rank adapter to `layers`.

    A dtype of None leaves the frozen weights as they are.

    LoRA, arXiv 2106.09685, with alpha = rank. The adapter starts as the identity; its random half
    comes from `seed`. Experts of a mixture, whose weights stand in one table, get one each. The
    output layer of torch's own attention gets none, since torch takes its weight and never runs it.

    Raises:
        InputError: if no layer of the network has such a name, or it has an adapter already.
    """
    if adapted_layers(network):
        raise InputError(
            f"{type(network).__name__} has an adapter already, and lora_rank={rank} asks for "
            "another. Merge the first into the model (peft's merge_and_unload), or train without "
            "lora_rank."
        )
    for parameter in network.parameters():
        parameter.requires_grad_(False)
        if dtype is not None:
            parameter.data = parameter.data.to(dtype)
    _inject(network, rank, layers, seed)
    _spare_attention(network)
    _run_parts(network)
    for parameter in network.parameters():
        if parameter.requires_grad:
            parameter.data = parameter.data.float()


def _inject(network: nn.Module, rank: int, layers: list[str] | str, seed: int) -> None:
    """Put an adapter on each of the layers, with weights drawn from `seed`."""
    from peft import LoraConfig, inject_adapter_in_model

    config = LoraConfig(
        r=rank,
        lora_alpha=rank,
        init_lora_weights="gaussian",
        target_modules=layers,
        target_parameters=expert_weights(network) or None,
    )
    with torch.random.fork_rng():
        torch.manual_seed(derive(seed, "lora"))
        try:
            inject_adapter_in_model(config, network)
        except ValueError as error:
            raise InputError(
                f"lora_rank={rank} needs layers called {layers}; "
                f"{type(network).__name__} has none. Train it whole: lora_rank=null."
            ) from error


def _spare_attention(network: nn.Module) -> None:
    """Take adapters off layers that are never run: the output layers of torch's attention."""
    for module in network.modules():
        if isinstance(module, nn.MultiheadAttention) and _is_adapted(module.out_proj):
            module.out_proj = _base_of(module.out_proj)
    if not adapted_layers(network):
        raise InputError(
            f"lora_rank needs a layer that is run; {type(network).__name__} has only the output "
            "layers of torch.nn.MultiheadAttention. Train it whole: lora_rank=null."
        )


def _run_parts(network: nn.Module) -> None:
    """Make torch's encoder layers run their adapters in evaluation mode, too.

    They would compute all of a layer in one call, by weights that the adapters are not in.
    """
    for module in network.modules():
        if isinstance(module, nn.TransformerEncoder):
            module.use_nested_tensor = False
        if isinstance(module, nn.TransformerEncoderLayer) and adapted_layers(module):
            module.activation_relu_or_gelu = 0  # an activation that the one call does not know


def _base_of(layer: Any) -> Any:
    return layer.get_base_layer()


def expert_weights(network: nn.Module) -> list[str]:
    """Return the names of the weights [E, D, D'] that hold a layer of all experts of a mixture.

    Example:
        >>> expert_weights(nn.Linear(2, 1))
        []
    """
    names = []
    for path, module in network.named_modules():
        if "Experts" in type(module).__name__:
            for name, weight in module.named_parameters(recurse=False):
                if weight.dim() == 3:
                    names.append(f"{path}.{name}")
    return names


def adapted_layers(network: nn.Module) -> dict[str, Any]:
    """Return the layers that have an adapter, by their names."""
    layers = {}
    for name, module in network.named_modules():
        if _is_adapted(module):
            layers[name] = module
    return layers


@contextmanager
def off(network: nn.Module) -> Iterator[None]:
    """Run `network` without its adapter inside the `with` block."""
    layers = adapted_layers(network).values()
    for layer in layers:
        layer.enable_adapters(enabled=False)
    try:
        yield
    finally:
        for layer in layers:
            layer.enable_adapters(enabled=True)


def merged(network: nn.Module, dtype: torch.dtype | None = None) -> Any:
    """Return a copy whose weights contain the adapter, or `network` itself if it has none.

    An adapter that is switched off is left out. Of an adapter on one of two tied embeddings the
    copy's are tied no longer.

    Args:
        network: with or without adapters of peft.
        dtype: precision of the copy, before the adapters are merged; by default the network's.

    Example:
        >>> layer = nn.Linear(2, 2)
        >>> merged(layer) is layer
        True
    """
    if not adapted_layers(network):
        return network
    copy = deepcopy(network)
    if dtype is not None:
        copy = copy.to(dtype)
    separate(copy)
    modules = dict(copy.named_modules())
    for name, module in modules.items():
        parent = modules.get(name.rpartition(".")[0])
        if _is_wrapped(module) and not _is_wrapped(parent):
            copy.set_submodule(name, _plain(module))
    for module in copy.modules():  # two denoisers in one remember theirs each
        for name in REMEMBERED:
            vars(module).pop(name, None)
    return copy


def separate(network: nn.Module) -> None:
    """Give layers that share a weight one of their own, where an adapter stands on one of them.

    Merged into a shared weight, such as tied embeddings, the adapter would change all of them.
    Layers that an adapter repeats share all of their weights; none is shared after that.

    Args:
        network: with an adapter. It is changed.
    """
    configs = getattr(network, "peft_config", {})
    repeats = any(getattr(config, "layer_replication", None) for config in configs.values())
    holders = defaultdict[nn.Parameter, list[str]](list)
    for name, weight in network.named_parameters(remove_duplicate=False):
        holders[weight].append(name)
    for weight, names in holders.items():
        if repeats or any(_is_changed(name) for name in names):
            for name in names[1:]:
                place, _, own_name = name.rpartition(".")
                own = nn.Parameter(weight.detach().clone(), weight.requires_grad)
                setattr(network.get_submodule(place), own_name, own)
    _tell_of_embeddings(network)


def _is_changed(name: str) -> bool:
    """Tell whether an adapter adds to a weight.

    An adapter of tokens replaces rows, the same ones in all layers that share the weight.
    """
    parts = name.split(".")
    return "base_layer" in parts and "token_adapter" not in parts


def _tell_of_embeddings(network: Any) -> None:
    """Write into a network's config that its embeddings are not tied, where they are not."""
    config = getattr(network, "config", None)
    if config is None or not hasattr(network, "get_output_embeddings"):
        return
    head = network.get_output_embeddings()
    if head is None or not getattr(config.get_text_config(), "tie_word_embeddings", False):
        return
    if _weight_of(head) is not _weight_of(network.get_input_embeddings()):
        config.tie_word_embeddings = False
        config.get_text_config().tie_word_embeddings = False


def _weight_of(layer: Any) -> Any:
    """Return the weight of a layer below its adapters."""
    while _is_wrapped(layer):
        if hasattr(layer, "get_base_layer"):
            layer = layer.get_base_layer()
        else:
            layer = getattr(layer, "token_adapter", layer.original_module)
    return layer.weight


def _plain(layer: Any) -> nn.Module:
    """Return the layer below an adapter, with the adapter merged into it unless it is off."""
    from peft.utils.other import ModulesToSaveWrapper

    is_on = not layer.disable_adapters
    if isinstance(layer, ModulesToSaveWrapper) and not is_on:
        original: nn.Module = layer.original_module
        return original
    if hasattr(layer, "unload_and_optionally_merge_module"):  # layers that hold several weights
        plain: nn.Module = layer.unload_and_optionally_merge_module(
            merge=is_on, safe_merge=False, adapter_names=None
        )
        return plain
    if is_on:
        layer.merge()
    plain = layer.get_base_layer()
    return plain


def _is_wrapped(module: Any) -> bool:
    """Tell whether peft put a layer of its own in a module's place."""
    from peft.utils.other import AuxiliaryTrainingWrapper

    return _is_adapted(module) or isinstance(module, AuxiliaryTrainingWrapper)


def _is_adapted(module: Any) -> bool:
    from peft.tuners.tuners_utils import BaseTunerLayer

    return isinstance(module, BaseTunerLayer)
