"""Two worlds made from seeds in about a second, where each loop can be tried: grey squares, and
words of eight letters.

What is wanted is bright, in squares, and vowels, in words. The generators make squares of any grey
and words of any letter.
"""

from __future__ import annotations

import torch
from torch import Tensor

from rewardlab.data.preferences import Preferences
from rewardlab.data.targets import TargetSamples
from rewardlab.losses import nll_loss
from rewardlab.policies import Policy
from rewardlab.policies.causal_lm import CausalLMPolicy
from rewardlab.policies.diffusion import DiffusionPolicy
from rewardlab.policies.samplers import Sampler
from rewardlab.rewards import LanguageReward, VisionReward
from rewardlab.seeds import derive, row_seeds
from rewardlab.testing.tiny_images import tiny_diffusion
from rewardlab.testing.tiny_text import tiny_causal_lm, tiny_tokenizer
from rewardlab.types import PreferencePairs, Samples

PROMPTS = ["one", "two", "three", "four"]
LETTERS = "abcdefgh"
VOWELS = "ae"
LENGTH = 8


def image_policy(train_steps: int = 20, steps: int = 3, seed: int = 0) -> DiffusionPolicy:
    """Return a class-conditional diffusion model of 8x8 squares of any grey; its classes are
    `PROMPTS`.

    Args:
        train_steps: optimiser steps of 32 squares.
        steps: denoising steps of a sample.
        seed: of weights, data and noise.
    """
    from diffusers import DDIMScheduler

    pipeline = tiny_diffusion(seed, classes=len(PROMPTS), prediction_type="sample")
    # So that each step's noise matters: with the default, a last tiny step has nearly all of the
    # gradient's noise.
    pipeline.scheduler = DDIMScheduler.from_config(
        pipeline.scheduler.config, timestep_spacing="trailing"
    )
    policy = DiffusionPolicy(pipeline, labels=PROMPTS, sampler=Sampler(steps=steps))
    return _trained(policy, squares(32 * train_steps, 0.2, 0.8, seed), train_steps, seed)  # type: ignore[return-value]


def text_policy(train_steps: int = 60, seed: int = 0) -> CausalLMPolicy:
    """Return a language model of words of eight letters from a to h.

    Args:
        train_steps: optimiser steps of 32 words.
        seed: of weights and data.
    """
    policy = CausalLMPolicy(
        tiny_causal_lm(seed, scale=0.05), tiny_tokenizer(), max_new_tokens=LENGTH + 1
    )
    return _trained(policy, words(32 * train_steps, 1.0, seed), train_steps, seed)  # type: ignore[return-value]


def squares(count: int, darkest: float, brightest: float, seed: int) -> Samples:
    """Return images [count, 1, 8, 8], each of one grey with a little noise; prompts in turn.

    Example:
        >>> squares(2, 0.5, 0.5, seed=0).outputs.shape
        torch.Size([2, 1, 8, 8])
    """
    generator = torch.Generator().manual_seed(derive(seed, "squares"))
    greys = darkest + (brightest - darkest) * torch.rand(count, 1, 1, 1, generator=generator)
    noise = 0.05 * torch.randn(count, 1, 8, 8, generator=generator)
    return Samples(_in_turn(count), (greys + noise).clamp(0, 1))


def words(count: int, odds: float, seed: int) -> Samples:
    """Return words of eight letters, a vowel `odds` times as likely as another letter; prompts in
    turn.

    Example:
        >>> words(2, 1.0, seed=0).outputs
        ['dgafdcaf', 'dcaefegb']
    """
    generator = torch.Generator().manual_seed(derive(seed, "words"))
    weights = torch.tensor([odds if letter in VOWELS else 1.0 for letter in LETTERS])
    rows = weights.expand(count, -1).multinomial(LENGTH, replacement=True, generator=generator)
    return Samples(
        _in_turn(count), ["".join(LETTERS[letter] for letter in row) for row in rows.tolist()]
    )


def bright_targets(
    count: int = 64, held_out: int = 16, batch_size: int = 32, seed: int = 0
) -> TargetSamples:
    """Return bright squares as GAN-RM's targets."""
    return TargetSamples(
        squares(count, 0.5, 0.9, derive(seed, "targets")),
        None,
        None,
        held_out,
        None,
        1,
        False,
        batch_size,
    )


def vowel_targets(
    count: int = 64, held_out: int = 16, batch_size: int = 32, seed: int = 0
) -> TargetSamples:
    """Return words with many vowels as GAN-RM's targets."""
    return TargetSamples(
        words(count, 6.0, derive(seed, "targets")), held_out=held_out, batch_size=batch_size
    )


def bright_pairs(
    count: int = 128, held_out: int = 32, batch_size: int = 32, seed: int = 0
) -> Preferences:
    """Return pairs of squares of which the brighter is preferred."""
    both = [squares(count, 0.2, 0.8, derive(seed, half)) for half in ("one", "other")]
    return _preferred(
        both, [samples.outputs.mean((1, 2, 3)) for samples in both], held_out, batch_size
    )


def vowel_pairs(
    count: int = 128, held_out: int = 32, batch_size: int = 32, seed: int = 0
) -> Preferences:
    """Return pairs of words of which the one with more vowels is preferred; pairs with equally many
    are left out.
    """
    both = [words(count, 1.0, derive(seed, half)) for half in ("one", "other")]
    vowels = [
        torch.tensor([sum(word.count(vowel) for vowel in VOWELS) for word in samples.outputs])
        for samples in both
    ]
    return _preferred(both, vowels, held_out, batch_size)


def image_reward(heads: int = 1, seed: int = 0) -> VisionReward:
    """Return a reward on a frozen open_clip tower with random weights; tower and heads differ by
    `seed`.
    """
    from open_clip.model import CLIP

    vision = {"image_size": 8, "patch_size": 4, "width": 32, "layers": 1, "head_width": 16}
    text = {"context_length": 8, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 1}
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(derive(seed, "tower"))
        tower = CLIP(16, vision, text).eval()
    return VisionReward(tower, heads=heads, width=16, seed=seed)


def text_reward(heads: int = 1, seed: int = 0) -> LanguageReward:
    """Return heads on the mean state of a frozen language model with random weights; model and
    heads differ by `seed`.
    """
    model = tiny_causal_lm(derive(seed, "backbone"), scale=0.3)
    return LanguageReward(
        model, tiny_tokenizer(), heads=heads, frozen=True, pooling="mean", seed=seed
    )


def _trained(policy: Policy, data: Samples, steps: int, seed: int) -> Policy:
    """Raise the likelihood of `data`, in `steps` parts, once."""
    if not steps:
        return policy
    optimizer = torch.optim.Adam(policy.parameters(), 1e-2)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 1e-2, steps)
    for rows in torch.arange(len(data)).split(len(data) // steps):
        trajectory = policy.encode(data[rows], seeds=row_seeds(derive(seed, "noise"), rows))
        loss = nll_loss(policy.log_prob(trajectory), trajectory.mask)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    policy.zero_grad()
    return policy


def _preferred(
    both: list[Samples], scores: list[Tensor], held_out: int, batch_size: int
) -> Preferences:
    first, second = scores
    wins = first > second
    halves = [
        Samples(both[0].prompts, _chosen(both[0].outputs, both[1].outputs, keep))
        for keep in (wins.tolist(), (~wins).tolist())
    ]
    return Preferences(
        PreferencePairs(*halves)[first != second], held_out=held_out, batch_size=batch_size
    )


def _chosen(
    first: Tensor | list[str], second: Tensor | list[str], keep: list[bool]
) -> Tensor | list[str]:
    """Take each row from the first where `keep` says so, else from the second."""
    rows = [one if own else other for one, other, own in zip(first, second, keep, strict=True)]
    return torch.stack(rows) if isinstance(first, Tensor) else rows


def _in_turn(count: int) -> list[str]:
    return [PROMPTS[row % len(PROMPTS)] for row in range(count)]
