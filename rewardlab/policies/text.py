"""What a causal language model needs besides its network: where it comes from, and its tokens."""

from __future__ import annotations

import os
from collections.abc import Sequence
from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor, nn

from rewardlab.errors import InputError
from rewardlab.kernels import linear_logits
from rewardlab.networks.silence import silent


def load_network(source: Any, dtype: torch.dtype) -> Any:
    """Return the causal language model in a folder, of a hub id, or the given instance itself, its
    weights in `dtype`.
    """
    if not isinstance(source, (str, os.PathLike)):
        return source.to(dtype)
    from transformers import AutoModelForCausalLM

    local = os.path.isdir(source)
    try:
        with silent() if local else nullcontext():  # a download is worth a bar
            return AutoModelForCausalLM.from_pretrained(
                str(source), dtype=dtype, local_files_only=local
            )
    except (OSError, ValueError, KeyError) as error:
        kind = (
            "holds no causal language model (is config.json there?)"
            if local
            else "is no folder, nor a hub id in reach"
        )
        raise InputError(
            f"CausalLMPolicy cannot load {str(source)!r}: it {kind}. {_first_line(error)}"
        ) from error


def load_tokenizer(source: Any, model: Any) -> Any:
    """Return the tokenizer `source` (an instance, folder or hub id), by default the one beside the
    model.
    """
    if source is not None and not isinstance(source, (str, os.PathLike)):
        return source
    place = source if source is not None else model
    if not isinstance(place, (str, os.PathLike)):
        raise InputError(
            f"CausalLMPolicy was given a {type(model).__name__} instance without a tokenizer; give `tokenizer` too."
        )
    from transformers import AutoTokenizer

    try:
        return AutoTokenizer.from_pretrained(str(place), local_files_only=os.path.isdir(place))
    except (OSError, ValueError, KeyError) as error:
        raise InputError(
            f"No tokenizer can be loaded from {str(place)!r}: {_first_line(error)} Give `tokenizer`."
        ) from error


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]


def ends(network: Any, tokenizer: Any) -> list[int]:
    """Return the tokens that end a response, the one that marks an encoded response's end first.

    That is the tokenizer's end token, and those that the model's generation settings list beside
    it.

    Raises:
        InputError: if neither names any.
    """
    settings = getattr(network, "generation_config", None)
    listed = getattr(settings, "eos_token_id", None) or []
    listed = [listed] if isinstance(listed, int) else list(listed)
    own = tokenizer.eos_token_id
    if own is None and not listed:
        raise InputError(
            "The tokenizer has no end token and the model names none; set tokenizer.eos_token."
        )
    first = listed[0] if own is None else own
    return [first, *(token for token in listed if token != first)] if first in listed else [first]


def context_length(network: Any) -> int | None:
    """Return how many positions the model has, or None if it does not say."""
    return getattr(network.config.get_text_config(), "max_position_embeddings", None)


def without_dropout(network: nn.Module) -> None:
    """Turn dropout off for good, so that what is scored in training mode is what was sampled."""
    for module in network.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
        if isinstance(getattr(module, "attention_dropout", None), float):
            module.attention_dropout = 0.0


def checkpoint_activations(network: Any) -> None:
    """Let the backward pass compute each block's activations anew. Older transformers know it by
    its older name only.
    """
    enable = getattr(
        network, "activation_checkpointing_enable", network.gradient_checkpointing_enable
    )
    enable({"use_reentrant": False})


def linear_layers(network: Any) -> list[str]:
    """Return the names of the layers that adapters attach to: every linear one but the head."""
    from transformers.pytorch_utils import Conv1D

    kinds = (nn.Linear, Conv1D)
    head = network.get_output_embeddings()
    names = {
        name.rsplit(".", 1)[-1]
        for name, module in network.named_modules()
        if isinstance(module, kinds) and module is not head
    }
    return sorted(names)


def check_vocabulary(tokenizer: Any, network: Any) -> None:
    """Make sure that the model knows the tokenizer's tokens.

    Raises:
        InputError: if it knows fewer.
    """
    known = len(network.get_input_embeddings().weight)
    if max(tokenizer.vocab_size, (tokenizer.eos_token_id or 0) + 1) > known:
        raise InputError(
            f"The tokenizer has {len(tokenizer)} tokens, the model knows {known}. Do they belong together?"
        )


def check_head(network: Any, softcap: float | None) -> None:
    """Make sure that the model's logits are its head on its last hidden states; some models scale
    them.

    Raises:
        InputError: if they are not, since the log-probabilities would not be the model's.
    """
    head = network.get_output_embeddings()
    device = next(network.parameters()).device
    if head is None or network.base_model is network:
        raise InputError(
            f"{type(network).__name__} has no output embeddings on a backbone. Is it a causal language model?"
        )
    token = torch.zeros(1, 1, dtype=torch.long, device=device)
    with torch.no_grad():
        expected = network(input_ids=token, use_cache=False).logits[:, -1].float()
        hidden = network.base_model(input_ids=token, use_cache=False).last_hidden_state[:, -1]
    found = linear_logits(hidden, head.weight, getattr(head, "bias", None), softcap=softcap)
    if found.shape != expected.shape or not torch.allclose(
        found, expected, rtol=0.05, atol=0.05 * expected.abs().max().item()
    ):
        raise InputError(
            f"CausalLMPolicy cannot score {type(network).__name__}: it alters its logits after the head."
        )


def check_fit(
    prompts: Sequence[Sequence[int]],
    responses: Sequence[Sequence[int]],
    texts: Sequence[str],
    context: int | None,
) -> None:
    """Make sure that each prompt and its response fit the context together; `texts` are named in
    the error.

    Raises:
        InputError: if a row does not.
    """
    for row, (prompt, response, words) in enumerate(zip(prompts, responses, texts, strict=True)):
        if context is not None and len(prompt) + len(response) > context:
            start = repr(words[:40]) + (" …" if len(words) > 40 else "")
            raise InputError(
                f"Row {row}, {start}, has {len(prompt)} tokens of prompt and needs {len(response)} for its response; the "
                f"model's context is {context}. Shorten or drop it."
            )


def prompt_tokens(tokenizer: Any, prompt: str) -> list[int]:
    """Tokens of a prompt: one user message if the tokenizer has a chat template, else the text.
    Never none at all.
    """
    if getattr(tokenizer, "chat_template", None):
        chat = [{"role": "user", "content": prompt}]
        text = tokenizer.apply_chat_template(chat, add_generation_prompt=True, tokenize=False)
        return list(tokenizer(text, add_special_tokens=False).input_ids)
    tokens = list(tokenizer(prompt).input_ids)
    if tokens and tokens[-1] == tokenizer.eos_token_id:  # some tokenizers end every text
        tokens = tokens[:-1]
    if tokens:
        return tokens
    return [tokenizer.eos_token_id if tokenizer.bos_token_id is None else tokenizer.bos_token_id]


def padded(
    rows: Sequence[Sequence[int]], token: int = 0, left: bool = False
) -> tuple[Tensor, Tensor]:
    """Return int64 tokens [B, T] and a bool mask [B, T] of those that are not padding.

    Example:
        >>> tokens, mask = padded([[5, 6], [7]], left=True)
        >>> tokens.tolist(), mask.tolist()
        ([[5, 6], [0, 7]], [[True, True], [False, True]])
    """
    width = max(map(len, rows), default=0)
    fill = [[token] * (width - len(row)) for row in rows]
    filled = [
        [*more, *row] if left else [*row, *more] for row, more in zip(rows, fill, strict=True)
    ]
    lengths = torch.tensor([*map(len, rows)], dtype=torch.long)[:, None]
    place = torch.arange(width)
    return torch.tensor(filled, dtype=torch.long).view(
        len(rows), width
    ), place >= width - lengths if left else place < lengths


def text_of(tokenizer: Any, tokens: Sequence[int], stop: Sequence[str]) -> str:
    """The text of a response, without special tokens, up to the first stop string."""
    text = tokenizer.decode(
        list(tokens), skip_special_tokens=True, clean_up_tokenization_spaces=False
    )
    return text[: min((place for place in map(text.find, stop) if place >= 0), default=len(text))]
