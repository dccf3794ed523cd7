"""Where open_clip models come from and go to: names, folders and weights files."""

from __future__ import annotations

from copy import deepcopy
from dataclasses import asdict
from difflib import get_close_matches
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from rewardlab.errors import InputError
from rewardlab.storage.atomic import write_json

LOCAL = "local-dir:"
HUB = "hf-hub:"
CONFIG = "open_clip_config.json"
WEIGHTS = "open_clip_model.safetensors"
ENDINGS = ("safetensors", "bin", "pth")  # of the weights files that open_clip reads


class OpenedModel(NamedTuple):
    """An open_clip model as it was loaded.

    Attributes:
        model: the model.
        tokenizer: of its text tower, or None if that was not asked for.
        config: what open_clip builds the model from.
    """

    model: nn.Module
    tokenizer: Any
    config: dict[str, Any]


def open_model(name: str, pretrained: str | None, text: bool) -> OpenedModel:
    """Load an open_clip model by its name; see `load_tower`.

    Args:
        name: an architecture, "local-dir:FOLDER" or "hf-hub:ORGANISATION/NAME".
        pretrained: for an architecture: a tag, a weights file, or "random".
        text: whether the text tower's own tokenizer is loaded too.

    Raises:
        InputError: if the name, the folder or the weights are not there or do not fit each other.
    """
    import open_clip

    if name.startswith(LOCAL):
        _check_folder(name)
    elif not name.startswith(HUB):
        _check_architecture(name)
        _check_weights(name, pretrained, text)
    tag = None if pretrained == "random" else pretrained
    try:
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(0)
            model = open_clip.create_model(name, tag, pretrained_text=False)
        tokenizer = open_clip.get_tokenizer(name) if text else None
        return OpenedModel(model, tokenizer, open_clip.get_model_config(name))
    except Exception as error:  # a foreign file can make open_clip raise anything
        raise InputError(
            f"open_clip cannot load the tower {name} with pretrained={pretrained}: "
            f"{str(error)[:300]} … Are the weights whole, and do they belong to it?"
        ) from error


def save_tower(model: nn.Module, folder: str | Path, config: dict[str, Any] | None = None) -> None:
    """Write an open_clip model into a folder that "local-dir:FOLDER" loads, also in open_clip.

    Args:
        model: its image and text towers are both written, with their weights.
        folder: made if missing; a tower in it is overwritten.
        config: what open_clip builds the model from; by default it is read off the model, see
            `described`.

    Raises:
        InputError: if the config cannot be read off the model.
    """
    from safetensors.torch import save_file

    folder = Path(folder)
    content = {
        "model_cfg": config or described(model),
        "preprocess_cfg": preprocessing_numbers(model),
    }
    folder.mkdir(parents=True, exist_ok=True)
    weights = {name: tensor.contiguous() for name, tensor in model.state_dict().items()}
    save_file(weights, folder / WEIGHTS)
    write_json(folder / CONFIG, content)


def described(model: nn.Module) -> dict[str, Any]:
    """Read off a plain CLIP model with a VisionTransformer what open_clip builds it from.

    The description is verified: a twin is built from it and has to behave as the model does.

    Raises:
        InputError: if the model is of another kind, or its twin does not behave as it does.
    """
    kind = type(model).__name__
    visual_kind = type(model.visual).__name__
    unknown = InputError(
        f"The architecture of this tower (a {kind} with a {visual_kind}) cannot be read off it, so "
        "it cannot be embedded. Give the tower by name or as local-dir:FOLDER, or save with "
        "tower=False."
    )
    if kind != "CLIP" or visual_kind != "VisionTransformer":
        raise unknown
    try:
        config = _read_off(model)
        is_alike = _behave_alike(model, config)
    except (AttributeError, RuntimeError, TypeError) as error:
        raise unknown from error
    if not is_alike:
        raise unknown
    return config


def preprocessing_numbers(model: nn.Module) -> dict[str, Any]:
    """Return open_clip's preprocessing numbers of a model; its defaults for those that lack."""
    import open_clip

    defaults = asdict(open_clip.transform.PreprocessCfg())
    return defaults | open_clip.get_model_preprocess_cfg(model)


def heads_of(tower: nn.Module) -> int | None:
    """Return the attention heads of a transformer tower's blocks, None for any other tower."""
    transformer = getattr(tower, "transformer", None)
    blocks = getattr(transformer, "resblocks", None)
    if not blocks:
        return None
    return getattr(blocks[0].attn, "num_heads", None)


def _check_folder(name: str) -> None:
    folder = Path(name.removeprefix(LOCAL))
    missing = None
    if not folder.is_dir():
        missing = "folder"
    elif not (folder / CONFIG).is_file():
        missing = CONFIG
    elif not any(any(folder.glob(f"*.{ending}")) for ending in ENDINGS):
        missing = "weights file"
    if missing:
        raise InputError(
            f"The tower {name} has to be a folder with {CONFIG} and a weights file ({WEIGHTS}); "
            f"there is no {missing}."
        )


def _check_architecture(name: str) -> None:
    """Refuse an architecture that open_clip does not have, naming the nearest."""
    import open_clip

    architectures = open_clip.list_models()
    if name.replace("/", "-") not in architectures:
        nearest = get_close_matches(name, architectures, 1, cutoff=0) or architectures[:1]
        raise InputError(
            f"open_clip has no tower named {name}; the nearest is {nearest[0]}. A folder is given "
            "as local-dir:FOLDER."
        )


def _check_weights(name: str, pretrained: str | None, text: bool) -> None:
    """Refuse what open_clip would meet with a guess, random weights or a silent download."""
    import open_clip

    tags = open_clip.list_pretrained_tags_by_model(name.replace("/", "-"))
    if pretrained in tags:
        return
    is_file = bool(pretrained) and Path(str(pretrained)).is_file()
    if pretrained != "random" and not is_file:
        raise InputError(
            f"The tower {name} needs weights: got pretrained={pretrained}, which is neither a file "
            f"nor one of open_clip's tags for it ({', '.join(tags)}). A tag downloads them; random "
            "gives an untrained control."
        )
    text_config = open_clip.get_model_config(name)["text_cfg"]
    if "hf_model_name" in text_config or (text and "hf_tokenizer_name" in text_config):
        raise InputError(
            f"The tower {name} takes its text half from the Hugging Face hub, which a weights file "
            f"does not bring. Give a tag ({', '.join(tags)}), which downloads it, or a folder as "
            "local-dir:FOLDER."
        )


def _read_off(model: nn.Module) -> dict[str, Any]:
    visual = model.visual
    activation = type(visual.transformer.resblocks[0].mlp.gelu).__name__
    config = {
        "embed_dim": visual.output_dim,
        "vision_cfg": _read_off_vision(visual),
        "text_cfg": _read_off_text(model),
        "quick_gelu": activation == "QuickGELU",
    }
    if model.logit_bias is not None:
        config["init_logit_bias"] = 0.0
    return config


def _read_off_vision(visual: nn.Module) -> dict[str, Any]:
    return _read_off_blocks(visual.transformer, visual.ln_post) | {
        "head_width": visual.transformer.width // heads_of(visual),
        "patch_size": visual.patch_size[0],
        "image_size": list(visual.image_size),
        "pool_type": visual.pool_type,
        "final_ln_after_pool": visual.final_ln_after_pool,
        "no_ln_pre": isinstance(visual.ln_pre, nn.Identity),
    }


def _read_off_text(model: nn.Module) -> dict[str, Any]:
    return _read_off_blocks(model.transformer, model.ln_final) | {
        "heads": heads_of(model),
        "context_length": model.context_length,
        "vocab_size": model.vocab_size,
        "pool_type": model.text_pool_type,
        "eos_id": model.text_eos_id,
    }


def _read_off_blocks(transformer: nn.Module, norm: nn.Module) -> dict[str, Any]:
    block = transformer.resblocks[0]
    return {
        "width": transformer.width,
        "layers": transformer.layers,
        "mlp_ratio": block.mlp.c_fc.out_features / transformer.width,
        "ls_init_value": None if isinstance(block.ls_1, nn.Identity) else 1.0,
        "norm_kwargs": {"eps": norm.eps},
    }


@torch.no_grad()
def _behave_alike(model: nn.Module, config: dict[str, Any]) -> bool:
    """Tell whether a model built from `config`, with the weights, embeds as the model does.

    They are compared on a fixed image and a fixed text.
    """
    from open_clip.model import CLIP

    like = model.visual.conv1.weight
    with torch.random.fork_rng(devices=[]):
        twin = CLIP(**deepcopy(config)).to(like).eval()
    twin.load_state_dict(model.state_dict())
    height, width = model.visual.image_size
    image = torch.arange(3 * height * width).sin().view(1, 3, height, width).to(like)
    ids = (torch.arange(model.context_length)[None] % model.vocab_size).to(like.device)
    was_training = model.training
    model.eval()
    same_image = _are_close(model.encode_image(image), twin.encode_image(image))
    same_text = _are_close(model.encode_text(ids), twin.encode_text(ids))
    model.train(was_training)
    return same_image and same_text


def _are_close(one: Tensor, other: Tensor) -> bool:
    return torch.allclose(one, other, atol=1e-5, rtol=1e-3)
