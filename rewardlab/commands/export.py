"""`rewardlab export`: a reward in the form of another library, with a model card."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from rewardlab.commands.flags import FlagParser
from rewardlab.commands.logs import set_up_logs
from rewardlab.errors import InputError
from rewardlab.exporting import (
    Origin,
    export_function,
    export_onnx,
    export_transformers,
    read_evidence,
)
from rewardlab.rewards import load_reward

NETWORKS = ("transformers", "onnx")
FUNCTIONS = ("openrlhf", "verl", "flow-factory")
DTYPES = ("float32", "bfloat16", "float16")


def run(command: str, argv: Sequence[str]) -> int:
    """Write the folder whole or not at all, and say how far its scores are from the reward's."""
    flags = parse(argv)
    set_up_logs()
    if flags.to in FUNCTIONS:
        print(export_function(flags.reward, flags.out, flags.to, flags.trust))
        return 0
    evidence = read_evidence(flags.reward, flags.run, flags.results)
    reward = load_reward(flags.reward, trust=flags.trust)
    origin = Origin(flags.reward, ["rewardlab", command, *argv], evidence)
    if flags.to == "onnx":
        comparison = export_onnx(reward, flags.out, origin)
    else:
        comparison = export_transformers(reward, flags.out, origin, flags.dtype)
    print(
        f"{flags.out}: {comparison.samples} probes, largest difference "
        f"{comparison.difference:.2g} of scores up to {comparison.largest:.3g}"
    )
    return 0


def parse(argv: Sequence[str]) -> argparse.Namespace:
    """Return the flags.

    Raises:
        InputError: for a mistake in them, if the reward is no folder, or --out exists.
    """
    flags = flag_parser().parse_args(argv)
    if not Path(flags.reward).is_dir():
        raise InputError(f"{flags.reward} is not a folder. Give one that save_pretrained wrote.")
    if Path(flags.out).exists():
        raise InputError(f"{flags.out} exists and is never overwritten. Give another --out.")
    if Path(flags.out).resolve().is_relative_to(Path(flags.reward).resolve()):
        raise InputError(
            f"{flags.out} lies inside of the reward {flags.reward}, whose fingerprint it would "
            "change. Give an --out beside it."
        )
    if flags.to in FUNCTIONS and (flags.run or flags.results):
        raise InputError(
            f"--run and --results are for a model card, and --to {flags.to} writes one function. "
            "Leave them out."
        )
    if flags.to != "transformers" and flags.dtype != "float32":
        raise InputError(f"--dtype is for --to transformers; got {flags.dtype} for {flags.to}.")
    return flags


def flag_parser() -> FlagParser:
    """Return the parser of the flags."""
    parser = FlagParser(prog="rewardlab export", allow_abbrev=False)
    add = parser.add_argument
    add("reward", metavar="REWARD", help="a folder of a reward")
    add("--to", required=True, choices=(*NETWORKS, *FUNCTIONS), help="the form")
    add("--out", required=True, help="a new folder")
    add("--run", help="the run folder that trained it: data, accuracy and command for the card")
    add(
        "--results",
        nargs="+",
        default=[],
        metavar="FILE",
        help="results.json of `attack` and `evaluate` of this reward, for the card",
    )
    add("--dtype", choices=DTYPES, default="float32", help="of the weights, to transformers")
    add("--trust", action="store_true", help="load a folder that names classes of other packages")
    return parser
