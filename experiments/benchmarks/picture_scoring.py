"""Scoring a folder of pictures: which share of the time is not the tower's.

    OMP_NUM_THREADS=1 python experiments/benchmarks/picture_scoring.py --out runs/pictures.csv

`bulk.score_files`, which `rewardlab score` calls, on JPEGs of smooth noise by a random tower of open_clip with one
thread: pictures decoded in turn (0 threads), and by threads that are ahead. Both take turns. The share is by the clock,
so it tells something only where a core is free; a picture's seconds of the processor in each part hold on any machine.
"""

from __future__ import annotations

import argparse
import statistics
import tarfile
import tempfile
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

from end_to_end_cases import history


class Turn(NamedTuple):
    """Seconds of a turn by the clock, and the share of them that was not the tower's."""

    seconds: float
    outside: float


def main() -> None:
    options = _options()
    import torch

    torch.set_num_threads(1)
    reward = _reward(options.tower)
    rows: list[dict[str, Any]] = []
    for width, height in options.sizes:
        with tempfile.TemporaryDirectory() as folder:
            pictures = _pictures(Path(folder), options.pictures, width, height)
            for kind in ("folder", "shard"):
                source = pictures if kind == "folder" else _shard(pictures)
                rows.append(_row(reward, source, options, f"{kind}, {width}x{height}"))
                print(_line(rows[-1]), flush=True)
                history.write(rows, options.out)
            print(_parts(reward, pictures), flush=True)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--out", type=Path, default=Path("runs/pictures.csv"))
    add("--tower", default="ViT-B-32")
    add("--pictures", type=int, default=128)
    add("--batch-size", type=int, default=16)
    add("--repeats", type=int, default=3)
    add("--threads", type=int, help="that decode ahead; by default as `rewardlab score` has it")
    add("--sizes", type=_size, nargs="+", default=[(640, 480), (1024, 1024)])
    return parser.parse_args()


def _size(word: str) -> tuple[int, int]:
    """Return WIDTHxHEIGHT."""
    width, height = word.split("x")
    return int(width), int(height)


def _reward(tower: str) -> Any:
    import logging

    from rewardlab import VisionReward

    logging.disable(logging.WARNING)
    return VisionReward(tower, "random").eval()


def _pictures(folder: Path, count: int, width: int, height: int) -> Path:
    """Write JPEGs of smooth noise with a little grain."""
    import numpy as np
    from PIL import Image

    generator = np.random.default_rng(0)
    pictures = folder / "pictures"
    pictures.mkdir()
    for number in range(count):
        coarse = generator.integers(0, 256, (height // 16, width // 16, 3), dtype=np.uint8)
        smooth = Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC)
        grain = generator.integers(-12, 12, (height, width, 3))
        levels = (np.asarray(smooth) + grain).clip(0, 255).astype(np.uint8)
        Image.fromarray(levels).save(pictures / f"{number:05}.jpg", quality=90)
    return pictures


def _shard(pictures: Path) -> Path:
    """Write the pictures into a shard of WebDataset."""
    shard = pictures.with_name("pictures.tar")
    with tarfile.open(shard, "w") as tar:
        for picture in sorted(pictures.iterdir()):
            tar.add(picture, picture.name)
    return shard


def _row(reward: Any, source: Path, options: argparse.Namespace, what: str) -> dict[str, Any]:
    """Measure both ways in turn, after a turn that is not counted."""
    in_turn: list[Turn] = []
    ahead: list[Turn] = []
    _turn(reward, source, options.batch_size, options.threads)
    for _ in range(options.repeats):
        in_turn.append(_turn(reward, source, options.batch_size, 0))
        ahead.append(_turn(reward, source, options.batch_size, options.threads))
    ratios = [one.seconds / other.seconds for one, other in zip(in_turn, ahead, strict=True)]
    return {
        "torch": version("torch"),
        "pillow": version("pillow"),
        "tower": options.tower,
        "pictures": what,
        "repeats": options.repeats,
        "outside_in_turn": round(statistics.median(turn.outside for turn in in_turn), 4),
        "outside_ahead": round(statistics.median(turn.outside for turn in ahead), 4),
        "outside_ahead_lowest": round(min(turn.outside for turn in ahead), 4),
        "outside_ahead_highest": round(max(turn.outside for turn in ahead), 4),
        "ratio_median": round(statistics.median(ratios), 3),
        "ratio_lowest": round(min(ratios), 3),
        "ratio_highest": round(max(ratios), 3),
    }


def _turn(reward: Any, source: Path, batch_size: int, threads: int | None) -> Turn:
    """Score the pictures into a table."""
    from rewardlab.bulk import score_files

    out = source.with_name("scores.csv")
    start = time.perf_counter()
    scored = score_files(reward, source, out, batch_size=batch_size, threads=threads)
    seconds = time.perf_counter() - start
    for file in (out, out.with_name("scores.csv.json")):
        file.unlink()
    return Turn(seconds, scored.outside or 0.0)


def _parts(reward: Any, pictures: Path) -> str:
    """Return a picture's seconds of the processor in each part, in one thread."""
    import torch

    from rewardlab.storage.images import read_image

    paths = sorted(pictures.iterdir())[:16]
    levels = [read_image(path) for path in paths]
    batch = torch.stack(levels).float() / 255
    with torch.no_grad():
        prepared = reward.tower.prepare(batch)
        seconds = {
            "decoding": _seconds(lambda: [read_image(path) for path in paths]),
            "numbers": _seconds(lambda: torch.stack([picture.float() / 255 for picture in levels])),
            "resizing and normalizing": _seconds(lambda: reward.tower.prepare(batch)),
            "tower": _seconds(lambda: reward.tower.model.encode_image(prepared)),
        }
    whole = sum(seconds.values())
    shares = [f"{name} {1000 * part:.1f} ms ({part / whole:.1%})" for name, part in seconds.items()]
    return f"a picture, in processor seconds: {', '.join(shares)}"


def _seconds(job: Callable[[], object], repeats: int = 5) -> float:
    """Return the median processor seconds of a job of 16 pictures, for one of them."""
    job()
    times = []
    for _ in range(repeats):
        start = time.process_time()
        job()
        times.append(time.process_time() - start)
    return statistics.median(times) / 16


def _line(row: dict[str, Any]) -> str:
    return (
        f"{row['tower']}, {row['pictures']}: outside the tower {row['outside_in_turn']:.1%} in turn, "
        f"{row['outside_ahead']:.1%} ahead ({row['outside_ahead_lowest']:.1%} to "
        f"{row['outside_ahead_highest']:.1%}); {row['ratio_median']:.2f} times as fast"
    )


if __name__ == "__main__":
    main()
