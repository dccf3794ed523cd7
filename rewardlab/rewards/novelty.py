"""Novelty: how familiar an output looks, by its distance from reference features; and outliers."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal, NamedTuple

import torch
from safetensors.torch import load_file
from torch import Tensor

from rewardlab.errors import AlikeError, InputError
from rewardlab.rewards.abilities import Saved, frozen_features
from rewardlab.rewards.base import Reward
from rewardlab.rewards.feature_scale import feature_scale
from rewardlab.rewards.folders import check_parts, load_reward, read_settings, write_reward
from rewardlab.rewards.scoring import in_batches, scores_of
from rewardlab.seeds import derive, row_seeds
from rewardlab.types import Samples

BUFFERS = ("feature_mean", "feature_std", "known", "distance_mean", "distance_std")
REFERENCES = "references.safetensors"


class Novelty(Reward, Saved):
    """Minus the distance of a sample's features from the references': low for what is novel.

    As the witness of an `Attack` it sends the adversary where nothing is known. Disagreement of
    members cannot see what all of them get wrong; a distance can. Added to a reward it is a tether:
    IBL, the latent regularization of Miao et al., arXiv 2510.13694, who take InfoRM's latent space
    for features (arXiv 2402.09345). Features are standardised over the references. The score has
    mean 0 and deviation 1 on references that were held out of the fit.

    Args:
        reward: with `features`: any that has a frozen part (`LanguageReward(frozen=True)`,
            `VisionReward`).
        references: typical samples, such as the first policy's, many more than k.
        kind: "mahalanobis", with a covariance that is shrunk as Ledoit and Wolf do (Journal of
            Multivariate Analysis 88, 2004), so that fewer samples than features will do (Lee et
            al., arXiv 1807.03888); or "nearest", the mean distance to the k nearest references (Sun
            et al., arXiv 2204.06507).
        k: neighbours that "nearest" looks at.
        held_out: share of the references that calibrates the score.
        seed: seed of the choice of held-out references.
        batch_size: references whose features are computed at once.
        dimensions: principal components of the features that "mahalanobis" keeps at most; all by
            default.

    Raises:
        InputError: if the reward has no features, or there are too few references or all are alike.

    Example:
        >>> from rewardlab import VisionReward
        >>> from rewardlab.testing import tiny_tower
        >>> noise = torch.rand(40, 3, 16, 16, generator=torch.Generator().manual_seed(0))
        >>> novelty = Novelty(VisionReward(tiny_tower(), width=8), Samples([""] * 39, noise[:39]))
        >>> both = Samples(["", ""], torch.stack([noise[39], torch.ones(3, 16, 16)]))
        >>> familiar, novel = novelty(both)
        >>> bool(familiar > novel)
        True
    """

    takes_trust = True
    feature_mean: Tensor
    feature_std: Tensor
    known: Tensor
    distance_mean: Tensor
    distance_std: Tensor

    def __init__(
        self,
        reward: Reward,
        references: Samples,
        kind: Literal["mahalanobis", "nearest"] = "mahalanobis",
        k: int = 5,
        held_out: float = 0.5,
        seed: int = 0,
        batch_size: int = 64,
        dimensions: int | None = None,
    ) -> None:
        super().__init__()
        if frozen_features(reward) is None:
            raise InputError(
                "Novelty measures distances between features, and this "
                f"{type(reward).__name__} has none. Give a reward with a frozen part: a "
                "VisionReward, or a LanguageReward with frozen=True."
            )
        self.reward = reward
        self.kind = kind
        self.k = k
        self.dimensions = dimensions
        features = in_batches(reward, self._features, references, batch_size)
        fit, calibration = _split(features, held_out, seed)
        self._check_counts(len(fit), len(calibration))
        self._fit(fit)
        self._calibrate(self._distances(calibration))

    def forward(self, samples: Samples) -> Tensor:
        """Return how familiar each sample looks, float32 [B]."""
        distances = self._distances(self._features(samples))
        return (self.distance_mean - distances) / self.distance_std

    def check_savable(self) -> None:
        """Refuse a reward inside that cannot be saved."""
        check_parts([self.reward])

    def save_pretrained(self, folder: str | Path) -> None:
        """Write what is known of the references and, into `folder`/reward, the reward.

        The reward inside is the one whose features these are.
        """
        settings = {"kind": self.kind, "k": self.k}
        buffers = {name: getattr(self, name) for name in BUFFERS}
        write_reward(folder, self, settings, {"reward": self.reward}, {REFERENCES: buffers})

    @classmethod
    def from_pretrained(cls, folder: str | Path, trust: bool = False) -> Novelty:
        """Load what `save_pretrained` wrote, in eval mode.

        The references themselves are not needed again.
        """
        settings = read_settings(folder, "kind", "k")
        novelty = cls.__new__(cls)
        Reward.__init__(novelty)
        novelty.reward = load_reward(Path(folder) / "reward", trust=trust)
        novelty.kind = settings["kind"]
        novelty.k = settings["k"]
        for name, value in load_file(Path(folder) / REFERENCES).items():
            novelty.register_buffer(name, value)
        return novelty.eval()

    def _features(self, samples: Samples) -> Tensor:
        """Return features [B, D]; of tokens [B, N, D] the mean."""
        frozen = frozen_features(self.reward)
        assert frozen is not None
        features = frozen.features(samples).float()
        if features.dim() == 2:
            return features
        return features.flatten(1, -2).mean(1)

    def _check_counts(self, fit: int, calibration: int) -> None:
        """Refuse too few references, to fit or to calibrate on."""
        if min(fit, calibration) < 2 or (self.kind == "nearest" and fit < self.k):
            raise InputError(
                f"Novelty fits {fit} references and calibrates on {calibration}; it needs 2 of "
                f"each, and k={self.k} to fit for the nearest. Give more references."
            )

    def _fit(self, features: Tensor) -> None:
        """Set what is known of the references, from their features [N, D]."""
        mean, std = feature_scale(features)
        rows = (features.double() - mean) / std
        fitted = rows if self.kind == "nearest" else _whitening_of_components(rows, self.dimensions)
        self.register_buffer("feature_mean", mean.float())
        self.register_buffer("feature_std", std.float())
        self.register_buffer("known", fitted.float())
        self.register_buffer("distance_mean", torch.zeros(()))
        self.register_buffer("distance_std", torch.ones(()))

    def _distances(self, features: Tensor) -> Tensor:
        """Return the distance [B] of features [B, D] from the references."""
        rows = (features.to(self.known) - self.feature_mean) / self.feature_std
        if self.kind == "mahalanobis":
            norms: Tensor = (rows @ self.known).norm(dim=1)
            return norms
        distances = torch.cdist(rows, self.known, compute_mode="donot_use_mm_for_euclid_dist")
        return distances.topk(self.k, dim=1, largest=False).values.mean(1)

    def _calibrate(self, distances: Tensor) -> None:
        std, mean = torch.std_mean(distances)
        if not std > 0:
            raise AlikeError(
                f"The {len(distances)} references that calibrate Novelty are all equally far. "
                "Are they all alike?"
            )
        self.distance_mean.copy_(mean)
        self.distance_std.copy_(std)


class Outliers(Reward, Saved):
    """-1 for an output that is an outlier among the references, else 0: the mean is -MOP.

    MOP, the share of outliers among a policy's outputs, needs no gold: arXiv 2510.13694. Features
    are reduced to principal components, and a sample's p is the share of held-out references that
    lie as far out as it by the Mahalanobis distance, (1 + #{d_j ≥ d})/(n + 1). It is calibrated on
    references, since features are not Gaussian and χ² would not hold; and like any rank it is
    exact: of further references at most `level` are outliers in expectation. As a judge of
    `evaluation.Readings` its mean is read while a policy is trained.

    Args:
        reward: with `features`, as for `Novelty`.
        references: outputs of the first policy; half of them calibrate.
        level: p at which an output is an outlier.
        dimensions: principal components that are kept at most.
        seed: seed of the choice of the references that calibrate.
        batch_size: references whose features are computed at once.

    Raises:
        InputError: if the reward has no features, or the references that calibrate are too few for
            the level: 1/level - 1.

    Example:
        >>> from rewardlab import VisionReward
        >>> from rewardlab.testing import tiny_tower
        >>> noise = torch.rand(90, 3, 16, 16, generator=torch.Generator().manual_seed(0))
        >>> references = Samples([""] * 80, noise[:80])
        >>> outliers = Outliers(VisionReward(tiny_tower(), width=8), references, level=0.05)
        >>> outliers.share(Samples([""] * 10, torch.ones(10, 3, 16, 16)))
        1.0
    """

    takes_trust = True
    calibration: Tensor

    def __init__(
        self,
        reward: Reward,
        references: Samples,
        level: float = 0.01,
        dimensions: int = 75,
        seed: int = 0,
        batch_size: int = 64,
    ) -> None:
        super().__init__()
        parts = _split(references, 0.5, derive(seed, "outliers"))
        count = len(parts.calibration)
        if not 0 < level < 1 or count + 1 < 1 / level:
            raise InputError(
                f"Outliers at level {level:g} need a level in (0, 1) and 1/level - 1 references "
                f"that calibrate, half of those given; got {len(references)}. Give more "
                "references, or a larger level."
            )
        self.level = level
        self.novelty = Novelty(
            reward,
            parts.fit,
            held_out=0.1,
            seed=seed,
            batch_size=batch_size,
            dimensions=dimensions,
        )
        scores = scores_of(self.novelty, parts.calibration, batch_size)
        self.register_buffer("calibration", scores.sort().values)

    def forward(self, samples: Samples) -> Tensor:
        """Return -1 for an outlier and 0 for what is familiar, float32 [B]."""
        return -(self.p_values(samples) <= self.level).float()

    def p_values(self, samples: Samples) -> Tensor:
        """Return each sample's p, float32 [B] in (0, 1]."""
        scores = self.novelty(samples)
        as_far_out = torch.searchsorted(self.calibration.to(scores), scores, right=True)
        return (1 + as_far_out) / (1 + len(self.calibration))

    def share(self, samples: Samples, batch_size: int = 64) -> float:
        """Return MOP: the share of outliers."""
        return -scores_of(self, samples, batch_size).mean().item()

    def check_savable(self) -> None:
        """Refuse a reward inside that cannot be saved."""
        check_parts([self.novelty])

    def save_pretrained(self, folder: str | Path) -> None:
        """Write the level and the references' scores and, into `folder`/novelty, the distance.

        Raises:
            InputError: if the reward cannot be saved, or `folder` holds something else.
        """
        settings = {"level": self.level, "calibration": self.calibration.tolist()}
        write_reward(folder, self, settings, {"novelty": self.novelty})

    @classmethod
    def from_pretrained(cls, folder: str | Path, trust: bool = False) -> Outliers:
        """Load what `save_pretrained` wrote, in eval mode. The references are not needed again."""
        settings = read_settings(folder, "level", "calibration")
        outliers = cls.__new__(cls)
        Reward.__init__(outliers)
        outliers.level = settings["level"]
        novelty: Any = load_reward(Path(folder) / "novelty", trust=trust)
        outliers.novelty = novelty
        outliers.register_buffer("calibration", torch.tensor(settings["calibration"]))
        return outliers.eval()


def ledoit_wolf(rows: Tensor) -> Tensor:
    """Return (1 - δ)·S + δ·tr(S)/D·I, the shrunk covariance [D, D] of centred rows [N, D].

    S is over N, as in Ledoit and Wolf, Journal of Multivariate Analysis 88, 2004. δ is theirs: the
    error of S over its distance from the target, each a mean of squares, at most 1. The fewer the
    rows, the more it shrinks.

    Example:
        >>> ledoit_wolf(torch.tensor([[1.0, 0.0], [-1.0, 0.0]]))
        tensor([[1., 0.],
                [0., 0.]])
    """
    count, width = rows.shape
    sample = rows.T @ rows / count
    target = torch.eye(width).to(rows) * sample.trace() / width
    fourth_powers = rows.square().sum(1).square().sum()
    error = (fourth_powers / count - sample.square().sum()) / count
    distance = (sample - target).square().sum()
    shrinkage = (error / distance.clamp_min(1e-12)).clamp(0, 1)
    return (1 - shrinkage) * sample + shrinkage * target


def whitening(rows: Tensor) -> Tensor:
    """Return W [D, D] so that |x·W| is the Mahalanobis distance of x from 0, for centred rows."""
    values, vectors = torch.linalg.eigh(ledoit_wolf(rows))
    deviations: Tensor = values.clamp_min(1e-6 * values.max()).sqrt()
    whitened: Tensor = vectors / deviations
    return whitened


def _whitening_of_components(rows: Tensor, dimensions: int | None) -> Tensor:
    """Return `whitening` [D, d] of the first d principal components of centred rows [N, D]."""
    if dimensions is None or dimensions >= rows.shape[1]:
        return whitening(rows)
    _, _, directions = torch.linalg.svd(rows, full_matrices=False)
    components = directions[:dimensions].T
    whitened: Tensor = components @ whitening(rows @ components)
    return whitened


class _Split(NamedTuple):
    """References, or their features, to fit on and to calibrate on."""

    fit: Any
    calibration: Any


def _split(references: Any, held_out: float, seed: int) -> _Split:
    order = row_seeds(derive(seed, "novelty"), len(references)).argsort()
    held = round(held_out * len(references))
    return _Split(references[order[held:]], references[order[:held]])
