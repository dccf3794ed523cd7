#!/usr/bin/env bash
# Finding: torchmetrics' AUROC of a reward's scores depends on how they are cut into batches, and on
# what is added to all of them.
#
# Versions: torchmetrics 1.9.0, torch 2.15.0, Python 3.11; seen 2026-11-30.
#
# Expected: the area knows ranks alone, and update in batches is update in one. The documentation
# says of values outside [0, 1] that they are taken for logits, and that a "sigmoid per element" is
# applied. A sigmoid keeps the order, so that neither changes.
#
# Seen: each batch is asked alone. One without a value outside [0, 1] stays as it is, the others go
# through the sigmoid, and both lie in one pool. 1000 scores, 625 of them in [0, 1]; the
# average precision beside the area:
#
#   rows a batch         1000    16      8       2       1
#   BinaryAUROC          0.771   0.768   0.765   0.739   0.730
#   average precision    0.751   0.748   0.746   0.710   0.684
#
# And the sigmoid is float32's, which is 1 from 17 on. The same scores in one batch:
#
#   added to all         0       10      15      20
#   BinaryAUROC          0.771   0.771   0.743   0.500
#
# No message in any case. So a reward whose scores lie around 20 separates nothing, and one whose
# validation is cut into smaller batches looks worse. Ranks of all scores, divided by their number,
# give 0.771 everywhere.
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
from torchmetrics.classification import BinaryAUROC, BinaryAveragePrecision

torch.set_num_threads(1)
warnings.simplefilter("error")
generator = torch.Generator().manual_seed(0)
labels = (torch.rand(1000, generator=generator) < 0.5).long()
scores = 0.5 * torch.randn(1000, generator=generator) + 0.5 * labels + 0.3
ranks = scores.argsort().argsort() / 999


def area(values, rows=1000, kind=BinaryAUROC):
    """Return the area of values that come in batches of so many rows."""
    metric = kind()
    for batch in zip(values.split(rows), labels.split(rows), strict=True):
        metric.update(*batch)
    return round(metric.compute().item(), 3)


inside = ((scores >= 0) & (scores <= 1)).float().mean().item()
batches = [1000, 16, 8, 2, 1]
of_batches = [area(scores, rows) for rows in batches]
precisions = [area(scores, rows, BinaryAveragePrecision) for rows in batches]
of_offsets = [area(scores + offset) for offset in (0, 10, 15, 20)]
of_ranks = {area(ranks, rows) for rows in batches}
wins = (scores[labels == 1][:, None] > scores[labels == 0]).double().mean().item()
print("in [0, 1]", inside, "share of pairs in order", wins)
print("batches", of_batches, "precision", precisions)
print("offsets", of_offsets, "ranks", of_ranks)
same_as_seen = (
    of_batches == [0.771, 0.768, 0.765, 0.739, 0.730]
    and precisions == [0.751, 0.748, 0.746, 0.710, 0.684]
    and of_offsets == [0.771, 0.771, 0.743, 0.5]
    and of_ranks == {0.771}
    and round(wins, 3) == 0.771
)
print("as seen" if same_as_seen else "changed")
sys.exit(0 if same_as_seen else 1)
PYTHON
