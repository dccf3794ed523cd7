"""Where open_clip models come from and go to: names, folders and weights files."""

from __future__ import annotations

from copy import deepcopy
from dataclasses import asdict
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import torch
from torch import nn

from rewardlab.errors import InputError
from rewardlab.storage.atomic import write_json

LOCAL = "local-dir:"
HUB = "hf-hub:"
CONFIG = "open_clip_config.json"
WEIGHTS = "open_clip_model.safetensors"


def open_model(
    name: str, pretrained: str | None, text: bool
) -> tuple[nn.Module, Any, dict[str, Any]]:
    """Return an open_clip model, its tokenizer if `text`, and the config that it was built from.
    See `load_tower`.
    """
    import open_clip

    (_check_folder if name.startswith(LOCAL) else _check_name)(name, pretrained, text)
    try:
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(0)
            model = open_clip.create_model(
                name, None if pretrained == "random" else pretrained, pretrained_text=False
            )
        tokenizer = open_clip.get_tokenizer(name) if text else None
        return model, tokenizer, open_clip.get_model_config(name)
    except Exception as error:  # a foreign file can make open_clip raise anything
        raise InputError(
            f"open_clip cannot load the tower {name} with pretrained={pretrained}: {str(error)[:300]} … "
            "Are the weights whole, and do they belong to it?"
        ) from error


def save_tower(model: nn.Module, folder: str | Path, config: dict[str, Any] | None = None) -> None:
    """Write an open_clip model into a folder, so that "local-dir:FOLDER" loads it here and in
    open_clip.

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
    save_file(
        {name: tensor.contiguous() for name, tensor in model.state_dict().items()}, folder / WEIGHTS
    )
    write_json(folder / CONFIG, content)


def described(model: nn.Module) -> dict[str, Any]:
    """Read off a plain CLIP model with a VisionTransformer what open_clip builds it from, and make
    sure by building it.

    Raises:
        InputError: if the model is of another kind, or its twin does not behave as it does.
    """
    kinds = (type(model).__name__, type(model.visual).__name__)
    unknown = InputError(
        f"The architecture of this tower (a {kinds[0]} with a {kinds[1]}) cannot be read off it, so it cannot be embedded. "
        "Give the tower by name or as local-dir:FOLDER, or save with tower=False."
    )
    if kinds != ("CLIP", "VisionTransformer"):
        raise unknown
    try:
        config = _read_off(model)
        alike = _behave_alike(model, config)
    except (AttributeError, RuntimeError, TypeError) as error:
        raise unknown from error
    if not alike:
        raise unknown
    return config


def preprocessing_numbers(model: nn.Module) -> dict[str, Any]:
    """Return open_clip's preprocessing numbers of a model, its defaults where the model states
    none.
    """
    import open_clip

    return asdict(open_clip.transform.PreprocessCfg()) | open_clip.get_model_preprocess_cfg(model)


def heads_of(tower: nn.Module) -> int | None:
    """Return the attention heads of a transformer tower's blocks, None for any other tower."""
    blocks = getattr(getattr(tower, "transformer", None), "resblocks", None)
    return getattr(blocks[0].attn, "num_heads", None) if blocks else None


def _check_folder(name: str, pretrained: str | None, text: bool) -> None:
    folder = Path(name.removeprefix(LOCAL))
    weights = [
        path for ending in ("safetensors", "bin", "pth") for path in folder.glob(f"*.{ending}")
    ]
    for found, what in (
        (folder.is_dir(), "folder"),
        ((folder / CONFIG).is_file(), CONFIG),
        (weights, "weights file"),
    ):
        if not found:
            raise InputError(
                f"The tower {name} has to be a folder with {CONFIG} and a weights file ({WEIGHTS}); there is no {what}."
            )


def _check_name(name: str, pretrained: str | None, text: bool) -> None:
    """Refuse what open_clip would meet with a guess, random weights or a silent download."""
    import open_clip

    if name.startswith(HUB):
        return
    known = open_clip.list_models()
    if name.replace("/", "-") not in known:
        nearest = get_close_matches(name, known, 1, cutoff=0) or known[:1]
        raise InputError(
            f"open_clip has no tower named {name}; the nearest is {nearest[0]}. A folder is given as local-dir:FOLDER."
        )
    tags = open_clip.list_pretrained_tags_by_model(name.replace("/", "-"))
    if pretrained in tags:
        return
    if pretrained != "random" and not (pretrained and Path(pretrained).is_file()):
        raise InputError(
            f"The tower {name} needs weights: got pretrained={pretrained}, which is neither a file nor one of open_clip's tags "
            f"for it ({', '.join(tags)}). A tag downloads them; random gives an untrained control."
        )
    words = open_clip.get_model_config(name)["text_cfg"]
    if "hf_model_name" in words or (text and "hf_tokenizer_name" in words):
        raise InputError(
            f"The tower {name} takes its text half from the Hugging Face hub, which a weights file does not bring. "
            f"Give a tag ({', '.join(tags)}), which downloads it, or a folder as local-dir:FOLDER."
        )


def _read_off(model: nn.Module) -> dict[str, Any]:
    visual = model.visual
    vision = _read_off_blocks(visual.transformer, visual.ln_post) | {
        "head_width": visual.transformer.width // heads_of(visual),
        "patch_size": visual.patch_size[0],
        "image_size": list(visual.image_size),
        "pool_type": visual.pool_type,
        "final_ln_after_pool": visual.final_ln_after_pool,
        "no_ln_pre": isinstance(visual.ln_pre, nn.Identity),
    }
    words = _read_off_blocks(model.transformer, model.ln_final) | {
        "heads": heads_of(model),
        "context_length": model.context_length,
        "vocab_size": model.vocab_size,
        "pool_type": model.text_pool_type,
        "eos_id": model.text_eos_id,
    }
    quick = type(visual.transformer.resblocks[0].mlp.gelu).__name__ == "QuickGELU"
    config = {
        "embed_dim": visual.output_dim,
        "vision_cfg": vision,
        "text_cfg": words,
        "quick_gelu": quick,
    }
    return config | ({} if model.logit_bias is None else {"init_logit_bias": 0.0})


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
    """Build a model from `config`, give it the weights, and compare embeddings of a fixed image and
    text.
    """
    from open_clip.model import CLIP

    like = model.visual.conv1.weight
    with torch.random.fork_rng(devices=[]):
        twin = CLIP(**deepcopy(config)).to(like).eval()
    twin.load_state_dict(model.state_dict())
    height, width = model.visual.image_size
    image = torch.arange(3 * height * width).sin().view(1, 3, height, width).to(like)
    words = (torch.arange(model.context_length)[None] % model.vocab_size).to(like.device)
    training = model.training
    model.eval()
    pairs = [(each.encode_image(image), each.encode_text(words)) for each in (model, twin)]
    model.train(training)
    return all(
        torch.allclose(mine, its, atol=1e-5, rtol=1e-3) for mine, its in zip(*pairs, strict=True)
    )
