"""scikit-learn's handwritten digits as a GAN-RM world: a generator, 300 bold digits that are
wanted, a tower and a judge.

The 1,797 digits [1, 8, 8] are split by class, so that who trains on what stays apart:

* "targets": 300, the 30 boldest of a random 40 % of each class. What is wanted (Preference Proxy
  Data).
* "tower": 400 others, on which the tower learns images and captions such as "bold three".
* "judge": the remaining 1,097, on which the judge learns the classes.

The base generator trains on all that are not targets. What is trained here is kept in
`$REWARDLAB_CACHE` (`.cache/rewardlab` in the home folder by default) under a hash of its settings
and versions.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import torch
from pytorch_lightning import Trainer
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from rewardlab.data.samples import SamplesData
from rewardlab.data.targets import TargetSamples
from rewardlab.embedded.cache import cached
from rewardlab.policies.diffusion import DiffusionPolicy
from rewardlab.policies.samplers import Sampler
from rewardlab.rewards import FrozenFeatures, Reward, VisionReward
from rewardlab.seeds import derive, row_seeds
from rewardlab.training.ema import EMA
from rewardlab.training.sft import SFT
from rewardlab.types import Samples

WORDS = ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"]
WEIGHTS = ["thin", "plain", "bold"]


def digits(part: Literal["targets", "tower", "judge", "all"] = "all", seed: int = 0) -> Samples:
    """Return real digits [N, 1, 8, 8] in [0, 1] with their names as prompts and the fact "row", the
    number in the set.

    Example:
        >>> [len(digits(part)) for part in ("targets", "tower", "judge", "all")]
        [300, 400, 1097, 1797]
    """
    from sklearn.datasets import load_digits

    bunch = load_digits()
    images = torch.from_numpy(bunch.images).float()[:, None] / 16
    samples = Samples(
        [WORDS[label] for label in bunch.target], images, {"row": torch.arange(len(images))}
    )
    if part == "all":
        return samples
    rows = [
        _parts(images, (torch.from_numpy(bunch.target) == label).nonzero()[:, 0], seed)[part]
        for label in range(10)
    ]
    return samples[torch.cat(rows).sort().values]


def _parts(images: Tensor, rows: Tensor, seed: int) -> dict[str, Tensor]:
    """Split one class's rows."""
    rows = rows[row_seeds(derive(seed, "digits"), rows).argsort()]
    pool = rows[: round(0.4 * len(rows))]
    bold = images[pool].mean((1, 2, 3)).argsort(descending=True)[:30]
    targets = pool[bold]
    others = rows[~torch.isin(rows, targets)]
    return {"targets": targets, "tower": others[:40], "judge": others[40:]}


def captioned(samples: Samples) -> Samples:
    """Return digits with captions such as "bold three": by thirds of the ink among those of their
    class.

    Example:
        >>> captioned(digits("tower")).prompts[:2]
        ['plain zero', 'thin three']
    """
    ink = samples.outputs.mean((1, 2, 3))
    prompts = list(samples.prompts)
    classes = torch.tensor([WORDS.index(prompt) for prompt in prompts])
    thirds = torch.stack(
        [torch.quantile(ink[classes == label], torch.tensor([1 / 3, 2 / 3])) for label in range(10)]
    )
    weights = (ink[:, None] > thirds[classes]).sum(1).tolist()
    return Samples(
        [f"{WEIGHTS[weight]} {prompt}" for weight, prompt in zip(weights, prompts, strict=True)],
        samples.outputs,
    )


def bold_targets(held_out: int = 60, batch_size: int = 64, seed: int = 0) -> TargetSamples:
    """Return the 300 bold digits as GAN-RM's targets."""
    return TargetSamples(
        digits("targets", seed), held_out=held_out, channels=1, batch_size=batch_size, seed=seed
    )


def base_policy(
    train_steps: int = 2500, steps: int = 20, noise: float = 1.0, seed: int = 0
) -> DiffusionPolicy:
    """Return a class-conditional diffusion model of 8x8 digits, trained on all that are not
    targets; 178,000 parameters.

    Args:
        train_steps: optimiser steps of 64 digits; 2,500 take about a minute on one thread.
        steps: denoising steps of a sample.
        noise: η of its DDIM sampler.
        seed: of weights, data order and noise.
    """
    settings = {"train_steps": train_steps, "seed": seed}
    folder = _cached("digits-base", settings, lambda folder: _train_base(folder, **settings))
    return DiffusionPolicy(
        folder / "pipeline",
        labels=WORDS,
        sampler=Sampler(steps=steps, noise=noise),
        prompt_dropout=0.1,
    )


def tower_reward(
    train_steps: int = 120,
    heads: int = 8,
    width: int = 64,
    feature_share: float = 0.7,
    seed: int = 0,
) -> VisionReward:
    """Return a reward on a tiny open_clip model that was trained on digits paired with captions.

    Args:
        train_steps: optimiser steps of the contrastive training; 0 leaves the tower random, as a
            control.
        heads, width, feature_share, seed: see `VisionReward`.
    """
    settings = {"train_steps": train_steps, "seed": seed, "captions": WEIGHTS}
    folder = _cached(
        "digits-tower", settings, lambda folder: _train_tower(folder, train_steps, seed)
    )
    return VisionReward(
        f"local-dir:{folder / 'tower'}",
        heads=heads,
        width=width,
        feature_share=feature_share,
        seed=seed,
    )


class DigitJudge(Reward, FrozenFeatures):
    """1 where a digit reads as its prompt says, else 0, by a network trained on real digits that
    nothing else here saw.

    Args:
        train_steps: optimiser steps; 800 take about 6 seconds on one thread.
        seed: of weights and data order.
    """

    def __init__(self, train_steps: int = 800, seed: int = 0) -> None:
        super().__init__()
        self.network = _judge_network(seed)
        settings = {"train_steps": train_steps, "seed": seed}
        folder = _cached("digits-judge", settings, lambda folder: _train_judge(folder, **settings))
        self.network.load_state_dict(load_file(folder / "judge.safetensors"))
        self.eval().requires_grad_(False)

    def forward(self, samples: Samples) -> Tensor:
        classes = torch.tensor(
            [WORDS.index(prompt) for prompt in samples.prompts], device=samples.outputs.device
        )
        return (self.network(samples.outputs).argmax(1) == classes).float()

    def features(self, samples: Samples) -> Tensor:
        """Return the activations [B, 64] before the last layer, for distances."""
        return self.network[:-1](samples.outputs)

    def score_features(self, features: Tensor) -> Tensor:
        """Return class logits [B, 10]; here so that features and scores stay one network."""
        return self.network[-1](features)


def _cached(name: str, settings: dict[str, Any], make: Callable[[Path], None]) -> Path:
    return cached(
        name, settings, ("torch", "diffusers", "open_clip_torch", "scikit-learn", "rewardlab"), make
    )


def _train_base(folder: Path, train_steps: int, seed: int) -> None:
    from diffusers import DDIMScheduler, DDPMPipeline, UNet2DModel

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
    scheduler = DDIMScheduler(beta_schedule="squaredcos_cap_v2", clip_sample=False)
    policy = DiffusionPolicy(
        DDPMPipeline(unet=unet, scheduler=scheduler), labels=WORDS, prompt_dropout=0.1
    )
    parts = [digits(part, seed) for part in ("tower", "judge")]  # type: ignore[arg-type]
    data = SamplesData(
        Samples(
            [*parts[0].prompts, *parts[1].prompts], torch.cat([part.outputs for part in parts])
        ),
        64,
        seed=seed,
    )
    module = SFT(
        policy,
        optimizer=lambda p: torch.optim.Adam(p, 2e-3),
        schedule=_cosine(train_steps),
        seed=seed,
    )
    _train(module, data, train_steps, [EMA(0.998)])
    policy.pipeline.save_pretrained(folder / "pipeline")


def _train(module: Any, data: Any, steps: int, callbacks: list[Any]) -> None:
    trainer = Trainer(
        max_steps=steps, max_epochs=-1, callbacks=callbacks, accelerator="cpu",
        logger=False, enable_checkpointing=False, enable_model_summary=False,
    )  # fmt: skip
    trainer.fit(module, data)


def _cosine(steps: int) -> Callable[[Any], Any]:
    return lambda optimizer: torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)


def _train_tower(folder: Path, train_steps: int, seed: int) -> None:
    """Train images and captions to agree (CLIP, arXiv 2103.00020): each digit against thirty
    captions, with pixel noise.
    """
    import open_clip
    from open_clip.model import CLIP

    from rewardlab.rewards.tower_files import save_tower

    vision = {
        "image_size": 8,
        "patch_size": 2,
        "width": 64,
        "layers": 2,
        "head_width": 16,
        "mlp_ratio": 2.0,
    }
    text = {"context_length": 8, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 1}
    data = digits("tower", seed)
    captions = [f"{weight} {word}" for word in WORDS for weight in WEIGHTS]
    tokens = open_clip.tokenizer.SimpleTokenizer(context_length=8)(captions)
    labels = torch.tensor([captions.index(caption) for caption in captioned(data).prompts])
    with torch.random.fork_rng():
        torch.manual_seed(derive(seed, "tower"))
        model = CLIP(embed_dim=64, vision_cfg=vision, text_cfg=text)
        optimizer = torch.optim.AdamW(model.parameters(), 1e-3, weight_decay=0.1)
        for _ in range(train_steps):
            rows = torch.randint(len(data), (64,))
            pixels = (data.outputs[rows] + 0.1 * torch.randn(64, 1, 8, 8)).expand(-1, 3, -1, -1)
            image = model.encode_image(pixels, normalize=True)
            words = model.encode_text(tokens, normalize=True)
            loss = cross_entropy(model.logit_scale.exp() * image @ words.T, labels[rows])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    save_tower(model.eval(), folder / "tower")


def _judge_network(seed: int) -> nn.Sequential:
    with torch.random.fork_rng():
        torch.manual_seed(derive(seed, "judge"))
        return nn.Sequential(
            nn.Conv2d(1, 16, 3, padding=1), nn.ReLU(), nn.Conv2d(16, 32, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2),
            nn.Conv2d(32, 32, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(512, 64), nn.ReLU(), nn.Linear(64, 10),
        )  # fmt: skip


def _train_judge(folder: Path, train_steps: int, seed: int) -> None:
    data = digits("judge", seed)
    network = _judge_network(seed)
    labels = torch.tensor([WORDS.index(prompt) for prompt in data.prompts])
    optimizer = torch.optim.AdamW(network.parameters(), 2e-3, weight_decay=0.01)
    noise = torch.Generator().manual_seed(derive(seed, "judge noise"))
    for _ in range(train_steps):
        rows = torch.randint(len(data), (64,), generator=noise)
        strength = 0.7 + 0.9 * torch.rand(
            64, 1, 1, 1, generator=noise
        )  # so that bold and faint digits are read alike
        pixels = (data.outputs[rows] * strength).clamp(0, 1) + 0.05 * torch.randn(
            64, 1, 8, 8, generator=noise
        )
        loss = cross_entropy(network(pixels), labels[rows])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    save_file(network.state_dict(), folder / "judge.safetensors")
