"""`rewardlab rounds`: build an outer loop from a config and run it in a run folder."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from rewardlab.commands.built_in_worlds import check_worlds
from rewardlab.commands.pages import write_page
from rewardlab.commands.parsing import (
    instantiate,
    make_parser,
    out_folder,
    parse,
    prepare,
    resolved,
)
from rewardlab.commands.rehearsal import rehearse
from rewardlab.commands.trainers_of_rounds import check_trainers
from rewardlab.commands.unsaved import announce_unsaved
from rewardlab.errors import InputError
from rewardlab.rounds.base import Rounds
from rewardlab.runs.folder import RunFolder


class Built(NamedTuple):
    """What a command line gives.

    Attributes:
        rounds: the outer loop.
        out: the run folder.
        config: the resolved config.
        resume: whether the run may stand already.
        stages: the folder of stages, if several runs share one.
        writes_page: whether report.html is written at the end.
        is_dry: whether everything is only built, on one tiny batch.
    """

    rounds: Rounds
    out: Path
    config: dict[str, Any]
    resume: bool
    stages: str | None
    writes_page: bool
    is_dry: bool


def run(command: str, argv: Sequence[str]) -> int:
    """Build everything, and only then touch the run folder and start."""
    built = build(argv)
    if built.is_dry:
        return rehearse(built.rounds, built.out)
    plan = built.rounds.plan()
    folder = RunFolder.open(built.out, built.config, built.resume, built.stages, plan)
    with folder.attempt(["rewardlab", command, *argv]):
        for name, part in built.rounds.exported().items():
            announce_unsaved(part, name)
        try:
            built.rounds.run(folder)
        except InputError:
            folder.abandon()
            raise
    print(built.out)
    if built.writes_page:
        write_page(built.out)
    return 0


def build(argv: Sequence[str]) -> Built:
    """Construct the loop of a command line, unless its run folder refuses; write nothing."""
    parser = make_parser()
    prepare(parser)
    stages_help = "Folder of finished stages that several runs share."
    parser.add_argument("--stages", type=str, default=None, help=stages_help)
    parser.add_subclass_arguments(Rounds, "rounds", required=True)
    config = parse(parser, argv)
    out = out_folder(config, argv)
    tree = resolved(parser, config)
    check_trainers(tree)
    check_worlds(tree)
    if not config.dry_run:
        RunFolder.check(out, tree, config.resume)
    rounds = instantiate(parser, config).rounds
    return Built(
        rounds, out, tree, config.resume, config.stages, config.report, is_dry=config.dry_run
    )
