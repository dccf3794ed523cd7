"""Novelty: how familiar an output looks, by its distance from reference features."""

from __future__ import annotations

from pathlib import Path
from typing import Literal, NamedTuple

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from rewardlab.errors import AlikeError, InputError
from rewardlab.rewards.abilities import Saved, frozen_features
from rewardlab.rewards.base import Reward
from rewardlab.rewards.feature_scale import feature_scale
from rewardlab.rewards.folders import CONFIG, check_parts, load_reward, read_settings, save_parts
from rewardlab.rewards.scoring import in_batches
from rewardlab.seeds import derive, row_seeds
from rewardlab.storage.atomic import new_folder, write_json
from rewardlab.types import Samples

BUFFERS = ("feature_mean", "feature_std", "known", "distance_mean", "distance_std")
REFERENCES = "references.safetensors"


class Novelty(Reward, Saved):
    """Minus the distance of a sample's features from the references': low for what is novel.

    As the witness of an `Attack` it sends the adversary where nothing is known. Disagreement of
    members cannot see what all of them get wrong; a distance can. Features are standardised over
    the references. The score has mean 0 and deviation 1 on references that were held out of the
    fit.

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
        self.check_savable()
        buffers = {name: getattr(self, name).contiguous() for name in BUFFERS}
        config = {"class_path": "rewardlab.rewards.Novelty", "kind": self.kind, "k": self.k}
        with new_folder(folder) as fresh:
            save_parts(fresh, {"reward": self.reward})
            save_file(buffers, fresh / REFERENCES)
            write_json(fresh / CONFIG, config)

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
        fitted = rows if self.kind == "nearest" else whitening(rows)
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


class _Split(NamedTuple):
    """Reference features to fit on and to calibrate on."""

    fit: Tensor
    calibration: Tensor


def _split(features: Tensor, held_out: float, seed: int) -> _Split:
    order = row_seeds(derive(seed, "novelty"), len(features)).argsort()
    held = round(held_out * len(features))
    return _Split(features[order[held:]], features[order[:held]])
