"""Texts to trajectories of tokens, and back."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from rewardlab.conversations import Prompt
from rewardlab.errors import InputError
from rewardlab.networks.tokens import padded
from rewardlab.policies import text
from rewardlab.policies.text import Tokens
from rewardlab.types import Samples, Trajectory, distinct


@dataclass(frozen=True, eq=False)
class Codec:
    """The tokens of prompts and responses.

    Attributes:
        tokenizer: of transformers.
        ends: tokens that end a response; the first marks the end of an encoded one.
        stop: texts that end a response, and are no part of it.
        context: number of the model's positions, None for no limit.
        device: where trajectories are.
    """

    tokenizer: Any
    ends: Sequence[int]
    stop: Sequence[str]
    context: int | None
    device: torch.device

    def prompts(self, prompts: Sequence[Prompt]) -> Tokens:
        """Return the tokens of each prompt; equal prompts are tokenized once.

        Raises:
            InputError: if one leaves no room for a response.
        """
        unique = distinct(prompts)
        unique_tokens = [text.prompt_tokens(self.tokenizer, prompt) for prompt in unique.values]
        tokens = [unique_tokens[place] for place in unique.places]
        texts = [str(prompt) for prompt in prompts]
        text.check_fit(tokens, [1] * len(tokens), texts, self.context)
        return tokens

    def responses(self, texts: Sequence[str]) -> Tokens:
        """Return the tokens of each response, without an end."""
        return [text.response_tokens(self.tokenizer, response) for response in texts]

    def encode(self, samples: Samples) -> Trajectory:
        """Return the trajectories that end in the samples; each has an end token.

        Raises:
            InputError: if the outputs are no strings, or prompt and response do not fit the
                context.
        """
        texts = strings_of(samples)
        prompts = self.prompts(samples.prompts)
        responses = [[*tokens, self.ends[0]] for tokens in self.responses(texts)]
        lengths = [len(response) for response in responses]
        text.check_fit(prompts, lengths, texts, self.context)
        return self.trajectory(samples.prompts, prompts, responses, samples.facts)

    def decode(self, trajectory: Trajectory) -> Samples:
        """Return the responses' texts, each up to the first stop string."""
        rows = trajectory.tensors["response"].tolist()
        lengths = trajectory.tensors["response_mask"].sum(1).tolist()
        texts = []
        for row, length in zip(rows, lengths, strict=True):
            texts.append(text.response_text(self.tokenizer, row[:length], self.stop))
        return Samples(trajectory.prompts, texts, trajectory.facts)

    def trajectory(
        self,
        prompts: Sequence[Prompt],
        prompt_tokens: Tokens,
        responses: Tokens,
        facts: Mapping[str, Tensor],
    ) -> Trajectory:
        """Return tokens as a trajectory: prompts padded on the left, responses on the right."""
        before = padded(prompt_tokens, left=True, device=self.device)
        after = padded(responses, device=self.device)
        tensors = {
            "prompt": before.ids,
            "prompt_mask": before.mask,
            "response": after.ids,
            "response_mask": after.mask,
        }
        return Trajectory(prompts, tensors, after.mask, facts)


def strings_of(samples: Samples) -> Sequence[str]:
    """Return the samples' outputs, which have to be strings.

    Raises:
        InputError: if they are images.
    """
    if isinstance(samples.outputs, Tensor):
        raise InputError(
            f"CausalLMPolicy encodes strings; got images {list(samples.outputs.shape)}. "
            "Were they made for a diffusion model?"
        )
    return samples.outputs
