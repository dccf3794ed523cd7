"""What policies and rewards share of transformers: adapters, shared prompts, text formats."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rewardlab.lazy import lazy_names

if TYPE_CHECKING:
    from rewardlab.networks.loading import load_tokenizer
    from rewardlab.networks.silence import silent
    from rewardlab.networks.text_format import FormatsTexts, TextFormat

_HOMES = {
    "FormatsTexts": "rewardlab.networks.text_format",
    "TextFormat": "rewardlab.networks.text_format",
    "load_tokenizer": "rewardlab.networks.loading",
    "silent": "rewardlab.networks.silence",
}
__all__ = [
    "FormatsTexts",
    "TextFormat",
    "load_tokenizer",
    "silent",
]

__getattr__, __dir__ = lazy_names(__name__, _HOMES)
