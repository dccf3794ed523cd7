"""The best of each prompt's candidates, and pairs of the best and the worst."""

from __future__ import annotations

import io
import logging
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any, Literal, NamedTuple

from rewardlab.bulk.entries import Entry, Reading
from rewardlab.bulk.groups import Group, Grouping, chosen_n
from rewardlab.bulk.job import figures_of, job_of, record_of, write_record
from rewardlab.bulk.journal import Journal, Results, part_of
from rewardlab.bulk.judging import How
from rewardlab.bulk.scoring import scored_rows
from rewardlab.bulk.sources import Source, open_source
from rewardlab.bulk.table_rows import Keep, kept_columns
from rewardlab.bulk.tables import (
    BROKEN_LETTERS,
    Row,
    check_out,
    check_row,
    write_lines,
    write_table,
)
from rewardlab.conversations import to_json
from rewardlab.errors import InputError
from rewardlab.rewards import Reward
from rewardlab.types import Samples

log = logging.getLogger("rewardlab")
N = int | Literal["all", "auto"]


@dataclass(frozen=True)
class Selection:
    """How the best are chosen.

    Attributes:
        n: from how many candidates of each prompt, the first ones; "all"; or "auto", as
            `rewardlab.bulk.groups.chosen_n` finds it.
        keep: how many of them are kept, the best first.
        group: column that says which candidates belong together; by default the prompt.
        gold: column with a judge's scores, for "auto".
        pairs: file for pairs of the best and the worst; none by default.
    """

    n: N = "all"
    keep: int = 1
    group: str | None = None
    gold: str | None = None
    pairs: str | Path | None = None


@dataclass(frozen=True)
class Selected:
    """What came of selecting.

    Attributes:
        out: the table.
        prompts: how many prompts have a candidate that is scored.
        rows: how many rows the table has.
        unscored: how many candidates are not scored.
        without: how many prompts have no candidate that is scored, and no row.
        n: what the best were chosen from at most; None for all.
        pairs: how many pairs were written.
        level: how many prompts make no pair: they have one candidate, or all score alike.
        seconds: of this run alone.
        fewest: from how many candidates, that are scored, the best of some prompt was chosen.
        most: the same of the prompt that had the most.
    """

    out: Path
    prompts: int
    rows: int
    unscored: int
    without: int
    n: int | None
    pairs: int
    level: int
    seconds: float
    fewest: int = 0
    most: int = 0


def select_files(
    reward: Reward,
    candidates: str | Path | Samples | Source | Sequence[str | Path],
    out: str | Path,
    selection: Selection | None = None,
    reading: Reading | None = None,
    *,
    columns: Keep = "all",
    batch_size: int = 64,
    resume: bool = False,
    origin: Mapping[str, Any] | None = None,
    tokens_per_batch: int | None = None,
) -> Selected:
    """Score candidates, and write the best of each prompt, in the order in which prompts come.

    Of candidates that score alike the first is better. Candidates that are not scored are left out
    and counted.

    Args:
        reward: what scores.
        candidates: see `open_source`; those of a prompt need not stand together.
        out: a new .csv, .jsonl or .parquet file.
        selection: how the best are chosen.
        reading: which columns are prompt and output, sizes, and what becomes of unreadable rows.
        columns: which of the candidates' columns stay, as in `score_files`.
        batch_size: samples scored at once.
        resume: go on where `OUT.part` ends.
        origin: what names the reward and how it was opened; by default its class and weights.
        tokens_per_batch: as in `score_files`.

    Raises:
        InputError: as `score_files`, or if n cannot be chosen.

    Example:
        >>> import json
        >>> from rewardlab.rewards import Length
        >>> folder = getfixture("tmp_path")
        >>> rows = [{"prompt": "2+2?", "response": words} for words in ("4", "it is 4")]
        >>> _ = (folder / "drawn.jsonl").write_text("\\n".join(map(json.dumps, rows)))
        >>> select_files(Length(), folder / "drawn.jsonl", folder / "best.jsonl").prompts
        1
        >>> json.loads((folder / "best.jsonl").read_text())["response"]
        'it is 4'
    """
    out = Path(out)
    selection = selection or Selection()
    _check(out, selection, resume)
    reading = reading or Reading()
    start = time.monotonic()
    source = open_source(candidates, reading)
    members = selection.n == "auto" and selection.gold is None
    job = job_of(reward, source, reading, members, origin)
    whole_job = {**job, "selection": _settings(selection), "table": {"keep": columns}}
    stands = record_of(out, whole_job)
    if stands is not None:
        if selection.pairs is not None and not Path(selection.pairs).exists():
            raise InputError(
                f"{out} stands and its pairs, {selection.pairs}, are gone. Remove {out} to make "
                "both anew."
            )
        return Selected(out, **figures_of(Selected, stands))
    first = next(iter(source))
    check_row(out, kept_columns(first, columns, ()))
    journal = Journal(part_of(out), job, Results(len(source)))
    how = How(batch_size, members, reading.skip_unreadable, tokens_per_batch)
    grouping = Grouping(journal.results, selection.group, selection.gold)
    grouping.check(first)
    scored_rows(reward, source, journal, how, resume, grouping.add)
    choice = _choice(grouping.groups(), journal.results, selection)
    entries = _chosen_entries(source, choice, selection.pairs is not None)
    pairs = None if selection.pairs is None else _pairs(entries, choice)
    rows = list(_rows(entries, choice, columns))
    if selection.pairs is not None and pairs is not None:
        _write_pairs(Path(selection.pairs), pairs.rows)
    selected = _summary(out, choice, len(rows), pairs, time.monotonic() - start)
    figures = {name: value for name, value in vars(selected).items() if name != "out"}
    write_record(out, whole_job, figures, journal.results, choosing=choice.rule)
    names: dict[str, None] = {}
    for row in rows:
        names.update(dict.fromkeys(row))
    write_table(out, lambda: rows, list(names))
    journal.remove()
    return selected


@dataclass(frozen=True)
class Choice:
    """Which candidates were chosen.

    Attributes:
        groups: the prompts' candidates.
        results: their scores.
        ranked: row numbers of the first n scored candidates of each prompt, the best first.
        kept: how many of them are kept.
        rule: how n was found.
    """

    groups: list[Group]
    results: Results
    ranked: list[list[int]]
    kept: int
    rule: dict[str, Any]


def _check(out: Path, selection: Selection, resume: bool) -> None:
    check_out(out, resume)
    if selection.pairs is not None:
        _check_pairs(Path(selection.pairs), out, resume)
    if selection.gold is not None and selection.n != "auto":
        raise InputError("--gold chooses n, and so needs --n auto. Give that, or leave --gold out.")


def _check_pairs(pairs: Path, out: Path, resume: bool) -> None:
    """Refuse a file of pairs that cannot be written; `resume` may find its own."""
    if pairs.suffix != ".jsonl":
        raise InputError(f"--pairs is a new .jsonl file; {pairs} does not end so. Give another.")
    if pairs.exists() and not resume:
        raise InputError(f"{pairs} exists and is never overwritten. Give another --pairs.")
    if pairs.absolute() == out.absolute():
        raise InputError(f"--pairs and --out are both {out}. Give each a file of its own.")
    if not pairs.absolute().parent.is_dir():
        raise InputError(f"The folder {pairs.absolute().parent} of --pairs is missing. Make it.")


def _settings(selection: Selection) -> dict[str, Any]:
    settings = dict(vars(selection))
    settings["pairs"] = None if selection.pairs is None else str(selection.pairs)
    return settings


def _choice(groups: list[Group], results: Results, selection: Selection) -> Choice:
    """Return which candidates are chosen."""
    if len(groups) == 1 and selection.group is None and not groups[0].name:
        log.warning("No candidate has a prompt, so all are candidates of one. See --group.")
    rule: dict[str, Any] = {"rule": "given", "n": selection.n}
    if selection.n == "auto":
        scored = [group for group in groups if group.rows]
        rule = chosen_n(scored, results, selection.gold is not None)
    most = None if rule["n"] == "all" else rule["n"]
    ranked = []
    for group in groups:
        first = group.rows[:most]
        ranked.append(sorted(first, key=lambda row: -results.scores[row].item()))
    return Choice(groups, results, ranked, selection.keep, rule)


def _chosen_entries(source: Source, choice: Choice, with_pairs: bool) -> dict[int, Entry]:
    """Return the rows of the table and of pairs, by their numbers; the source is read once more."""
    chosen = set(chain.from_iterable(rows[: choice.kept] for rows in choice.ranked))
    if with_pairs:
        chosen |= set(chain.from_iterable(_ends(choice)))
    return {row: entry for row, entry in enumerate(source) if row in chosen}


def _rows(entries: Mapping[int, Entry], choice: Choice, columns: Keep) -> Iterator[Row]:
    """Give the rows of the table, prompt by prompt."""
    for group, rows in zip(choice.groups, choice.ranked, strict=True):
        for rank, row in enumerate(rows[: choice.kept], 1):
            yield _row(row, rank, entries[row], group, choice, columns)


def _row(number: int, rank: int, entry: Entry, group: Group, choice: Choice, columns: Keep) -> Row:
    row: Row = {"row": number, "score": choice.results.scores[number].item()}
    if choice.kept > 1:
        row["rank"] = rank
    most = choice.rule["n"]
    row["candidates"] = len(group.rows if most == "all" else group.rows[:most])
    row["unscored"] = group.unscored
    row.update(entry.origin)
    row.update(kept_columns(entry, columns, tuple(row)))
    return row


def _write_pairs(path: Path, pairs: Sequence[Row]) -> None:
    """Write pairs; where a killed run wrote the same, they stand.

    Raises:
        InputError: if the file holds something else.
    """
    if not path.exists():
        write_table(path, lambda: pairs, list(pairs[0]))
        return
    content = io.StringIO()
    write_lines(content, pairs)
    if path.read_bytes() != content.getvalue().encode(errors=BROKEN_LETTERS):
        raise InputError(f"{path} holds other pairs and is never overwritten. Give other --pairs.")


class _Pairs(NamedTuple):
    """Pairs of the best and the worst.

    Attributes:
        rows: of the file.
        mixed: how many groups make none since their ends answer different prompts.
    """

    rows: list[Row]
    mixed: int


def _pairs(entries: Mapping[int, Entry], choice: Choice) -> _Pairs:
    """Return the best and the worst of each prompt.

    Groups of a column may hold several prompts. An answer to one is no worse answer to another, so
    ends of different prompts make no pair, and a warning counts them. Nor do ends of the same text,
    whose scores differ by rounding.

    Raises:
        InputError: if there is no pair.
    """
    pairs = []
    mixed = []
    for chosen, rejected in _ends(choice):
        if entries[chosen].prompt != entries[rejected].prompt:
            mixed.append(f"{entries[chosen].place} and {entries[rejected].place}")
        elif entries[chosen].output != entries[rejected].output:
            pairs.append(_pair(entries, chosen, rejected, choice.results))
    if mixed:
        log.warning(
            "The best and the worst of %d groups answer different prompts (the first: %s) and make "
            "no pair. Leave --group out, so that a prompt's candidates are a group.",
            len(mixed),
            mixed[0],
        )
    if not pairs:
        raise InputError(
            "No prompt makes a pair: each needs 2 candidates or more with different scores. Leave "
            "--pairs out, or draw more candidates."
        )
    return _Pairs(pairs, len(mixed))


def _ends(choice: Choice) -> list[tuple[int, int]]:
    """Return the best and the worst row of each prompt where they differ in score."""
    scores = choice.results.scores
    ends = []
    for rows in choice.ranked:
        if rows and scores[rows[0]] > scores[rows[-1]]:
            ends.append((rows[0], rows[-1]))
    return ends


def _pair(entries: Mapping[int, Entry], chosen: int, rejected: int, results: Results) -> Row:
    best = entries[chosen]
    worst = entries[rejected]
    if not (isinstance(best.output, str) and isinstance(worst.output, str)):
        raise InputError(f"--pairs writes texts, and {best.place} is a picture. Leave --pairs out.")
    return {
        "prompt": to_json(best.prompt),
        "chosen": best.output,
        "rejected": worst.output,
        "chosen_score": results.scores[chosen].item(),
        "rejected_score": results.scores[rejected].item(),
        "chosen_row": chosen,
        "rejected_row": rejected,
    }


def _summary(
    out: Path, choice: Choice, rows: int, pairs: _Pairs | None, seconds: float
) -> Selected:
    sizes = [len(rows) for rows in choice.ranked if rows]
    with_scores = len(sizes)
    return Selected(
        out,
        prompts=with_scores,
        rows=rows,
        unscored=sum(group.unscored for group in choice.groups),
        without=len(choice.groups) - with_scores,
        n=None if choice.rule["n"] == "all" else choice.rule["n"],
        pairs=0 if pairs is None else len(pairs.rows),
        level=0 if pairs is None else with_scores - len(pairs.rows) - pairs.mixed,
        seconds=round(seconds, 3),
        fewest=min(sizes),
        most=max(sizes),
    )
