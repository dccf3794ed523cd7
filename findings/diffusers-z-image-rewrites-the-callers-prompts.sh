#!/usr/bin/env bash
# Finding: a call of ZImagePipeline changes the list of prompts that it is given, so the same call
# draws other pictures the second time.
#
# Versions: diffusers 0.42.1, transformers 5.23.0, torch 2.15.0, Python 3.11; seen 2026-11-29.
#
# Expected: `pipe(prompts, generator=…)` reads the list. Two calls with one list and one seed draw
# equal pictures, as they do for other pipelines, and as two calls with a string do here.
#
# Seen: the pipeline puts each prompt into the tokenizer's chat template and writes the result back
# into the caller's list, and into the list of negative prompts. After two calls with the template
# "user: …" a list ["a cat"] is ["user: user: a cat"], and the second call was made with a template
# inside a template. Largest difference of two pictures in [0, 1], tiny random weights, one seed:
#
#   the string twice 0.0    the list twice 0.064
#
# So what is scored, logged or cached by prompt after the call is another text than what was asked,
# and a loop over the same prompts draws of longer and longer texts.
#
# Exit status: 0 while this is so, 1 if the behaviour has changed.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet torch==2.15.0 diffusers==0.42.1 transformers==5.23.0 \
  accelerate==1.15.0 numpy==2.4.6
"$folder/venv/bin/python" - <<'PYTHON'
import sys

import torch
from diffusers import (
    AutoencoderKL,
    FlowMatchEulerDiscreteScheduler,
    ZImagePipeline,
    ZImageTransformer2DModel,
)
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast, Qwen3Config, Qwen3Model

torch.manual_seed(0)
letters = sorted(pre_tokenizers.ByteLevel.alphabet())
numbers = {letter: number for number, letter in enumerate(["<pad>", *letters])}
by_bytes = Tokenizer(models.BPE(vocab=numbers, merges=[]))
by_bytes.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
tokenizer = PreTrainedTokenizerFast(tokenizer_object=by_bytes, pad_token="<pad>")
tokenizer.chat_template = "{% for m in messages %}{{ m.role }}: {{ m.content }}{% endfor %}"
text_encoder = Qwen3Model(
    Qwen3Config(
        vocab_size=len(numbers),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=2,
        head_dim=16,
    )
)
transformer = ZImageTransformer2DModel(
    in_channels=4,
    dim=32,
    n_layers=1,
    n_refiner_layers=1,
    n_heads=2,
    n_kv_heads=2,
    cap_feat_dim=32,
    axes_dims=[4, 4, 8],
    axes_lens=[1024, 64, 64],
)
for weight in transformer.parameters():
    torch.nn.init.normal_(weight, std=0.2)
vae = AutoencoderKL(
    down_block_types=("DownEncoderBlock2D",) * 4,
    up_block_types=("UpDecoderBlock2D",) * 4,
    block_out_channels=(4, 4, 4, 4),
    norm_num_groups=2,
    latent_channels=4,
    shift_factor=0.1,
)
pipe = ZImagePipeline(
    scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0),
    vae=vae.eval(),
    text_encoder=text_encoder.eval(),
    tokenizer=tokenizer,
    transformer=transformer.eval(),
)
pipe.set_progress_bar_config(disable=True)


def draw(prompt, negative_prompt):
    return pipe(
        prompt,
        negative_prompt=negative_prompt,
        num_inference_steps=2,
        guidance_scale=3.0,
        height=32,
        width=32,
        generator=torch.Generator().manual_seed(0),
        output_type="pt",
    ).images


def difference_of_two_calls(prompt, negative_prompt):
    pictures = [draw(prompt, negative_prompt) for _ in range(2)]
    return (pictures[0] - pictures[1]).abs().max().item()


prompts = ["a cat"]
negative_prompts = ["dull"]
of_string = difference_of_two_calls("a cat", "dull")
of_list = difference_of_two_calls(prompts, negative_prompts)
print("string twice", of_string, "list twice", of_list)
print("the lists after two calls:", prompts, negative_prompts)
same_as_seen = (
    of_string == 0
    and of_list > 0
    and prompts == ["user: user: a cat"]
    and negative_prompts == ["user: user: dull"]
)
print("as seen" if same_as_seen else "changed")
sys.exit(0 if same_as_seen else 1)
PYTHON
