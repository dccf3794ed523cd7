"""Framewise: any reward of images as a reward of videos."""

from __future__ import annotations

from collections.abc import Callable
from math import log
from pathlib import Path
from typing import Literal, cast, get_args

import torch
from torch import Tensor

from rewardlab.errors import InputError
from rewardlab.rewards.abilities import Calibrated, FrozenFeatures, Saved, frozen_features
from rewardlab.rewards.base import Reward, set_score_scale
from rewardlab.rewards.folders import check_parts, load_reward, read_settings, write_reward
from rewardlab.types import Samples, images_of, take

Pooling = Literal["mean", "min", "softmin"]


class Framewise(Reward, FrozenFeatures, Calibrated, Saved):
    """A reward of images that scores the frames of videos, pooled to one score a video.

    GAN-RM (arXiv 2506.13846) trains its reward on videos and does not say how frames are taken
    together. Here each frame is scored as an image, and the members' scores are pooled over frames:

    * "mean": the mean.
    * "min": the lowest, so that one broken frame counts.
    * "softmin": -T · log mean exp(-score / T). It is the mean for large T and the minimum for
      T → 0, and each frame gets some gradient.

    A reward with frozen features is trained through `Framewise` as it is on images: its features
    are computed once a frame and cached, a row [F, ...] a video. An image counts as a video of one
    frame.

    Args:
        reward: a reward of images.
        pooling: how frames' scores become the video's.
        frames: how many frames of a video are scored at most, spread evenly; None scores all.
        temperature: T of "softmin", in the unit of the scores; the other kinds take none.
        micro_batch: frames that the reward sees at once.

    Attributes:
        score_mean, score_std: of typical scores of videos, saved with the reward.

    Raises:
        InputError: if the pooling is not known, a number is below 1, or a temperature is missing or
            not needed.

    Example:
        >>> from rewardlab.rewards import Brightness
        >>> video = torch.tensor([0.2, 0.8]).view(1, 2, 1, 1, 1).expand(1, 2, 3, 4, 4)
        >>> samples = Samples([""], video)
        >>> round(Framewise(Brightness())(samples).item(), 4)
        0.5
        >>> round(Framewise(Brightness(), "min")(samples).item(), 4)
        0.2
    """

    takes_trust = True

    def __init__(
        self,
        reward: Reward,
        pooling: Pooling = "mean",
        frames: int | None = 8,
        temperature: float | None = None,
        micro_batch: int = 64,
    ) -> None:
        super().__init__()
        _check_options(pooling, frames, temperature, micro_batch)
        self.reward = reward
        self.pooling = pooling
        self.frames = frames
        self.temperature = temperature
        self.micro_batch = micro_batch
        self.conditional = reward.conditional
        self.mean_of_members = reward.mean_of_members
        self.meaning = reward.meaning
        self.register_buffer("score_mean", torch.zeros(()))
        self.register_buffer("score_std", torch.zeros(()))

    def forward(self, samples: Samples) -> Tensor:
        """Return the pooled scores, float32 [B].

        Raises:
            InputError: if the outputs are strings, or the reward refuses a frame.
        """
        if self.mean_of_members:
            return self.members(samples).mean(1)
        return self._pooled(self._by_frame(self.reward.forward, samples))

    def members(self, samples: Samples) -> Tensor:
        """Return the members' scores, each pooled over frames, float32 [B, M]."""
        return self._pooled(self._by_frame(self.reward.members, samples))

    @property
    def has_features(self) -> bool:
        """Tell whether the reward of images has frozen features."""
        return frozen_features(self.reward) is not None

    def features(self, samples: Samples) -> Tensor:
        """Return the reward's features of the frames that are scored, float32 [B, F, ...]."""
        return self._by_frame(self._extractor().features, samples)

    def score_features(self, features: Tensor) -> Tensor:
        """Return the members' scores, float32 [B, M], from features [B, F, ...]."""
        scores = self._extractor().score_features(features.flatten(0, 1))
        return self._pooled(scores.unflatten(0, features.shape[:2]))

    def fit_feature_scale(self, features: Tensor) -> None:
        """Set how features are scaled, from those of all frames."""
        self._extractor().fit_feature_scale(features.flatten(0, 1))

    def frozen_fingerprint(self) -> str | None:
        """Return a hash of what `features` depends on: the reward's own, and the frames' limit."""
        inner = self._extractor().frozen_fingerprint()
        return None if inner is None else f"{inner}-frames-{self.frames}"

    def calibrate(self, scores: Tensor) -> None:
        """Save mean and deviation of scores [N] of typical videos, for `Standardized`.

        Raises:
            InputError: if they are not finite or all equal.
        """
        set_score_scale(self, scores)

    def check_samples(self, samples: Samples) -> None:
        """Refuse videos with frames that the reward refuses."""
        self.reward.check_samples(self._frames_of(samples))

    def check_savable(self) -> None:
        """Refuse a reward inside that cannot be saved."""
        check_parts([self.reward])

    def save_pretrained(self, folder: str | Path) -> None:
        """Write the settings and constants and, into `folder`/reward, the reward of images.

        Raises:
            InputError: if the reward cannot be saved, or `folder` holds something else.
        """
        settings = {
            "pooling": self.pooling,
            "frames": self.frames,
            "temperature": self.temperature,
            "micro_batch": self.micro_batch,
            "meaning": self.meaning,
            "score_mean": self.score_mean.item(),
            "score_std": self.score_std.item(),
        }
        write_reward(folder, self, settings, {"reward": self.reward})

    @classmethod
    def from_pretrained(cls, folder: str | Path, trust: bool = False) -> Framewise:
        """Load what `save_pretrained` wrote, in eval mode."""
        constants = read_settings(folder, "meaning", "score_mean", "score_std")
        settings = read_settings(folder, "pooling", "frames", "temperature", "micro_batch")
        reward = cls(load_reward(Path(folder) / "reward", trust=trust), **settings)
        reward.meaning = constants["meaning"]
        reward.score_mean.fill_(constants["score_mean"])
        reward.score_std.fill_(constants["score_std"])
        return reward.eval()

    def _extractor(self) -> FrozenFeatures:
        """Return the reward of images as one with features; asked only where it has some."""
        return cast(FrozenFeatures, self.reward)

    def _by_frame(self, method: Callable[[Samples], Tensor], samples: Samples) -> Tensor:
        """Return what a method of the reward gives for each scored frame, [B, F, ...]."""
        frames = self._frames_of(samples)
        parts = []
        for start in range(0, len(frames), self.micro_batch):
            parts.append(method(frames[start : start + self.micro_batch]))
        values = torch.cat(parts)
        return values.view(len(samples), -1, *values.shape[1:])

    def _frames_of(self, samples: Samples) -> Samples:
        """Return the frames that are scored as images, a video's together.

        Raises:
            InputError: if the outputs are strings, or videos without frames.
        """
        videos = images_of(samples, "Framewise")
        if videos.dim() == 4:
            return samples
        rows = spread_frames(videos.shape[1], self.frames)
        owners = torch.arange(len(samples)).repeat_interleave(len(rows))
        facts = {name: take(column, owners) for name, column in samples.facts.items()}
        return Samples(take(samples.prompts, owners), videos[:, rows].flatten(0, 1), facts)

    def _pooled(self, scores: Tensor) -> Tensor:
        """Return scores [B, F, ...] pooled over frames."""
        if self.pooling == "mean":
            return scores.mean(1)
        if self.pooling == "min":
            return scores.amin(1)
        assert self.temperature is not None  # the constructor sees to that
        sums = torch.logsumexp(-scores / self.temperature, 1)
        return -self.temperature * (sums - log(scores.shape[1]))


def spread_frames(count: int, most: int | None) -> list[int]:
    """Return the numbers of at most `most` of `count` frames, the middles of equal parts.

    Raises:
        InputError: if there are no frames.

    Example:
        >>> spread_frames(10, 3), spread_frames(2, 3), spread_frames(9, 1)
        ([1, 5, 8], [0, 1], [4])
    """
    if count < 1:
        raise InputError("A video without frames cannot be scored; it needs one at least.")
    if most is None or count <= most:
        return list(range(count))
    return [(2 * part + 1) * count // (2 * most) for part in range(most)]


def _check_options(
    pooling: str, frames: int | None, temperature: float | None, micro_batch: int
) -> None:
    if pooling not in get_args(Pooling):
        raise InputError(f"Framewise pools by mean, min or softmin; got pooling={pooling!r:.40}.")
    is_positive = temperature is None or temperature > 0
    if (temperature is not None) != (pooling == "softmin") or not is_positive:
        raise InputError(
            "Framewise takes a temperature above 0 for softmin, and only there; got "
            f"pooling={pooling!r} and temperature={temperature}."
        )
    if (frames is not None and frames < 1) or micro_batch < 1:
        raise InputError(
            "Framewise scores one frame at least, and one at once; got "
            f"frames={frames} and micro_batch={micro_batch}."
        )
