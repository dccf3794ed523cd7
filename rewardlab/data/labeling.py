"""Samples of several sources, joined with their labels: what a discriminator trains on."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torch.utils.data import Dataset

from rewardlab.types import SOURCES, LabeledSamples, Samples, balanced, concatenate


class Source(NamedTuple):
    """Samples of one kind, with their label.

    Attributes:
        name: of `SOURCES`.
        data: N items, Samples of one row each.
        label: one number for all, or one for each [N].
    """

    name: str
    data: Dataset[Samples]
    label: float | Tensor


def labeled(sources: Sequence[Source], inputs: Sequence[Samples | Tensor]) -> LabeledSamples:
    """Return all sources joined, each row with its label and its source's number.

    Args:
        sources: samples with their labels, in the order of the rows.
        inputs: what a reward is shown of each source: its samples, or their features [N, ...].

    Example:
        >>> from rewardlab.data.loader import Rows
        >>> targets = Samples(["a", "b"], ["x", "y"])
        >>> generated = Samples(["a"], ["z"])
        >>> sources = [Source("target", Rows(targets), 1.0)]
        >>> sources.append(Source("generated", Rows(generated), 0.0))
        >>> labeled(sources, [targets, generated]).labels.tolist()
        [1.0, 1.0, 0.0]
    """
    labels = []
    numbers = []
    for source in sources:
        count: int = len(source.data)  # type: ignore[arg-type]
        labels.append(torch.ones(count) * source.label)
        numbers.append(torch.full((count,), SOURCES.index(source.name)))
    label = torch.cat(labels)
    return LabeledSamples(
        inputs=concatenate(inputs),
        labels=label,
        rows=torch.arange(len(label)),
        weights=balanced(label),
        sources=torch.cat(numbers),
    )
