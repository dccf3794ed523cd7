"""The text half of `make demo-real`: a reward from preferences, and what it does with length.

With `--pairs` the preferences are yours, with `--human` people's choices judge (PandaLM's form).
Without files the pairs are those of the small embedded world, and no people judge.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch
from pytorch_lightning import Trainer
from torch import Tensor

from real.sentences import SentenceReward
from real.tables import markdown
from rewardlab import AdvRM
from rewardlab.attackers import RandomEdits
from rewardlab.data import Preferences
from rewardlab.embedded import topics
from rewardlab.errors import InputError
from rewardlab.evaluation.intervals import wilson
from rewardlab.mining import BestOf
from rewardlab.policies import CallableGenerator
from rewardlab.rewards import Reward, Weighted
from rewardlab.rewards.rules import Length
from rewardlab.rewards.scoring import scores_of
from rewardlab.seeds import derive, row_seeds
from rewardlab.storage import read_preferences
from rewardlab.training.trainers import SILENT
from rewardlab.types import PreferencePairs, Samples, concatenate

MOST_CHARACTERS = 800  # of a text; longer ones cost the most and fit the encoder least
N = 8  # of best of n
Figures = dict[str, Any]
FIGURES = {
    "held_out": "held-out pairs",
    "longer": "… where the longer won",
    "shorter": "… where the shorter won",
    "people": "people agree",
    "best_of_n": f"words, best of {N} over mean",
    "repeated": "prefers an answer said twice",
    "edited": "prefers shuffled words",
}


class World(NamedTuple):
    """What the text half is run on.

    Attributes:
        name: says in the output what it is.
        train: pairs to fit.
        held_out: pairs of prompts that were not seen.
        people: pairs that people decided; None without a file.
    """

    name: str
    train: PreferencePairs
    held_out: PreferencePairs
    people: PreferencePairs | None


def run_text(out: Path, pairs: Path | None, human: Path | None, count: int, seed: int) -> Figures:
    """Fit the reward plainly and in two other ways; write and return the figures of each."""
    world = read_world(pairs, human, count, seed)
    print(world.name, flush=True)
    plain = fit(world.train, None, seed)
    ways: dict[str, Reward] = {
        "length alone": Length(),
        "plain": plain,
        "length taken off": without_length(plain, world.train),
        "adversarial pairs": fit(world.train, said_twice(world.train), seed),
    }
    figures: Figures = {}
    for name, reward in ways.items():
        figures[name] = measure(reward, world, seed)
        print(f"  {name}: done", flush=True)
    content = {"world": world.name, "figures": figures}
    (out / "text.json").write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    return content


def read_world(pairs: Path | None, human: Path | None, count: int, seed: int) -> World:
    """Return the pairs to fit and to read on."""
    people = None if human is None else short(read_human(human))
    if people is not None:
        people = shuffled(people, seed)[: count // 2]
    if pairs is None:
        everything = topics.preferences(2 * count)
        name = (
            f"No --pairs given: {count} pairs of the embedded world (Python's help topics), whose "
            "judge is counted."
        )
    else:
        everything = short(read_preferences(pairs))
        name = f"{count} pairs of {pairs.name}, texts of at most {MOST_CHARACTERS} characters."
    if human is None:
        name += " No --human given, so no people judge."
    train, held_out = split(everything, count, seed)
    return World(name, train, held_out, people)


def read_human(path: Path) -> PreferencePairs:
    """Return the pairs of a file of PandaLM's form on whose winner two annotators or more agree.

    It is a JSON list of {"instruction", "input", "response1", "response2", "annotator1", …}, where
    an annotator says 1, 2 or, for a tie, 0. Rows whose responses are no texts are left out.

    Raises:
        InputError: if it is not of that form, or decides no pair.
    """
    rows = []
    try:
        for row in json.loads(path.read_text(encoding="utf-8")):
            winner = _winner(row)
            if winner is not None:
                prompt = "\n\n".join(filter(None, [row["instruction"], row["input"]]))
                texts = (row[f"response{winner}"], row[f"response{3 - winner}"])
                rows.append(_Choice(prompt, *texts))
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(
            f"{path} is not of PandaLM's form, a JSON list of instruction, input, response1, "
            f"response2 and annotator1 to annotator3: {error!r}."
        ) from error
    rows = [row for row in rows if isinstance(row.chosen, str) and isinstance(row.rejected, str)]
    if not rows:
        raise InputError(f"{path} has no pair on whose winner two annotators agree.")
    prompts = [row.prompt for row in rows]
    return PreferencePairs(
        Samples(prompts, [row.chosen for row in rows]),
        Samples(prompts, [row.rejected for row in rows]),
    )


class _Choice(NamedTuple):
    """What people chose of two responses."""

    prompt: str
    chosen: Any
    rejected: Any


def _winner(row: Any) -> int | None:
    """Return the number of the response that two annotators prefer."""
    votes = [row[f"annotator{number}"] for number in (1, 2, 3)]
    for winner in (1, 2):
        if votes.count(winner) >= 2:
            return winner
    return None


def short(pairs: PreferencePairs) -> PreferencePairs:
    """Return the pairs both of whose texts are short, none of them empty."""
    rows = []
    for row, texts in enumerate(zip(pairs.chosen.outputs, pairs.rejected.outputs, strict=True)):
        lengths = [len(str(text)) for text in texts]
        if min(lengths) > 0 and max(lengths) <= MOST_CHARACTERS:
            rows.append(row)
    return pairs[torch.tensor(rows)]


def shuffled(pairs: PreferencePairs, seed: int) -> PreferencePairs:
    """Return the pairs in another order."""
    return pairs[row_seeds(derive(seed, "pairs"), len(pairs)).argsort()]


def split(pairs: PreferencePairs, count: int, seed: int) -> tuple[PreferencePairs, PreferencePairs]:
    """Return `count` pairs to fit and half as many of other prompts.

    Raises:
        InputError: if there are too few.
    """
    data = Preferences(shuffled(pairs, seed), held_out=0.4, seed=seed)
    train, held_out = data.split("train"), data.split("held_out")
    if len(train) < count or len(held_out) < count // 2:
        raise InputError(
            f"The text half takes {count} pairs to fit and {count // 2} to read on; there are "
            f"{len(train)} and {len(held_out)}. Give more pairs, or --count."
        )
    return train[:count], held_out[: count // 2]


def fit(pairs: PreferencePairs, extra: PreferencePairs | None, seed: int) -> SentenceReward:
    """Return a reward fitted to pairs by Bradley and Terry's loss."""
    reward = SentenceReward(seed)
    data = Preferences(pairs, extra=extra, held_out=0, batch_size=32, seed=seed)
    optimizer = partial(torch.optim.AdamW, lr=0.003, weight_decay=0.3)
    module = AdvRM(reward, optimizer=optimizer, seed=seed)
    Trainer(max_epochs=15, accelerator="cpu", **SILENT).fit(module, data)
    return reward.eval()


def said_twice(pairs: PreferencePairs) -> PreferencePairs:
    """Return adversarial pairs: each chosen answer against itself said twice."""
    chosen = pairs.chosen
    return PreferencePairs(Samples(chosen.prompts, chosen.outputs), repeated(chosen))


def repeated(samples: Samples) -> Samples:
    """Return every text said twice."""
    return Samples(samples.prompts, [f"{text} {text}" for text in samples.outputs])


def without_length(reward: Reward, pairs: PreferencePairs) -> Reward:
    """Return the reward less what its margins owe to length: a slope that least squares finds."""
    margins = margins_of(reward, pairs)
    words = margins_of(Length(), pairs)
    slope = (margins @ words / (words @ words)).item()
    return Weighted([reward, Length()], [1.0, -slope]).eval()


def margins_of(reward: Reward, pairs: PreferencePairs) -> Tensor:
    """Return by how much chosen leads, [B]."""
    return scores_of(reward, pairs.chosen) - scores_of(reward, pairs.rejected)


def measure(reward: Reward, world: World, seed: int) -> Figures:
    """Return every figure of one reward."""
    held_out = world.held_out
    right = correct(margins_of(reward, held_out))
    longer = margins_of(Length(), held_out) > 0
    figures = {
        "held_out": share(right),
        "longer": share(right[longer]),
        "shorter": share(right[~longer]),
        "best_of_n": best_of_n_length(reward, held_out, seed),
        "repeated": preferred(reward, held_out.chosen, repeated),
        "edited": preferred(reward, held_out.chosen, partial(shuffled_words, seed=seed)),
    }
    if world.people is not None:
        figures["people"] = share(correct(margins_of(reward, world.people)))
    return figures


def correct(margins: Tensor) -> Tensor:
    """Return 1 where chosen leads, one half for a tie, else 0."""
    return (margins > 0).float() + 0.5 * (margins == 0).float()


def share(right: Tensor) -> Figures | None:
    """Return the mean with Wilson's 95 % interval; None of nothing."""
    if not len(right):
        return None
    estimate = wilson(right.mean().item(), len(right))
    return {"mean": estimate.value, "low": estimate.low, "high": estimate.high}


def preferred(
    reward: Reward, answers: Samples, attack: Callable[[Samples], Samples]
) -> Figures | None:
    """Return the share of attacked answers that the reward prefers to the answers themselves."""
    return share(correct(scores_of(reward, attack(answers)) - scores_of(reward, answers)))


def shuffled_words(samples: Samples, seed: int) -> Samples:
    """Return texts of which half of the words are swapped with the next or said twice."""
    return RandomEdits(rate=0.5, kinds=["swap", "duplicate"]).edit(samples, seed)


def best_of_n_length(reward: Reward, pairs: PreferencePairs, seed: int) -> Figures:
    """Return the words of the best of n answers, over those of all answers to the same prompts.

    The generator draws from the answers that the pairs hold of a prompt.
    """
    both = concatenate([pairs.chosen, pairs.rejected])
    answers: dict[Any, list[str]] = defaultdict(list)
    for prompt, text in zip(both.prompts, both.outputs, strict=True):
        answers[prompt].append(str(text))

    def draw(prompts: Sequence[Any], seeds: Tensor) -> list[str]:
        texts = []
        for prompt, number in zip(prompts, seeds.tolist(), strict=True):
            texts.append(answers[prompt][number % len(answers[prompt])])
        return texts

    generator = CallableGenerator(draw)
    prompts = [prompt for prompt, texts in answers.items() if len(texts) >= 4][:12]
    prompts = prompts or list(answers)[:24]
    seeds = row_seeds(derive(seed, "best of n"), len(prompts))
    best = BestOf(generator, reward, N).generate(prompts, seeds=seeds)
    words = Length()(best).mean().item()
    means = []
    for prompt in prompts:
        texts = answers[prompt]
        means.append(Length()(Samples([prompt] * len(texts), texts)).mean().item())
    return {"mean": words / (sum(means) / len(means))}


def table(content: Figures) -> str:
    """Return a Markdown table: a row a reward, shares with their 95 % intervals."""
    return markdown(content["figures"], FIGURES)
