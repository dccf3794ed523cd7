"""A rehearsal of rounds: every stage on a few rows, in a temporary folder, and what it would take.

The rehearsal changes the rounds that it is given and trains their models; nothing else is to be
done with them.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

from torch import nn

from rewardlab.data.long_rows import fitting
from rewardlab.data.prompt_data import numbered
from rewardlab.data.splits import Part
from rewardlab.errors import AlikeError
from rewardlab.evaluation import Guard
from rewardlab.evaluation.prompts import in_turn
from rewardlab.networks.shells import GIB
from rewardlab.rounds import few, lengths
from rewardlab.rounds.base import Rounds
from rewardlab.runs.folder import RunFolder
from rewardlab.runs.layout import (
    ANCHORS,
    CANDIDATES,
    NEGATIVES,
    POOL,
    REFERENCES,
    SAMPLES,
    STATE_FILE,
    name_of_title,
    parse_stage_name,
)

MORE = 16  # prompts where the scores of few are alike
ADAM_COPIES = 2  # floats that AdamW keeps for each trained one
ROWS_HERE = {  # of a rehearsal, about
    NEGATIVES: few.ROWS,
    POOL: few.OUTPUTS,
    SAMPLES: few.OUTPUTS,
    REFERENCES: 2 * few.PROMPTS,
    ANCHORS: 2 * few.PROMPTS,
}
DRAWN_ONCE = (REFERENCES, ANCHORS)  # before or after all rounds
PARTS: dict[Part, str] = {"train": "training rows", "held_out": "held-out rows"}


class Line(NamedTuple):
    """A line of the table: a part, and what is to be known of it."""

    name: str
    text: str


class Planned(NamedTuple):
    """What the real run draws.

    Attributes:
        rounds: how many rounds there are, 1 at least.
        rows: how many rows each of its sampling stages has, by the stage's name.
    """

    rounds: int
    rows: dict[str, int]


def rehearse(rounds: Any, folder: Path) -> list[Line]:
    """Run every stage on a few rows, and return the table.

    Args:
        rounds: as they were built; they are of no use afterwards.
        folder: an empty one; it holds the rehearsal's run.

    Raises:
        InputError: if something refuses, as the run itself would.
    """
    lines = _lengths(rounds) + _rows(rounds) + _sizes(rounds)
    planned = _planned(rounds)
    prompts: Sequence[Any] = rounds.prompts
    shrink(rounds)
    run = RunFolder.open(folder / "run", {"rehearsal": 1})
    try:
        rounds.run(run)
    except AlikeError:  # which so few rows of an untrained reward may do
        widen(rounds, prompts)
        run = RunFolder.open(folder / "again", {"rehearsal": 2})
        lines += _run_again(rounds, run)
    return [*lines, *_stages(run), *_disk(run, planned)]


def _run_again(rounds: Rounds, run: RunFolder) -> list[Line]:
    """Rehearse on more rows; say so where their scores are alike too, as the real run's may be."""
    try:
        rounds.run(run)
    except AlikeError as error:
        text = f"alike on {MORE} prompts after one step, so later stages were not tried: {error}"
        return [Line("scores", text)]
    return []


def shrink(rounds: Any) -> None:
    """Make rounds of a few rows and single steps, in place."""
    rounds.prompts = rounds.prompts[: few.PROMPTS]
    rounds.rounds = min(rounds.rounds, 1)
    rounds.evaluation = replace(rounds.evaluation, samples=few.OUTPUTS)
    rounds.fit = replace(rounds.fit, trainer=few.one_step(rounds.fit.trainer))
    post_train = replace(rounds.post_train, groups=few.PROMPTS, batch_size=few.PROMPTS)
    post_train.trainer = few.one_step(post_train.trainer)
    post_train.callbacks = [_small_callback(callback) for callback in post_train.callbacks]
    rounds.post_train = post_train
    rounds.shrink()


def widen(rounds: Any, prompts: Sequence[Any]) -> None:
    """Give shrunk rounds more rows to score, in place."""
    rounds.prompts = in_turn(prompts[:MORE], MORE)
    rounds.post_train = replace(rounds.post_train, groups=MORE)
    rounds.widen(MORE)


def _small_callback(callback: Any) -> Any:
    """Return a guard that reads few samples; other callbacks stay."""
    if isinstance(callback, Guard):
        callback = copy.copy(callback)
        callback.samples = few.OUTPUTS
    return callback


def _lengths(rounds: Any) -> list[Line]:
    """Say how many prompts there are; those that do not fit the context are refused or dropped."""
    prompts = numbered(rounds.prompts)
    fits = fitting(prompts, [rounds.policy], rounds.post_train.long_rows, "prompts")
    text = f"{len(prompts)}, of which {len(fits)} fit the policy's context"
    longest = lengths.of_prompts(rounds.policy, fits.prompts)
    return [Line("prompts", f"{text}; {longest}" if longest else text)]


def _rows(rounds: Rounds) -> list[Line]:
    """Say how long the texts are that the reward is fitted on, in its tokens."""
    lines = []
    for part, name in PARTS.items():
        noun = rounds.fit_rows(part)
        if noun is None:
            continue
        longest = lengths.of_rows(rounds.fitted()[0], noun)
        if longest:
            lines.append(Line(name, f"{len(noun)}; {longest}"))
    return lines


def _sizes(rounds: Any) -> list[Line]:
    """Say how large the models are, and what training them keeps in memory beside activations."""
    lines = []
    parts = {"policy": rounds.policy}
    for number, reward in enumerate(rounds.fitted()):
        parts[f"reward {number}" if number else "reward"] = reward
    for name, part in parts.items():
        lines.append(Line(name, f"{type(part).__name__}, {size_of(part)}"))
    return lines


def size_of(part: nn.Module) -> str:
    """Return how many weights a model has, and what training it keeps in memory."""
    weights = list(part.parameters())
    trained = [weight for weight in weights if weight.requires_grad]
    gradients = _bytes(trained)
    held = _bytes(weights)
    total = held + gradients * (1 + ADAM_COPIES)
    return (
        f"{_count(weights):,} weights, {_count(trained):,} trained: {held / GIB:.2f} GiB, in "
        f"training {total / GIB:.2f} GiB with gradients and AdamW, beside activations"
    )


def _count(weights: Sequence[nn.Parameter]) -> int:
    return sum(weight.numel() for weight in weights)


def _bytes(weights: Sequence[nn.Parameter]) -> int:
    return sum(weight.nbytes for weight in weights)


def _planned(rounds: Any) -> Planned:
    """Return what the real run draws."""
    post_train = rounds.post_train
    groups = post_train.groups or len(rounds.prompts)
    rows = {SAMPLES: rounds.evaluation.samples, CANDIDATES: groups * post_train.candidates}
    rows |= rounds.draw_counts()
    return Planned(max(rounds.rounds, 1), rows)


def _stages(run: RunFolder) -> list[Line]:
    """Say what each stage took here: seconds and peak memory."""
    lines = []
    for title, entry in run.timing().items():
        if not name_of_title(title) or "seconds" not in entry:
            continue
        seconds = entry["seconds"]
        memory = entry["peak_memory_mib"]
        text = f"{seconds:6.1f} s on a few rows, peak {memory:,.0f} MiB"
        gpu_memory = entry.get("peak_gpu_mib")
        if gpu_memory is not None:
            text += f", GPU {gpu_memory:,.0f} MiB"
        lines.append(Line(name_of_title(title), text))
    return lines


def _disk(run: RunFolder, planned: Planned) -> list[Line]:
    """Estimate the run's size on disk: rows as planned, weights of each round, and checkpoints."""
    of_each_round = 0.0
    of_once = 0.0
    of_weights = 0.0
    for stage in run.stages.glob("*-????????"):
        kind = parse_stage_name(name_of_title(stage.name)).stage
        size = _size_on_disk(stage)
        if stage.joinpath(STATE_FILE).exists():
            of_weights += size
        elif kind in DRAWN_ONCE:
            of_once += size * _growth(kind, planned)
        else:
            of_each_round += size * _growth(kind, planned)
    whole = of_once + planned.rounds * (of_each_round + of_weights)
    # the last two checkpoints, which go when their stage stands
    checkpoints = 2 * (1 + ADAM_COPIES) * of_weights
    text = (
        f"about {whole / GIB:.2f} GiB of stages, and {checkpoints / GIB:.2f} GiB of checkpoints "
        "while it trains; the exported policy and reward come on top"
    )
    return [Line("disk", text)]


def _growth(kind: str, planned: Planned) -> float:
    """Return how many times as large a stage's rows are in the real run; 0 for other stages."""
    if kind not in planned.rows:
        return 0.0
    return planned.rows[kind] / ROWS_HERE.get(kind, few.PROMPTS)


def _size_on_disk(folder: Path) -> int:
    return sum(path.lstat().st_size for path in folder.rglob("*"))
