"""How a LanguageReward reads texts: their tokens, and the embeddings that scores depend on."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from rewardlab.errors import InputError
from rewardlab.networks.chat import TextTokens, finished_of
from rewardlab.networks.text_format import FormatsTexts, TextFormat, TokenCounts, replaced
from rewardlab.rewards.abilities import EmbedsTokens
from rewardlab.rewards.formatting import TokenRows, batch_ids, token_ids
from rewardlab.types import Samples, texts_of


class ReadsTokens(EmbedsTokens, FormatsTexts):
    """A reward on a language model of transformers: its tokens, and their embeddings."""

    backbone: Any
    texts: TextTokens
    options: dict[str, Any]
    limit: int | None
    _embeds = False

    def set_chat(self, chat: bool | TextFormat | None) -> None:
        """Format texts in another way, as the argument `chat` says; the weights stay.

        Raises:
            InputError: if it asks for a template and there is none.
        """
        form = replaced(self.texts.form, chat)
        self.texts = TextTokens(self.tokenizer, form)
        self.options["chat"] = form.settings()

    def token_counts(self, samples: Samples) -> TokenCounts:
        """Return how many tokens prompts have, and rows before they are cut to fit the context."""
        texts = list(texts_of(samples, "LanguageReward"))
        rows = token_ids(self.texts, samples.prompts, texts, finished_of(samples)).ids
        prompts = self.texts.prompt_ids(samples.prompts)
        return TokenCounts([len(row) for row in prompts], [len(row) for row in rows])

    def token_rows(self, samples: Samples) -> TokenRows:
        """Return the token ids that are scored, and where in each row the response starts."""
        rows = batch_ids(self.texts, samples, self.limit, type(self).__name__)
        return TokenRows(rows.ids, rows.starts)

    @contextmanager
    def embedded(self) -> Iterator[list[Tensor]]:
        """Let scores have gradients to token embeddings for a while, through a frozen backbone."""
        self._embeds = True
        try:
            with kept_embeddings(self.backbone) as passes:
                yield passes
        finally:
            self._embeds = False

    @torch.no_grad()
    def token_embeddings(self) -> Tensor:
        """Return the embedding of each token of the vocabulary, [V, D]."""
        embed = self.backbone.get_input_embeddings()
        ids = torch.arange(self.backbone.config.get_text_config().vocab_size)
        embeddings: Tensor = embed(ids.to(self.backbone.device))
        return embeddings


def check_pooled(samples: Samples, pooling: str) -> None:
    """Refuse whole texts, by the fact "whole", for a reward that averages over the response.

    Raises:
        InputError: if there is one, since nothing says where its response starts.
    """
    if pooling == "mean" and "whole" in samples.facts and samples.facts["whole"].any():
        raise InputError(
            "A LanguageReward with pooling='mean' averages over the response, and a text that "
            "holds its prompt does not say where the response starts. Send the prompt apart."
        )


@contextmanager
def kept_embeddings(backbone: Any) -> Iterator[list[Tensor]]:
    """Keep the token embeddings of each pass through a backbone, as leaves of its gradient.

    Args:
        backbone: of transformers.
    """
    passes: list[Tensor] = []

    def keep(module: Any, inputs: Any, embeddings: Tensor) -> Tensor:
        leaf = embeddings.detach().requires_grad_()
        passes.append(leaf)
        return leaf

    handle = backbone.get_input_embeddings().register_forward_hook(keep)
    try:
        yield passes
    finally:
        handle.remove()
