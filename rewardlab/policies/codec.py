"""Texts to trajectories of tokens, and back."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from rewardlab.conversations import Prompt
from rewardlab.errors import InputError
from rewardlab.networks.chat import TextTokens, finished_of
from rewardlab.networks.text_format import TokenCounts
from rewardlab.networks.tokens import Padded, padded, unpadded
from rewardlab.policies import text
from rewardlab.policies.text import Tokens
from rewardlab.types import Samples, Trajectory


@dataclass(frozen=True, eq=False)
class Codec:
    """The tokens of prompts and responses.

    Attributes:
        texts: how prompts and responses become tokens.
        ends: tokens that end a response; the first marks the end of an encoded one.
        stop: texts that end a response, and are no part of it.
        limit: most tokens of a prompt and its response, None for no limit.
        device: where trajectories are.
    """

    texts: TextTokens
    ends: Sequence[int]
    stop: Sequence[str]
    limit: int | None
    device: torch.device

    def prompts(self, prompts: Sequence[Prompt]) -> Tokens:
        """Return the tokens of each prompt.

        Raises:
            InputError: if one leaves no room for a response.
        """
        tokens = self.texts.prompt_ids(prompts)
        text.check_fit(tokens, [1] * len(tokens), prompts, self.limit)
        return tokens

    def encode(self, samples: Samples) -> Trajectory:
        """Return the trajectories that end in the samples.

        Each has an end token, unless the fact "finished" says that nothing ended it; a response
        without tokens has one in any case.

        Raises:
            InputError: if the outputs are no strings, or prompt and response are too long together.
        """
        prompts, responses = self._tokens(samples)
        lengths = [len(response) for response in responses]
        numbers = None
        if "row" in samples.facts:
            numbers = samples.facts["row"].tolist()
        text.check_fit(prompts, lengths, strings_of(samples), self.limit, numbers)
        return self.trajectory(samples.prompts, prompts, responses, samples.facts)

    def counts(self, samples: Samples) -> TokenCounts:
        """Return how many tokens each prompt has, alone and with its response and end."""
        prompts, responses = self._tokens(samples)
        lengths = [len(prompt) for prompt in prompts]
        rows = [length + len(row) for length, row in zip(lengths, responses, strict=True)]
        return TokenCounts(lengths, rows)

    def fits(self, samples: Samples) -> Tensor:
        """Return which rows are short enough as they are, bool [B]."""
        prompts, responses = self._tokens(samples)
        lengths = [len(response) for response in responses]
        return torch.tensor(text.fits(prompts, lengths, self.limit), dtype=torch.bool)

    def decode(self, trajectory: Trajectory) -> Samples:
        """Return the responses' texts, each up to the first stop string."""
        tensors = trajectory.tensors
        prompts = unpadded(Padded(tensors["prompt"], tensors["prompt_mask"]))
        rows = unpadded(Padded(tensors["response"], tensors["response_mask"]))
        texts = []
        for prompt, row in zip(prompts, rows, strict=True):
            if row and row[-1] in self.ends:
                row = row[:-1]
            texts.append(text.until_stop(self.texts.response_text(prompt, row), self.stop))
        return Samples(trajectory.prompts, texts, trajectory.facts)

    def _tokens(self, samples: Samples) -> tuple[Tokens, Tokens]:
        """Return the tokens of prompts and of responses with their ends."""
        outputs = strings_of(samples)
        prompts, responses = self.texts.pair_ids(samples.prompts, outputs)
        for response, ends in zip(responses, finished_of(samples), strict=True):
            if ends or not response:
                response.append(self.ends[0])
        return prompts, responses

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
