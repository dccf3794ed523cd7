"""`rewardlab attack`: attack any reward model, and say whether it was broken."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import Any, NamedTuple

from torch import Tensor

from rewardlab.attackers.token_swaps import embedding_parts
from rewardlab.audits import AttackAudit, AttackResult, make_attacker
from rewardlab.audits.attackers import ATTACKERS
from rewardlab.commands.flags import FlagParser, audit_parser, check_numbers
from rewardlab.commands.sources import (
    check_folder,
    distinct_prompts,
    open_folder,
    open_policy,
    open_reward,
    probe,
    source,
)
from rewardlab.conversations import Prompt
from rewardlab.errors import InputError
from rewardlab.policies import Generator
from rewardlab.policies.abilities import Continues, Tempered
from rewardlab.report.attack_page import attack_page, outlier_sentence
from rewardlab.rewards import Reward
from rewardlab.rewards.combine import Ensemble
from rewardlab.runs import layout
from rewardlab.runs.folder import RunFolder
from rewardlab.runs.read import read_runs
from rewardlab.storage.atomic import write_atomically
from rewardlab.types import Samples


class Need(NamedTuple):
    """What an attacker asks of the policy, beyond samples."""

    ability: type
    name: str


NEEDS = {
    "high_temperature": Need(Tempered, "temperature"),
    "guided": Need(Continues, "extend"),
}


class Rewards(NamedTuple):
    """The rewards that the flags name; several witnesses count by their mean."""

    reward: Reward
    witness: Reward
    judge: Reward | None
    outliers: Reward | None = None

    def present(self) -> list[Reward]:
        """Return those that there are."""
        return [reward for reward in self if reward is not None]


def run(command: str, argv: Sequence[str]) -> int:
    """Load everything, and only then touch the run folder; attack and print the verdict."""
    flags = parse(argv)
    prompts = distinct_prompts(flags.prompts, flags.held_out, flags.allow_leak)
    identity = _identity(flags)
    _check_differ(flags, identity)
    config = check_folder("attack", flags, prompts)
    policy = open_policy(flags)
    rewards = open_rewards(flags)
    _check_able(flags.attacker, policy)
    sample = probe(policy, rewards.present(), prompts, flags.prompts)
    _check_pixels(flags.attacker, policy, sample)
    _check_tokens(flags.attacker, rewards.reward, sample)
    audit = _audit(flags, policy, rewards, prompts, identity)
    folder = open_folder(flags, config)
    with folder.attempt(["rewardlab", command, *argv]):
        result = audit.run(folder)
        write_page(folder, result)
    print(result.figures["verdict"]["sentence"])
    if "outliers" in result.figures:
        print(outlier_sentence(result.figures["outliers"]))
    print(f"{flags.out}/{layout.ATTACK_PAGE}")
    return 0


def parse(argv: Sequence[str]) -> argparse.Namespace:
    """Return the flags.

    Raises:
        InputError: for a mistake in them.
    """
    parser = audit_parser("attack")
    _add_rewards(parser)
    _add_search(parser)
    add = parser.add_argument
    add("--held-out", help="file of prompts kept for evaluation; none of --prompts may be in it")
    add("--allow-leak", action="store_true", help="attack with them all the same")
    flags = parser.parse_args(argv)
    check_numbers(flags, references=2, n=1, steps=1)
    return flags


def _add_rewards(parser: FlagParser) -> None:
    add = parser.add_argument
    reward = "the reward that is attacked: a folder or an http(s):// URL"
    witness = "the reward that should object; several count by their mean"
    add("--reward", required=True, help=reward)
    add("--witness", required=True, action="append", help=witness)
    add("--judge", help="a reward that decides who is right, read only afterwards")
    add("--outliers", help="folder of a reward whose frozen features tell outliers (MOP)")


def _add_search(parser: FlagParser) -> None:
    add = parser.add_argument
    references = "responses a prompt that everything is measured against"
    add("--attacker", choices=ATTACKERS, default="best_of_n")
    add("--n", type=int, default=16, help="samples a prompt that the attack chooses from")
    add("--references", type=int, default=8, help=references)
    add("--weight", type=float, default=1.0, help="how much the witness counts")
    add("--steps", type=int, default=200, help="optimiser steps of the attacker rl")
    add("--lr", type=float, default=1e-5, help="its learning rate")


def _identity(flags: argparse.Namespace) -> dict[str, Any]:
    """Return what the run's stages are known by, beside the audit's own numbers."""
    outliers = {"outliers": source(flags.outliers)} if flags.outliers else {}
    return {
        **outliers,
        "policy": source(flags.policy),
        "reward": source(flags.reward),
        "witness": [source(location) for location in flags.witness],
        "judge": source(flags.judge) if flags.judge else None,
        "attacker": flags.attacker,
        "max_length": flags.max_length,
        "steps": flags.steps,
        "lr": flags.lr,
    }


def _check_differ(flags: argparse.Namespace, identity: dict[str, Any]) -> None:
    if identity["reward"] in identity["witness"]:
        raise InputError(
            f"--reward and --witness are the same reward ({flags.reward}), so they never disagree. "
            "As witness give one that was trained with another seed or on other data."
        )


def open_rewards(flags: argparse.Namespace) -> Rewards:
    """Load reward, witness and, if they are given, the judge and what tells outliers."""
    witnesses = [open_reward(location, flags) for location in flags.witness]
    witness = witnesses[0]
    if len(witnesses) > 1:
        witness = Ensemble(witnesses)
    reward = open_reward(flags.reward, flags)
    judge = open_reward(flags.judge, flags) if flags.judge else None
    outliers = open_reward(flags.outliers, flags) if flags.outliers else None
    return Rewards(reward, witness, judge, outliers)


def _check_able(attacker: str, policy: Generator) -> None:
    """Refuse an attacker that asks for what the policy cannot do."""
    if attacker in NEEDS and not isinstance(policy, NEEDS[attacker].ability):
        raise InputError(
            f"--attacker {attacker} needs a policy with `{NEEDS[attacker].name}`, which a "
            f"{type(policy).__name__} lacks. Take best_of_n, random_edits or rl."
        )


def _check_pixels(attacker: str, policy: Generator, sample: Samples) -> None:
    """Refuse an attacker of pixels for a policy whose sample is a text."""
    if attacker == "pgd" and not isinstance(sample.outputs, Tensor):
        raise InputError(
            "--attacker pgd climbs the reward's gradient to pixels, and a "
            f"{type(policy).__name__} writes text. Take best_of_n, random_edits, guided or rl."
        )


def _check_tokens(attacker: str, reward: Reward, sample: Samples) -> None:
    """Refuse an attacker of tokens for pictures, or for a reward that embeds no tokens."""
    if attacker != "token_gradient":
        return
    if isinstance(sample.outputs, Tensor):
        raise InputError(
            "--attacker token_gradient swaps tokens of texts, and this policy draws pictures. "
            "Take pgd, best_of_n or rl."
        )
    embedding_parts(reward)


def _audit(
    flags: argparse.Namespace,
    policy: Generator,
    rewards: Rewards,
    prompts: list[Prompt],
    identity: dict[str, Any],
) -> AttackAudit:
    """Return the audit that the flags ask for."""
    accelerator = "gpu" if flags.device.startswith("cuda") else flags.device
    attacker = make_attacker(flags.attacker, policy, flags.n, flags.steps, flags.lr, accelerator)
    return AttackAudit(
        policy,
        rewards.reward,
        rewards.witness,
        prompts,
        judge=rewards.judge,
        attacker=attacker,
        references=flags.references,
        n=flags.n,
        weight=flags.weight,
        seed=flags.seed,
        identity=identity,
        outliers=rewards.outliers,
    )


def write_page(folder: RunFolder, result: AttackResult) -> None:
    """Write attack.html."""
    [run] = read_runs([folder.path])
    page = attack_page(result.figures, result.exploits, result.made_by, result.samples, run)
    write_atomically(folder.path / layout.ATTACK_PAGE, page)
