"""LanguageReward: scalar heads on a language model."""

from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from rewardlab.errors import InputError
from rewardlab.networks import loading, packable, tokens
from rewardlab.networks.adapters import read_adapter
from rewardlab.networks.chat import TextTokens
from rewardlab.networks.precision import arithmetic, full_precision
from rewardlab.networks.text_format import TextFormat
from rewardlab.provenance import fingerprint
from rewardlab.rewards import backbones, language_folder, language_states
from rewardlab.rewards.abilities import (
    Calibrated,
    FrozenFeatures,
    HeadInputs,
    Saved,
    StartsAtZero,
    TextLikelihood,
)
from rewardlab.rewards.base import Reward, checked_scores, set_score_scale
from rewardlab.rewards.feature_scale import feature_scale
from rewardlab.rewards.formatting import BatchRows, RowMemory, batch_ids
from rewardlab.rewards.language_heads import checked_heads, chosen_heads, new_heads
from rewardlab.rewards.language_likelihood import LanguageHead
from rewardlab.rewards.language_tokens import ReadsTokens, check_pooled
from rewardlab.types import Samples, texts_of

_log = logging.getLogger("rewardlab")


class LanguageReward(
    Reward,
    FrozenFeatures,
    Calibrated,
    HeadInputs,
    Saved,
    StartsAtZero,
    TextLikelihood,
    ReadsTokens,
):
    """K linear heads without bias on one forward pass of a transformers language model.

    It is the reward that preferences train. `rewardlab.rewards.formatting.token_ids` formats text,
    in training and in scoring. A prompt is a text or a conversation. The state that is scored is
    gathered before the heads, which compute in float32. "last" is the last token that is not the
    padding token, as transformers' classifiers take it; where a tokenizer pads with its end token,
    that is the response's last word.

    With `frozen` or `lora_rank` the weights of a model that is given as an instance are shared and
    frozen in place, so that several rewards can stand on one; otherwise they are copied.

    Args:
        model: a folder, a hub id, or a transformers model. A sequence classifier's `score`, or the
            head of OpenRLHF's or verl's folder, becomes the heads; anything else gets new ones.
        tokenizer: one of transformers, or its folder or hub id; the model's own by default. An
            instance needs one.
        heads: K, how many heads score side by side; their mean is the score.
        lora_rank: train a low-rank adapter of this rank and the heads, instead of all weights.
        frozen: train the heads alone; then `features` are computed once and cached.
        max_length: most tokens of prompt and response; the model's own context by default. A longer
            prompt is cut from the left; a response is never cut.
        dtype: precision of the backbone's arithmetic, and of weights that are not trained. Trained
            weights stay float32.
        gradient_checkpointing: trade time for memory in the backward pass.
        pooling: "last" scores the last token's state, "mean" the mean over the response's tokens.
        seed: of new heads and of the adapter. Members of an ensemble get different ones.
        chat: false for a reward that was trained on plain text beside a tokenizer with a chat
            template; a `TextFormat`, or a mapping of its settings, for a template, the date that it
            shows, its keywords, and what becomes of special tokens in texts. By default the
            tokenizer's template formats, if it has one.
        label: of a classifier with several labels, the one whose log-odds are the score, by its
            name or number; by default label 1 of two. See `rewardlab.rewards.labels`.

    Attributes:
        meaning: what the scores are; "untrained" until a training loop says better.
        score_mean, score_std: of typical responses, saved with the reward; a deviation of 0 says
            not yet set.

    Raises:
        InputError: if model or tokenizer cannot be loaded, do not fit each other, or the heads'
            number is not the model's.

    Example:
        >>> from rewardlab.testing.tiny_text import tiny_causal_lm, tiny_tokenizer
        >>> reward = LanguageReward(tiny_causal_lm(), tiny_tokenizer(), heads=2)
        >>> samples = Samples(["hi", "hi"], ["hello", "go away"])
        >>> reward(samples).shape, reward.members(samples).shape
        (torch.Size([2]), torch.Size([2, 2]))
    """

    mean_of_members = True
    mean: Tensor
    std: Tensor
    offset: Tensor

    def __init__(
        self,
        model: str | Path | Any,
        tokenizer: Any | None = None,
        heads: int = 1,
        lora_rank: int | None = None,
        frozen: bool = False,
        max_length: int | None = None,
        dtype: Literal["float32", "bfloat16", "float16"] = "float32",
        gradient_checkpointing: bool = False,
        pooling: Literal["last", "mean"] = "last",
        seed: int = 0,
        chat: bool | TextFormat | None = None,
        label: str | int | None = None,
    ) -> None:
        super().__init__()
        form = TextFormat.of(language_folder.kept_chat(model, chat, pooling))
        self.options = {
            "heads": heads,
            "lora_rank": lora_rank,
            "frozen": frozen,
            "max_length": max_length,
            "dtype": dtype,
            "gradient_checkpointing": gradient_checkpointing,
            "pooling": pooling,
            "seed": seed,
            "chat": form.settings(),
        }
        self.frozen = frozen
        self.pooling = pooling
        self._language_head: LanguageHead | None = None
        self.dtype = getattr(torch, dtype)
        loaded = backbones.trained_backbone(model, self.dtype, frozen, lora_rank, seed)
        self.backbone = loaded.network
        self._head_source = loaded.language
        weight = loaded.head
        if gradient_checkpointing:
            loading.checkpoint_activations(self.backbone)
        self._packs = packable.packs(self.backbone)
        self._set_tokenizer(model, tokenizer, max_length, is_classifier=weight is not None)
        if loaded.foreign is not None:
            self.pad = None  # its trainer reads the very last token
            form = replace(form, ending=loaded.foreign.ending)
            self.options["chat"] = form.settings()
        self.texts = TextTokens(self.tokenizer, form)
        is_own = language_folder.is_own(model)
        weight = chosen_heads(weight, self.backbone.config, heads, label, is_own)
        self._set_heads(weight, heads, seed)
        if loaded.foreign is not None:
            loaded.foreign.set_scale(self)
        # refuses now what could not be saved later
        backbones.as_classifier(self.backbone, self.head, self.pad)
        self.train()

    def _set_tokenizer(
        self, model: Any, tokenizer: Any | None, max_length: int | None, is_classifier: bool
    ) -> None:
        """Set the tokenizer, how many of its tokens are seen, and which one pads."""
        self.tokenizer = loading.load_tokenizer(tokenizer, model, "LanguageReward")
        tokens.check_padding(self.tokenizer)
        tokens.check_vocabulary(self.tokenizer, self.backbone)
        self.limit = tokens.token_limit(max_length, self.backbone, self.tokenizer)
        # a classifier whose config names none scores the very last token, as transformers does
        self.pad = self.backbone.config.get_text_config().pad_token_id
        if not is_classifier:
            self.pad = tokens.pad_token(self.tokenizer)
        elif self.pad is None and read_adapter(model) is not None:
            self.pad = self.tokenizer.pad_token_id  # trainers set it in memory alone
        self._told_of_cuts = False
        self._memory = RowMemory()

    def _set_heads(self, weight: Tensor | None, heads: int, seed: int) -> None:
        """Set the heads [K, D], new or a classifier's, and what is saved with them."""
        width = backbones.state_width(self.backbone)
        if weight is None:
            weight = new_heads(heads, width, seed)
        self.head = nn.Parameter(checked_heads(weight, heads))
        self.register_buffer("mean", torch.zeros(width))
        self.register_buffer("std", torch.ones(width))
        self.register_buffer("offset", torch.zeros(heads))
        self.register_buffer("score_mean", torch.zeros(()))
        self.register_buffer("score_std", torch.zeros(()))
        self.meaning = "untrained"

    @property
    def has_features(self) -> bool:
        """Tell whether the backbone is frozen: features of one that trains would go stale."""
        return self.frozen

    def features(self, samples: Samples) -> Tensor:
        """Return the states that the heads see, float32 [B, D].

        Raises:
            InputError: unless the reward is frozen.
        """
        if not self.frozen:
            raise InputError(
                "Only a LanguageReward with frozen=True has features; a backbone that trains would "
                "make kept ones stale. Give frozen=True, or score the samples themselves."
            )
        return self.head_inputs(samples)

    @property
    def head_width(self) -> int:
        """Return D, the width of the states that the heads see."""
        return self.head.shape[1]

    def head_inputs(self, samples: Samples) -> Tensor:
        """Return the pooled state of each sample, float32 [B, D]."""
        rows = self._rows(samples)
        was_training = self.backbone.training
        if was_training and not torch.is_grad_enabled():
            self.backbone.eval()
        needs_gradient = torch.is_grad_enabled() and (self._embeds or not self.frozen)
        packs = self._packs and not self._embeds
        run = language_states.packed_states if packs else language_states.whole_states
        with torch.set_grad_enabled(needs_gradient), arithmetic(self.head.device, self.dtype):
            token_states = run(self.backbone, rows, self.pad)
        self.backbone.train(was_training)
        return language_states.pooled_states(token_states, self.pooling, self.pad)

    def head_parameters(self) -> list[nn.Parameter]:
        """Return the heads' weight."""
        return [self.head]

    def score_features(self, features: Tensor) -> Tensor:
        """Return the heads' scores, float32 [B, K], from states [B, D].

        They are not checked for NaN, since losses show them.
        """
        with full_precision(features.device):
            scaled = (features.float() - self.mean) / self.std
            return nn.functional.linear(scaled, self.head, self.offset)

    def members(self, samples: Samples) -> Tensor:
        """Return the heads' scores, float32 [B, K].

        Without gradients there is no dropout, whatever the mode.

        Raises:
            InputError: if the outputs are images, a response is longer than the context, or a score
                is NaN or infinite.
        """
        scores = self.score_features(self.head_inputs(samples))
        return checked_scores(scores, samples, "LanguageReward")

    def check_samples(self, samples: Samples) -> None:
        """Refuse samples that are no texts, or whose response alone does not fit the context.

        Raises:
            InputError: if a sample is refused; the message names the first.
        """
        texts_of(samples, "LanguageReward")
        batch_ids(self.texts, samples, self.limit, "LanguageReward")

    def forward(self, samples: Samples) -> Tensor:
        """Return the mean over the heads' scores, float32 [B]."""
        return self.members(samples).mean(1)

    def train(self, mode: bool = True) -> LanguageReward:
        """Set the training mode; a frozen backbone stays in eval mode."""
        super().train(mode)
        self.backbone.train(mode and not self.frozen)
        return self

    def keep_language_head(self) -> None:
        """Keep the language model's head, for GRM's regularizer; see `language_likelihood`.

        Raises:
            InputError: if the model has none, or the backbone is frozen.
        """
        if self._language_head is None:
            head = self._head_source.head(self.backbone, self.frozen)
            self._language_head = head.to(self.head.device)

    def members_and_likelihoods(self, samples: Samples, count: int) -> tuple[Tensor, Tensor]:
        """Return the heads' scores [B, K], and the mean log p a token of the first responses.

        Raises:
            InputError: as `members`.
        """
        assert self._language_head is not None, "keep_language_head comes first"
        rows = self._rows(samples)
        with arithmetic(self.head.device, self.dtype):
            tokens = language_states.whole_states(self.backbone, rows, self.pad)
            likelihoods = self._language_head(tokens, count)
        states = language_states.pooled_states(tokens, self.pooling, self.pad)
        scores = checked_scores(self.score_features(states), samples, "LanguageReward")
        return scores, likelihoods

    def _rows(self, samples: Samples) -> BatchRows:
        """Return the tokens of samples, cut to the context."""
        texts_of(samples, "LanguageReward")
        check_pooled(samples, self.pooling)
        rows = batch_ids(self.texts, samples, self.limit, "LanguageReward", self._memory)
        self._tell_of_cuts(rows)
        return rows

    def _tell_of_cuts(self, rows: BatchRows) -> None:
        """Warn of prompts that were cut, once."""
        if rows.cut and not self._told_of_cuts:
            _log.warning(
                "LanguageReward cut %d of %d prompts from the left to fit its %d tokens; told once",
                rows.cut,
                len(rows.ids),
                self.limit,
            )
            self._told_of_cuts = True

    @torch.no_grad()
    def fit_feature_scale(self, features: Tensor) -> None:
        """Set the constants that bring each of the `features` [N, D] to mean 0 and deviation 1.

        GANRM asks for it.

        Raises:
            InputError: if there are fewer than two rows, or one is not finite.
        """
        scale = feature_scale(features)
        self.mean.copy_(scale.mean)
        self.std.copy_(scale.std)

    @torch.no_grad()
    def start_at_zero(self) -> None:
        """Set the heads to 0, so that every score is 0."""
        self.head.zero_()

    def calibrate(self, scores: Tensor) -> None:
        """Save mean and deviation of scores [N] of typical responses, for `Standardized`.

        Raises:
            InputError: if they are not finite or all equal.
        """
        set_score_scale(self, scores)

    def frozen_fingerprint(self) -> str:
        """Return a hash of all that `features` depends on beside the samples.

        Those are weights, tokenizer and settings.
        """
        vocabulary = self.tokenizer.get_vocab()
        template = self.tokenizer.chat_template or ""
        settings = [self.limit, self.pooling, str(self.dtype), self.options["chat"]]
        return fingerprint([self.backbone, vocabulary, template, *settings])

    def save_pretrained(self, folder: str | Path) -> None:
        """Write the reward into `folder`, as a sequence classifier of transformers.

        The folder appears whole or not at all. Weights, config, tokenizer and template are
        transformers' own, so with `pooling="last"` the folder is loaded by
        `AutoModelForSequenceClassification` and gives the K scores as its logits (less a constant,
        if features were standardised); an adapter is merged. `reward.json` holds what transformers
        has no place for.

        Raises:
            InputError: if `folder` holds something else.
        """
        language_folder.write(folder, self)

    @classmethod
    def from_pretrained(cls, folder: str | Path) -> LanguageReward:
        """Load what `save_pretrained` wrote, or any sequence classifier with a `score` head.

        The reward is in eval mode.

        Raises:
            InputError: if files are missing, broken, or not of one model.
        """
        return language_folder.read(folder, cls)
