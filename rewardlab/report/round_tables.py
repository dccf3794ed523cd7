"""Make the tables of what happened in rounds: fits, attacks, and stability during training."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from rewardlab.report.figures import MISSING, sig
from rewardlab.report.held_out import held_out_sentence
from rewardlab.report.markup import table
from rewardlab.report.rows import Row
from rewardlab.runs.read import at

FIT_FIGURES = ("val/auc", "val/ranking", "val/calibration_error", "val/disagreement")
FUNNEL_STEPS = ("generated", "gated", "disagreeing", "kept")


class Fit(NamedTuple):
    """How well a reward was fitted.

    Attributes:
        name: the reward's name in its round.
        cells: its figures, as text.
    """

    name: str
    cells: tuple[str, ...]


class Stability(NamedTuple):
    """How long a judge held during the training of a round.

    Attributes:
        row: the round's row.
        judge: the judge's name.
        figures: what results.json holds of it.
    """

    row: Row
    judge: str
    figures: Any


def reward_table(rows: Sequence[Row]) -> str:
    """Return how well each reward was fitted; rewards that runs share come once."""
    owners: dict[Fit, list[str]] = {}
    meanings: dict[str, None] = {}
    for row in rows:
        rewards = at(row.figures, "reward")
        for name in sorted(rewards, key=lambda name: name != "first"):
            fit = _fit(name, rewards[name])
            owners.setdefault(fit, []).append(row.label)
            meaning = rewards[name].get("meaning", "not said")
            meanings[str(meaning)] = None
    lines = []
    for fit, labels in owners.items():
        who = _who(labels, len(rows))
        lines.append([f"{who}: {fit.name}", *fit.cells])
    caption = (
        f"On held-out data. {_held_out(rows)}AUC: targets against generated samples. Ranking: rank "
        "correlation between two halves of the reward's heads on the generator's own samples; near "
        "0, the order of candidates is noise. Disagreement: standard deviation between heads. "
        f"What a score estimates: {'; '.join(meanings)}."
    )
    head = ["reward", "AUC", "ranking", "calibration error", "disagreement", "epochs"]
    return table(head, lines, caption)


def _held_out(rows: Sequence[Row]) -> str:
    """Say how many samples each run holds out, once if they say the same."""
    sentences: dict[str, None] = {}
    for row in rows:
        if row.step is not None:
            sentences[held_out_sentence(row.step.run)] = None
    said = " ".join(filter(None, sentences))
    return f"{said} " if said else ""


def _fit(name: str, figures: Mapping[str, Any]) -> Fit:
    cells = [sig(at(figures, key)) for key in FIT_FIGURES]
    epochs = figures.get("epochs", MISSING)
    return Fit(name, (*cells, str(epochs)))


def _who(labels: Sequence[str], row_count: int) -> str:
    if len(labels) == row_count > 1:
        return "all runs"
    return ", ".join(labels)


def attack_table(rows: Sequence[Row]) -> str:
    """Return what each round's adversary found, and how members were fitted.

    It is empty where there was no attack.
    """
    attacked = [row for row in rows if at(row.figures, "members")]
    head = [
        "",
        "members' accuracy",
        "outputs of the attack",
        "above references",
        "and doubted by the witness",
        "became pairs",
        "yield of a fresh attack",
    ]
    caption = (
        "Accuracy: on held-out clean pairs, a number for each member of the ensemble; it should "
        "not fall from round to round. Above references: by the reward, over the mean of the "
        "prompt's own answers. Became pairs: without repeats, and at most as many of a prompt as "
        "the config "
        "takes. Yield: the share of a fresh adversary's outputs that the target overrates and the "
        "witness doubts; it should fall."
    )
    return table(head, map(_attack_line, attacked), caption)


def _attack_line(row: Row) -> list[str]:
    members = at(row.figures, "members")
    accuracies = [sig(at(member, "val/accuracy")) for member in members.values()]
    line = [row.label, " · ".join(accuracies)]
    attack = at(row.figures, "attack")
    counts = at(attack, "funnel", "counts")
    for step in FUNNEL_STEPS:
        line.append(str(counts.get(step, MISSING)))
    line.append(sig(at(attack, "yield")))
    return line


def stability_table(rows: Sequence[Row]) -> str:
    """Return how long each judge held above its start during training.

    Its peak and its value at equal KL stand beside it.
    """
    stabilities = []
    distances: dict[str, None] = {}
    for row in rows:
        for judge, figures in at(row.figures, "post_train", "stability").items():
            stabilities.append(Stability(row, judge, figures))
            distances |= dict.fromkeys(at(figures, "gold_at_kl"))
    head = ["", "judge", "fell below its start at step", "peak over the start"]
    for distance in distances:
        head.append(f"at {distance} nats")
    lines = [_stability_line(stability, distances) for stability in stabilities]
    caption = (
        "Means of neighbouring readings; at a KL over the start too. “Beyond”: it had not fallen "
        "when training ended. Read the step with the peak: a reward that says nothing never falls."
    )
    return table(head, lines, caption)


def _stability_line(stability: Stability, distances: Iterable[str]) -> list[str]:
    """Return how long a judge held, its peak, and its value at each KL distance."""
    figures = stability.figures
    start = figures["start"]
    fall = sig(figures["step"])
    if figures["censored"]:
        fall = f"beyond {fall}"
    peak = sig(figures["peak_gold"] - start)
    peak_step = sig(figures["peak_step"])
    line = [
        stability.row.label,
        stability.judge,
        fall,
        f"{peak} at step {peak_step}",
    ]
    for distance in distances:
        gold = at(figures, "gold_at_kl").get(distance)
        line.append(MISSING if gold is None else sig(gold - start))
    return line
