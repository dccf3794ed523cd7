"""CausalLMPolicy: a transformers language model as a policy, whose steps are tokens."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from copy import copy
from inspect import signature
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn.functional import pad
from tqdm import tqdm

from rewardlab.errors import InputError
from rewardlab.kernels import LinearLogProb, linear_log_prob, linear_logits, linear_loss
from rewardlab.networks import lora, sharing
from rewardlab.networks.silence import silent
from rewardlab.policies import text
from rewardlab.policies.abilities import (
    Adapted,
    Continues,
    HasCritic,
    HasEntropy,
    LengthLimited,
    Tempered,
)
from rewardlab.policies.base import At, Policy, StepLoss, Steps, frozen_copy
from rewardlab.policies.decoding import Tokens, completes, draw, truncated
from rewardlab.policies.reference import AdapterOff
from rewardlab.seeds import row_seeds
from rewardlab.types import Samples, Trajectory

VALUE_HEAD = "value_head.safetensors"


class CausalLMPolicy(Policy, HasEntropy, HasCritic, Continues, Tempered, LengthLimited, Adapted):
    """Any transformers causal language model: each token of a response, its end token too, is a
    step.

    A prompt is text; with a chat template it is the user's one message. Rollouts are drawn from
    exactly the distribution that `log_prob` scores: temperature is part of it, and dropout is off.
    With a chat template, texts that the tokenizer can represent survive `encode` and then `decode`.

    Args:
        model: a folder, a hub id or a transformers model with a language-modelling head.
        tokenizer: the same, for the tokenizer; by default what lies beside the model. Without a
            padding token its end token pads.
        max_new_tokens: limit of a drawn response.
        temperature: divides the logits, in drawing and in log-probabilities.
        top_p, top_k: truncate the distribution of `generate`; rollouts refuse them.
        stop: texts that end a drawn response; they are cut off its text.
        lora_rank: train a low-rank adapter of this rank (arXiv 2106.09685) on every linear layer
            instead of all weights. The reference is then the same network with the adapter off.
        micro_batch: rows that are drawn at once; all by default.
        dtype: precision of the network's arithmetic. Trained weights, logits and log-probabilities
            stay float32.
        gradient_checkpointing: trade time for memory in the backward pass.
        value_head: add a scalar head for `value`, zero at first.

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
    ) -> None:
        super().__init__()
        if not (
            temperature > 0
            and 0 < top_p <= 1
            and top_k >= 0
            and max_new_tokens > 0
            and all(stop or [])
        ):
            raise InputError(
                "CausalLMPolicy needs temperature > 0, top_p in (0, 1], top_k >= 0, max_new_tokens > 0 and stop strings not "
                f"empty; got {temperature}, {top_p}, {top_k}, {max_new_tokens} and {stop}."
            )
        self.max_new_tokens = max_new_tokens
        self.temperature = temperature
        self.top_p = top_p
        self.top_k = top_k
        self.stop = stop or []
        self.lora_rank = lora_rank
        self.micro_batch = micro_batch
        self.dtype = getattr(torch, dtype)
        self.tokenizer = text.load_tokenizer(tokenizer, model)
        self.network = text.load_network(
            model, torch.float32 if lora_rank is None else self.dtype
        ).eval()
        text.check_vocabulary(self.tokenizer, self.network)
        self.softcap = getattr(
            self.network.config.get_text_config(), "final_logit_softcapping", None
        )
        text.check_head(self.network, self.softcap)
        self.ends = text.ends(self.network, self.tokenizer)
        self.context = text.context_length(self.network)
        self._caches = sharing.keeps_only_keys_and_values(self.network)
        text.without_dropout(self.network)
        if lora_rank is not None:
            lora.add(self.network, lora_rank, text.linear_layers(self.network), self.dtype)
        if gradient_checkpointing:
            text.checkpoint_activations(self.network)
        self._recomputes = sharing.recomputes(self.network)
        self.value_head = nn.Linear(self._head.weight.shape[1], 1) if value_head else None
        if self.value_head is not None:
            nn.init.zeros_(self.value_head.weight)
            nn.init.zeros_(self.value_head.bias)
        self.train()

    @property
    def device(self) -> torch.device:
        return self._head.weight.device

    @property
    def _head(self) -> Any:
        return self.network.get_output_embeddings()

    def sample(self, prompts: Sequence[str], *, seeds: Tensor) -> Trajectory:
        """Draw a response to each prompt, token by token, from exactly the distribution that
        `log_prob` scores.

        Facts are "seed", "finished" (by an end token or a stop string) and "length", in tokens with
        the end token.

        Raises:
            InputError: if top_p or top_k would draw from another distribution, or a prompt leaves
                no room in the context.
        """
        if self.top_p < 1 or self.top_k:
            raise InputError(
                f"Rollouts are drawn from exactly the distribution that is scored; top_p={self.top_p} and top_k={self.top_k} "
                "truncate it. Use them for generation only, and top_p=1.0 and top_k=0 here."
            )
        return self._drawn(prompts, seeds)

    @torch.no_grad()
    def generate(self, prompts: Sequence[str], *, seeds: Tensor) -> Samples:
        """Draw one response a prompt, truncated by top_p and top_k. The facts are those of
        `sample`.
        """
        return self.decode(self._drawn(prompts, seeds, self.top_k, self.top_p))

    @torch.no_grad()
    def extend(self, samples: Samples, tokens: int, *, seeds: Tensor) -> Samples:
        """Continue each output by at most `tokens` tokens, up to `max_new_tokens` in all: for
        reward-guided decoding.

        Outputs are tokenized anew, which broken characters lengthen. "finished" and "length" are of
        the whole outputs.
        """
        before = self._prompts(samples.prompts)
        begun = [
            self.tokenizer(output, add_special_tokens=False).input_ids for output in samples.outputs
        ]
        limits = [max(min(tokens, self.max_new_tokens - len(response)), 1) for response in begun]
        starts = [[*prompt, *response] for prompt, response in zip(before, begun, strict=True)]
        drawn, finished = self._draw(starts, seeds, self.top_k, self.top_p, limits)
        responses = [[*response, *more] for response, more in zip(begun, drawn, strict=True)]
        facts = {
            "seed": seeds,
            "finished": torch.tensor(finished),
            "length": torch.tensor([len(row) for row in responses]),
        }
        return self.decode(self._trajectory(samples.prompts, before, responses, facts))

    def encode(self, samples: Samples, *, seeds: Tensor) -> Trajectory:
        """Tokenize; an end token closes each response and counts as a step. Nothing is drawn.

        Raises:
            InputError: if the outputs are no strings, or prompt and response do not fit the
                context.
        """
        if isinstance(samples.outputs, Tensor):
            shape = list(samples.outputs.shape)
            raise InputError(
                f"CausalLMPolicy encodes strings; got images {shape}. Were they made for a diffusion model?"
            )
        prompts = self._prompts(samples.prompts)
        responses = [
            [*self.tokenizer(output, add_special_tokens=False).input_ids, self.ends[0]]
            for output in samples.outputs
        ]
        text.check_fit(prompts, responses, samples.outputs, self.context)
        return self._trajectory(samples.prompts, prompts, responses, samples.facts)

    def decode(self, trajectory: Trajectory) -> Samples:
        """Return the responses' texts, without special tokens, each up to the first stop string."""
        rows = zip(
            *(trajectory.tensors[name].tolist() for name in ("response", "response_mask")),
            strict=True,
        )
        tokens = [row[: sum(mask)] for row, mask in rows]
        return Samples(
            trajectory.prompts,
            [text.text_of(self.tokenizer, row, self.stop) for row in tokens],
            trajectory.facts,
        )

    def check_prompts(self, prompts: Sequence[str]) -> None:
        """Read all prompts with empty responses.

        Raises:
            InputError: naming the first that does not fit the context or cannot be formatted.
        """
        self.encode(Samples(list(prompts), [""] * len(prompts)), seeds=row_seeds(0, len(prompts)))

    def with_temperature(self, temperature: float) -> CausalLMPolicy:
        """Return the policy at another temperature. It shares all weights with this one."""
        other = copy(self)
        other.temperature = temperature
        return other

    @property
    def has_critic(self) -> bool:
        """Tell whether the policy was made with a value head."""
        return self.value_head is not None

    def log_prob(self, trajectory: Trajectory) -> Tensor:
        """Return log softmax(logits / temperature) of each token of the responses, float32 [B, T];
        0 in the padding.
        """
        return self._scored(trajectory).log_prob

    def entropy(self, trajectory: Trajectory) -> Tensor:
        """Return the entropy in nats of the distribution that each token was drawn from, float32
        [B, T]; 0 in the padding.
        """
        entropy = self._scored(trajectory, entropy=True).entropy
        assert entropy is not None
        return entropy

    def value(self, trajectory: Trajectory) -> Tensor:
        """Return the value head's estimate before each token, float32 [B, T]; 0 in the padding.

        Raises:
            InputError: if the policy was made without one.
        """
        values = self._values(self._states(trajectory))
        return _widened(values.where(trajectory.mask[:, : values.shape[1]], 0), trajectory)

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
        """As `Policy.apply_loss`, from one pass through the network. Steps that `rows` leaves out
        never reach the head.

        Without a critic the head's gradient is taken in the forward pass, chunk by chunk: see
        `kernels.linear_loss`.
        """
        states = self._states(trajectory)
        steps = states.shape[1]
        targets = trajectory.tensors["response"][:, :steps].flatten()
        live = trajectory.mask[:, :steps]
        live = (live if rows is None else live & rows[:, :steps]).flatten()

        def at(part: Tensor) -> At:
            return lambda table: table.expand(trajectory.mask.shape)[:, :steps].flatten()[part]

        weight, bias = self._operands()
        operands = states.flatten(0, 1).to(self.dtype), weight, targets
        options = {
            "bias": bias,
            "temperature": self.temperature,
            "softcap": self.softcap,
            "mask": live,
            "entropy": entropy,
        }
        if not value:
            owners = (
                None
                if groups is None
                else groups.to(states.device)[:, None].expand(-1, steps).flatten()
            )
            stated = lambda log_prob, spread, part: loss(Steps(log_prob, spread), at(part))  # noqa: E731
            return linear_loss(*operands, stated, groups=owners, **options)[0]
        found = linear_log_prob(*operands, **options)
        part = live.nonzero()[:, 0]
        columns = found.log_prob, found.entropy, self._values(states).flatten()
        return loss(
            Steps(*(None if column is None else column[part] for column in columns)), at(part)
        )

    def _values(self, states: Tensor) -> Tensor:
        """The critic's values [B, T] of states [B, T, D].

        Raises:
            InputError: if the policy was made without one.
        """
        if self.value_head is None:
            raise InputError(
                "This CausalLMPolicy has no value head, which GAE needs; make it with value_head=True."
            )
        with torch.autocast(states.device.type, enabled=False):
            values: Tensor = self.value_head(states.float())[..., 0]
        return values

    def reference(self) -> Policy:
        """Return this policy with its adapter off, or a frozen copy of it."""
        return AdapterOff(self) if self.lora_rank is not None else frozen_copy(self)

    def adapter_off(self) -> AbstractContextManager[None]:
        """Run the network without its adapter for a while."""
        return lora.off(self.network)

    def save_pretrained(self, folder: str | Path) -> None:
        """Write a model that transformers loads (an adapter is merged into it), its tokenizer and
        the policy's settings.
        """
        folder = Path(folder)
        network = lora.merged(self.network)
        with silent():
            network.save_pretrained(folder)
        self.tokenizer.save_pretrained(folder)
        kept = ("max_new_tokens", "temperature", "top_p", "top_k", "stop", "lora_rank")
        settings = {name: getattr(self, name) for name in kept} | {
            "dtype": str(self.dtype).removeprefix("torch.")
        }
        if self.value_head is not None:
            save_file(self.value_head.state_dict(), folder / VALUE_HEAD)
        settings |= {"value_head": self.value_head is not None}
        content = json.dumps(
            {"class_path": "rewardlab.policies.CausalLMPolicy", "init_args": settings}, indent=2
        )
        (folder / "policy.json").write_text(content + "\n", encoding="utf-8")

    @classmethod
    def from_pretrained(cls, folder: str | Path) -> CausalLMPolicy:
        """Load what `save_pretrained` wrote. With `lora_rank` a fresh adapter starts from the
        merged weights.
        """
        settings = json.loads((Path(folder) / "policy.json").read_text(encoding="utf-8"))[
            "init_args"
        ]
        policy = cls(folder, **settings)
        if policy.value_head is not None:
            policy.value_head.load_state_dict(load_file(Path(folder) / VALUE_HEAD))
        return policy

    def _prompts(self, prompts: Sequence[str]) -> Tokens:
        """Tokens of each prompt; equal prompts are tokenized once.

        Raises:
            InputError: if one leaves no room for a response.
        """
        known = {
            prompt: text.prompt_tokens(self.tokenizer, prompt) for prompt in dict.fromkeys(prompts)
        }
        found = [known[prompt] for prompt in prompts]
        text.check_fit(found, [[0]] * len(found), prompts, self.context)
        return found

    def _trajectory(
        self, prompts: Sequence[str], before: Tokens, responses: Tokens, facts: Mapping[str, Tensor]
    ) -> Trajectory:
        tokens, there = text.padded(before, left=True)
        response, mask = text.padded(responses)
        tensors = {
            "prompt": tokens,
            "prompt_mask": there,
            "response": response,
            "response_mask": mask,
        }
        return Trajectory(
            prompts,
            {name: tensor.to(self.device) for name, tensor in tensors.items()},
            mask.to(self.device),
            facts,
        )

    @torch.no_grad()
    def _drawn(
        self, prompts: Sequence[str], seeds: Tensor, top_k: int = 0, top_p: float = 1.0
    ) -> Trajectory:
        before = self._prompts(prompts)
        size = self.micro_batch or max(len(before), 1)
        parts = range(0, len(before), size)
        responses: Tokens = []
        finished: list[bool] = []
        training = self.network.training
        self.network.eval()
        try:
            for start in tqdm(
                parts, "sampling", leave=False, disable=None if len(parts) > 1 else True
            ):
                drawn, ended = self._draw(
                    before[start : start + size], seeds[start : start + size], top_k, top_p
                )
                responses = responses + drawn
                finished = finished + ended
        finally:
            self.network.train(training)
        lengths = torch.tensor([len(response) for response in responses], dtype=torch.long)
        facts = {
            "seed": seeds,
            "finished": torch.tensor(finished, dtype=torch.bool),
            "length": lengths,
        }
        return self._trajectory(prompts, before, responses, facts)

    def _draw(
        self,
        prompts: Tokens,
        seeds: Tensor,
        top_k: int,
        top_p: float,
        limits: list[int] | None = None,
    ) -> tuple[Tokens, list[bool]]:
        head = self._operands()
        limits = limits or [self.max_new_tokens] * len(prompts)
        room = [
            min(limit, (self.context or 2**62) - len(prompt))
            for limit, prompt in zip(limits, prompts, strict=True)
        ]

        first, place = sharing.distinct([tuple(prompt) for prompt in prompts])

        def step(tokens: Tensor, mask: Tensor, positions: Tensor, cache: Any) -> tuple[Tensor, Any]:
            if cache is None and self._caches and len(first) < len(place):
                states, cache = self._shared(tokens, mask, positions, first, place)
            else:
                output = self._run(tokens, mask, positions, past_key_values=cache, use_cache=True)
                states = output.last_hidden_state
                cache = output.past_key_values
            hidden = states[:, -1].to(self.dtype)
            logits = linear_logits(
                hidden, *head, temperature=self.temperature, softcap=self.softcap
            )
            return truncated(logits, top_k, top_p), cache

        def ended(response: list[int]) -> bool:
            return response[-1] in self.ends or completes(self.tokenizer, response, self.stop)

        return draw(step, prompts, seeds, room, ended, self.device)

    def _states(self, trajectory: Trajectory) -> Tensor:
        """The hidden states [B, T, D] that the tokens are drawn from. T ends with the longest
        response.

        A prompt that several rows have is run once, where that saves enough: its keys and values
        serve all of them.
        """
        tensors = trajectory.tensors
        lengths = torch.stack(
            [tensors["prompt_mask"].any(0).sum(), tensors["response_mask"].any(0).sum()]
        )
        width, steps = (
            lengths.tolist()
        )  # one wait, for a pass through the network without the widest rows' padding
        prompt, there = (
            tensors[name][:, tensors[name].shape[1] - width :] for name in ("prompt", "prompt_mask")
        )
        response = tensors["response"][:, : steps - 1]
        mask = torch.cat([there, tensors["response_mask"][:, : steps - 1]], 1)
        positions = mask.long().cumsum(1).sub(1).clamp_min(0)
        first, place = sharing.distinct(trajectory.prompts)
        run = len(place) * (width + steps - 1)
        saved = (len(place) - len(first)) * width
        if not self._shares_prompts or saved < sharing.WORTH_SHARING * run:
            states: Tensor = self._run(
                torch.cat([prompt, response], 1), mask, positions, use_cache=False
            ).last_hidden_state
            return states[:, width - 1 :]
        last, cache = self._shared(prompt, there, positions[:, :width], first, place)
        if steps == 1:
            return last
        output = self._run(
            response, mask, positions[:, width:], past_key_values=cache, use_cache=True
        )
        return torch.cat([last, output.last_hidden_state], 1)

    def _shared(
        self, prompt: Tensor, mask: Tensor, positions: Tensor, first: list[int], place: list[int]
    ) -> tuple[Tensor, Any]:
        """Run the first row of each prompt; return every row's last state [B, 1, D], and a cache
        with every row.
        """
        output = self._run(prompt[first], mask[first], positions[first], use_cache=True)
        rows = torch.tensor(place, device=prompt.device)
        output.past_key_values.batch_select_indices(rows)
        return output.last_hidden_state[:, -1:][rows], output.past_key_values

    @property
    def _shares_prompts(self) -> bool:
        """Whether keys and values are all that a prompt leaves behind, and are kept: not so when
        activations are recomputed.
        """
        return self._caches and not (self._recomputes and self.network.training)

    def _scored(self, trajectory: Trajectory, entropy: bool = False) -> LinearLogProb:
        """The responses' tokens under the head, [B, T] each. Rows of prompt and padding never reach
        it.
        """
        states = self._states(trajectory)
        steps = states.shape[1]
        targets = trajectory.tensors["response"][:, :steps].flatten()
        mask = trajectory.mask[:, :steps].flatten()
        weight, bias = self._operands()
        found = linear_log_prob(
            states.flatten(0, 1).to(self.dtype),
            weight,
            targets,
            bias=bias,
            temperature=self.temperature,
            softcap=self.softcap,
            mask=mask,
            entropy=entropy,
        )
        return LinearLogProb(
            *(
                None if each is None else _widened(each.view(-1, steps), trajectory)
                for each in found
            )
        )

    def _operands(self) -> tuple[Tensor, Tensor | None]:
        """The head's weight in the precision of the arithmetic, and its bias."""
        return self._head.weight.to(self.dtype), getattr(self._head, "bias", None)

    def _run(self, tokens: Tensor, mask: Tensor, positions: Tensor, **options: Any) -> Any:
        """The backbone's output, without the head."""
        if "position_ids" in signature(self.network.base_model.forward).parameters:
            options["position_ids"] = positions
        with (
            nullcontext()
            if self.dtype == torch.float32
            else torch.autocast(tokens.device.type, self.dtype)
        ):
            return self.network.base_model(input_ids=tokens, attention_mask=mask.long(), **options)


def _widened(values: Tensor, trajectory: Trajectory) -> Tensor:
    """Values [B, T'] with zeros up to the T of the trajectory."""
    return pad(values, (0, trajectory.mask.shape[1] - values.shape[1]))
