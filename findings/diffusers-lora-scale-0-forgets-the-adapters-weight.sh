#!/usr/bin/env bash
# Finding: one call of a diffusers model with the LoRA scale 0 sets the weight of all its adapters
# to 1 for every later call.
#
# Versions: diffusers 0.42.1, peft 0.21.2, torch 2.15.0, Python 3.11; seen 2026-11-30.
#
# Expected: `cross_attention_kwargs={"scale": s}` holds for one call. After it the adapters have
# the weights that set_adapters gave them, as they have after s = 0.5 and s = 0.001.
#
# Seen: after s = 0 the weight is 1, whatever it was. That call itself is right: it is the model
# without its adapters. UNet2DConditionModel, and FluxTransformer2DModel by joint_attention_kwargs:
#
#   set_adapters            after scale 0.5   after scale 0
#   ["a"], 0.3              0.3               1
#   ["a", "b"], [0.7, 0.2]  0.7, 0.2          1, 1
#
# The same call before and after it differs, by more here than the adapter of weight 0.3 changes
# it. Nothing is logged. So a reference that is drawn with scale 0 (a term of divergence, pictures
# side by side, a sweep over scales that starts with 0) changes what the policy draws from then
# on. disable_adapters and enable_adapters leave the weights alone.
#
# Exit status: 0 while this is so, 1 if the behaviour has changed.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet torch==2.15.0 diffusers==0.42.1 peft==0.21.2 \
  transformers==5.23.0 accelerate==1.15.0 numpy==2.4.6
HF_HUB_OFFLINE=1 HF_HOME="$folder/cache" "$folder/venv/bin/python" - <<'PYTHON'
import logging
import sys
import warnings

import diffusers
import torch
from diffusers import FluxTransformer2DModel, UNet2DConditionModel
from peft import LoraConfig

warnings.filterwarnings("ignore", message="Already found a `peft_config` attribute")
messages = []
handler = logging.Handler()
handler.emit = lambda record: messages.append(record.getMessage())
diffusers.utils.logging.add_handler(handler)
diffusers.utils.logging.set_verbosity_info()
torch.manual_seed(0)
unet = UNet2DConditionModel(
    sample_size=8,
    block_out_channels=(8, 8),
    norm_num_groups=2,
    cross_attention_dim=8,
    attention_head_dim=2,
    down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
    up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
    layers_per_block=1,
).eval()
flux = FluxTransformer2DModel(
    patch_size=1,
    in_channels=4,
    num_layers=1,
    num_single_layers=1,
    attention_head_dim=16,
    num_attention_heads=2,
    joint_attention_dim=32,
    pooled_projection_dim=32,
    axes_dims_rope=(4, 4, 8),
).eval()
latents, text = torch.randn(1, 4, 8, 8), torch.randn(1, 3, 8)
of_flux = {
    "hidden_states": torch.randn(1, 4, 4),
    "encoder_hidden_states": torch.randn(1, 3, 32),
    "pooled_projections": torch.randn(1, 32),
    "timestep": torch.tensor([0.5]),
    "img_ids": torch.zeros(4, 3),
    "txt_ids": torch.zeros(3, 3),
}


@torch.no_grad()
def call(model, **scale):
    if model is unet:
        return unet(latents, torch.tensor([5]), text, cross_attention_kwargs=scale).sample
    return flux(**of_flux, joint_attention_kwargs=scale).sample


def weights(model, alpha=8, rank=4):
    """Return the weight of each adapter, which is the same in all layers."""
    found = {}
    for layer in model.modules():
        for name, scaling in getattr(layer, "scaling", {}).items():
            found.setdefault(name, set()).add(round(scaling / (alpha / rank), 6))
    return {name: value.pop() if len(value) == 1 else value for name, value in found.items()}


def adapter():
    layers = ["to_q", "to_v"]
    return LoraConfig(r=4, lora_alpha=8, target_modules=layers, init_lora_weights=False)


same_as_seen = True
for model in (unet, flux):
    name = type(model).__name__
    model.add_adapter(adapter(), "a")
    model.set_adapters("a", 0.3)
    before = call(model)
    for scale in (0.5, 0.001):
        call(model, scale=scale)
        print(name, "after scale", scale, weights(model))
        same_as_seen &= weights(model) == {"a": 0.3}
    model.disable_adapters()
    without = call(model)
    model.enable_adapters()
    same_as_seen &= weights(model) == {"a": 0.3} and torch.allclose(call(model), before)
    same_as_seen &= torch.allclose(call(model, scale=0.0), without)
    print(name, "after scale 0", weights(model))
    same_as_seen &= weights(model) == {"a": 1.0}
    moved = (call(model) - before).abs().max().item()
    adapted = (before - without).abs().max().item()
    print(name, "the same call moved by", moved, "the adapter moves it by", adapted)
    same_as_seen &= moved > adapted > 0
    model.add_adapter(adapter(), "b")
    model.set_adapters(["a", "b"], [0.7, 0.2])
    call(model, scale=0.5)
    same_as_seen &= weights(model) == {"a": 0.7, "b": 0.2}
    call(model, scale=0.0)
    print(name, "two adapters after scale 0", weights(model))
    same_as_seen &= weights(model) == {"a": 1.0, "b": 1.0}
print("messages", messages)
same_as_seen &= not messages
print("as seen" if same_as_seen else "changed")
sys.exit(0 if same_as_seen else 1)
PYTHON
