"""Projected gradient ascent on pixels: the attack that sees the reward's gradient."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from rewardlab.attackers.base import Perturbs, check_counts, highest, scored_only, with_scores
from rewardlab.conversations import Prompt
from rewardlab.errors import InputError
from rewardlab.mining import candidates
from rewardlab.policies import Generator
from rewardlab.rewards import Reward
from rewardlab.rewards.unscored import checked_for, judged_batch
from rewardlab.seeds import derive, generators, normal, row_seeds, uniform
from rewardlab.types import Samples


@dataclass(frozen=True)
class PGDAttacker(Perturbs):
    """Climb an image reward's gradient within a small ball about each image.

    Projected gradient descent, Madry et al., arXiv 1706.06083, section 2.1:
    x ← Π(x + a·sign(∇R(x))), from a random point of the ball. Π brings x back into the ball and
    into [0, 1]. Every image keeps its best version, itself included, so no score falls. An image
    that looks the same to a person and scores far higher shows how little a score means. No policy
    has to be able to draw it, so it is the bound that other attackers of images are held against.

    The reward needs a gradient to the pixels, as VisionReward has, or an Attack made of such ones.
    (An Attack's gate has no gradient: below the threshold the target is climbed alone.) Neither the
    reward nor the policy changes.

    Args:
        epsilon: radius of the ball in units of the image's range, which is 1. 8/255 is the usual
            "linf" one; an "l2" one is a norm over all pixels and channels of an image (or of a
            video).
        steps: number of gradient steps.
        step_size: a; 2.5 · epsilon / steps by default, which can cross the ball.
        norm: "linf" bounds the change of each pixel, "l2" the root of the summed squares; its steps
            go along the gradient.
        random_start: whether to start from a random point of the ball, each row from its own seed,
            or from the image.
        n: images drawn of each prompt.
        keep: images returned of each prompt, the best first; all if None.
        batch_size: images whose gradients are taken at once.

    Raises:
        InputError: if a number is out of range, or (on use) the outputs are texts, or the reward
            has no gradient to images.

    Example:
        >>> from rewardlab.rewards import Brightness
        >>> images = Samples(["", ""], torch.full((2, 3, 4, 4), 0.5))
        >>> attacker = PGDAttacker(epsilon=0.1, steps=5)
        >>> attacker.climb(Brightness(), images, seed=0).outputs.mean().item()
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
        numbers = [self.epsilon, self.steps, self.batch_size]
        if self.step_size is not None:
            numbers.append(self.step_size)
        if min(numbers) <= 0:
            raise InputError(
                f"PGDAttacker needs epsilon, steps, step_size and batch_size above 0; got {self}."
            )

    def __call__(
        self, policy: Generator, reward: Reward, prompts: Sequence[Prompt], seed: int
    ) -> Samples:
        images = candidates(policy, prompts, self.n, seed)
        climbed = self.climb(reward, images, seed)
        return scored_only(highest(with_scores(reward, climbed), self.n, self.keep))

    def starts(self, policy: Generator, samples: Samples) -> Samples | None:
        """Return the images that were moved, drawn again by their seeds."""
        if "seed" not in samples.facts:
            return None
        drawn = policy.generate(list(samples.prompts), seeds=samples.facts["seed"].cpu())
        shape = torch.as_tensor(samples.outputs).shape
        is_alike = isinstance(drawn.outputs, Tensor) and drawn.outputs.shape == shape
        return drawn if is_alike else None

    def climb(self, reward: Reward, samples: Samples, seed: int) -> Samples:
        """Return images, each moved within its ball to a higher reward.

        The samples are images [B, C, H, W] or videos [B, F, C, H, W].

        Raises:
            InputError: if the outputs are texts, or the reward has no gradient to images.
        """
        images = samples.outputs
        if not isinstance(images, Tensor):
            raise InputError(
                f"PGDAttacker moves the pixels of images; got a list of {len(samples)} strings. "
                "Take RandomEdits, Guided or RLAttacker for a language model."
            )
        was_training = reward.training
        seeds = row_seeds(derive(seed, "pgd"), len(samples))
        reward.eval()
        climbed = []
        try:
            for rows in torch.split(torch.arange(len(samples)), self.batch_size):
                climbed.append(self._climb(reward, samples[rows], images[rows], seeds[rows]))
        finally:
            reward.train(was_training)
        return Samples(samples.prompts, torch.cat(climbed), samples.facts)

    def _climb(self, reward: Reward, samples: Samples, images: Tensor, seeds: Tensor) -> Tensor:
        """Return one batch of images, moved."""
        device = next((parameter.device for parameter in reward.parameters()), images.device)
        samples = samples.to(device)
        with torch.inference_mode(False), torch.no_grad():
            start = images.to(device, torch.float32, copy=True)
            best = start
            best_scores, _ = image_gradient(reward, samples, start)
            x = start
            if self.random_start:
                x = self._project(start + self._noise(start, seeds), start)
            for _ in range(self.steps + 1):
                scores, gradient = image_gradient(reward, samples, x)
                best = torch.where(_column(scores > best_scores, x), x, best)
                best_scores = torch.maximum(scores, best_scores)
                x = self._project(x + self._move(gradient), start)
        return best.to(images.device)

    def _noise(self, start: Tensor, seeds: Tensor) -> Tensor:
        """Return a random point of the ball for each row, as a change of the image."""
        rows = generators(seeds)
        shape = start.shape[1:]
        if self.norm == "linf":
            noise = uniform(shape, rows, start.device)
            return self.epsilon * (2 * noise - 1)
        direction = normal(shape, rows, start.device)
        volumes = uniform((), rows, start.device)
        radius = self.epsilon * volumes ** (1 / start[0].numel())
        return direction * _column(radius / _length(direction), start)

    def _step_size(self) -> float:
        if self.step_size is not None:
            return self.step_size
        return 2.5 * self.epsilon / self.steps

    def _move(self, gradient: Tensor) -> Tensor:
        """Return a step along the gradient, of the step's size in the ball's norm."""
        if self.norm == "linf":
            return self._step_size() * gradient.sign()
        return self._step_size() * (gradient / _column(_length(gradient), gradient))

    def _project(self, x: Tensor, start: Tensor) -> Tensor:
        """Return the nearest point of the ball, then of [0, 1].

        The second is no farther from an image in [0, 1].
        """
        change = x - start
        if self.norm == "linf":
            change = change.clamp(-self.epsilon, self.epsilon)
        else:
            shrinkage = (self.epsilon / _length(change)).clamp_max(1)
            change = change * _column(shrinkage, change)
        return (start + change).clamp(0, 1)


class ScoresAndGradient(NamedTuple):
    """Scores [B], and each score's gradient to its image, like images [B, ...]."""

    scores: Tensor
    gradient: Tensor


def image_gradient(reward: Reward, samples: Samples, images: Tensor) -> ScoresAndGradient:
    """Return the scores of `images` in the samples' place, and their gradients, float32.

    The gradient of the reward's own parameters is not taken. Where a gradient is not finite it
    counts as 0. An image that is not scored has the score -∞ and the gradient 0.

    Raises:
        InputError: if no gradient reaches the images, or a score is not finite.

    Example:
        >>> from rewardlab.rewards import Brightness
        >>> images = torch.rand(1, 1, 2, 2)
        >>> scores, gradient = image_gradient(Brightness(), Samples([""], images), images)
        >>> gradient.flatten().tolist()
        [0.25, 0.25, 0.25, 0.25]
    """
    name = type(reward).__name__
    gradient = None
    with torch.enable_grad():
        images = images.detach().requires_grad_()
        moved = Samples(samples.prompts, images, samples.facts)
        judged = judged_batch(reward, moved)
        scores = checked_for(judged.scores, samples, judged.reasons, name)
        if scores.requires_grad:
            total = scores[judged.scored.to(scores.device)].sum()
            (gradient,) = torch.autograd.grad(total, images, allow_unused=True)
    if gradient is None:
        raise InputError(
            f"The scores of {name} have no gradient to the images: it is computed under no_grad, "
            "or by steps that cannot be differentiated. Take an attacker that needs none, such as "
            "BestOfN or RandomEdits."
        )
    lowest = scores.detach().nan_to_num(-torch.inf)
    return ScoresAndGradient(lowest, gradient.nan_to_num(0, 0, 0))


def _length(images: Tensor) -> Tensor:
    """Return the norm [B] of each row, which is never 0."""
    length: Tensor = torch.linalg.vector_norm(images.flatten(1), dim=1)
    return length.clamp_min(1e-12)


def _column(numbers: Tensor, images: Tensor) -> Tensor:
    """Return numbers [B] as a column that spreads over images [B, ...]."""
    ones = [1] * (images.dim() - 1)
    return numbers.view(-1, *ones)
