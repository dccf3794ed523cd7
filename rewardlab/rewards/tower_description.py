"""Read off an open_clip model what open_clip builds it from, so that it can be saved."""

from __future__ import annotations

from copy import deepcopy
from typing import Any

import torch
from torch import Tensor, nn

from rewardlab.errors import InputError

KINDS = ("CLIP", "CustomTextCLIP")
VISUAL_KINDS = ("VisionTransformer", "TimmModel")


def described(model: Any) -> dict[str, Any]:
    """Read off a CLIP model what open_clip builds it from.

    Its image tower is a VisionTransformer or one of timm, its text tower a TextTransformer. The
    description is verified: a twin is built from it and has to behave as the model does.

    Raises:
        InputError: if the model is of another kind, or its twin does not behave as it does.
    """
    kind = type(model).__name__
    visual_kind = type(model.visual).__name__
    unknown = InputError(
        f"The architecture of this tower (a {kind} with a {visual_kind}) cannot be read off it, so "
        "it cannot be embedded. Write it once with save_tower(model, folder, config=...), where "
        "config is what open_clip built it from (open_clip.get_model_config(name)), and give it as "
        "local-dir:FOLDER; or give the tower by name; or save with tower=False."
    )
    if kind not in KINDS or visual_kind not in VISUAL_KINDS:
        raise unknown
    try:
        config = _read_off(model)
        is_alike = _behave_alike(model, config)
    except (AssertionError, AttributeError, RuntimeError, TypeError) as error:
        raise unknown from error
    if not is_alike:
        raise unknown
    return config


def heads_of(tower: Any) -> int | None:
    """Return the attention heads of a transformer tower's blocks, None for any other tower."""
    transformer = getattr(tower, "transformer", None)
    blocks = getattr(transformer, "resblocks", None)
    if not blocks:
        return None
    return getattr(blocks[0].attn, "num_heads", None)


def _read_off(model: Any) -> dict[str, Any]:
    visual = model.visual
    is_timm = type(visual).__name__ == "TimmModel"
    text = _text_tower(model)
    blocks = (text if is_timm else visual).transformer.resblocks
    config = {
        "embed_dim": text.text_projection.shape[1],
        "vision_cfg": _read_off_timm(visual) if is_timm else _read_off_vision(visual),
        "text_cfg": _read_off_text(model),
        "quick_gelu": type(blocks[0].mlp.gelu).__name__ == "QuickGELU",
    }
    if type(model).__name__ == "CustomTextCLIP":
        config["custom_text"] = True
    if model.logit_bias is not None:
        config["init_logit_bias"] = 0.0
    return config


def _text_tower(model: Any) -> Any:
    """Return what holds the text tower: the model itself, or a part of it."""
    return getattr(model, "text", model)


def _read_off_timm(visual: Any) -> dict[str, Any]:
    head = dict(visual.head.named_children())
    is_mlp = "mlp" in head
    projects = is_mlp or "proj" in head
    last = head["mlp"].fc2 if is_mlp else head.get("proj")
    projection = "mlp" if is_mlp else "linear"
    pool = getattr(visual.trunk, "global_pool", "")
    return {
        "timm_model_name": visual.trunk.pretrained_cfg["architecture"],
        "timm_pool": getattr(pool, "pool_type", pool),
        "timm_proj": projection if projects else "",
        "timm_proj_bias": last is not None and last.bias is not None,
        "image_size": list(visual.image_size),
    }


def _read_off_vision(visual: Any) -> dict[str, Any]:
    return _read_off_blocks(visual.transformer, visual.ln_post) | {
        "head_width": visual.transformer.width // heads_of(visual),
        "patch_size": visual.patch_size[0],
        "image_size": list(visual.image_size),
        "pool_type": visual.pool_type,
        "final_ln_after_pool": visual.final_ln_after_pool,
        "no_ln_pre": isinstance(visual.ln_pre, nn.Identity),
    }


def _read_off_text(model: Any) -> dict[str, Any]:
    text = _text_tower(model)
    is_part = text is not model
    return _read_off_blocks(text.transformer, text.ln_final) | {
        "heads": heads_of(text),
        "context_length": text.context_length,
        "vocab_size": text.vocab_size,
        "pool_type": text.pool_type if is_part else text.text_pool_type,
        "eos_id": text.eos_id if is_part else text.text_eos_id,
        "no_causal_mask": text.attn_mask is None,
    }


def _read_off_blocks(transformer: Any, norm: Any) -> dict[str, Any]:
    block = transformer.resblocks[0]
    return {
        "width": transformer.width,
        "layers": transformer.layers,
        "mlp_ratio": block.mlp.c_fc.out_features / transformer.width,
        "ls_init_value": None if isinstance(block.ls_1, nn.Identity) else 1.0,
        "norm_kwargs": {"eps": norm.eps},
    }


@torch.no_grad()
def _behave_alike(model: Any, config: dict[str, Any]) -> bool:
    """Tell whether a model built from `config`, with the weights, embeds as the model does.

    They are compared on a fixed image and a fixed text.
    """
    import open_clip

    like = next(model.visual.parameters())
    options = deepcopy(config)
    options.pop("custom_text", None)
    kind = getattr(open_clip.model, type(model).__name__)
    with torch.random.fork_rng(devices=[]):
        twin = kind(**options).to(like).eval()
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
