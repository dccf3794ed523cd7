#!/usr/bin/env bash
# Finding: a column of lists that comes from a parquet file is written to CSV in a form that is read
# back as other values, not as an error.
#
# Versions: pandas 3.1.1, pyarrow 26.0.1, numpy 2.4.6, Python 3.11; seen 2026-11-29.
#
# Expected: ["5", "6"] in a column goes through parquet and CSV and comes back, since CSV holds the
# list as Python writes it and `ast.literal_eval` reads that. So it does without parquet.
#
# Seen: `read_parquet` gives numpy arrays for lists. `to_csv` writes an array as numpy prints it,
# without commas and, above 1000 elements, with three dots for most of them.
#
#   written before parquet  ['5', '6']   read as ['5', '6']
#   written after parquet   ['5' '6']    read as ['56'], since two texts side by side are one
#   2000 numbers            [   0    1    2 ... 1997 1998 1999], 35 letters
#
# So accepted answers, labels or messages in such a column become one joined text, embeddings lose
# all but six of their numbers, and nothing says so on writing or on reading. `to_json` of the same
# frame writes the lists whole.
#
# Exit status: 0 while this is so, 1 if the behaviour has changed.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet pandas==3.1.1 pyarrow==26.0.1 numpy==2.4.6
"$folder/venv/bin/python" - "$folder" <<'PYTHON'
import ast
import json
import sys
import warnings
from pathlib import Path

import pandas

warnings.simplefilter("error")
folder = Path(sys.argv[1])
answers = ["5", "6"]
made = pandas.DataFrame({"answers": [answers], "numbers": [list(range(2000))]})
made.to_parquet(folder / "rows.parquet")
frames = {"before": made, "after": pandas.read_parquet(folder / "rows.parquet")}
cells = {}
for name, frame in frames.items():
    frame.to_csv(folder / "rows.csv", index=False)
    row = pandas.read_csv(folder / "rows.csv").iloc[0]
    cells[name] = row
    print(name, "parquet:", row["answers"], "read as", ast.literal_eval(row["answers"]))
    print("  2000 numbers are", len(row["numbers"]), "letters:", row["numbers"][:50])
as_json = json.loads(frames["after"].to_json(orient="records"))[0]
same_as_seen = (
    ast.literal_eval(cells["before"]["answers"]) == answers
    and ast.literal_eval(cells["after"]["answers"]) == ["56"]
    and ast.literal_eval(cells["before"]["numbers"]) == list(range(2000))
    and cells["after"]["numbers"] == "[   0    1    2 ... 1997 1998 1999]"
    and as_json == {"answers": answers, "numbers": list(range(2000))}
)
print("as seen" if same_as_seen else "changed")
sys.exit(0 if same_as_seen else 1)
PYTHON
