"""Families of diffusers pipelines: how prompts, latents and pixels pass through their networks.

A further family is a further class beside these, and a line in `FAMILIES`.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any, NamedTuple

from rewardlab.errors import InputError
from rewardlab.policies.families.base import Family


class Home(NamedTuple):
    """Where a family's class stands: a module of this package, and the class."""

    module: str
    name: str


CLASSES = Home("classes", "Classes")
STABLE_DIFFUSION = Home("stable_diffusion", "StableDiffusion")
# by the name of the pipeline's class, or of one that it derives from
FAMILIES = {
    "DDPMPipeline": CLASSES,
    "DDIMPipeline": CLASSES,
    "DiTPipeline": CLASSES,
    "StableDiffusionPipeline": STABLE_DIFFUSION,
    "StableDiffusionXLPipeline": Home("stable_diffusion_xl", "StableDiffusionXL"),
    "StableDiffusion3Pipeline": Home("stable_diffusion_3", "StableDiffusion3"),
    "PixArtAlphaPipeline": Home("pixart", "PixArt"),
    "PixArtSigmaPipeline": Home("pixart", "PixArt"),
    "SanaPipeline": Home("sana", "Sana"),
    "FluxPipeline": Home("flux", "Flux"),
    "QwenImagePipeline": Home("qwen_image", "QwenImage"),
    "ZImagePipeline": Home("z_image", "ZImage"),
    "AnimateDiffPipeline": Home("animate_diff", "AnimateDiff"),
    "CogVideoXPipeline": Home("cog_video_x", "CogVideoX"),
    "LTXPipeline": Home("ltx", "LTX"),
    "WanPipeline": Home("wan", "Wan"),
}


def family_of(pipeline: Any, size: Any = None, frames: int | None = None) -> Family:
    """Return the family of a pipeline, which knows how its networks are used.

    Args:
        pipeline: of diffusers.
        size: height and width in pixels, or one number for both; by default the pipeline's own.
        frames: number of frames of a video; by default the pipeline's own.

    Raises:
        InputError: if the family is not known, or it makes no such pictures.

    Example:
        >>> from rewardlab.testing import tiny_diffusion
        >>> family_of(tiny_diffusion()).shape
        (1, 8, 8)
    """
    home = _home(pipeline)
    module = import_module(f"{__name__}.{home.module}")
    family: Family = getattr(module, home.name)(pipeline, size, frames)
    return family


def check_known(pipeline: Any) -> None:
    """Refuse a pipeline of a family that is not known."""
    _home(pipeline)


def check_name(name: str) -> None:
    """Refuse a pipeline by its class's name, before it is loaded.

    A class that is not of diffusers may derive from one that is known.
    """
    import diffusers

    kind = getattr(diffusers, name, None)
    if kind is not None and _home_of_class(kind) is None:
        raise _unknown(name)


def _home(pipeline: Any) -> Home:
    kind = type(pipeline)
    home = _home_of_class(kind)
    if home is not None:
        return home
    networks = [getattr(pipeline, "unet", None), getattr(pipeline, "transformer", None)]
    names = {type(network).__name__ for network in networks}
    is_plain = not names.isdisjoint(("UNet2DModel", "DiTTransformer2DModel"))
    is_own = not kind.__module__.startswith("diffusers.")  # a class that a user wrote
    if is_own and is_plain and not hasattr(pipeline, "encode_prompt"):
        return CLASSES
    raise _unknown(kind.__name__)


def _home_of_class(kind: type) -> Home | None:
    for base in kind.__mro__:
        if base.__name__ in FAMILIES:
            return FAMILIES[base.__name__]
    return None


def _unknown(name: str) -> InputError:
    names = ", ".join(name.removesuffix("Pipeline") for name in FAMILIES)
    return InputError(
        f"DiffusionPolicy does not know the family of a {name}: what its networks take is not "
        f"written down yet. It knows {names}, which draw from prompts or classes: take one "
        "of them, or wrap the pipeline as a CallableGenerator to filter and judge its samples."
    )
