#!/usr/bin/env bash
# Finding: in a process group save_pretrained writes on rank 0 alone, whatever is_main_process says,
# and on the other ranks returns as if it had saved.
#
# Versions: transformers 5.23.0, torch 2.15.0, Python 3.11; seen 2026-11-30.
#
# Expected: `is_main_process` "whether the process calling this is the main process", True unless
# said otherwise, decides who writes. Two ranks that train a member of an ensemble each, and save it
# to a folder of its own, leave two models.
#
# Seen: the argument holds only where there is no process group. Within one, ranks above 0 make the
# folder and write nothing into it, by default as well as with is_main_process=True, and no message
# or warning is given. model.config.save_pretrained does write on every rank. Two ranks, weights of
# 0 saved before init_process_group, weights of 1 afterwards:
#
#                               rank 0                 rank 1
#   new folder                  config, weights        empty
#   new folder, said True       config, weights        empty
#   the folder of before        1 when it is loaded    0 when it is loaded
#
# So a member that was trained is lost, and where an earlier state was saved to the same folder that
# one is loaded in its place. It is noticed after the run, or never.
#
# Exit status: 0 while this is so, 1 if the behaviour has changed.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet torch==2.15.0 transformers==5.23.0 numpy==2.4.6
cat > "$folder/rank.py" <<'PYTHON'
import json
import logging
import sys
import warnings
from pathlib import Path

import torch
import torch.distributed as dist
import transformers
from transformers import BertConfig, BertForSequenceClassification

messages = []
transformers.logging.set_verbosity_warning()
transformers.utils.logging.disable_progress_bar()
handler = logging.Handler()
handler.emit = lambda record: messages.append(record.getMessage())
transformers.logging.add_handler(handler)

folder, rank = Path(sys.argv[1]), int(sys.argv[2])
own = folder / f"rank-{rank}"
model = BertForSequenceClassification(
    BertConfig(
        vocab_size=10,
        hidden_size=8,
        num_hidden_layers=1,
        num_attention_heads=1,
        intermediate_size=8,
        num_labels=1,
    )
)
head = model.classifier.weight
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    torch.nn.init.zeros_(head)
    model.save_pretrained(own / "before")
    dist.init_process_group("gloo", f"file://{folder}/store", rank=rank, world_size=2)
    caught.clear()
    torch.nn.init.ones_(head)
    model.save_pretrained(own / "before")
    model.save_pretrained(own / "new")
    model.save_pretrained(own / "said", is_main_process=True)
    model.config.save_pretrained(own / "config")
messages += [str(warning.message) for warning in caught]
dist.barrier()
dist.destroy_process_group()
seen = {name: sorted(file.name for file in (own / name).iterdir()) for name in ("new", "said")}
seen["config"] = [file.name for file in (own / "config").iterdir()]
seen["messages"] = messages
loaded = BertForSequenceClassification.from_pretrained(own / "before")
seen["loaded"] = loaded.classifier.weight.unique().tolist()
(own / "seen.json").write_text(json.dumps(seen))
PYTHON
for rank in 0 1; do
  HF_HUB_OFFLINE=1 "$folder/venv/bin/python" "$folder/rank.py" "$folder" $rank &
  ranks[rank]=$!
done
wait "${ranks[0]}"
wait "${ranks[1]}"
"$folder/venv/bin/python" - "$folder" <<'PYTHON'
import json
import sys
from pathlib import Path

seen = [json.loads(Path(sys.argv[1], f"rank-{rank}", "seen.json").read_text()) for rank in (0, 1)]
for rank in (0, 1):
    print("rank", rank, seen[rank])
files = ["config.json", "model.safetensors"]
config = ["config.json"]
same_as_seen = seen == [
    {"new": files, "said": files, "config": config, "messages": [], "loaded": [1.0]},
    {"new": [], "said": [], "config": config, "messages": [], "loaded": [0.0]},
]
print("as seen" if same_as_seen else "changed")
sys.exit(0 if same_as_seen else 1)
PYTHON
