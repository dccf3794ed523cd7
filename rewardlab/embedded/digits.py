"""scikit-learn's handwritten digits as a GAN-RM world: generator, targets, tower and judge.

The 1,797 digits [1, 8, 8] are split by class, so that what each part trains on stays apart:

* "targets": 300, the 30 boldest of a random 40 % of each class. They are what is wanted (Preference
  Proxy Data).
* "tower": 400 others, on which the tower learns images and captions such as "bold three".
* "judge": the remaining 1,097, on which the judge learns the classes.

The base generator trains on all that are not targets. What is trained here is kept in
`$REWARDLAB_CACHE` (`.cache/rewardlab` in the home folder by default) under a hash of its settings
and versions.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from pytorch_lightning import Trainer
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from rewardlab.conversations import text_prompts
from rewardlab.data.preferences import Preferences
from rewardlab.data.samples import SamplesData
from rewardlab.data.targets import TargetSamples
from rewardlab.embedded.cache import cached
from rewardlab.embedded.digit_data import WEIGHTS, WORDS, captioned, classes_of, digits
from rewardlab.policies.diffusion import DiffusionPolicy
from rewardlab.policies.samplers import Sampler
from rewardlab.rewards import FrozenFeatures, Reward, VisionReward
from rewardlab.seeds import derive
from rewardlab.training.ema import EMA
from rewardlab.training.sft import SFT
from rewardlab.types import PreferencePairs, Samples, images_of

PACKAGES = ("torch", "diffusers", "open_clip_torch", "scikit-learn", "rewardlab")

__all__ = [
    "DigitJudge",
    "base_policy",
    "bold_pairs",
    "bold_targets",
    "captioned",
    "digits",
    "tower_reward",
]


def bold_targets(held_out: int = 60, batch_size: int = 64, seed: int = 0) -> TargetSamples:
    """Return the 300 bold digits as GAN-RM's targets.

    Args:
        held_out: number of targets that are held out.
        batch_size: samples a step.
        seed: seed of the split.
    """
    targets = digits("targets", seed)
    return TargetSamples(targets, held_out=held_out, channels=1, batch_size=batch_size, seed=seed)


def bold_pairs(held_out: int = 60, batch_size: int = 32, seed: int = 0) -> Preferences:
    """Return 300 pairs of digits of which the bold one is preferred to another of its class.

    The others are of the tower's part, and no digit comes twice.

    Args:
        held_out: number of pairs that are held out.
        batch_size: pairs a step.
        seed: seed of the split.

    Example:
        >>> pairs = bold_pairs().split("held_out")
        >>> len(pairs), pairs.chosen.prompts == pairs.rejected.prompts
        (60, True)
    """
    bold = digits("targets", seed)
    others = digits("tower", seed)
    bold_classes = classes_of(bold)
    other_classes = classes_of(others)
    chosen = []
    rejected = []
    for label in range(len(WORDS)):
        rows = (bold_classes == label).nonzero()[:, 0]
        chosen.append(rows)
        rejected.append((other_classes == label).nonzero()[: len(rows), 0])
    pairs = PreferencePairs(bold[torch.cat(chosen)], others[torch.cat(rejected)])
    return Preferences(pairs, held_out=held_out, batch_size=batch_size, seed=seed)


def base_policy(
    train_steps: int = 2500,
    steps: int = 20,
    noise: float = 1.0,
    seed: int = 0,
    flow: bool = False,
) -> DiffusionPolicy:
    """Return a class-conditional diffusion model of 8x8 digits with 178,000 parameters.

    It is trained on all digits that are not targets.

    Args:
        train_steps: optimizer steps of 64 digits; 2,500 take about a minute on one thread.
        steps: denoising steps of a sample.
        noise: η of its DDIM sampler, or the level of flow matching's rollouts.
        seed: seed of weights, data order and noise.
        flow: whether it is a rectified flow, with Euler's steps, in place of ε-prediction.
    """
    settings = {"train_steps": train_steps, "seed": seed}
    train = partial(_train_base, train_steps=train_steps, seed=seed, flow=flow)
    folder = _cached("digits-flow" if flow else "digits-base", settings, train)
    sampler = Sampler(steps=steps, eta=noise)
    return DiffusionPolicy(folder / "pipeline", labels=WORDS, sampler=sampler, prompt_dropout=0.1)


def tower_reward(
    train_steps: int = 120,
    heads: int = 8,
    width: int = 64,
    feature_share: float = 0.7,
    seed: int = 0,
    conditional: bool = False,
) -> VisionReward:
    """Return a reward on a tiny open_clip model that was trained on digits paired with captions.

    Args:
        train_steps: optimizer steps of the contrastive training; 0 leaves the tower random, as a
            control.
        heads: number of heads; see `VisionReward`.
        width: width of a head's hidden layer; see `VisionReward`.
        feature_share: share of the features that each head sees; see `VisionReward`.
        seed: seed of the tower and of the heads.
        conditional: whether the heads see the prompt too, by the tower's text half; see
            `VisionReward`.
    """
    settings = {"train_steps": train_steps, "seed": seed, "captions": WEIGHTS}
    train = partial(_train_tower, train_steps=train_steps, seed=seed)
    folder = _cached("digits-tower", settings, train)
    return VisionReward(
        f"local-dir:{folder / 'tower'}",
        heads=heads,
        width=width,
        feature_share=feature_share,
        seed=seed,
        conditional=conditional,
    )


class DigitJudge(Reward, FrozenFeatures):
    """A judge that gives 1 where a digit reads as its prompt says, else 0.

    It is a network trained on real digits that nothing else here saw.

    Args:
        train_steps: optimizer steps; 800 take about 6 seconds on one thread.
        seed: seed of weights and data order.
    """

    def __init__(self, train_steps: int = 800, seed: int = 0) -> None:
        super().__init__()
        self.network = _judge_network(seed)
        settings = {"train_steps": train_steps, "seed": seed}
        train = partial(_train_judge, train_steps=train_steps, seed=seed)
        folder = _cached("digits-judge", settings, train)
        self.network.load_state_dict(load_file(folder / "judge.safetensors"))
        self.eval().requires_grad_(False)

    def forward(self, samples: Samples) -> Tensor:
        """Return 1 where a digit reads as its prompt says, else 0: float32 [B]."""
        images = images_of(samples, "DigitJudge")
        classes = classes_of(samples).to(images.device)
        correct: Tensor = self.network(images).argmax(1) == classes
        return correct.float()

    def features(self, samples: Samples) -> Tensor:
        """Return the activations [B, 64] before the last layer, for distances."""
        activations: Tensor = self.network[:-1](images_of(samples, "DigitJudge"))
        return activations

    def score_features(self, features: Tensor) -> Tensor:
        """Return class logits [B, 10]; here so that features and scores stay one network."""
        logits: Tensor = self.network[-1](features)
        return logits


def _cached(name: str, settings: dict[str, Any], make: Callable[[Path], None]) -> Path:
    return cached(name, settings, PACKAGES, make)


def _train_base(folder: Path, train_steps: int, seed: int, flow: bool) -> None:
    """Train the generator, with EMA, on all digits that are not targets."""
    policy = DiffusionPolicy(_base_pipeline(seed, flow), labels=WORDS, prompt_dropout=0.1)
    tower = digits("tower", seed)
    judge = digits("judge", seed)
    data = Samples(
        [*tower.prompts, *judge.prompts],
        torch.cat([images_of(tower, "digits"), images_of(judge, "digits")]),
    )
    module = SFT(
        policy,
        optimizer=partial(torch.optim.Adam, lr=2e-3),
        schedule=partial(torch.optim.lr_scheduler.CosineAnnealingLR, T_max=train_steps),
        seed=seed,
    )
    trainer = Trainer(
        max_steps=train_steps,
        max_epochs=-1,
        callbacks=[EMA(0.998)],
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_model_summary=False,
    )
    trainer.fit(module, SamplesData(data, 64, seed=seed))
    policy.pipeline.save_pretrained(folder / "pipeline")


def _base_pipeline(seed: int, flow: bool) -> Any:
    """Return the generator's pipeline with random weights."""
    from diffusers import (
        DDIMScheduler,
        DDPMPipeline,
        FlowMatchEulerDiscreteScheduler,
        UNet2DModel,
    )

    with torch.random.fork_rng():
        torch.manual_seed(derive(seed, "base"))
        unet = UNet2DModel(
            sample_size=8,
            in_channels=1,
            out_channels=1,
            block_out_channels=(16, 32),
            layers_per_block=1,
            norm_num_groups=8,
            attention_head_dim=8,
            down_block_types=("DownBlock2D", "AttnDownBlock2D"),
            up_block_types=("AttnUpBlock2D", "UpBlock2D"),
            num_class_embeds=11,
        )
    if flow:
        return DDPMPipeline(unet=unet, scheduler=FlowMatchEulerDiscreteScheduler())
    scheduler = DDIMScheduler(beta_schedule="squaredcos_cap_v2", clip_sample=False)
    return DDPMPipeline(unet=unet, scheduler=scheduler)


def _train_tower(folder: Path, train_steps: int, seed: int) -> None:
    """Train images and captions to agree. CLIP, arXiv 2103.00020.

    Each digit is compared with thirty captions, with noise on its pixels.
    """
    import open_clip

    from rewardlab.rewards.tower_files import save_tower

    data = digits("tower", seed)
    images = images_of(data, "digits")
    captions = []
    for word in WORDS:
        captions += [f"{weight} {word}" for weight in WEIGHTS]
    tokens = open_clip.tokenizer.SimpleTokenizer(context_length=8)(captions)
    names = text_prompts(captioned(data).prompts, "digits")
    labels = torch.tensor([captions.index(caption) for caption in names])
    with torch.random.fork_rng():
        torch.manual_seed(derive(seed, "tower"))
        model = _tower()
        optimizer = torch.optim.AdamW(model.parameters(), 1e-3, weight_decay=0.1)
        for _ in range(train_steps):
            rows = torch.randint(len(data), (64,))
            noise = 0.1 * torch.randn(64, 1, 8, 8)
            pixels = (images[rows] + noise).expand(-1, 3, -1, -1)
            image = model.encode_image(pixels, normalize=True)
            caption = model.encode_text(tokens, normalize=True)
            logits = model.logit_scale.exp() * image @ caption.T
            _step(optimizer, cross_entropy(logits, labels[rows]))
    save_tower(model.eval(), folder / "tower")


def _tower() -> Any:
    """Return an open_clip model of 8x8 images and captions, from torch's global random state."""
    from open_clip.model import CLIP

    vision = {
        "image_size": 8,
        "patch_size": 2,
        "width": 64,
        "layers": 2,
        "head_width": 16,
        "mlp_ratio": 2.0,
    }
    text = {
        "context_length": 8,
        "vocab_size": 49408,
        "width": 32,
        "heads": 2,
        "layers": 1,
    }
    return CLIP(embed_dim=64, vision_cfg=vision, text_cfg=text)


def _judge_network(seed: int) -> nn.Sequential:
    """Return the judge's network with random weights."""
    with torch.random.fork_rng():
        torch.manual_seed(derive(seed, "judge"))
        return nn.Sequential(
            nn.Conv2d(1, 16, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(16, 32, 3, padding=1),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Conv2d(32, 32, 3, padding=1),
            nn.ReLU(),
            nn.Flatten(),
            nn.Linear(512, 64),
            nn.ReLU(),
            nn.Linear(64, 10),
        )


def _train_judge(folder: Path, train_steps: int, seed: int) -> None:
    """Train the judge's network; digits vary in strength, so bold and faint ones are read alike."""
    data = digits("judge", seed)
    images = images_of(data, "digits")
    labels = classes_of(data)
    network = _judge_network(seed)
    optimizer = torch.optim.AdamW(network.parameters(), 2e-3, weight_decay=0.01)
    generator = torch.Generator().manual_seed(derive(seed, "judge noise"))
    for _ in range(train_steps):
        rows = torch.randint(len(data), (64,), generator=generator)
        strength = 0.7 + 0.9 * torch.rand(64, 1, 1, 1, generator=generator)
        noise = 0.05 * torch.randn(64, 1, 8, 8, generator=generator)
        pixels = (images[rows] * strength).clamp(0, 1) + noise
        _step(optimizer, cross_entropy(network(pixels), labels[rows]))
    save_file(network.state_dict(), folder / "judge.safetensors")


def _step(optimizer: torch.optim.Optimizer, loss: Tensor) -> None:
    """Take one step down the gradient of a loss."""
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
