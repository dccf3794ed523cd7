#!/usr/bin/env bash
# Finding: torch's sign of NaN is 0, so a win rate counts a comparison without a score as a tie.
#
# Versions: torch 2.15.0, numpy 2.4.6, Python 3.11; seen 2026-11-29.
#
# Expected: NaN goes through `sign` as it goes through subtraction, mean and numpy's sign, and a win
# rate over a missing score is NaN, which somebody notices.
#
# Seen: `torch.sign`, `Tensor.sign_` and `torch.sgn` give 0 for NaN in float16, bfloat16, float32
# and float64, for short tensors and for long ones. numpy gives NaN. Four pairs, of which three are
# won and one has no score, and the usual (sign + 1) / 2:
#
#   torch   [1, 1, 1, 0.5]   win rate 0.875
#   numpy   [1, 1, 1, NaN]   win rate NaN
#
# So a judge whose scores are NaN throughout is level with everybody at 0.5, and a sign gradient
# step leaves what has a NaN gradient where it was.
#
# Exit status: 0 while this is so, 1 if the behaviour has changed.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet torch==2.15.0 numpy==2.4.6
"$folder/venv/bin/python" - <<'PYTHON'
import math
import sys

import numpy
import torch

of_types = {}
for dtype in (torch.float16, torch.bfloat16, torch.float32, torch.float64):
    for length in (1, 10_000):
        missing = torch.full((length,), math.nan, dtype=dtype)
        values = {*missing.sign().tolist(), *missing.clone().sign_().tolist()}
        of_types[dtype, length] = values | set(missing.sgn().tolist())
margins = [2.0, 0.1, 7.0, math.nan]
by_torch = (torch.tensor(margins).sign() + 1) / 2
by_numpy = (numpy.sign(margins) + 1) / 2
print("signs of NaN", of_types)
print("torch", by_torch.tolist(), "win rate", by_torch.mean().item())
print("numpy", by_numpy.tolist(), "win rate", by_numpy.mean())
same_as_seen = (
    all(values == {0.0} for values in of_types.values())
    and by_torch.mean().item() == 0.875
    and math.isnan(by_numpy.mean())
)
print("as seen" if same_as_seen else "changed")
sys.exit(0 if same_as_seen else 1)
PYTHON
