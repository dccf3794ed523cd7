"""CausalLMPolicy: a transformers language model as a policy, whose steps are tokens."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from copy import copy
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from rewardlab.conversations import Prompt
from rewardlab.errors import InputError
from rewardlab.networks import lora, packable
from rewardlab.networks.chat import TextTokens
from rewardlab.networks.stillness import still
from rewardlab.networks.text_format import FormatsTexts, TextFormat, TokenCounts, replaced
from rewardlab.networks.tokens import context_length
from rewardlab.policies import causal_lm_folder, language_network, text
from rewardlab.policies.abilities import (
    Adapted,
    Continues,
    DrawsElsewhere,
    HasCritic,
    HasEntropy,
    LengthLimited,
    Tempered,
    TextGenerator,
)
from rewardlab.policies.backbone import Backbone
from rewardlab.policies.base import Policy, StepLoss, frozen_copy
from rewardlab.policies.codec import Codec
from rewardlab.policies.decoding import TokenSampler, Truncation, check_settings
from rewardlab.policies.reference import AdapterOff
from rewardlab.policies.scoring import (
    Head,
    StepTable,
    critic_values,
    fused_loss,
    loss_with_critic,
    new_value_head,
)
from rewardlab.seeds import row_seeds
from rewardlab.types import Samples, Trajectory

STATES = "states"  # the name of a prepared trajectory's hidden states, [B, T', D]


class CausalLMPolicy(
    Policy,
    HasEntropy,
    HasCritic,
    Continues,
    DrawsElsewhere,
    Tempered,
    LengthLimited,
    Adapted,
    FormatsTexts,
):
    """Any transformers causal language model as a policy, whose steps are a response's tokens.

    The end token is a step too. A prompt is a text or a conversation; with a chat template a text
    is the user's one message. Rollouts are drawn from exactly the distribution that `log_prob`
    scores: temperature is part of it, and dropout is off. Texts that the tokenizer can represent
    survive `encode` and then `decode`.

    Args:
        model: folder, hub id or transformers model with a language-modelling head.
        tokenizer: the same, for the tokenizer; by default the one beside the model. Without a
            padding token its end token pads.
        max_new_tokens: largest number of tokens of a drawn response.
        temperature: divisor of the logits, in drawing and in log-probabilities.
        top_p, top_k: truncation of the distribution of `generate`; rollouts refuse it.
        stop: texts that end a drawn response; they are cut off its text.
        lora_rank: rank of a low-rank adapter (arXiv 2106.09685) on every linear layer, which is
            trained instead of all weights. The reference is then the same network with the adapter
            off.
        micro_batch: number of rows that are drawn at once; all by default.
        dtype: precision of the network's arithmetic. Trained weights, logits and log-probabilities
            stay float32.
        gradient_checkpointing: trade time for memory in the backward pass.
        value_head: whether to add a scalar head for `value`, zero at first.
        chat: false for a model that knows no chat template, though its tokenizer has one; a
            `TextFormat`, or a mapping of its settings, for a template, the date that it shows, its
            keywords, and what becomes of special tokens in texts. By default the tokenizer's
            template formats, if it has one.
        max_length: most tokens of a prompt with its response; the model's context by default.

    Raises:
        InputError: if model or tokenizer cannot be loaded or used, or (on use) a text does not fit
            the context.

    Example:
        >>> from rewardlab.testing.tiny_text import tiny_causal_lm, tiny_tokenizer
        >>> policy = CausalLMPolicy(tiny_causal_lm(), tiny_tokenizer(), max_new_tokens=5)
        >>> samples = policy.generate(["A cat", "Two dogs"], seeds=torch.tensor([1, 2]))
        >>> samples.facts["length"].tolist(), samples.facts["finished"].tolist()
        ([5, 5], [False, False])
        >>> trajectory = policy.encode(Samples(["A cat"], ["sat."]), seeds=torch.tensor([0]))
        >>> policy.log_prob(trajectory).shape, policy.decode(trajectory).outputs
        (torch.Size([1, 5]), ['sat.'])
    """

    def __init__(
        self,
        model: str | Path | Any,
        tokenizer: str | Path | Any | None = None,
        max_new_tokens: int = 128,
        temperature: float = 1.0,
        top_p: float = 1.0,
        top_k: int = 0,
        stop: list[str] | None = None,
        lora_rank: int | None = None,
        micro_batch: int | None = None,
        dtype: Literal["float32", "bfloat16", "float16"] = "float32",
        gradient_checkpointing: bool = False,
        value_head: bool = False,
        chat: bool | TextFormat | None = None,
        max_length: int | None = None,
    ) -> None:
        super().__init__()
        self.max_new_tokens = max_new_tokens
        self.temperature = temperature
        self.top_p = top_p
        self.top_k = top_k
        self.stop = stop or []
        check_settings(self.temperature, top_p, top_k, max_new_tokens, self.stop)
        self.lora_rank = lora_rank
        self.micro_batch = micro_batch
        self.dtype = getattr(torch, dtype)
        weights_dtype = torch.float32 if lora_rank is None else self.dtype
        self.tokenizer = language_network.load_tokenizer(tokenizer, model)
        self.network = language_network.load_network(model, weights_dtype).eval()
        language_network.check_fits(self.tokenizer, self.network)
        self.texts = TextTokens(self.tokenizer, TextFormat.of(chat))
        self.max_length = max_length
        self.ends = text.end_tokens(self.network, self.tokenizer, self.texts.end)
        language_network.prepare(self.network, lora_rank, self.dtype, gradient_checkpointing)
        self._caches_tokens = packable.keeps_only_keys_and_values(self.network)
        self._packs = packable.packs(self.network.base_model)
        self.value_head = new_value_head(self.network) if value_head else None
        self.train()

    @property
    def device(self) -> torch.device:
        device: torch.device = self.network.get_output_embeddings().weight.device
        return device

    @property
    def _backbone(self) -> Backbone:
        return Backbone(self.network, self.dtype, self._caches_tokens, self._packs)

    @property
    def _head(self) -> Head:
        return Head.of(self.network, self.dtype, self.temperature)

    @property
    def limit(self) -> int | None:  # type: ignore[override]
        """Most tokens of a prompt and its response; None where nothing limits them."""
        limits = [self.max_length, context_length(self.network)]
        return min([limit for limit in limits if limit is not None], default=None)

    @property
    def _codec(self) -> Codec:
        return Codec(self.texts, self.ends, self.stop, self.limit, self.device)

    def _sampler(self, top_k: int, top_p: float) -> TokenSampler:
        truncation = Truncation(top_k, top_p)
        elsewhere = None
        if self.text_generator is not None:
            elsewhere = partial(self.text_generator.draw, self)
        return TokenSampler(self._backbone, self._head, self._codec, truncation, elsewhere)

    def draw_by(self, generator: TextGenerator | None) -> None:
        """Let `generator`, such as a `VLLMSampler`, draw from now on; None for the own decoding.

        Log-probabilities, and so ratios and KL, stay the policy's own.
        """
        self.text_generator = generator

    def sample(self, prompts: Sequence[Prompt], *, seeds: Tensor) -> Trajectory:
        """Draw a response to each prompt from exactly the distribution that `log_prob` scores.

        Facts are "seed", "finished" (by an end token or a stop string) and "length", the number of
        tokens with the end token.

        Raises:
            InputError: if top_p or top_k would draw from another distribution, or a prompt leaves
                no room in the context.
        """
        if self.top_p < 1 or self.top_k:
            raise InputError(
                "Rollouts are drawn from exactly the distribution that is scored; "
                f"top_p={self.top_p} and top_k={self.top_k} truncate it. Use them for generation "
                "only, and top_p=1.0 and top_k=0 here."
            )
        return self._rollout(prompts, seeds)

    @torch.no_grad()
    def generate(self, prompts: Sequence[Prompt], *, seeds: Tensor) -> Samples:
        """Draw one response per prompt, truncated by top_p and top_k; facts are `sample`'s."""
        return self.decode(self._rollout(prompts, seeds, self.top_k, self.top_p))

    @torch.no_grad()
    def _rollout(
        self, prompts: Sequence[Prompt], seeds: Tensor, top_k: int = 0, top_p: float = 1.0
    ) -> Trajectory:
        sampler = self._sampler(top_k, top_p)
        return sampler.rollout(prompts, seeds, self.max_new_tokens, self.micro_batch)

    @torch.no_grad()
    def extend(self, samples: Samples, tokens: int, *, seeds: Tensor) -> Samples:
        """Continue each output by at most `tokens` tokens, for reward-guided decoding.

        An output has at most `max_new_tokens` in all. It is tokenized again, which lengthens broken
        characters. "finished" and "length" are those of the whole outputs.
        """
        sampler = self._sampler(self.top_k, self.top_p)
        return self.decode(sampler.extend(samples, tokens, seeds, self.max_new_tokens))

    def encode(self, samples: Samples, *, seeds: Tensor) -> Trajectory:
        """Tokenize; an end token closes each response and counts as a step. Nothing is drawn.

        Nothing closes a response of which the fact "finished" is false.

        Raises:
            InputError: if the outputs are no strings, or prompt and response do not fit the
                context.
        """
        return self._codec.encode(samples)

    def decode(self, trajectory: Trajectory) -> Samples:
        """Return the responses' texts, without special tokens, each up to the first stop string."""
        return self._codec.decode(trajectory)

    def fits(self, samples: Samples) -> Tensor:
        """Return which samples are short enough to be encoded whole, bool [B].

        The limit is `max_length` or the model's context, whichever is less. A loop asks before its
        first step.

        Raises:
            InputError: if the outputs are no strings, or a prompt cannot be formatted.
        """
        return self._codec.fits(samples)

    def check_prompts(self, prompts: Sequence[Prompt]) -> None:
        """Refuse prompts that do not fit the context or cannot be formatted.

        Raises:
            InputError: if a prompt is refused; the message names the first.
        """
        empty = Samples(list(prompts), [""] * len(prompts))
        self.encode(empty, seeds=row_seeds(0, len(prompts)))

    def check_samples(self, samples: Samples) -> None:
        """Refuse samples whose prompt and response do not fit the context.

        Raises:
            InputError: if a sample is refused; the message names the first.
        """
        self.encode(samples, seeds=row_seeds(0, len(samples)))

    def token_counts(self, samples: Samples) -> TokenCounts:
        """Return how many tokens prompts have, alone and with their responses and end tokens."""
        return self._codec.counts(samples)

    def set_chat(self, chat: bool | TextFormat | None) -> None:
        """Format texts in another way, as the argument `chat` says; the weights stay.

        Raises:
            InputError: if it asks for a template and there is none.
        """
        self.texts = TextTokens(self.tokenizer, replaced(self.texts.form, chat))
        self.ends = text.end_tokens(self.network, self.tokenizer, self.texts.end)

    def with_temperature(self, temperature: float) -> CausalLMPolicy:
        """Return the policy at another temperature. It shares all weights with this one."""
        other = copy(self)
        other.temperature = temperature
        return other

    @property
    def has_critic(self) -> bool:
        """Tell whether the policy was made with a value head."""
        return self.value_head is not None

    def train(self, mode: bool = True) -> CausalLMPolicy:
        """Set the mode; the network scores as in eval mode in either, so that ratios start at 1."""
        super().train(mode)
        still(self.network, training=mode)
        return self

    def log_prob(self, trajectory: Trajectory) -> Tensor:
        """Return log softmax(logits / temperature) of each response's tokens, float32 [B, T].

        It is 0 in the padding.
        """
        table = self._step_table(trajectory)
        scores = self._head.log_probs(table, entropy=False)
        return table.widened(scores.log_prob)

    def entropy(self, trajectory: Trajectory) -> Tensor:
        """Return the entropy in nats of each token's distribution, float32 [B, T].

        It is 0 in the padding.
        """
        table = self._step_table(trajectory)
        scores = self._head.log_probs(table, entropy=True)
        assert scores.entropy is not None
        return table.widened(scores.entropy)

    def value(self, trajectory: Trajectory) -> Tensor:
        """Return the value head's estimate before each token, float32 [B, T]; 0 in the padding.

        Raises:
            InputError: if the policy was made without one.
        """
        table = self._step_table(trajectory)
        values = critic_values(self.value_head, table)
        return table.widened(values.where(table.mask, 0))

    def apply_loss(
        self,
        trajectory: Trajectory,
        loss: StepLoss,
        *,
        rows: Tensor | None = None,
        groups: Tensor | None = None,
        entropy: bool = False,
        value: bool = False,
    ) -> Tensor:
        """As `Policy.apply_loss`, from one pass through the network.

        Steps that `rows` leaves out never reach the head. Without a critic the head's gradient is
        taken in the forward pass, chunk by chunk: see `kernels.linear_loss`.
        """
        table = self._step_table(trajectory)
        if rows is not None:
            table = table._replace(mask=table.mask & table.rows_of(rows))
        if not value:
            return fused_loss(self._head, table, loss, groups, entropy=entropy)
        values = critic_values(self.value_head, table)
        return loss_with_critic(self._head, table, loss, values, entropy=entropy)

    def prepared(self, trajectory: Trajectory) -> Trajectory:
        """Return the trajectory with the states that its tokens are drawn from, with gradients."""
        with torch.enable_grad():
            states = self._backbone.response_states(trajectory)
        return replace(trajectory, tensors={**trajectory.tensors, STATES: states})

    def _step_table(self, trajectory: Trajectory) -> StepTable:
        states = trajectory.tensors.get(STATES)
        if states is None:
            states = self._backbone.response_states(trajectory)
        return StepTable.of(states, trajectory)

    def reference(self) -> Policy:
        """Return this policy with its adapter off, or a frozen copy of it."""
        if self.lora_rank is not None:
            return AdapterOff(self)
        return frozen_copy(self)

    @contextmanager
    def adapter_off(self) -> Iterator[None]:
        """Run the network without its adapter in the `with` block; it draws by itself there."""
        generator = self.text_generator
        self.text_generator = None
        try:
            with lora.off(self.network):
                yield
        finally:
            self.text_generator = generator

    def save_pretrained(self, folder: str | Path) -> None:
        """Write a model that transformers loads, its tokenizer and the policy's settings.

        An adapter is merged into the model.
        """
        causal_lm_folder.save(self, Path(folder))

    @classmethod
    def from_pretrained(cls, folder: str | Path) -> CausalLMPolicy:
        """Load what `save_pretrained` wrote.

        With `lora_rank` a fresh adapter starts from the merged weights.
        """
        settings = causal_lm_folder.load_settings(Path(folder))
        policy = cls(folder, **settings)
        causal_lm_folder.load_value_head(policy, Path(folder))
        return policy
