"""The nouns: what flows between policies, rewards and losses. Frozen, and movable by Lightning
through `.to`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from rewardlab.errors import InputError

Index = slice | Sequence[int] | Tensor
SOURCES = ("target", "generated", "mismatched", "pseudo-labelled")  # of a discriminator's samples


@dataclass(frozen=True)
class Samples:
    """Prompts, each with one finished output in the form that a person would judge.

    Latents and token ids never leave the policy that made them.

    Attributes:
        prompts: B strings; the empty string where there is no prompt.
        outputs: images [B, C, H, W] or videos [B, F, C, H, W], floats in [0, 1]; or B strings.
        facts: named columns [B] that survive decoding, mining and files, such as "seed", "row" or
            "finished".

    Raises:
        InputError: if the columns disagree in length, or images have other than 4 or 5 dimensions.

    Example:
        >>> samples = Samples(["a cat", "a dog"], torch.rand(2, 3, 8, 8), {"row": torch.arange(2)})
        >>> len(samples), samples[[1]].prompts, samples[:1].facts["row"].tolist()
        (2, ['a dog'], [0])
    """

    prompts: Sequence[str]
    outputs: Tensor | Sequence[str]
    facts: Mapping[str, Tensor] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if isinstance(self.outputs, Tensor) and (
            self.outputs.dim() not in (4, 5) or not self.outputs.is_floating_point()
        ):
            raise InputError(
                "Samples hold float images [B, C, H, W] or videos [B, F, C, H, W] in [0, 1], or strings; "
                f"got a {self.outputs.dtype} tensor {list(self.outputs.shape)}."
            )
        lengths = {"outputs": len(self.outputs)} | {
            name: len(column) for name, column in self.facts.items()
        }
        wrong = {name: length for name, length in lengths.items() if length != len(self.prompts)}
        if wrong:
            raise InputError(
                f"Samples need one entry a prompt in every column; got {len(self.prompts)} prompts and {wrong}."
            )

    def __len__(self) -> int:
        return len(self.prompts)

    def __getitem__(self, index: Index) -> Samples:
        facts = {name: take(column, index) for name, column in self.facts.items()}
        return Samples(take(self.prompts, index), take(self.outputs, index), facts)

    def to(self, device: torch.device | str, **kwargs: Any) -> Samples:
        outputs = (
            self.outputs.to(device, **kwargs) if isinstance(self.outputs, Tensor) else self.outputs
        )
        return Samples(
            self.prompts,
            outputs,
            {name: column.to(device, **kwargs) for name, column in self.facts.items()},
        )

    def with_facts(self, **facts: Tensor) -> Samples:
        """Return the same samples with further columns [B]; an existing name is replaced."""
        return Samples(self.prompts, self.outputs, {**self.facts, **facts})


@dataclass(frozen=True)
class PreferencePairs:
    """Two samples for each prompt, the first preferred to the second.

    Raises:
        InputError: if the halves differ in their prompts or in the prompts' order.

    Example:
        >>> pairs = PreferencePairs(Samples(["hi"], ["hello"]), Samples(["hi"], ["go away"]))
        >>> len(pairs), pairs[:1].chosen.outputs
        (1, ['hello'])
    """

    chosen: Samples
    rejected: Samples

    def __post_init__(self) -> None:
        if list(self.chosen.prompts) != list(self.rejected.prompts):
            raise InputError(
                "PreferencePairs compare two outputs of one prompt; chosen and rejected differ in prompts or in their order."
            )

    def __len__(self) -> int:
        return len(self.chosen)

    def __getitem__(self, index: Index) -> PreferencePairs:
        return PreferencePairs(self.chosen[index], self.rejected[index])

    def to(self, device: torch.device | str, **kwargs: Any) -> PreferencePairs:
        return PreferencePairs(self.chosen.to(device, **kwargs), self.rejected.to(device, **kwargs))


@dataclass(frozen=True)
class Trajectory:
    """The T steps by which a policy produced, or could have produced, each of B outputs.

    A step is a token or a denoising transition. Only the policy that made the trajectory reads
    `tensors`.

    Attributes:
        prompts: B strings.
        tensors: whatever the policy needs to score the steps, each with B as its first dimension.
        mask: bool [B, T], true where a step counts.
        facts: the columns of the Samples that it was encoded from, or that decoding will hand on.
    """

    prompts: Sequence[str]
    tensors: Mapping[str, Tensor]
    mask: Tensor
    facts: Mapping[str, Tensor] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.prompts)

    def __getitem__(self, index: Index) -> Trajectory:
        tensors = {name: take(tensor, index) for name, tensor in self.tensors.items()}
        facts = {name: take(column, index) for name, column in self.facts.items()}
        return Trajectory(take(self.prompts, index), tensors, take(self.mask, index), facts)

    def to(self, device: torch.device | str, **kwargs: Any) -> Trajectory:
        tensors = {name: tensor.to(device, **kwargs) for name, tensor in self.tensors.items()}
        facts = {name: column.to(device, **kwargs) for name, column in self.facts.items()}
        return Trajectory(self.prompts, tensors, self.mask.to(device, **kwargs), facts)


@dataclass(frozen=True)
class Rollout:
    """A trajectory that was sampled, with what was known at the time. Never changed afterwards.

    Attributes:
        trajectory: B rows of T steps.
        log_prob: float32 [B, T], under the policy that sampled it.
        reference_log_prob: float32 [B, T].
        scores: float32 [B], from the reward.
        advantages: float32 [B, T], or [B, 1] where every step of a row shares one.
    """

    trajectory: Trajectory
    log_prob: Tensor
    reference_log_prob: Tensor
    scores: Tensor
    advantages: Tensor

    def __len__(self) -> int:
        return len(self.trajectory)

    def __getitem__(self, index: Index) -> Rollout:
        columns = (self.log_prob, self.reference_log_prob, self.scores, self.advantages)
        return Rollout(self.trajectory[index], *(take(column, index) for column in columns))


@dataclass(frozen=True)
class Labelled:
    """What a discriminator learns from: inputs with soft labels. GAN-RM, arXiv 2506.13846, section
    3.2.

    Attributes:
        inputs: Samples, or the features [B, ...] of a reward's frozen part.
        labels: float32 [B] in [0, 1]; 1 is a target sample, 0 the generator's own.
        rows: int64 [B], a number of the sample that stays the same across epochs and processes.
        weights: float32 [B], how much the sample counts; see `balanced`.
        sources: int64 [B], what the sample is, as a place in `SOURCES`. A mismatched one is a
            target under another's prompt.
    """

    inputs: Samples | Tensor
    labels: Tensor
    rows: Tensor
    weights: Tensor
    sources: Tensor

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: Index) -> Labelled:
        columns = (self.labels, self.rows, self.weights, self.sources)
        return Labelled(take(self.inputs, index), *(take(column, index) for column in columns))

    def to(self, device: torch.device | str, **kwargs: Any) -> Labelled:
        inputs = self.inputs.to(device, **kwargs)
        columns = (self.labels, self.rows, self.weights, self.sources)
        return Labelled(inputs, *(column.to(device, **kwargs) for column in columns))

    def of(self, source: str) -> Tensor:
        """Return where the samples are of that source, bool [B]."""
        return self.sources == SOURCES.index(source)


def balanced(labels: Tensor) -> Tensor:
    """Weights [B] that give both classes half of the mass, so that the best logit is log p/q
    whatever the class prior.

    A label y counts y of a target and 1 - y of a generated sample. With weights N·y/(2·Σy) + N·(1 -
    y)/(2·Σ(1 - y)) the prior's log-odds drop out of the optimum of the cross-entropy; balanced
    labels get 1.

    Example:
        >>> balanced(torch.tensor([1.0, 0.0, 0.0, 0.0])).tolist()
        [2.0, 0.6666666865348816, 0.6666666865348816, 0.6666666865348816]
    """
    positive = labels.sum().clamp_min(1e-8)
    negative = (1 - labels).sum().clamp_min(1e-8)
    return len(labels) / 2 * (labels / positive + (1 - labels) / negative)


def take(column: Any, index: Index) -> Any:
    """Return the rows `index` of a tensor, of a list, or of another noun. A mask of booleans keeps
    the rows where it is true.

    Example:
        >>> take(["a", "b", "c"], torch.tensor([2, 0])), take(["a", "b", "c"], torch.tensor([True, False, True]))
        (['c', 'a'], ['a', 'c'])
    """
    if not isinstance(column, Sequence) or isinstance(index, slice):
        return column[index]
    chosen = torch.as_tensor(index)
    rows = chosen.nonzero().flatten() if chosen.dtype == torch.bool else chosen
    return [column[int(row)] for row in rows.tolist()]


def concatenate(parts: Sequence[Any]) -> Any:
    """Join nouns of one kind along the batch: Samples, PreferencePairs, Trajectories, Rollouts,
    Labelled, tensors, lists.

    Facts that some parts lack are dropped.

    Example:
        >>> concatenate([Samples(["a"], ["x"]), Samples(["b"], ["y"])]).outputs
        ['x', 'y']
    """
    first = parts[0]
    if isinstance(first, Tensor):
        return torch.cat(list(parts))
    if isinstance(first, Mapping):
        shared = [name for name in first if all(name in part for part in parts)]
        return {name: concatenate([part[name] for part in parts]) for name in shared}
    if isinstance(first, Sequence):
        return [item for part in parts for item in part]
    return type(first)(
        *(
            concatenate([getattr(part, name) for part in parts])
            for name in first.__dataclass_fields__
        )
    )
