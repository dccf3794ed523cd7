"""ClassifierReward: published sequence classifiers as they are, encoders too."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from rewardlab.errors import InputError
from rewardlab.networks import tokens
from rewardlab.networks.adapters import absorbed
from rewardlab.networks.loading import is_name, load_tokenizer
from rewardlab.rewards import backbones
from rewardlab.rewards.abilities import Saved
from rewardlab.rewards.base import Reward, checked_scores
from rewardlab.rewards.folders import REWARD, read_settings
from rewardlab.rewards.language import LanguageReward
from rewardlab.types import Samples, texts_of

CLASS_PATH = "rewardlab.rewards.ClassifierReward"


class ClassifierReward(Reward, Saved):
    """A transformers sequence classifier with one label, whatever its head: the score is its logit.

    Prompt and response are the two texts of a pair, as encoders (BERT, DeBERTa) were trained on. A
    pair that is too long loses the prompt's end. Decoders with a `score` head are better served by
    LanguageReward.

    Args:
        model: a folder, a hub id, or a transformers sequence classifier, which is used in place.
        tokenizer: the model's own by default. An instance needs one.
        max_length: most tokens of a pair; the model's own context by default.

    Raises:
        InputError: if model or tokenizer cannot be loaded, or it has other than one label.
    """

    def __init__(
        self, model: str | Path | Any, tokenizer: Any | None = None, max_length: int | None = None
    ) -> None:
        super().__init__()
        if is_name(model):
            self.network = backbones.load_headless(str(model), torch.float32)
        else:
            self.network = absorbed(model)
        self.tokenizer = load_tokenizer(tokenizer, model, "ClassifierReward")
        tokens.check_padding(self.tokenizer)
        tokens.check_vocabulary(self.tokenizer, self.network)
        labels = getattr(self.network.config, "num_labels", None)
        if not backbones.is_classifier(self.network) or labels != 1:
            raise InputError(
                "ClassifierReward takes a sequence classifier of one label; got a "
                f"{type(self.network).__name__} with {labels}."
            )
        self.max_length = tokens.token_limit(max_length, self.network, self.tokenizer)

    def check_samples(self, samples: Samples) -> None:
        """Refuse a response that leaves no room for its prompt.

        Raises:
            InputError: if there is one.
        """
        self._check_lengths(list(texts_of(samples, "ClassifierReward")))

    def forward(self, samples: Samples) -> Tensor:
        """Return the logits, float32 [B].

        Raises:
            InputError: if the outputs are images, a response is longer than the context, or a score
                is NaN or infinite.
        """
        texts = list(texts_of(samples, "ClassifierReward"))
        self._check_lengths(texts)
        batch = self.tokenizer(
            list(samples.prompts),
            texts,
            padding=True,
            truncation="only_first",
            max_length=self.max_length,
            return_tensors="pt",
        )
        logits = self.network(**batch.to(self.network.device)).logits
        return checked_scores(logits[:, 0], samples, "ClassifierReward")

    def save_pretrained(self, folder: str | Path) -> None:
        """Write the classifier and its tokenizer into `folder`, whole or not at all."""
        config = {"class_path": CLASS_PATH, "max_length": self.max_length}
        backbones.write_classifier(folder, self.network, self, config)

    @classmethod
    def from_pretrained(cls, folder: str | Path) -> Reward:
        """Load the sequence classifier that a folder holds, in eval mode.

        A decoder's, with a linear `score` head, becomes a LanguageReward.
        """
        if (Path(folder) / REWARD).is_file():
            settings = read_settings(folder, "max_length")
            return cls(folder, **settings).eval()
        if backbones.has_score(folder):
            return LanguageReward.from_pretrained(folder)
        return cls(folder).eval()

    def _check_lengths(self, texts: list[str]) -> None:
        """Refuse a response that leaves no room for its prompt."""
        rows = self.tokenizer(texts)["input_ids"]
        longest = max(map(len, rows), default=0)
        if longest >= self.max_length:
            raise InputError(
                f"ClassifierReward takes pairs of up to {self.max_length} tokens; a response alone "
                f"has {longest}."
            )
