"""Bottleneck: a head that passes on few nats about an output, and says how sure it is."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn import functional

from rewardlab.errors import InputError
from rewardlab.networks.precision import full_precision
from rewardlab.rewards.abilities import (
    Calibrated,
    DrawsNoise,
    FrozenFeatures,
    HeadInputs,
    Saved,
    StartsAtZero,
)
from rewardlab.rewards.base import Reward, checked_scores, set_score_scale
from rewardlab.rewards.feature_scale import feature_scale
from rewardlab.rewards.folders import (
    CONFIG,
    check_parts,
    load_reward,
    read_settings,
    write_reward,
)
from rewardlab.rewards.language_heads import new_heads
from rewardlab.seeds import derive, generators, normal
from rewardlab.types import Samples

WEIGHTS = "bottleneck.safetensors"
SETTINGS = ("width", "kl_weight", "heads", "seed", "meaning")


class Latent(NamedTuple):
    """The Gaussian of each sample in the bottleneck: mean and log variance, float32 [B, W] each."""

    mean: Tensor
    log_variance: Tensor


class Bottleneck(Reward, FrozenFeatures, Calibrated, DrawsNoise, StartsAtZero, Saved):
    """An information-bottleneck head in the place of a reward's own: InfoRM, arXiv 2402.09345.

    What the heads of the inner reward see goes through two linear layers to (μ, log σ²) of W
    numbers, and one linear head scores z. In training z = μ + σ·ε, and κ times the mean over
    dimensions of KL(N(μ, σ²) ‖ N(0, 1)) is added to the loss, so that what does not help to tell
    preferences is not passed on. A score is that of μ: nothing is drawn. The loops `AdvRM` and
    `GANRM` train it, and `Online` as a correction; the inner reward's own heads stay unused.

    Args:
        reward: a LanguageReward or a VisionReward, or another with `HeadInputs`.
        width: W, numbers that z has.
        kl_weight: κ. As it goes to 0, a plain linear head comes back.
        heads: K, how many heads score z side by side; their mean is the score.
        seed: of the first weights.

    Attributes:
        meaning: what the scores are; "untrained" until a training loop says better.

    Raises:
        InputError: if the reward has no such inputs, or a number is out of range.

    Example:
        >>> from rewardlab import VisionReward
        >>> from rewardlab.testing import tiny_tower
        >>> reward = Bottleneck(VisionReward(tiny_tower(), width=8), width=4)
        >>> reward(Samples(["", ""], torch.rand(2, 3, 16, 16))).shape
        torch.Size([2])
    """

    mean_of_members = True
    mean: Tensor
    std: Tensor

    def __init__(
        self,
        reward: Reward,
        width: int = 128,
        kl_weight: float = 0.1,
        heads: int = 1,
        seed: int = 0,
    ) -> None:
        super().__init__()
        if not isinstance(reward, HeadInputs):
            raise InputError(
                "Bottleneck takes the place of the heads of a LanguageReward or a VisionReward; "
                f"{type(reward).__name__} does not say what its heads see."
            )
        if width < 1 or not 0 <= kl_weight < float("inf"):
            raise InputError(
                "Bottleneck needs a width of at least 1 and a kl_weight of at least 0; got "
                f"width={width} and kl_weight={kl_weight:g}."
            )
        self.reward = reward
        self.kl_weight = kl_weight
        self.options = {"width": width, "kl_weight": kl_weight, "heads": heads, "seed": seed}
        for parameter in reward.head_parameters():
            parameter.requires_grad_(False)
        inputs = reward.head_width
        self.to_mean = nn.Parameter(new_heads(width, inputs, derive(seed, "mean")))
        self.to_log_variance = nn.Parameter(torch.zeros(width, inputs))
        self.log_variance = nn.Parameter(torch.zeros(width))
        self.head = nn.Parameter(new_heads(heads, width, seed))
        self.register_buffer("mean", torch.zeros(inputs))
        self.register_buffer("std", torch.ones(inputs))
        self.register_buffer("score_mean", torch.zeros(()))
        self.register_buffer("score_std", torch.zeros(()))
        self.conditional = reward.conditional
        self.meaning = "untrained"

    @property
    def has_features(self) -> bool:
        """Tell whether what the inner heads see can be computed once."""
        return isinstance(self.reward, FrozenFeatures) and self.reward.has_features

    def features(self, samples: Samples) -> Tensor:
        """Return the inner reward's features, float32 [B, ...]."""
        assert isinstance(self.reward, FrozenFeatures)
        return self.reward.features(samples)

    def latent(self, inputs: Samples | Tensor) -> Latent:
        """Return each sample's Gaussian in the bottleneck, of samples or of their features."""
        if isinstance(inputs, Tensor):
            seen = self._inner().head_inputs_of(inputs)
        else:
            seen = self._inner().head_inputs(inputs)
        with full_precision(seen.device):
            rows = (seen.float() - self.mean) / self.std
            log_variance = functional.linear(rows, self.to_log_variance, self.log_variance)
            return Latent(functional.linear(rows, self.to_mean), log_variance)

    def score_features(self, features: Tensor) -> Tensor:
        """Return the heads' scores of μ, float32 [B, K], from `features`."""
        return self._scores(self.latent(features).mean)

    def members(self, samples: Samples) -> Tensor:
        """Return the heads' scores of μ, float32 [B, K].

        Raises:
            InputError: if a score is NaN or infinite.
        """
        scores = self._scores(self.latent(samples).mean)
        return checked_scores(scores, samples, "Bottleneck")

    def forward(self, samples: Samples) -> Tensor:
        """Return the mean over the heads' scores, float32 [B]."""
        return self.members(samples).mean(1)

    def drawn_members(self, inputs: Samples | Tensor, seeds: Tensor) -> tuple[Tensor, Tensor]:
        """Return the heads' scores [B, K] of one z a row, and κ times each row's KL [B]."""
        latent = self.latent(inputs)
        noise = normal(latent.mean.shape[1:], generators(seeds), latent.mean.device)
        drawn = latent.mean + noise * (latent.log_variance / 2).exp()
        return self._scores(drawn), self.kl_weight * standard_kl(latent)

    @torch.no_grad()
    def fit_feature_scale(self, features: Tensor) -> None:
        """Set the constants that bring what the heads see to mean 0 and deviation 1."""
        scale = feature_scale(self._inner().head_inputs_of(features))
        self.mean.copy_(scale.mean)
        self.std.copy_(scale.std)

    @torch.no_grad()
    def start_at_zero(self) -> None:
        """Set the heads to 0, so that every score is 0."""
        self.head.zero_()

    def calibrate(self, scores: Tensor) -> None:
        """Save mean and deviation of scores [N] of typical samples, for `Standardized`."""
        set_score_scale(self, scores)

    def frozen_fingerprint(self) -> str | None:
        """Return the inner reward's hash of all that `features` depends on."""
        assert isinstance(self.reward, FrozenFeatures)
        return self.reward.frozen_fingerprint()

    def check_savable(self) -> None:
        """Refuse a reward inside that cannot be saved."""
        check_parts([self.reward])

    def save_pretrained(self, folder: str | Path) -> None:
        """Write the bottleneck and, into `folder`/reward, the reward inside.

        Raises:
            InputError: if the reward cannot be saved, or `folder` holds something else.
        """
        settings = {**self.options, "meaning": self.meaning}
        write_reward(folder, self, settings, {"reward": self.reward}, {WEIGHTS: self._state()})

    @classmethod
    def from_pretrained(cls, folder: str | Path) -> Bottleneck:
        """Load what `save_pretrained` wrote, in eval mode.

        Raises:
            InputError: if files are missing, or not of one reward.
        """
        settings = read_settings(folder, *SETTINGS)
        meaning = settings.pop("meaning")
        reward = cls(load_reward(Path(folder) / "reward"), **settings)
        tensors = load_file(Path(folder) / WEIGHTS)
        shapes = {name: tensor.shape for name, tensor in tensors.items()}
        if shapes != {name: tensor.shape for name, tensor in reward._state().items()}:
            raise InputError(
                f"{Path(folder) / WEIGHTS} does not fit {CONFIG} and the reward beside it: other "
                "tensors or shapes. Was one of them exchanged?"
            )
        reward.load_state_dict(tensors, strict=False)
        reward.meaning = str(meaning)
        return reward.eval()

    def _scores(self, z: Tensor) -> Tensor:
        """Return the heads' scores [B, K] of z [B, W], in float32 under autocast too."""
        with full_precision(z.device):
            return functional.linear(z, self.head)

    def _inner(self) -> HeadInputs:
        """Return the inner reward as one that says what its heads see."""
        assert isinstance(self.reward, HeadInputs)
        return self.reward

    def _state(self) -> dict[str, Tensor]:
        """Return all tensors that are not the inner reward's."""
        state = {}
        for name, tensor in self.state_dict().items():
            if not name.startswith("reward."):
                state[name] = tensor.detach()
        return state


class Certainty(Reward, FrozenFeatures, Saved):
    """Minus the sum of log σ² of a `Bottleneck`: low for what the reward is in doubt about.

    It is a witness for `Attack`, and a penalty in `Weighted`, that costs no second reward. Its
    `features` are μ, so that `Novelty(Certainty(bottleneck), references)` measures distances in the
    bottleneck, as the IBL of arXiv 2510.13694 does. The bottleneck is fitted before, and stays.

    Args:
        reward: the bottleneck.

    Raises:
        InputError: if it is another reward.

    Example:
        >>> from rewardlab import VisionReward
        >>> from rewardlab.testing import tiny_tower
        >>> reward = Certainty(Bottleneck(VisionReward(tiny_tower(), width=8), width=4))
        >>> samples = Samples(["", ""], torch.rand(2, 3, 16, 16))
        >>> reward(samples).tolist(), reward.features(samples).shape
        ([0.0, 0.0], torch.Size([2, 4]))
    """

    def __init__(self, reward: Reward) -> None:
        super().__init__()
        if not isinstance(reward, Bottleneck):
            raise InputError(
                f"Certainty reads the variances of a Bottleneck; got a {type(reward).__name__}."
            )
        self.reward = reward
        self.conditional = reward.conditional

    def forward(self, samples: Samples) -> Tensor:
        """Return minus the sum of log σ², float32 [B]."""
        doubt = self.reward.latent(samples).log_variance.sum(1)
        return checked_scores(0 - doubt, samples, "Certainty")

    def features(self, samples: Samples) -> Tensor:
        """Return μ, float32 [B, W]."""
        return self.reward.latent(samples).mean

    def check_savable(self) -> None:
        """Refuse a bottleneck that cannot be saved."""
        check_parts([self.reward])

    def save_pretrained(self, folder: str | Path) -> None:
        """Write the bottleneck into `folder`/reward.

        Raises:
            InputError: if it cannot be saved, or `folder` holds something else.
        """
        write_reward(folder, self, parts={"reward": self.reward})

    @classmethod
    def from_pretrained(cls, folder: str | Path) -> Certainty:
        """Load what `save_pretrained` wrote, in eval mode."""
        return cls(load_reward(Path(folder) / "reward")).eval()


def standard_kl(latent: Latent) -> Tensor:
    """Return the mean over dimensions of KL(N(μ, σ²) ‖ N(0, 1)), in nats a dimension: [B].

    It is ½(μ² + σ² - log σ² - 1), dimension by dimension.

    Example:
        >>> standard_kl(Latent(torch.tensor([[2.0, 0.0]]), torch.zeros(1, 2))).tolist()
        [1.0]
    """
    log_variance = latent.log_variance
    divergences = latent.mean.square() + log_variance.exp() - log_variance - 1
    return divergences.mean(1) / 2
