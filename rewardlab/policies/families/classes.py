"""Models of classes, or of nothing: a UNet2DModel on pixels or latents, and DiT."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor

from rewardlab.errors import InputError
from rewardlab.policies.families.base import Family


class Classes(Family):
    """Pipelines whose prompts are names of classes, or empty.

    Attributes:
        labels: names of the classes in order; None for an unconditional model.
    """

    needs: ClassVar[list[str]] = ["scheduler"]
    labels: Sequence[str] | None = None

    def name_classes(self, labels: Sequence[str] | None) -> None:
        """Take the names of the classes, in order; None for an unconditional model."""
        self.labels = labels

    def latent_size(self, size: Any, default: Any, multiple: int = 1) -> tuple[int, int]:
        """Return height and width of the latents; a DiT, whose positions are fixed, has one."""
        own = super().latent_size(None, default)
        latent = super().latent_size(size, default, multiple)
        if latent != own and hasattr(self.pipeline, "transformer"):
            raise InputError(
                f"{type(self.pipeline).__name__} makes pictures of one size, "
                f"{own[0] * self.factor}x{own[1] * self.factor}; got size {size}."
            )
        return latent

    @property
    def factor(self) -> int:
        if self.vae is None:
            return 1
        halvings = len(self.vae.config.block_out_channels) - 1
        return int(2**halvings)

    def encode(
        self, prompts: Sequence[str], device: torch.device, *, negative: bool = False
    ) -> dict[str, Tensor]:
        """Return the number of each prompt's class.

        Raises:
            InputError: if the model has fewer classes than labels, or a prompt is none of them.
        """
        if self.labels is None:
            return self._unconditional(prompts)
        classes = self._classes(self.labels)
        numbers = [_class_number(prompt, classes) for prompt in prompts]
        return {"class_labels": torch.tensor(numbers, device=device)}

    def _unconditional(self, prompts: Sequence[str]) -> dict[str, Tensor]:
        """Return no input; only the empty prompt is allowed."""
        for prompt in prompts:
            if prompt:
                raise InputError(
                    f"This {type(self.pipeline).__name__} is unconditional and takes the empty "
                    f"prompt; got {prompt!r}. Give `labels` if its classes have names."
                )
        return {}

    def _classes(self, labels: Sequence[str]) -> list[str]:
        """Return the classes' names; the last is the empty prompt if there is a null class."""
        config = self.config
        count = config.get("num_class_embeds") or config.get("num_embeds_ada_norm", -1) + 1
        if len(labels) > count:
            raise InputError(f"The model knows {count} classes; got {len(labels)} labels.")
        if len(labels) < count:
            return [*labels, ""]
        return list(labels)


def _class_number(prompt: str, classes: list[str]) -> int:
    if prompt in classes:
        return classes.index(prompt)
    if prompt == "":
        raise InputError(
            "The empty prompt needs a null class, which this model lacks (as many labels as class "
            "embeddings)."
        )
    names = ", ".join(classes[:12]) + " …" * (len(classes) > 12)
    raise InputError(f"No class is called {prompt!r}; the policy's labels are {names}.")
