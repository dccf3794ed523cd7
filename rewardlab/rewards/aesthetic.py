"""AestheticReward: LAION's aesthetic predictor, from local checkpoints alone."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from rewardlab.errors import InputError
from rewardlab.rewards.abilities import Saved
from rewardlab.rewards.base import Reward, checked_scores
from rewardlab.rewards.folders import read_config
from rewardlab.rewards.saved import tried_folder
from rewardlab.rewards.tower_files import LOCAL
from rewardlab.rewards.tower_forms import Gelu
from rewardlab.rewards.tower_loading import load_tower
from rewardlab.rewards.tower_weights import load_weights, read_weights
from rewardlab.types import Samples, images_of

TOWER = "tower"
WEIGHTS = "model.safetensors"


class AestheticReward(Reward, Saved):
    """A chain of linear layers on a tower's normalised image embedding: how pleasing an image is.

    LAION's predictor of 2022 has five layers (768, 1024, 128, 64, 16, 1) on OpenAI's ViT-L/14,
    without an activation between them; its first one, of 2022 too, is a single layer. Both are
    recognised by their weights. Scores lie about 1 to 10. The score is differentiable with respect
    to the images; tower and predictor are frozen. Of a video, frames are scored and their mean
    counts.

    Args:
        tower: as `VisionReward` takes one. Use the tower that the predictor was trained on:
            ViT-L-14 with OpenAI's weights and gelu="quick".
        predictor: the predictor's weights file.
        pretrained: for an architecture of open_clip: a tag (downloads), a file, or "random".
        gelu, preprocessing: see `rewardlab.rewards.tower_loading.load_tower`.
        gradient_checkpointing: trade time for memory where a gradient passes to the images.

    Raises:
        InputError: if the predictor is no chain of linear layers on the tower's embedding.
    """

    meaning = "aesthetic score"

    def __init__(
        self,
        tower: str | nn.Module,
        predictor: str | Path,
        pretrained: str | None = None,
        gelu: Gelu | None = None,
        preprocessing: str | dict[str, Any] | None = None,
        gradient_checkpointing: bool = False,
    ) -> None:
        super().__init__()
        self.tower = load_tower(tower, pretrained, gelu=gelu, preprocessing=preprocessing)
        if gradient_checkpointing:
            self.tower.checkpoint_activations()
        weights = _layer_weights(read_weights(predictor), predictor)
        self.predictor = linear_chain(weights)
        load_weights(self.predictor, weights, predictor)
        self.predictor.requires_grad_(False)
        width = self.predictor[0].in_features
        if width != self.tower.width:
            raise InputError(
                f"The predictor {predictor} takes embeddings of {width} numbers, and the tower "
                f"gives {self.tower.width}. Was it trained on another tower?"
            )

    def forward(self, samples: Samples) -> Tensor:
        """Return the scores, float32 [B].

        Raises:
            InputError: if the outputs are strings, images do not fit the tower, or a score is NaN
                or infinite.
        """
        images = images_of(samples, "AestheticReward", channels="3")
        with torch.set_grad_enabled(torch.is_grad_enabled() and images.requires_grad):
            frames = images if images.dim() == 5 else images[:, None]
            embeddings = self.tower.frozen(frames.flatten(0, 1)).float()
            scores = self.predictor(nn.functional.normalize(embeddings, dim=-1))
            scores = scores.unflatten(0, frames.shape[:2]).mean((1, 2))
        return checked_scores(scores, samples, "AestheticReward")

    def save_pretrained(self, folder: str | Path) -> None:
        """Write the reward and its tower into `folder`, whole or not at all.

        Raises:
            InputError: if `folder` holds something else, or the tower's architecture is not known.
        """
        from safetensors.torch import save_file

        with tried_folder(folder, self) as fresh:
            self.tower.save(fresh / TOWER)
            save_file(self.predictor.state_dict(), fresh / WEIGHTS)

    def check_savable(self) -> None:
        """Refuse a tower whose architecture is not known.

        Raises:
            InputError: saying how else to give the tower.
        """
        self.tower.config()

    @classmethod
    def from_pretrained(cls, folder: str | Path) -> AestheticReward:
        """Load what `save_pretrained` wrote, in eval mode.

        Raises:
            InputError: if files are missing, broken or edited.
        """
        read_config(folder)
        folder = Path(folder)
        return cls(f"{LOCAL}{folder / TOWER}", folder / WEIGHTS).eval()


def _layer_weights(weights: Mapping[str, Tensor], source: str | Path) -> dict[str, Tensor]:
    """Return a predictor's weights by the numbers of their layers.

    Raises:
        InputError: if they are no chain of linear layers that ends in one number.
    """
    layers = {name.removeprefix("layers."): tensor for name, tensor in weights.items()}
    if set(layers) == {"weight", "bias"}:
        layers = {f"0.{name}": tensor for name, tensor in layers.items()}
    matrices = [tensor for name, tensor in layers.items() if name.endswith(".weight")]
    fits = bool(matrices) and all(matrix.dim() == 2 for matrix in matrices)
    if not fits or len(matrices[-1]) != 1 or not _are_numbered(layers):
        raise InputError(
            f"{source} is no aesthetic predictor: it should hold linear layers called "
            f"layers.0.weight, layers.0.bias and so on, the last of one row; got "
            f"{', '.join(list(weights)[:4])}."
        )
    return layers


def _are_numbered(names: Mapping[str, Tensor]) -> bool:
    for name in names:
        number, _, kind = name.partition(".")
        if not number.isdigit() or kind not in ("weight", "bias"):
            return False
    return True


def linear_chain(weights: Mapping[str, Tensor]) -> nn.Sequential:
    """Build the linear layers of a predictor; where it had dropout there is nothing."""
    last = max(int(name.partition(".")[0]) for name in weights)
    layers: list[nn.Module] = []
    for number in range(last + 1):
        matrix = weights.get(f"{number}.weight")
        if matrix is None:
            layers.append(nn.Identity())
        else:
            rows, columns = matrix.shape
            layers.append(nn.Linear(columns, rows))
    return nn.Sequential(*layers)
