"""A reward of texts as a folder of transformers, with the code that its class needs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from rewardlab.errors import InputError, reason_of
from rewardlab.exporting.code_folder import OUTPUT, columns_of, copy_code, name_classes
from rewardlab.exporting.combination import Outputs
from rewardlab.exporting.comparison import (
    Comparison,
    coarsest,
    compared,
    expected_outputs,
)
from rewardlab.exporting.pooled_scorer import NetworkPart, PooledForm, pooled_form
from rewardlab.exporting.recipes import as_conversations
from rewardlab.exporting.remote.configuration_text_reward import TextRewardConfig
from rewardlab.exporting.remote.modeling_text_reward import TextRewardModel
from rewardlab.networks.silence import silent
from rewardlab.rewards import Reward

CONFIGURATION = "configuration_text_reward"
MODELING = "modeling_text_reward"
TABLES = "tables_text_reward"
UNSET = ("dtype", "torch_dtype", "_name_or_path")  # of a network's config: the folder's own count


def write_pooled(
    folder: Path, outputs: Outputs, reward: Reward, dtype: torch.dtype
) -> tuple[PooledForm, Comparison]:
    """Write a reward of texts into an empty folder, load it with transformers, and compare.

    Args:
        folder: empty.
        outputs: of the reward.
        reward: the original.
        dtype: of the weights.

    Raises:
        InputError: if it has no such form, or what was written scores otherwise.
    """
    form = pooled_form(outputs)
    model = pooled_model(form).to(dtype)
    with silent():
        model.save_pretrained(folder)
        form.recipe.tokenizer.save_pretrained(folder)
    name_classes(
        folder,
        {
            "AutoConfig": f"{CONFIGURATION}.TextRewardConfig",
            "AutoModel": f"{MODELING}.TextRewardModel",
            "AutoModelForSequenceClassification": f"{MODELING}.TextRewardModel",
        },
    )
    copy_code(folder, CONFIGURATION, MODELING, OUTPUT, TABLES)
    expected = expected_outputs(reward, form.samples, len(form.constants))
    name = coarsest(str(dtype).removeprefix("torch."), reward)
    written = compared(_outputs_of_folder(folder, form), expected, name, "The exported model")
    return form, written


@torch.no_grad()
def pooled_model(form: PooledForm) -> Any:
    """Return the model that a folder holds, in float32.

    Raises:
        InputError: if transformers cannot build a network from its config alone.
    """
    networks = [_description(part) for part in form.parts]
    config = TextRewardConfig(networks=networks, outputs=len(form.constants))
    try:
        with torch.random.fork_rng(devices=[]), silent():
            model: Any = TextRewardModel(config)
    except Exception as error:  # the code of a foreign network can raise anything
        raise InputError(
            f"transformers cannot build a {type(form.parts[0].network).__name__} from its config "
            f"alone: {reason_of(error)}. Let `rewardlab export --to openrlhf` write a function, "
            "which loads the reward itself."
        ) from error
    for number, part in enumerate(form.parts):
        model.networks[number].load_state_dict(_state(part.network), strict=False)
        model.heads[number].weight.copy_(part.weight)
    model.constants.copy_(form.constants)
    return model.eval()


def _description(part: NetworkPart) -> dict[str, Any]:
    """Return what a network is built from and how its states are pooled."""
    config = part.network.config.to_dict()
    settings = {name: value for name, value in config.items() if name not in UNSET}
    return {
        "config": settings,
        "width": part.weight.shape[1],
        "pooling": part.reader.pooling,
        "pad": part.reader.pad,
    }


def _state(network: nn.Module) -> dict[str, Tensor]:
    """Return a network's weights and all of its buffers, those too that it does not save."""
    return {**dict(network.named_buffers()), **network.state_dict()}


@torch.no_grad()
def _outputs_of_folder(folder: Path, form: PooledForm) -> Tensor:
    """Return what transformers' classes give with the folder's code, [B, O]."""
    with silent():
        model: Any = TextRewardModel.from_pretrained(folder)
        tokenizer = type(form.recipe.tokenizer).from_pretrained(folder)
    output = model.eval()(**model.tables(tokenizer, as_conversations(form.samples)))
    return columns_of(output)
