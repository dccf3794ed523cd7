"""LanguageReward: scalar heads on a language model."""

from __future__ import annotations

import json
import logging
from contextlib import nullcontext
from inspect import signature
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from rewardlab.errors import InputError
from rewardlab.networks import lora, sharing
from rewardlab.networks.silence import silent
from rewardlab.provenance import fingerprint
from rewardlab.rewards import backbones
from rewardlab.rewards.abilities import Calibrated, FrozenFeatures, Saved
from rewardlab.rewards.base import Reward, checked_scores, score_scale
from rewardlab.rewards.folders import REWARD
from rewardlab.rewards.formatting import batch_ids
from rewardlab.rewards.rules import texts_of
from rewardlab.seeds import derive
from rewardlab.storage.atomic import new_folder, write_json
from rewardlab.types import Samples
from rewardlab.version import __version__

CLASS_PATH = "rewardlab.rewards.LanguageReward"
_log = logging.getLogger("rewardlab")


class LanguageReward(Reward, FrozenFeatures, Calibrated, Saved):
    """K linear heads without bias on one forward of a transformers language model: the reward that
    preferences train.

    Text is formatted as `rewardlab.rewards.formatting.token_ids` says, in training and in scoring.
    The state that is scored is gathered before the heads, which compute in float32. "last" is the
    last token that is not the padding token, as transformers' classifiers take it; where a
    tokenizer pads with its end token, that is the response's last word.

    Args:
        model: a folder, a hub id, or a transformers model. A sequence classifier's `score` becomes
            the heads; anything else gets new heads, and loses the one it had.
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

    With `frozen` or `lora_rank` the weights of a model that is given as an instance are shared and
    frozen in place, so that several rewards can stand on one; otherwise they are copied.

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
    ) -> None:
        super().__init__()
        self.options = {
            "heads": heads,
            "lora_rank": lora_rank,
            "frozen": frozen,
            "max_length": max_length,
            "dtype": dtype,
        }
        self.options |= {
            "gradient_checkpointing": gradient_checkpointing,
            "pooling": pooling,
            "seed": seed,
        }
        self.frozen = frozen
        self.pooling = pooling
        self.dtype = getattr(torch, dtype)
        self.backbone, weight = self._backbone(model, lora_rank, derive(seed, "lora"))
        if gradient_checkpointing:
            older = self.backbone.gradient_checkpointing_enable  # its name in older transformers
            getattr(self.backbone, "activation_checkpointing_enable", older)(
                {"use_reentrant": False}
            )
        takes_positions = "position_ids" in signature(self.backbone.forward).parameters
        self._caches = takes_positions and sharing.keeps_only_keys_and_values(self.backbone)
        self._recomputes = sharing.recomputes(self.backbone)
        self.tokenizer = backbones.load_tokenizer(model, tokenizer, self.backbone)
        self.limit = _limit(max_length, self.backbone, self.tokenizer)
        self.pad = _pad(
            self.tokenizer, None if weight is None else self.backbone.config.pad_token_id
        )
        width = self.backbone.config.get_text_config().hidden_size
        self.head = nn.Parameter(
            _heads(heads, width, seed) if weight is None else _checked_heads(weight, heads)
        )
        for name, value in (
            ("mean", torch.zeros(width)),
            ("std", torch.ones(width)),
            ("offset", torch.zeros(heads)),
        ):
            self.register_buffer(name, value)
        self.register_buffer("score_mean", torch.zeros(()))
        self.register_buffer("score_std", torch.zeros(()))
        self.meaning = "untrained"
        self._told = False
        backbones.as_classifier(
            self.backbone, self.head, self.pad
        )  # refuses now what could not be saved later
        self.train()

    def _backbone(self, model: Any, lora_rank: int | None, seed: int) -> tuple[Any, Tensor | None]:
        fixed = self.frozen or lora_rank is not None
        if self.frozen and lora_rank is not None:
            raise InputError(
                f"LanguageReward is either frozen or trains an adapter; got frozen=true and lora_rank={lora_rank}."
            )
        kind = self.dtype if fixed else torch.float32
        backbone, weight = backbones.load_backbone(model, kind, share=fixed)
        backbone.to(kind).requires_grad_(not fixed)
        if lora_rank is not None:
            lora.add(backbone, lora_rank, "all-linear", kind, seed)
        return backbone, weight

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
        return self._states(samples)

    def score_features(self, features: Tensor) -> Tensor:
        """Return the heads' scores, float32 [B, K], from states [B, D]. Not checked for NaN, since
        losses show them.
        """
        with torch.autocast(features.device.type, enabled=False):
            return nn.functional.linear(
                (features.float() - self.mean) / self.std, self.head, self.offset
            )

    def members(self, samples: Samples) -> Tensor:
        """Return the heads' scores, float32 [B, K]. Without gradients there is no dropout, whatever
        the mode.

        Raises:
            InputError: if the outputs are images, a response is longer than the context, or a score
                is NaN or infinite.
        """
        return checked_scores(self.score_features(self._states(samples)), samples, "LanguageReward")

    def forward(self, samples: Samples) -> Tensor:
        """Return the mean over the heads' scores, float32 [B]."""
        return self.members(samples).mean(1)

    def train(self, mode: bool = True) -> LanguageReward:
        super().train(mode)
        self.backbone.train(mode and not self.frozen)
        return self

    def _states(self, samples: Samples) -> Tensor:
        """Return the pooled state of each sample, float32 [B, D]."""
        texts_of(samples, "LanguageReward")
        rows, starts, cut = batch_ids(self.tokenizer, samples, self.limit, "LanguageReward")
        if cut and not self._told:
            _log.warning(
                "LanguageReward cut %d of %d prompts from the left to fit its %d tokens; told once",
                cut,
                len(rows),
                self.limit,
            )
            self._told = True
        training = self.backbone.training
        if training and not torch.is_grad_enabled():
            self.backbone.eval()
        with (
            torch.set_grad_enabled(torch.is_grad_enabled() and not self.frozen),
            self._precision(self.head.device),
        ):
            states, ids, spans = (
                self._shared if self._worth_sharing(rows, starts) else self._whole
            )(rows, starts)
        self.backbone.train(training)
        place = torch.arange(ids.shape[1], device=ids.device)
        if self.pooling == "last":
            return states[torch.arange(len(ids)), (place * (ids != self.pad)).argmax(1)].float()
        response = ((place >= spans[:, :1]) & (place < spans[:, 1:]))[..., None]
        return states.float().where(response, 0).sum(1) / response.sum(1)

    def _whole(self, rows: list[list[int]], starts: list[int]) -> tuple[Tensor, Tensor, Tensor]:
        """Run each row: states [B, T, D], ids [B, T], padded on the right, and [B, 2] where each
        response starts and ends.
        """
        ids, mask = self._padded(rows)
        states = self.backbone(
            input_ids=ids, attention_mask=mask, use_cache=False
        ).last_hidden_state
        return states, ids, self._spans(starts, rows)

    def _shared(self, rows: list[list[int]], starts: list[int]) -> tuple[Tensor, Tensor, Tensor]:
        """As `_whole`, of the responses alone: each prompt is run once, and its keys and values
        serve all rows that have it.
        """
        prompts = [row[:start] for row, start in zip(rows, starts, strict=True)]
        first, place = sharing.distinct([tuple(prompt) for prompt in prompts])
        before, there = (
            table.flip(1) for table in self._padded([prompts[row][::-1] for row in first])
        )  # padded on the left
        positions = there.cumsum(1).sub(1).clamp_min(0)
        known = self._known(before, there, positions)
        chosen = torch.tensor(place, device=before.device)
        known.batch_select_indices(chosen)
        responses = [row[start:] for row, start in zip(rows, starts, strict=True)]
        ids, mask = self._padded(responses)
        mask = torch.cat([there[chosen], mask], 1)
        positions = mask.cumsum(1).sub(1).clamp_min(0)[:, before.shape[1] :]
        states = self.backbone(
            input_ids=ids,
            attention_mask=mask,
            position_ids=positions,
            past_key_values=known,
            use_cache=True,
        ).last_hidden_state
        return states, ids, self._spans([0] * len(rows), responses)

    def _known(self, ids: Tensor, mask: Tensor, positions: Tensor) -> Any:
        """The cache of prompts. What the gradient needs of them is computed anew, not kept: less
        memory for a little time.
        """

        def run(ids: Tensor, mask: Tensor, positions: Tensor) -> Any:
            return self.backbone(
                input_ids=ids, attention_mask=mask, position_ids=positions, use_cache=True
            ).past_key_values

        if not torch.is_grad_enabled():
            return run(ids, mask, positions)
        from transformers.cache_utils import DynamicCache

        columns = checkpoint(
            lambda *given: [part for layer in run(*given).layers for part in (layer.keys, layer.values)],
            ids, mask, positions, use_reentrant=False,
        )  # fmt: skip
        known = DynamicCache(config=self.backbone.config)
        for number, (keys, values) in enumerate(zip(columns[::2], columns[1::2], strict=True)):
            known.update(keys, values, number)
        return known

    def _worth_sharing(self, rows: list[list[int]], starts: list[int]) -> bool:
        """Whether running each prompt once saves enough, every row has one, and its last word is
        the response's.
        """
        if not self._caches or (self._recomputes and self.backbone.training) or not all(starts):
            return False
        whole = sum(map(len, rows))
        once = {tuple(row[:start]) for row, start in zip(rows, starts, strict=True)}
        if sum(starts) - sum(map(len, once)) < sharing.WORTH_SHARING * whole:
            return False
        return all(
            any(token != self.pad for token in row[start:])
            for row, start in zip(rows, starts, strict=True)
        )

    def _padded(self, rows: list[list[int]]) -> tuple[Tensor, Tensor]:
        """Ids [B, T], padded on the right, and what is no padding, int64 [B, T]."""
        width = max(map(len, rows), default=1)
        ids = torch.tensor(
            [[*row, *[self.pad] * (width - len(row))] for row in rows], dtype=torch.long
        ).view(len(rows), width)
        mask = torch.arange(width) < torch.tensor([*map(len, rows)], dtype=torch.long)[:, None]
        return ids.to(self.head.device), mask.long().to(self.head.device)

    def _spans(self, starts: list[int], rows: list[list[int]]) -> Tensor:
        spans = [[start, len(row)] for start, row in zip(starts, rows, strict=True)]
        return torch.tensor(spans).view(-1, 2).to(self.head.device)

    def _precision(self, device: torch.device) -> Any:
        return (
            nullcontext()
            if self.dtype == torch.float32
            else torch.autocast(device.type, self.dtype)
        )

    @torch.no_grad()
    def fit_feature_scale(self, features: Tensor) -> None:
        """Set the constants that bring each of the `features` [N, D] to mean 0 and deviation 1, as
        GANRM asks for.

        Raises:
            InputError: if there are fewer than two rows, or one is not finite.
        """
        if len(features) < 2 or not torch.isfinite(features).all():
            raise InputError(
                f"Standardising needs at least two rows of finite features; got {list(features.shape)}."
            )
        std, mean = torch.std_mean(features.double(), dim=0)
        self.mean.copy_(mean)
        self.std.copy_(std.where(std > 1e-6 * (1 + mean.abs()), 1))

    @torch.no_grad()
    def calibrate(self, scores: Tensor) -> None:
        """Save mean and deviation of scores [N] of typical responses, for `Standardized`.

        Raises:
            InputError: if they are not finite or all equal.
        """
        mean, std = score_scale(scores)
        self.score_mean.copy_(mean)
        self.score_std.copy_(std)

    def frozen_fingerprint(self) -> str:
        """Return a hash of all that `features` depends on beside the samples: weights, tokenizer,
        settings.
        """
        words = [
            self.tokenizer.get_vocab(),
            self.tokenizer.chat_template or "",
            self.limit,
            self.pooling,
            str(self.dtype),
        ]
        return fingerprint([self.backbone, *words])

    def save_pretrained(self, folder: str | Path) -> None:
        """Write the reward into `folder`, whole or not at all, in the form of a transformers
        sequence classifier.

        Weights, config, tokenizer and template are transformers' own, so with `pooling="last"` the
        folder is loaded by `AutoModelForSequenceClassification` and gives the K scores as its
        logits (less a constant, if features were standardised); an adapter is merged. `reward.json`
        holds what transformers has no place for.

        Raises:
            InputError: if `folder` holds something else.
        """
        weight = self.head / self.std
        offset = self.offset - self.head @ (self.mean / self.std)
        network = backbones.as_classifier(lora.merged(self.backbone), weight, self.pad)
        config = {
            "class_path": CLASS_PATH,
            "init_args": self.options,
            "meaning": self.meaning,
            "offset": offset.tolist(),
            "score_mean": self.score_mean.item(),
            "score_std": self.score_std.item(),
            "rewardlab": __version__,
        }
        with new_folder(folder) as fresh, silent():
            network.save_pretrained(fresh)
            self.tokenizer.save_pretrained(fresh)
            write_json(fresh / REWARD, config)

    @classmethod
    def from_pretrained(cls, folder: str | Path) -> LanguageReward:
        """Load what `save_pretrained` wrote, or any transformers sequence classifier with a `score`
        head, in eval mode.

        Raises:
            InputError: if files are missing, broken, or not of one model.
        """
        file = Path(folder) / REWARD
        if not file.is_file():
            return cls(folder).eval()
        try:
            config = json.loads(file.read_text(encoding="utf-8"))
            reward = cls(folder, **config["init_args"])
            reward.offset.copy_(torch.tensor(config["offset"]))
            reward.score_mean.fill_(config["score_mean"])
            reward.score_std.fill_(config["score_std"])
            reward.meaning = config["meaning"]
        except (KeyError, TypeError, RuntimeError, json.JSONDecodeError) as error:
            raise InputError(
                f"{file} is not what save_pretrained wrote: {error}. Is it edited or cut off?"
            ) from error
        return reward.eval()


def _heads(heads: int, width: int, seed: int) -> Tensor:
    """New heads [K, D], normal with deviation 1/√(D + 1) (arXiv 2009.01325); head k is the same
    whatever their number.
    """
    if heads < 1:
        raise InputError(f"LanguageReward needs at least one head; got heads={heads}.")
    draws = [
        torch.randn(width, generator=torch.Generator().manual_seed(derive(seed, "head", k)))
        for k in range(heads)
    ]
    return torch.stack(draws) / (width + 1) ** 0.5


def _checked_heads(weight: Tensor, heads: int) -> Tensor:
    if len(weight) != heads:
        raise InputError(
            f"The model is a classifier with {len(weight)} scores, and heads={heads} were asked for. Give heads={len(weight)}; "
            "for new heads, give its backbone."
        )
    return weight.float().clone()


def _pad(tokenizer: Any, own: int | None) -> int:
    """Return the padding token of a classifier, else of the tokenizer, else its end token, as TRL
    does.
    """
    return next(
        token
        for token in (own, tokenizer.pad_token_id, tokenizer.eos_token_id)
        if token is not None
    )


def _limit(max_length: int | None, backbone: Any, tokenizer: Any) -> int | None:
    """Return how many tokens the model takes: the least of what the user, the positions and the
    tokenizer allow.
    """
    context = getattr(backbone.config.get_text_config(), "max_position_embeddings", None)
    limits = [
        limit for limit in (max_length, context, tokenizer.model_max_length) if limit is not None
    ]
    return min(limits, default=None)
