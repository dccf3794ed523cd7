"""`rewardlab score`: one row a sample, with what a reward says of it."""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rewardlab.bulk.entries import Reading
from rewardlab.bulk.journal import Journal, Results
from rewardlab.bulk.judging import How
from rewardlab.bulk.scoring import Scored, TableRows, score_files, scored_rows
from rewardlab.bulk.sources import open_source
from rewardlab.bulk.table_rows import KEEPS, columns_of
from rewardlab.bulk.tables import check_out, write_csv
from rewardlab.commands.flags import FlagParser, add_device_flags, check_numbers, is_url
from rewardlab.commands.logs import set_up_logs
from rewardlab.commands.sources import open_reward, source
from rewardlab.errors import InputError
from rewardlab.rewards import Reward, Tolerant
from rewardlab.runs.attempts import typed_words
from rewardlab.storage.videos import Clip

log = logging.getLogger("rewardlab")
SORTS = ("none", "best", "worst")
# flags that say how a reward is opened, and so what it says
REWARD_FLAGS = ("chat", "query", "query_template", "dialect")


def run(command: str, argv: Sequence[str]) -> int:
    """Score everything in order, and write the table whole or not at all."""
    flags = parse(argv)
    set_up_logs()
    reading = reading_of(flags)
    if flags.out is None:
        return _print(flags, reading)
    check_out(Path(flags.out), flags.resume)
    samples = open_source(flags.samples, reading)
    scored = score_files(
        open_scorer(flags),
        samples,
        flags.out,
        reading,
        keep=flags.keep,
        sort=flags.sort,
        members=flags.members,
        batch_size=flags.batch_size,
        resume=flags.resume,
        origin=origin_of(flags),
        tokens_per_batch=flags.tokens_per_batch,
    )
    print(sentence(scored))
    return 0


def parse(argv: Sequence[str]) -> argparse.Namespace:
    """Return the flags.

    Raises:
        InputError: for a mistake in them.
    """
    parser = FlagParser(prog="rewardlab score", allow_abbrev=False)
    add = parser.add_argument
    add("reward", metavar="REWARD", help="a folder or an http(s):// URL")
    add("samples", metavar="SAMPLES", nargs="+", help=_SAMPLES)
    add("--out", help="a new .csv, .jsonl or .parquet file; without it the table is printed as CSV")
    add("--sort", choices=SORTS, default="none", help="none keeps the samples' order")
    add("--keep", choices=KEEPS, default="all", help="which columns of the samples stay")
    add("--members", action="store_true", help="add each member's score and their deviation")
    add_reading_flags(parser)
    flags = parser.parse_args(argv)
    check_reading_flags(flags)
    if flags.out is None and flags.resume:
        raise InputError("--resume goes on with a file, so it needs --out. Name it.")
    return flags


def add_reading_flags(parser: FlagParser) -> None:
    """Add the flags that say how samples are read and scored."""
    add = parser.add_argument
    add("--prompts", help="file with the prompt of each sample, one a line, or .jsonl")
    add("--prompt-column", help="column, or extension in a shard, that holds the prompt")
    add("--output-column", help="column, or extension in a shard, that holds the output")
    add("--skip-unreadable", action="store_true", help="leave what cannot be read unscored")
    add("--most-unscored", type=float, help="share of samples that may fail and go unscored")
    add("--size", type=int, help="side to which pictures and frames are resized and cropped")
    add("--frames", type=int, help="frames of each video; SAMPLES is then a folder of videos")
    add(
        "--stride", type=int, default=1, help="frames from one that is taken of a video to the next"
    )
    add("--batch-size", type=int, default=64, help="samples scored at once")
    add("--tokens-per-batch", type=int, help="tokens of texts scored at once, with padding")
    add("--resume", action="store_true", help="go on from OUT.part")
    add_device_flags(parser)


def check_reading_flags(flags: argparse.Namespace) -> None:
    """Refuse numbers out of their range.

    Raises:
        InputError: naming the flag.
    """
    flags.max_length = None
    check_numbers(flags, size=1, frames=1, stride=1, tokens_per_batch=1)


def reading_of(flags: argparse.Namespace) -> Reading:
    """Return how samples are read."""
    clip = None
    if flags.frames is not None or flags.stride != 1:
        clip = Clip(flags.frames, flags.stride)
    return Reading(
        flags.prompts,
        flags.prompt_column,
        flags.output_column,
        flags.size,
        clip,
        flags.skip_unreadable,
    )


def open_scorer(flags: argparse.Namespace) -> Reward:
    """Open the reward; one that may leave samples unscored if --most-unscored says so."""
    reward = open_reward(flags.reward, flags)
    if flags.most_unscored is None:
        return reward
    return Tolerant(reward, flags.most_unscored).eval()


def origin_of(flags: argparse.Namespace) -> dict[str, Any]:
    """Return what names the reward: its folder with the fingerprint of its files, and the flags."""
    location = typed_words([flags.reward])[0]
    if is_url(location):
        location = location.partition("?")[0]
    origin: dict[str, Any] = {"reward": location, "fingerprint": source(flags.reward)}
    for name in REWARD_FLAGS:
        if getattr(flags, name) is not None:
            origin[name] = getattr(flags, name)
    if getattr(flags, "most_unscored", None) is not None:
        origin["most_unscored"] = flags.most_unscored
    return origin


def sentence(scored: Scored) -> str:
    """Return what is printed at the end."""
    text = f"{scored.out}: {scored.rows} scores, mean {scored.mean:.4g}"
    if scored.unscored:
        scores = scored.rows - scored.unscored
        text = f"{scored.out}: {scored.rows} rows, {scores} scores, mean {scored.mean:.4g}; "
        text += f"{scored.unscored} not scored, see the column reason"
    if scored.outside is not None:
        text += f"; {scored.outside:.1%} of the time was outside the reward's network"
    return text


def _print(flags: argparse.Namespace, reading: Reading) -> int:
    """Print the table as CSV."""
    samples = open_source(flags.samples, reading)
    reward = open_scorer(flags)
    journal = Journal(None, {}, Results(len(samples)))
    how = How(flags.batch_size, flags.members, flags.skip_unreadable, flags.tokens_per_batch)
    own = scored_rows(reward, samples, journal, how).columns
    rows = TableRows(samples, journal.results, flags.keep, flags.sort)
    columns = columns_of(samples, journal.results, flags.keep, own)
    write_csv(sys.stdout, rows(), columns)
    return 0


_SAMPLES = "a folder, a picture, a video, a text file, tables, or shards; patterns in quotes"
