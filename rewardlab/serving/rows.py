"""What a server scores: one output, as its request meant it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from rewardlab.conversations import Prompt
from rewardlab.networks.chat import TextTokens
from rewardlab.networks.text_format import FormatsTexts
from rewardlab.networks.whole_texts import MAY_BE_CUT, WHOLE, parts_of
from rewardlab.types import Samples


class Row(NamedTuple):
    """One output that is to be scored.

    Attributes:
        prompt: a text or a conversation; "" where there is none, or where the output holds it.
        output: a text; an image [C, H, W] or a video [F, C, H, W], float32 in [0, 1].
        finished: whether a text ended by itself.
        whole: 0 for a response; WHOLE or MAY_BE_CUT for a text that holds its prompt.
        note: what its sender should know of how it is read, "" for nothing.
    """

    prompt: Prompt
    output: str | Tensor
    finished: bool = True
    whole: int = 0
    note: str = ""

    @property
    def kind(self) -> tuple[int, ...]:
        """Return what rows of one batch have in common: () for texts, else the output's shape."""
        return () if isinstance(self.output, str) else tuple(self.output.shape)


class Score(NamedTuple):
    """What a reward says of a row.

    Attributes:
        value: a finite float32 number, None where the row is not scored.
        reason: why it is not scored, "" where it is.
    """

    value: float | None
    reason: str = ""


def samples_of(rows: Sequence[Row]) -> Samples:
    """Return rows of one kind as samples.

    Example:
        >>> samples_of([Row("hi", "hello")]).outputs
        ['hello']
    """
    prompts = [row.prompt for row in rows]
    if rows[0].kind:
        pictures = [row.output for row in rows if isinstance(row.output, Tensor)]
        return Samples(prompts, torch.stack(pictures))
    texts = [row.output for row in rows if isinstance(row.output, str)]
    facts = {}
    if not all(row.finished for row in rows):
        facts["finished"] = torch.tensor([row.finished for row in rows])
    if any(row.whole for row in rows):
        facts["whole"] = torch.tensor([row.whole for row in rows])
    return Samples(prompts, texts, facts)


def whole_row(text: str, may_be_cut: bool = False) -> Row:
    """Return a row of a text that holds its prompt, as its sender formatted it."""
    return Row("", text, whole=MAY_BE_CUT if may_be_cut else WHOLE)


def glued_row(reward: nn.Module, text: str, prompt: Prompt | None) -> Row:
    """Return a row of a text that holds its prompt, parted where the prompt is known.

    A text that does not begin with the prompt that was sent for it is scored whole, with a note.

    Args:
        reward: whose chat template tells where a turn ends.
        text: a prompt with its response.
        prompt: as it stands in the text, None where it was not sent.
    """
    if not prompt:
        return whole_row(text)
    texts = text_tokens(reward)
    parts: tuple[Any, ...] | None = None
    if texts is not None:
        parts = parts_of(texts, text, prompt)
    elif isinstance(prompt, str) and text.startswith(prompt):
        parts = (prompt, text.removeprefix(prompt))
    if parts is not None:
        return Row(*parts)
    note = f"the query {text[:60]!r} does not begin with its prompt, {str(prompt)[:60]!r}"
    return whole_row(text)._replace(note=note)


def text_tokens(reward: nn.Module) -> TextTokens | None:
    """Return how the first part of a reward that formats texts reads them, None without one.

    A reward behind another server formats them too, if it has a template.
    """
    for part in reward.modules():
        tokens = getattr(part, "texts", None)
        if isinstance(tokens, TextTokens):
            return tokens
        if isinstance(part, FormatsTexts):
            return None
    return None
