#!/usr/bin/env bash
# Finding: an adapter that save_lora_weights wrote is loaded with another strength than it was
# trained at, unless its alpha is its rank.
#
# Versions: diffusers 0.42.1, peft 0.21.2, torch 2.15.0, Python 3.11; seen 2026-11-30.
#
# Expected: `StableDiffusionPipeline.save_lora_weights(folder, get_peft_model_state_dict(unet))`
# writes the adapter, and load_lora_weights(folder) into the same base gives the model that was
# saved.
#
# Seen: the file holds the factors A and B and no alpha. Loading takes alpha = rank, so the change
# of the weights is multiplied by another number. No message speaks of it:
#
#   LoraConfig                                trained at   loaded at
#   r=8, lora_alpha=8                         1            1
#   r=8, lora_alpha=32                        4            1
#   r=8, lora_alpha=32, use_rslora=True       11.31        1
#
# With a further argument, unet_lora_adapter_metadata=unet.peft_config["default"].to_dict(), the
# model comes back. peft's own save_pretrained always writes the config beside the weights.
#
# So samples and rewards of what was saved are those of a weaker adapter (or of a stronger one,
# where alpha is below the rank), which looks like training that hardly worked.
#
# Exit status: 0 while this is so, 1 if the behaviour has changed.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet torch==2.15.0 diffusers==0.42.1 peft==0.21.2 \
  transformers==5.23.0 accelerate==1.15.0 numpy==2.4.6
HF_HUB_OFFLINE=1 HF_HOME="$folder/cache" "$folder/venv/bin/python" - "$folder" <<'PYTHON'
import logging
import sys
import warnings

import diffusers
import torch
from diffusers import DDIMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from peft import LoraConfig, get_peft_model_state_dict

warnings.filterwarnings("error", module="peft|diffusers")
folder = sys.argv[1]
latents = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(1))
text = torch.randn(1, 3, 8, generator=torch.Generator().manual_seed(2))


def pipeline():
    """Return a pipeline around the denoiser, whose weights are always the same."""
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
    )
    others = dict.fromkeys(
        ["vae", "text_encoder", "tokenizer", "safety_checker", "feature_extractor"]
    )
    scheduler = DDIMScheduler(steps_offset=1, clip_sample=False)
    return StableDiffusionPipeline(
        unet=unet.eval(), scheduler=scheduler, requires_safety_checker=False, **others
    )


@torch.no_grad()
def predicted(unet):
    return unet(latents, torch.tensor([5]), text).sample


def scaling(unet):
    """Return what the change of the weights is multiplied by, which is the same in all layers."""
    found = {round(value, 2) for layer in unet.modules() for value in scalings(layer)}
    assert len(found) == 1
    return found.pop()


def scalings(layer):
    return getattr(layer, "scaling", {}).values()


messages = []
handler = logging.Handler()
handler.emit = lambda record: messages.append(record.getMessage())
same_as_seen = True
cases = {"alpha 8": {"lora_alpha": 8}, "alpha 32": {"lora_alpha": 32}}
cases["alpha 32, rslora"] = {"lora_alpha": 32, "use_rslora": True}
for name, options in cases.items():
    unet = pipeline().unet
    unet.add_adapter(
        LoraConfig(r=8, target_modules=["to_q", "to_v"], init_lora_weights=False, **options)
    )
    for with_metadata in (False, True):
        place = f"{folder}/{name}-{with_metadata}"
        metadata = unet.peft_config["default"].to_dict() if with_metadata else None
        into = pipeline()
        diffusers.utils.logging.add_handler(handler)
        into.save_lora_weights(
            place,
            unet_lora_layers=get_peft_model_state_dict(unet),
            unet_lora_adapter_metadata=metadata,
        )
        into.load_lora_weights(place, weight_name="pytorch_lora_weights.safetensors")
        diffusers.utils.logging.remove_handler(handler)
        pair = scaling(unet), scaling(into.unet)
        moved = (predicted(into.unet) - predicted(unet)).abs().max().item()
        print(name, "with" if with_metadata else "without", "metadata", pair, "moved by", moved)
        same_as_seen &= (pair[0] == pair[1]) == (with_metadata or name == "alpha 8")
        same_as_seen &= pair[1] == 1 or with_metadata
        same_as_seen &= (moved < 1e-6) == (pair[0] == pair[1])
told = [text for text in messages if "associated to NoneType found with the prefix" not in text]
print("of", len(messages), "messages", told, "are not about the missing text encoder")
same_as_seen &= not told
print("as seen" if same_as_seen else "changed")
sys.exit(0 if same_as_seen else 1)
PYTHON
