"""How cost grows with the size of the work."""

from __future__ import annotations

import csv
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from end_to_end_cases import history
from end_to_end_cases.head import head
from end_to_end_cases.measuring import measured

PICTURE = history.ROOT / "docs" / "assets" / "growth.png"


class Point(NamedTuple):
    """A size of the work, and the processor seconds that it takes."""

    size: float
    seconds: float


Growth = dict[str, list[Point]]  # by the name of what grows
Job = Callable[[], object]


def write_growth(out: Path, records: bool) -> None:
    """Measure growth and write growth.csv and growth.png, also into the checkout if `records`."""
    growths = growth()
    exponents = [f"{name} {exponent:.2f}" for name, exponent in slopes(growths).items()]
    print(f"Exponents of processor seconds in the size (1 is linear): {', '.join(exponents)}.")
    _write_points(growths, out / "growth.csv")
    picture(growths, out / "growth.png")
    if records:
        _write_points(growths, history.DATA / "growth.csv")
        picture(growths, PICTURE)


def _write_points(growths: Growth, file: Path) -> None:
    stamp = history.stamp()
    with file.open("w", encoding="utf-8", newline="") as stream:
        writer = csv.writer(stream, lineterminator="\n")
        writer.writerow([*stamp, "what", "size", "seconds"])
        for name, points in growths.items():
            for point in points:
                writer.writerow([*stamp.values(), name, point.size, f"{point.seconds:.5g}"])


def growth() -> Growth:
    """Measure processor seconds as the work grows."""
    import torch

    from rewardlab.rewards.projection import RewardProjection

    with torch.no_grad():
        targets = partial(_auc_of_targets, RewardProjection(512, heads=8))
        return {
            "tokens": _points(_log_prob_of_tokens, (256, 512, 1024, 2048)),
            "vocabulary": _points(_log_prob_of_vocabulary, (4096, 8192, 16384, 32768)),
            "targets": _points(targets, (1000, 2000, 4000, 8000)),
            "candidates": _points(_extremes_of_candidates, (8192, 16384, 32768, 65536)),
        }


def _points(make: Callable[[int], Job], sizes: Sequence[int]) -> list[Point]:
    points = []
    for size in sizes:
        job = make(size)
        points.append(Point(size, measured(job).cpu))
    return points


def _log_prob_of_tokens(rows: int) -> Job:
    from rewardlab.kernels import linear_log_prob

    return partial(linear_log_prob, *head(rows, 256, 8192))


def _log_prob_of_vocabulary(size: int) -> Job:
    from rewardlab.kernels import linear_log_prob

    return partial(linear_log_prob, *head(512, 256, size))


def _auc_of_targets(projection: Any, count: int) -> Job:
    import torch

    from rewardlab.metrics import auc

    features = torch.randn(count, 512)
    labels = torch.arange(count) % 2

    def job() -> None:
        scores = projection(features).mean(1)
        auc(scores, labels)

    return job


def _extremes_of_candidates(count: int) -> Job:
    import torch

    from rewardlab.mining import extremes
    from rewardlab.types import Samples

    prompts = []
    for number in range(16):
        prompts += [f"p{number}"] * count
    pool = Samples(prompts, ["x"] * len(prompts))
    return partial(extremes, pool, torch.randn(len(prompts)), count)


def slopes(growths: Growth) -> dict[str, float]:
    """Return the exponent of each: the slope of log seconds over log size; 1 is linear."""
    import numpy as np

    exponents = {}
    for name, points in growths.items():
        sizes, seconds = np.log(np.array(points)).T
        slope, _ = np.polyfit(sizes, seconds, 1)
        exponents[name] = float(slope)
    return exponents


def picture(growths: Growth, file: Path) -> None:
    """Draw seconds over the first size's, a panel for each."""
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(1, len(growths), figsize=(3.2 * len(growths), 3))
    exponents = slopes(growths)
    for panel, (name, points) in zip(axes, growths.items(), strict=True):
        sizes = [point.size for point in points]
        ratios = [point.seconds / points[0].seconds for point in points]
        panel.loglog(sizes, ratios, marker="o")
        panel.set(title=f"{name}: exponent {exponents[name]:.2f}", xlabel=name)
        panel.minorticks_off()
        panel.set_xticks(sizes, [f"{size:,}" for size in sizes], fontsize=7)
        panel.set_yticks([1, 2, 4, 8], ["1", "2", "4", "8"])
    axes[0].set_ylabel("processor seconds over the first")
    figure.tight_layout()
    figure.savefig(file, dpi=110)
