"""Drawing tokens: each row has its own randomness, so that it is the same in any batch."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import pad

from rewardlab.conversations import Prompt
from rewardlab.errors import InputError
from rewardlab.networks.tokens import padded
from rewardlab.policies.abilities import DrawingTerms
from rewardlab.policies.backbone import Backbone, Inputs
from rewardlab.policies.codec import Codec, strings_of
from rewardlab.policies.micro_batches import micro_batches
from rewardlab.policies.scoring import Head
from rewardlab.policies.text import Tokens, completes
from rewardlab.seeds import generators, uniform
from rewardlab.types import Samples, Trajectory, take

BLOCK = 64  # tokens whose probabilities are summed first


@dataclass
class Response:
    """A response while it is drawn.

    Attributes:
        limit: number of tokens that it may have.
        tokens: its tokens so far.
        finished: whether an end token or a stop string ended it.
    """

    limit: int
    tokens: list[int] = field(default_factory=list)
    finished: bool = False

    @property
    def is_open(self) -> bool:
        """Whether the response gets a further token."""
        return not self.finished and len(self.tokens) < self.limit


def check_settings(
    temperature: float, top_p: float, top_k: int, max_new_tokens: int, stop: Sequence[str]
) -> None:
    """Refuse settings of drawing that are out of range.

    Raises:
        InputError: if one is.
    """
    in_range = temperature > 0 and 0 < top_p <= 1 and top_k >= 0 and max_new_tokens > 0
    if not in_range or not all(stop):
        raise InputError(
            "CausalLMPolicy needs temperature > 0, top_p in (0, 1], top_k >= 0, "
            "max_new_tokens > 0 and stop strings not empty; got "
            f"{temperature}, {top_p}, {top_k}, {max_new_tokens} and {stop}."
        )


class Truncation(NamedTuple):
    """What is left of a distribution to draw from.

    Attributes:
        top_k: number of likeliest tokens; 0 for all.
        top_p: share of the probability; 1 for all.
    """

    top_k: int = 0
    top_p: float = 1.0


@dataclass(frozen=True, eq=False)
class TokenSampler:
    """Draws responses from the softmax of a language model's logits, token by token.

    Attributes:
        backbone: the model without its head.
        head: the model's head.
        codec: tokens of texts.
        truncation: what is left of the softmax.
        elsewhere: what draws in the model's place, as `TextGenerator.draw` of the policy does; None
            for the model itself.
    """

    backbone: Backbone
    head: Head
    codec: Codec
    truncation: Truncation
    elsewhere: Callable[[Tokens, Tensor, Sequence[int], DrawingTerms], Tokens] | None = None

    def rollout(
        self, prompts: Sequence[Prompt], seeds: Tensor, limit: int, micro_batch: int | None
    ) -> Trajectory:
        """Draw a response to each prompt, at most `micro_batch` prompts at once.

        Facts are "seed", "finished" and "length".

        Args:
            prompts: B texts or conversations.
            seeds: int64 [B].
            limit: largest number of tokens of a response.
            micro_batch: largest number of prompts at once; None draws all together.
        """
        prompt_tokens = self.codec.prompts(prompts)
        responses: list[Response] = []
        if self.elsewhere is not None:
            micro_batch = None  # an engine makes its own batches
        for part in micro_batches(len(prompts), micro_batch):
            starts = prompt_tokens[part]
            responses += self.draw(starts, seeds[part], [limit] * len(starts))
        tokens = [response.tokens for response in responses]
        facts = _facts(responses, tokens, seeds)
        return self.codec.trajectory(prompts, prompt_tokens, tokens, facts)

    def extend(self, samples: Samples, tokens: int, seeds: Tensor, limit: int) -> Trajectory:
        """Continue each output by at most `tokens` tokens, up to `limit` in all."""
        prompt_tokens = self.codec.prompts(samples.prompts)
        outputs = self.codec.texts.response_ids(samples.prompts, strings_of(samples))
        starts = []
        limits = []
        for prompt, output in zip(prompt_tokens, outputs, strict=True):
            starts.append(prompt + output)
            limits.append(max(min(tokens, limit - len(output)), 1))
        responses = self.draw(starts, seeds, limits)
        whole = []
        for output, response in zip(outputs, responses, strict=True):
            whole.append(output + response.tokens)
        facts = _facts(responses, whole, seeds)
        return self.codec.trajectory(samples.prompts, prompt_tokens, whole, facts)

    def draw(self, prompts: Tokens, seeds: Tensor, limits: Sequence[int]) -> list[Response]:
        """Draw a response to each prompt, with one random number per token.

        Args:
            prompts: tokens of B prompts, none empty. They are padded on the left.
            seeds: int64 [B].
            limits: largest number of tokens of each response; the context may leave fewer.

        Returns:
            The responses, with the tokens that ended them.

        Raises:
            InputError: if the logits are not finite.
        """
        responses = []
        for prompt, limit in zip(prompts, limits, strict=True):
            responses.append(Response(self._limit(prompt, limit)))
        if not any(response.is_open for response in responses):
            return responses
        if self.elsewhere is not None:
            self._draw_elsewhere(responses, prompts, seeds)
        else:
            with self.backbone.evaluating():
                self._draw_here(responses, prompts, seeds)
        return responses

    def _draw_elsewhere(self, responses: list[Response], prompts: Tokens, seeds: Tensor) -> None:
        """Take responses that something else draws, each up to its end.

        Raises:
            InputError: if it gives no token, or one that is not of the vocabulary.
        """
        assert self.elsewhere is not None
        temperature = self.head.temperature
        terms = DrawingTerms(temperature, *self.truncation, self.codec.ends, self.codec.stop)
        limits = [response.limit for response in responses]
        rows = self.elsewhere(prompts, seeds, limits, terms)
        vocabulary = len(self.head.weight)
        for response, row in zip(responses, rows, strict=True):
            if not row or min(row) < 0 or max(row) >= vocabulary:
                raise InputError(
                    "What draws for the policy gave no token, or one outside of the vocabulary of "
                    f"{vocabulary}: {row[:8]}. Does it serve another model?"
                )
            for token in row:
                self._append(response, token)

    def _limit(self, prompt: list[int], limit: int) -> int:
        """Return how many tokens the context leaves to a response, at most `limit`."""
        if self.codec.limit is None:
            return limit
        return min(limit, self.codec.limit - len(prompt))

    def _draw_here(self, responses: list[Response], prompts: Tokens, seeds: Tensor) -> None:
        """Draw until no response is open; rows leave the batch when half of them have ended."""
        device = self.head.weight.device
        steps = max(response.limit for response in responses)
        numbers = uniform((steps,), generators(seeds), dtype=torch.float64)
        numbers = numbers.to(_summing_device(device))
        inputs = Inputs.of(padded(prompts, left=True, device=device))
        states, cache = self.backbone.run_prompts(inputs, [tuple(prompt) for prompt in prompts])
        in_batch = responses
        for step in range(steps):
            tokens = self._pick(states[:, -1], numbers[:, step])
            next_tokens = tokens.tolist()
            self._check_tokens(next_tokens)
            for response, token in zip(in_batch, next_tokens, strict=True):
                self._append(response, token)
            are_open = [response.is_open for response in in_batch]
            if not any(are_open):
                break
            inputs = inputs.next(tokens, are_open)
            open_rows = [row for row, is_open in enumerate(are_open) if is_open]
            if self.backbone.caches_tokens and 2 * len(open_rows) <= len(in_batch):
                inputs = inputs.rows(open_rows)
                cache.batch_select_indices(torch.tensor(open_rows, device=device))
                numbers = numbers[open_rows]
                in_batch = take(in_batch, open_rows)
            states, cache = self.backbone.run(inputs, cache, keep=True)

    def _pick(self, states: Tensor, numbers: Tensor) -> Tensor:
        """Return the next token of each row, int64 [B], from states [B, D] and numbers [B]."""
        logits = self.head.logits(states)
        logits = truncated(logits, *self.truncation)
        tokens = pick(logits.to(numbers.device), numbers)
        return tokens.to(states.device)

    def _check_tokens(self, tokens: list[int]) -> None:
        """Refuse tokens of logits that are not finite: where a sum is NaN, no number is below it.

        Raises:
            InputError: if a token is beyond the vocabulary.
        """
        if max(tokens) >= len(self.head.weight):
            raise InputError(
                "The policy's logits are not finite, so no token can be drawn. Did training "
                "diverge? Lower the learning rate, or go back to the last checkpoint; in float16 "
                "take bfloat16."
            )

    def _append(self, response: Response, token: int) -> None:
        """Give a response its next token, if it is open."""
        if response.is_open:
            response.tokens.append(token)
            response.finished = self._ends(response.tokens)

    def _ends(self, tokens: list[int]) -> bool:
        codec = self.codec
        return tokens[-1] in codec.ends or completes(codec.texts.tokenizer, tokens, codec.stop)


def _facts(responses: list[Response], tokens: Tokens, seeds: Tensor) -> dict[str, Tensor]:
    """Return the facts of drawn responses; `tokens` are those of the whole outputs."""
    finished = [response.finished for response in responses]
    lengths = [len(row) for row in tokens]
    return {
        "seed": seeds,
        "finished": torch.tensor(finished, dtype=torch.bool),
        "length": torch.tensor(lengths, dtype=torch.long),
    }


def _summing_device(device: torch.device) -> torch.device:
    """Return where probabilities are summed: the network's device, or else the CPU.

    Metal has no float64, and CUDA's sums are not the same each time.
    """
    if device.type == "mps" or torch.are_deterministic_algorithms_enabled():
        return torch.device("cpu")
    return device


def pick(logits: Tensor, numbers: Tensor) -> Tensor:
    """Return the token [B] at which the cumulative softmax of logits [B, V] passes each number.

    Numbers are in [0, 1). Probabilities are summed from the first token on, in float64: float32's
    sums would lose the rarest of many tokens. Blocks of 64 tokens are summed first, and of the
    block that passes the number its tokens. A token of logit -inf is never picked. Where a logit is
    not finite, the token is V or above.

    Example:
        >>> logits = torch.tensor([[0.5, 0.0, 0.3, 0.2]]).log()
        >>> pick(logits.expand(3, 4), torch.tensor([0.0, 0.5, 0.9])).tolist()
        [0, 2, 3]
    """
    mass = _mass_of_blocks(logits)
    sums = mass.sum(2, dtype=torch.float64).cumsum(1)
    thresholds = numbers[:, None] * sums[:, -1:]
    blocks = _first_above(sums, thresholds)
    inside = blocks.clamp(max=mass.shape[1] - 1)
    before = pad(sums, (1, 0)).gather(1, inside)
    index = inside[:, :, None].expand(-1, -1, BLOCK)
    token_sums = mass.gather(1, index)[:, 0].cumsum(1, dtype=torch.float64)
    tokens = BLOCK * blocks + _first_above(token_sums, thresholds - before)
    return tokens[:, 0]


def _mass_of_blocks(logits: Tensor) -> Tensor:
    """Return exp(logits - their largest) by blocks of tokens, [B, blocks, BLOCK], 0 beyond V."""
    count, vocabulary = logits.shape
    mass = logits.new_zeros(count, -(-vocabulary // BLOCK) * BLOCK)
    of_tokens = mass[:, :vocabulary]
    torch.sub(logits, logits.amax(1, keepdim=True), out=of_tokens)
    of_tokens.exp_()
    return mass.view(count, -1, BLOCK)


def _first_above(sums: Tensor, thresholds: Tensor) -> Tensor:
    """Return where growing sums [B, N] first pass thresholds [B, 1]: where they end, at the latest.

    It is N if a sum is NaN.
    """
    last = sums[:, -1:]
    below_last = torch.nextafter(last, torch.zeros_like(last))
    return torch.searchsorted(sums, torch.minimum(thresholds, below_last), right=True)


def truncated(logits: Tensor, top_k: int, top_p: float) -> Tensor:
    """Return the logits with unlikely tokens forbidden, at -inf (arXiv 1904.09751).

    All but the `top_k` likeliest are forbidden, then all but the fewest that hold `top_p` of the
    rest.

    Example:
        >>> truncated(torch.tensor([[0.5, 0.3, 0.2]]).log(), top_k=0, top_p=0.6).exp()
        tensor([[0.5000, 0.3000, 0.0000]])
    """
    if 0 < top_k < logits.shape[1]:
        least = logits.topk(top_k).values[:, -1:]
        logits = logits.masked_fill(logits < least, -torch.inf)
    if top_p < 1:
        values, order = logits.sort(1, descending=True)
        shares = values.softmax(1)
        beyond = shares.cumsum(1) - shares >= top_p
        forbidden = torch.zeros_like(beyond).scatter(1, order, beyond)
        logits = logits.masked_fill(forbidden, -torch.inf)
    return logits
