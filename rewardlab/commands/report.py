"""`rewardlab report`: one self-contained page from run folders."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from rewardlab.errors import InputError
from rewardlab.runs.layout import CONFIG_FILE


def run(command: str, argv: Sequence[str]) -> int:
    """Check the folders, write the page, print its path."""
    parser = argparse.ArgumentParser(prog="rewardlab report")
    parser.add_argument("runs", nargs="+", type=Path, metavar="RUN")
    parser.add_argument("--out", type=Path, metavar="FILE")
    flags = parser.parse_args(argv)
    for folder in flags.runs:
        _check_run(folder)
    from rewardlab.report import write_report

    print(write_report(flags.runs, flags.out))
    return 0


def _check_run(folder: Path) -> None:
    """Refuse a folder that is not a run's."""
    if not (folder / CONFIG_FILE).is_file():
        raise InputError(
            f"{folder} is not a run folder: it has no {CONFIG_FILE}. Give one that "
            "`rewardlab rounds` or `fit` wrote."
        )
