#!/usr/bin/env bash
# Finding: a model of transformers in evaluation mode accepts checkpointing of its activations,
# says that it is on, and keeps every one of them.
#
# Versions: transformers 5.23.0, diffusers 0.42.1, torch 2.15.0, Python 3.11; seen 2026-11-30.
#
# Expected: activation_checkpointing_enable() computes activations anew wherever a gradient
# passes, as enable_gradient_checkpointing() of diffusers does, in training mode and in evaluation
# mode. One pipeline holds models of both.
#
# Seen: a gradient passes frozen models to their input. Kilobytes kept for the backward
# pass:
#
#                                    off    on    on, as .train()
#   transformers  CLIPVisionModel    3768   3768   363
#                 Llama, one score   4421   4421   289
#   diffusers     AutoencoderKL       994    111   111
#
# is_activation_checkpointing is True, and no message says that nothing is recomputed.
# from_pretrained leaves a model in evaluation mode, and a frozen reward or text encoder is left
# there: .train() would draw dropout. So where a gradient passes a frozen model (a reward that
# trains a generator, attacks on pictures, a reward that is fine-tuned without dropout) the switch
# saves nothing, which looks like a model that is too large. The blocks alone in training mode,
# and all in them in evaluation mode, do it: each block asks its own `training`.
#
# Exit status: 0 while this is so, 1 if the behaviour has changed.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet torch==2.15.0 diffusers==0.42.1 transformers==5.23.0 \
  accelerate==1.15.0 numpy==2.4.6
HF_HUB_OFFLINE=1 HF_HOME="$folder/cache" "$folder/venv/bin/python" - "$folder" <<'PYTHON'
import logging
import sys
import warnings

import torch
import transformers
from diffusers import AutoencoderKL
from transformers import (
    CLIPVisionConfig,
    CLIPVisionModel,
    LlamaConfig,
    LlamaForSequenceClassification,
)

warnings.simplefilter("error")
messages = []
transformers.logging.set_verbosity_warning()
transformers.utils.logging.disable_progress_bar()
handler = logging.Handler()
handler.emit = lambda record: messages.append(record.getMessage())
transformers.logging.add_handler(handler)
folder = sys.argv[1]
torch.manual_seed(0)
sizes = {
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 8,
    "num_attention_heads": 4,
}
clip = CLIPVisionModel(CLIPVisionConfig(image_size=32, patch_size=4, **sizes))
llama = LlamaForSequenceClassification(
    LlamaConfig(vocab_size=50, pad_token_id=0, num_labels=1, use_cache=False, **sizes)
)
vae = AutoencoderKL(
    down_block_types=("DownEncoderBlock2D",) * 2,
    up_block_types=("UpDecoderBlock2D",) * 2,
    block_out_channels=(8, 8),
    norm_num_groups=2,
    latent_channels=4,
    layers_per_block=3,
)
for name, model in (("clip", clip), ("llama", llama), ("vae", vae)):
    model.save_pretrained(f"{folder}/{name}")
clip = CLIPVisionModel.from_pretrained(f"{folder}/clip")
llama = LlamaForSequenceClassification.from_pretrained(f"{folder}/llama")
vae = AutoencoderKL.from_pretrained(f"{folder}/vae")
pictures = torch.rand(2, 3, 32, 32, requires_grad=True)
one_picture = torch.rand(1, 3, 32, 32, requires_grad=True)
tokens = torch.randint(1, 50, (2, 64))
embedded = llama.get_input_embeddings()


def score_of_tokens():
    """Return scores with a gradient to the embedded tokens, as for prompts that are learned."""
    return llama(tokens).logits


embedded.register_forward_hook(lambda _module, _inputs, output: output.detach().requires_grad_())
RUNS = {
    "CLIPVisionModel": (clip, lambda: clip(pixel_values=pictures).pooler_output),
    "Llama": (llama, score_of_tokens),
    "AutoencoderKL": (vae, lambda: vae.encode(one_picture).latent_dist.mean),
}


def kept(run):
    """Return the kilobytes of the tensors that are kept for the backward pass."""
    sizes = {}

    def keep(tensor):
        storage = tensor.untyped_storage()
        sizes[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        outputs = run()
    outputs.sum().backward()
    return round(sum(sizes.values()) / 1024)


def blocks_in_training_mode(model):
    """Put the blocks alone into training mode, and nothing in them."""
    model.eval()
    for block in model.modules():
        if hasattr(block, "gradient_checkpointing"):
            block.training = True


same_as_seen = True
for name, (model, run) in RUNS.items():
    model.requires_grad_(False)
    same_as_seen &= not model.training
    off = kept(run)
    if model is vae:
        vae.enable_gradient_checkpointing()
        is_on = vae.is_gradient_checkpointing
    else:
        model.activation_checkpointing_enable()
        is_on = model.is_activation_checkpointing
    on = kept(run)
    model.train()
    trained = kept(run)
    blocks_in_training_mode(model)
    of_blocks = kept(run)
    print(name, "off", off, "on", on, "in training mode", trained, "its blocks alone", of_blocks)
    same_as_seen &= is_on and trained < off / 4 and of_blocks < off / 4
    same_as_seen &= on == (trained if model is vae else off)
print("messages", messages)
same_as_seen &= not messages
print("as seen" if same_as_seen else "changed")
sys.exit(0 if same_as_seen else 1)
PYTHON
