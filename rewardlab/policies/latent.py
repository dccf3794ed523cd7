"""A Gaussian over the latents of a generator whose own likelihood nobody knows."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from copy import deepcopy
from math import prod
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from rewardlab.conversations import Prompt, text_prompts
from rewardlab.errors import InputError
from rewardlab.networks import lora
from rewardlab.policies import latent_inversion
from rewardlab.policies.abilities import HasEntropy, PredictsX0
from rewardlab.policies.base import Policy
from rewardlab.policies.latent_gaussians import Gaussian, gaussian_of_prompts
from rewardlab.policies.latent_generators import LatentGenerator, checked_outputs, read_generator
from rewardlab.policies.micro_batches import micro_batches
from rewardlab.seeds import generators, normal
from rewardlab.storage.atomic import write_json
from rewardlab.storage.class_files import POLICY_FILE, read_class_file
from rewardlab.types import Samples, Trajectory

LATENT = "latent"  # the fact that holds the point that an output was decoded from
_WEIGHTS = "gaussian.safetensors"
_GENERATOR = "generator"
_TOLERANCE = 0.02  # mean difference of pixels: 8-bit files are off by 0.001
Draw = Callable[[Tensor, list[str]], Tensor]


class LatentPolicy(Policy, HasEntropy, PredictsX0):
    """A Gaussian over the latents of a generator, such as a GAN or an image service, in one step.

    A GAN has no likelihood, but a Gaussian over its latents, with the generator as decoder, is a
    policy of one step. Its log-probability, entropy and KL are exact and in nats. It starts as the
    standard normal that generators are trained with. A black box works too: any function from
    latents and prompts to pictures or frames.

    A sample carries the fact "latent", the point that it was decoded from. `encode` uses it. For
    pictures without it, such as photographs, `encode` looks for the latent whose picture is
    nearest, by gradient descent; the generator then has to be a torch module.

    Args:
        generator: maps latents float32 [B, *shape] and B prompts to pictures [B, C, H, W] or videos
            [B, F, C, H, W], floats in [0, 1]. A `LatentGenerator` is saved with the policy.
        shape: shape of one latent, such as [100].
        prompts: a Gaussian for each of these prompts; other prompts are refused. By default all
            prompts share one.
        network_width: width of a small network that gives the Gaussian of any prompt's text,
            instead of a table. It hashes the text's trigrams.
        train_generator: train the generator's own weights too. Only losses whose gradient flows
            through pictures reach them (ReFL).
        lora_rank: train a low-rank adapter of the generator instead (arXiv 2106.09685).
        inversion_steps: steps of gradient descent in `encode`.
        micro_batch: number of rows that are decoded at once; all by default.

    Raises:
        InputError: if the arguments exclude each other, or (on use) a prompt is unknown or the
            generator returns something else than pictures.

    Example:
        >>> from rewardlab.testing import tiny_latent_generator
        >>> policy = LatentPolicy(tiny_latent_generator(), shape=[6])
        >>> samples = policy.generate(["", ""], seeds=torch.tensor([1, 2]))
        >>> samples.outputs.shape, samples.facts["latent"].shape
        (torch.Size([2, 3, 8, 8]), torch.Size([2, 6]))
        >>> policy.log_prob(policy.encode(samples, seeds=torch.tensor([3, 4]))).shape
        torch.Size([2, 1])
    """

    generator: Any

    def __init__(
        self,
        generator: nn.Module | Draw,
        shape: list[int],
        prompts: list[str] | None = None,
        network_width: int | None = None,
        train_generator: bool = False,
        lora_rank: int | None = None,
        inversion_steps: int = 200,
        micro_batch: int | None = None,
    ) -> None:
        super().__init__()
        _check_choices(generator, prompts, network_width, train_generator, lora_rank)
        self.shape = tuple(shape)
        self.gaussians = gaussian_of_prompts(prod(shape), prompts, network_width)
        self.prompts = prompts
        self.network_width = network_width
        self.train_generator = train_generator
        self.lora_rank = lora_rank
        self.inversion_steps = inversion_steps
        self.micro_batch = micro_batch
        self.generator = generator
        self._prepare_generator()

    def _prepare_generator(self) -> None:
        """Freeze the generator, but for what is to be trained of it."""
        if not isinstance(self.generator, nn.Module):
            return
        self.generator.eval().requires_grad_(self.train_generator)
        if self.lora_rank is not None:
            layers = _adaptable_layers(self.generator)
            lora.add(self.generator, self.lora_rank, layers, torch.float32)

    @property
    def device(self) -> torch.device:
        return next(self.gaussians.parameters()).device

    def train(self, mode: bool = True) -> LatentPolicy:
        """Switch the mode; the generator's norms and dropout stay as in use."""
        super().train(mode)
        if isinstance(self.generator, nn.Module):
            self.generator.eval()
        return self

    def check_prompts(self, prompts: Sequence[Prompt]) -> None:
        """Refuse conversations, and prompts that the table has no Gaussian for."""
        self.gaussians.check(text_prompts(prompts, "LatentPolicy"))

    @torch.no_grad()
    def sample(self, prompts: Sequence[Prompt], *, seeds: Tensor) -> Trajectory:
        """Draw one latent a prompt."""
        gaussian = self._gaussian(prompts)
        noise = normal([prod(self.shape)], generators(seeds), self.device)
        return self._trajectory(prompts, gaussian.at(noise), {"seed": seeds})

    def encode(self, samples: Samples, *, seeds: Tensor) -> Trajectory:
        """Return the latents of outputs: their fact "latent", else the nearest picture's.

        Raises:
            InputError: if the generator's picture of the fact is another one, or there is neither
                the fact nor a gradient to look for the latent.
        """
        if LATENT in samples.facts:
            latents = samples.facts[LATENT].to(self.device, torch.float32)
            self._check_latents(samples, latents)
        else:
            latents = self._inverted(samples, seeds)
        return self._trajectory(samples.prompts, latents, samples.facts)

    def decode(self, trajectory: Trajectory) -> Samples:
        """Return the pictures of the latents, differentiable; the fact "latent" is set."""
        latents = trajectory.tensors[LATENT]
        outputs = self._decoded(latents, trajectory.prompts)
        facts = {**trajectory.facts, LATENT: latents.detach().cpu()}
        return Samples(trajectory.prompts, outputs, facts)

    def log_prob(self, trajectory: Trajectory) -> Tensor:
        """Return the log-density of the latents in nats, float32 [B, 1]."""
        gaussian = self._gaussian(trajectory.prompts)
        return gaussian.log_prob(trajectory.tensors[LATENT])[:, None]

    def entropy(self, trajectory: Trajectory) -> Tensor:
        """Return the Gaussian's entropy in nats, float32 [B, 1]."""
        return self._gaussian(trajectory.prompts).entropy()[:, None]

    def kl(self, prompts: Sequence[Prompt], other: LatentPolicy) -> Tensor:
        """Return the exact KL divergence from `other`'s Gaussian in nats, float32 [B].

        Example:
            >>> from rewardlab.testing import tiny_latent_generator
            >>> policy = LatentPolicy(tiny_latent_generator(), shape=[6])
            >>> policy.kl([""], policy.reference()).tolist()
            [0.0]
        """
        return self._gaussian(prompts).kl(other._gaussian(prompts))

    def predict_x0(self, trajectory: Trajectory, steps: Tensor) -> Samples:
        """Return the pictures with a gradient to mean, deviation and generator; one step only."""
        gaussian = self._gaussian(trajectory.prompts)
        latents = trajectory.tensors[LATENT]
        noise = gaussian.noise_of(latents).detach()
        outputs = self._decoded(gaussian.at(noise), trajectory.prompts)
        return Samples(trajectory.prompts, outputs, trajectory.facts)

    def __deepcopy__(self, memo: dict[int, Any]) -> LatentPolicy:
        """Copy the Gaussian; share a generator that is not trained."""
        copied = type(self).__new__(type(self))
        memo[id(self)] = copied
        if not self._trains_generator:
            memo[id(self.generator)] = self.generator
        copied.__dict__.update(deepcopy(self.__dict__, memo))
        return copied

    def save_pretrained(self, folder: str | Path) -> None:
        """Write the Gaussian, the settings and, of a `LatentGenerator`, the generator.

        An adapter is merged into the generator. Another generator is not written;
        `from_pretrained` is then given it again.
        """
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        save_file(self.gaussians.state_dict(), folder / _WEIGHTS)
        settings = {
            "shape": list(self.shape),
            "prompts": self.prompts,
            "network_width": self.network_width,
            "train_generator": self.train_generator,
            "lora_rank": self.lora_rank,
            "inversion_steps": self.inversion_steps,
        }
        config = {"class_path": "rewardlab.policies.LatentPolicy", "init_args": settings}
        if isinstance(self.generator, LatentGenerator):
            merged = lora.merged(self.generator)
            merged.save_pretrained(folder / _GENERATOR)
            kind = type(self.generator)
            config["generator"] = f"{kind.__module__}.{kind.__qualname__}"
        write_json(folder / POLICY_FILE, config)

    @classmethod
    def from_pretrained(
        cls, folder: str | Path, generator: nn.Module | Draw | None = None, *, trust: bool = False
    ) -> LatentPolicy:
        """Load what `save_pretrained` wrote.

        Args:
            folder: that was written.
            generator: the generator, where the folder holds none.
            trust: whether to import a generator's class from outside rewardlab.

        Raises:
            InputError: if the folder is broken, or neither it nor the caller has a generator.
        """
        folder = Path(folder)
        config = read_class_file(folder / POLICY_FILE)
        if generator is None:
            generator = read_generator(folder / _GENERATOR, config.get("generator"), trust)
        policy = cls(generator, **config["init_args"])
        policy.gaussians.load_state_dict(load_file(folder / _WEIGHTS))
        return policy

    @property
    def _trains_generator(self) -> bool:
        return self.train_generator or self.lora_rank is not None

    def _gaussian(self, prompts: Sequence[Prompt]) -> Gaussian:
        gaussian: Gaussian = self.gaussians(text_prompts(prompts, "LatentPolicy"))
        return gaussian

    def _trajectory(
        self, prompts: Sequence[Prompt], latents: Tensor, facts: dict[str, Tensor] | Any
    ) -> Trajectory:
        mask = torch.ones(len(latents), 1, dtype=torch.bool, device=self.device)
        return Trajectory(list(prompts), {LATENT: latents}, mask, facts)

    def _decoded(self, latents: Tensor, prompts: Sequence[Prompt]) -> Tensor:
        """Return the generator's outputs, checked."""
        texts = text_prompts(prompts, "LatentPolicy")
        parts = []
        for part in micro_batches(len(texts), self.micro_batch):
            shaped = latents[part].unflatten(1, self.shape)
            outputs = self.generator(shaped, texts[part])
            parts.append(checked_outputs(outputs, len(shaped)))
        return torch.cat(parts)

    @torch.no_grad()
    def _check_latents(self, samples: Samples, latents: Tensor) -> None:
        """Refuse latents whose pictures are not the samples' own."""
        if latents.shape[1:] != (prod(self.shape),):
            raise InputError(
                f'The fact "latent" has {list(latents.shape[1:])} numbers a row; the generator '
                f"takes {prod(self.shape)}. Were the samples drawn by another policy?"
            )
        if not isinstance(self.generator, nn.Module):
            return  # asking a service again costs as much as the sample did
        outputs = self._decoded(latents, samples.prompts)
        given = samples.outputs
        same_shape = isinstance(given, Tensor) and given.shape == outputs.shape
        if not same_shape or _distance(outputs, given) > _TOLERANCE:
            raise InputError(
                'The fact "latent" of the samples decodes to other pictures than theirs. Were they '
                "edited, resized or drawn by another generator? Drop the fact to look for latents."
            )

    def _inverted(self, samples: Samples, seeds: Tensor) -> Tensor:
        """Return the latents whose pictures are nearest to the samples'."""
        if not isinstance(self.generator, nn.Module):
            raise InputError(
                'These samples have no fact "latent", and the generator is no torch module with '
                "a gradient to look for one. Train on the policy's own samples, or by PPO."
            )
        start = normal([prod(self.shape)], generators(seeds), self.device)
        return latent_inversion.nearest_latents(
            lambda latents: self._decoded(latents, samples.prompts),
            samples,
            start,
            self.inversion_steps,
        )


def _distance(outputs: Tensor, given: Any) -> float:
    """Return the largest mean difference of a row's pixels."""
    differences = (outputs - given.to(outputs)).abs().flatten(1)
    return differences.mean(1).max().item() if len(differences) else 0.0


def _check_choices(
    generator: nn.Module | Draw,
    prompts: list[str] | None,
    network_width: int | None,
    train_generator: bool,
    lora_rank: int | None,
) -> None:
    """Refuse arguments that exclude each other."""
    if prompts is not None and network_width is not None:
        raise InputError(
            "LatentPolicy takes a table of prompts or a network of the prompt's text; got both. "
            "Leave out prompts or network_width."
        )
    if train_generator and lora_rank is not None:
        raise InputError(
            "LatentPolicy trains the generator whole or by an adapter; got train_generator=true "
            f"and lora_rank={lora_rank}. Leave one out."
        )
    trained = train_generator or lora_rank is not None
    if trained and not isinstance(generator, nn.Module):
        raise InputError(
            "Only a torch module can be trained as a generator; got a "
            f"{type(generator).__name__}. Leave out train_generator and lora_rank."
        )


def _adaptable_layers(generator: nn.Module) -> list[str]:
    """Return the names of the layers that take an adapter."""
    names = []
    for name, layer in generator.named_modules():
        if isinstance(layer, nn.Linear | nn.Conv2d):
            names.append(name)
    if names:
        return names
    raise InputError(
        "lora_rank needs linear layers or convolutions; the generator has none (adapters know no "
        "transposed convolutions). Train it whole: train_generator=true."
    )
