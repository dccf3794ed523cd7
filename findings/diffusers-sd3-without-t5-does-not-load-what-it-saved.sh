#!/usr/bin/env bash
# Finding: a Stable Diffusion 3 without T5 is saved, and the folder does not load.
#
# Versions: diffusers 0.42.1, transformers 5.23.0, torch 2.15.0, Python 3.11; seen 2026-11-29.
#
# Expected: SD3 may be used without its largest text encoder (text_encoder_3=None,
# tokenizer_3=None; the call then fills zeros in). Such a pipeline draws. What save_pretrained
# writes of it is loaded by from_pretrained(folder), since model_index.json says of both parts that
# there is none: [null, null].
#
# Seen: the folder is written, with a message for both parts ("=None of type <class 'NoneType'>
# cannot be saved"). from_pretrained(folder) is a ValueError that lists them among what it expected.
# It loads if both are named once more as None; one alone is not enough. image_encoder and
# feature_extractor, which are [null, null] in the same file, are not missed: whether a part may be
# absent is a list of the class, `_optional_components`, and T5 is not on it.
#
# So DiffusionPipeline.from_pretrained cannot read it, nor can a tool that hands it the folder alone.
#
# Exit status: 0 while this is so, 1 if the behaviour has changed.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet torch==2.15.0 diffusers==0.42.1 transformers==5.23.0 \
  accelerate==1.15.0 numpy==2.4.6
"$folder/venv/bin/python" - "$folder" <<'PYTHON'
import json
import sys
from pathlib import Path

import torch
from diffusers import (
    AutoencoderKL,
    DiffusionPipeline,
    FlowMatchEulerDiscreteScheduler,
    SD3Transformer2DModel,
    StableDiffusion3Pipeline,
)
from transformers import CLIPTextConfig, CLIPTextModelWithProjection, CLIPTokenizer
from transformers.convert_slow_tokenizer import bytes_to_unicode

torch.manual_seed(0)
folder = Path(sys.argv[1])
words = folder / "words"
words.mkdir()
letters = list(bytes_to_unicode().values())
tokens = [*letters, *(f"{letter}</w>" for letter in letters), "<|startoftext|>", "<|endoftext|>"]
numbers = {token: number for number, token in enumerate(tokens)}
(words / "vocab.json").write_text(json.dumps(numbers))
(words / "merges.txt").write_text("#version: 0.2\n")
tokenizer = CLIPTokenizer.from_pretrained(words, model_max_length=77)
text = CLIPTextConfig(
    vocab_size=len(tokens),
    hidden_size=32,
    intermediate_size=32,
    projection_dim=32,
    num_hidden_layers=2,
    num_attention_heads=2,
    bos_token_id=tokens.index("<|startoftext|>"),
    eos_token_id=tokens.index("<|endoftext|>"),
)
transformer = SD3Transformer2DModel(
    sample_size=8,
    in_channels=4,
    out_channels=4,
    num_layers=2,
    attention_head_dim=8,
    num_attention_heads=2,
    joint_attention_dim=64,
    caption_projection_dim=16,
    pooled_projection_dim=64,
    pos_embed_max_size=8,
)
vae = AutoencoderKL(
    block_out_channels=(4,), norm_num_groups=2, latent_channels=4, shift_factor=0.06
)
pipe = StableDiffusion3Pipeline(
    transformer=transformer,
    scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0),
    vae=vae,
    text_encoder=CLIPTextModelWithProjection(text),
    tokenizer=tokenizer,
    text_encoder_2=CLIPTextModelWithProjection(text),
    tokenizer_2=tokenizer,
    text_encoder_3=None,
    tokenizer_3=None,
)
pipe.set_progress_bar_config(disable=True)


def drawn(pipeline):
    generator = torch.Generator().manual_seed(0)
    options = {"num_inference_steps": 2, "height": 8, "width": 8, "output_type": "pt"}
    return pipeline("a", generator=generator, **options).images


pictures = drawn(pipe)
saved = folder / "pipeline"
pipe.save_pretrained(saved)
index = json.loads((saved / "model_index.json").read_text())
absent = sorted(name for name, value in index.items() if value == [None, None])
print("absent by model_index.json:", absent)


def loads(kind, **parts):
    """Tell whether the folder loads, and draws what was drawn before it was saved."""
    try:
        loaded = kind.from_pretrained(saved, **parts)
    except ValueError as error:
        print(kind.__name__, parts, "ValueError:", " ".join(str(error).split())[-160:])
        return False
    loaded.set_progress_bar_config(disable=True)
    print(kind.__name__, parts, "loads")
    return torch.allclose(drawn(loaded), pictures)


seen = [
    loads(StableDiffusion3Pipeline),
    loads(DiffusionPipeline),
    loads(StableDiffusion3Pipeline, text_encoder_3=None),
    loads(StableDiffusion3Pipeline, text_encoder_3=None, tokenizer_3=None),
]
same_as_seen = (
    absent == ["feature_extractor", "image_encoder", "text_encoder_3", "tokenizer_3"]
    and seen == [False, False, False, True]
)
print("as seen" if same_as_seen else "changed")
sys.exit(0 if same_as_seen else 1)
PYTHON
