"""A reward on a pretrained sentence encoder (all-MiniLM-L6-v2), and SmolLM2 as a policy."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from real.files import model_file
from real.numbers import number_format
from rewardlab import CausalLMPolicy
from rewardlab.embedded.cache import cached
from rewardlab.networks.loading import from_pretrained
from rewardlab.policies import from_gguf
from rewardlab.progress import counted
from rewardlab.rewards import FrozenFeatures, Reward
from rewardlab.types import Samples, texts_of

TOKENS = 256  # that the encoder was trained on at most
WIDTH = 384
ROWS = 16  # texts that are encoded at once
MANY = 100  # texts beyond which a bar says how far the encoding is
_EMBEDDINGS: dict[str, Tensor] = {}


class SentenceReward(Reward, FrozenFeatures):
    """A linear head on a frozen encoder of sentences.

    It sees the response's embedding, and its product with the prompt's.

    The embedding is the mean state of all tokens, with length 1, so that how long a text is can be
    read only from what it says.

    Args:
        seed: seed of the head.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, seed: int = 0) -> None:
        super().__init__()
        folder = str(model_file("minilm").parent)
        self.tokenizer = from_pretrained("AutoTokenizer", folder)
        encoder = from_pretrained("AutoModel", folder).to(getattr(torch, number_format()))
        self.encoder = encoder.eval().requires_grad_(False)
        generator = torch.Generator().manual_seed(seed)
        self.head = nn.Parameter(0.01 * torch.randn(2 * WIDTH, 1, generator=generator))
        self.register_buffer("mean", torch.zeros(2 * WIDTH))
        self.register_buffer("std", torch.ones(2 * WIDTH))

    def train(self, mode: bool = True) -> SentenceReward:
        """Switch the mode; the encoder's dropout stays off."""
        super().train(mode)
        self.encoder.eval()
        return self

    def forward(self, samples: Samples) -> Tensor:
        """Return a score a text, float32 [B]."""
        return self.score_features(self.features(samples))[:, 0]

    @torch.no_grad()
    def features(self, samples: Samples) -> Tensor:
        """Return both embeddings' features, float32 [B, 768]."""
        responses = self._embedded(texts_of(samples, "SentenceReward"))
        prompts = self._embedded([str(prompt) for prompt in samples.prompts])
        return torch.cat([responses, responses * prompts], 1)

    def score_features(self, features: Tensor) -> Tensor:
        """Return scores [B, 1] of features."""
        return (features - self.mean) / self.std @ self.head

    def fit_feature_scale(self, features: Tensor) -> None:
        """Bring features to mean 0 and deviation 1."""
        self.mean.copy_(features.mean(0))
        self.std.copy_(features.std(0).clamp_min(1e-6))

    def _embedded(self, texts: Sequence[str]) -> Tensor:
        """Return embeddings [B, 384] of length 1; a text beyond `TOKENS` loses its end.

        The encoder never changes, so each text passes it once a process.
        """
        new = [text for text in dict.fromkeys(texts) if text not in _EMBEDDINGS]
        new.sort(key=len)  # so that little of a batch is padding
        hidden = True if len(new) <= MANY else None
        for start in counted(range(0, len(new), ROWS), len(new), "encoding", hidden=hidden):
            part = new[start : start + ROWS]
            _EMBEDDINGS.update(zip(part, self._encoded(part), strict=True))
        return torch.stack([_EMBEDDINGS[text] for text in texts])

    def _encoded(self, texts: list[str]) -> Tensor:
        tokens = self.tokenizer(
            texts, padding=True, truncation=True, max_length=TOKENS, return_tensors="pt"
        )
        states = self.encoder(**tokens).last_hidden_state.float()
        mask = tokens.attention_mask[:, :, None]
        embeddings = (states * mask).sum(1) / mask.sum(1)
        return nn.functional.normalize(embeddings, dim=1)


def smollm2_folder() -> Path:
    """Return SmolLM2-135M-Instruct as a folder of transformers in float16, written once."""
    settings = {"file": model_file("smollm2").name}
    return cached("real-smollm2", settings, ("torch", "transformers"), partial(_write_smollm2))


def _write_smollm2(folder: Path) -> None:
    policy = from_gguf(model_file("smollm2"))
    network: Any = policy.network
    network.half().save_pretrained(folder)
    policy.tokenizer.save_pretrained(folder)


def smollm2(**options: Any) -> CausalLMPolicy:
    """Return SmolLM2-135M-Instruct as a policy; its weights are 4-bit ones, dequantized."""
    return CausalLMPolicy(smollm2_folder(), **options)
