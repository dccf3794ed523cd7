"""The text half of `make demo-real`: a reward from preferences, and what is made of it.

With `--pairs` the preferences are yours, with `--human` people's choices judge (PandaLM's form),
with `--llama2c` the policy is your small language model. Without files the pairs and the policy are
those of the small embedded world, and no people judge; the output says so.
"""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any, NamedTuple

from real import answers, hunger, hunger_picture, words
from real.files import sha256_of
from real.hunger import PAR
from real.numbers import number_format
from real.remedies import ADVERSARIAL, CALIBRATED, PLAIN, fit_on_smollm2
from real.tellers import taught, teller_prompts
from real.worlds import World, read_world
from rewardlab.cli import main as rewardlab
from rewardlab.rewards import Length, Reward

LENGTH = "length alone"
SMOLLM2 = "plain, on SmolLM2"
CHOOSERS = (PLAIN, CALIBRATED, ADVERSARIAL)
Figures = dict[str, Any]


class Files(NamedTuple):
    """Files of the user's, each of which may be missing.

    Attributes:
        pairs: preferences to fit.
        human: people's choices.
        weights: of a llama2.c model.
        tokenizer: of that model.
    """

    pairs: Path | None = None
    human: Path | None = None
    weights: Path | None = None
    tokenizer: Path | None = None


def run_text(out: Path, files: Files, count: int, seed: int, on_smollm2: bool = False) -> Figures:
    """Run the text half; write and return its figures.

    Args:
        out: folder of runs, figures, picture and report.
        files: the user's.
        count: number of pairs to fit.
        seed: seed of everything.
        on_smollm2: whether to fit a reward on SmolLM2 too, which takes minutes.
    """
    world = read_world(files.pairs, files.human, count, seed)
    print(describe(world, files), flush=True)
    folder = out / "text" / name_of(files, count, seed)
    folder.mkdir(parents=True, exist_ok=True)
    setting = _setting(folder, files, count, seed)
    content: Figures = {"world": describe(world, files)}
    content["rewards"] = _measured(_rewards(setting, world, on_smollm2), world, seed)
    people = _people(content["rewards"])
    content["policies"] = hunger.run_ways(setting, folder, people)
    choosers = {remedy: setting.reward(remedy) for remedy in CHOOSERS}
    content["answers"] = answers.run_answers(choosers, world.held_out, seed)
    (out / "text.json").write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    hunger_picture.draw(out / "hunger.png", content["policies"], people)
    runs = [str(folder / remedy.replace(" ", "_")) for remedy in hunger.REMEDIES]
    rewardlab(["report", *runs, "--out", str(out / "text.html")])
    return content


def tables(content: Figures) -> str:
    """Return the three tables in Markdown: rewards, policies, and answers of SmolLM2."""
    parts = [
        words.table(content["rewards"]),
        hunger.table(content["policies"]["figures"]),
        answers.table(content["answers"]),
    ]
    return "\n\n".join(parts)


def describe(world: World, files: Files) -> str:
    """Return what runs on which files, and what stands in for those that were not given."""
    sentences = [world.name]
    if files.weights is None:
        sentences.append(
            "No --llama2c given, so the policy is the embedded world's model of 0.2 million "
            "parameters."
        )
    else:
        sentences.append(f"The policy is {files.weights.name}.")
    sentences.append(f"MiniLM and SmolLM2 compute in {number_format()} here.")
    return " ".join(sentences)


def name_of(files: Files, count: int, seed: int) -> str:
    """Return the name of the folder of runs, which says what they stand on.

    A file has the beginning of its hash there, since a run that stands is not made again: another
    file of the same name has other runs.

    Example:
        >>> name_of(Files(), 300, 0)
        'embedded-embedded-300-seed0'
    """
    names = []
    for file in (files.pairs, files.weights):
        names.append("embedded" if file is None else f"{file.stem}-{sha256_of(file)[:8]}")
    return "-".join([*names, str(count), f"seed{seed}"])


def _setting(folder: Path, files: Files, count: int, seed: int) -> hunger.Setting:
    """Write the policy's prompts, and return what all ways share."""
    policy = taught(files.weights, files.tokenizer)
    prompts = folder / "prompts.jsonl"
    lines = [json.dumps({"prompt": prompt}) for prompt in teller_prompts(files.weights)]
    prompts.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return hunger.Setting(files.pairs, count, seed, policy, prompts)


def _rewards(setting: hunger.Setting, world: World, on_smollm2: bool) -> dict[str, Reward]:
    rewards: dict[str, Reward] = {LENGTH: Length()}
    for remedy in CHOOSERS:
        rewards[remedy] = setting.reward(remedy)
        print(f"  {remedy}: fitted", flush=True)
    if on_smollm2:
        start = time.monotonic()
        rewards[SMOLLM2] = fit_on_smollm2(world.train, setting.seed)
        print(f"  {SMOLLM2}: fitted in {time.monotonic() - start:.0f} s", flush=True)
    return rewards


def _measured(rewards: dict[str, Reward], world: World, seed: int) -> Figures:
    figures = {}
    for name, reward in rewards.items():
        figures[name] = words.measure(reward, world, seed)
        print(f"  {name}: measured", flush=True)
    return figures


def _people(figures: Figures) -> Figures:
    """Return how often people agree with the reward of each remedy; nothing without people.

    PAR ranks as the plain reward does.
    """
    people = {}
    for remedy in CHOOSERS:
        if "people" in figures[remedy]:
            people[remedy] = figures[remedy]["people"]
    if people:
        people[PAR] = people[PLAIN]
    return people
