"""`rewardlab select`: the best of each prompt's candidates."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from rewardlab.bulk.selecting import N, Selected, Selection, select_files
from rewardlab.bulk.sources import open_source
from rewardlab.bulk.table_rows import KEEPS
from rewardlab.bulk.tables import check_out
from rewardlab.commands.flags import FlagParser
from rewardlab.commands.logs import set_up_logs
from rewardlab.commands.score import (
    add_reading_flags,
    check_reading_flags,
    open_scorer,
    origin_of,
    reading_of,
)
from rewardlab.errors import InputError


def run(command: str, argv: Sequence[str]) -> int:
    """Score the candidates, and write the best, whole or not at all."""
    flags = parse(argv)
    set_up_logs()
    check_out(Path(flags.out), flags.resume)
    reading = reading_of(flags)
    candidates = open_source(flags.candidates, reading)
    selected = select_files(
        open_scorer(flags),
        candidates,
        flags.out,
        Selection(flags.n, flags.best, flags.group, flags.gold, flags.pairs),
        reading,
        columns=flags.keep,
        batch_size=flags.batch_size,
        resume=flags.resume,
        origin=origin_of(flags),
        tokens_per_batch=flags.tokens_per_batch,
    )
    print("\n".join(sentences(selected, flags.pairs)))
    return 0


def parse(argv: Sequence[str]) -> argparse.Namespace:
    """Return the flags.

    Raises:
        InputError: for a mistake in them.
    """
    parser = FlagParser(prog="rewardlab select", allow_abbrev=False)
    add = parser.add_argument
    add("reward", metavar="REWARD", help="a folder or an http(s):// URL")
    add("candidates", metavar="CANDIDATES", nargs="+", help="as SAMPLES of `rewardlab score`")
    add("--out", required=True, help="a new .csv, .jsonl or .parquet file")
    add("--n", default="all", help="the first N candidates of each prompt; all; or auto")
    add("--best", type=int, default=1, help="how many of each prompt are kept")
    add("--group", help="column that says which candidates belong together")
    add("--gold", help="column with a judge's scores, for --n auto")
    add("--pairs", help="a new .jsonl file of pairs of the best and the worst")
    add("--keep", choices=KEEPS, default="all", help="which columns of the candidates stay")
    add_reading_flags(parser)
    flags = parser.parse_args(argv)
    check_reading_flags(flags)
    flags.n = _n(flags.n)
    if flags.best < 1:
        raise InputError(f"--best is at least 1; got {flags.best}.")
    return flags


def _n(word: str) -> N:
    """Return what --n says."""
    if word == "all":
        return "all"
    if word == "auto":
        return "auto"
    if not word.isdecimal() or int(word) < 1:
        raise InputError(f"--n is a number of candidates from 1, all, or auto; got {word[:60]!r}.")
    return int(word)


def sentences(selected: Selected, pairs: str | None) -> list[str]:
    """Return what is printed at the end."""
    lines = [f"{selected.out}: the best of {_of(selected)} of {selected.prompts} prompts"]
    if selected.unscored:
        lines.append(f"{selected.unscored} candidates are not scored, and were left out.")
    if selected.without:
        lines.append(f"{selected.without} prompts have no candidate that is scored, and no row.")
    if pairs is not None:
        line = f"{pairs}: {selected.pairs} pairs of the best and the worst"
        if selected.level:
            line += f"; {selected.level} prompts have none: one candidate, or all score alike"
        lines.append(line)
    return lines


def _of(selected: Selected) -> str:
    """Return from how many candidates the best was chosen.

    Example:
        >>> _of(Selected(Path("a"), 1, 1, 0, 0, 99, 0, 0, 0.1, fewest=2, most=3))
        '2 to 3 candidates (all that there are; --n allows 99)'
    """
    if selected.n is None or not selected.most:
        return "all candidates" if selected.n is None else f"{selected.n} candidates"
    count = f"{selected.fewest} to {selected.most}"
    if selected.fewest == selected.most:
        count = str(selected.most)
    if selected.most == selected.n:
        return f"{count} candidates"
    return f"{count} candidates (all that there are; --n allows {selected.n})"
