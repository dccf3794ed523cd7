"""`rewardlab attack`: attack any reward model, and say whether it was broken."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from rewardlab.attackers import BestOfN, Guided, HighTemperature, PGDAttacker, RandomEdits
from rewardlab.attackers.base import Attacker
from rewardlab.commands.sources import (
    check_numbers,
    config_of,
    distinct_prompts,
    make_parser,
    open_policy,
    open_reward,
    probe,
    source,
    tell,
)
from rewardlab.commands.verdict import Seen, exploits, figures
from rewardlab.data import load_samples, save_samples
from rewardlab.errors import InputError
from rewardlab.mining import candidates
from rewardlab.policies import Policy
from rewardlab.provenance import fingerprint
from rewardlab.report.attack_page import attack_page
from rewardlab.rewards import Reward
from rewardlab.rewards.attack import Attack
from rewardlab.rewards.combine import Ensemble
from rewardlab.rewards.relative import Relative
from rewardlab.rewards.scoring import member_scores
from rewardlab.runs.folder import RunFolder
from rewardlab.seeds import derive
from rewardlab.storage.atomic import write_atomically
from rewardlab.types import Samples

ATTACKERS = ("best_of_n", "high_temperature", "random_edits", "guided", "pgd", "rl")
NEEDS = {"high_temperature": "temperature", "guided": "extend"}


def run(command: str, words: Sequence[str]) -> int:
    """Load everything, and only then touch the run folder; attack, judge, write, and print the
    verdict.
    """
    given = parse(words)
    prompts = distinct_prompts(given.prompts, given.held_out, given.allow_leak)
    config = {"attack": config_of(given) | {"prompts_fingerprint": fingerprint(prompts)}}
    sources: dict[str, Any] = {"policy": source(given.policy), "reward": source(given.reward)}
    sources |= {
        "witness": [source(place) for place in given.witness],
        "judge": source(given.judge) if given.judge else None,
    }
    _check_differ(given, sources)
    RunFolder.check(given.out, config, given.resume)
    policy = open_policy(given)
    rewards = open_rewards(given)
    _check_suits(given.attacker, policy)
    probe(policy, rewards, prompts, given.prompts)
    tell()
    folder = RunFolder.open(given.out, config, given.resume)
    folder.record({"inputs": sources})
    key = {
        **sources,
        "prompts": prompts,
        **{name: getattr(given, name) for name in ("seed", "max_length", "references", "n")},
    }
    key |= {name: getattr(given, name) for name in ("attacker", "weight", "steps", "lr")}
    drawn, stage = draw(folder, given, policy, rewards, prompts, key)
    seen = see(folder, rewards, drawn, key)
    found = figures(seen["attack"], seen["references"], seen["fresh"], given.weight, given.attacker)
    rows, kinds = exploits(seen["attack"], seen["references"], prompts)
    found["taxonomy"] = (
        {name: value for name, value in kinds.as_dict().items() if name != "labels"}
        if kinds
        else None
    )
    for row in rows:
        if row["output"] is None:  # an image
            row["output"] = str((stage / f"{row['row']:06d}.png").relative_to(folder.path))
    finish(folder, {**sources, "attacker": given.attacker, "seed": given.seed}, found, rows, drawn)
    print(f"{found['verdict']['sentence']}\n{given.out}/attack.html")
    return 0


def parse(words: Sequence[str]) -> argparse.Namespace:
    """Return the flags.

    Raises:
        InputError: for a mistake in them.
    """
    parser = make_parser("attack")
    add = parser.add_argument
    add(
        "--reward", required=True, help="the reward that is attacked: a folder or an http(s):// URL"
    )
    add(
        "--witness",
        required=True,
        action="append",
        help="the reward that should object; several count by their mean",
    )
    add("--judge", help="a reward that decides who is right, read only afterwards")
    add("--attacker", choices=ATTACKERS, default="best_of_n")
    add("--n", type=int, default=16, help="samples a prompt that the attack chooses from")
    add(
        "--references",
        type=int,
        default=8,
        help="responses a prompt that everything is measured against",
    )
    add("--weight", type=float, default=1.0, help="how much the witness counts")
    add("--steps", type=int, default=200, help="optimiser steps of the attacker rl")
    add("--lr", type=float, default=1e-5, help="its learning rate")
    add("--held-out", help="file of prompts kept for evaluation; none of --prompts may be in it")
    add("--allow-leak", action="store_true", help="attack with them all the same")
    given = parser.parse_args(words)
    check_numbers(given, references=2, n=1, steps=1)
    return given


def open_rewards(given: argparse.Namespace) -> dict[str, Reward]:
    """Load reward, witness (the mean of several) and, if there is one, the judge."""
    witnesses = [open_reward(place, given) for place in given.witness]
    rewards = {
        "reward": open_reward(given.reward, given),
        "witness": witnesses[0] if len(witnesses) == 1 else Ensemble(witnesses),
    }
    return rewards | ({"judge": open_reward(given.judge, given)} if given.judge else {})


def _check_differ(given: argparse.Namespace, sources: dict[str, Any]) -> None:
    if sources["reward"] in sources["witness"]:
        raise InputError(
            f"--reward and --witness are the same reward ({given.reward}), so they never disagree. As witness give one "
            "that was trained with another seed or on other data."
        )


def _check_suits(attacker: str, policy: Policy) -> None:
    if attacker == "pgd" and policy.dimensions == 1:
        raise InputError(
            f"--attacker pgd climbs the reward's gradient to pixels, and a {type(policy).__name__} writes text. Take "
            "best_of_n, random_edits, guided or rl."
        )
    if attacker in NEEDS and not hasattr(policy, NEEDS[attacker]):
        raise InputError(
            f"--attacker {attacker} needs a policy with `{NEEDS[attacker]}`, which a {type(policy).__name__} lacks. Take "
            "best_of_n, random_edits or rl."
        )


def draw(
    folder: RunFolder,
    given: argparse.Namespace,
    policy: Policy,
    rewards: dict[str, Reward],
    prompts: Sequence[str],
    key: dict[str, Any],
) -> tuple[dict[str, Samples], Path]:
    """Return references, fresh samples and the attack's outputs, each kept as a stage; and where
    the last are kept.
    """

    def kept(name: str, make: Any) -> Path:
        return (
            folder.stage(name, key, lambda stage: save_samples(stage / "samples", make()))
            / "samples"
        )

    def plain(name: str, count: int) -> Samples:
        return load_samples(
            kept(name, lambda: candidates(policy, prompts, count, derive(given.seed, name)))
        )

    references = plain("references", given.references)
    fresh = plain("fresh", given.n)

    def attacked() -> Samples:
        target, witness = (Relative(rewards[name], references) for name in ("reward", "witness"))
        attack = Attack(target, witness, weight=given.weight)
        attacker = make_attacker(given, policy, folder.scratch("attack", key))
        return attacker(policy, attack, prompts, derive(given.seed, "attack"))

    place = kept("attack", attacked)
    return {"references": references, "fresh": fresh, "attack": load_samples(place)}, place


def make_attacker(given: argparse.Namespace, policy: Policy, scratch: Path) -> Attacker:
    """Return the attacker that the flags ask for. The trained one keeps its checkpoints in
    `scratch`.
    """
    if given.attacker == "rl":
        return _trained(given, policy, scratch)
    makers: dict[str, Any] = {
        "best_of_n": BestOfN,
        "high_temperature": partial(HighTemperature, 1.5),
        "random_edits": partial(RandomEdits, 0.2, None),
        "pgd": PGDAttacker,
    }
    return (
        Guided(candidates=given.n)
        if given.attacker == "guided"
        else makers[given.attacker](n=given.n)
    )  # type: ignore[no-any-return]


def _trained(given: argparse.Namespace, policy: Policy, scratch: Path) -> Attacker:
    from pytorch_lightning import Trainer

    from rewardlab.attackers import RLAttacker
    from rewardlab.commands.parsing import quiet
    from rewardlab.training.ppo import PPO

    quiet()
    image = (
        policy.dimensions != 1
    )  # log-probabilities are means over dimensions, and an image's nats are many
    clip, kl_weight = (1e-4, 0.0) if image else (0.2, 0.01)
    loop = partial(
        PPO, clip=clip, kl_weight=kl_weight, optimizer=partial(torch.optim.AdamW, lr=given.lr)
    )
    accelerator = "gpu" if given.device.startswith("cuda") else given.device
    trainer = partial(
        Trainer, max_steps=given.steps, max_epochs=given.steps, accelerator=accelerator, devices=1
    )
    return RLAttacker(loop, trainer, collect="fresh", per_prompt=given.n, folder=scratch)


def see(
    folder: RunFolder, rewards: dict[str, Reward], drawn: dict[str, Samples], key: dict[str, Any]
) -> dict[str, Seen]:
    """Score all samples with all rewards, as they are and relative to the references; kept as a
    stage.
    """

    def write(stage: Path) -> None:
        scores: dict[str, Any] = {side: {"raw": {}, "relative": {}} for side in drawn}
        for name, reward in rewards.items():
            relative = Relative(reward, drawn["references"])
            for side, samples in drawn.items():
                members = member_scores(relative, samples)
                scores[side]["relative"][name] = members.mean(1).tolist()
                scores[side]["raw"][name] = _raw(relative, samples.prompts, members).tolist()
        (stage / "scores.json").write_text(json.dumps(scores), encoding="utf-8")

    stage = folder.stage("scores", key, write)
    scores = json.loads((stage / "scores.json").read_text(encoding="utf-8"))
    return {side: Seen.of(drawn[side], **scores[side]) for side in drawn}


def _raw(relative: Relative, prompts: Sequence[str], members: Tensor) -> Tensor:
    """Return the reward's own scores [B] from the relative ones of its members [B, M]."""
    place = {prompt: i for i, prompt in enumerate(relative.prompts)}
    means = torch.as_tensor(relative.means).cpu()
    deviations = torch.as_tensor(relative.deviations).cpu()
    return (members * deviations + means[[place[prompt] for prompt in prompts]]).mean(1)


def finish(
    folder: RunFolder,
    made_by: dict[str, Any],
    found: dict[str, Any],
    rows: list[dict[str, Any]],
    drawn: dict[str, Samples],
) -> None:
    """Write results.json, exploits.jsonl and attack.html."""
    for row in rows:
        row["provenance"] = made_by | {"sample_seed": row.pop("sample_seed")}
    write_atomically(
        folder.path / "exploits.jsonl",
        "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows),
    )
    folder.results(found)
    write_atomically(folder.path / "attack.html", attack_page(found, rows, made_by, drawn))
