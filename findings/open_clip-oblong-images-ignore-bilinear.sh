#!/usr/bin/env bash
# Finding: open_clip resizes to an oblong size by bicubic interpolation although its config says
# bilinear.
#
# Versions: open_clip_torch 3.3.0, torch 2.15.0, torchvision 0.29.2, Pillow 13.0.0, Python 3.11;
# seen 2026-11-29.
#
# Expected: PreprocessCfg(interpolation="bilinear") decides how pictures are resized, whatever the
# size; "bilinear" and "bicubic" then differ by some grey levels on a noisy picture.
#
# Seen: they do for a square size, and for the modes "longest" and "squash". For an oblong size such
# as (24, 40) in the default mode "shortest" the two transforms are equal in every pixel: both are
# bicubic. Nothing is logged. Largest difference in grey levels, of one picture of noise, 60 × 90:
#
#   square (32, 32) shortest  24
#   oblong (24, 40) shortest   0
#   oblong (24, 40) squash    20
#
# So a tower of an oblong input size that was trained with bilinear pictures sees other ones.
#
# Exit status: 0 while this is so, 1 if the behaviour has changed.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet torch==2.15.0 torchvision==0.29.2 \
  open_clip_torch==3.3.0 pillow==13.0.0 numpy==2.4.6
"$folder/venv/bin/python" - <<'PYTHON'
import sys

import numpy as np
from open_clip.transform import PreprocessCfg, image_transform_v2
from PIL import Image

noise = np.random.default_rng(0).random((60, 90, 3))
picture = Image.fromarray((noise * 255).astype("uint8"))


def resized(size, mode, interpolation):
    config = PreprocessCfg(
        size=size, mean=(0, 0, 0), std=(1, 1, 1), interpolation=interpolation, resize_mode=mode
    )
    return image_transform_v2(config, is_train=False)(picture)


def difference(size, mode):
    """Return the largest difference of the two interpolations in grey levels."""
    pair = [resized(size, mode, name) for name in ("bilinear", "bicubic")]
    return round((pair[0] - pair[1]).abs().max().item() * 255)


square = difference((32, 32), "shortest")
oblong = difference((24, 40), "shortest")
squashed = difference((24, 40), "squash")
print("square shortest", square, "oblong shortest", oblong, "oblong squash", squashed)
same_as_seen = square > 5 and oblong == 0 and squashed > 5
print("as seen" if same_as_seen else "changed")
sys.exit(0 if same_as_seen else 1)
PYTHON
