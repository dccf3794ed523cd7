#!/usr/bin/env bash
# Finding: a scheduler made from another one's live config takes other steps than one made from the
# same config after it was saved and read again.
#
# Versions: diffusers 0.42.1, torch 2.15.0, Python 3.11; seen 2026-11-29.
#
# Expected: `DDIMScheduler.from_config(s.config)` means the same whether `s` was just made or was
# written to a folder and loaded, since nothing was changed in between.
#
# Seen: the config of a new DPMSolverMultistepScheduler says timestep_spacing "linspace", its
# default. `from_config` drops every value that the first scheduler had by default and takes the
# second class's own: DDIM's "leading". After save_config and from_pretrained the very same config
# counts as set by hand, and DDIM keeps "linspace". Five steps:
#
#   live   leading  [800, 600, 400, 200, 0]
#   saved  linspace [999, 749, 500, 250, 0]
#
# So a pipeline whose scheduler is swapped in memory draws other pictures than the same lines draw
# from its saved folder, without a message.
#
# Exit status: 0 while this is so, 1 if the behaviour has changed.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet torch==2.15.0 diffusers==0.42.1 numpy==2.4.6
"$folder/venv/bin/python" - "$folder" <<'PYTHON'
import sys

from diffusers import DDIMScheduler, DPMSolverMultistepScheduler

folder = sys.argv[1]
made = DPMSolverMultistepScheduler()
made.save_config(folder)
read = DPMSolverMultistepScheduler.from_pretrained(folder)
assert made.config.timestep_spacing == read.config.timestep_spacing == "linspace"
steps = {}
for name, source in (("live", made), ("saved", read)):
    scheduler = DDIMScheduler.from_config(source.config)
    scheduler.set_timesteps(5)
    steps[name] = scheduler.timesteps.tolist()
    print(name, scheduler.config.timestep_spacing, steps[name])
same_as_seen = steps == {
    "live": [800, 600, 400, 200, 0],
    "saved": [999, 749, 500, 250, 0],
}
print("as seen" if same_as_seen else "changed")
sys.exit(0 if same_as_seen else 1)
PYTHON
