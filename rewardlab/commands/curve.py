"""`rewardlab curve`: how a judge fares while best-of-n climbs a reward."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

import torch

from rewardlab.audits import CurveAudit, CurveResult
from rewardlab.commands.flags import audit_parser, check_numbers
from rewardlab.commands.sources import (
    check_folder,
    distinct_prompts,
    open_folder,
    open_policy,
    open_reward,
    probe,
    source,
)
from rewardlab.errors import InputError
from rewardlab.report.curve_page import curve_page, curve_picture
from rewardlab.runs import layout
from rewardlab.runs.folder import RunFolder
from rewardlab.runs.read import read_runs
from rewardlab.storage.atomic import write_atomically


def run(command: str, argv: Sequence[str]) -> int:
    """Load everything, and only then touch the run folder; draw the curve and print the verdict."""
    flags = parse(argv)
    prompts = distinct_prompts(flags.prompts)
    identity = {name: source(getattr(flags, name)) for name in ("policy", "proxy", "gold")}
    if identity["proxy"] == identity["gold"]:
        raise InputError(
            f"--proxy and --gold are the same reward ({flags.proxy}), so gold could not fall while "
            "the proxy rises. As gold give a reward that nothing is trained on (docs/guide/"
            "judges.md)."
        )
    config = check_folder("curve", flags, prompts)
    policy = open_policy(flags)
    proxy = open_reward(flags.proxy, flags)
    gold = open_reward(flags.gold, flags)
    probe(policy, [proxy, gold], prompts, flags.prompts)
    audit = CurveAudit(
        policy,
        proxy,
        gold,
        prompts,
        n_max=flags.n_max,
        samples=flags.samples,
        seed=flags.seed,
        identity={**identity, "max_length": flags.max_length},
    )
    folder = open_folder(flags, config)
    with folder.attempt(["rewardlab", command, *argv]):
        result = audit.run(folder)
        write_page(folder, result)
    print(result.figures["verdict"]["sentence"])
    print(f"{flags.out}/{layout.CURVE_PAGE}")
    return 0


def parse(argv: Sequence[str]) -> argparse.Namespace:
    """Return the flags.

    Raises:
        InputError: for a mistake in them.
    """
    parser = audit_parser("curve")
    add = parser.add_argument
    add("--proxy", required=True, help="the reward that is climbed: a folder or an http(s):// URL")
    add("--gold", required=True, help="the reward that judges: the same")
    add("--n-max", type=int, default=64, help="the largest n")
    add("--samples", type=int, help="outputs drawn of each prompt; twice --n-max by default")
    flags = parser.parse_args(argv)
    if flags.samples is None:
        flags.samples = 2 * flags.n_max
    check_numbers(flags, n_max=4, samples=flags.n_max)
    return flags


def write_page(folder: RunFolder, result: CurveResult) -> None:
    """Write curve.png and curve.html."""
    distances = torch.linspace(0, result.fit.reached, 100)
    fitted = zip(distances.tolist(), result.fit(distances).tolist(), strict=True)
    picture = curve_picture(result.figures, list(fitted))
    write_atomically(folder.path / layout.CURVE_PICTURE, picture.png)
    [run] = read_runs([folder.path])
    page = curve_page(result.figures, picture, result.made_by, run)
    write_atomically(folder.path / layout.CURVE_PAGE, page)
