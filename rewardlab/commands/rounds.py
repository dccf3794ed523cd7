"""`rewardlab rounds`: build an outer loop from a config and run it in a run folder."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from rewardlab.commands.parsing import (
    instantiate,
    make_parser,
    out_folder,
    parse,
    prepare,
    resolved,
)
from rewardlab.errors import InputError
from rewardlab.rounds.base import Rounds
from rewardlab.runs.folder import RunFolder


class Built(NamedTuple):
    """What a config gives: the loop, where it runs, and the resolved config."""

    rounds: Rounds
    out: Path
    config: dict[str, Any]
    resume: bool
    stages: str | None


def run(command: str, words: Sequence[str]) -> int:
    """Build everything, and only then touch the run folder and start."""
    built = build(words)
    folder = RunFolder.open(built.out, built.config, built.resume, built.stages)
    try:
        built.rounds.run(folder)
    except InputError:
        folder.abandon()
        raise
    print(f"{built.out}\nFor a page of it: rewardlab report {built.out}")
    return 0


def build(words: Sequence[str]) -> Built:
    """Parse the words of `rewardlab rounds` and construct the loop, unless its run folder refuses;
    write nothing.
    """
    parser = make_parser()
    prepare(parser)
    parser.add_argument(
        "--stages",
        type=str,
        default=None,
        help="Folder of finished stages that several runs share.",
    )
    parser.add_subclass_arguments(Rounds, "rounds", required=True)
    config = parse(parser, words)
    out = out_folder(config, words)
    tree = resolved(parser, config)
    RunFolder.check(out, tree, config.resume)
    return Built(instantiate(parser, config).rounds, out, tree, config.resume, config.stages)
