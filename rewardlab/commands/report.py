"""`rewardlab report`: one self-contained page from run folders."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from rewardlab.errors import InputError


def run(command: str, words: Sequence[str]) -> int:
    """Check the folders, write the page, print its path."""
    parser = argparse.ArgumentParser(prog="rewardlab report")
    parser.add_argument("runs", nargs="+", type=Path, metavar="RUN")
    parser.add_argument("--out", type=Path, metavar="FILE")
    given = parser.parse_args(words)
    for run in given.runs:
        if not (run / "config.yaml").is_file():
            raise InputError(
                f"{run} is not a run folder: it has no config.yaml. Give one that `rewardlab rounds` or `fit` wrote."
            )
    from rewardlab.report import write_report

    print(write_report(given.runs, given.out))
    return 0
