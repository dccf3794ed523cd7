#!/usr/bin/env bash
# Finding: Wan's autoencoder reads frames by fours whatever its config says, so one that halves the
# time drops frames that it has made itself.
#
# Versions: diffusers 0.42.1, torch 2.15.0, Python 3.11; seen 2026-11-29.
#
# Expected: AutoencoderKLWan with temperal_downsample=[True] and scale_factor_temporal=2 halves the
# time: 2k + 1 frames are k + 1 latents and the other way round. Its decoder does so, and
# WanPipeline counts so (num_frames=3 is taken as it is).
#
# Seen: the encoder takes the first frame, then whole groups of 4, a number written into `_encode`.
# What is left over is not read, and nothing is logged. Frames in, latents, frames that come back:
#
#   3 -> 1 -> 1      5 -> 3 -> 5      7 -> 3 -> 5      9 -> 5 -> 9
#
# 2 latents are decoded to 3 frames, and these are encoded to 1 latent, which is the same to the bit
# when the second and the third frame are replaced by noise. So the end of the clip is lost for every
# second valid length, in training on latents as well as in a loss of reconstruction.
#
# Exit status: 0 while this is so, 1 if the behaviour has changed.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet torch==2.15.0 diffusers==0.42.1 numpy==2.4.6
"$folder/venv/bin/python" - <<'PYTHON'
import sys

import torch
from diffusers import AutoencoderKLWan

torch.manual_seed(0)
vae = AutoencoderKLWan(
    base_dim=4,
    z_dim=4,
    dim_mult=[1, 1],
    num_res_blocks=1,
    temperal_downsample=[True],
    scale_factor_temporal=2,
    scale_factor_spatial=2,
    latents_mean=[0.0] * 4,
    latents_std=[1.0] * 4,
).eval()


@torch.no_grad()
def encoded(clip):
    return vae.encode(clip).latent_dist.mean


@torch.no_grad()
def decoded(latents):
    return vae.decode(latents).sample


counts = {}
for frames in (3, 5, 7, 9):
    latents = encoded(torch.randn(1, 3, frames, 16, 16))
    counts[frames] = (latents.shape[2], decoded(latents).shape[2])
    print(frames, "frames ->", counts[frames][0], "latents ->", counts[frames][1], "frames")
clip = decoded(torch.randn(1, 4, 2, 8, 8))
other = clip.clone()
other[:, :, 1:] = torch.randn_like(other[:, :, 1:])
latents = encoded(clip)
unread = torch.equal(latents, encoded(other))
print("2 latents ->", clip.shape[2], "frames ->", latents.shape[2], "latents; end unread:", unread)
same_as_seen = (
    counts == {3: (1, 1), 5: (3, 5), 7: (3, 5), 9: (5, 9)}
    and (clip.shape[2], latents.shape[2]) == (3, 1)
    and unread
)
print("as seen" if same_as_seen else "changed")
sys.exit(0 if same_as_seen else 1)
PYTHON
