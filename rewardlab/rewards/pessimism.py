"""One cautious score from an ensemble's members."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor

from rewardlab.errors import InputError
from rewardlab.rewards.abilities import Saved
from rewardlab.rewards.base import Reward
from rewardlab.rewards.folders import check_parts, load_reward, read_settings, write_reward
from rewardlab.rewards.relative import spread_within
from rewardlab.rewards.scoring import judged_by, scored_part
from rewardlab.types import Samples

Kind = Literal["mean", "minimum", "mean_minus_variance", "mean_minus_std"]


class Pessimistic(Reward, Saved):
    """One score from the members of a reward: high only where they agree that it is.

    Members have to be on one scale, without the offset that each prompt may have in each:
    `Pessimistic(Relative(reward, …))`. `Cautious` brings them to one scale for all prompts. The
    result has one member, so whatever ranks by it, ranks by this score.

    Args:
        reward: with two or more members.
        kind: "mean"; "minimum" (worst case, WCO); "mean_minus_variance" (UWO), both of Coste et
            al., arXiv 2310.02743; or "mean_minus_std" (Adv-RM's baseline). Variance and deviation
            are the unbiased ones, over M - 1.
        weight: what variance or deviation is multiplied with. For the variance Coste et al. took
            0.1 with PPO, 0.5 for best-of-n. The other kinds take none.

    Raises:
        InputError: if the weight is missing or not needed, or (on use) there is one member only.

    Example:
        >>> from rewardlab.rewards import Ensemble
        >>> from rewardlab.rewards.rules import Length, Repetition
        >>> both = Ensemble([Length(), Repetition(n=1)])
        >>> samples = Samples([""], ["of of"])
        >>> Pessimistic(both, "minimum")(samples).item()
        -0.5
        >>> Pessimistic(both, "mean_minus_variance", 0.1)(samples).item()
        0.4375
    """

    takes_trust = True

    def __init__(self, reward: Reward, kind: Kind = "minimum", weight: float | None = None) -> None:
        super().__init__()
        _check_weight(kind, weight, "Pessimistic")
        self.reward = reward
        self.kind = kind
        self.weight = weight

    def forward(self, samples: Samples) -> Tensor:
        """Return the cautious score, float32 [B].

        Raises:
            InputError: if the reward has one member.
        """
        members = self.reward.members(samples)
        if self.kind != "mean":
            _check_several(self.reward, members.shape[1], "Pessimistic")
        return cautious_score(members, self.kind, self.weight)

    def check_savable(self) -> None:
        """Refuse a reward inside that cannot be saved."""
        check_parts([self.reward])

    def save_pretrained(self, folder: str | Path) -> None:
        """Write kind and weight and, into `folder`/reward, the reward.

        Raises:
            InputError: if the reward cannot be saved, or `folder` holds something else.
        """
        settings = {"kind": self.kind, "weight": self.weight}
        write_reward(folder, self, settings, {"reward": self.reward})

    @classmethod
    def from_pretrained(cls, folder: str | Path, trust: bool = False) -> Pessimistic:
        """Load what `save_pretrained` wrote, in eval mode."""
        settings = read_settings(folder, "kind", "weight")
        reward = load_reward(Path(folder) / "reward", trust=trust)
        return cls(reward, **settings).eval()


class MemberScale(NamedTuple):
    """The scale of an ensemble's members on reference outputs.

    Attributes:
        means: [M], of each member's scores.
        deviations: [M], above 0; each member's within a prompt, pooled over prompts.
    """

    means: Tensor
    deviations: Tensor


class _OnScale(Reward, Saved):
    """One score from a reward's members, each on its own scale over references.

    Args:
        reward: with two or more members.
        references: outputs of the first policy, or the members' scale.
        batch_size: references scored at once.
    """

    takes_trust = True
    means: Tensor
    deviations: Tensor

    def __init__(
        self, reward: Reward, references: Samples | MemberScale, batch_size: int = 256
    ) -> None:
        super().__init__()
        if isinstance(references, Samples):
            judged = judged_by(reward, reward.members, references, batch_size)
            scored = scored_part(references, judged, "references")
            references = scale_of(scored.scores, scored.samples)
        _check_several(reward, len(references.means), type(self).__name__)
        self.reward = reward
        self.register_buffer("means", references.means.float())
        self.register_buffer("deviations", references.deviations.float())

    def scaled_members(self, samples: Samples) -> Tensor:
        """Return the members' scores on their scale, float32 [B, M].

        Raises:
            InputError: if the scale is of another number of members.
        """
        members = self.reward.members(samples)
        if members.shape[1] != len(self.means):
            raise InputError(
                f"This scale was measured with {len(self.means)} members, and "
                f"{type(self.reward).__name__} has {members.shape[1]}. It belongs to one reward "
                "only; measure it anew."
            )
        return (members - self.means.to(members)) / self.deviations.to(members)

    def check_savable(self) -> None:
        """Refuse a reward inside that cannot be saved."""
        check_parts([self.reward])

    def write(self, folder: str | Path, settings: dict[str, Any]) -> None:
        """Write settings and the members' scale and, into `folder`/reward, the reward."""
        scale = {"means": self.means.tolist(), "deviations": self.deviations.tolist()}
        write_reward(folder, self, settings | scale, {"reward": self.reward})


class SoftMinimum(_OnScale):
    """The soft minimum -β·(logsumexp_k(-z_k/β) - log K) of the members' scores.

    arXiv 2606.09073. z_k is a member's score less its mean over the references, in its own pooled
    deviation within a prompt, so that β means the same for any reward. β → ∞ is the mean and β → 0
    the minimum; to second order it is the mean less the variance over 2β, `Pessimistic`'s
    mean_minus_variance. Unlike the minimum it lets every member pull, those that doubt the most:
    the gradient's weights are softmax(-z/β).

    Args:
        reward: with two or more members.
        references: outputs of the first policy, two or more of some prompt; or the members' scale.
        beta: β in the members' deviations, above 0.
        batch_size: references scored at once.

    Raises:
        InputError: if β is not above 0, there is one member only, or the references score alike.

    Example:
        >>> from rewardlab.rewards import Ensemble
        >>> from rewardlab.rewards.rules import Length, Repetition
        >>> both = Ensemble([Length(), Repetition(n=1)])
        >>> scale = MemberScale(torch.tensor([2.0, -0.5]), torch.tensor([1.0, 0.5]))
        >>> for beta in (0.01, 1.0, 100.0):
        ...     score = SoftMinimum(both, scale, beta)(Samples([""], ["of of of of"]))
        ...     print(round(score.item(), 3))
        -0.493
        0.114
        0.742
    """

    def __init__(
        self,
        reward: Reward,
        references: Samples | MemberScale,
        beta: float = 1.0,
        batch_size: int = 256,
    ) -> None:
        if not beta > 0:
            raise InputError(
                "SoftMinimum's beta is in the members' deviations and above 0; "
                f'got {beta:g}. Take 1, or Cautious(reward, references, "minimum") for the limit '
                "of 0."
            )
        super().__init__(reward, references, batch_size)
        self.beta = beta

    def forward(self, samples: Samples) -> Tensor:
        """Return the soft minimum over the members, float32 [B].

        Raises:
            InputError: if the scale is of another number of members.
        """
        return soft_minimum(self.scaled_members(samples), self.beta)

    def save_pretrained(self, folder: str | Path) -> None:
        """Write β and the members' scale and, into `folder`/reward, the reward.

        Raises:
            InputError: if the reward cannot be saved, or `folder` holds something else.
        """
        self.write(folder, {"beta": self.beta})

    @classmethod
    def from_pretrained(cls, folder: str | Path, trust: bool = False) -> SoftMinimum:
        """Load what `save_pretrained` wrote, in eval mode. The references are not needed again."""
        beta = read_settings(folder, "beta")["beta"]
        scale = _read_scale(folder)
        return cls(load_reward(Path(folder) / "reward", trust=trust), scale, beta).eval()


class Cautious(_OnScale):
    """`Pessimistic` of a reward's members, each on its own scale over references.

    A member's score is taken less its mean over the references, in its own pooled deviation within
    a prompt, as in `SoftMinimum`, so no member counts more because its scores are wider. As `use`
    of `AdvRMRounds` it gives the ensembles of Coste et al., arXiv 2310.02743, and Adv-RM's
    baseline. A mean less a spread can fall where one member rises, which `SoftMinimum` and the
    minimum never do.

    Args:
        reward: with two or more members.
        references: outputs of the first policy, two or more of some prompt; or the members' scale.
        kind: how members become one score: "mean_minus_std", "mean_minus_variance" (UWO), "minimum"
            (WCO) or "mean", as in `Pessimistic`.
        weight: what deviation or variance is multiplied with; by default 1 for them, and none for
            the other kinds.
        batch_size: references scored at once.

    Raises:
        InputError: if the kind takes no weight and one is given, there is one member only, or the
            references score alike.

    Example:
        >>> from rewardlab.rewards import Ensemble
        >>> from rewardlab.rewards.rules import Length, Repetition
        >>> both = Ensemble([Length(), Repetition(n=1)])
        >>> references = Samples(["a"] * 3, ["one", "two of two", "of of of of of"])
        >>> reward = Cautious(both, references, "minimum")
        >>> [round(score, 3) for score in reward(Samples([""] * 2, ["", "one two"])).tolist()]
        [-1.5, -0.5]
    """

    def __init__(
        self,
        reward: Reward,
        references: Samples | MemberScale,
        kind: Kind = "mean_minus_std",
        weight: float | None = None,
        batch_size: int = 256,
    ) -> None:
        if weight is None and kind.startswith("mean_minus"):
            weight = 1.0
        _check_weight(kind, weight, "Cautious")
        super().__init__(reward, references, batch_size)
        self.kind = kind
        self.weight = weight

    def forward(self, samples: Samples) -> Tensor:
        """Return the cautious score, float32 [B].

        Raises:
            InputError: if the scale is of another number of members.
        """
        return cautious_score(self.scaled_members(samples), self.kind, self.weight)

    def save_pretrained(self, folder: str | Path) -> None:
        """Write kind, weight and the members' scale and, into `folder`/reward, the reward.

        Raises:
            InputError: if the reward cannot be saved, or `folder` holds something else.
        """
        self.write(folder, {"kind": self.kind, "weight": self.weight})

    @classmethod
    def from_pretrained(cls, folder: str | Path, trust: bool = False) -> Cautious:
        """Load what `save_pretrained` wrote, in eval mode. The references are not needed again."""
        settings = read_settings(folder, "kind", "weight")
        scale = _read_scale(folder)
        return cls(load_reward(Path(folder) / "reward", trust=trust), scale, **settings).eval()


def cautious_score(members: Tensor, kind: Kind, weight: float | None = None) -> Tensor:
    """Return one score [B] from the members' scores [B, M]; see `Pessimistic` for the kinds.

    Example:
        >>> cautious_score(torch.tensor([[1.0, 3.0]]), "mean_minus_variance", 0.5).tolist()
        [1.0]
    """
    if kind == "mean":
        return members.mean(1)
    if kind == "minimum":
        return members.amin(1)
    assert weight is not None  # the constructors see to that
    spread = members.var(1) if kind == "mean_minus_variance" else members.std(1)
    return members.mean(1) - weight * spread


def soft_minimum(scores: Tensor, beta: float) -> Tensor:
    """Return -β·(logsumexp_k(-r_k/β) - log K) of scores [B, K]: [B].

    Example:
        >>> soft_minimum(torch.tensor([[3.0, 3.0]]), 0.5).tolist()
        [3.0]
    """
    total = torch.logsumexp(-scores / beta, dim=1)
    return -beta * (total - math.log(scores.shape[1]))


def scale_of(members: Tensor, references: Samples) -> MemberScale:
    """Return the members' scale from their scores [B, M] of the references.

    Raises:
        InputError: if no prompt has two references, or a member scores those of a prompt alike.
    """
    spread = spread_within(references.prompts, members)
    return MemberScale(members.double().mean(0), spread.deviations)


def _check_weight(kind: Kind, weight: float | None, who: str) -> None:
    """Refuse a weight where there is nothing to multiply, and none where there is."""
    if (weight is not None) != kind.startswith("mean_minus"):
        raise InputError(
            f"{who} takes a weight for mean_minus_variance and mean_minus_std, and only "
            f"there; got kind={kind!r} and weight={weight}."
        )


def _check_several(reward: Reward, count: int, who: str) -> None:
    """Refuse one member alone, which there is nothing to compare with."""
    if count < 2:
        raise InputError(
            f"{who} compares two or more members; {type(reward).__name__} has one. Give an "
            "Ensemble, or a reward with heads=2 or more."
        )


def _read_scale(folder: str | Path) -> MemberScale:
    """Return the members' scale from a reward folder's config."""
    settings = read_settings(folder, "means", "deviations")
    return MemberScale(torch.tensor(settings["means"]), torch.tensor(settings["deviations"]))
