#!/usr/bin/env bash
# Finding: torchmetrics' MetricCollection makes one metric of two whose first batches came out
# alike, for good, so both show the first one's figure.
#
# Versions: torchmetrics 1.9.0, torch 2.15.0, Python 3.11; seen 2026-11-30.
#
# Expected: the docstring says to name "multiple of the same metric with different parameters" by a
# dict, and that metrics "belong to the same compute group" if they "are therefore only different in
# their compute step", as precision and recall. Thresholds of 0.5 and 0.9 are different updates.
#
# Seen: groups are made after the first update, of metrics whose states are equal then. Equal counts
# are no equal rules: a first batch without a score between 0.5 and 0.9 counts the same for both.
# From there on only the first metric is updated, and all show its state:
#
#   accuracy of 1000 rows             at 0.5   at 0.9
#   compute_groups=False              0.752    0.582
#   by default, first batch alike     0.752    0.752
#   the same after reset()            0.752    0.752
#
# reset keeps the groups, so a batch before training, as Lightning's sanity check runs, decides for
# the whole run: an untrained reward is near one number. No message says so. compute_groups=False
# is right, and so is calling the collection in place of update, as long as update never is.
#
# Exit status: 0 while this is so, 1 if the behaviour has changed.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet torch==2.15.0 torchmetrics==1.9.0 numpy==2.4.6
"$folder/venv/bin/python" - <<'PYTHON'
import sys
import warnings

import torch
from torchmetrics import MetricCollection
from torchmetrics.classification import BinaryAccuracy

torch.set_num_threads(1)
warnings.simplefilter("error")
generator = torch.Generator().manual_seed(0)
scores = torch.rand(1000, generator=generator)
labels = (scores > torch.rand(1000, generator=generator)).long()
first_scores = torch.tensor([0.1, 0.2])
first_labels = torch.tensor([0, 0])


def thresholds(**options):
    """Return the accuracy at two thresholds, in one collection."""
    accuracies = [BinaryAccuracy(threshold=threshold) for threshold in (0.5, 0.9)]
    return MetricCollection(dict(zip(("lenient", "severe"), accuracies, strict=True)), **options)


def figures(collection):
    """Return the figures of a collection, rounded."""
    return [round(value.item(), 3) for value in collection.compute().values()]


def after_a_first_batch(collection):
    """Return the figures of all rows, after a batch that counts alike and a reset; and again."""
    collection.update(first_scores, first_labels)
    both = []
    for _ in range(2):
        collection.reset()
        collection.update(scores, labels)
        both.append(figures(collection))
    return both


at_once = thresholds()
at_once.update(scores, labels)
grouped = after_a_first_batch(thresholds())
alone = after_a_first_batch(thresholds(compute_groups=False))
called = thresholds()
called(first_scores, first_labels)
called.reset()
called(scores, labels)
print("no first batch", figures(at_once), "grouped", grouped, "alone", alone)
print("called", figures(called))
same_as_seen = (
    figures(at_once) == [0.752, 0.582]
    and alone == [[0.752, 0.582]] * 2
    and grouped == [[0.752, 0.752]] * 2
    and figures(called) == [0.752, 0.582]
)
print("as seen" if same_as_seen else "changed")
sys.exit(0 if same_as_seen else 1)
PYTHON
