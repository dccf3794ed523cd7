"""SimilarityReward: CLIPScore, PickScore and HPSv2 from local checkpoints alone."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, nn

from rewardlab.conversations import text_prompts
from rewardlab.errors import InputError
from rewardlab.rewards.abilities import Saved
from rewardlab.rewards.base import Reward, checked_scores
from rewardlab.rewards.folders import read_settings
from rewardlab.rewards.saved import tried_folder
from rewardlab.rewards.tower_files import HUB, LOCAL
from rewardlab.rewards.tower_forms import Gelu
from rewardlab.rewards.tower_loading import load_tower
from rewardlab.rewards.towers import Tower
from rewardlab.types import Samples, images_of

TOWER = "tower"
WEIGHT = 2.5  # of CLIPScore, arXiv 2104.08718, section 3

Kind = Literal["clip_score", "pick_score", "hps"]


class _Form(NamedTuple):
    """The form of a published reward's own tower.

    Attributes:
        gelu: the activation of its weights file.
        numbers: preprocessing numbers that it was trained with and its tower's tags lack.
    """

    gelu: Gelu | None
    numbers: dict[str, Any]


# HPSv2's towers are fine-tuned from laion2b_s32b_b79k, on images that are padded to squares.
_FORMS = {
    "clip_score": _Form(None, {}),
    "pick_score": _Form(None, {}),
    "hps": _Form("exact", {"resize_mode": "longest", "fill_color": 0}),
}


class SimilarityReward(Reward, Saved):
    """The cosine of image and prompt in a CLIP-like tower, on the scale of a published reward.

    * "clip_score": 2.5 · max(cosine, 0), as arXiv 2104.08718; its own prefix is "A photo depicts".
    * "pick_score": exp(logit scale) · cosine, as arXiv 2305.01569. Its checkpoint is a transformers
      folder: local-dir:FOLDER.
    * "hps": the cosine, as HPSv2 and 2.1 (arXiv 2306.09341) score. Its checkpoint is a weights file
      of open_clip's ViT-H-14; oblong images are padded.

    The score is differentiable with respect to the images; the tower is frozen. Of a video, frames
    are scored and their mean counts.

    Args:
        tower: as `VisionReward` takes one; its text half is needed.
        pretrained: for an architecture of open_clip: a tag (downloads), a file, or "random".
        kind: which reward's scale.
        prefix: what is put before each prompt.
        gelu, preprocessing: see `rewardlab.rewards.tower_loading.load_tower`. Those of "hps" are
            known.
        long_prompts: "cut", which is said once, or "refuse".
        gradient_checkpointing: trade time for memory where a gradient passes to the images.

    Example:
        >>> from rewardlab.testing import tiny_tower
        >>> reward = SimilarityReward(tiny_tower())
        >>> reward(Samples(["a cat", "a dog"], torch.rand(2, 3, 16, 16))).shape
        torch.Size([2])
    """

    conditional = True

    def __init__(
        self,
        tower: str | nn.Module,
        pretrained: str | None = None,
        kind: Kind = "clip_score",
        prefix: str = "",
        gelu: Gelu | None = None,
        preprocessing: str | dict[str, Any] | None = None,
        long_prompts: Literal["cut", "refuse"] = "cut",
        gradient_checkpointing: bool = False,
    ) -> None:
        super().__init__()
        if kind not in _FORMS:
            raise InputError(f"SimilarityReward knows the kinds {', '.join(_FORMS)}; got {kind!r}.")
        if not isinstance(prefix, str) or long_prompts not in ("cut", "refuse"):
            raise InputError(
                "SimilarityReward takes a prefix that is a text and long_prompts of cut or refuse; "
                f"got {prefix!r:.40} and {long_prompts!r:.40}."
            )
        self.kind = kind
        self.prefix = prefix
        self.long_prompts = long_prompts
        self.meaning = {"clip_score": "CLIPScore", "pick_score": "PickScore", "hps": "HPSv2"}[kind]
        form = _FORMS[kind]
        if gelu is None and _is_architecture(tower):
            gelu = form.gelu
        self.tower = load_tower(
            tower,
            pretrained,
            text=True,
            gelu=gelu,
            preprocessing=preprocessing,
            long_prompts=long_prompts,
        )
        if preprocessing is None and form.numbers and _is_architecture(tower):
            self.tower = _renumbered(self.tower, form.numbers)
        if gradient_checkpointing:
            self.tower.checkpoint_activations()
        if kind == "pick_score" and not hasattr(self.tower.model, "logit_scale"):
            raise InputError("PickScore needs a tower with a logit scale; this one has none.")

    def check_samples(self, samples: Samples) -> None:
        """Refuse outputs that are no images."""
        images_of(samples, "SimilarityReward", channels="3")

    def forward(self, samples: Samples) -> Tensor:
        """Return the scores, float32 [B].

        Raises:
            InputError: if the outputs are strings, images do not fit the tower, a prompt is a
                conversation, or a score is NaN or infinite.
        """
        images = images_of(samples, "SimilarityReward", channels="3")
        prompts = text_prompts(samples.prompts, "SimilarityReward")
        texts = _unit(self.tower.encode_text([self.prefix + prompt for prompt in prompts]))
        with torch.set_grad_enabled(torch.is_grad_enabled() and images.requires_grad):
            frames = images if images.dim() == 5 else images[:, None]
            embeddings = _unit(self.tower.frozen(frames.flatten(0, 1)))
            embeddings = embeddings.unflatten(0, frames.shape[:2])
            cosines = (embeddings * texts[:, None]).sum(2)
            scores = self._scaled(cosines).mean(1)
        return checked_scores(scores, samples, "SimilarityReward")

    def save_pretrained(self, folder: str | Path) -> None:
        """Write the reward and its tower into `folder`, whole or not at all.

        Raises:
            InputError: if `folder` holds something else, or the tower's architecture is not known.
        """
        settings = {
            "kind": self.kind,
            "prefix": self.prefix,
            "long_prompts": self.long_prompts,
        }
        with tried_folder(folder, self, settings) as fresh:
            self.tower.save(fresh / TOWER)

    def check_savable(self) -> None:
        """Refuse a tower whose architecture is not known.

        Raises:
            InputError: saying how else to give the tower.
        """
        self.tower.config()

    @classmethod
    def from_pretrained(cls, folder: str | Path) -> SimilarityReward:
        """Load what `save_pretrained` wrote, in eval mode.

        Raises:
            InputError: if files are missing, broken or edited.
        """
        settings = read_settings(folder, "kind", "prefix", "long_prompts")
        return cls(f"{LOCAL}{Path(folder) / TOWER}", **settings).eval()

    def _scaled(self, cosines: Tensor) -> Tensor:
        if self.kind == "clip_score":
            return WEIGHT * cosines.clamp_min(0)
        if self.kind == "pick_score":
            model: Any = self.tower.model
            scale: Tensor = model.logit_scale.float().exp()
            return scale * cosines
        return cosines


def _is_architecture(tower: str | nn.Module) -> bool:
    """Tell whether a tower is named by an architecture of open_clip."""
    return isinstance(tower, str) and not tower.startswith((LOCAL, HUB))


def _renumbered(tower: Tower, numbers: Mapping[str, Any]) -> Tower:
    """Return a tower with other preprocessing numbers."""
    return Tower(
        tower.model,
        name=tower.name,
        tokenizer=tower.tokenizer,
        config=tower.config(),
        numbers=numbers,
        long_prompts=tower.long_prompts,
    )


def _unit(embeddings: Tensor) -> Tensor:
    return nn.functional.normalize(embeddings.float(), dim=-1)
