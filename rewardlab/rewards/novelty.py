"""Novelty: how familiar an output looks, by its distance from reference features."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from rewardlab.errors import InputError
from rewardlab.rewards.abilities import Saved, frozen_features
from rewardlab.rewards.base import Reward
from rewardlab.rewards.folders import CONFIG, load_reward, read_config, save_parts
from rewardlab.rewards.scoring import in_batches
from rewardlab.seeds import derive, row_seeds
from rewardlab.storage.atomic import new_folder, write_json
from rewardlab.types import Samples

BUFFERS = ("feature_mean", "feature_std", "known", "distance_mean", "distance_std")


class Novelty(Reward, Saved):
    """Minus the distance of a sample's features from the references': high for the familiar, low
    for the novel.

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
        seed: chooses them.
        batch_size: references whose features are computed at once.

    Raises:
        InputError: if the reward has no features, or there are too few references or all are alike.

    Example:
        >>> from rewardlab import VisionReward
        >>> from rewardlab.testing import tiny_tower
        >>> noise = torch.rand(40, 3, 16, 16, generator=torch.Generator().manual_seed(0))
        >>> novelty = Novelty(VisionReward(tiny_tower(), width=8), Samples([""] * 39, noise[:39]))
        >>> familiar, novel = novelty(Samples(["", ""], torch.stack([noise[39], torch.ones(3, 16, 16)])))
        >>> bool(familiar > novel)
        True
    """

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
                f"Novelty measures distances between features, and this {type(reward).__name__} has none. Give a reward with a "
                "frozen part: a VisionReward, or a LanguageReward with frozen=True."
            )
        self.reward = reward
        self.kind = kind
        self.k = k
        fit, calibration = _split(
            in_batches(reward, self._features, references, batch_size), held_out, seed
        )
        if min(len(fit), len(calibration)) < 2 or (kind == "nearest" and len(fit) < k):
            raise InputError(
                f"Novelty fits {len(fit)} references and calibrates on {len(calibration)}; it needs 2 of each, and "
                f"k={k} to fit for the nearest. Give more references."
            )
        std, mean = torch.std_mean(fit.double(), 0)
        std = std.where(std > 1e-6 * (1 + mean.abs()), 1)
        known = (fit.double() - mean) / std
        self.register_buffer("feature_mean", mean.float())
        self.register_buffer("feature_std", std.float())
        self.register_buffer("known", (known if kind == "nearest" else whitening(known)).float())
        self.register_buffer("distance_mean", torch.zeros(()))
        self.register_buffer("distance_std", torch.ones(()))
        self._calibrate(self._distances(calibration))

    def forward(self, samples: Samples) -> Tensor:
        """Return how familiar each sample looks, float32 [B]."""
        return (self.distance_mean - self._distances(self._features(samples))) / self.distance_std

    def save_pretrained(self, folder: str | Path) -> None:
        """Write what is known of the references and, into `folder`/reward, the reward whose
        features these are.
        """
        with new_folder(folder) as fresh:
            save_parts(fresh, {"reward": self.reward})
            save_file(
                {name: getattr(self, name).contiguous() for name in BUFFERS},
                fresh / "references.safetensors",
            )
            write_json(
                fresh / CONFIG,
                {"class_path": "rewardlab.rewards.Novelty", "kind": self.kind, "k": self.k},
            )

    @classmethod
    def from_pretrained(cls, folder: str | Path) -> Novelty:
        """Load what `save_pretrained` wrote, in eval mode; the references themselves are not needed
        again.
        """
        config = read_config(folder)
        novelty = cls.__new__(cls)
        Reward.__init__(novelty)
        novelty.reward = load_reward(Path(folder) / "reward")
        novelty.kind = config["kind"]
        novelty.k = config["k"]
        for name, value in load_file(Path(folder) / "references.safetensors").items():
            novelty.register_buffer(name, value)
        return novelty.eval()

    def _features(self, samples: Samples) -> Tensor:
        """Features [B, D]; of tokens [B, N, D] the mean."""
        features = self.reward.features(samples).float()  # type: ignore[operator]
        return features if features.dim() == 2 else features.flatten(1, -2).mean(1)

    def _distances(self, features: Tensor) -> Tensor:
        """Return the distance [B] of features [B, D] from the references."""
        rows = (features.to(self.known) - self.feature_mean) / self.feature_std
        if self.kind == "mahalanobis":
            return (rows @ self.known).norm(dim=1)
        between = torch.cdist(rows, self.known, compute_mode="donot_use_mm_for_euclid_dist")
        return between.topk(self.k, dim=1, largest=False).values.mean(1)

    def _calibrate(self, distances: Tensor) -> None:
        std, mean = torch.std_mean(distances)
        if not std > 0:
            raise InputError(
                f"The {len(distances)} references that calibrate Novelty are all equally far. Are they all alike?"
            )
        self.distance_mean.copy_(mean)
        self.distance_std.copy_(std)


def ledoit_wolf(rows: Tensor) -> Tensor:
    """(1 - δ)·S + δ·tr(S)/D·I: the covariance [D, D] of centred rows [N, D], shrunk by as much as
    they are too few.

    S is over N, as in Ledoit and Wolf, Journal of Multivariate Analysis 88, 2004; δ is theirs: the
    error of S over its distance from the target, each a mean of squares, at most 1.

    Example:
        >>> ledoit_wolf(torch.tensor([[1.0, 0.0], [-1.0, 0.0]]))
        tensor([[1., 0.],
                [0., 0.]])
    """
    count, width = rows.shape
    sample = rows.T @ rows / count
    target = torch.eye(width).to(rows) * sample.trace() / width
    error = (rows.square().sum(1).square().sum() / count - sample.square().sum()) / count
    share = (error / (sample - target).square().sum().clamp_min(1e-12)).clamp(0, 1)
    return (1 - share) * sample + share * target


def whitening(rows: Tensor) -> Tensor:
    """Return W [D, D] with |x·W| the Mahalanobis distance of x from the mean of centred rows [N,
    D].
    """
    values, vectors = torch.linalg.eigh(ledoit_wolf(rows))
    return vectors / values.clamp_min(1e-6 * values.max()).sqrt()


def _split(features: Tensor, held_out: float, seed: int) -> tuple[Tensor, Tensor]:
    order = row_seeds(derive(seed, "novelty"), len(features)).argsort()
    held = round(held_out * len(features))
    return features[order[held:]], features[order[:held]]
