"""`rewardlab score`: one row a sample, with what a reward says of it."""

from __future__ import annotations

import argparse
import csv
import io
import json
import logging
import math
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils.data import Dataset
from tqdm import tqdm

from rewardlab.commands.flags import FlagParser, add_device_flags, check_numbers
from rewardlab.commands.logs import set_up_logs
from rewardlab.commands.sources import open_reward
from rewardlab.conversations import Prompt, to_json
from rewardlab.data import read_prompts
from rewardlab.data.samples import open_samples
from rewardlab.errors import InputError
from rewardlab.rewards import Reward
from rewardlab.rewards.scoring import judged
from rewardlab.rewards.unscored import is_partial
from rewardlab.storage import as_samples, write_atomically
from rewardlab.storage.exchange_rows import read_exchanges
from rewardlab.storage.media_folder import MediaFolder
from rewardlab.storage.metadata import read_text
from rewardlab.storage.prompts import holds_rows, text_lines
from rewardlab.storage.tables import is_dataset
from rewardlab.storage.video_files import is_medium_name
from rewardlab.storage.videos import Clip
from rewardlab.types import Samples, concatenate

log = logging.getLogger("rewardlab")
SORTS = ("none", "best", "worst")


class Scored(NamedTuple):
    """What is to be scored.

    Attributes:
        rows: N one-row Samples.
        files: the picture or video of each row, relative to the folder; None for texts.
    """

    rows: Dataset[Samples]
    files: list[str] | None


def run(command: str, argv: Sequence[str]) -> int:
    """Read everything, score it in order, and write the table whole or not at all."""
    flags = parse(argv)
    set_up_logs()
    scored = read(flags)
    reward = open_reward(flags.reward, flags)
    rows = table(reward, scored, flags.batch_size)
    if reward.conditional and not any(row["prompt"] for row in rows):
        log.warning("The reward reads prompts, and no sample has one: --prompts FILE gives them.")
    if flags.sort != "none":
        scored_rows = [row for row in rows if row["score"] is not None]
        scored_rows.sort(key=_score, reverse=flags.sort == "best")
        rows = scored_rows + [row for row in rows if row["score"] is None]
    _say_unscored(rows)
    text = as_json_lines(rows) if str(flags.out).endswith(".jsonl") else as_csv(rows)
    if flags.out is None:
        sys.stdout.write(text)
        return 0
    write_atomically(flags.out, text)
    print(f"{flags.out}: {len(rows)} scores, mean {_mean(rows):.4g}")
    return 0


def parse(argv: Sequence[str]) -> argparse.Namespace:
    """Return the flags.

    Raises:
        InputError: for a mistake in them, or if --out exists.
    """
    parser = FlagParser(prog="rewardlab score", allow_abbrev=False)
    add = parser.add_argument
    add("reward", metavar="REWARD", help="a folder or an http(s):// URL")
    add("samples", metavar="SAMPLES", help="a folder, a picture, a video, a text file or a table")
    add("--prompts", help="file with the prompt of each sample, one a line, or .jsonl")
    add("--out", help="a new .csv or .jsonl file; without it the table is printed")
    add("--sort", choices=SORTS, default="none", help="none keeps the samples' order")
    add("--size", type=int, help="side to which pictures and frames are resized and cropped")
    add("--frames", type=int, help="frames of each video; SAMPLES is then a folder of videos")
    add(
        "--stride", type=int, default=1, help="frames from one that is taken of a video to the next"
    )
    add("--batch-size", type=int, default=64, help="samples scored at once")
    add_device_flags(parser)
    flags = parser.parse_args(argv)
    flags.max_length = None
    check_numbers(flags, size=1, frames=1, stride=1)
    if flags.out is not None and Path(flags.out).exists():
        raise InputError(f"{flags.out} exists and is never overwritten. Give another --out.")
    return flags


def read(flags: argparse.Namespace) -> Scored:
    """Return the samples that the flags name.

    Raises:
        InputError: if there are none, or their number is not that of the prompts.
    """
    path = Path(flags.samples)
    clip = None
    if flags.frames is not None or flags.stride != 1:
        clip = Clip(flags.frames, flags.stride)
    if not path.exists():
        raise InputError(f"{path} does not exist. Give a folder or a file of samples.")
    if path.is_dir() and not is_dataset(path):
        rows = open_samples(path, flags.size, clip=clip)
    elif is_medium_name(path):
        rows = open_samples(as_samples("", [path], flags.size, clip))
    elif holds_rows(path):
        rows = open_samples(read_exchanges(path))
    else:
        rows = open_samples(read_outputs(path))
    files = None
    if isinstance(rows, MediaFolder):
        files = [str(file.relative_to(path)) for file in rows.paths]
    elif is_medium_name(path):
        files = [path.name]
    if flags.prompts:
        rows = with_prompts(rows, flags.prompts, path)
    return Scored(rows, files)


def read_outputs(path: Path) -> Samples:
    """Return the samples of a text file with an output a line, without prompts.

    Raises:
        InputError: if it holds none.
    """
    outputs = text_lines(read_text(path))
    if not any(line.strip() for line in outputs):
        raise InputError(f"{path} holds no outputs. Write one a line, or give a .jsonl file.")
    return Samples([""] * len(outputs), outputs)


def with_prompts(rows: Dataset[Samples], file: str, path: Path) -> Dataset[Samples]:
    """Return samples under the prompts of a file, one each."""
    prompts = read_prompts(file, strict=True)
    count = len(rows)  # type: ignore[arg-type]
    if len(prompts) != count:
        raise InputError(
            f"{file} holds {len(prompts)} prompts and {path} {count} samples; one a sample is "
            "wanted, in their order."
        )
    return _Prompted(rows, prompts)


class _Prompted(Dataset[Samples]):
    """One-row samples under other prompts."""

    def __init__(self, rows: Dataset[Samples], prompts: list[Prompt]) -> None:
        self.rows = rows
        self.prompts = prompts

    def __len__(self) -> int:
        return len(self.prompts)

    def __getitem__(self, index: int) -> Samples:
        sample = self.rows[index]
        return Samples([self.prompts[index]], sample.outputs, sample.facts)


def table(reward: Reward, scored: Scored, batch_size: int) -> list[dict[str, Any]]:
    """Return one row a sample in their order, with a progress bar if stderr is a terminal."""
    count = len(scored.rows)  # type: ignore[arg-type]
    rows: list[dict[str, Any]] = []
    with tqdm(total=count, desc="scoring", unit=" samples", disable=None) as bar:
        for start in range(0, count, batch_size):
            numbers = range(start, min(start + batch_size, count))
            samples = concatenate([scored.rows[number] for number in numbers])
            result = judged(reward, samples, batch_size)
            batch = _rows(samples, result.scores, start, scored.files)
            if is_partial(reward):
                for row, reason in zip(batch, result.reasons, strict=True):
                    row["reason"] = reason
            rows += batch
            bar.update(len(samples))
    return rows


def _rows(
    samples: Samples, scores: Tensor, start: int, files: list[str] | None
) -> list[dict[str, Any]]:
    """Return the table's rows of a batch."""
    rows = []
    for place, score in enumerate(scores.tolist()):
        row = {"row": start + place, "score": None if math.isnan(score) else score}
        row["prompt"] = to_json(samples.prompts[place])
        if files is not None:
            row["file"] = files[start + place]
        elif not isinstance(samples.outputs, torch.Tensor):
            row["output"] = samples.outputs[place]
        rows.append(row)
    return rows


def as_csv(rows: Sequence[dict[str, Any]]) -> str:
    r"""Return rows as CSV with a head.

    Example:
        >>> as_csv([{"row": 0, "score": 0.5, "prompt": "a, b"}])
        'row,score,prompt\r\n0,0.5,"a, b"\r\n'
    """
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, list(rows[0]))
    writer.writeheader()
    for row in rows:
        writer.writerow({name: _cell(value) for name, value in row.items()})
    return text.getvalue()


def _cell(value: Any) -> Any:
    """Return a value as a cell; the messages of a conversation are JSON, as files hold them."""
    return json.dumps(value, ensure_ascii=False) if isinstance(value, list) else value


def as_json_lines(rows: Sequence[dict[str, Any]]) -> str:
    """Return rows as lines of JSON."""
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)


def _score(row: dict[str, Any]) -> float:
    score: float = row["score"]
    return score


def _mean(rows: Sequence[dict[str, Any]]) -> float:
    scores = [row["score"] for row in rows if row["score"] is not None]
    return sum(scores) / len(scores) if scores else math.nan


def _say_unscored(rows: Sequence[dict[str, Any]]) -> None:
    """Say in the log how many rows have no score; their column "reason" says why."""
    count = sum(row["score"] is None for row in rows)
    if count:
        log.warning(
            "%d of %d samples are not scored; the column reason says why.", count, len(rows)
        )
