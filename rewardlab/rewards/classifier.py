"""ClassifierReward: published sequence classifiers as they are, encoders too."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from rewardlab.errors import InputError
from rewardlab.networks.silence import silent
from rewardlab.rewards import backbones
from rewardlab.rewards.abilities import Saved
from rewardlab.rewards.base import Reward, checked_scores
from rewardlab.rewards.folders import REWARD
from rewardlab.rewards.language import LanguageReward
from rewardlab.rewards.rules import texts_of
from rewardlab.storage.atomic import new_folder, write_json
from rewardlab.types import Samples

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
        self.network = (
            backbones.loaded(str(model), torch.float32) if isinstance(model, str | Path) else model
        )
        self.tokenizer = backbones.load_tokenizer(model, tokenizer, self.network)
        labels = getattr(self.network.config, "num_labels", None)
        if not type(self.network).__name__.endswith("ForSequenceClassification") or labels != 1:
            raise InputError(
                f"ClassifierReward takes a sequence classifier of one label; got a {type(self.network).__name__} with {labels}."
            )
        context = getattr(self.network.config, "max_position_embeddings", None)
        limits = [
            limit
            for limit in (max_length, context, self.tokenizer.model_max_length)
            if limit is not None
        ]
        self.max_length = min(limits)

    def forward(self, samples: Samples) -> Tensor:
        """Return the logits, float32 [B].

        Raises:
            InputError: if the outputs are images, a response is longer than the context, or a score
                is NaN or infinite.
        """
        texts = list(texts_of(samples, "ClassifierReward"))
        longest = max((len(ids) for ids in self.tokenizer(texts)["input_ids"]), default=0)
        if longest >= self.max_length:
            raise InputError(
                f"ClassifierReward takes pairs of up to {self.max_length} tokens; a response alone has {longest}."
            )
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
        with new_folder(folder) as fresh, silent():
            self.network.save_pretrained(fresh)
            self.tokenizer.save_pretrained(fresh)
            write_json(fresh / REWARD, {"class_path": CLASS_PATH, "max_length": self.max_length})

    @classmethod
    def from_pretrained(cls, folder: str | Path) -> Reward:
        """Load the sequence classifier that a folder holds, in eval mode: a LanguageReward if it is
        a decoder's.
        """
        if not (Path(folder) / REWARD).is_file() and backbones.has_score(folder):
            return LanguageReward.from_pretrained(folder)
        return cls(folder).eval()
