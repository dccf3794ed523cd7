#!/usr/bin/env bash
# Finding: transformers' Adafactor keeps float32 moments for bfloat16 weights, and after a resume
# they are bfloat16, so the resumed run is another one.
#
# Versions: transformers 5.23.0, torch 2.15.0, Python 3.11; seen 2026-11-30.
#
# Expected: the state goes through state_dict and load_state_dict unchanged, and a run that is
# resumed takes the same steps as one that was not interrupted. So it is for torch's AdamW.
#
# Seen: the saved state is float32. `torch.optim.Optimizer.load_state_dict` gives every tensor of it
# but "step" the type of its weight, and Adafactor says nothing against it. Weights that differ 20
# steps after the resume, of 256 in bfloat16, by gradients that are equal to the bit:
#
#   Adafactor   second moments float32 -> bfloat16   4 differ
#   AdamW       moments bfloat16 -> bfloat16         none differs
#
# The other way round a state that is kept in bfloat16 to save memory becomes float32 if its weights
# are float32: 2 bytes a number before the resume, 4 after it. And an integer is no exception: a
# counter of 300000 beside a bfloat16 weight is read as 299008. No message in any of the cases.
#
# Exit status: 0 while this is so, 1 if the behaviour has changed.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet torch==2.15.0 transformers==5.23.0 numpy==2.4.6
"$folder/venv/bin/python" - <<'PYTHON'
import copy
import sys
import warnings

import torch
from transformers.optimization import Adafactor

warnings.simplefilter("error")


def types(optimizer):
    """Return the types of all tensors of the state but the number of steps."""
    states = list(optimizer.state.values())
    return {
        name: value.dtype
        for name, value in states[0].items()
        if name != "step" and torch.is_tensor(value)
    }


def step(weight, optimizer, seed):
    generator = torch.Generator().manual_seed(seed)
    weight.grad = torch.randn(weight.shape, generator=generator).to(weight.dtype)
    optimizer.step()


def resumed(make):
    """Return the types before and after, and the share of weights that differ 20 steps later."""
    generator = torch.Generator().manual_seed(0)
    weight = torch.nn.Parameter(torch.randn(16, 16, generator=generator).bfloat16())
    optimizer = make([weight])
    for seed in range(3):
        step(weight, optimizer, seed)
    again = torch.nn.Parameter(weight.detach().clone())
    loaded = make([again])
    loaded.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    before, after = types(optimizer), types(loaded)
    for seed in range(3, 23):
        step(weight, optimizer, seed)
        step(again, loaded, seed)
    return before, after, (weight != again).float().mean().item()


def adafactor(weights):
    return Adafactor(weights, lr=1e-2, relative_step=False, scale_parameter=False)


seen = {"Adafactor": resumed(adafactor), "AdamW": resumed(torch.optim.AdamW)}
for name, (before, after, differing) in seen.items():
    print(name, set(before.values()), "->", set(after.values()), "weights that differ", differing)

small = torch.nn.Parameter(torch.ones(4))
momentum = torch.optim.SGD([small], momentum=0.9)
step(small, momentum, 0)
momentum.state[small]["momentum_buffer"] = torch.ones(4, dtype=torch.bfloat16)
momentum.load_state_dict(momentum.state_dict())
grown = momentum.state[small]["momentum_buffer"].element_size()

half = torch.nn.Parameter(torch.ones(4, dtype=torch.bfloat16))
counted = torch.optim.SGD([half], momentum=0.9)
step(half, counted, 0)
counted.state[half]["count"] = torch.tensor(300_000)
counted.load_state_dict(counted.state_dict())
count = counted.state[half]["count"].item()
print("bytes a number of a bfloat16 state", grown, "counter of 300000", count)

same_as_seen = (
    set(seen["Adafactor"][0].values()) == {torch.float32}
    and set(seen["Adafactor"][1].values()) == {torch.bfloat16}
    and seen["Adafactor"][2] > 0
    and set(seen["AdamW"][0].values()) == set(seen["AdamW"][1].values()) == {torch.bfloat16}
    and seen["AdamW"][2] == 0
    and grown == 4
    and count == 299_008
)
print("as seen" if same_as_seen else "changed")
sys.exit(0 if same_as_seen else 1)
PYTHON
