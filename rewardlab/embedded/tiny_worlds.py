"""Two tiny worlds from seeds, where each loop can be tried: grey squares and eight-letter words.

They are made in about a second. Wanted are bright squares, and words with many vowels. The
generators make squares of any grey and words of any letter.
"""

from __future__ import annotations

import torch
from torch import Tensor

from rewardlab.data.preferences import Preferences
from rewardlab.data.targets import TargetSamples
from rewardlab.evaluation.prompts import in_turn
from rewardlab.losses import nll_loss
from rewardlab.policies import Policy
from rewardlab.policies.causal_lm import CausalLMPolicy
from rewardlab.policies.diffusion import DiffusionPolicy
from rewardlab.policies.samplers import Sampler
from rewardlab.rewards import LanguageReward, VisionReward
from rewardlab.seeds import derive, row_seeds
from rewardlab.testing.tiny_images import tiny_diffusion
from rewardlab.testing.tiny_text import tiny_causal_lm, tiny_tokenizer
from rewardlab.types import PreferencePairs, Samples, concatenate, images_of, texts_of

PROMPTS = ["one", "two", "three", "four"]
"""Prompts of both worlds, and the classes of the image policy."""

LETTERS = "abcdefgh"
"""Letters of the words."""

VOWELS = "ae"
"""Letters that are wanted."""

LENGTH = 8

__all__ = [
    "LETTERS",
    "PROMPTS",
    "VOWELS",
    "bright_pairs",
    "bright_targets",
    "image_policy",
    "image_reward",
    "squares",
    "text_policy",
    "text_reward",
    "train_policy",
    "vowel_pairs",
    "vowel_targets",
    "words",
]


def image_policy(train_steps: int = 20, steps: int = 3, seed: int = 0) -> DiffusionPolicy:
    """Return a class-conditional diffusion model of 8x8 squares of any grey.

    Its classes are `PROMPTS`.

    Args:
        train_steps: optimizer steps of 32 squares.
        steps: denoising steps of a sample.
        seed: seed of weights, data and noise.
    """
    from diffusers import DDIMScheduler

    pipeline = tiny_diffusion(seed, classes=len(PROMPTS), prediction_type="sample")
    # So that each step's noise matters: with the default, a last tiny step has nearly all of the
    # gradient's noise.
    pipeline.scheduler = DDIMScheduler.from_config(
        pipeline.scheduler.config, timestep_spacing="trailing"
    )
    policy = DiffusionPolicy(pipeline, labels=PROMPTS, sampler=Sampler(steps=steps))
    train_policy(policy, squares(32 * train_steps, 0.2, 0.8, seed), train_steps, seed)
    return policy


def text_policy(train_steps: int = 60, seed: int = 0) -> CausalLMPolicy:
    """Return a language model of words of eight letters from a to h.

    Args:
        train_steps: optimizer steps of 32 words.
        seed: seed of weights and data.
    """
    network = tiny_causal_lm(seed, scale=0.05)
    policy = CausalLMPolicy(network, tiny_tokenizer(), max_new_tokens=LENGTH + 1)
    train_policy(policy, words(32 * train_steps, 1.0, seed), train_steps, seed)
    return policy


def squares(count: int, darkest: float, brightest: float, seed: int) -> Samples:
    """Return images [count, 1, 8, 8], each of one grey with a little noise; prompts in turn.

    Example:
        >>> squares(2, 0.5, 0.5, seed=0).outputs.shape
        torch.Size([2, 1, 8, 8])
    """
    generator = torch.Generator().manual_seed(derive(seed, "squares"))
    greys = darkest + (brightest - darkest) * torch.rand(count, 1, 1, 1, generator=generator)
    noise = 0.05 * torch.randn(count, 1, 8, 8, generator=generator)
    return Samples(in_turn(PROMPTS, count), (greys + noise).clamp(0, 1))


def words(count: int, odds: float, seed: int) -> Samples:
    """Return words of eight letters; prompts in turn.

    Args:
        count: number of words.
        odds: how many times as likely a vowel is as another letter.
        seed: seed of the letters.

    Example:
        >>> words(2, 1.0, seed=0).outputs
        ['dgafdcaf', 'dcaefegb']
    """
    generator = torch.Generator().manual_seed(derive(seed, "words"))
    weights = torch.tensor([odds if letter in VOWELS else 1.0 for letter in LETTERS])
    rows = weights.expand(count, -1).multinomial(LENGTH, replacement=True, generator=generator)
    outputs = []
    for row in rows.tolist():
        outputs.append("".join(LETTERS[letter] for letter in row))
    return Samples(in_turn(PROMPTS, count), outputs)


def bright_targets(
    count: int = 64, held_out: int = 16, batch_size: int = 32, seed: int = 0
) -> TargetSamples:
    """Return bright squares as GAN-RM's targets.

    Args:
        count: number of squares.
        held_out: number of squares that are held out.
        batch_size: samples a step.
        seed: seed of the squares.
    """
    targets = squares(count, 0.5, 0.9, derive(seed, "targets"))
    return TargetSamples(targets, held_out=held_out, channels=1, batch_size=batch_size)


def vowel_targets(
    count: int = 64, held_out: int = 16, batch_size: int = 32, seed: int = 0
) -> TargetSamples:
    """Return words with many vowels as GAN-RM's targets.

    Args:
        count: number of words.
        held_out: number of words that are held out.
        batch_size: samples a step.
        seed: seed of the words.
    """
    targets = words(count, 6.0, derive(seed, "targets"))
    return TargetSamples(targets, held_out=held_out, batch_size=batch_size)


def bright_pairs(
    count: int = 128, held_out: int = 32, batch_size: int = 32, seed: int = 0
) -> Preferences:
    """Return pairs of squares of which the brighter is preferred.

    Args:
        count: number of pairs.
        held_out: number of pairs that are held out.
        batch_size: pairs a step.
        seed: seed of the squares.
    """
    one = squares(count, 0.2, 0.8, derive(seed, "one"))
    other = squares(count, 0.2, 0.8, derive(seed, "other"))
    pairs = _pairs(one, other, _brightness(one), _brightness(other))
    return Preferences(pairs, held_out=held_out, batch_size=batch_size)


def vowel_pairs(
    count: int = 128, held_out: int = 32, batch_size: int = 32, seed: int = 0
) -> Preferences:
    """Return pairs of words of which the one with more vowels is preferred.

    Pairs with equally many vowels are left out.

    Args:
        count: number of pairs, with those that are left out.
        held_out: number of pairs that are held out.
        batch_size: pairs a step.
        seed: seed of the words.
    """
    one = words(count, 1.0, derive(seed, "one"))
    other = words(count, 1.0, derive(seed, "other"))
    pairs = _pairs(one, other, _vowels(one), _vowels(other))
    return Preferences(pairs, held_out=held_out, batch_size=batch_size)


def image_reward(heads: int = 1, seed: int = 0) -> VisionReward:
    """Return a reward on a frozen open_clip tower with random weights.

    Args:
        heads: number of heads.
        seed: seed of tower and heads.
    """
    from open_clip.model import CLIP

    vision = {
        "image_size": 8,
        "patch_size": 4,
        "width": 32,
        "layers": 1,
        "head_width": 16,
    }
    text = {
        "context_length": 8,
        "vocab_size": 49408,
        "width": 16,
        "heads": 2,
        "layers": 1,
    }
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(derive(seed, "tower"))
        tower = CLIP(16, vision, text).eval()
    return VisionReward(tower, heads=heads, width=16, seed=seed)


def text_reward(heads: int = 1, seed: int = 0) -> LanguageReward:
    """Return heads on the mean state of a frozen language model with random weights.

    Args:
        heads: number of heads.
        seed: seed of model and heads.
    """
    return LanguageReward(
        tiny_causal_lm(derive(seed, "backbone"), scale=0.3),
        tiny_tokenizer(),
        heads=heads,
        frozen=True,
        pooling="mean",
        seed=seed,
    )


def train_policy(policy: Policy, data: Samples, steps: int, seed: int) -> None:
    """Raise the likelihood of `data`, in `steps` parts, once."""
    if steps == 0:
        return
    optimizer = torch.optim.Adam(policy.parameters(), 1e-2)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 1e-2, steps)
    for rows in torch.arange(len(data)).split(len(data) // steps):
        seeds = row_seeds(derive(seed, "noise"), rows)
        trajectory = policy.encode(data[rows], seeds=seeds)
        loss = nll_loss(policy.log_prob(trajectory), trajectory.mask)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    policy.zero_grad()


def _brightness(samples: Samples) -> Tensor:
    return images_of(samples, "bright_pairs").mean((1, 2, 3))


def _vowels(samples: Samples) -> Tensor:
    """Return the number of vowels of each word, [B]."""
    counts = []
    for word in texts_of(samples, "vowel_pairs"):
        counts.append(sum(letter in VOWELS for letter in word))
    return torch.tensor(counts)


def _pairs(one: Samples, other: Samples, score: Tensor, other_score: Tensor) -> PreferencePairs:
    """Return pairs of which the higher-scored is preferred; ties are left out."""
    both = concatenate([one, other])
    first = torch.arange(len(one))
    second = first + len(one)
    wins = score > other_score
    chosen = torch.where(wins, first, second)
    rejected = torch.where(wins, second, first)
    differ = score != other_score
    return PreferencePairs(both[chosen[differ]], both[rejected[differ]])
