"""Language heads of transformers' models: what turns the last hidden states into logits."""

from __future__ import annotations

from typing import Any

import torch

from rewardlab.errors import InputError
from rewardlab.kernels import linear_logits


def softcap_of(network: Any) -> float | None:
    """Return the model's final soft cap on logits, or None."""
    softcap: float | None = getattr(
        network.config.get_text_config(), "final_logit_softcapping", None
    )
    return softcap


def check_head(network: Any, user: str) -> None:
    """Make sure that the model's logits are its head on its last hidden states.

    Some models scale them; their log-probabilities would be wrong.

    Args:
        network: of transformers.
        user: who needs the head, for messages.

    Raises:
        InputError: if they are not.
    """
    head = network.get_output_embeddings()
    if head is None or network.base_model is network:
        raise InputError(
            f"{type(network).__name__} has no output embeddings on a backbone. "
            "Is it a causal language model?"
        )
    device = next(network.parameters()).device
    token = torch.zeros(1, 1, dtype=torch.long, device=device)
    with torch.no_grad():
        expected = network(input_ids=token, use_cache=False).logits[:, -1].float()
        states = network.base_model(input_ids=token, use_cache=False).last_hidden_state
    bias = getattr(head, "bias", None)
    logits = linear_logits(states[:, -1], head.weight, bias, softcap=softcap_of(network))
    tolerance = 0.05 * expected.abs().max().item()
    same_shape = logits.shape == expected.shape
    if not same_shape or not torch.allclose(logits, expected, rtol=0.05, atol=tolerance):
        raise InputError(
            f"{user} cannot score {type(network).__name__}: it alters its logits after the head."
        )
