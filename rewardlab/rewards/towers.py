"""Vision towers, split into a frozen part and a trainable rest."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from copy import deepcopy
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from rewardlab.conversations import Prompt, text_prompts
from rewardlab.errors import InputError
from rewardlab.networks.recomputing import checkpoint_blocks, recomputed
from rewardlab.networks.stillness import still
from rewardlab.provenance import fingerprint
from rewardlab.rewards.foreign_towers import ForeignTower
from rewardlab.rewards.preprocessing import Preprocessing
from rewardlab.rewards.tower_description import described, heads_of
from rewardlab.rewards.tower_files import preprocessing_numbers, save_tower, wrapped
from rewardlab.rewards.tower_prompts import LongPrompts, PromptTokenizer
from rewardlab.types import distinct


class Tower(nn.Module):
    """A vision tower whose image half is cut in two: a frozen part and a trainable rest.

    `rest(frozen(images))` is its image embedding. open_clip's groups are counted from the end: the
    projection, then the last block with its norm, then one block each. The stem stays frozen.
    Always in eval mode; only the parameters of the rest require gradients.

    Args:
        model: of open_clip or timm, or a `TransformersTower`; frozen in place, or copied first if
            groups are unlocked.
        unlocked_groups: k, how many groups are in the rest; 0 freezes all, any more needs
            open_clip's VisionTransformer.
        name: where it was loaded from; None for an instance.
        tokenizer: of the text tower; if not given, the model's own, or open_clip's default with the
            model's context length.
        config: what open_clip builds the model from; read off the model when it is needed and not
            given.
        numbers: preprocessing numbers that replace the model's own.
        long_prompts: what becomes of prompts that the text tower's context does not hold: "cut"
            cuts their ends, counts them and says so once; "refuse" refuses them.

    Attributes:
        cut_prompts: how many distinct prompts were cut so far, counted anew in each call.

    Raises:
        InputError: if the model is of none of these libraries, or cannot be cut there.
    """

    def __init__(
        self,
        model: nn.Module,
        unlocked_groups: int = 0,
        name: str | None = None,
        tokenizer: Any = None,
        config: Any = None,
        numbers: Mapping[str, Any] | None = None,
        long_prompts: LongPrompts = "cut",
    ) -> None:
        super().__init__()
        model = wrapped(model)
        _check_cut(model, unlocked_groups)
        self.model = deepcopy(model) if unlocked_groups else model
        self.unlocked_groups = unlocked_groups
        self.name = name
        if tokenizer is None and isinstance(model, ForeignTower):
            tokenizer = model.tokenizer
        self._prompt_tokenizer = PromptTokenizer(tokenizer, long_prompts)
        self._config = config
        self.long_prompts = long_prompts
        self._recomputes = False
        device = next(model.parameters()).device
        own_numbers = preprocessing_numbers(model)
        self.prepare = Preprocessing(own_numbers | dict(numbers or {})).to(device)
        self.requires_grad_(False).eval()
        for parameter in self._rest_parameters():
            parameter.requires_grad_(True)
        self.width = self._embedding_width()

    def train(self, mode: bool = True) -> Tower:
        """Stay in eval mode, whatever the module around it does.

        Layers of transformers that compute their activations anew do so in training mode alone;
        they have it, and draw nothing.
        """
        super().train(False)
        still(self.model, training=True)
        return self

    def checkpoint_activations(self) -> None:
        """Let the backward pass compute each block's activations anew: time for memory.

        It is set on the model, so rewards that share it share this too.

        Raises:
            InputError: if the image half has no blocks that can, such as a ResNet of open_clip.
        """
        if isinstance(self.model, ForeignTower):
            self.model.checkpoint_activations()
        else:
            checkpoint_blocks(self.model.visual)
        self._recomputes = True
        self.train()

    @property
    def tokenizer(self) -> Any:
        """Return the text half's tokenizer, None if open_clip's default is taken when needed."""
        return self._prompt_tokenizer.tokenizer

    @property
    def cut_prompts(self) -> int:
        return self._prompt_tokenizer.cut

    @property
    def cut(self) -> int:
        """Return the number of the first block of the rest."""
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
        tokens = self._through(visual.transformer.resblocks[: self.cut], tokens)
        return tokens if self.unlocked_groups > 1 else visual._pool(tokens)[0]

    def rest(self, features: Tensor) -> Tensor:
        """Return the image embedding [B, D] from what `frozen` gave; of videos the frames' mean."""
        if self.unlocked_groups == 0:
            return features
        visual = self.model.visual
        if self.unlocked_groups == 1:
            return features.to(visual.proj.dtype) @ visual.proj
        tokens = features.to(self._dtype).unflatten(1, (-1, len(visual.positional_embedding)))
        rows, frames = tokens.shape[:2]
        tokens = tokens.flatten(0, 1)
        tokens = self._through(visual.transformer.resblocks[self.cut :], tokens)
        embeddings = visual._pool(tokens)[0] @ visual.proj
        return embeddings.unflatten(0, (rows, frames)).mean(1)

    def unflattened(self, features: Tensor) -> Tensor:
        """Give flat rows of `frozen` features [B, ...] their tokens back."""
        if self.unlocked_groups <= 1:
            return features
        return features.unflatten(1, (-1, self.model.visual.transformer.width))

    @torch.no_grad()
    def encode_text(self, prompts: Sequence[Prompt]) -> Tensor:
        """Return the text tower's embedding of each prompt [B, D]; equal prompts are run once.

        Raises:
            InputError: if a prompt is a conversation, or longer than the context where
                `long_prompts` is "refuse".
        """
        unique = distinct(text_prompts(prompts, "A text tower"))
        ids = self._prompt_tokenizer(unique.values, self.model).to(self.prepare.mean.device)
        embeddings = self.model.encode_text(ids, normalize=False)
        return embeddings[unique.places]

    def fingerprint(self, text: bool = False) -> str:
        """Return a hash of what `frozen` depends on: weights, preprocessing numbers and the cut.

        Args:
            text: whether the text tower counts too.
        """
        visual = self.model.visual
        if isinstance(self.model, ForeignTower):
            settings = [self.model.settings, self.prepare.numbers]
            return fingerprint([*settings, self._frozen_weights(text)])
        settings = [
            self.unlocked_groups,
            _kinds_without_weights(visual),
            [getattr(visual, name, None) for name in ("pool_type", "final_ln_after_pool")],
            heads_of(visual),
            self.prepare.numbers,
        ]
        return fingerprint([*settings, self._frozen_weights(text)])

    def config(self) -> Any:
        """Return what open_clip builds the model from; None for a model of another library.

        Raises:
            InputError: if it is not known and cannot be read off the model.
        """
        if isinstance(self.model, ForeignTower):
            return None
        return self._config or described(self.model)

    def save(self, folder: str | Path) -> None:
        """Write the whole model into a folder that `local-dir:` loads.

        The model's own library loads it, too.
        """
        if isinstance(self.model, ForeignTower):
            self.model.save(Path(folder), self.prepare.numbers)
            return
        save_tower(self.model, folder, self.config(), self.prepare.numbers)
        if hasattr(self.tokenizer, "save_pretrained"):
            self.tokenizer.save_pretrained(Path(folder))

    def _through(self, blocks: Iterable[nn.Module], tokens: Tensor) -> Tensor:
        """Return the tokens [B, N, W] behind blocks."""
        for block in blocks:
            tokens = recomputed(block, tokens) if self._recomputes else block(tokens)
        return tokens

    @property
    def _dtype(self) -> torch.dtype:
        return next(self.model.visual.parameters()).dtype

    def _rest_parameters(self) -> list[nn.Parameter]:
        """Return the parameters that are trained."""
        if self.unlocked_groups == 0:
            return []
        visual = self.model.visual
        parameters = [visual.proj]
        if self.unlocked_groups > 1:
            for part in (*visual.transformer.resblocks[self.cut :], visual.ln_post):
                parameters += part.parameters()
        return parameters

    def _frozen_weights(self, text: bool) -> dict[str, Tensor]:
        """Return the image tower's weights, if `text` the text tower's too, without the trained."""
        trained = {id(parameter) for parameter in self._rest_parameters()}
        image_weights: tuple[str, ...] = ("visual.",)
        unused: tuple[str, ...] = ()
        if isinstance(self.model, ForeignTower):
            image_weights = self.model.image_weights
            unused = self.model.unused
        weights = {}
        for name, tensor in self.model.state_dict(keep_vars=True).items():
            counts = (text or name.startswith(image_weights)) and not name.startswith(unused)
            if counts and id(tensor) not in trained:
                weights[name] = tensor
        return weights

    @torch.no_grad()
    def _embedding_width(self) -> int:
        width = getattr(self.model.visual, "output_dim", None)
        if width:
            return int(width)
        height, width = self.prepare.size
        image = torch.zeros(1, 3, height, width, device=self.prepare.mean.device)
        try:
            return int(self.model.encode_image(self.prepare(image).to(self._dtype)).shape[1])
        except (AssertionError, RuntimeError) as error:
            raise InputError(
                f"The image tower does not take the images of {height}x{width} that its config "
                f"names: {str(error)[:200]}. Is image_size the one of its architecture?"
            ) from error


def _check_cut(model: nn.Module, unlocked_groups: int) -> None:
    """Refuse to unlock groups of a tower that has none, or more than it has."""
    if unlocked_groups == 0:
        return
    visual = model.visual
    kind = type(visual).__name__
    if isinstance(model, ForeignTower):
        kind += " of another library"
    if kind != "VisionTransformer" or visual.attn_pool is not None:
        if hasattr(visual, "attn_pool"):
            kind += " with attention pooling"
        raise InputError(
            f"unlocked_groups={unlocked_groups} needs an open_clip VisionTransformer without "
            f"attention pooling; got a {kind}. Such a tower can only be frozen whole: "
            "unlocked_groups=0."
        )
    most = len(visual.transformer.resblocks) + 1
    if not 0 < unlocked_groups <= most:
        raise InputError(
            f"unlocked_groups={unlocked_groups} does not fit a tower of {most - 1} blocks: it goes "
            f"from 0 (all frozen) to {most} (all but the stem)."
        )


def _kinds_without_weights(module: nn.Module) -> list[str]:
    """Return the names of the classes in a module that hold no weights, such as activations."""
    names = set()
    for part in module.modules():
        if next(part.parameters(), None) is None:
            names.add(type(part).__name__)
    return sorted(names)
