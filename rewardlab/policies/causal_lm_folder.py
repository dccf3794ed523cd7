"""The folder of a CausalLMPolicy: a model that transformers loads, and the policy's settings."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from safetensors.torch import load_file, save_file

from rewardlab.networks import lora
from rewardlab.networks.silence import silent
from rewardlab.policies.saved import check_saved
from rewardlab.storage.atomic import write_json
from rewardlab.storage.class_files import POLICY_FILE, read_class_file

if TYPE_CHECKING:
    from rewardlab.policies.causal_lm import CausalLMPolicy

VALUE_HEAD = "value_head.safetensors"


def save(policy: CausalLMPolicy, folder: Path) -> None:
    """Write the model, its tokenizer, the value head and policy.json.

    An adapter is merged into the model. The folder is loaded, and has to score as the policy does.

    Raises:
        InputError: if it does not.
    """
    write_model(policy, folder)
    if policy.value_head is not None:
        save_file(policy.value_head.state_dict(), folder / VALUE_HEAD)
    settings = {
        "max_new_tokens": policy.max_new_tokens,
        "temperature": policy.temperature,
        "top_p": policy.top_p,
        "top_k": policy.top_k,
        "stop": policy.stop,
        "lora_rank": policy.lora_rank,
        "dtype": str(policy.dtype).removeprefix("torch."),
        "value_head": policy.value_head is not None,
        "chat": policy.texts.form.settings(),
        "max_length": policy.max_length,
    }
    config = {"class_path": "rewardlab.policies.CausalLMPolicy", "init_args": settings}
    write_json(folder / POLICY_FILE, config)
    check_saved(policy, folder)


def write_model(policy: CausalLMPolicy, folder: Path) -> None:
    """Write the model and its tokenizer as transformers loads them, with a merged adapter.

    Every process that calls this writes.
    """
    network = lora.merged(policy.network)
    with silent(), _written_by_all(network):
        network.save_pretrained(folder)
    policy.tokenizer.save_pretrained(folder)


@contextmanager
def _written_by_all(network: Any) -> Iterator[None]:
    """Let processes other than the first write too, where transformers 5 writes nothing."""
    network.should_save_on_this_rank = bool
    try:
        yield
    finally:
        del network.should_save_on_this_rank


def load_settings(folder: Path) -> dict[str, Any]:
    """Return the constructor's arguments that policy.json names."""
    settings: dict[str, Any] = read_class_file(folder / POLICY_FILE)["init_args"]
    return settings


def load_value_head(policy: CausalLMPolicy, folder: Path) -> None:
    """Give the policy's value head, if it has one, the weights of the folder."""
    if policy.value_head is not None:
        policy.value_head.load_state_dict(load_file(folder / VALUE_HEAD))
