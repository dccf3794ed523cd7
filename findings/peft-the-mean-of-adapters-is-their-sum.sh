#!/usr/bin/env bash
# Finding: peft's linear mean of adapters that were trained from one start is their sum.
#
# Versions: peft 0.21.2, transformers 5.23.0, torch 2.15.0, Python 3.11; seen 2026-11-30.
#
# Expected: add_weighted_adapter([…], weights=[0.5, 0.5], combination_type="linear") makes the
# mean of two changes of the weights, at least nearly. The docstring calls it "a very rough
# approximation", and says that the others are more exact. The mean of an adapter and its copy is
# that adapter.
#
# Seen: the mean of an adapter and its copy is twice the adapter. Both factors, A and B, are
# added up by the square roots of the weights. So the products of one adapter's B with another's A
# count as well, and these are as large as the rest if all have nearly one A. They have, if they
# were trained from one start: A is random by the seed and moves little, B starts at 0. Length of
# the result beside that of the mean of the changes, for adapters that were trained for 100 steps
# on data of their own:
#
#   adapters   cat   svd   linear   dare_linear   magnitude_prune (both of density 1)
#   2          1.0   1.0   2.0      2.0           2.0
#   4          1.0   1.0   4.0      4.0           4.0
#
# The result is the sum, to less than 1 % of its length. Two adapters of different seeds give
# about the right length, and the result is off the mean by 60 % of it. No message says any of
# this.
#
# So a mean of rewards or of policies (soups, the last checkpoints of one run) goes as many times
# too far as there are adapters, if they started alike. "cat" is exact.
#
# Exit status: 0 while this is so, 1 if the behaviour has changed.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet torch==2.15.0 peft==0.21.2 transformers==5.23.0 \
  accelerate==1.15.0 numpy==2.4.6
HF_HUB_OFFLINE=1 HF_HOME="$folder/cache" "$folder/venv/bin/python" - <<'PYTHON'
import logging
import sys
import warnings

import torch
from peft import LoraConfig, get_peft_model, get_peft_model_state_dict, set_peft_model_state_dict

warnings.filterwarnings("error", module="peft")
warnings.filterwarnings("ignore", message="The density 1.0 is greater than or equal to 1")
messages = []
handler = logging.Handler()
handler.emit = lambda record: messages.append(record.getMessage())
logging.getLogger().addHandler(handler)
CONFIG = {"r": 4, "lora_alpha": 8, "target_modules": ["0"]}
WAYS = ["cat", "svd", "linear", "dare_linear", "magnitude_prune"]


def made(seed):
    """Return a network, always the same, with a new adapter whose A is drawn from a seed."""
    torch.manual_seed(0)
    layers = torch.nn.Linear(16, 32), torch.nn.GELU(), torch.nn.Linear(32, 1)
    network = torch.nn.Sequential(*layers)
    torch.manual_seed(seed)
    return get_peft_model(network, LoraConfig(**CONFIG), adapter_name="own")


def trained(seed, data):
    """Return the adapter's weights after 100 steps towards twice the first input."""
    model = made(seed)
    inputs = torch.randn(512, 16, generator=torch.Generator().manual_seed(data))
    weights = [weight for weight in model.parameters() if weight.requires_grad]
    optimizer = torch.optim.AdamW(weights, lr=1e-3)
    for _ in range(100):
        optimizer.zero_grad()
        (model(inputs) - 2 * inputs[:, :1]).square().mean().backward()
        optimizer.step()
    return get_peft_model_state_dict(model, adapter_name="own")


def lengths(adapters):
    """Return each result's length beside the mean's, and how far linear is off sum and mean."""
    model = made(0)
    layer = model.base_model.model[0]
    names = [f"adapter{number}" for number in range(len(adapters))]
    for name, weights in zip(names, adapters, strict=True):
        model.add_adapter(name, LoraConfig(**CONFIG))
        set_peft_model_state_dict(model, weights, adapter_name=name)
    total = sum(layer.get_delta_weight(name) for name in names)
    shares = [1 / len(names)] * len(names)
    made_by = {}
    for way in WAYS:
        density = 1.0 if way in ("dare_linear", "magnitude_prune") else None
        model.add_weighted_adapter(names, shares, way, combination_type=way, density=density)
        made_by[way] = layer.get_delta_weight(way)
    mean = total / len(names)
    ratios = {way: round((made_by[way].norm() / mean.norm()).item(), 1) for way in WAYS}
    off = [((made_by["linear"] - goal).norm() / goal.norm()).item() for goal in (total, mean)]
    return ratios, *off


one_start = [trained(0, data) for data in range(4)]
copies = lengths([one_start[0]] * 2)
two = lengths(one_start[:2])
four = lengths(one_start)
two_starts = lengths([one_start[0], trained(1, 1)])
results = {"copies": copies, "two": two, "four": four, "two starts": two_starts}
for name, (ratios, off_the_sum, off_the_mean) in results.items():
    off = f"linear is off the sum by {off_the_sum:.3f} and off the mean by {off_the_mean:.3f}"
    print(name, ratios, off)
exact = {"cat": 1.0, "svd": 1.0}
too_far = {2: dict.fromkeys(WAYS[2:], 2.0), 4: dict.fromkeys(WAYS[2:], 4.0)}
same_as_seen = (
    copies[0] == two[0] == exact | too_far[2]
    and four[0] == exact | too_far[4]
    and copies[1] < 1e-5
    and two[1] < 0.01
    and four[1] < 0.01
    and two_starts[0]["cat"] == 1.0
    and two_starts[0]["linear"] < 1.5
    and two_starts[2] > 0.3
    and not messages
)
print("as seen" if same_as_seen else "changed")
sys.exit(0 if same_as_seen else 1)
PYTHON
