"""The figures of a benchmark's file, from the scores of its answers."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from rewardlab.data.long_rows import fitting
from rewardlab.errors import InputError
from rewardlab.evaluation.benchmark_files import TITLES, BenchmarkFile
from rewardlab.evaluation.pair_figures import (
    Pairs,
    calibration_figures,
    length_figures,
    pairs_of,
    prompt_numbers,
    share,
)
from rewardlab.evaluation.rewardbench import SECTIONS, overall_score, section_scores
from rewardlab.evaluation.rewardbench2 import (
    SUBSETS,
    TIES,
    RowScores,
    answers_of,
    figures_of_rows,
    resampled_ties,
    scores_by_row,
)
from rewardlab.evaluation.rewardbench_rows import BenchRow
from rewardlab.evaluation.rm_bench import rm_bench_figures
from rewardlab.metrics.bootstrap import percentiles, resampled_means
from rewardlab.rewards import Reward
from rewardlab.rewards.scoring import BATCH, judged, scores_of
from rewardlab.rewards.unscored import say_left_out
from rewardlab.seeds import derive
from rewardlab.types import Samples

Part = Callable[[str, Callable[[], Any]], Any]  # gives plain data by its name, made if it must be


def made_now(name: str, make: Callable[[], Any]) -> Any:
    """Return a part of an evaluation that is made now, whatever an earlier run left."""
    return make()


class ScoredFile(NamedTuple):
    """A file whose answers are scored.

    Attributes:
        file: with the rows that could be scored alone.
        scores: of the answers of each row.
        unscored: ids of the rows with an answer that the reward cannot take.
    """

    file: BenchmarkFile
    scores: list[RowScores]
    unscored: list[Any]


def check_reward(reward: Reward, location: str) -> None:
    """Refuse a reward that does not score texts, before anything is read or scored.

    Raises:
        InputError: naming the reward, and what it says of a text.
    """
    try:
        scores_of(reward, Samples(["2 + 2?"], ["4"]))
    except InputError as error:
        raise InputError(
            f"`evaluate` asks a reward of texts, and the one in {location} does not take a short "
            f"one: {error}"
        ) from None


def fitting_scores(
    reward: Reward,
    samples: Samples,
    batch_size: int = BATCH,
    what: str = "answers",
    *,
    none_may_fit: bool = False,
) -> Tensor:
    """Return the scores of samples, float64 [B]; NaN where the reward cannot take the sample.

    Those are samples that its `check_samples` refuses, such as ones longer than its context, and
    those that a `Partial` reward does not score.

    Args:
        reward: the reward.
        samples: B texts.
        batch_size: samples scored at once.
        what: name of the samples in messages, in the plural.
        none_may_fit: give NaN alone where it can take none, instead of an error.

    Raises:
        InputError: if it can take none, or gives one of the others a NaN.
    """
    scores = torch.full((len(samples),), torch.nan, dtype=torch.float64)
    try:
        fit = fitting(samples.numbered(), [reward], "drop", what)
    except InputError:
        if none_may_fit:
            return scores
        raise
    result = judged(reward, fit, batch_size)
    if not none_may_fit:
        say_left_out(result, what)
    scores[fit.facts["row"]] = result.scores.double()
    return scores


def plain_scores(scores: Tensor) -> list[float | None]:
    """Return scores as JSON holds them, None for NaN."""
    return [None if score != score else score for score in scores.tolist()]


def scores_from(plain: Sequence[float | None]) -> Tensor:
    """Return scores, float64 [B], from what `plain_scores` returned.

    Example:
        >>> scores_from(plain_scores(torch.tensor([0.5, float("nan")]))).tolist()
        [0.5, nan]
    """
    values = [torch.nan if score is None else score for score in plain]
    return torch.tensor(values, dtype=torch.float64)


def score_file(
    reward: Reward, file: BenchmarkFile, batch_size: int = BATCH, part: Part = made_now
) -> ScoredFile:
    """Score all answers of a file; rows with one that cannot be scored are left out and named.

    Args:
        reward: the reward, of texts.
        file: what `read_benchmark` gave.
        batch_size: answers scored at once.
        part: gives the scores by a name that holds the file's, if they stand somewhere.

    Raises:
        InputError: if no row is left.
    """

    def score() -> list[float | None]:
        what = f"answers in {file.path}"
        return plain_scores(fitting_scores(reward, answers_of(file.rows), batch_size, what))

    values = scores_from(part(f"scores of {file.path}", score))
    rows = []
    scores = []
    unscored = []
    for row, of_row in zip(file.rows, scores_by_row(file.rows, values), strict=True):
        if torch.cat([of_row.chosen, of_row.rejected]).isfinite().all():
            rows.append(row)
            scores.append(of_row)
        else:
            unscored.append(plain_id(row.row_id))
    if not rows:
        raise InputError(
            f"No row of {file.path} could be scored: each has an answer that does not fit the "
            "reward, or that it did not score. Give a reward with a longer context, or see the "
            "log for what its server said."
        )
    return ScoredFile(file._replace(rows=rows), scores, unscored)


def plain_id(row_id: Any) -> Any:
    """Return an id as JSON has it: text for what is neither text nor a number, such as a date.

    Example:
        >>> plain_id(7), plain_id([7]), plain_id(float("nan"))
        (7, '[7]', 'nan')
    """
    is_number = isinstance(row_id, int | float) and math.isfinite(row_id)
    if row_id is None or isinstance(row_id, str) or is_number:
        return row_id
    return str(row_id)


def benchmark_figures(scored: ScoredFile, seed: int = 0) -> dict[str, Any]:
    """Return the figures of a file by its benchmark's published formula, with intervals.

    Args:
        scored: what `score_file` gave.
        seed: names the bootstraps' draws.

    Returns:
        "headline": the name of the benchmark's own figure, its mean and interval. "accuracy":
        `share` of right answers over wrong ones, equal ones one half; "equal": the number of equal
        scores. "subsets": the same by subset. "sections" of RewardBench, "ties" of RewardBench 2
        and "styles" of RM-Bench, None elsewhere. "calibration" and "length": see `pair_figures`,
        over every right answer against every wrong one of its row. "rows", "unscored", "left_out".

    Example:
        >>> from rewardlab.rewards import Length
        >>> from rewardlab.evaluation import read_benchmark
        >>> path = getfixture("tmp_path") / "pairs.jsonl"
        >>> _ = path.write_text('{"prompt": "hi", "chosen": "well hello", "rejected": "hi"}')
        >>> figures = benchmark_figures(score_file(Length(), read_benchmark(path)))
        >>> figures["headline"]["name"], figures["headline"]["mean"]
        ('accuracy', 1.0)
    """
    file = scored.file
    pairs = pairs_of(file.rows, scored.scores)
    figures: dict[str, Any] = {
        "path": file.path,
        "form": file.form,
        "title": TITLES[file.form],
        "rows": len(file.rows),
        "left_out": file.left_out,
        "unscored": scored.unscored,
        "sections": None,
        "ties": None,
        "styles": None,
    }
    figures |= _OF_FORM.get(file.form, _pair_form)(scored, pairs, seed)
    figures["equal"] = int((pairs.leads == 0).sum())
    figures["calibration"] = calibration_figures(pairs)
    figures["length"] = length_figures(pairs, seed)
    return figures


def _pair_form(scored: ScoredFile, pairs: Pairs, seed: int) -> dict[str, Any]:
    """Return accuracies of pairs, over all and by subset."""
    subsets = _by_subset(scored.file.rows, pairs.wins, seed)
    accuracy = share(pairs.wins, pairs.prompts, seed)
    return {
        "accuracy": accuracy,
        "subsets": subsets,
        "headline": _headline("accuracy", accuracy),
    }


def _rewardbench(scored: ScoredFile, pairs: Pairs, seed: int) -> dict[str, Any]:
    """Return RewardBench's sections beside the accuracies; arXiv 2403.13787, section 4."""
    figures = _pair_form(scored, pairs, seed)
    subsets = figures["subsets"]
    means = {name: figure["mean"] for name, figure in subsets.items()}
    sections: dict[str, Any] = section_scores(means)
    if not sections:
        return figures
    drawn = _resampled_subsets(scored.file.rows, pairs.wins, seed)
    section_draws = {}
    for name, section in sections.items():
        section_draws[name] = _weighted(drawn, SECTIONS[name])
        section["low"], section["high"] = percentiles(section_draws[name], 0.95)
        section["mean"] = section["score"]
    score = overall_score(sections)
    if score is not None:
        low, high = percentiles(torch.stack(list(section_draws.values())).mean(0), 0.95)
        figures["headline"] = {"name": "score", "mean": score, "low": low, "high": high}
    return {**figures, "sections": sections}


def _weighted(drawn: dict[str, Tensor], weights: dict[str, int]) -> Tensor:
    """Return the weighted mean [R] over the subsets of a section that the file has."""
    present = {name: weight for name, weight in weights.items() if name in drawn}
    total = torch.stack([weight * drawn[name] for name, weight in present.items()]).sum(0)
    return total / sum(present.values())


def _rewardbench2(scored: ScoredFile, pairs: Pairs, seed: int) -> dict[str, Any]:
    """Return RewardBench 2's subsets, its Ties among them; arXiv 2506.01937, section 3."""
    published = figures_of_rows(scored.file.rows, scored.scores)
    figures: dict[str, Any] = {"accuracy": None, "subsets": {}, "ties": None}
    draws: dict[str, Tensor] = {}
    plain = [place for place, row in enumerate(scored.file.rows) if row.subset != TIES]
    if plain:
        rows = [scored.file.rows[place] for place in plain]
        credits = [scored.scores[place].credit() for place in plain]
        values = torch.tensor(credits, dtype=torch.float64)
        figures["accuracy"] = share(values, prompt_numbers(rows), seed)
        figures["subsets"] = _by_subset(rows, values, seed)
        draws = _resampled_subsets(rows, values, seed)
        figures["headline"] = _headline("accuracy", figures["accuracy"])
    if TIES in published["subsets"]:
        draws[TIES] = _ties_draws(scored, seed)
        figures["ties"] = _ties(published["subsets"][TIES], draws[TIES])
    if not plain:
        figures["headline"] = _headline(TIES, figures["ties"])
    if published["score"] is not None:
        low, high = _ends(torch.stack([draws[name] for name in SUBSETS]).mean(0))
        score = {"mean": published["score"], "low": low, "high": high}
        figures["headline"] = _headline("score", score)
    return figures


def _ties_draws(scored: ScoredFile, seed: int) -> Tensor:
    """Return the bootstrap's scores of the subset "Ties", float64 [R]."""
    ids = []
    scores = []
    for row, of_row in zip(scored.file.rows, scored.scores, strict=True):
        if row.subset == TIES:
            ids.append(row.row_id)
            scores.append(of_row)
    return resampled_ties(ids, scores, seed)


def _ties(published: dict[str, Any], draws: Tensor) -> dict[str, Any]:
    """Return the figures of "Ties" with the interval of its score."""
    low, high = _ends(draws)
    return {**published, "mean": published["score"], "low": low, "high": high}


def _ends(draws: Tensor) -> tuple[float | None, float | None]:
    """Return the ends of an interval; None where no draw has a value."""
    if draws.isnan().all():
        return None, None
    return percentiles(draws, 0.95)


def _rm_bench(scored: ScoredFile, pairs: Pairs, seed: int) -> dict[str, Any]:
    """Return RM-Bench's matrix of styles; arXiv 2410.16184."""
    rows = scored.file.rows
    domains = [row.subset for row in rows]
    styles = rm_bench_figures(scored.scores, domains, prompt_numbers(rows), seed)
    return {
        "accuracy": share(pairs.wins, pairs.prompts, seed),
        "subsets": {},
        "styles": styles,
        "headline": _headline("average of hard, normal and easy", styles["average"]),
    }


_OF_FORM = {
    "rewardbench": _rewardbench,
    "rewardbench2": _rewardbench2,
    "rm-bench": _rm_bench,
}


def _headline(name: str, figure: dict[str, Any]) -> dict[str, Any]:
    return {"name": name, **{end: figure[end] for end in ("mean", "low", "high")}}


def _by_subset(rows: Sequence[BenchRow], values: Tensor, seed: int) -> dict[str, Any]:
    """Return the share of each subset, where there are several."""
    figures = {}
    names = sorted({row.subset for row in rows})
    for name in names if names != ["all"] else []:
        inside = torch.tensor([row.subset == name for row in rows])
        prompts = prompt_numbers([row for row in rows if row.subset == name])
        figures[name] = share(values[inside], prompts, derive(seed, name))
    return figures


def _resampled_subsets(rows: Sequence[BenchRow], values: Tensor, seed: int) -> dict[str, Tensor]:
    """Return bootstrap means of each subset over its prompts, float64 [R]."""
    drawn = {}
    for name in sorted({row.subset for row in rows}):
        inside = torch.tensor([row.subset == name for row in rows])
        prompts = prompt_numbers([row for row in rows if row.subset == name])
        drawn[name] = resampled_means(values[inside], prompts, derive(seed, name))
    return drawn
