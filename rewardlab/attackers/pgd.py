"""Projected gradient ascent on pixels: the attack that sees the reward's gradient."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from rewardlab.attackers.base import check_counts, highest, with_scores
from rewardlab.errors import InputError
from rewardlab.mining import candidates
from rewardlab.policies import Policy
from rewardlab.rewards import Reward
from rewardlab.rewards.base import checked_scores
from rewardlab.seeds import derive, generators, normal, row_seeds, uniform
from rewardlab.types import Samples


@dataclass(frozen=True)
class PGDAttacker:
    """Climb an image reward's gradient within a small ball about each image. Madry et al., arXiv
    1706.06083, section 2.1.

    x ← Π(x + a·sign(∇R(x))), from a random point of the ball; Π brings x back into the ball and
    into [0, 1]. Every image keeps the best that was found of it, itself included, so no score
    falls. What looks the same to a person and scores far higher shows how little a score means; no
    policy has to be able to draw it, so it is the bound that the other attackers of images are held
    against.

    It needs a reward with a gradient to the pixels, such as VisionReward, or an Attack made of such
    ones. (An Attack's gate has no gradient: below the threshold the target is climbed alone.)
    Neither the reward nor the policy changes.

    Args:
        epsilon: the ball's radius in units of the image's range, which is 1. 8/255 is the usual
            "linf" one; an "l2" one is a norm over all pixels and channels of an image (or of a
            video).
        steps: gradient steps.
        step_size: a; 2.5 · epsilon / steps by default, which can cross the ball.
        norm: "linf" bounds the change of each pixel, "l2" the root of the summed squares; its steps
            go along the gradient.
        random_start: whether to start from a random point of the ball, each row from its own seed,
            or from the image.
        n: images drawn of each prompt.
        keep: how many of them are returned, the best first; all if None.
        batch_size: images whose gradients are taken at once.

    Raises:
        InputError: if a number is out of range, or (on use) the outputs are texts, or the reward
            has no gradient to images.

    Example:
        >>> from rewardlab.rewards import Brightness
        >>> images = Samples(["", ""], torch.full((2, 3, 4, 4), 0.5))
        >>> PGDAttacker(epsilon=0.1, steps=5).climb(Brightness(), images, seed=0).outputs.mean().item()
        0.6000000238418579
    """

    epsilon: float = 8 / 255
    steps: int = 20
    step_size: float | None = None
    norm: Literal["linf", "l2"] = "linf"
    random_start: bool = True
    n: int = 1
    keep: int | None = 1
    batch_size: int = 64

    def __post_init__(self) -> None:
        check_counts("PGDAttacker", self.n, self.keep)
        if self.norm not in ("linf", "l2"):
            raise InputError(f'PGDAttacker knows the norms "linf" and "l2"; got {self.norm!r}.')
        if min(self.epsilon, self.steps, self.batch_size) <= 0 or (
            self.step_size is not None and self.step_size <= 0
        ):
            raise InputError(
                f"PGDAttacker needs epsilon, steps, step_size and batch_size above 0; got {self}."
            )

    def __call__(
        self, policy: Policy, reward: Reward, prompts: Sequence[str], seed: int
    ) -> Samples:
        drawn = candidates(policy, prompts, self.n, seed)
        return highest(with_scores(reward, self.climb(reward, drawn, seed)), self.n, self.keep)

    def climb(self, reward: Reward, samples: Samples, seed: int) -> Samples:
        """Return given images [B, C, H, W] or videos [B, F, C, H, W], each moved within its ball to
        a higher reward.

        Raises:
            InputError: if the outputs are texts, or the reward has no gradient to images.
        """
        if not isinstance(samples.outputs, Tensor):
            raise InputError(
                f"PGDAttacker moves the pixels of images; got a list of {len(samples)} strings. Take RandomEdits, Guided or "
                "RLAttacker for a language model."
            )
        was_training = reward.training
        seeds = row_seeds(derive(seed, "pgd"), len(samples))
        reward.eval()
        parts = torch.split(torch.arange(len(samples)), self.batch_size)
        try:
            moved = [
                self._climb(reward, samples[part], samples.outputs[part], seeds[part])
                for part in parts
            ]
        finally:
            reward.train(was_training)
        return Samples(samples.prompts, torch.cat(moved), samples.facts)

    def _climb(self, reward: Reward, samples: Samples, images: Tensor, seeds: Tensor) -> Tensor:
        device = next((parameter.device for parameter in reward.parameters()), images.device)
        samples = samples.to(device)
        with torch.inference_mode(False), torch.no_grad():
            start = images.to(device, torch.float32, copy=True)
            best = start
            top = image_gradient(reward, samples, start)[0]
            x = (
                self._project(start + self._noise(start, seeds), start)
                if self.random_start
                else start
            )
            for _ in range(self.steps + 1):
                scores, gradient = image_gradient(reward, samples, x)
                best = torch.where(_column(scores > top, x), x, best)
                top = torch.maximum(scores, top)
                x = self._project(x + self._move(gradient), start)
        return best.to(images.device)

    def _noise(self, start: Tensor, seeds: Tensor) -> Tensor:
        """A random point of the ball for each row."""
        rows = generators(seeds)
        if self.norm == "linf":
            return self.epsilon * (2 * uniform(start.shape[1:], rows, start.device) - 1)
        direction = normal(start.shape[1:], rows, start.device)
        share = uniform((), rows, start.device)
        radius = self.epsilon * share ** (1 / start[0].numel())
        return direction * _column(radius / _length(direction), start)

    def _move(self, gradient: Tensor) -> Tensor:
        size = 2.5 * self.epsilon / self.steps if self.step_size is None else self.step_size
        return size * (
            gradient.sign()
            if self.norm == "linf"
            else gradient / _column(_length(gradient), gradient)
        )

    def _project(self, x: Tensor, start: Tensor) -> Tensor:
        """The nearest point of the ball, then of [0, 1], which is no farther from an image in [0,
        1].
        """
        change = x - start
        if self.norm == "linf":
            change = change.clamp(-self.epsilon, self.epsilon)
        else:
            change = change * _column((self.epsilon / _length(change)).clamp_max(1), change)
        return (start + change).clamp(0, 1)


def image_gradient(reward: Reward, samples: Samples, images: Tensor) -> tuple[Tensor, Tensor]:
    """Return the scores [B] of `images` in the samples' place, and each score's gradient to its
    image, float32.

    The gradient of the reward's own parameters is not taken. Where a gradient is not finite it
    counts as 0.

    Raises:
        InputError: if no gradient reaches the images, or a score is not finite.

    Example:
        >>> from rewardlab.rewards import Brightness
        >>> images = torch.rand(1, 1, 2, 2)
        >>> image_gradient(Brightness(), Samples([""], images), images)[1].flatten().tolist()
        [0.25, 0.25, 0.25, 0.25]
    """
    with torch.enable_grad():
        images = images.detach().requires_grad_()
        scores = checked_scores(
            reward(Samples(samples.prompts, images, samples.facts)), samples, type(reward).__name__
        )
        gradient = None
        if scores.requires_grad:
            (gradient,) = torch.autograd.grad(scores.sum(), images, allow_unused=True)
    if gradient is None:
        raise InputError(
            f"The scores of {type(reward).__name__} have no gradient to the images: it is computed under no_grad, or by steps "
            "that cannot be differentiated. Take an attacker that needs none, such as BestOfN or RandomEdits."
        )
    return scores.detach(), gradient.nan_to_num(0, 0, 0)


def _length(images: Tensor) -> Tensor:
    """The norm [B] of each row, never 0."""
    length: Tensor = torch.linalg.vector_norm(images.flatten(1), dim=1)
    return length.clamp_min(1e-12)


def _column(numbers: Tensor, images: Tensor) -> Tensor:
    """Numbers [B] as a column that spreads over images [B, ...]."""
    return numbers.view(-1, *[1] * (images.dim() - 1))
