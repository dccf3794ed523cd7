#!/usr/bin/env bash
# Finding: diffusers' EMAModel with use_ema_warmup=False, the default, warms up for 90,000 steps.
#
# Versions: diffusers 0.42.1, torch 2.15.0, Python 3.11; seen 2026-11-30.
#
# Expected: decay is "The decay factor for the exponential moving average", use_ema_warmup says
# "Whether to use EMA warmup", and inv_gamma and power are "Only used if `use_ema_warmup` is True".
# So decay=0.9999 keeps 0.9999 of the average at each step, as torch's AveragedModel does.
#
# Seen: without the warmup the factor is (1 + n) / (10 + n), up to `decay`, which it reaches after
# 90,000 steps. Weights that grow by 1 a step, and decay=0.9999:
#
#                 diffusers                           torch
#   after steps   factor   steps it lags by           factor   steps it lags by
#   10            0.526    1                          0.9999   9
#   100           0.917    10                         0.9999   99
#   1000          0.991    100                        0.9999   951
#
# 0.999 and 0.99999 give diffusers' columns too, to the bit. So the average is of about the last
# tenth of a run, whatever decay is, as long as the run is shorter than what decay asks for. A
# reward is climbed for some hundred to some thousand steps: there a sweep over decays compares
# equal runs, and an average that was to hold the policy near its start holds nothing of it. No
# message says so. min_decay of the same value as decay gives torch's average.
#
# Exit status: 0 while this is so, 1 if the behaviour has changed.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet torch==2.15.0 diffusers==0.42.1 numpy==2.4.6
HF_HUB_OFFLINE=1 HF_HOME="$folder/cache" "$folder/venv/bin/python" - <<'PYTHON'
import logging
import sys
import warnings

import torch
from diffusers.training_utils import EMAModel
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

torch.set_num_threads(1)
warnings.simplefilter("error")
messages = []
handler = logging.Handler()
handler.emit = lambda record: messages.append(record.getMessage())
logging.getLogger("diffusers").addHandler(handler)
STEPS = (10, 100, 1000)


def weight():
    return torch.nn.Parameter(torch.zeros(1, dtype=torch.float64))


def of_diffusers(**options):
    """Return the last factor, and how many steps the average lags by, for each number of steps."""
    rows = []
    for steps in STEPS:
        growing = weight()
        average = EMAModel([growing], **options)
        for step in range(1, steps + 1):
            growing.data.fill_(step)
            average.step([growing])
        rows.append((round(average.cur_decay_value, 4), steps - average.shadow_params[0].item()))
    return rows


def of_torch(decay):
    """Return how many steps torch's average lags by, for each number of steps."""
    lags = []
    for steps in STEPS:
        growing = torch.nn.ParameterList([weight()])
        average = AveragedModel(growing, multi_avg_fn=get_ema_multi_avg_fn(decay))
        for step in range(1, steps + 1):
            growing[0].data.fill_(step)
            average.update_parameters(growing)
        lags.append(steps - average.module[0].item())
    return lags


rows = of_diffusers(decay=0.9999, use_ema_warmup=False)
torchs = of_torch(0.9999)
others = [of_diffusers(decay=decay) for decay in (0.999, 0.99999)]
least = of_diffusers(decay=0.9999, min_decay=0.9999)
print("diffusers", rows, "torch", torchs)
print("min_decay", least, "messages", messages)
same_as_seen = (
    [factor for factor, _ in rows] == [0.5263, 0.9174, 0.9911]
    and [round(lag) for _, lag in rows] == [1, 10, 100]
    and [round(lag) for lag in torchs] == [9, 99, 951]
    and others == [rows, rows]
    and [round(lag, 6) for _, lag in least] == [round(lag, 6) for lag in torchs]
    and not messages
)
print("as seen" if same_as_seen else "changed")
sys.exit(0 if same_as_seen else 1)
PYTHON
