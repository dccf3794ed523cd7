"""Abilities: what a reward can do beside scoring. Loops and tools ask with `isinstance`."""

from __future__ import annotations

from abc import ABC, abstractmethod
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from torch import Tensor
from torch.nn import Parameter

from rewardlab.errors import InputError
from rewardlab.networks.text_format import FormatsTexts
from rewardlab.types import Samples

if TYPE_CHECKING:
    from rewardlab.rewards.formatting import TokenRows
    from rewardlab.rewards.unscored import Judged


class FrozenFeatures(ABC):
    """A reward whose first part is frozen, so that its output can be computed once and cached.

    `score_features(features(samples))` equals `members(samples)`.
    """

    @property
    def has_features(self) -> bool:
        """Tell whether the first part is frozen now. Features of a part that trains go stale."""
        return True

    @abstractmethod
    def features(self, samples: Samples) -> Tensor:
        """Return what the frozen part computes, float32 [B, ...], a row a sample."""

    def score_features(self, features: Tensor) -> Tensor:
        """Return the members' scores, float32 [B, M], from features [B, ...].

        Raises:
            NotImplementedError: by default. A reward that only lends its features, as a judge does
                for distances, needs no more; one that is trained on them does.
        """
        raise NotImplementedError(f"{type(self).__name__} does not score features.")

    def fit_feature_scale(self, features: Tensor) -> None:  # noqa: B027 (may be left as it is)
        """Set how features are scaled, from those of the training samples [N, ...].

        By default they are used as they are.
        """

    def frozen_fingerprint(self) -> str | None:
        """Return a hash of all that `features` depends on beside the samples.

        By default there is none: then features are not cached in files, and a checkpoint does not
        say what frozen part it belongs to.
        """
        return None


class Calibrated(ABC):
    """A reward that keeps mean and deviation of typical scores, for `Standardized`.

    Attributes:
        score_mean: the mean, a scalar tensor.
        score_std: the standard deviation, a scalar tensor; 0 until it is set.
    """

    score_mean: Tensor
    score_std: Tensor

    @abstractmethod
    def calibrate(self, scores: Tensor) -> None:
        """Save mean and deviation of scores [N] of typical samples.

        Raises:
            InputError: if they are not finite or all equal.
        """


class Saved(ABC):
    """A reward that can be written into a folder, from which `load_reward` gives it back.

    Attributes:
        takes_trust: whether `from_pretrained` takes `trust=` too, because the folder may name what
            runs foreign code or sends data away: parts of other classes, functions, servers.
    """

    takes_trust: ClassVar[bool] = False

    @abstractmethod
    def save_pretrained(self, folder: str | Path) -> None:
        """Write the reward into `folder`, whole or not at all."""

    def check_savable(self) -> None:  # noqa: B027 (may be left as it is)
        """Refuse a reward that cannot be saved, before anything is written.

        By default every reward of the class can be. A reward that is made of others asks them.

        Raises:
            InputError: saying why it cannot be saved and what to do instead.
        """

    @classmethod
    def from_pretrained(cls, folder: str | Path) -> Any:
        """Load what `save_pretrained` wrote, in eval mode.

        Raises:
            InputError: by default, since a class has to say how it is loaded.
        """
        raise InputError(
            f"{folder} holds a {cls.__name__}, which is saved and does not say how it is loaded. "
            "Give the class a from_pretrained(folder)."
        )


class PromptFeatures(ABC):
    """A reward that sees prompts through a frozen part, for `prompt_probe_auc`."""

    @abstractmethod
    def prompt_features(self, prompts: list[str]) -> Tensor:
        """Return the embeddings of prompts, float32 [B, D]."""


class StartsAtZero(ABC):
    """A reward whose untrained heads can be set to score everything 0.

    A correction of another reward begins like this, so that it changes nothing until it has learnt.
    """

    @abstractmethod
    def start_at_zero(self) -> None:
        """Set the last trained layer to 0."""


class TextLikelihood(ABC):
    """A reward on a language model that can keep that model's head, for GRM's regularizer."""

    @abstractmethod
    def keep_language_head(self) -> None:
        """Keep the language model's head beside the reward's own, until the process ends.

        Raises:
            InputError: if the model has none, or nothing that the likelihood depends on is trained.
        """

    @abstractmethod
    def members_and_likelihoods(self, samples: Samples, count: int) -> tuple[Tensor, Tensor]:
        """Return the members' scores [B, M], and log p of the first `count` responses [count].

        One forward pass gives both. The likelihoods are means over a response's tokens, in nats.
        """


class EmbedsTokens(ABC):
    """A reward whose network sees texts by token embeddings, to which its scores have gradients.

    `TokenGradient` asks for it. A reward that is made of such ones, as an `Attack` is, needs no
    more: the gradient flows through it.

    Attributes:
        tokenizer: of transformers, which `token_rows` come from.
    """

    tokenizer: Any

    @abstractmethod
    def token_rows(self, samples: Samples) -> TokenRows:
        """Return the token ids that are scored, and where in each row the response starts."""

    @abstractmethod
    def embedded(self) -> AbstractContextManager[list[Tensor]]:
        """Return a context in which scores have gradients to token embeddings.

        Its list gets the embeddings [B, T, D] of each pass of the network, rows as `token_rows`
        says, padded on the right. The network's own weights need no gradient.
        """

    @abstractmethod
    def token_embeddings(self) -> Tensor:
        """Return the embedding of each token of the vocabulary, [V, D]."""


class HeadInputs(ABC):
    """A reward that says what its heads see, so that another head can take their place."""

    @property
    @abstractmethod
    def head_width(self) -> int:
        """Return D, the length of what the heads see."""

    @abstractmethod
    def head_inputs(self, samples: Samples) -> Tensor:
        """Return what the heads see, float32 [B, D], with the gradients of what is trained."""

    def head_inputs_of(self, features: Tensor) -> Tensor:
        """Return the same from the features [B, ...] of a frozen part: by default those."""
        return features

    @abstractmethod
    def head_parameters(self) -> list[Parameter]:
        """Return the parameters of the heads, which another head leaves unused."""


class DrawsNoise(ABC):
    """A reward that draws noise while it is trained, and brings a term of the loss with it.

    Scores outside of training draw nothing.
    """

    @abstractmethod
    def drawn_members(self, inputs: Samples | Tensor, seeds: Tensor) -> tuple[Tensor, Tensor]:
        """Return the members' scores [B, M] with noise, and each row's term of the loss [B].

        Args:
            inputs: samples, or the features of their frozen part.
            seeds: int64 [B], one a row; equal seeds draw equal noise.
        """


class Partial(ABC):
    """A reward that may leave a sample unscored, with a reason, instead of stopping.

    Such samples are left out where they may be: of advantages, of mining, of means (see
    docs/guide/not_scored.md). Its `forward` is `rewardlab.rewards.unscored.partial_scores(self,
    samples)`, which refuses them everywhere else. What is made of such a reward needs no more: a
    missing score travels through it as NaN.

    Attributes:
        most_unscored: share of samples that may go unscored before a sentence ends the run. 0, the
            default, ends it at the first.

    Example:
        >>> import torch
        >>> from rewardlab.rewards import Judged, Reward
        >>> from rewardlab.rewards.scoring import judged
        >>> from rewardlab.rewards.unscored import partial_scores
        >>> class Polite(Reward, Partial):
        ...     most_unscored = 0.5
        ...     def judge(self, samples):
        ...         reasons = ["" if text else "there is no text" for text in samples.outputs]
        ...         thanks = [float(text.count("thank")) for text in samples.outputs]
        ...         return Judged(torch.tensor(thanks), reasons)
        ...     def forward(self, samples):
        ...         return partial_scores(self, samples)
        >>> judged(Polite(), Samples(["", ""], ["thank you", ""]))
        Judged(scores=tensor([1., nan]), reasons=['', 'Polite: there is no text'])
    """

    most_unscored: float = 0.0

    @abstractmethod
    def judge(self, samples: Samples) -> Judged:
        """Return the scores, and why a sample has none."""


ABILITIES = (
    FrozenFeatures,
    Calibrated,
    Saved,
    PromptFeatures,
    StartsAtZero,
    TextLikelihood,
    EmbedsTokens,
    HeadInputs,
    DrawsNoise,
    Partial,
    FormatsTexts,
)
EARLIER = {"standardise": "fit_feature_scale", "set_standardisation": "calibrate"}


def frozen_features(reward: object) -> FrozenFeatures | None:
    """Return the reward as one with features, or None if it has none or they would go stale.

    Example:
        >>> from rewardlab.rewards import Length
        >>> frozen_features(Length()) is None
        True
    """
    if isinstance(reward, FrozenFeatures) and reward.has_features:
        return reward
    return None
