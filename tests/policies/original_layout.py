"""Weights of Stable Diffusion under the names of its own programs, as shared files have them.

The tables follow diffusers' script convert_diffusers_to_original_stable_diffusion.py, the other way
than the package reads them.
"""

from __future__ import annotations

import torch

UNET = {
    "time_embedding.linear_1": "time_embed.0",
    "time_embedding.linear_2": "time_embed.2",
    "add_embedding.linear_1": "label_emb.0.0",
    "add_embedding.linear_2": "label_emb.0.2",
    "conv_in": "input_blocks.0.0",
    "conv_norm_out": "out.0",
    "conv_out": "out.2",
}
RESNET = {
    "norm1": "in_layers.0",
    "conv1": "in_layers.2",
    "norm2": "out_layers.0",
    "conv2": "out_layers.3",
    "time_emb_proj": "emb_layers.1",
    "conv_shortcut": "skip_connection",
}
VAE_ATTENTION = {
    "group_norm": "norm",
    "to_q": "q",
    "to_k": "k",
    "to_v": "v",
    "to_out.0": "proj_out",
}
OPEN_CLIP = {
    "layer_norm1": "ln_1",
    "layer_norm2": "ln_2",
    "mlp.fc1": "mlp.c_fc",
    "mlp.fc2": "mlp.c_proj",
    "self_attn.out_proj": "attn.out_proj",
}


def _replaced(name, table):
    for new, old in table.items():
        if name.startswith(f"{new}."):
            return old + name[len(new) :]
    return name


def unet_name(name, layers, attends):
    """The original name of a UNet's weight; `attends` says which upward blocks have attention."""
    kind, *rest = name.split(".")
    if kind not in ("down_blocks", "mid_block", "up_blocks"):
        return _replaced(name, UNET)
    if kind == "mid_block":
        part, number, *tail = rest
        place = 1 if part == "attentions" else 2 * int(number)
        inner = ".".join(tail)
        return f"middle_block.{place}." + (_replaced(inner, RESNET) if place != 1 else inner)
    block, part, number, *tail = rest
    block, number = int(block), int(number)
    inner = ".".join(tail)
    if kind == "down_blocks":
        if part == "downsamplers":
            return f"input_blocks.{(layers + 1) * (block + 1)}.0.{inner.replace('conv', 'op')}"
        place = (layers + 1) * block + number + 1
        stem = f"input_blocks.{place}"
    else:
        place = (layers + 1) * block + number
        stem = f"output_blocks.{place}"
        if part == "upsamplers":
            stem = f"output_blocks.{(layers + 1) * block + layers}"
            return f"{stem}.{2 if attends[block] else 1}.{inner}"
    if part == "resnets":
        return f"{stem}.0.{_replaced(inner, RESNET)}"
    return f"{stem}.1.{inner}"


def original_unet(unet):
    layers = unet.config.layers_per_block
    weights = {}
    attends = ["CrossAttn" in kind for kind in unet.config.up_block_types]
    for name, tensor in unet.state_dict().items():
        weights[f"model.diffusion_model.{unet_name(name, layers, attends)}"] = tensor
    return weights


def original_vae(vae):
    weights = {}
    count = len(vae.config.block_out_channels)
    for name, tensor in vae.state_dict().items():
        parts = name.split(".")
        if parts[0] in ("encoder", "decoder"):
            side, inner = parts[0], ".".join(parts[1:])
            original = f"{side}.{_vae_name(inner, count)}"
        else:
            original = name
        if ".mid.attn_1." in original and tensor.dim() == 2:
            tensor = tensor[:, :, None, None]  # as convolutions of one pixel
        weights[f"first_stage_model.{original}"] = tensor
    return weights


def _vae_name(name, count):
    name = name.replace("conv_norm_out", "norm_out").replace("conv_shortcut", "nin_shortcut")
    kind, *rest = name.split(".")
    if kind == "mid_block":
        part, number, *tail = rest
        if part == "attentions":
            return "mid.attn_1." + _replaced(".".join(tail), VAE_ATTENTION)
        return f"mid.block_{int(number) + 1}." + ".".join(tail)
    if kind in ("down_blocks", "up_blocks"):
        block, part, number, *tail = rest
        place = int(block) if kind == "down_blocks" else count - 1 - int(block)
        stem = f"{kind.removesuffix('_blocks')}.{place}"
        if part == "resnets":
            return f"{stem}.block.{number}." + ".".join(tail)
        return f"{stem}.{part.removesuffix('rs')}." + ".".join(tail)
    return name


def original_clip(encoder, prefix):
    weights = {}
    for name, tensor in encoder.state_dict().items():
        inner = name if name.startswith("text_model.") else f"text_model.{name}"
        weights[prefix + inner] = tensor
    return weights


def original_open_clip(encoder, prefix):
    state = {}
    for name, tensor in encoder.state_dict().items():
        state[name.removeprefix("text_model.")] = tensor
    weights = {
        "positional_embedding": state["embeddings.position_embedding.weight"],
        "token_embedding.weight": state["embeddings.token_embedding.weight"],
        "ln_final.weight": state["final_layer_norm.weight"],
        "ln_final.bias": state["final_layer_norm.bias"],
        "text_projection": state["text_projection.weight"].T.contiguous(),
        "logit_scale": torch.tensor(4.6),
    }
    for name, tensor in state.items():
        if not name.startswith("encoder.layers."):
            continue
        number, inner = name.removeprefix("encoder.layers.").split(".", 1)
        if "_proj" in inner and "out_proj" not in inner:
            continue
        weights[f"transformer.resblocks.{number}.{_replaced(inner, OPEN_CLIP)}"] = tensor
    for number in range(encoder.config.num_hidden_layers):
        for kind in ("weight", "bias"):
            stem = f"encoder.layers.{number}.self_attn."
            joined = torch.cat([state[f"{stem}{part}_proj.{kind}"] for part in "qkv"])
            weights[f"transformer.resblocks.{number}.attn.in_proj_{kind}"] = joined
    return {prefix + name: tensor for name, tensor in weights.items()}


def original_stable_diffusion(pipeline):
    weights = original_unet(pipeline.unet) | original_vae(pipeline.vae)
    clip = original_clip(pipeline.text_encoder, "cond_stage_model.transformer.")
    ids = "cond_stage_model.transformer.text_model.embeddings.position_ids"
    schedule = {"alphas_cumprod": torch.linspace(0.99, 0.01, 1000), ids: torch.arange(77)[None]}
    return weights | clip | schedule


def original_stable_diffusion_xl(pipeline):
    weights = original_unet(pipeline.unet) | original_vae(pipeline.vae)
    first = original_clip(pipeline.text_encoder, "conditioner.embedders.0.transformer.")
    second = original_open_clip(pipeline.text_encoder_2, "conditioner.embedders.1.model.")
    return weights | first | second
