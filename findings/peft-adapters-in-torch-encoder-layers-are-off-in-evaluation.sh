#!/usr/bin/env bash
# Finding: peft's adapters inside torch's TransformerEncoderLayer work in training mode and are
# left out in evaluation mode; on the output layer of torch's attention they never work.
#
# Versions: peft 0.21.2, torch 2.15.0, transformers 5.23.0, Python 3.11; seen 2026-11-30.
#
# Expected: an adapter on an nn.Linear counts whenever the network runs, in both modes, until
# disable_adapter. Without dropout both modes are one function.
#
# Seen: in evaluation mode TransformerEncoderLayer computes all of itself in one call that takes
# the weights of its parts and runs none of them, and peft's layers hand out the weights without
# the adapter. nn.MultiheadAttention takes its out_proj's weight like that in both modes. A small
# reward, 300 steps on 512 pairs by adapters alone; the accuracy on these pairs:
#
#   target_modules           before   training mode   evaluation mode   merged, evaluation mode
#   linear1, linear2         0.51     0.95            0.51              0.95
#   out_proj                 0.51     0.51            0.51              0.51
#   "all-linear"             0.51     1.00            0.59              1.00
#
# "all-linear" adapts the score too, which works. With and without gradients it is the same. So the
# loss falls, and whatever calls .eval() reads the reward of before training, until the adapter is
# merged: then it is another reward. The adapters of out_proj get no gradient and count as
# trainable. No message says any of this. torch.backends.mha.set_fastpath_enabled(False) mends
# evaluation.
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
from peft import LoraConfig, get_peft_model

torch.set_num_threads(1)
warnings.simplefilter("ignore")
warnings.filterwarnings("error", module="peft")
warnings.filterwarnings("error", module="torch.nn")
messages = []
handler = logging.Handler()
handler.emit = lambda record: messages.append(record.getMessage())
logging.getLogger().addHandler(handler)
TARGETS = {
    "linear1, linear2": ["linear1", "linear2"],
    "out_proj": ["out_proj"],
    "all-linear": "all-linear",
}


class Reward(torch.nn.Module):
    """An encoder without dropout and the score of its first position."""

    def __init__(self):
        super().__init__()
        layer = torch.nn.TransformerEncoderLayer(16, 2, 32, dropout=0.0, batch_first=True)
        self.encoder = torch.nn.TransformerEncoder(layer, 2)
        self.score = torch.nn.Linear(16, 1)

    def forward(self, rows):
        return self.score(self.encoder(rows)[:, 0]).squeeze(-1)


def accuracy(model, pairs):
    """Return the share of pairs in order, which is the same with and without gradients."""
    with torch.no_grad():
        margins = model(pairs[0]) - model(pairs[1])
    again = model(pairs[0]) - model(pairs[1])
    assert torch.allclose(margins, again, atol=1e-5)
    return round((margins > 0).float().mean().item(), 2)


def trained(targets, pairs):
    """Train adapters on pairs; return accuracies, and whether out_proj's alone had no gradient."""
    torch.manual_seed(0)
    config = LoraConfig(r=4, lora_alpha=8, target_modules=targets)
    model = get_peft_model(Reward(), config)
    adapters = {name: weight for name, weight in model.named_parameters() if weight.requires_grad}
    before = accuracy(model.eval(), pairs)
    model.train()
    optimizer = torch.optim.AdamW(adapters.values(), lr=1e-2)
    for _ in range(300):
        margins = model(pairs[0]) - model(pairs[1])
        loss = -torch.nn.functional.logsigmoid(margins).mean()
        optimizer.zero_grad()
        if loss.requires_grad:
            loss.backward()
        optimizer.step()
    idle = [name for name, weight in adapters.items() if weight.grad is None]
    in_training = accuracy(model, pairs)
    in_evaluation = accuracy(model.eval(), pairs)
    torch.backends.mha.set_fastpath_enabled(False)
    mended = accuracy(model, pairs)
    torch.backends.mha.set_fastpath_enabled(True)
    merged = accuracy(model.merge_and_unload().eval(), pairs)
    of_output = [name for name in adapters if "out_proj" in name]
    return [before, in_training, in_evaluation, merged, mended], idle == of_output


torch.manual_seed(1)
rows = torch.randn(2, 512, 5, 16)
better = rows[0, :, :, 0].mean(1) > rows[1, :, :, 0].mean(1)
chosen = torch.where(better[:, None, None], rows[0], rows[1])
rejected = torch.where(better[:, None, None], rows[1], rows[0])
results = {name: trained(targets, (chosen, rejected)) for name, targets in TARGETS.items()}
for name, (accuracies, only_output_is_idle) in results.items():
    print(name, accuracies, "idle are the output layers alone", only_output_is_idle)
print("messages", messages)
same_as_seen = (
    results["linear1, linear2"] == ([0.51, 0.95, 0.51, 0.95, 0.95], True)
    and results["out_proj"] == ([0.51] * 5, True)
    and results["all-linear"] == ([0.51, 1.0, 0.59, 1.0, 1.0], True)
    and not messages
)
print("as seen" if same_as_seen else "changed")
sys.exit(0 if same_as_seen else 1)
PYTHON
