"""VisionReward: small heads on a vision tower that was trained on images and text."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from rewardlab.errors import InputError
from rewardlab.rewards.abilities import (
    Calibrated,
    FrozenFeatures,
    HeadInputs,
    PromptFeatures,
    Saved,
    StartsAtZero,
)
from rewardlab.rewards.base import Reward, checked_scores, set_score_scale
from rewardlab.rewards.folders import CONFIG, read_config
from rewardlab.rewards.projection import RewardProjection
from rewardlab.rewards.saved import check_saved_images
from rewardlab.rewards.tower_files import LOCAL
from rewardlab.rewards.tower_forms import Gelu
from rewardlab.rewards.tower_loading import load_tower
from rewardlab.rewards.tower_weights import read_safetensors
from rewardlab.storage.atomic import new_folder, write_json
from rewardlab.types import Samples, images_of
from rewardlab.version import __version__

CLASS_PATH = "rewardlab.rewards.VisionReward"
WEIGHTS = "model.safetensors"


class VisionReward(
    Reward, FrozenFeatures, Calibrated, HeadInputs, PromptFeatures, Saved, StartsAtZero
):
    """K heads on the features of a tower of open_clip, timm or transformers: GAN-RM's reward.

    It is that of arXiv 2506.13846, section 3.2. Scores are logits, not probabilities; `meaning`
    says when they are a log density ratio and when only a score. Images of any size and with one or
    three channels are brought to the tower's form; of a video's frames the mean embedding counts.
    The tower stays in eval mode.

    Args:
        tower: an architecture of open_clip ("ViT-L-14"), "local-dir:FOLDER" (of open_clip, timm or
            transformers), "hf-hub:NAME", "timm:ARCHITECTURE.TAG", or a model, which is frozen in
            place (copied if groups are unlocked) and can be shared between rewards.
        pretrained: for an architecture: a tag (downloads), a local weights file, or "random".
        heads: K, how many heads score side by side; their mean is the score.
        width: hidden units of each head.
        dropout: in the heads, while training.
        feature_share: share of the features that each head sees, drawn from the seed, so that heads
            can disagree.
        unlocked_groups: how many of the tower's last groups are trained; 0 freezes it whole. See
            `Tower`.
        conditional: whether heads see the prompt too, through the text tower: [image, text, image *
            text] embeddings. Prompts that are longer than the text tower's context lose their ends,
            which is said once; "refuse" refuses them.
        resize: whether images may be resized and cropped; if false, another size than the tower's
            is refused.
        seed: of the heads' first weights and feature subsets.
        gelu: the activation of a weights file, "quick" or "exact", where nothing else decides it.
        preprocessing: of a weights file, where nothing else decides it: a tag that has the same, or
            a mapping of numbers. See `rewardlab.rewards.tower_loading.load_tower` for both.
        gradient_checkpointing: trade time for memory where a gradient passes the tower's blocks: in
            training, if groups are unlocked, and to the images (ReFL, PGDAttacker).

    Attributes:
        meaning: what the scores are; "untrained" until a training loop says better.
        score_mean, score_std: of the generator's own samples, saved with the reward; a deviation of
            0 says not yet set.

    Example:
        >>> from rewardlab.testing import tiny_tower
        >>> reward = VisionReward(tiny_tower(), heads=4, width=8)
        >>> samples = Samples(["", ""], torch.rand(2, 3, 32, 32))
        >>> reward(samples).shape, reward.members(samples).shape
        (torch.Size([2]), torch.Size([2, 4]))
    """

    mean_of_members = True

    def __init__(
        self,
        tower: str | nn.Module,
        pretrained: str | None = None,
        heads: int = 1,
        width: int = 512,
        dropout: float = 0.0,
        feature_share: float = 1.0,
        unlocked_groups: int = 0,
        conditional: bool | Literal["refuse"] = False,
        resize: bool = True,
        seed: int = 0,
        gelu: Gelu | None = None,
        preprocessing: str | dict[str, Any] | None = None,
        gradient_checkpointing: bool = False,
    ) -> None:
        super().__init__()
        heads_options = {
            "heads": heads,
            "width": width,
            "dropout": dropout,
            "feature_share": feature_share,
            "seed": seed,
        }
        tower_options = {
            "unlocked_groups": unlocked_groups,
            "conditional": conditional,
            "resize": resize,
            "gradient_checkpointing": gradient_checkpointing,
        }
        self.options = heads_options | tower_options
        self.conditional = bool(conditional)
        self.resize = resize
        self.source = {"pretrained": pretrained, "gelu": gelu, "preprocessing": preprocessing}
        self.tower = load_tower(
            tower,
            text=self.conditional,
            unlocked_groups=unlocked_groups,
            long_prompts="refuse" if conditional == "refuse" else "cut",
            **self.source,
        )
        if gradient_checkpointing:
            self.tower.checkpoint_activations()
        embeddings = 3 if conditional else 1
        self.projection = RewardProjection(self.tower.width * embeddings, **heads_options)
        self.register_buffer("score_mean", torch.zeros(()))
        self.register_buffer("score_std", torch.zeros(()))
        self.meaning = "untrained"

    def features(self, samples: Samples) -> Tensor:
        """Return what does not change in training: the input of the first trained part.

        A row a sample: [B, D] of a frozen tower; [B, N, W] tokens with two or more unlocked groups.
        If conditional, each row is flat and the prompt's embedding follows. Gradients flow only if
        the images require them.

        Raises:
            InputError: if the outputs are strings, or images do not fit the tower.
        """
        images = images_of(samples, "VisionReward", channels="3")
        with torch.set_grad_enabled(torch.is_grad_enabled() and images.requires_grad):
            features = self.tower.frozen(images, self.resize)
        if self.conditional:
            texts = self.prompt_features(samples.prompts)
            features = torch.cat([features.flatten(1), texts], dim=1)
        return features.float()

    @property
    def head_width(self) -> int:
        """Return the length of what the heads see: D, or 3 * D if conditional."""
        return len(self.projection.mean)

    def head_inputs(self, samples: Samples) -> Tensor:
        """Return the embeddings that the heads see, float32."""
        return self.head_inputs_of(self.features(samples))

    def head_inputs_of(self, features: Tensor) -> Tensor:
        """Return what the heads see, [B, D] or, if conditional, [B, 3 * D]."""
        if not self.conditional:
            return self.tower.rest(features)
        text_width = self.tower.width
        image_width = features.shape[1] - text_width
        image, text = features.split([image_width, text_width], dim=1)
        image = self.tower.rest(self.tower.unflattened(image))
        return torch.cat([image, text, image * text], dim=1)

    def head_parameters(self) -> list[nn.Parameter]:
        """Return the parameters of the heads."""
        return list(self.projection.parameters())

    def score_features(self, features: Tensor) -> Tensor:
        """Return the heads' logits, float32 [B, K], from `features`.

        They are not checked for NaN, since losses show them.
        """
        return self.projection(self.head_inputs_of(features))

    def members(self, samples: Samples) -> Tensor:
        """Return the heads' logits, float32 [B, K].

        Raises:
            InputError: if a score is NaN or infinite.
        """
        scores = self.score_features(self.features(samples))
        return checked_scores(scores, samples, "VisionReward")

    def check_samples(self, samples: Samples) -> None:
        """Refuse outputs that are no images."""
        images_of(samples, "VisionReward", channels="3")

    def forward(self, samples: Samples) -> Tensor:
        """Return the mean over the heads' logits, float32 [B]."""
        return self.members(samples).mean(1)

    def prompt_features(self, prompts: list[str]) -> Tensor:
        """Return the text tower's embeddings of prompts [B, D], for `prompt_probe_auc`."""
        return self.tower.encode_text(prompts)

    @torch.no_grad()
    def fit_feature_scale(self, features: Tensor) -> None:
        """Set the heads' standardisation constants from `features` of both classes together."""
        self.projection.fit_feature_scale(self.head_inputs_of(features))

    @torch.no_grad()
    def start_at_zero(self) -> None:
        """Set the heads' last layers to 0, so that every score is 0."""
        self.projection.weight.zero_()
        self.projection.bias.zero_()

    def calibrate(self, scores: Tensor) -> None:
        """Save mean and deviation of scores [N] of the generator's own samples, for `Standardized`.

        Raises:
            InputError: if they are not finite or all equal.
        """
        set_score_scale(self, scores)

    def frozen_fingerprint(self) -> str:
        """Return a hash of all that `features` depends on beside the samples.

        Those are frozen weights, preprocessing and settings.
        """
        tower = self.tower.fingerprint(text=self.conditional)
        sizes = "resize" if self.resize else "exact"
        return f"{tower}-{sizes}"

    def trained_state(self) -> dict[str, Tensor]:
        """Return all tensors but the frozen tower's: heads, constants, and the unlocked groups."""
        trained = set()
        for name, parameter in self.tower.named_parameters(prefix="tower"):
            if parameter.requires_grad:
                trained.add(name)
        state = {}
        for name, tensor in self.state_dict().items():
            if name in trained or not name.startswith("tower."):
                state[name] = tensor
        return state

    def check_savable(self) -> None:
        """Refuse a tower whose architecture is not known.

        Raises:
            InputError: saying how else to give the tower.
        """
        self.tower.config()

    def save_pretrained(self, folder: str | Path, tower: bool = True) -> None:
        """Write the reward into `folder`, whole or not at all.

        The folder holds config.json, model.safetensors and, if wanted, the tower.

        Args:
            folder: made if missing; only an earlier reward is replaced.
            tower: whether the tower is written too, as a folder that "local-dir:" loads. Otherwise
                its name is, and its fingerprint, which is compared when the reward is loaded.

        Raises:
            InputError: if `folder` holds something else, or the tower's architecture is not known.
        """
        from safetensors.torch import save_file

        source = {"tower": f"{LOCAL}tower"}
        if not tower:
            source = {"tower": self.tower.name, **self.source}
        config = {
            "class_path": CLASS_PATH,
            "init_args": source | self.options,
            "meaning": self.meaning,
            "tower_fingerprint": self.frozen_fingerprint(),
            "rewardlab": __version__,
        }
        tensors = {name: tensor.contiguous() for name, tensor in self.trained_state().items()}
        with new_folder(folder) as fresh:
            if tower:
                self.tower.save(fresh / "tower")
            save_file(tensors, fresh / WEIGHTS)
            write_json(fresh / CONFIG, config)
            if tower:
                check_saved_images(self, type(self).from_pretrained(fresh), folder)

    @classmethod
    def from_pretrained(cls, folder: str | Path, tower: nn.Module | None = None) -> VisionReward:
        """Load what `save_pretrained` wrote, in eval mode.

        Args:
            folder: of the reward.
            tower: a model to use instead of loading one, such as one that other rewards share.

        Raises:
            InputError: if files are missing or of another class, or the tower is not the one that
                it was trained on.
        """
        folder = Path(folder)
        config = _checked_config(folder)
        options = dict(config["init_args"])
        source: Any = options.pop("tower")
        if source == f"{LOCAL}tower":
            source = f"{LOCAL}{folder / 'tower'}"
        if tower is not None:
            source = tower
            options |= {"pretrained": None, "gelu": None}
        if source is None:
            raise InputError(
                f"{folder} was saved without its tower, which had no name. "
                "Call from_pretrained(folder, tower=model)."
            )
        _check_heads(folder, options)
        try:
            reward = cls(source, **options)
        except TypeError as error:
            raise InputError(
                f"{folder / CONFIG} is not what save_pretrained wrote: {error}. Is it edited?"
            ) from error
        reward._check_tower(folder, config["tower_fingerprint"], source)
        reward._load_trained(folder / WEIGHTS)
        reward.meaning = config["meaning"]
        return reward.eval()

    def _check_tower(self, folder: Path, fingerprint: str, source: Any) -> None:
        """Refuse another tower than the one that the reward in a folder was trained on."""
        if self.frozen_fingerprint() == fingerprint:
            return
        name = source if isinstance(source, str) else "the one given"
        raise InputError(
            f"The reward in {folder} was trained on another tower than {name}: the fingerprints of "
            "weights and preprocessing differ. Give the tower that it was trained on."
        )

    def _load_trained(self, path: Path) -> None:
        tensors = read_safetensors(path)
        if _shapes(tensors) != _shapes(self.trained_state()):
            odd = sorted(tensors.keys() ^ self.trained_state().keys())
            names = f" (such as {odd[0]})" if odd else ""
            raise InputError(
                f"{path} does not fit {CONFIG} beside it: other tensors{names} or shapes. "
                "Was one of them exchanged?"
            )
        self.load_state_dict(tensors, strict=False)


def _shapes(tensors: Mapping[str, Tensor]) -> dict[str, torch.Size]:
    return {name: tensor.shape for name, tensor in tensors.items()}


def _checked_config(folder: Path) -> dict[str, Any]:
    """Read a VisionReward's config, and see that its weights are beside it."""
    config = read_config(folder)
    if config["class_path"] != CLASS_PATH:
        raise InputError(
            f"{folder / CONFIG} is of class {config['class_path']}, not {CLASS_PATH}. "
            "Use load_reward(folder)."
        )
    missing = {"init_args", "meaning", "tower_fingerprint"} - config.keys()
    if not missing and not isinstance(config["init_args"], dict):
        missing = {"init_args"}
    if missing or "tower" not in config["init_args"]:
        raise InputError(
            f"{folder / CONFIG} lacks {sorted(missing) or 'init_args.tower'}. Is the file edited?"
        )
    if not isinstance(config["meaning"], str):
        raise InputError(f"{folder / CONFIG} has a meaning that is no text. Is the file edited?")
    if not (folder / WEIGHTS).is_file():
        raise InputError(f"{folder} holds no {WEIGHTS}. Was it copied in part?")
    return config


def _check_heads(folder: Path, options: Mapping[str, Any]) -> None:
    """Refuse heads of other sizes than the weights have, before they are built.

    A config that was edited could ask for more memory than there is.
    """
    tensors = read_safetensors(folder / WEIGHTS)
    hidden = tensors.get("projection.hidden_bias", torch.empty(0))
    sizes = [options.get("heads", 1), options.get("width", 512)]
    if list(hidden.shape) != sizes:
        raise InputError(
            f"{folder / WEIGHTS} does not fit {CONFIG} beside it: its heads are "
            f"{list(hidden.shape)} and the config has heads={sizes[0]!r:.40} and "
            f"width={sizes[1]!r:.40}. Was one of them exchanged?"
        )
