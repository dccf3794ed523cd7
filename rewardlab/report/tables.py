"""The tables of a report."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from rewardlab.report.figures import mean, sig, with_interval
from rewardlab.report.markup import table
from rewardlab.report.rows import Row, one_reward
from rewardlab.report.samples import Shown
from rewardlab.report.statements import judges
from rewardlab.runs.read import Run, at, differences

TEXT_ROWS = 12
TEXT_LENGTH = 600


def summary_table(rows: Sequence[Row]) -> str:
    """Return targets, base and rounds against reward, AUC, judges, distance and diversity; without
    columns that are empty.
    """
    names = judges(*(row.judged for row in rows))
    shared = one_reward(rows)
    body = [
        [
            row.label,
            *_reward_cells(row, shared),
            *(_cell(at(row.judged, name)) for name in names),
            *_distance_cells(row),
        ]
        for row in rows
    ]
    scales = (
        ""
        if shared
        else " Rounds have rewards of different scales, so each cell gives the scores before and of the targets."
    )
    heads = [
        "",
        "reward score",
        "AUC against targets",
        *names,
        "distance to targets (KID)",
        "diversity",
    ]
    about = [
        "",
        "Reward score: of the round's own reward; higher is nearer to targets in its eyes."
        + scales,
        "AUC: how well that reward tells targets from outputs; 0.5 is not at all, 1 perfectly.",
        *("" for _ in names),
        "Distance: 0 is equal; in the targets' row stands one half of the real against the other.",
        "Diversity: mean distance between two outputs, in the judge's features.",
    ]
    kept = [i for i in range(len(heads)) if i == 0 or any(line[i].strip("–") for line in body)]
    words = [
        "Means with 95 % intervals below.",
        *(about[i] for i in kept if about[i]),
        "No judge was ever trained on.",
    ]
    return table(
        [heads[i] for i in kept], [[line[i] for i in kept] for line in body], " ".join(words)
    )


def _cell(figure: Any) -> str:
    return with_interval(figure).replace(" [", "\n[")


def _reward_cells(row: Row, shared: Mapping[str, Any]) -> list[str]:
    if row.step is None:
        side = {"targets": "targets", "base": "before"}[row.kind]
        return [
            _cell(at(shared, f"score_{side}")),
            _cell(at(shared, f"auc_{side}")) if row.kind == "base" else "–",
        ]
    figures = row.step.separation
    score = _cell(at(figures, "score_after"))
    auc = _cell(at(figures, "auc_after"))
    if not shared and figures:
        first, targets, before = (
            sig(mean(at(figures, name))) for name in ("score_before", "score_targets", "auc_before")
        )
        score = f"{score} · before {first} · targets {targets}"
        auc = auc if auc == "–" else f"{auc} · before {before}"
    return [score, auc]


def _distance_cells(row: Row) -> list[str]:
    diversity = sig(mean(at(row.judged, "diversity")))
    if row.kind == "targets":
        halves = sig(mean(at(row.judged, "real_distance")))
        return [halves if halves == "–" else f"{halves}\nreal against real", diversity]
    return [_cell(at(row.judged, "distance")), diversity]


def reward_table(rows: Sequence[Row]) -> str:
    """Return how well each reward was fitted; rewards that runs share come once."""
    fitted: dict[tuple[str, ...], list[str]] = {}
    meanings: dict[str, None] = {}
    for row in rows:
        found = at(row.step.figures, "reward") if row.step else {}
        for name, figures in sorted(found.items(), key=lambda item: item[0] != "first"):
            keys = ("val/auc", "val/ranking", "val/calibration_error", "val/disagreement")
            cells = [
                *(sig(mean(at(figures, key))) for key in keys),
                str(figures.get("epochs", "–")),
            ]
            fitted.setdefault((name, *cells), []).append(row.label)
            meanings[str(figures.get("meaning", "not said"))] = None
    return table(
        ["reward", "AUC", "ranking", "calibration error", "disagreement", "epochs"],
        ([f"{_who(labels, rows)}: {name}", *cells] for (name, *cells), labels in fitted.items()),
        "On held-out data. AUC: targets against generated samples. Ranking: rank correlation between two halves of the "
        "reward's heads on the generator's own samples; near 0, the order of candidates is noise. Disagreement: standard "
        f"deviation between heads. What a score is: {'; '.join(meanings)}.",
    )


def attack_table(rows: Sequence[Row]) -> str:
    """Return what each round's adversary found, and how members were fitted; nothing where there
    was no attack.
    """
    body = []
    for row in rows:
        attack, members = (
            at(row.step.figures, name) if row.step else {} for name in ("attack", "members")
        )
        counts = at(attack, "funnel", "counts") or {}
        if members:
            accuracies = " · ".join(
                sig(mean(at(figures, "val/accuracy"))) for figures in members.values()
            )
            found = [
                str(counts.get(name, "–")) for name in ("generated", "gated", "disagreeing", "kept")
            ]
            body.append([row.label, accuracies, *found, sig(mean(at(attack, "yield")))])
    return table(
        [
            "",
            "members' accuracy",
            "generated",
            "above references",
            "in disagreement",
            "became pairs",
            "yield of a fresh attack",
        ],
        body,
        "Accuracy: on held-out clean pairs, a member a number; it should not fall from round to round. Yield: the share of a "
        "fresh adversary's outputs that the target overrates and the witness doubts; it should fall.",
    )


def stability_table(rows: Sequence[Row]) -> str:
    """Return how long each judge held above its start during training, beside its peak and its
    value at equal KL.
    """
    held = [(row, name, found) for row in rows if row.step for name, found in _held(row).items()]
    distances = list(dict.fromkeys(kl for *_, found in held for kl in at(found, "gold_at_kl")))
    body = []
    for row, name, found in held:
        step = f"{'beyond ' if found['censored'] else ''}{sig(found['step'])}"
        peak = f"{sig(found['peak_gold'] - found['start'])} at step {sig(found['peak_step'])}"
        at_equal = [at(found, "gold_at_kl").get(kl) for kl in distances]
        above = ["–" if value is None else sig(value - found["start"]) for value in at_equal]
        body.append([row.label, name, step, peak, *above])
    return table(
        [
            "",
            "judge",
            "fell below its start at step",
            "peak over the start",
            *(f"at {kl} nats" for kl in distances),
        ],
        body,
        "Means of neighbouring readings; at a KL over the start too. “Beyond”: it had not fallen when training ended. Read the "
        "step with the peak: a reward that says nothing never falls.",
    )


def _held(row: Row) -> Any:
    return at(row.step.figures, "post_train", "stability") if row.step else {}


def _who(labels: Sequence[str], rows: Sequence[Row]) -> str:
    return "all runs" if len(labels) == len(rows) > 1 else ", ".join(labels)


def differences_table(runs: Sequence[Run]) -> str:
    """Return the settings in which runs differ."""
    rows = (
        [
            key.removeprefix("rounds.init_args."),
            *("–" if value is None else str(value) for value in values),
        ]
        for key, values in differences(runs).items()
    )
    return table(
        ["setting", *(run.name for run in runs)], rows, "The settings in which the runs differ."
    )


def text_table(parts: Sequence[Shown]) -> str:
    """Return samples of text beside each other, one prompt a row."""
    count = Counter(prompt for part in parts for prompt in dict.fromkeys(part.prompts))
    prompts = sorted(count, key=lambda prompt: -count[prompt])[
        :TEXT_ROWS
    ]  # what most parts answer comes first
    rows = (
        [_cut(prompt), *(_cut(_output_of(part, prompt)) for part in parts)] for prompt in prompts
    )
    return table(
        ["prompt", *(part.label for part in parts)], rows, "One output of each prompt.", "text"
    )


def _output_of(part: Shown, prompt: str) -> str:
    return next(
        (
            str(output)
            for own, output in zip(part.prompts, part.outputs, strict=True)
            if own == prompt
        ),
        "–",
    )


def _cut(text: str) -> str:
    if text.count("\n") > 3 and len(text) < 40 * text.count(
        "\n"
    ):  # short lines would make the table long
        text = text.replace("\n", " ↵ ")
    return text if len(text) <= TEXT_LENGTH else text[: TEXT_LENGTH - 1] + "…"


def time_table(run: Run) -> str:
    """Return each stage's seconds and the largest memory of the process by then."""
    timed = {
        title: entry
        for title, entry in run.timing.items()
        if isinstance(entry, Mapping) and title != "cost"
    }
    total = sum(mean(entry.get("seconds")) or 0 for entry in timed.values())
    order = sorted(timed, key=lambda title: -(mean(timed[title].get("seconds")) or 0))
    rows = [[title, *_time_cells(timed[title], total)] for title in order]
    whole = [["all stages", sig(total), "", "", ""]] if rows else []
    return table(
        ["stage", "seconds", "share", "peak memory, MiB", "peak GPU memory, MiB"],
        [*rows, *whole],
        "Longest first. The memory is the process's peak up to the stage's end."
        + _cost_sentence(at(run.timing, "cost")),
    )


def _cost_sentence(cost: Any) -> str:
    ratios = {name: mean(at(cost, name, "ratio")) for name in ("seconds", "generations")}
    if None in ratios.values():
        return ""
    return (
        f" All fits, attacks, mining and post-training took {sig(ratios['seconds'])} times the seconds, and "
        f"{sig(ratios['generations'])} times the generations, of one fit and the same {cost['steps']} steps of post-training."
    )


def _time_cells(entry: Mapping[str, Any], total: float) -> list[str]:
    seconds = mean(entry.get("seconds"))
    if seconds is None:
        return ["reused" if entry.get("reused") else "–", "–", "–", "–"]
    share = f"{100 * seconds / total:.0f} %" if total else "–"
    return [
        sig(seconds),
        share,
        sig(mean(entry.get("peak_memory_mib"))),
        sig(mean(entry.get("peak_gpu_mib"))),
    ]


def provenance_table(run: Run) -> str:
    """Return versions, device, seeds and fingerprints as a flat table."""
    return table(["fact", "value"], [[key, str(value)] for key, value in _flat_facts(run.facts)])


def _flat_facts(tree: Any, prefix: str = "") -> list[tuple[str, Any]]:
    if not isinstance(tree, Mapping):
        return [(prefix, tree)]
    return [
        pair
        for key, value in tree.items()
        for pair in _flat_facts(value, f"{prefix} {key}".strip())
    ]
