"""Models in GGUF files, llama.cpp's form, as language models of transformers."""

from __future__ import annotations

import struct
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch

from rewardlab.errors import InputError
from rewardlab.networks.loading import from_pretrained
from rewardlab.policies.causal_lm import CausalLMPolicy

ARCHITECTURES = ("llama",)  # those whose loaded model was compared with a reference
_MAGIC = b"GGUF"
_KEY = b"general.architecture"
_STRING = 8  # GGUF's number of the type of texts
_HEAD = 2**16  # bytes in which the key stands; writers put it first


def from_gguf(file: str | Path, **options: Any) -> CausalLMPolicy:
    """Return the language model of a GGUF file as a policy; `save_pretrained` writes it out.

    Reading takes about a minute for a hundred million weights, so write the model out once: the
    folder is one of transformers, which `CausalLMPolicy(folder)` and `LanguageReward(folder)` load
    in seconds. Quantized weights become float32 numbers of the same few values.

    Args:
        file: the .gguf file, of the architecture "llama" (Llama, SmolLM2, TinyLlama, …).
        options: further arguments of `CausalLMPolicy`.

    Raises:
        InputError: if the file is missing, is no GGUF, is of another architecture, or the package
            gguf, which reads it, is not installed.

    Example:
        >>> from_gguf("SmolLM2.gguf")
        Traceback (most recent call last):
        rewardlab.errors.InputError: There is no file SmolLM2.gguf. ...
    """
    file = Path(file)
    if not file.is_file():
        raise InputError(f"There is no file {file}. from_gguf takes one model file of llama.cpp.")
    architecture = architecture_of(file)
    if architecture not in ARCHITECTURES:
        raise InputError(
            f"{file} holds a model of the architecture {architecture!r}; from_gguf reads "
            f"{', '.join(ARCHITECTURES)}. Take the model's folder in transformers' form instead."
        )
    if find_spec("gguf") is None:
        raise InputError(
            "GGUF files are read by the package gguf, which is not installed; "
            "pip install 'rewardlab[real]'."
        )
    name: dict[str, Any] = {"name": str(file.parent), "gguf_file": file.name}
    tokenizer = from_pretrained("AutoTokenizer", **name)
    loaded = from_pretrained("AutoModelForCausalLM", **name, dtype=torch.float32)
    return CausalLMPolicy(_plain(loaded), tokenizer, **options)


def architecture_of(file: Path) -> str:
    """Return the architecture that a GGUF file names in its head.

    Raises:
        InputError: if it is no GGUF file, or names none.
    """
    with file.open("rb") as stream:
        head = stream.read(_HEAD)
    place = head.find(_KEY)
    if not head.startswith(_MAGIC) or place < 0:
        raise InputError(
            f"{file} is no GGUF file: it does not begin with {_MAGIC.decode()!r} and name an "
            "architecture. Is it whole?"
        )
    start = place + len(_KEY)
    kind, length = struct.unpack_from("<IQ", head, start)
    start += 12
    if kind != _STRING or start + length > len(head):
        raise InputError(f"{file} names its architecture by no text. Is it whole?")
    return head[start : start + length].decode("utf-8", "replace")


def _plain(loaded: Any) -> Any:
    """Return the same model without the mark of quantization, which cannot be saved."""
    config = loaded.config
    if hasattr(config, "quantization_config"):
        del config.quantization_config
    with torch.random.fork_rng(devices=[]):
        model = type(loaded)(config)
    model.load_state_dict(loaded.state_dict())
    model.generation_config = loaded.generation_config
    return model.eval()
