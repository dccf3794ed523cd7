"""The menu side by side: what postpones the fall of gold, at what height, and at what cost.

Each arm is a world's base with fragments of `configs/menu/` and flags laid over it
(`menu_worlds.py`); no algorithm is in here. Gold only measures. Runs that stand are not made again,
and `--hours` ends between two runs.

    python experiments/studies/menu.py --arms none kl0.25 online --seeds 2 3 4 --out runs/menu
    python experiments/studies/menu.py --world digits --out runs/menu-digits
    python experiments/studies/menu.py --world stories --llama2c model.bin tokenizer.bin \\
        --models .cache/models --out runs/menu-stories
    python experiments/studies/menu.py --world faces --out runs/menu-faces

The worlds: "topics", the hardening study's base (`configs/adv_rm/topics.yaml`, `study.yaml`);
"long", the same for three times as many steps; "digits", pictures (`configs/gan_rm/digits.yaml`)
whose generator climbs GAN-RM's reward by ReFL, DPO or PPO; "stories", a small language model of
other people whose judge, SmolLM2, nobody here trained; and "faces", a pretrained generator whose
judge is an expression net of other people. Writes a run folder an arm and seed,
`runs.csv`, `curves.csv` (a row a reading), `table.md` and `menu.png` (gold against √KL, or against
the steps). Runs that a `runs.csv` of earlier sittings holds (`--known`) count and are not made
again, but for one whose reward or policy another arm takes. Settings were chosen on seeds 0 and 1; report others.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

import torch
from hardening import base_deviation, readings_of, texts_of_run, variety
from menu_table import (
    Curve,
    Measured,
    Row,
    figures_of,
    joined_runs,
    known_runs,
    table,
    write,
)
from menu_worlds import (
    ANCHOR,
    CONFIGS,
    ITEMS,
    PLAIN,
    STORIES,
    TOPICS,
    WORLDS,
    World,
)
from side_by_side import made

from rewardlab.evaluation.restricted import first_fall
from rewardlab.evaluation.stability import gold_at_kl
from rewardlab.runs import Run, read_runs

__all__ = [
    "ARMS",
    "CONFIGS",
    "HORIZON",
    "ITEMS",
    "MAIN",
    "PLAIN",
    "WORLDS",
    "Curve",
    "Measured",
    "Row",
    "base_deviation",
    "command",
    "figures_of",
    "joined_runs",
    "known_runs",
    "made",
    "measure",
    "needed",
    "read_runs",
    "readings_of",
    "table",
    "with_sources",
    "write",
]

ARMS = TOPICS.arms
MAIN = TOPICS.main
HORIZON = TOPICS.horizon
WINDOW = 2
Figures = dict[str, Any]


def command(
    arm: str, seed: int, out: Path, more: Sequence[str] = (), world: World = TOPICS
) -> list[str]:
    """Return the command line of one run, which anyone can repeat by hand."""
    chosen = world.arms[arm]
    names = (*world.files, *chosen.files, *world.last)
    files = [f"--config={CONFIGS / name}" for name in names]
    flags = [f"--experiment.seed={seed}", *world.flags, *chosen.flags]
    if chosen.takes is not None:
        taken = out / f"{chosen.of}-{seed}" / chosen.takes
        flags.append(f"--experiment.{chosen.takes}_path={taken}")
    folders = [f"--out={out / f'{arm}-{seed}'}", f"--stages={out / 'stages'}", "--resume"]
    return ["rounds", *files, *flags, *more, *folders]


def measure(arm: str, seed: int, folder: Path, world: World = TOPICS) -> Measured:
    """Read a finished run."""
    run = read_runs([folder])[0]
    last = max(int(number) for number in run.results["rounds"])
    readings = readings_of(run, last, world.gold)
    start = readings[0]["gold"]
    unit = base_deviation(run) if world.unit == "σ" else 1.0
    gold = torch.tensor([(reading["gold"] - start) / unit for reading in readings])
    steps = tuple(reading["step"] for reading in readings)
    kl = [reading.get("kl") for reading in readings]
    row = Row(
        arm=arm,
        seed=seed,
        fall=first_fall(steps, gold, margin=world.margin, window=WINDOW),
        strict_fall=first_fall(steps, gold, window=WINDOW),
        peak=gold.unfold(0, WINDOW, 1).mean(1).max().item(),
        **at_nats(kl, gold),
        below=(gold[1:] < 0).float().mean().item(),
        end=gold[-WINDOW:].mean().item(),
        end_kl=kl[-1],
        **costs(folder, world),
        **judged(run, last, world),
    )
    return Measured(row, Curve(gold.tolist(), kl, steps))


def at_nats(kl: Sequence[float | None], gold: torch.Tensor) -> Figures:
    """Return gold where the KL first reaches 5 and 10 nats; None if it never does."""
    if None in kl:
        return {"at_5": None, "at_10": None}
    nats = torch.tensor(kl)
    return {"at_5": gold_at_kl(nats, gold, 5.0), "at_10": gold_at_kl(nats, gold, 10.0)}


def costs(folder: Path, world: World) -> Figures:
    """Return seconds and generations: the rounds' own, or those of the stages that are timed."""
    timing = json.loads((folder / "timing.json").read_text(encoding="utf-8"))
    if not world.timed:
        cost = timing["cost"]
        seconds = cost["seconds"]["all"] or float("nan")
        return {"seconds": seconds, "generations": cost["generations"]["all"]}
    stages = [stage for name, stage in timing.items() if f"-{world.timed}-" in name]
    return {"seconds": sum(stage["seconds"] for stage in stages), "generations": None}


def judged(run: Run, number: int, world: World) -> Figures:
    """Return what the judges say after training, and the variety of texts where none says it."""
    said = run.results["rounds"][str(number)]["judged"]
    figures = {name: said[judge]["mean"] for name, judge in world.judged.items()}
    if "variety" not in figures:
        figures["variety"] = variety(texts_of_run(run, number))
    return figures


def pretrained_flags(
    world: World, models: Path | None, files: Sequence[Path] | None
) -> list[str] | None:
    """Return flags of all arms of a world on pretrained networks; None, having said why, if it lacks any.

    Args:
        world: with the names of its weights, none for the worlds that need no pretrained network.
        models: folder of the pretrained weights; by default that of `make models`.
        files: weights and tokenizer of a llama2.c model, for the stories.
    """
    if not world.weights:
        return []
    if models is not None:
        os.environ["REWARDLAB_MODELS"] = str(models)
    sys.path.append(str(Path(__file__).parents[1]))  # `real`, whose parts the configs name
    from real.files import FILES, is_installed

    missing = [FILES[name].package for name in world.weights if not is_installed(name)]
    if missing:
        print(f"Skipped: it needs {', '.join(missing)} (`make models`, or --models FOLDER).")
        return None
    return story_flags(files) if world is STORIES else []


def story_flags(files: Sequence[Path] | None) -> list[str] | None:
    """Return the flags of all arms of the stories; None, having said why, without a story teller."""
    if files is None:
        print(
            "The stories are skipped: they need a story teller, --llama2c WEIGHTS TOKENIZER, such "
            "as stories260K.bin and tok512.bin."
        )
        return None
    from real.tellers import taught

    return [f"--experiment.policy_path={taught(*files)}"]


def parse() -> argparse.Namespace:
    """Return the command line's options."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--world", choices=WORLDS, default="topics")
    parser.add_argument("--arms", nargs="+", metavar="ARM", help="of the world; its main ones")
    parser.add_argument("--seeds", type=int, nargs="+", default=[2, 3, 4, 5, 6])
    parser.add_argument("--out", type=Path, help="runs/menu, or runs/menu-WORLD")
    parser.add_argument("--hours", type=float, default=float("inf"), help="begin no run after")
    parser.add_argument(
        "--known", type=Path, nargs="+", default=(), help="runs.csv of earlier sittings"
    )
    parser.add_argument("--models", type=Path, help="folder of `make models`")
    parser.add_argument(
        "--llama2c",
        type=Path,
        nargs=2,
        metavar=("WEIGHTS", "TOKENIZER"),
        help="the two files of a llama2.c model, for the stories",
    )
    parser.add_argument("flags", nargs="*", help="flags of `rewardlab rounds` for every arm")
    options = parser.parse_args()
    arms = WORLDS[options.world].arms
    unknown = [arm for arm in options.arms or () if arm not in arms]
    if unknown:
        parser.error(f"{options.world} has no arm {unknown[0]!r}; it has {', '.join(arms)}.")
    return options


def with_sources(arms: Sequence[str], world: World) -> list[str]:
    """Return the arms, each behind the one whose reward or policy it takes."""
    ordered = []
    for arm in arms:
        if world.arms[arm].takes is not None:
            ordered.append(world.arms[arm].of)
        ordered.append(arm)
    return list(dict.fromkeys(ordered))


def needed(
    arms: Sequence[str], seeds: Sequence[int], known: Collection[tuple[str, int]], world: World
) -> set[tuple[str, int]]:
    """Return the runs whose folder an arm takes that is still to be made, known or not."""
    runs = set()
    for arm in arms:
        if world.arms[arm].takes is None:
            continue
        for seed in seeds:
            if (arm, seed) not in known:
                runs.add((world.arms[arm].of, seed))
    return runs


def main() -> int:
    """Run all arms and seeds, and write the tables after each."""
    options = parse()
    world = WORLDS[options.world]
    flags = pretrained_flags(world, options.models, options.llama2c)
    if flags is None:
        return 0
    more = [*flags, *options.flags]
    out = options.out or Path("runs/menu" if world is TOPICS else f"runs/menu-{options.world}")

    def command_of(arm: str, seed: int) -> list[str]:
        return command(arm, seed, out, more, world)

    measured = joined_runs(options.known, world)
    known = {(entry.row.arm, entry.row.seed) for entry in measured}
    if measured:
        out.mkdir(parents=True, exist_ok=True)
        write(out, measured, world)
    arms = with_sources(options.arms or world.main, world)
    done = known - needed(arms, options.seeds, known, world)
    for run in made(arms, options.seeds, out, command_of, options.hours, done):
        if run.arm == ANCHOR or (run.arm, run.seed) in known:
            continue  # an anchor is no RLHF, so nothing is compared
        measured.append(measure(*run, world))
        write(out, measured, world)
    print(table([entry.row for entry in measured], world))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
