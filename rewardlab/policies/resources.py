"""How much memory a diffusion policy takes, and for what."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

from rewardlab.errors import InputError

EncoderPlace = Literal["keep", "offload", "host", "free"]


@dataclass(frozen=True)
class Resources:
    """What a diffusion policy keeps, where, and how much of it at once.

    None of it changes what the policy is; equal seeds draw equal pictures. `storage="float8"` is
    the exception: it rounds the frozen weights.

    Args:
        encoders: where the text encoders are while they read no prompt. "keep": with the denoiser.
            "offload": in the host's memory, and on the device while they read. "host": in the
            host's memory, where they read too. "free": nowhere; they are loaded from the folder
            when a new prompt comes, read it on the host, and are dropped again.
        prompts: GiB of encoded prompts that are kept in the host's memory. When they are full, the
            first stay, and the log says so once.
        latents: the same of means and deviations of encoded pictures, by the pictures' content.
            Each use draws anew from them. The pictures are then encoded one at a time. 0 keeps
            none.
        autoencoder_rows: largest number of pictures that pass the autoencoder at once; all of a
            batch by default.
        storage: "float8" keeps the frozen linear layers of a denoiser with an adapter in eight
            bits, with a scale for each row of weights; they compute in `dtype`.
        compile: whether `torch.compile` compiles the denoiser; a text names its backend.

    Example:
        >>> Resources(encoders="host").prompts
        0.25
    """

    encoders: EncoderPlace = "keep"
    prompts: float = 0.25
    latents: float = 0.5
    autoencoder_rows: int | None = None
    storage: Literal["dtype", "float8"] = "dtype"
    compile: bool | str = False

    @property
    def backend(self) -> str | None:
        """The backend that compiles the denoiser; None for none."""
        return "inductor" if self.compile is True else self.compile or None

    def planned(self) -> Resources:
        """Return the same for a policy without numbers: nothing is loaded, kept or compiled."""
        place: EncoderPlace = "host" if self.encoders == "free" else self.encoders
        return replace(self, encoders=place, latents=0.0, compile=False)

    def __post_init__(self) -> None:
        places = ("keep", "offload", "host", "free")
        if self.encoders not in places:
            raise InputError(f"encoders is one of {', '.join(places)}; got {self.encoders!r}.")
        if self.prompts < 0 or self.latents < 0:
            raise InputError(
                "prompts and latents are GiB that may be kept, 0 or more; got "
                f"prompts={self.prompts} and latents={self.latents}."
            )
        if self.autoencoder_rows is not None and self.autoencoder_rows < 1:
            raise InputError(
                f"autoencoder_rows is 1 or more, or null; got {self.autoencoder_rows}."
            )
        if self.storage not in ("dtype", "float8"):
            raise InputError(f"storage is dtype or float8; got {self.storage!r}.")
