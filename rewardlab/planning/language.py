"""Plans of language models, as policies and as rewards: the real networks run on shapes alone."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode

from rewardlab.errors import InputError
from rewardlab.kernels.linear_log_prob import CUDA_BUDGET
from rewardlab.networks import loading, lora, shells
from rewardlab.networks.precision import arithmetic
from rewardlab.networks.stillness import still
from rewardlab.planning.live import peak_beside
from rewardlab.planning.memory_plan import MemoryPlan, Part, Stage
from rewardlab.planning.optimizers import gradient_size, state_size
from rewardlab.planning.parts import part_of
from rewardlab.planning.work import Work
from rewardlab.policies import language_network

Settings = Mapping[str, Any]
TILES = 2  # float32 tables of rows and vocabulary in the fused head's workspace


def policy_plan(
    settings: Settings,
    work: Work,
    others: list[Part] | None = None,
    budget: int = CUDA_BUDGET,
) -> MemoryPlan:
    """Return the plan of a loop that trains a `CausalLMPolicy`.

    Args:
        settings: the policy's arguments, `model` among them.
        work: what the loop does.
        others: networks beside the policy, such as the reward of PPO.
        budget: bytes in which the fused head works.

    Raises:
        InputError: if there is no config.json of the model.
    """
    network = _shell(settings, "AutoModelForCausalLM")
    rank = settings.get("lora_rank")
    dtype = getattr(torch, settings.get("dtype") or "float32")
    language_network.prepare(network, rank, dtype, bool(settings.get("gradient_checkpointing")))
    still(network, training=True)
    parts = [part_of("policy", network)]
    if work.has_reference and rank is None:
        parts.append(part_of("reference", network))
    stages = []
    if work.drawn:
        size = _cache_size(network.config, work.drawn, work.tokens, dtype)
        detail = f"keys and values of {work.drawn} x {work.tokens} tokens, modelled"
        stages.append(Stage("drawing", size, detail))
    stages += _training(network, dtype, work, budget)
    weights = list(network.parameters())
    return _plan("CausalLMPolicy", settings, work, [*parts, *(others or [])], stages, weights)


def reward_plan(settings: Settings, work: Work) -> MemoryPlan:
    """Return the plan of a loop that trains a `LanguageReward`.

    Args:
        settings: the reward's arguments, `model` among them.
        work: what the loop does.

    Raises:
        InputError: if there is no config.json of the model.
    """
    network = reward_network(settings)
    dtype = getattr(torch, settings.get("dtype") or "float32")
    parts = [part_of("reward", network)]
    stages = _training(network, dtype, work, None)
    return _plan("LanguageReward", settings, work, parts, stages, list(network.parameters()))


def reward_network(settings: Settings) -> Any:
    """Return the network of a `LanguageReward` without numbers."""
    network = _shell(settings, "AutoModel")
    dtype = getattr(torch, settings.get("dtype") or "float32")
    if settings.get("lora_rank") is not None:
        lora.add(network, settings["lora_rank"], "all-linear", dtype)
    if settings.get("frozen"):
        network.requires_grad_(False)
    if settings.get("gradient_checkpointing"):
        loading.checkpoint_activations(network)
    return network.train(not settings.get("frozen"))


def _shell(settings: Settings, kind: str) -> Any:
    """Return a transformers model without numbers, in the precision that it is loaded in."""
    import transformers

    model = settings["model"]
    folder = Path(str(model))
    if not (folder / "config.json").is_file():
        raise InputError(
            f"The plan reads configs alone, and {str(model)!r} is no folder with a config.json. "
            "Copy that file of the model; weights are not needed."
        )
    is_fixed = settings.get("lora_rank") is not None or settings.get("frozen")
    dtype = getattr(torch, settings.get("dtype") or "float32") if is_fixed else torch.float32
    config = transformers.AutoConfig.from_pretrained(str(folder), local_files_only=True)
    with shells.shells(dtype):
        network = getattr(transformers, kind).from_config(config, dtype=dtype)
    return network.eval()


def _training(network: Any, dtype: torch.dtype, work: Work, budget: int | None) -> list[Stage]:
    if not work.rows:
        return []
    fake_mode = FakeTensorMode(allow_non_fake_inputs=True)
    shells.as_fake(network, fake_mode)
    peak = peak_beside(network, fake_mode, lambda: _step(network, dtype, work, budget))
    return [Stage("training step", peak, f"{work.rows} x {work.tokens} tokens at once")]


def _step(network: Any, dtype: torch.dtype, work: Work, budget: int | None) -> None:
    """Run the network forward and backward, as a policy or (without a budget) a reward does."""
    tokens = torch.zeros(work.rows, work.tokens, dtype=torch.long)
    body = network.base_model
    if work.has_reference:
        with torch.no_grad():
            _states(body, tokens, dtype)
    states = _states(body, tokens, dtype)
    if budget is None:
        states[:, -1].float().sum().backward()  # type: ignore[no-untyped-call]
        return
    head = network.get_output_embeddings().weight
    # the fused head works in tiles of a budget, and keeps the gradients of states and weights
    tile = min(budget, TILES * states.shape[0] * states.shape[1] * len(head) * 4)
    torch.empty(tile, dtype=torch.uint8)
    kept = [torch.empty_like(states)]
    if head.requires_grad:
        kept.append(torch.empty_like(head))
    states.sum().backward()  # type: ignore[no-untyped-call]


def _states(body: nn.Module, tokens: Tensor, dtype: torch.dtype) -> Tensor:
    with arithmetic(tokens.device, dtype):
        states: Tensor = body(input_ids=tokens, use_cache=False).last_hidden_state
    return states


def _cache_size(config: Any, rows: int, tokens: int, dtype: torch.dtype) -> int:
    """Return the bytes of keys and values of all layers."""
    config = config.get_text_config()
    heads = getattr(config, "num_key_value_heads", None) or config.num_attention_heads
    width = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    numbers = 2 * config.num_hidden_layers * rows * tokens * heads * width
    return int(numbers) * dtype.itemsize


def _plan(
    kind: str,
    settings: Settings,
    work: Work,
    parts: list[Part],
    stages: list[Stage],
    weights: list[nn.Parameter],
) -> MemoryPlan:
    trains = work.rows > 0
    return MemoryPlan(
        title=f"{work.loop} of a {kind}, {work.tokens} tokens a row",
        parts=parts,
        gradients=gradient_size(weights) if trains else 0,
        optimizer=state_size(weights, work.optimizer, work.options) if trains else 0,
        stages=stages,
        changes=_changes(settings),
        notes=[
            f"Numbers of the network: the config of {settings['model']}.",
            "Every row has the largest number of tokens (--tokens). Prompts that rows share, and "
            "kernels' own workspaces, are left out.",
        ],
    )


def _changes(settings: Settings) -> list[str]:
    changes = []
    if settings.get("lora_rank") is None and not settings.get("frozen"):
        changes.append("lora_rank: 16, which trains an adapter beside frozen weights")
    if (settings.get("dtype") or "float32") == "float32":
        changes.append("dtype: bfloat16, for the frozen weights and all arithmetic")
    if not settings.get("gradient_checkpointing"):
        changes.append("gradient_checkpointing: true")
    changes.append("a smaller batch with accumulate_grad_batches, a smaller micro_batch")
    changes.append("shorter rows: max_length, max_new_tokens (and --tokens of the plan)")
    return changes
