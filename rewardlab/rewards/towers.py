"""open_clip towers, split into a frozen part and a trainable rest."""

from __future__ import annotations

from collections.abc import Sequence
from copy import deepcopy
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from rewardlab.errors import InputError
from rewardlab.provenance import fingerprint
from rewardlab.rewards.preprocessing import Preprocessing
from rewardlab.rewards.tower_files import heads_of, open_model, preprocessing_numbers, save_tower


class Tower(nn.Module):
    """An open_clip model whose image tower is cut in two: `rest(frozen(images))` is its image
    embedding.

    open_clip's groups are counted from the end: the projection, then the last block with its norm,
    then one block each. The stem stays frozen. Always in eval mode; only the parameters of the rest
    require gradients.

    Args:
        model: an open_clip model; frozen in place, or copied first if groups are unlocked.
        unlocked_groups: k, how many groups are in the rest; 0 freezes all, any more needs a
            VisionTransformer.
        name: where it was loaded from; None for an instance.
        tokenizer: of the text tower; open_clip's default with the model's context length if not
            given.
        config: what open_clip builds the model from; read off the model when it is needed and not
            given.

    Raises:
        InputError: if the model is no open_clip model, or cannot be cut there.
    """

    def __init__(
        self,
        model: nn.Module,
        unlocked_groups: int = 0,
        name: str | None = None,
        tokenizer: Any = None,
        config: Any = None,
    ) -> None:
        super().__init__()
        if not (hasattr(model, "visual") and hasattr(model, "encode_image")):
            raise InputError(
                f"A tower is an open_clip model with an image tower; got a {type(model).__name__}."
            )
        self._check_cut(model.visual, unlocked_groups)
        self.model = deepcopy(model) if unlocked_groups else model
        self.unlocked_groups = unlocked_groups
        self.name = name
        self._tokenizer = tokenizer
        self._config = config
        self.prepare = Preprocessing(preprocessing_numbers(model)).to(
            next(model.parameters()).device
        )
        self.requires_grad_(False).eval()
        for part in self._rest_parameters():
            part.requires_grad_(True)
        self.width = self._embedding_width()

    @staticmethod
    def _check_cut(visual: nn.Module, unlocked_groups: int) -> None:
        if unlocked_groups == 0:
            return
        if type(visual).__name__ != "VisionTransformer" or visual.attn_pool is not None:
            kind = (
                f"{type(visual).__name__} with attention pooling"
                if hasattr(visual, "attn_pool")
                else type(visual).__name__
            )
            raise InputError(
                f"unlocked_groups={unlocked_groups} needs an open_clip VisionTransformer without attention pooling; got a "
                f"{kind}. Such a tower can only be frozen whole: unlocked_groups=0."
            )
        most = len(visual.transformer.resblocks) + 1
        if not 0 < unlocked_groups <= most:
            raise InputError(
                f"unlocked_groups={unlocked_groups} does not fit a tower of {most - 1} blocks: it goes from 0 (all frozen) "
                f"to {most} (all but the stem)."
            )

    def train(self, mode: bool = True) -> Tower:
        """Stay in eval mode, whatever the module around it does."""
        return super().train(False)

    @property
    def cut(self) -> int:
        """The first block of the rest."""
        return len(self.model.visual.transformer.resblocks) - max(self.unlocked_groups - 1, 0)

    def frozen(self, images: Tensor, resize: bool = True) -> Tensor:
        """Run the frozen part on images [B, C, H, W] or videos [B, F, C, H, W] in [0, 1].

        Returns:
            With unlocked_groups 0 the embedding [B, D], with 1 what goes into the projection [B,
            W]; of videos the mean over frames (GAN-RM, arXiv 2506.13846, does not say how it takes
            frames together). With 2 or more the tokens [B, F·N, W] that go into the first block of
            the rest.
        """
        if images.dim() == 5:
            frames = self.frozen(images.flatten(0, 1), resize).unflatten(0, images.shape[:2])
            return frames.flatten(1, 2) if self.unlocked_groups > 1 else frames.mean(1)
        pixels = self.prepare(images, resize).to(self._dtype)
        if self.unlocked_groups == 0:
            return self.model.encode_image(pixels, normalize=False)
        visual = self.model.visual
        tokens = visual._embeds(pixels)
        for block in visual.transformer.resblocks[: self.cut]:
            tokens = block(tokens)
        return tokens if self.unlocked_groups > 1 else visual._pool(tokens)[0]

    def rest(self, features: Tensor) -> Tensor:
        """Finish what `frozen` began: the image embedding [B, D], of videos the mean over frames."""
        if self.unlocked_groups == 0:
            return features
        visual = self.model.visual
        if self.unlocked_groups == 1:
            return features.to(visual.proj.dtype) @ visual.proj
        tokens = features.to(self._dtype).unflatten(1, (-1, len(visual.positional_embedding)))
        rows, frames = tokens.shape[:2]
        tokens = tokens.flatten(0, 1)
        for block in visual.transformer.resblocks[self.cut :]:
            tokens = block(tokens)
        return (visual._pool(tokens)[0] @ visual.proj).unflatten(0, (rows, frames)).mean(1)

    def unflattened(self, features: Tensor) -> Tensor:
        """Give flat rows of `frozen` features [B, ...] their tokens back."""
        return (
            features.unflatten(1, (-1, self.model.visual.transformer.width))
            if self.unlocked_groups > 1
            else features
        )

    @torch.no_grad()
    def encode_text(self, prompts: Sequence[str]) -> Tensor:
        """Return the text tower's embedding of each prompt [B, D]."""
        place = {prompt: i for i, prompt in enumerate(dict.fromkeys(prompts))}
        embedded = self.model.encode_text(
            self._tokens(list(place)).to(self.prepare.mean.device), normalize=False
        )
        return embedded[[place[prompt] for prompt in prompts]]

    def fingerprint(self, text: bool = False) -> str:
        """Return a hash of what `frozen` depends on: weights, preprocessing numbers, the cut; if
        `text`, the text tower.
        """
        trained = {id(parameter) for parameter in self._rest_parameters()}
        visual = self.model.visual
        kinds = sorted(
            {
                type(part).__name__
                for part in visual.modules()
                if not any(True for _ in part.parameters())
            }
        )
        pooling = [getattr(visual, name, None) for name in ("pool_type", "final_ln_after_pool")]
        weights = {
            name: tensor
            for name, tensor in self.model.state_dict(keep_vars=True).items()
            if id(tensor) not in trained and (text or name.startswith("visual."))
        }
        return fingerprint(
            [self.unlocked_groups, kinds, pooling, heads_of(visual), self.prepare.numbers, weights]
        )

    def save(self, folder: str | Path) -> None:
        """Write the whole model into a folder that `local-dir:` loads, here and in open_clip."""
        save_tower(self.model, folder, self._config)
        if hasattr(self._tokenizer, "save_pretrained"):
            self._tokenizer.save_pretrained(Path(folder))

    @property
    def _dtype(self) -> torch.dtype:
        return next(self.model.visual.parameters()).dtype

    def _rest_parameters(self) -> list[nn.Parameter]:
        if self.unlocked_groups == 0:
            return []
        visual = self.model.visual
        parts = (
            [*visual.transformer.resblocks[self.cut :], visual.ln_post]
            if self.unlocked_groups > 1
            else []
        )
        return [visual.proj, *(parameter for part in parts for parameter in part.parameters())]

    def _tokens(self, prompts: list[str]) -> Tensor:
        if self._tokenizer is None:
            from open_clip.tokenizer import SimpleTokenizer

            self._tokenizer = SimpleTokenizer(context_length=self.model.context_length)
            if self.model.vocab_size < self._tokenizer.vocab_size:
                raise InputError(
                    f"The tower's text half knows {self.model.vocab_size} tokens and open_clip's tokenizer makes "
                    f"{self._tokenizer.vocab_size}. Give a tower with a text half of its own, or set conditional=False."
                )
        return self._tokenizer(prompts)

    @torch.no_grad()
    def _embedding_width(self) -> int:
        width = getattr(self.model.visual, "output_dim", None)
        return (
            width
            or self.model.encode_image(
                self.prepare(torch.zeros(1, 3, *self.prepare.size)).to(self._dtype)
            ).shape[1]
        )


def load_tower(
    tower: str | nn.Module,
    pretrained: str | None = None,
    text: bool = False,
    unlocked_groups: int = 0,
) -> Tower:
    """Load an open_clip model and split its image tower. Only a tag or an hf-hub: name reaches for
    the network.

    Args:
        tower: an architecture of open_clip ("ViT-L-14"), "local-dir:FOLDER",
            "hf-hub:ORGANISATION/NAME", or a model.
        pretrained: for an architecture: open_clip's tag, a local weights file, or "random" for a
            control that knows nothing.
        text: whether prompts will be embedded too, so that a named tower's own tokenizer is loaded.
        unlocked_groups: see `Tower`.

    Raises:
        InputError: if the name, the folder or the weights are not there or do not fit each other.

    Example:
        >>> load_tower("ViT-L-41", "random")
        Traceback (most recent call last):
        rewardlab.errors.InputError: open_clip has no tower named ViT-L-41; the nearest is ViT-L-14. ...
    """
    if isinstance(tower, nn.Module):
        return Tower(tower, unlocked_groups)
    model, tokenizer, config = open_model(tower, pretrained, text)
    return Tower(model, unlocked_groups, tower, tokenizer, config)
