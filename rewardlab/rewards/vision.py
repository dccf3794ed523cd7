"""VisionReward: small heads on a vision tower that was trained on images and text."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from rewardlab.errors import InputError
from rewardlab.rewards.abilities import Calibrated, FrozenFeatures, PromptFeatures, Saved
from rewardlab.rewards.base import Reward, checked_scores, score_scale
from rewardlab.rewards.folders import CONFIG, read_config
from rewardlab.rewards.functions import images_of
from rewardlab.rewards.projection import RewardProjection
from rewardlab.rewards.tower_files import LOCAL
from rewardlab.rewards.towers import load_tower
from rewardlab.storage.atomic import new_folder, write_json
from rewardlab.types import Samples
from rewardlab.version import __version__

CLASS_PATH = "rewardlab.rewards.VisionReward"
WEIGHTS = "model.safetensors"


class VisionReward(Reward, FrozenFeatures, Calibrated, PromptFeatures, Saved):
    """K heads on the features of an open_clip tower: GAN-RM's reward, arXiv 2506.13846, section
    3.2.

    Scores are logits, not probabilities; `meaning` says when they are a log density ratio and when
    only a score. Images of any size and with one or three channels are brought to the tower's form;
    of a video's frames the mean embedding counts. The tower stays in eval mode.

    Args:
        tower: an architecture of open_clip ("ViT-L-14"), "local-dir:FOLDER", "hf-hub:NAME", or an
            open_clip model, which is frozen in place (copied if groups are unlocked) and can be
            shared between rewards.
        pretrained: for an architecture: a tag (downloads), a local weights file, or "random".
        heads: K, how many heads score side by side; their mean is the score.
        width: hidden units of each head.
        dropout: in the heads, while training.
        feature_share: share of the features that each head sees, drawn from the seed, so that heads
            can disagree.
        unlocked_groups: how many of the tower's last groups are trained; 0 freezes it whole. See
            `Tower`.
        conditional: whether heads see the prompt too, through the text tower: [image, text, image *
            text] embeddings.
        resize: whether images may be resized and cropped; if false, another size than the tower's
            is refused.
        seed: of the heads' first weights and feature subsets.

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
        conditional: bool = False,
        resize: bool = True,
        seed: int = 0,
    ) -> None:
        super().__init__()
        shape = {
            "heads": heads,
            "width": width,
            "dropout": dropout,
            "feature_share": feature_share,
            "seed": seed,
        }
        self.options = shape | {
            "unlocked_groups": unlocked_groups,
            "conditional": conditional,
            "resize": resize,
        }
        self.conditional = conditional
        self.resize = resize
        self.pretrained = pretrained
        self.tower = load_tower(
            tower, pretrained, text=conditional, unlocked_groups=unlocked_groups
        )
        self.projection = RewardProjection(self.tower.width * (3 if conditional else 1), **shape)
        self.register_buffer("score_mean", torch.zeros(()))
        self.register_buffer("score_std", torch.zeros(()))
        self.meaning = "untrained"

    def features(self, samples: Samples) -> Tensor:
        """Return what does not change in training: the input of the first trained part, a row a
        sample.

        [B, D] of a frozen tower; [B, N, W] tokens with two or more unlocked groups. If conditional,
        each row is flat and the prompt's embedding follows. Gradients flow only if the images
        require them.

        Raises:
            InputError: if the outputs are strings, or images do not fit the tower.
        """
        images = images_of(samples, "VisionReward", channels="3")
        with torch.set_grad_enabled(torch.is_grad_enabled() and images.requires_grad):
            features = self.tower.frozen(images, self.resize)
        if self.conditional:
            features = torch.cat(
                [features.flatten(1), self.prompt_features(samples.prompts)], dim=1
            )
        return features.float()

    def score_features(self, features: Tensor) -> Tensor:
        """Return the heads' logits, float32 [B, K], from `features`. Not checked for NaN, since
        losses show them.
        """
        return self.projection(self._embeddings(features))

    def members(self, samples: Samples) -> Tensor:
        """Return the heads' logits, float32 [B, K].

        Raises:
            InputError: if a score is NaN or infinite.
        """
        return checked_scores(self.score_features(self.features(samples)), samples, "VisionReward")

    def forward(self, samples: Samples) -> Tensor:
        """Return the mean over the heads' logits, float32 [B]."""
        return self.members(samples).mean(1)

    def prompt_features(self, prompts: list[str]) -> Tensor:
        """Return the text tower's embeddings of prompts [B, D], for `prompt_probe_auc`."""
        return self.tower.encode_text(prompts)

    @torch.no_grad()
    def fit_feature_scale(self, features: Tensor) -> None:
        """Set the heads' standardisation constants from `features` of both classes together."""
        self.projection.fit_feature_scale(self._embeddings(features))

    @torch.no_grad()
    def calibrate(self, scores: Tensor) -> None:
        """Save mean and deviation of scores [N] of the generator's own samples, for `Standardized`.

        Raises:
            InputError: if they are not finite or all equal.
        """
        mean, std = score_scale(scores)
        self.score_mean.copy_(mean)
        self.score_std.copy_(std)

    def frozen_fingerprint(self) -> str:
        """Return a hash of all that `features` depends on beside the samples: frozen weights,
        preprocessing, settings.
        """
        return f"{self.tower.fingerprint(text=self.conditional)}-{'resize' if self.resize else 'exact'}"

    def trained_state(self) -> dict[str, Tensor]:
        """Return all tensors but the frozen tower's: heads, constants, and what is unlocked of the
        tower.
        """
        trained = {
            name
            for name, parameter in self.tower.named_parameters(prefix="tower")
            if parameter.requires_grad
        }
        return {
            name: t
            for name, t in self.state_dict().items()
            if name in trained or not name.startswith("tower.")
        }

    def save_pretrained(self, folder: str | Path, tower: bool = True) -> None:
        """Write the reward into `folder`, whole or not at all: config.json, model.safetensors and,
        if wanted, the tower.

        Args:
            folder: made if missing; only an earlier reward is replaced.
            tower: whether the tower is written too, as a folder that "local-dir:" loads. Otherwise
                its name is, and its fingerprint, which is compared when the reward is loaded.

        Raises:
            InputError: if `folder` holds something else, or the tower's architecture is not known.
        """
        from safetensors.torch import save_file

        source = (
            {"tower": f"{LOCAL}tower"}
            if tower
            else {"tower": self.tower.name, "pretrained": self.pretrained}
        )
        config = {
            "class_path": CLASS_PATH,
            "init_args": source | self.options,
            "meaning": self.meaning,
            "tower_fingerprint": self.frozen_fingerprint(),
            "rewardlab": __version__,
        }
        with new_folder(folder) as fresh:
            if tower:
                self.tower.save(fresh / "tower")
            save_file(
                {name: tensor.contiguous() for name, tensor in self.trained_state().items()},
                fresh / WEIGHTS,
            )
            write_json(fresh / CONFIG, config)

    @classmethod
    def from_pretrained(cls, folder: str | Path, tower: nn.Module | None = None) -> VisionReward:
        """Load what `save_pretrained` wrote, in eval mode.

        Args:
            folder: of the reward.
            tower: an open_clip model to use instead of loading one, such as one that other rewards
                share.

        Raises:
            InputError: if files are missing or of another class, or the tower is not the one that
                it was trained on.
        """
        folder = Path(folder)
        config = _checked_config(folder)
        options = dict(config["init_args"])
        named = options.pop("tower")
        if named == f"{LOCAL}tower":
            named = f"{LOCAL}{folder / 'tower'}"
        if tower is None and named is None:
            raise InputError(
                f"{folder} was saved without its tower, which had no name. Call from_pretrained(folder, tower=model)."
            )
        reward = cls(named if tower is None else tower, **options)
        if reward.frozen_fingerprint() != config["tower_fingerprint"]:
            raise InputError(
                f"The reward in {folder} was trained on another tower than {named if tower is None else 'the one given'}: the "
                "fingerprints of weights and preprocessing differ. Give the tower that it was trained on."
            )
        reward._load_trained(folder / WEIGHTS)
        reward.meaning = config["meaning"]
        return reward.eval()

    def _load_trained(self, path: Path) -> None:
        from safetensors import SafetensorError
        from safetensors.torch import load_file

        try:
            found = load_file(path)
        except SafetensorError as error:
            raise InputError(
                f"{path} is not a readable safetensors file: {error}. Is it cut off?"
            ) from error
        expected = {name: tensor.shape for name, tensor in self.trained_state().items()}
        if expected != {name: tensor.shape for name, tensor in found.items()}:
            raise InputError(
                f"{path} does not fit {CONFIG} beside it: other tensors or shapes. Was one of them exchanged?"
            )
        self.load_state_dict(found, strict=False)

    def _embeddings(self, features: Tensor) -> Tensor:
        """Return what the heads see, [B, D] or, if conditional, [B, 3 * D]."""
        if not self.conditional:
            return self.tower.rest(features)
        image, text = features.split(
            [features.shape[1] - self.tower.width, self.tower.width], dim=1
        )
        image = self.tower.rest(self.tower.unflattened(image))
        return torch.cat([image, text, image * text], dim=1)


def _checked_config(folder: Path) -> dict[str, Any]:
    config = read_config(folder)
    if config["class_path"] != CLASS_PATH:
        raise InputError(
            f"{folder / CONFIG} is of class {config['class_path']}, not {CLASS_PATH}. Use load_reward(folder)."
        )
    missing = {"init_args", "meaning", "tower_fingerprint"} - config.keys()
    if missing or "tower" not in config["init_args"]:
        raise InputError(
            f"{folder / CONFIG} lacks {sorted(missing) or 'init_args.tower'}. Is the file edited?"
        )
    if not (folder / WEIGHTS).is_file():
        raise InputError(f"{folder} holds no {WEIGHTS}. Was it copied in part?")
    return config
