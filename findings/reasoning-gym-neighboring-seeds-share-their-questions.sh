#!/usr/bin/env bash
# Finding: reasoning-gym's data of a seed is that of the seed before, moved on by one question.
#
# Versions: reasoning-gym 0.1.25, sympy 1.14.0, Python 3.11; seen 2026-11-30.
#
# Expected: create_dataset(name, seed=42) and create_dataset(name, seed=43) are two draws, as with
# every generator of random numbers. One is for training and the other for evaluation, and five
# seeds are five samples. The README gives a seed in its examples and says no more about it.
#
# Seen: question i of a seed is drawn from seed + i. So question 1 of seed 42 is question 0 of seed
# 43. Of 500 questions of basic_arithmetic, 499 are the same, in the same order. Elsewhere:
#
#   seeds 42 and 43, 20 questions each, all names but "composite": of 105, 101 share 19, codeio
#   17, list_functions 4, gsm_symbolic 1 and acre none
#   a composite of two names, 100 questions each: 99 are shared
#   leg_counting, seeds 0 to 4, 100 questions each: 104 questions in all, not 500
#   basic_arithmetic, seeds 0 and 500, 500 questions each: none is shared
#
# So an evaluation by the next seed asks what was trained on, and the means over seeds 0, 1 and 2
# differ by a question or two: their scatter says nothing of other questions. No message says so.
# Seeds that lie further apart than the number of questions are two draws.
#
# Exit status: 0 while this is so, 1 if the behaviour has changed.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet reasoning-gym==0.1.25 sympy==1.14.0
"$folder/venv/bin/python" - <<'PYTHON'
import sys
import warnings
from collections import Counter

import reasoning_gym
from reasoning_gym.composite import DatasetSpec
from reasoning_gym.factory import DATASETS

warnings.filterwarnings("error", module="reasoning_gym")


def questions(name, seed, size, **options):
    """Return the questions of a dataset, in order."""
    dataset = reasoning_gym.create_dataset(name, seed=seed, size=size, **options)
    return [entry["question"] for entry in dataset]


def shared(name, seeds, size, **options):
    """Return how many questions of the first of two seeds the second one has too."""
    first = questions(name, seeds[0], size, **options)
    second = questions(name, seeds[1], size, **options)
    return sum(question in second for question in first)


moved_on = questions("basic_arithmetic", 42, 500)[1:] == questions("basic_arithmetic", 43, 500)[:-1]
neighbors = shared("basic_arithmetic", (42, 43), 500)
far = shared("basic_arithmetic", (0, 500), 500)
print("500 questions: moved on by one", moved_on, "shared", neighbors, "of far seeds", far)
parts = [DatasetSpec(name, 1, {}) for name in ("basic_arithmetic", "leg_counting")]
of_composite = shared("composite", (42, 43), 100, datasets=parts)
five = set()
for seed in range(5):
    five.update(questions("leg_counting", seed, 100))
print("composite", of_composite, "five seeds of 100 questions", len(five))
names = [name for name in DATASETS if name != "composite"]
counts = Counter(shared(name, (42, 43), 20) for name in names)
print("of 20 questions each", dict(counts))
same_as_seen = (
    moved_on
    and neighbors == 499
    and far == 0
    and of_composite == 99
    and len(five) == 104
    and len(names) == 105
    and counts[19] == 101
)
print("as seen" if same_as_seen else "changed")
sys.exit(0 if same_as_seen else 1)
PYTHON
