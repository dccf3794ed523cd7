#!/usr/bin/env bash
# Finding: `datasets` reads the answers of a JSON file as points in time if all of them are dates,
# and whether the others of their pairs are texts makes no difference.
#
# Versions: datasets 5.2.0, pyarrow 26.0.1, Python 3.11; seen 2026-11-30.
#
# Expected: JSON has no dates. "2024-05-01" in quotes is a text, as the json module reads it, and the
# two answers of a pair have one type.
#
# Seen: load_dataset("json") makes timestamp[s] of a column of such texts, in messages too:
#
#   chosen    "2024-05-01"                 datetime(2024, 5, 1, 0, 0)
#   rejected  "next year"                  "next year"
#   answer    "2024-05-01T10:00:00+02:00"  datetime(2024, 5, 1, 8, 0), and the zone is gone
#
# str() of the first, which is what a template writes of it, is "2024-05-01 00:00:00": for questions
# of dates all good answers end with a time of day and the bad ones do not, which a reward learns.
# One row with other words and the whole column is text again. No message says which it is.
#
# Features that name the columns as "string" do not help: the points in time are made first and then
# written as text, "2024-05-01 00:00:00", so the column has the right type and other answers.
#
# Exit status: 0 while this is so, 1 if the behaviour has changed.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet datasets==5.2.0 pyarrow==26.0.1 pandas==3.1.1 numpy==2.4.6
HF_HUB_OFFLINE=1 HF_HOME="$folder/cache" "$folder/venv/bin/python" - "$folder" <<'PYTHON'
import json
import logging
import sys
import warnings
from datetime import datetime
from pathlib import Path

import datasets
from datasets import Features, Value, load_dataset

warnings.simplefilter("error")
datasets.disable_progress_bars()
messages = []
handler = logging.Handler()
handler.emit = lambda record: messages.append(record.getMessage())
logging.getLogger("datasets").addHandler(handler)
folder = Path(sys.argv[1])


def read(name, rows, features=None):
    """Return the rows as they are read from a file with a line for each."""
    file = folder / f"{name}.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    read_rows = load_dataset("json", data_files=str(file), split="train", features=features)
    print(name, read_rows.to_list())
    return read_rows.to_list()


def said(text):
    return [{"role": "assistant", "content": text}]


pair = {"chosen": "2024-05-01", "rejected": "next year"}
texts = read("texts", [pair])
in_messages = read("messages", [{name: said(text) for name, text in pair.items()}])
zone = read("zone", [{"answer": "2024-05-01T10:00:00+02:00"}])
mixed = read("mixed", [pair, {"chosen": "in May", "rejected": "next year"}])
features = Features({"chosen": Value("string"), "rejected": Value("string")})
named = read("named", [pair], features)
day = datetime(2024, 5, 1)
same_as_seen = (
    texts == [{"chosen": day, "rejected": "next year"}]
    and str(texts[0]["chosen"]) == "2024-05-01 00:00:00"
    and in_messages == [{"chosen": said(day), "rejected": said("next year")}]
    and zone == [{"answer": datetime(2024, 5, 1, 8)}]
    and mixed[0] == pair
    and named == [{"chosen": "2024-05-01 00:00:00", "rejected": "next year"}]
    and not messages
)
print("as seen" if same_as_seen else "changed")
sys.exit(0 if same_as_seen else 1)
PYTHON
