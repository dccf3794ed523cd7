#!/usr/bin/env bash
# Finding: create_study with load_if_exists=True takes the direction of the stored study in place of
# the one it is given, so a sweep that is told to maximize minimizes.
#
# Versions: optuna 5.0.0, Python 3.11; seen 2026-11-30.
#
# Expected: `create_study(direction="maximize", load_if_exists=True)` returns a study that maximizes,
# or refuses a stored one that does not. Study names and numbers of values are refused elsewhere.
#
# Seen: a study was made without a direction, which is "minimize", and the argument was added later.
# The study that comes back minimizes, by SQLite as well as by a journal file. The only message is
# the one that every resumed study has, at the level of info: "Using an existing study". No warning.
# 40 trials of x in [0, 1], worth x:
#
#   a new study of the same arguments   best value above 0.9
#   the stored one                      best value below 0.1
#
# directions=["maximize", "minimize"] for it is a study with one direction. So best_trial is the
# worst of the rewards, and the sampler goes on looking for a worse one.
#
# Exit status: 0 while this is so, 1 if the behaviour has changed.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet optuna==5.0.0 numpy==2.4.6
"$folder/venv/bin/python" - "$folder" <<'PYTHON'
import logging
import sys
import warnings

import optuna
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend

warnings.simplefilter("error")
messages = []
handler = logging.Handler()
handler.emit = lambda record: messages.append((record.levelname, record.getMessage()))
log = logging.getLogger("optuna")
optuna.logging.disable_default_handler()
log.addHandler(handler)

folder = sys.argv[1]
storages = {
    "sqlite": f"sqlite:///{folder}/studies.db",
    "journal": JournalStorage(JournalFileBackend(f"{folder}/journal.log")),
}


def best(storage, name):
    """Return direction and best value of a study that is asked to maximize, and its messages."""
    messages.clear()
    study = optuna.create_study(
        study_name=name,
        storage=storage,
        direction="maximize",
        load_if_exists=True,
        sampler=optuna.samplers.RandomSampler(seed=0),
    )
    said = [(level, text.split("`")[0].strip()) for level, text in messages]
    study.optimize(lambda trial: trial.suggest_float("x", 0, 1), n_trials=40)
    return study.direction.name, study.best_value, said


seen = {}
for kind, storage in storages.items():
    optuna.create_study(study_name="old", storage=storage)
    seen[kind] = {name: best(storage, name) for name in ("old", "new")}
    print(kind, seen[kind])
two = optuna.create_study(
    study_name="old",
    storage=storages["sqlite"],
    directions=["maximize", "minimize"],
    load_if_exists=True,
)
print("asked for two directions", [direction.name for direction in two.directions])
same_as_seen = [direction.name for direction in two.directions] == ["MINIMIZE"]
for studies in seen.values():
    direction, value, said = studies["old"]
    same_as_seen &= direction == "MINIMIZE" and value < 0.1
    same_as_seen &= said == [("INFO", "Using an existing study with")]
    direction, value, said = studies["new"]
    same_as_seen &= direction == "MAXIMIZE" and value > 0.9
print("as seen" if same_as_seen else "changed")
sys.exit(0 if same_as_seen else 1)
PYTHON
