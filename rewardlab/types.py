"""The frozen nouns between policies, rewards and losses; Lightning moves them by `.to`."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain
from typing import Any, Generic, NamedTuple, TypeVar

import torch
from torch import Tensor

from rewardlab.conversations import Prompt, check_prompts
from rewardlab.errors import InputError
from rewardlab.output_checks import check_images, check_range, check_texts

Index = slice | Sequence[int] | Tensor
_Noun = TypeVar("_Noun", bound=Any)
_Value = TypeVar("_Value", bound=Hashable)

SOURCES = ("target", "generated", "mismatched", "pseudo-labelled")  # of a discriminator's samples

# The facts that the package writes, each with its meaning. A fact is a column [B] of Samples.
FACTS = {
    "row": "int64: number of the sample or pair in its data set, from which its noise is seeded",
    "seed": "int64: seed that the output was drawn with",
    "inner_seed": "int64: seed that the policy inside of a wrapper drew the output with",
    "group": "int64: number of the prompt that the candidate belongs to",
    "step": "int64: training step at which the adversary drew the sample",
    "length": "int64: tokens of the response, with the end token",
    "latent": "float32 [B, D]: point of a generator's latent space that the output was made from",
    "finished": "bool: whether the response ended by itself, by an end token or a stop string",
    "whole": "int64: 1 for a prompt with its response as one formatted text, 2 if it may be cut",
    "score": "float32: score by the reward that chose the sample",
    "attack": "float32: score by the reward that an attacker maximizes",
    "target": "float32: score by the reward that is attacked",
    "witness": "float32: score by the reward that doubts the attacked one",
    "disagreement": "float32: target minus witness, in deviations of the references' disagreement",
    "doubt": "float32: deviation of the proxy's members, each in its deviations within a prompt",
    "distance": "float32: how far an output lies from the others in the proxy's frozen features",
    "proxy": "float32: score by the reward that is optimized",
    "gold": "float32: score by the reward that stands for the truth",
    "margin": "float32, of the chosen half: by how much its score should lead the rejected one's",
    "label": "float32, of the chosen half: probability that it is preferred; 0.5 for a tie",
    "weight": "float32, of the chosen half: how much the pair counts when a reward is fitted",
    "extra": "int64, of the chosen half: 1 for an adversarial pair, 0 for a clean one",
}


@dataclass(frozen=True)
class Samples:
    """Prompts, each with one finished output in the form that a person would judge.

    Latents and token ids never leave the policy that made them.

    Attributes:
        prompts: B texts or conversations; the empty string where there is no prompt.
        outputs: images [B, C, H, W] or videos [B, F, C, H, W], floats in [0, 1]; or B strings.
        facts: named columns [B] that survive decoding, mining and files, such as "seed", "row" or
            "finished". `FACTS` lists the names with their meanings.

    Raises:
        InputError: if the columns disagree in length, or images have other than 4 or 5 dimensions.

    Example:
        >>> samples = Samples(["a cat", "a dog"], torch.rand(2, 3, 8, 8), {"row": torch.arange(2)})
        >>> len(samples), samples[[1]].prompts, samples[:1].facts["row"].tolist()
        (2, ['a dog'], [0])
    """

    prompts: Sequence[Prompt]
    outputs: Tensor | Sequence[str]
    facts: Mapping[str, Tensor] = field(default_factory=dict)

    def __post_init__(self) -> None:
        check_prompts(self.prompts)
        if isinstance(self.outputs, Tensor):
            check_images(self.outputs)
        else:
            check_texts(self.outputs)
        lengths = {"outputs": len(self.outputs)}
        for name, column in self.facts.items():
            lengths[name] = len(column)
        wrong = {name: length for name, length in lengths.items() if length != len(self.prompts)}
        if wrong:
            raise InputError(
                "Samples need one entry a prompt in every column; "
                f"got {len(self.prompts)} prompts and {wrong}."
            )

    def __len__(self) -> int:
        return len(self.prompts)

    def __getitem__(self, index: Index) -> Samples:
        return _each_column(self, lambda column: take(column, index))

    def to(self, device: torch.device | str, **kwargs: Any) -> Samples:
        return _each_column(self, lambda column: _move(column, device, kwargs))

    def with_facts(self, **facts: Tensor) -> Samples:
        """Return the same samples with further columns [B]; an existing name is replaced."""
        return Samples(self.prompts, self.outputs, {**self.facts, **facts})

    def numbered(self, first: int = 0) -> Samples:
        """Return the same samples with the fact "row" in their order, from `first` upwards."""
        return self.with_facts(row=torch.arange(first, first + len(self)))


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
                "PreferencePairs compare two outputs of one prompt; "
                "chosen and rejected differ in prompts or in their order."
            )

    def __len__(self) -> int:
        return len(self.chosen)

    def __getitem__(self, index: Index) -> PreferencePairs:
        return PreferencePairs(self.chosen[index], self.rejected[index])

    def to(self, device: torch.device | str, **kwargs: Any) -> PreferencePairs:
        return PreferencePairs(self.chosen.to(device, **kwargs), self.rejected.to(device, **kwargs))

    def numbered(self, first: int = 0) -> PreferencePairs:
        """Return the same pairs with the fact "row" on both halves, from `first` upwards."""
        return PreferencePairs(self.chosen.numbered(first), self.rejected.numbered(first))


@dataclass(frozen=True)
class Trajectory:
    """The T steps by which a policy produced, or could have produced, each of B outputs.

    A step is a token or a denoising transition. Only the policy that made the trajectory reads
    `tensors`.

    Attributes:
        prompts: B texts or conversations.
        tensors: whatever the policy needs to score the steps, each with B as its first dimension.
        mask: bool [B, T], true where a step counts.
        facts: the columns of the Samples that it was encoded from, or that decoding will hand on.
    """

    prompts: Sequence[Prompt]
    tensors: Mapping[str, Tensor]
    mask: Tensor
    facts: Mapping[str, Tensor] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.prompts)

    def __getitem__(self, index: Index) -> Trajectory:
        return _each_column(self, lambda column: take(column, index))

    def to(self, device: torch.device | str, **kwargs: Any) -> Trajectory:
        return _each_column(self, lambda column: _move(column, device, kwargs))


@dataclass(frozen=True)
class Rollout:
    """A sampled trajectory with what was measured at the time; it is never changed afterwards.

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
        return _each_column(self, lambda column: take(column, index))


@dataclass(frozen=True)
class LabeledSamples:
    """Inputs with soft labels, for a discriminator: GAN-RM, arXiv 2506.13846, section 3.2.

    Attributes:
        inputs: Samples, or the features [B, ...] of a reward's frozen part.
        labels: float32 [B] in [0, 1]; 1 is a target sample, 0 the generator's own.
        rows: int64 [B], a number of the sample that stays the same across epochs and processes.
        weights: float32 [B], how much the sample counts; see `balanced`.
        sources: int64 [B], what the sample is, as a position in `SOURCES`. A mismatched sample is a
            target under another target's prompt.
    """

    inputs: Samples | Tensor
    labels: Tensor
    rows: Tensor
    weights: Tensor
    sources: Tensor

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: Index) -> LabeledSamples:
        return _each_column(self, lambda column: take(column, index))

    def to(self, device: torch.device | str, **kwargs: Any) -> LabeledSamples:
        return _each_column(self, lambda column: _move(column, device, kwargs))

    def of(self, source: str) -> Tensor:
        """Return the mask bool [B] of the samples from `source`, a name in `SOURCES`."""
        return self.sources == SOURCES.index(source)


Labelled = LabeledSamples  # the name of earlier versions


def balanced(labels: Tensor) -> Tensor:
    """Return weights [B] under which the best logit is log p/q, whatever the class prior.

    A label y counts y of a target and 1 - y of a generated sample. The weights
    N·y/(2·Σy) + N·(1 - y)/(2·Σ(1 - y)) give both classes half of the mass. So the prior's log-odds
    drop out of the optimum of the cross-entropy. Balanced labels get 1.

    Example:
        >>> balanced(torch.tensor([1.0, 0.0, 0.0, 0.0])).tolist()
        [2.0, 0.6666666865348816, 0.6666666865348816, 0.6666666865348816]
    """
    positive = labels.sum().clamp_min(1e-8)
    negative = (1 - labels).sum().clamp_min(1e-8)
    return len(labels) / 2 * (labels / positive + (1 - labels) / negative)


def take(column: Any, index: Index) -> Any:
    """Return the rows `index` of a tensor, of a list, or of another noun.

    A mask of booleans keeps the rows where it is true.

    Example:
        >>> take("abc", torch.tensor([2, 0])), take("abc", torch.tensor([True, False, True]))
        (['c', 'a'], ['a', 'c'])
    """
    if not isinstance(column, Sequence) or isinstance(index, slice):
        return column[index]
    rows = torch.as_tensor(index)
    if rows.dtype == torch.bool:
        rows = rows.nonzero().flatten()
    return [column[int(row)] for row in rows.tolist()]


def concatenate(parts: Sequence[Any]) -> Any:
    """Return nouns of one kind joined along the batch.

    Facts that some parts lack are dropped.

    Args:
        parts: one or more Samples, PreferencePairs, Trajectories, Rollouts, LabeledSamples, tensors
            or lists.

    Example:
        >>> concatenate([Samples(["a"], ["x"]), Samples(["b"], ["y"])]).outputs
        ['x', 'y']
    """
    first = parts[0]
    if isinstance(first, Tensor):
        return torch.cat(list(parts))
    if isinstance(first, Mapping):
        return _join_shared(parts)
    if isinstance(first, Sequence):
        return list(chain.from_iterable(parts))
    columns = {}
    for name in first.__dataclass_fields__:
        columns[name] = concatenate([getattr(part, name) for part in parts])
    return type(first)(**columns)


def _join_shared(parts: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return the columns that all mappings have, joined, in the order of the first."""
    joined = {}
    for name in parts[0]:
        if all(name in part for part in parts):
            joined[name] = concatenate([part[name] for part in parts])
    return joined


class Distinct(NamedTuple, Generic[_Value]):
    """Distinct values, and where each row stands among them.

    Attributes:
        values: P values in the order of their first rows, none twice.
        first_rows: P row numbers, the first row that has each value.
        places: B numbers, the position in `values` of each row's value.
    """

    values: list[_Value]
    first_rows: list[int]
    places: list[int]


def distinct(values: Sequence[_Value]) -> Distinct[_Value]:
    """Return the distinct values, the first row of each, and each row's place among them.

    Example:
        >>> distinct(["a", "b", "a"])
        Distinct(values=['a', 'b'], first_rows=[0, 1], places=[0, 1, 0])
    """
    numbers: dict[_Value, int] = {}
    first_rows = []
    places = []
    for row, value in enumerate(values):
        if value not in numbers:
            numbers[value] = len(numbers)
            first_rows.append(row)
        places.append(numbers[value])
    return Distinct(list(numbers), first_rows, places)


def images_of(samples: Samples, who: str, channels: str = "C") -> Tensor:
    """Return the samples' images or videos; the error names the caller `who` and `channels`.

    Raises:
        InputError: if they are strings, or pixels lie outside [0, 1].

    Example:
        >>> images_of(Samples([""], torch.rand(1, 3, 8, 8)), "Brightness").shape
        torch.Size([1, 3, 8, 8])
    """
    if isinstance(samples.outputs, Tensor):
        check_range(samples.outputs, who)
        return samples.outputs
    raise InputError(
        f"{who} scores images [B, {channels}, H, W] in [0, 1]; "
        f"got a list of {len(samples)} strings. Is the policy a language model?"
    )


def texts_of(samples: Samples, who: str) -> Sequence[str]:
    """Return the samples' texts; the error names the caller `who`.

    Raises:
        InputError: if they are images or videos.

    Example:
        >>> texts_of(Samples(["hi"], ["hello"]), "Length")
        ['hello']
    """
    if not isinstance(samples.outputs, Tensor):
        return samples.outputs
    raise InputError(
        f"{who} scores texts, a list of B strings; got images {list(samples.outputs.shape)}. "
        "Is the policy an image model?"
    )


def kind_of(samples: Samples) -> str:
    """Return what the outputs are, for messages: "texts", or "images" with the shape of one.

    Example:
        >>> kind_of(Samples(["hi"], ["hello"])), kind_of(Samples([""], torch.rand(1, 3, 8, 8)))
        ('texts', 'images [3, 8, 8]')
    """
    if isinstance(samples.outputs, Tensor):
        return f"images {list(samples.outputs.shape[1:])}"
    return "texts"


def _each_column(noun: _Noun, change: Callable[[Any], Any]) -> _Noun:
    """Return the noun with `change` applied to each column, and to those of its mappings."""
    columns = {}
    for name, value in vars(noun).items():
        if isinstance(value, Mapping):
            columns[name] = {key: change(column) for key, column in value.items()}
        else:
            columns[name] = change(value)
    changed: _Noun = type(noun)(**columns)
    return changed


def _move(column: Any, device: torch.device | str, options: dict[str, Any]) -> Any:
    """Return a tensor or a noun on `device`; strings stay where they are."""
    return column if isinstance(column, Sequence) else column.to(device, **options)
