"""ClassifierReward: published sequence classifiers as they are, encoders too."""

from __future__ import annotations

import logging
from inspect import signature
from pathlib import Path
from typing import Any, Literal, NamedTuple, get_args

import torch
from torch import Tensor

from rewardlab.conversations import Conversation
from rewardlab.errors import InputError
from rewardlab.networks import tokens
from rewardlab.networks.adapters import absorbed
from rewardlab.networks.loading import is_name, load_tokenizer
from rewardlab.rewards import backbones
from rewardlab.rewards.abilities import Saved
from rewardlab.rewards.base import Reward, checked_scores, named_sample
from rewardlab.rewards.folders import REWARD, read_config
from rewardlab.rewards.foreign_heads import is_foreign
from rewardlab.rewards.labels import Labels, log_odds, scored_labels
from rewardlab.rewards.language import LanguageReward
from rewardlab.types import Samples, texts_of

CLASS_PATH = "rewardlab.rewards.ClassifierReward"
NO_LIMIT = 10**9  # tokenizers that name no limit have a larger one

Cut = Literal["prompt", "pair", "nothing"]
Conversations = Literal["refuse", "last_user"]

_TRUNCATION = {"prompt": "only_first", "pair": "longest_first", "nothing": False}
_log = logging.getLogger("rewardlab")


class ClassifierReward(Reward, Saved):
    """A transformers sequence classifier, whatever its head: the score is a logit or log-odds.

    Of one label the score is its logit; of two, the log-odds of label 1 over label 0, or of the
    label that is named; of more, log-odds of the labels that are named over the rest. See
    `rewardlab.rewards.labels`.

    Prompt and response are the two texts of a pair, as encoders (BERT, DeBERTa) were trained on;
    special tokens that a text spells stay text. Decoders with a `score` head are better served by
    LanguageReward.

    Args:
        model: a folder, a hub id, or a transformers sequence classifier, which is used in place.
        tokenizer: the model's own by default. An instance needs one.
        max_length: most tokens of a pair; the model's own context by default.
        label: a label's name or number, or several of them.
        cut: what pairs lose that are too long. "prompt": the prompt its end, and a response that
            does not fit beside one token of the prompt is refused. "pair": the longer of the two
            its end, so nothing is refused. "nothing": they are refused. What is cut is counted, and
            said once.
        conversations: what becomes of prompts that are conversations, since encoders have no chat
            template: "refuse" them, or take the "last_user" message as the prompt.

    Attributes:
        cut_pairs: how many pairs were cut so far.
        scored: which of the classifier's logits are the score.

    Raises:
        InputError: if model or tokenizer cannot be loaded, or no label decides the score.
    """

    def __init__(
        self,
        model: str | Path | Any,
        tokenizer: Any | None = None,
        max_length: int | None = None,
        label: Labels = None,
        cut: Cut = "prompt",
        conversations: Conversations = "refuse",
    ) -> None:
        super().__init__()
        if is_name(model):
            self.network = backbones.load_headless(str(model), torch.float32)
        else:
            self.network = absorbed(model)
        self.tokenizer = load_tokenizer(tokenizer, model, "ClassifierReward")
        tokens.check_padding(self.tokenizer)
        tokens.check_vocabulary(self.tokenizer, self.network)
        if not backbones.is_classifier(self.network):
            raise InputError(
                "ClassifierReward takes a sequence classifier; got a "
                f"{type(self.network).__name__}."
            )
        if cut not in _TRUNCATION:
            raise InputError(f"cut is one of {', '.join(_TRUNCATION)}; got {cut!r}.")
        self.label = label
        self.cut = cut
        if conversations not in get_args(Conversations):
            raise InputError(
                f"conversations is one of {', '.join(get_args(Conversations))}; got "
                f"{conversations!r}."
            )
        self.conversations = conversations
        self.cut_pairs = 0
        self.scored = scored_labels(self.network.config, label)
        self._special = self.tokenizer.num_special_tokens_to_add(pair=True)
        self.max_length = self._limit(max_length)
        self._try_out()

    def check_samples(self, samples: Samples) -> None:
        """Refuse pairs that cannot be scored, before anything long begins.

        Raises:
            InputError: naming the first pair that is too long.
        """
        self._check_lengths(self._lengths(samples), samples)

    def forward(self, samples: Samples) -> Tensor:
        """Return the scores, float32 [B].

        Raises:
            InputError: if the outputs are images, a pair is too long, or a score is NaN or
                infinite.
        """
        lengths = self._lengths(samples)
        self._check_lengths(lengths, samples)
        cuts = self.max_length is not None and self.cut != "nothing"
        batch = self.tokenizer(
            self._prompts(samples),
            list(texts_of(samples, "ClassifierReward")),
            padding=True,
            truncation=_TRUNCATION[self.cut] if cuts else False,
            max_length=self.max_length if cuts else None,
            split_special_tokens=True,
            return_tensors="pt",
        )
        self._tell_of_cuts(lengths)
        logits = self.network(**self._inputs(batch.to(self.network.device))).logits
        return checked_scores(log_odds(logits, self.scored), samples, "ClassifierReward")

    def save_pretrained(self, folder: str | Path) -> None:
        """Write the classifier and its tokenizer into `folder`, whole or not at all."""
        config = {
            "class_path": CLASS_PATH,
            "max_length": self.max_length,
            "label": self.label,
            "cut": self.cut,
            "conversations": self.conversations,
        }
        backbones.write_classifier(folder, self.network, self, config)

    @classmethod
    def from_pretrained(cls, folder: str | Path) -> Reward:
        """Load the sequence classifier that a folder holds, in eval mode.

        A decoder's, with a linear `score` head, becomes a LanguageReward, and so does a reward of
        OpenRLHF or verl.
        """
        if (Path(folder) / REWARD).is_file():
            config = read_config(folder)
            names = ("max_length", "label", "cut", "conversations")
            settings = {name: config[name] for name in names if name in config}
            return cls(folder, **settings).eval()
        if is_foreign(folder) or backbones.has_score(folder):
            return LanguageReward.from_pretrained(folder)
        return cls(folder).eval()

    @torch.no_grad()
    def _try_out(self) -> None:
        """Score a short pair, so that a network that cannot is refused now."""
        was_training = self.network.training
        self.network.eval()
        batch = self.tokenizer(["a"], ["b"], return_tensors="pt").to(self.network.device)
        try:
            log_odds(self.network(**self._inputs(batch)).logits, self.scored)
        except Exception as error:  # a foreign network can raise anything
            raise InputError(
                f"{type(self.network).__name__} cannot score a pair of two short texts: "
                f"{str(error)[:200]}. Do tokenizer, config and weights belong together?"
            ) from error
        self.network.train(was_training)

    def _limit(self, max_length: int | None) -> int | None:
        """Return how many tokens of a pair count; None where nothing limits them.

        Raises:
            InputError: if there is no room for a token of each text.
        """
        limits = [
            max_length,
            tokens.context_length(self.network),
            _shifted_positions(self.network),
            self.tokenizer.model_max_length,
        ]
        real = [limit for limit in limits if limit is not None and limit < NO_LIMIT]
        if max_length is None:
            real = [limit for limit in real if limit > 0]  # -1 says that there is none
        limit = min(real, default=None)
        if limit is not None and limit < self._special + 2:
            raise InputError(
                f"ClassifierReward cannot take pairs of {limit} tokens: {self._special} of them "
                "mark the texts, and each text needs one. Raise max_length."
            )
        return limit

    def _prompts(self, samples: Samples) -> list[str]:
        """Return the prompts as texts.

        Raises:
            InputError: if one is a conversation, and these are refused or it has no user's message.
        """
        texts = []
        for i, prompt in enumerate(samples.prompts):
            if isinstance(prompt, Conversation):
                texts.append(self._last_of_user(prompt, named_sample(samples, i)))
            else:
                texts.append(prompt)
        return texts

    def _last_of_user(self, prompt: Conversation, name: str) -> str:
        """Return the last message of a conversation that is the user's."""
        said = [message.content for message in prompt.messages if message.role == "user"]
        if self.conversations == "refuse" or not said:
            raise InputError(
                "ClassifierReward takes a prompt as one text, since encoders have no chat template;"
                f" of {name} it is a conversation of {len(prompt.messages)} messages. "
                "conversations='last_user' takes the user's last message and leaves out the rest; "
                "for a decoder with a template take LanguageReward."
            )
        return said[-1]

    def _lengths(self, samples: Samples) -> list[_Lengths]:
        """Return how many tokens each prompt and each response has, without special ones."""
        prompts = self._prompts(samples)
        counts = []
        for texts in (prompts, list(texts_of(samples, "ClassifierReward"))):
            rows = self.tokenizer(
                texts, add_special_tokens=False, split_special_tokens=True, verbose=False
            )
            counts.append([len(row) for row in rows["input_ids"]])
        return [_Lengths(*pair) for pair in zip(*counts, strict=True)]

    def _check_lengths(self, lengths: list[_Lengths], samples: Samples) -> None:
        """Refuse pairs that do not fit, after what may be cut of them."""
        if self.max_length is None or self.cut == "pair":
            return
        room = self.max_length - self._special
        for i, (prompt, response) in enumerate(lengths):
            least = min(prompt, 1) if self.cut == "prompt" else prompt
            if response + least > room:
                raise InputError(
                    f"ClassifierReward takes pairs of up to {self.max_length} tokens, "
                    f"{self._special} of which mark the texts; of {named_sample(samples, i)} the "
                    f"prompt has {prompt}, and the response alone has {response}. Draw shorter "
                    "responses, or let it be cut (cut='pair')."
                )

    def _tell_of_cuts(self, lengths: list[_Lengths]) -> None:
        """Count pairs that are cut, and warn of them once."""
        if self.max_length is None:
            return
        room = self.max_length - self._special
        cut = sum(prompt + response > room for prompt, response in lengths)
        if cut and not self.cut_pairs:
            _log.warning(
                "ClassifierReward cut %d of %d pairs to fit its %d tokens (cut=%s); told once",
                cut,
                len(lengths),
                self.max_length,
                self.cut,
            )
        self.cut_pairs += cut

    def _inputs(self, batch: Any) -> dict[str, Tensor]:
        """Return those of a tokenizer's tables that the network takes."""
        takes = signature(self.network.forward).parameters
        inputs = {name: table for name, table in batch.items() if name in takes}
        kinds = getattr(self.network.config, "type_vocab_size", 2)
        if kinds is not None and kinds < 2:
            inputs.pop("token_type_ids", None)
        return inputs


class _Lengths(NamedTuple):
    """How many tokens the texts of a pair have."""

    prompt: int
    response: int


def _shifted_positions(network: Any) -> int | None:
    """Return how many positions a network has that counts them from behind its padding token.

    RoBERTa's kind does: its table is larger than its context by the padding token's number and one.
    None for other networks.
    """
    for name, module in network.named_modules():
        is_table = "position" in name.rpartition(".")[2] and hasattr(module, "weight")
        padding = getattr(module, "padding_idx", None)
        if is_table and padding is not None:
            return len(module.weight) - padding - 1
    return None
